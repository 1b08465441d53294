"""Cohere's own wire, `POST /v2/chat`: messages in any order, content in typed blocks, typed events.

Connections, keys and ends are http_chat.py's; which models think is data (quirks.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final
from urllib.parse import quote

from workers.adapter import Alive, Event, FinishReason, Message, Reasoning, Request, Usage, Warn
from workers.answer import Answer, count
from workers.codes import Code
from workers.http_chat import HttpChat
from workers.parameters import (
    NO_EFFORT,
    Body,
    asks_to_think,
    bounded,
    is_streamed,
    no_stop_ids,
    not_taken,
    omitted,
    sampling,
    schema_of,
    stops_sent,
)
from workers.prompt import OPENING, spoken
from workers.quirks import Quirks, matches
from workers.refusals import Who
from workers.upstream import Upstream

__all__ = ["ADAPTER", "USUAL", "ChatReply", "Cohere", "build"]

USUAL: Final = Quirks(
    chat_path="/v2/chat",
    models_path="/v1/models",
    temperature_max=1.0,
    unsupported=("min_p", "repetition_penalty"),
)
LIMITS: Final = {
    "top_p": (0.01, 0.99),
    "top_k": (0, 500),
    "presence_penalty": (0.0, 1.0),
    "frequency_penalty": (0.0, 1.0),
}
"""What lies outside is a 400."""
NAMES: Final = {"top_p": "p", "top_k": "k"}
PAGE_MODELS: Final = 1000
"""As many models as a page of their list may have."""

_ENDS: Final[Mapping[str, FinishReason]] = {
    "MAX_TOKENS": "length",
    "ERROR_LIMIT": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": "content_filter",
}
"""All others (`COMPLETE`, `STOP_SEQUENCE`) mean that the model came to its end."""
_FAILURES: Final = ("ERROR", "TIMEOUT", "USER_CANCEL")
"""Words for an end that the model did not come to."""
_ALIVE: Final = Alive()


class Cohere(HttpChat):
    """One provider of this wire for one binding."""

    usual = USUAL
    refusing: ClassVar[Mapping[int, Code]] = {
        498: Code.CONTENT_FILTERED,  # a token of the prompt or of the reply is on a list
        499: Code.UPSTREAM_ERROR,  # cancelled, and not by us: we would not be there to read it
    }

    def body(self, request: Request, quirks: Quirks, refused: Collection[str]) -> Body:
        return build(request, quirks, refused=refused)

    def reader(self, who: Who, request: Request) -> ChatReply:
        return ChatReply(who, model=request.model, max_output_length=request.max_output_length)

    async def models(self, upstream: Upstream, path: str, timeout_s: float) -> tuple[str, ...]:
        asked = f"{path}?endpoint=chat&page_size={PAGE_MODELS}"
        return await self.pages(upstream, asked, timeout_s, _following)


def build(request: Request, quirks: Quirks, *, refused: Collection[str] = ()) -> Body:
    """The body of a request; `refused` names parameters of sampling that this model is known to refuse.

    Raises:
        AdapterError: UNSUPPORTED or INVALID_PROMPT, the request holds what this wire cannot carry.
    """
    if request.stop_ids:
        raise no_stop_ids()
    warnings: list[Warn] = []
    thinks = _thinks(request, quirks)
    left_out = not_taken(quirks, refused, thinks=thinks)
    body: dict[str, Any] = {
        "model": request.model,
        "messages": _messages(request.messages),
        "max_tokens": request.max_output_length + (quirks.reasoning_headroom if thinks else 0),
    }
    body.update(_sampling(request, quirks, left_out, warnings))
    stops = [] if thinks else stops_sent(request, quirks, left_out)
    if stops:
        body["stop_sequences"] = stops
    _add_thinking(body, request, quirks, warnings)
    _add_format(body, request.response_format)
    body["stream"] = streamed = is_streamed(request, stops)
    body.update(request.extra)
    return Body(body, tuple(warnings), streamed)


def _thinks(request: Request, quirks: Quirks) -> bool:
    """Whether there is thinking to leave room for: a model that cannot does not for being asked to."""
    if matches(quirks.reasoning_models, request.model):
        return True
    by_effort = request.reasoning_effort is not None
    return asks_to_think(request) and (not by_effort or matches(quirks.thinking_off_models, request.model))


def _messages(messages: tuple[Message, ...]) -> list[dict[str, str]]:
    """The messages as they are, but for one of a user, which there must be."""
    said = spoken(messages)
    if not any(message.role == "user" for message in said):
        start = next((n for n, message in enumerate(said) if message.role != "system"), len(said))
        said.insert(start, Message("user", OPENING))
    return [{"role": message.role, "content": message.content} for message in said]


def _sampling(
    request: Request, quirks: Quirks, left_out: Collection[str], warnings: list[Warn]
) -> dict[str, Any]:
    """Temperature and its kind; of the two penalties only one, since some models refuse both at once."""
    given = dict(request.sampling)
    for name, limits in LIMITS.items():
        if name in given and name not in left_out:
            given[name] = bounded(name, given[name], limits, warnings)
    both = given.get("frequency_penalty") and "frequency_penalty" not in left_out
    if both and given.pop("presence_penalty", None):
        warnings.append(omitted("presence_penalty"))
    made = sampling(replace(request, sampling=given), quirks, left_out, warnings)
    return {NAMES.get(name, name): value for name, value in made.items()}


def _add_thinking(body: dict[str, Any], request: Request, quirks: Quirks, warnings: list[Warn]) -> None:
    """Models that can think do unless they are told not to; others do not know the field."""
    effort = request.reasoning_effort
    can_think = matches(quirks.thinking_off_models, request.model)
    if effort is None or effort == NO_EFFORT:
        if can_think and not asks_to_think(request):
            body.update(quirks.thinking_off)
    elif can_think and quirks.thinking_on:
        body.update(quirks.thinking_on)
        message = f"reasoning_effort {effort} was sent as thinking with a fixed budget"
        warnings.append(Warn("PARAMETER_CHANGED", message))
    else:
        warnings.append(omitted("reasoning_effort"))


def _add_format(body: dict[str, Any], wanted: Mapping[str, Any] | None) -> None:
    """JSON of any shape and JSON by a schema are one kind here."""
    if wanted is None or wanted.get("type") == "text":
        return
    schema = schema_of(wanted)
    shape = {} if schema is None else {"json_schema": schema}
    body["response_format"] = {"type": "json_object", **shape}


class ChatReply(Answer):
    """Reads one answer of this wire, which never says which model gave it."""

    def __init__(self, who: Who, *, model: str, max_output_length: int) -> None:
        super().__init__(who, model=model, max_output_length=max_output_length)
        self._answered_by = model or None

    def piece(self, data: bytes) -> list[Event]:
        value = self._object(data)
        delta = value.get("delta")
        match value.get("type"):
            case "content-start" | "content-delta":
                message = delta.get("message") if isinstance(delta, dict) else None
                return self._part(message.get("content") if isinstance(message, dict) else None)
            case "message-end":
                self._ended(delta if isinstance(delta, dict) else {})
            case _ if isinstance(value.get("message"), str) or "error" in value:
                raise self.failed(value)
        return [_ALIVE]

    def whole(self, data: bytes) -> list[Event]:
        value = self._object(data)
        message = value.get("message")
        if isinstance(message, str):
            raise self.failed(value)
        if not isinstance(message, dict) or not isinstance(value.get("finish_reason"), str):
            raise self._not_ours("an answer without a message")
        content = message.get("content")
        blocks = content if isinstance(content, list) else []
        events = [event for block in blocks for event in self._part(block) if event is not _ALIVE]
        self._ended(value)
        return events

    def _part(self, part: object) -> list[Event]:
        """The events of a block, or of a piece of one; both name their text alike."""
        if isinstance(part, dict):
            text, thought = part.get("text"), part.get("thinking")
            if text and isinstance(text, str):
                return [self._text(text)]
            if thought and isinstance(thought, str):
                return [Reasoning(thought)]
        return [_ALIVE]

    def _ended(self, told: Mapping[str, Any]) -> None:
        reason = told.get("finish_reason")
        if reason in _FAILURES:
            raise self.failed({"message": told.get("error")})
        self.usage = _usage(told.get("usage"))
        self.reason = _ENDS.get(reason, "stop") if isinstance(reason, str) else "stop"


ADAPTER: Final = Cohere


def _following(page: Any) -> str:
    """The query for the page after this one."""
    token = page.get("next_page_token") if isinstance(page, dict) else None
    return f"&page_token={quote(token, safe='')}" if token and isinstance(token, str) else ""


def _usage(told: object) -> Usage | None:
    """Tokens: those of the model, else those of the bill, which leave out what the provider adds."""
    if not isinstance(told, dict):
        return None
    tokens = told.get("tokens") or told.get("billed_units")
    if not isinstance(tokens, dict):
        return None
    return Usage(
        input_tokens=count(tokens.get("input_tokens")),
        output_tokens=count(tokens.get("output_tokens")),
        cached_input_tokens=count(told.get("cached_tokens")),
    )

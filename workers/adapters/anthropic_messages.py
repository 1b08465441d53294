"""The Anthropic wire, `POST /messages`: the system prompt apart, turns that alternate, blocks of content.

Connections, keys and ends are http_chat.py's, and what models differ in is data (quirks.py): which of them
take no sampling, which think by themselves, and how each is told not to.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final
from urllib.parse import quote

from workers.adapter import Alive, Event, FinishReason, Reasoning, Request, Usage, Warn
from workers.answer import Answer, count
from workers.chat_body import NO_EFFORT, Body, asks_to_think, omitted, refuse_stop_ids, sampling, stops_sent
from workers.http_chat import HttpChat
from workers.prompt import alternating
from workers.quirks import Quirks, matches
from workers.refusals import Who
from workers.upstream import Upstream

__all__ = ["ADAPTER", "AnthropicMessages", "MessagesReply", "build"]

VERSION: Final = "2023-06-01"
"""Under the next one, 2026-10-21, no model takes any sampling; nothing else that is new there is used here.
A provider's `extra_headers` may name it."""
USUAL: Final = Quirks(
    chat_path="/messages",
    key_header="x-api-key",
    key_prefix="",
    extra_headers={"anthropic-version": VERSION},
    temperature_max=1.0,
    unsupported=("min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "seed"),
)
NEUTRAL_TEMPERATURE: Final = 1.0
"""The API's own default. It is not sent: the newest models refuse the field, others only any other value."""
PAGE_MODELS: Final = 1000
"""As many models as a page of their list may have."""
EFFORTS: Final = {"minimal": "low"}
"""Words of the OpenAI wire for an effort that this one calls otherwise."""

_STOP_REASONS: Final[Mapping[str, FinishReason]] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""All others (`end_turn`, `stop_sequence`) mean that the model came to its end; after `pause_turn` it would
have gone on if asked."""
_ALIVE: Final = Alive()


class AnthropicMessages(HttpChat):
    """One provider of the Anthropic wire for one binding."""

    usual = USUAL

    def body(self, request: Request, quirks: Quirks, refused: Collection[str]) -> Body:
        return build(request, quirks, refused=refused)

    def reader(self, who: Who, request: Request) -> MessagesReply:
        return MessagesReply(who, model=request.model, max_output_length=request.max_output_length)

    async def models(self, upstream: Upstream, path: str, timeout_s: float) -> tuple[str, ...]:
        return await self.pages(upstream, f"{path}?limit={PAGE_MODELS}", timeout_s, _following)

    async def listed(self, upstream: Upstream, path: str, timeout_s: float) -> Any:
        return _in_use(await super().listed(upstream, path, timeout_s))


def build(request: Request, quirks: Quirks, *, refused: Collection[str] = ()) -> Body:
    """The body of a request; `refused` names parameters of sampling that this model is known to refuse.

    Raises:
        AdapterError: UNSUPPORTED or INVALID_PROMPT, the request holds what this wire cannot carry.
    """
    refuse_stop_ids(request)
    warnings: list[Warn] = []
    asked = asks_to_think(request)
    thinks = asked or matches(quirks.reasoning_models, request.model)
    system, turns = alternating(request.messages)
    body: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_output_length + (quirks.reasoning_headroom if thinks else 0),
        "messages": [{"role": message.role, "content": message.content} for message in turns],
    }
    if system:
        body["system"] = "\n".join(system)
    left_out = {*quirks.unsupported, *refused, *(quirks.reasoning_unsupported if thinks else ())}
    body.update(_sampling(request, quirks, left_out, warnings))
    stops = [] if thinks else stops_sent(request, quirks, left_out)
    if stops:
        body["stop_sequences"] = stops
    _add_thinking(body, request, quirks, warnings)
    _add_format(body, request, warnings)
    streamed = request.stream or len(stops) < len(set(request.stop))
    if streamed:
        body["stream"] = True
    body.update({**quirks.extra_body, **request.extra})
    return Body(body, tuple(warnings), streamed)


def _sampling(
    request: Request, quirks: Quirks, left_out: Collection[str], warnings: list[Warn]
) -> dict[str, Any]:
    """Temperature or top_p: newer models refuse both at once."""
    given = sampling(request, quirks, left_out, warnings)
    if given.get("temperature") == NEUTRAL_TEMPERATURE:
        del given["temperature"]
    if "temperature" in given and given.pop("top_p", None) is not None:
        warnings.append(omitted("top_p"))
    return given


def _add_thinking(body: dict[str, Any], request: Request, quirks: Quirks, warnings: list[Warn]) -> None:
    effort = request.reasoning_effort
    if effort is None or effort == NO_EFFORT:
        if not asks_to_think(request) and matches(quirks.thinking_off_models, request.model):
            body.update(quirks.thinking_off)
        return
    body.update(quirks.thinking_on)
    if "reasoning_effort" in quirks.unsupported:
        warnings.append(
            Warn("PARAMETER_CHANGED", f"reasoning_effort {effort} was sent as thinking with a fixed budget")
        )
    else:
        body["output_config"] = {"effort": EFFORTS.get(effort, effort)}


def _add_format(body: dict[str, Any], request: Request, warnings: list[Warn]) -> None:
    """A schema has a place on this wire, JSON of any shape has none."""
    wanted = request.response_format
    if wanted is None or wanted.get("type") == "text":
        return
    inner = wanted.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, Mapping) else None
    if not isinstance(schema, Mapping):
        warnings.append(omitted("response_format"))
        return
    shape = {"format": {"type": "json_schema", "schema": schema}}
    body["output_config"] = {**body.get("output_config", {}), **shape}


class MessagesReply(Answer):
    """Reads one answer of the Anthropic wire: a message, or the events that one is made of."""

    def __init__(self, who: Who, *, model: str, max_output_length: int) -> None:
        super().__init__(who, model=model, max_output_length=max_output_length)
        self._counts: dict[str, Any] = {}
        """The fields of usage; its parts come with the first event and with the last but one."""

    def piece(self, data: bytes) -> list[Event]:
        value = self._object(data)
        match value.get("type"):
            case "content_block_delta":
                return self._part(value.get("delta"))
            case "content_block_start":
                return self._part(value.get("content_block"))
            case "message_start":
                self._note(value.get("message"))
            case "message_delta":
                self._note(value)
                self._ended(value.get("delta"))
            case "message_stop":
                self.reason = self.reason or "stop"
            case "error":
                raise self.failed(value)
            case _ if "error" in value:
                raise self.failed(value)
        return [_ALIVE]

    def whole(self, data: bytes) -> list[Event]:
        value = self._object(data)
        content = value.get("content")
        if value.get("error"):
            raise self.failed(value)
        if value.get("type") != "message" or not isinstance(content, list):
            raise self._not_ours("an answer without a message")
        self._note(value)
        events = [event for block in content for event in self._part(block) if event is not _ALIVE]
        self._ended(value)
        self.reason = self.reason or "stop"
        return events

    def _part(self, part: object) -> list[Event]:
        """The events of a block, or of a piece of one; both name their text alike."""
        if isinstance(part, dict):
            text = part.get("text")
            if text and isinstance(text, str) and part.get("type") in ("text", "text_delta"):
                return [self._text(text)]
            thought = part.get("thinking")
            if thought and isinstance(thought, str):
                return [Reasoning(thought)]
        return [_ALIVE]

    def _note(self, message: object) -> None:
        if not isinstance(message, dict):
            return
        if self._answered_by is None and isinstance(model := message.get("model"), str):
            self._answered_by = model
        if isinstance(usage := message.get("usage"), dict):
            self._counts.update((name, value) for name, value in usage.items() if value is not None)
            self.usage = _usage(self._counts)

    def _ended(self, delta: object) -> None:
        reason = delta.get("stop_reason") if isinstance(delta, dict) else None
        if isinstance(reason, str) and self.reason is None:
            self.reason = _STOP_REASONS.get(reason, "stop")


ADAPTER: Final = AnthropicMessages


def _in_use(page: Any) -> Any:
    """A page of the list without the models that are listed only because they once were."""
    items = page.get("data") if isinstance(page, dict) else None
    if not isinstance(items, list):
        return page
    kept = [item for item in items if not (isinstance(item, dict) and item.get("lifecycle") == "retired")]
    return {**page, "data": kept}


def _following(page: Any) -> str:
    """The query for the page after this one."""
    last = page.get("last_id") if isinstance(page, dict) and page.get("has_more") else None
    return f"&after_id={quote(last, safe='')}" if last and isinstance(last, str) else ""


def _usage(counts: Mapping[str, Any]) -> Usage:
    """Tokens; what a cache gave or took is counted apart on the wire, and is input all the same."""
    fresh = count(counts.get("input_tokens"))
    cached = count(counts.get("cache_read_input_tokens"))
    written = count(counts.get("cache_creation_input_tokens"))
    details = counts.get("output_tokens_details")
    return Usage(
        input_tokens=None if fresh is None else fresh + (cached or 0) + (written or 0),
        output_tokens=count(counts.get("output_tokens")),
        cached_input_tokens=cached,
        reasoning_tokens=count(details.get("thinking_tokens")) if isinstance(details, dict) else None,
    )

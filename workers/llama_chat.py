"""A request as llama.cpp's chat takes it, and what it answers as events; its errors in sentences of ours.

llama.cpp's own form of the OpenAI wire, spoken without HTTP: the body is a JSON text that is handed over, the
answer comes as one JSON text for each token. What they have in common with the wire is chat_body's and
chat_reply's. Pure.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from workers.adapter import AdapterError, Event, Finish, Request, Text, Warn
from workers.chat_body import build
from workers.chat_reply import ChatReply
from workers.codes import Code
from workers.parameters import NO_EFFORT, Body
from workers.quirks import Quirks
from workers.redaction import redacted
from workers.refusals import Who
from workers.toolless import without_tools
from workers.transcript import transcript

__all__ = ["TRANSCRIPT_TEMPLATE", "Manner", "body_of", "events_of", "refused"]

THINKING_HEADROOM: Final = 2048
"""Tokens for thinking that a client asked for; they do not count as visible text."""
TRANSCRIPT_TEMPLATE: Final = (
    "{%- for message in messages -%}{{ message.content + '\\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ speaker }}:{%- endif -%}"
)
"""A chat template that only joins the lines of a transcript."""
_QUIRKS: Final = Quirks(
    merge_roles=True,
    stream_usage=True,
    repetition_penalty_field="repeat_penalty",
    stop_max=16,
    thinking_off={"chat_template_kwargs": {"enable_thinking": False}},
)
_FORCED: Final[Mapping[str, Any]] = {
    "n": 1,
    "stream": True,
    "stream_options": {"include_usage": True},
    "return_progress": True,  # a piece for every batch of the prompt: a sign of life, and a chance to stop
}
"""What no client may choose, since the reading of the answer depends on it."""
_JINJA: Final = "Jinja Exception:"


@dataclass(frozen=True, slots=True)
class Manner:
    """How a loaded model wants to be spoken to."""

    plain: bool
    """As a transcript."""
    may_think: bool
    """Its chat template knows thinking, in which a stop string must not fire."""
    knows_tools: bool = False
    """Its chat template tells it of tools; the engine leaves them out in silence where it does not."""


def body_of(request: Request, model: str, manner: Manner) -> Body:
    """What the engine is given.

    Raises:
        AdapterError: UNSUPPORTED, the request holds what it cannot take.
    """
    quirks, forced = _QUIRKS, dict(_FORCED)
    warnings: tuple[Warn, ...] = ()
    if not manner.knows_tools:
        request, warnings = without_tools(request)
    request = _chosen(request)
    if request.stop_ids and request.tools:
        raise AdapterError(
            Code.UNSUPPORTED, "llama.cpp takes no token ids in stop_tokens beside tools: send strings instead"
        )
    if request.stop_ids:
        forced |= {"logprobs": True, "top_logprobs": 1}  # it tells a token's id only with its chance
    if manner.plain:
        lines = transcript(request)
        forced["chat_template_kwargs"] = {"speaker": lines.speaker}
        quirks = dataclasses.replace(quirks, merge_roles=False, thinking_off={})
        request = dataclasses.replace(request, messages=lines.lines, stop=(*lines.stops, *request.stop))
    elif manner.may_think:
        asked = request.reasoning_effort not in (None, NO_EFFORT)
        headroom = THINKING_HEADROOM if asked else 0
        quirks = dataclasses.replace(quirks, reasoning_models=("*",), reasoning_headroom=headroom)
    body = build(dataclasses.replace(request, model=model, stop_ids=()), quirks)
    return Body({**body.fields, **forced}, (*warnings, *body.warnings))


async def events_of(
    answer: AsyncIterator[bytes], request: Request, body: Body, model: str, manner: Manner
) -> AsyncGenerator[Event, None]:
    """The pieces of an answer as events, the last one Finish.

    Raises:
        AdapterError: one of the pieces is an error.
    """
    chat = ChatReply(Who("llama.cpp"), model=model, max_output_length=request.max_output_length)
    stop_ids = frozenset(request.stop_ids)
    trims = manner.plain  # the space after the colon
    async for piece in answer:
        _check(piece)
        if stop_ids and not stop_ids.isdisjoint(_token_ids(piece)):
            yield Finish("stop", model, warnings=body.warnings)
            return
        for event in chat.piece(piece):
            if trims and isinstance(event, Text):
                text = event.text.lstrip()
                trims = not text
                if text:
                    yield Text(text)
            else:
                yield event
    if chat.reason is not None:
        yield chat.finish(retries=0, warnings=body.warnings)


def refused(error: Exception) -> AdapterError:
    """The error for an exception of the engine, which it raises only before it begins to compute."""
    if isinstance(error, MemoryError):
        return AdapterError(
            Code.OUT_OF_MEMORY, "The engine ran out of memory; load with a smaller options.context_length."
        )
    said = str(error)
    if _JINJA in said:
        return AdapterError(
            Code.INVALID_PROMPT,
            "The model's chat template refuses these messages (it said: "
            f"{redacted(said.rpartition(_JINJA)[2])}); change them, or load with options.transcript.",
        )
    return AdapterError(Code.INVALID_PROMPT, f"The engine refuses the request (it said: {redacted(said)}).")


def _chosen(request: Request) -> Request:
    """The request with the tool that it chooses by name as the only one, and required: the engine knows the
    words alone.

    Raises:
        AdapterError: INVALID_PROMPT, there is no such tool.
    """
    choice = request.tool_choice
    if not isinstance(choice, Mapping):
        return request
    name = _name_in(choice)
    tools = tuple(tool for tool in request.tools if _name_in(tool) == name)
    if name is None or not tools:
        raise AdapterError(Code.INVALID_PROMPT, f"tool_choice names {name!r}, which is none of the tools.")
    return dataclasses.replace(request, tools=tools, tool_choice="required")


def _name_in(tool: Mapping[str, Any]) -> Any:
    function = tool.get("function")
    return function.get("name") if isinstance(function, Mapping) else None


def _check(piece: bytes) -> None:
    """Raises for an error in the place of a piece."""
    if b'"error"' not in piece:
        return
    error = json.loads(piece).get("error")
    if not isinstance(error, dict):
        return
    if error.get("type") == "exceed_context_size_error":
        raise AdapterError(
            Code.CONTEXT_TOO_LONG,
            f"The messages have {error.get('n_prompt_tokens')} tokens and the context holds "
            f"{error.get('n_ctx')}: send fewer, or load with a larger options.context_length.",
        )
    quote = redacted(str(error.get("message", "")))
    if error.get("code") == 400:
        raise AdapterError(Code.INVALID_PROMPT, f"The engine refuses the request (it said: {quote}).")
    raise AdapterError(
        Code.UPSTREAM_ERROR, f"The engine failed in the middle of its answer (it said: {quote}); try again."
    )


def _token_ids(piece: bytes) -> set[int]:
    choices = json.loads(piece).get("choices") or [{}]
    content = (choices[0].get("logprobs") or {}).get("content") or []
    return {item["id"] for item in content}

"""A `generate` request as the work a worker is given: defaults filled in, bounds applied, content flattened.

Pure; what this version cannot carry out is refused here with UNSUPPORTED, never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec import UnsetType

from supervisor.errors import Failure
from supervisor.messages import ChatMessage, Generate, Params
from supervisor.old_calls import OldCalls
from workers.codes import Code

__all__ = ["Job", "Limits", "make_job", "unsupported"]

DEFAULT_TEMPERATURE: Final = 1.0
DEFAULT_OUTPUT_TOKENS: Final = 200
"""Both as in the published client's defaults."""
SAMPLING: Final = (
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds and defaults of one connection's requests."""

    timeout_ms: int = 60_000
    """When a request names no timeout."""
    timeout_ceiling_ms: int = 600_000
    """The longest there is, and what `timeout_ms: null` means."""
    generations: int = 64
    """Open at once on one connection; more are BUSY."""
    loads: int = 16
    """Waiting at once on one connection; more are BUSY."""


@dataclass(frozen=True, slots=True)
class Job:
    """One generation, ready for a worker; `body` is the body of the wire's Generate frame."""

    stream: bool
    timeout_s: float
    first_token_timeout_s: float | None
    body: Mapping[str, Any] = field(repr=False)


def unsupported(request: Generate) -> Failure | None:
    """What the request asks for and this version cannot do, or None."""
    asked = {
        "sentences": request.sentences,
        "reasoning": request.reasoning,
        "fallback": request.fallback,
    }
    for name, value in asked.items():
        if value:
            return _cannot(f"{name} is not supported by this version; leave it out.")
    for index, message in enumerate(request.messages):
        for part in message.content if isinstance(message.content, list) else ():
            if part.type != "text":
                return _cannot(
                    f"messages[{index}] has a part of type {part.type[:32]!r}; only text is supported."
                )
    return None


def make_job(request: Generate, model: str, limits: Limits) -> Job | Failure:
    """The work of a request that `unsupported` let pass."""
    messages = []
    pairs = OldCalls()
    for index, message in enumerate(request.messages):
        content = _text(message)
        if content is None:
            return Failure(Code.INVALID_REQUEST, f"messages[{index}].content is missing.")
        fields = pairs.fields(message)
        if fields is None:
            sentence = f"messages[{index}] of role function answers no function_call before it."
            return Failure(Code.INVALID_REQUEST, sentence)
        messages.append({"content": content, **fields})
    params = request.params or Params()
    timeout_ms = _timeout_ms(params.timeout_ms, limits)
    first_ms = params.first_token_timeout_ms
    return Job(
        stream=bool(request.stream),
        timeout_s=timeout_ms / 1000,
        first_token_timeout_s=None if first_ms is None else min(first_ms, limits.timeout_ceiling_ms) / 1000,
        body=_body(messages, model, params, stream=bool(request.stream), timeout_ms=timeout_ms),
    )


def _body(
    messages: list[dict[str, Any]], model: str, params: Params, *, stream: bool, timeout_ms: int
) -> dict[str, Any]:
    stops = params.stop_tokens or []
    temperature = DEFAULT_TEMPERATURE if params.temperature is None else params.temperature
    length = DEFAULT_OUTPUT_TOKENS if params.max_output_length is None else params.max_output_length
    given = {name: getattr(params, name) for name in SAMPLING}
    return {
        "messages": messages,
        "model": model,
        "stream": stream,
        "timeout_ms": timeout_ms,
        "character_name": params.character_name or None,
        "temperature": temperature,
        "max_output_length": length,
        "stop": [stop for stop in stops if isinstance(stop, str) and stop],
        "stop_ids": [stop for stop in stops if isinstance(stop, int)],
        "sampling": {name: value for name, value in given.items() if value is not None},
        "response_format": params.response_format,
        "reasoning_effort": params.reasoning_effort,
        "tools": params.tools or [],
        "tool_choice": params.tool_choice or None,
        "extra": params.extra or {},
    }


def _timeout_ms(asked: int | UnsetType | None, limits: Limits) -> int:
    if isinstance(asked, UnsetType):
        return min(limits.timeout_ms, limits.timeout_ceiling_ms)
    return limits.timeout_ceiling_ms if asked is None else min(asked, limits.timeout_ceiling_ms)


def _text(message: ChatMessage) -> str | None:
    """The content as text; parts are joined by line breaks, as llama.cpp's templates join them."""
    if message.content is None:
        return "" if message.role == "assistant" else None
    if isinstance(message.content, str):
        return message.content
    return "\n".join(part.text or "" for part in message.content)


def _cannot(message: str) -> Failure:
    return Failure(Code.UNSUPPORTED, message)

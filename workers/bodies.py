"""The JSON bodies inside frames, to and from the types that the host and the adapters use.

docs/wire.md lists their fields. Both sides are of one checkout, so a field that is missing is a bug of
ours: reading raises KeyError or TypeError, and whoever reads turns that into a failure of the one frame.
Writing never fails: a frame that cannot be made becomes one that says so.
"""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import Any, Final

from workers import wire
from workers.adapter import (
    Binding,
    Loaded,
    LoadRequest,
    Message,
    ProviderSpec,
    Request,
    ToolCall,
    Usage,
    Warn,
)
from workers.codes import Code
from workers.endings import Ending

__all__ = [
    "bound_frame",
    "done_frame",
    "model_frame",
    "progress_frame",
    "read_bind",
    "read_init",
    "read_request",
]

_LOG = logging.getLogger(__name__)
_MS_PER_S: Final = 1000
MODEL_MAX_CHARS: Final = 500
"""Of a name in the news, which a client may have made up; a path of a file is shorter."""
_UNSENDABLE: Final = (TypeError, ValueError, AttributeError, wire.WireError)
_FAILURE_MESSAGE: Final = "The worker could not put its answer into a frame; the log has the details."


def read_init(init: wire.Init) -> tuple[ProviderSpec, float]:
    """The provider that this worker serves, and after how long a worker that does not answer is reported."""
    body = wire.unpack_body(init.settings)
    provider = ProviderSpec(
        id=init.provider,
        name=body["name"],
        base_url=body["base_url"],
        default_model=body["default_model"],
        key_variables=tuple(body["key_variables"]),
        quirks=dict(body["quirks"]),
    )
    return provider, float(body["silent_s"])


def read_bind(bind: wire.Bind) -> tuple[Binding, LoadRequest]:
    """A client connection's credentials and options, and how to load them."""
    body = wire.unpack_body(bind.body)
    binding = Binding(
        id=bind.binding, key=body["key"], base_url=body["base_url"], options=dict(body["options"] or {})
    )
    return binding, LoadRequest(verify=bool(body["verify"]), preload_model=body["preload_model"])


def read_request(request_id: int, data: bytes) -> Request:
    """One generation."""
    body = wire.unpack_body(data)
    return Request(
        id=request_id,
        messages=tuple(map(_message, body["messages"])),
        model=body["model"] or "",
        stream=bool(body["stream"]),
        timeout_s=body["timeout_ms"] / _MS_PER_S,
        character_name=body["character_name"],
        temperature=body["temperature"],
        max_output_length=body["max_output_length"],
        stop=tuple(body["stop"]),
        stop_ids=tuple(body["stop_ids"]),
        sampling=dict(body["sampling"]),
        response_format=body["response_format"],
        reasoning_effort=body["reasoning_effort"],
        tools=tuple(body["tools"]),
        tool_choice=body["tool_choice"],
        extra=dict(body["extra"]),
    )


def done_frame(request_id: int, ending: Ending, *, upstream_closed_ms: int | None = None) -> bytes:
    """The encoded terminal frame of a request."""
    try:
        return _done(request_id, ending, upstream_closed_ms)
    except _UNSENDABLE as exc:
        return _done(request_id, _unsendable(exc), upstream_closed_ms)


def bound_frame(binding_id: int, outcome: Loaded | Ending) -> bytes:
    """The encoded answer to a Bind."""
    try:
        return _bound(binding_id, outcome)
    except _UNSENDABLE as exc:
        return _bound(binding_id, _unsendable(exc))


def model_frame(event: str, model: str) -> bytes:
    """The encoded news of a model."""
    return wire.encode(wire.ModelNews(event, whole(model[:MODEL_MAX_CHARS])))


def progress_frame(binding_id: int, phase: str, message: str, fraction: float | None) -> bytes:
    """How far a load is, encoded."""
    known = -1.0 if fraction is None else min(max(float(fraction), 0.0), 1.0)
    return wire.encode(wire.Progress(binding_id, whole(phase), whole(message), known))


def whole(text: str) -> str:
    """`text` without lone surrogates, which no wire takes."""
    return text.encode("utf-8", "replace").decode()


def _message(item: dict[str, Any]) -> Message:
    calls = tuple(ToolCall(call["id"], call["name"], call["arguments"]) for call in item["tool_calls"])
    of_a_tool = {"tool_calls": calls, "tool_call_id": item["tool_call_id"]}
    return Message(item["role"], item["content"], item["name"], **of_a_tool)


def _done(request_id: int, ending: Ending, upstream_closed_ms: int | None) -> bytes:
    body = {
        "finish_reason": ending.finish_reason,
        "model": None if ending.model is None else whole(ending.model),
        "usage": None if ending.usage is None else _counts(ending.usage),
        "warnings": _pairs(ending.warnings),
        "retries": ending.retries,
        "retry_after_ms": ending.retry_after_ms,
        "provider_status": ending.provider_status,
        "upstream_closed_ms": upstream_closed_ms,
    }
    return wire.encode(wire.Done(request_id, int(ending.code), whole(ending.message), wire.pack_body(body)))


def _bound(binding_id: int, outcome: Loaded | Ending) -> bytes:
    failure = outcome if isinstance(outcome, Ending) else Ending()
    loaded = Loaded() if isinstance(outcome, Ending) else outcome
    body = {
        "models": [whole(model) for model in loaded.models],
        "warnings": _pairs(loaded.warnings),
        "connect_ms": loaded.connect_ms,
        "model_ms": loaded.model_ms,
        "retry_after_ms": failure.retry_after_ms,
        "provider_status": failure.provider_status,
    }
    return wire.encode(
        wire.Bound(binding_id, int(failure.code), whole(failure.message), wire.pack_body(body))
    )


def _counts(usage: Usage) -> dict[str, int | None]:
    return {field.name: getattr(usage, field.name) for field in fields(usage)}


def _pairs(warnings: tuple[Warn, ...]) -> list[tuple[str, str]]:
    return [(whole(warning.name), whole(warning.message)) for warning in warnings]


def _unsendable(exc: Exception) -> Ending:
    """An adapter put into its answer what no frame can hold; a terminal frame must leave all the same."""
    _LOG.error("an answer does not fit into a frame", exc_info=exc)
    return Ending(Code.UNEXPECTED, _FAILURE_MESSAGE, finish_reason="error")

"""What a client is told, as types: replies in, JSON text out. No I/O, no state; requests are messages.py's.

Two published dialects share these types. They differ in the name of the provider field, in the form of
`error` and in the `response` of a failed generation; `Address` and `Dialect` carry the difference.
A client is never sent a type that it did not ask for: the published client dies of an unknown one.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from supervisor.errors import Failure
from supervisor.messages import Address
from workers.codes import Code

__all__ = [
    "CalledFunction",
    "CalledTool",
    "ChunkEncoder",
    "CloseAck",
    "Dialect",
    "ErrorReply",
    "GenerateAck",
    "GenerateDone",
    "GenerateStreamDone",
    "GetModelsDone",
    "GetProvidersDone",
    "InterruptAck",
    "LoadAck",
    "LoadDone",
    "LoadProgress",
    "Reply",
    "StatusDone",
    "ToolCallChunk",
    "WarningNote",
    "encode",
    "failed",
    "named",
    "succeeded",
]


class Dialect(enum.Enum):
    """Which of the two published forms a connection speaks."""

    SEED = "seed"
    SDK = "sdk"


class WarningNote(msgspec.Struct, frozen=True):
    """Something a client should know about a success."""

    name: str
    message: str


class CalledFunction(msgspec.Struct, frozen=True):
    """What a model wants to call, and with what: JSON text."""

    name: str
    arguments: str


class CalledTool(msgspec.Struct, frozen=True, tag_field="type", tag="function"):
    """A whole call, in the shape in which it goes back as a message of the assistant."""

    id: str
    function: CalledFunction


class _Reply(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    unique_request_id: Raw | UnsetType = UNSET


class _Result(_Reply, frozen=True, kw_only=True):
    """A reply that can report a failure; the last six fields are there exactly then."""

    is_error: bool | UnsetType = UNSET
    error: int | str | UnsetType = UNSET
    error_code: int | UnsetType = UNSET
    error_name: str | UnsetType = UNSET
    message: str | UnsetType = UNSET
    retryable: bool | UnsetType = UNSET
    retry_after_ms: int | UnsetType | None = UNSET
    provider_status: int | UnsetType | None = UNSET


class ErrorReply(_Result, frozen=True, kw_only=True, tag="error"):
    """What cannot be attributed to a request, and a duplicate id."""


class LoadAck(_Reply, frozen=True, kw_only=True, tag="load_ack"):
    """The load was read."""

    llm: str | UnsetType = UNSET
    provider: str | UnsetType = UNSET


class LoadProgress(_Reply, frozen=True, kw_only=True, tag="load_progress"):
    """Opt-in: how far a load is."""

    llm: str | UnsetType = UNSET
    provider: str | UnsetType = UNSET
    phase: str
    message: str
    fraction: float | UnsetType | None = UNSET


class LoadDone(_Result, frozen=True, kw_only=True, tag="load_done"):
    """The provider is ready, or why it is not."""

    llm: str | UnsetType = UNSET
    provider: str | UnsetType = UNSET
    models_count: int | UnsetType = UNSET
    timings_ms: Mapping[str, int] | UnsetType = UNSET
    warnings: Sequence[WarningNote] | UnsetType = UNSET


class GenerateAck(_Reply, frozen=True, kw_only=True, tag="generate_ack"):
    """The generate was read."""


class _Generated(_Result, frozen=True, kw_only=True):
    finish_reason: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    usage: Mapping[str, int] | UnsetType = UNSET
    upstream_closed_ms: int | UnsetType = UNSET
    timings_ms: Mapping[str, int] | UnsetType = UNSET
    warnings: Sequence[WarningNote] | UnsetType = UNSET
    retries: int | UnsetType = UNSET
    tool_calls: Sequence[CalledTool] | UnsetType = UNSET


class GenerateDone(_Generated, frozen=True, kw_only=True, tag="generate_done"):
    """The end of a generation that was not streamed."""

    response: str | UnsetType | None = UNSET
    partial_response: str | UnsetType = UNSET


class GenerateStreamDone(_Generated, frozen=True, kw_only=True, tag="generate_stream_done"):
    """The end of a streamed generation."""


class ToolCallChunk(_Reply, frozen=True, kw_only=True, tag="generate_tool_call_chunk"):
    """Opt-in: a piece of a call, and which one it belongs to."""

    index: int
    id: str
    name: str
    arguments: str


class InterruptAck(_Result, frozen=True, kw_only=True, tag="interrupt_ack"):
    """The interrupt was carried out: nothing more of these is sent but their terminal messages."""

    interrupted: Sequence[Raw] | UnsetType = UNSET


class CloseAck(_Result, frozen=True, kw_only=True, tag="close_ack"):
    """The module is going to end, or why this client may not end it."""


class GetProvidersDone(_Result, frozen=True, kw_only=True, tag="get_providers_done"):
    """The ids of all providers."""

    providers: Sequence[str]
    details: Mapping[str, Mapping[str, Any]] | UnsetType = UNSET


class GetModelsDone(_Result, frozen=True, kw_only=True, tag="get_models_done"):
    """The models that a load learned of."""

    models: Sequence[str]


class StatusDone(_Result, frozen=True, kw_only=True, tag="status_done"):
    """How the module and its workers are."""

    version: str | UnsetType = UNSET
    uptime_s: float | UnsetType = UNSET
    clients: int | UnsetType = UNSET
    memory_bytes: int | UnsetType | None = UNSET
    cpu_s: float | UnsetType = UNSET
    workers: Sequence[Mapping[str, Any]] | UnsetType = UNSET


Reply: TypeAlias = (
    "ErrorReply | LoadAck | LoadProgress | LoadDone | GenerateAck | GenerateDone | GenerateStreamDone"
    " | ToolCallChunk | InterruptAck | CloseAck | GetProvidersDone | GetModelsDone | StatusDone"
)

_ENCODER: Final = msgspec.json.Encoder()


def encode(reply: Reply) -> bytes:
    """One reply as JSON text in UTF-8."""
    return _ENCODER.encode(reply)


def succeeded(dialect: Dialect) -> dict[str, Any]:
    """The fields of a success."""
    return {"is_error": False, "error": 0 if dialect is Dialect.SEED else Code.SUCCESS.name}


def failed(failure: Failure, dialect: Dialect) -> dict[str, Any]:
    """The fields of a failure."""
    code = failure.code
    return {
        "is_error": True,
        "error": int(code) if dialect is Dialect.SEED else code.sdk_name,
        "error_code": int(code),
        "error_name": code.name,
        "message": failure.message,
        "retryable": code.retryable,
        "retry_after_ms": failure.retry_after_ms,
        "provider_status": failure.provider_status,
    }


def named(address: Address) -> dict[str, Any]:
    """The id and the provider of a reply, as its request had them."""
    fields: dict[str, Any] = {"unique_request_id": address.raw_id}
    if address.llm is not None:
        fields["llm"] = address.llm
    if address.provider is not None:
        fields["provider"] = address.provider
    return fields


class ChunkEncoder:
    """Makes the chunk messages of one request; all but the text is encoded once."""

    def __init__(self, address: Address) -> None:
        identifier = b"" if address.id is None else b'"unique_request_id":' + address.id.raw + b","
        self._head = b'{"type":"generate_stream_chunk",' + identifier + b'"chunk":'

    def encode(self, text: str) -> bytes:
        """One chunk message."""
        return self._head + _ENCODER.encode(text) + b"}"

"""Frames between the supervisor and a worker, and their codec; both processes import this very file.

A frame is a 4-byte big-endian length and that many bytes of msgpack: an array `[tag, field, …]`.
Each direction has its own table of tags, so neither side can say what only the other may say.
The codec does no I/O and checks sizes before it takes memory; whatever breaks a rule raises WireError.
What can be large or nested (a prompt, a list of models) travels as JSON bytes inside a field and is
opened with `unpack_body`; a body larger than a frame is continued in Part frames.

The order on the wire: Hello up, Init down, Ready or Failed up, and from then on anything.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Final, TypeAlias

import msgpack

__all__ = [
    "BODY_MAX_BYTES",
    "CALL_NAME_MAX_CHARS",
    "CREDIT_CHARS",
    "FRAME_MAX_BYTES",
    "PART_BYTES",
    "VERSION",
    "Alive",
    "Bind",
    "Bound",
    "CallPart",
    "Cancel",
    "Chunk",
    "Credit",
    "Decoder",
    "Done",
    "Down",
    "Dump",
    "Failed",
    "Frame",
    "Generate",
    "Hello",
    "Init",
    "ModelNews",
    "Part",
    "Ping",
    "Pong",
    "Progress",
    "Ready",
    "Shutdown",
    "Unbind",
    "Up",
    "WireError",
    "encode",
    "pack_body",
    "parts",
    "split_text",
    "unpack_body",
]

VERSION: Final = 4
FRAME_MAX_BYTES: Final = 1 << 20
"""A longer frame is refused before memory is taken for it."""
PART_BYTES: Final = 256 << 10
"""How much of a body one frame carries."""
BODY_MAX_BYTES: Final = 32 << 20
"""A request's messages and parameters together; a client's frame is 1 MiB unless an operator raises it."""
CHUNK_MAX_CHARS: Final = 64 << 10
"""Text of one Chunk; four bytes a character at most, so a frame always has room."""
CREDIT_CHARS: Final = 256 << 10
"""What a streamed request may send before the client has taken any of it; Credit frames give it back."""
CALL_NAME_MAX_CHARS: Final = 1024
"""The id and the name of a call of a tool, each: providers make ids of 40, and allow names of 64."""
ARRAY_MAX: Final = 4096
MAP_MAX: Final = 256
ELIDED_CHARS: Final = 40

_LENGTH: Final = struct.Struct(">I")


class WireError(Exception):
    """What arrived is not our wire: the other side, or something that writes to its pipe, is broken."""


# ---- supervisor → worker


@dataclass(frozen=True, slots=True)
class Init:
    """The first frame down: which provider this worker serves. `settings` is a body: name, quirks, …"""

    version: int
    provider: str
    settings: bytes


@dataclass(frozen=True, slots=True)
class Bind:
    """Credentials and options of one client connection; the only frame that carries a key."""

    binding: int
    body: bytes

    def __repr__(self) -> str:
        return f"Bind({self.binding}, ***)"


@dataclass(frozen=True, slots=True)
class Unbind:
    """Forget a binding and close what belongs to it."""

    binding: int


@dataclass(frozen=True, slots=True)
class Generate:
    """Start a generation; when `length` is more than `body` holds, Part frames bring the rest."""

    request: int
    binding: int
    length: int
    body: bytes

    def __repr__(self) -> str:
        return f"Generate({self.request}, binding={self.binding}, {self.length} bytes)"


@dataclass(frozen=True, slots=True)
class Part:
    """The next piece of a Generate's body."""

    request: int
    data: bytes

    def __repr__(self) -> str:
        return f"Part({self.request}, {len(self.data)} bytes)"


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a generation; its Done still comes. An unknown request is not an error: it may just have ended."""

    request: int


@dataclass(frozen=True, slots=True)
class Credit:
    """The client took that many characters: as many more may be sent for this request."""

    request: int
    chars: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Answered by Pong, from the reading thread and from the loop."""

    serial: int


@dataclass(frozen=True, slots=True)
class Shutdown:
    """End all requests, close everything, exit 0."""


@dataclass(frozen=True, slots=True)
class Dump:
    """Write the stacks of all threads to stderr; done by the reading thread."""


# ---- worker → supervisor


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame up, before anything is imported; the nonce proves it is the child we started."""

    version: int
    pid: int
    nonce: str
    python: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The adapter's packages are imported; requests may come."""

    import_ms: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker cannot serve, and exits: a module that does not import, a version that does not match."""

    code: int
    message: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a Bind is; `fraction` is negative when unknown."""

    binding: int
    phase: str
    message: str
    fraction: float


@dataclass(frozen=True, slots=True)
class Bound:
    """The answer to Bind. `body`: models, warnings, timings_ms, retry_after_ms, provider_status."""

    binding: int
    code: int
    message: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Chunk:
    """Visible text of a reply: whole characters, never empty."""

    request: int
    text: str

    def __str__(self) -> str:
        return f"Chunk({self.request}, {elided(self.text)!r})"


@dataclass(frozen=True, slots=True)
class Alive:
    """Something arrived from the provider that nobody is to see (reasoning): the clock starts anew."""

    request: int


@dataclass(frozen=True, slots=True)
class Done:
    """The one terminal frame of a request. `body`: finish_reason, model, usage, warnings, retries, …"""

    request: int
    code: int
    message: str
    body: bytes


@dataclass(frozen=True, slots=True)
class ModelNews:
    """Something happened to a model of an engine: `event` is "loading", "loaded", "failed" or "gone".

    Sent when it happens, so that whoever samples the process knows what it used before and after."""

    event: str
    model: str


@dataclass(frozen=True, slots=True)
class Pong:
    """`source` is "thread" (the process runs Python) or "loop" (its event loop turns)."""

    serial: int
    source: str


@dataclass(frozen=True, slots=True)
class CallPart:
    """A piece of a call of a tool: which call of the reply, from 0, and the next piece of its arguments,
    which are JSON text together. Each piece has the id and the name of its call."""

    request: int
    index: int
    id: str
    name: str
    arguments: str

    def __repr__(self) -> str:
        return f"CallPart({self.request}, {self.index}, {len(self.arguments)} characters)"


Down: TypeAlias = "Init | Bind | Unbind | Generate | Part | Cancel | Credit | Ping | Shutdown | Dump"
Up: TypeAlias = (
    "Hello | Ready | Failed | Progress | Bound | Chunk | Alive | Done | Pong | CallPart | ModelNews"
)
Frame: TypeAlias = "Down | Up"

_DOWN: Final[tuple[type[Any], ...]] = (
    *(Init, Bind, Unbind, Generate, Part, Cancel, Credit, Ping, Shutdown, Dump),
)
_UP: Final[tuple[type[Any], ...]] = (
    *(Hello, Ready, Failed, Progress, Bound, Chunk, Alive, Done, Pong, CallPart, ModelNews),
)
_UP_BASE: Final = 64
"""Tags of frames up begin here, so that no number means two things."""
_TYPES: Final = {"int": int, "str": str, "bytes": bytes, "float": float}


def _table(classes: tuple[type[Any], ...], base: int) -> dict[int, tuple[type[Any], tuple[type, ...]]]:
    return {
        base + index: (cls, tuple(_TYPES[str(field.type)] for field in fields(cls)))
        for index, cls in enumerate(classes)
    }


DOWN: Final = _table(_DOWN, 0)
UP: Final = _table(_UP, _UP_BASE)
_TAGS: Final[dict[type[Any], int]] = {cls: tag for table in (DOWN, UP) for tag, (cls, _) in table.items()}
_NAMES: Final[dict[type[Any], tuple[str, ...]]] = {
    cls: tuple(field.name for field in fields(cls)) for cls in (*_DOWN, *_UP)
}
_JSON: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def encode(frame: Frame) -> bytes:
    """The bytes of one frame.

    Raises:
        WireError: it would be longer than FRAME_MAX_BYTES.
    """
    cls = type(frame)
    payload: bytes = msgpack.packb([_TAGS[cls], *[getattr(frame, name) for name in _NAMES[cls]]])
    if len(payload) > FRAME_MAX_BYTES:
        raise WireError(f"{cls.__name__} of {len(payload)} bytes is over the limit of {FRAME_MAX_BYTES}")
    return _LENGTH.pack(len(payload)) + payload


class Decoder:
    """Bytes in, frames out. After a WireError it must not be used again: the stream has no way back."""

    def __init__(self, table: dict[int, tuple[type[Any], tuple[type, ...]]]) -> None:
        self._table = table
        self._rest = b""

    def feed(self, data: bytes) -> list[Any]:
        """All frames that are complete with `data`; what remains is kept for the next call.

        Raises:
            WireError: the bytes are not frames of this direction.
        """
        data = self._rest + data if self._rest else data
        frames = []
        start = 0
        while len(data) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, start)
            if not 0 < length <= FRAME_MAX_BYTES:
                raise WireError(f"a frame of {length} bytes (1 to {FRAME_MAX_BYTES} are allowed)")
            end = start + _LENGTH.size + length
            if end > len(data):
                break
            frames.append(self._frame(data[start + _LENGTH.size : end]))
            start = end
        self._rest = data[start:]
        return frames

    @property
    def pending_bytes(self) -> int:
        """How much of an unfinished frame is held."""
        return len(self._rest)

    def _frame(self, payload: bytes) -> Any:
        try:
            values = msgpack.unpackb(payload, max_array_len=ARRAY_MAX, max_map_len=MAP_MAX, max_ext_len=0)
        except (ValueError, msgpack.UnpackException) as exc:
            raise WireError(f"not msgpack: {type(exc).__name__}") from exc
        if type(values) is not list or not values or type(values[0]) is not int:
            raise WireError("a frame must be an array that begins with its tag")
        row = self._table.get(values[0])
        if row is None:
            raise WireError(f"unknown frame tag {values[0]}")
        cls, types = row
        if tuple(map(type, values[1:])) != types:
            raise WireError(f"{cls.__name__} has fields of the wrong number or type")
        return cls(*values[1:])


def pack_body(value: object) -> bytes:
    """A nested value as the bytes of a body field."""
    return _JSON.encode(value).encode()


def unpack_body(data: bytes) -> dict[str, Any]:
    """The object in a body field.

    Raises:
        WireError: it is not one.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise WireError(f"not a JSON body: {type(exc).__name__}") from exc
    if not isinstance(value, dict):
        raise WireError("a body must be an object")
    return value


def parts(request: int, binding: int, body: bytes) -> Iterator[Generate | Part]:
    """The frames that carry one request, whatever its size."""
    yield Generate(request, binding, len(body), body[:PART_BYTES])
    for start in range(PART_BYTES, len(body), PART_BYTES):
        yield Part(request, body[start : start + PART_BYTES])


def split_text(text: str) -> Iterator[str]:
    """`text` in pieces that each fit a Chunk, without cutting a character."""
    for start in range(0, len(text), CHUNK_MAX_CHARS):
        yield text[start : start + CHUNK_MAX_CHARS]


def elided(text: str) -> str:
    """`text` for a log: its middle left out when it is long."""
    if len(text) <= ELIDED_CHARS:
        return text
    half = ELIDED_CHARS // 2
    return f"{text[:half]}…{text[-half:]}"

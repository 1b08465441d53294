"""What a wire is to the tests: how an answer is written on it, and how a request is read from it.

One file in tests/fakes/wires/ says this for each wire, in the words of the provider's documentation and never
in the adapter's own. tests/fakes/http_server.py speaks it, and tests/workers/adapters/test_contract.py runs
every row of the contract against every adapter that has one.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from workers.adapter import Adapter, FinishReason, Usage
from workers.codes import Code

__all__ = [
    "CANARY",
    "JSON",
    "MODELS",
    "SSE",
    "Asked",
    "Behaviour",
    "Received",
    "Refused",
    "Turn",
    "Wire",
    "event",
]

CANARY: Final = "sk-CANARY-7f3a9c51d2e84b60-Zq"
"""A key that must appear in no error, no repr and no log."""
JSON: Final = "application/json"
SSE: Final = "text/event-stream"
USAGE: Final = Usage(7, 3)
MODELS: Final = ("fake-small", "fake-large")


@dataclass
class Received:
    """One request, and what became of its connection."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: Any
    """The parsed JSON, or None."""
    raw: bytes
    connection: int
    """The same number for requests of one connection."""
    arrived_ns: int
    closed_ns: int | None = None
    """When the client's socket was closed, on the monotonic clock."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def key(self) -> str | None:
        """The bearer key, if there was one."""
        scheme, _, key = self.headers.get("authorization", "").partition(" ")
        return key if scheme == "Bearer" else None


@dataclass(frozen=True)
class Behaviour:
    """How to answer a generation; the default answers as a provider should."""

    texts: tuple[str, ...] = ("Hello", " there", ".")
    reasoning: tuple[str, ...] = ()
    finish_reason: str | None = "stop"
    """One of our words, or one of the wire's; None tells none."""
    usage: Usage | Mapping[str, Any] | None = USAGE
    """Tokens as we call them, or in the wire's own words; None tells none."""
    done: bool = True
    """Whether the mark of the end is sent, where the wire has one."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """Sent as it is instead of an answer, with its length; the content type is JSON unless headers say."""
    events: tuple[bytes, ...] | None = None
    """Sent as they are instead of the stream that the fields above describe."""
    gate_before_head: bool = False
    """Wait for `server.gate` before anything is answered."""
    gate_after: int | None = None
    """Wait for `server.gate` after so many pieces of the stream."""
    cut_after: int | None = None
    """Break the connection after so many pieces."""
    cut: str = "fin"
    """`fin`: close it; `rst`: reset it."""
    chunked: bool = True
    """Otherwise the end of the connection is the end of the stream."""


@dataclass(frozen=True)
class Turn:
    """One message as it was received: the name only where the wire has a field for it."""

    role: str
    text: str
    name: str | None = None


@dataclass(frozen=True)
class Asked:
    """What a request asked for, read from its own wire."""

    model: str
    system: str
    """Of the beginning of the prompt."""
    turns: tuple[Turn, ...]
    """All that follows, in order."""
    stops: tuple[str, ...]
    max_tokens: int
    temperature: float | None
    key: str | None
    streamed: bool


@dataclass(frozen=True)
class Refused:
    """A refusal as the provider words it, and what it means."""

    status: int
    body: bytes
    code: Code


class Wire(abc.ABC):
    """One wire; a subclass says what follows, and nothing about how a server works."""

    name: ClassVar[str]
    """Of the file in workers/adapters/."""
    adapter: ClassVar[type[Adapter]]
    quirks: ClassVar[Mapping[str, Any]] = {}
    """A provider of this wire that takes stop strings and whose list of models is complete."""
    mount: ClassVar[str] = "/v1"
    """The path of the base URL."""
    stream_type: ClassVar[str] = SSE
    reasons: ClassVar[Mapping[str, FinishReason]]
    """Every word for an end that is documented → ours."""
    usual: ClassVar[Mapping[str, str]]
    """Our words for an end → the wire's usual ones."""
    counts: ClassVar[tuple[str, ...]]
    """The fields of Usage that the wire can tell."""
    temperature_max: ClassVar[float]
    sees_nothing: ClassVar[Sequence[bytes]]
    """Bodies with status 200 that are JSON and no answer of this wire."""
    garbage: ClassVar[Sequence[bytes]]
    """Pieces of a stream that are not of this wire."""
    names: ClassVar[Mapping[str, str]] = {}
    """Parameters of sampling that this wire calls otherwise."""
    absent: ClassVar[Mapping[str, str]] = {}
    """Rows of the contract that do not apply → why."""

    @abc.abstractmethod
    def events(self, behaviour: Behaviour) -> list[bytes]:
        """The pieces of a stream. The first ones bring one piece of reasoning or text each; whatever the
        wire wants around them goes with them, so that a gate or a cut can be set by counting."""

    @abc.abstractmethod
    def whole(self, behaviour: Behaviour) -> bytes:
        """The answer that is not streamed."""

    @abc.abstractmethod
    def text(self, text: str) -> bytes:
        """One piece of a stream that has begun."""

    @abc.abstractmethod
    def quiet(self) -> tuple[bytes, ...]:
        """Pieces that are legal in a stream that has begun, and say nothing."""

    @abc.abstractmethod
    def error(self, status: int, message: str) -> bytes:
        """The body of an error with that status."""

    @abc.abstractmethod
    def refusals(self) -> Mapping[str, Refused]:
        """Refusals in the provider's words, by what they say; `model` is that of one that does not exist."""

    @abc.abstractmethod
    def stream_errors(self) -> Mapping[bytes, Code]:
        """Pieces of a stream that are errors, and what they mean."""

    @abc.abstractmethod
    def models(self, names: Sequence[str], received: Received) -> bytes:
        """The answer to a request for the list of models."""

    def credential(self, key: str) -> str:
        """What a client gives for its requests to carry `key`, where that is not the key itself."""
        return key

    @contextlib.asynccontextmanager
    async def beside(self) -> AsyncIterator[None]:
        """What else must run for this wire to be spoken: a server that gives tokens."""
        yield

    def streams(self, received: Received) -> bool:
        """Whether a generation is to be streamed."""
        return isinstance(received.body, dict) and received.body.get("stream") is True

    @abc.abstractmethod
    def asked(self, received: Received) -> Asked:
        """A generation as it was received."""

    def said(self, *texts: str) -> tuple[bytes, ...]:
        """The pieces of a stream with these texts, without any end."""
        return tuple(self.events(Behaviour(texts=texts, finish_reason=None, usage=None, done=False)))


def event(value: object, name: str = "") -> bytes:
    """A server-sent event with that JSON, its characters as they are."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()

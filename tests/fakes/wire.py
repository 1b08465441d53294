"""What a wire is to the tests: how an answer is written on it, and how a request is read from it.

One file in tests/fakes/wires/ says this for each wire, in the words of the provider's documentation and never
in the adapter's own. tests/fakes/http_server.py speaks it, and tests/workers/adapters/test_contract.py runs
every row of the contract against every adapter that has one.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import enum
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
    "Call",
    "Part",
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
    """The parsed JSON, the fields of a form, or None."""
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
class Call:
    """A call of a tool in an answer; streamed, its name comes first, then each piece of its arguments."""

    id: str
    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Behaviour:
    """How to answer a generation; the default answers as a provider should."""

    texts: tuple[str, ...] = ("Hello", " there", ".")
    reasoning: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()
    """After the texts, on wires that carry tools."""
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


class Part(enum.Enum):
    """What a request is to a server; most wires have generations and lists alone."""

    GENERATION = enum.auto()
    LIST = enum.auto()
    FOLLOW = enum.auto()
    """It asks for the answer to a generation that another request began."""
    CANCEL = enum.auto()
    """It ends such a generation."""
    TOKEN = enum.auto()
    """It buys a token with the key, which is in its body."""


class Wire(abc.ABC):
    """One wire; a subclass says what follows, and nothing about how a server works."""

    name: ClassVar[str]
    """Of the file in workers/adapters/, and a word for what else of it is spoken."""
    adapter: ClassVar[type[Adapter]]
    quirks: ClassVar[Mapping[str, Any]] = {}
    """A provider of this wire that takes stop strings and whose list of models is complete."""
    names: ClassVar[tuple[str, ...]] = MODELS
    """Two models, a small one and a large one; or the only one, where a server has one."""
    cancels: ClassVar[bool] = False
    """Whether a client that leaves an answer must say so in a request of its own."""
    follows: ClassVar[bool] = False
    """Whether an answer is given to other requests than the one that begins it."""
    options: ClassVar[Mapping[str, Any]] = {}
    """What a load must name besides a key."""
    mount: ClassVar[str] = "/v1"
    """The path of the base URL."""
    stream_type: ClassVar[str] = SSE
    comment: ClassVar[bytes] = b": keep-alive\n\n"
    """What a stream may hold to keep its connection open, which is no sign of life of a reply."""
    reasons: ClassVar[Mapping[str, FinishReason]]
    """Every word for an end that is documented → ours."""
    usual: ClassVar[Mapping[str, str]]
    """Our words for an end → the wire's usual ones."""
    counts: ClassVar[tuple[str, ...]]
    """The fields of Usage that the wire can tell."""
    stream_counts: ClassVar[bool] = True
    """Whether a stream tells them too."""
    temperature_min: ClassVar[float] = 0.0
    temperature_max: ClassVar[float]
    sees_nothing: ClassVar[Sequence[bytes]]
    """Bodies with status 200 that are JSON and no answer of this wire."""
    garbage: ClassVar[Sequence[bytes]]
    """Pieces of a stream that are not of this wire."""
    called: ClassVar[Mapping[str, str]] = {}
    """Parameters of sampling that this wire calls otherwise."""
    also_listed: ClassVar[tuple[str, ...]] = ()
    """Models that a load tells beside those that the provider lists."""
    carries_tools: ClassVar[bool] = False
    """Whether tools are taken, in the shape of the OpenAI wire, and called."""
    streamed: ClassVar[bool | None] = None
    """Whether an answer is asked for as a stream, always or never; None: as the client wants it."""
    whole_status: ClassVar[int] = 200
    """Of an answer that is not streamed."""
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
        """Refusals in the provider's words, by what they say; `model` is that of one that does not exist,
        where the provider and not the adapter says that."""

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

    def part(self, received: Received) -> Part:
        """What a request is."""
        return Part.GENERATION if received.method == "POST" else Part.LIST

    def number(self, received: Received) -> int | None:
        """Which generation a request belongs to that follows or cancels one."""
        return None

    def ends(self, cancel: Received, generation: Received, number: int) -> bool:
        """Whether `cancel` ends that generation, the one of that number."""
        return self.number(cancel) == number

    def begun(self, received: Received, number: int, base_url: str) -> bytes | None:
        """What is answered at once to a request that begins generation `number`, where its answer is given
        to the requests that follow; None where it is given to itself."""
        return None

    def token(self, received: Received) -> bytes:
        """The answer to a request for a token."""
        raise NotImplementedError

    def streams(self, received: Received) -> bool:
        """Whether a generation is to be streamed."""
        return isinstance(received.body, dict) and received.body.get("stream") is True

    def followed(self, received: Received) -> bytes:
        """The answer to a request that follows a generation which `number` does not know."""
        raise NotImplementedError

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

"""The contract of an adapter: what the wire of a provider must offer, and nothing more.

The host makes one adapter object per binding (one client connection's key, base URL and options), so
nothing of one binding can serve another. An adapter translates a prompt, yields what arrives, and maps
errors. All else is the host's: interrupts (it cancels the task, which must close the upstream
connection), stop strings, `<think>`, the echoed character name, whole calls of tools, timeouts, credit
and the terminal frame.

    adapters/NAME.py exports ADAPTER, a subclass of Adapter, and imports its packages at the top:
    the host imports that module before it reads requests.
"""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, TypeAlias

from workers.codes import Code

__all__ = [
    "FINISH_REASONS",
    "TOOL_ROLES",
    "Adapter",
    "AdapterError",
    "Alive",
    "Begun",
    "Binding",
    "Event",
    "Finish",
    "FinishReason",
    "LoadRequest",
    "Loaded",
    "Message",
    "ProviderSpec",
    "Reasoning",
    "ReportProgress",
    "Request",
    "TellOfModel",
    "Text",
    "ToolCall",
    "ToolCallPart",
    "Usage",
    "Warn",
]

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter"]
FINISH_REASONS: Final = ("stop", "length", "tool_calls", "content_filter")
TOOL_ROLES: Final = ("tool", "function")


class AdapterError(Exception):
    """An expected failure. The message is one sentence of ours: never a key, never a raw upstream body."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        retry_after_ms: int | None = None,
        provider_status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_ms = retry_after_ms
        self.provider_status = provider_status


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """The provider's table in venvs.toml, as far as a worker needs it."""

    id: str
    name: str
    base_url: str | None = None
    default_model: str | None = None
    key_variables: tuple[str, ...] = ()
    quirks: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Binding:
    """What one client connection brought with its `load`."""

    id: int
    key: str | None = field(default=None, repr=False)
    base_url: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """How a binding is to be loaded."""

    verify: bool = True
    """Check the key with a request that costs nothing."""
    preload_model: str | None = None


@dataclass(frozen=True, slots=True)
class Warn:
    """Something that a client should know about a success: a name in capitals and a sentence."""

    name: str
    message: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `load` learned."""

    models: tuple[str, ...] = ()
    warnings: tuple[Warn, ...] = ()
    connect_ms: int | None = None
    model_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool that the model has asked for."""

    id: str
    name: str
    arguments: str
    """JSON text, as the model wrote it."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt; the content is text (parts were joined by the supervisor)."""

    role: str
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = field(default=(), kw_only=True)
    """Of an assistant, whose content may be empty then."""
    tool_call_id: str | None = field(default=None, kw_only=True)
    """Of a message of role `tool`: the call that it answers."""

    @property
    def is_of_a_tool(self) -> bool:
        """Whether it calls one or answers for one."""
        return bool(self.tool_calls) or self.role in TOOL_ROLES


@dataclass(frozen=True, slots=True)
class Request:
    """One generation, validated and with all defaults filled in."""

    id: int
    messages: tuple[Message, ...]
    model: str
    """Empty where the provider decides."""
    stream: bool
    timeout_s: float
    """The host enforces it; an adapter uses it to decide whether a retry still fits."""
    character_name: str | None = None
    temperature: float = 1.0
    max_output_length: int = 200
    stop: tuple[str, ...] = ()
    """The host cuts at these in any case; an adapter may send on what the provider takes."""
    stop_ids: tuple[int, ...] = ()
    sampling: Mapping[str, float] = field(default_factory=dict)
    """Those given of top_p, top_k, min_p, presence_penalty, frequency_penalty, repetition_penalty, seed."""
    response_format: Mapping[str, Any] | None = None
    reasoning_effort: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    """In the shape of the OpenAI wire, as the client sent them."""
    tool_choice: str | Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Passed to the provider as it is."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the provider reported them; None where it did not."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """Text of the reply, in any split; the host takes out what must not be seen."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Thinking that the wire itself keeps apart from the reply."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A piece of a call of a tool. The host makes whole ones of them."""

    index: int
    """Which call of the reply it belongs to; any number that no other of its calls has."""
    id: str = ""
    """The first one that is not empty counts, and of the names too."""
    name: str = ""
    arguments: str = ""
    """The next piece of its JSON text."""


@dataclass(frozen=True, slots=True)
class Alive:
    """Something arrived that is neither; the request's clock starts anew."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What is known when an answer begins, for a reply that the host cuts before its Finish; optional."""

    warnings: tuple[Warn, ...] = ()
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Finish:
    """The provider said that the reply is complete. A stream without it is reported as TRUNCATED."""

    reason: FinishReason
    model: str | None = None
    usage: Usage | None = None
    warnings: tuple[Warn, ...] = ()
    retries: int = 0


Event: TypeAlias = "Begun | Text | Reasoning | ToolCallPart | Alive | Finish"
TellOfModel: TypeAlias = Callable[[str, str], None]
"""What happened to a model (`loading`, `loaded`, `failed`, `gone`), and its name."""
ReportProgress: TypeAlias = Callable[[str, str, "float | None"], None]
"""phase (`connect` or `model`), a sentence, and how far it is from 0 to 1 where that is known."""


class Adapter(abc.ABC):
    """One provider for one binding. Made by the host, loaded, used by many requests at once, closed."""

    carries_tools: ClassVar[bool] = False
    """Whether this wire takes tools and their messages. To one that does not, the host gives no tools, which
    the client is told, and no message that belongs to one."""

    def __init__(self, provider: ProviderSpec, binding: Binding) -> None:
        self.provider = provider
        self.binding = binding

    async def load(self, load: LoadRequest, report: ReportProgress) -> Loaded:
        """Everything that the next `generate` must not pay for: checks the key, connects, learns models.

        Cancelling it is safe.

        Raises:
            AdapterError: AUTHORIZATION, UNREACHABLE or INVALID_MODEL.
        """
        return Loaded(models=(self.provider.default_model,) if self.provider.default_model else ())

    @abc.abstractmethod
    def generate(self, request: Request) -> AsyncIterator[Event]:
        """The reply, piece by piece as it arrives, then Finish, then nothing.

        The host cancels the task that iterates; whatever was opened upstream must be closed by then
        (`async with`, `finally`), before the first byte and in the middle of a stream alike.

        Raises:
            AdapterError: whatever the provider or the network did.
        """

    def tell_of_models(self, tell: TellOfModel) -> None:
        """Where an engine says what happens to its models; called before `load`. Others have none."""
        return

    async def close(self) -> None:
        """Gives back what `load` opened. Called once, when no request is running."""
        return

"""What a client says, as types: JSON text in, requests out. No I/O, no state; the answers are replies.py's.

`parse` never raises. What it returns is a request, or Broken: a request of a known type whose fields break
the protocol (it gets its own acknowledgement and terminal message), or Unreadable: text that cannot be
attributed to anything and is answered with `error`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from supervisor.errors import Failure
from workers.codes import Code

__all__ = [
    "ROLES",
    "Address",
    "Broken",
    "Called",
    "ChatMessage",
    "Close",
    "FunctionCall",
    "Generate",
    "GetModels",
    "GetProviders",
    "Incoming",
    "Interrupt",
    "Kind",
    "Load",
    "Params",
    "Parsed",
    "Part",
    "RequestId",
    "Status",
    "Unreadable",
    "parse",
    "request_id",
]

ID_MAX_CHARS: Final = 256
"""An id comes back on every chunk; a longer one would be an amplifier, and no library makes such."""
ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function")
UNREADABLE_SHOWN_CHARS: Final = 40
NESTING_MAX: Final = 64
"""Of what is passed on as it is; a JSON schema needs ten, and Python's own encoder ends at some 900."""
MISSING: Final = Raw(b"")
"""A field that may be anything and is not there (msgspec has no union with Raw)."""

T = TypeVar("T")


class Kind(str, enum.Enum):
    """The `type` of a request."""

    LOAD = "load"
    GENERATE = "generate"
    INTERRUPT = "interrupt"
    CLOSE = "close"
    GET_PROVIDERS = "get_providers"
    GET_MODELS = "get_models"
    STATUS = "status"


class Part(msgspec.Struct, frozen=True):
    """One part of a message's content, in the OpenAI shape."""

    type: str
    text: str | None = None


class FunctionCall(msgspec.Struct, frozen=True):
    """What is called, and with what: JSON text, or the object itself, as some models' own forms have it."""

    name: str
    arguments: str | dict[str, Any] | None = None


class Called(msgspec.Struct, frozen=True):
    """A call of a tool, in the OpenAI shape."""

    id: str
    function: FunctionCall
    type: str | None = None


class ChatMessage(msgspec.Struct, frozen=True):
    """One message of a prompt."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[Called] | None = None
    tool_call_id: str | None = None
    function_call: FunctionCall | None = None
    """The one call that an assistant could make before there were `tool_calls`."""


class Params(msgspec.Struct, frozen=True):
    """How to generate; every one may be missing or null."""

    model_id: str | None = None
    character_name: str | None = None
    temperature: float | None = None
    max_output_length: int | None = None
    stop_tokens: list[str | int] | None = None
    timeout_ms: int | UnsetType | None = UNSET
    first_token_timeout_ms: int | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    reasoning_effort: str | None = None
    extra: dict[str, Any] | None = None


class Load(msgspec.Struct, frozen=True):
    """Make a provider ready for this connection."""

    llm: str | None = None
    provider: str | None = None
    api_key: str | None = None
    preload_model_id: str | None = None
    base_url: str | None = None
    options: dict[str, Any] | None = None
    verify: bool | None = None
    progress: bool | None = None

    @property
    def name(self) -> str:
        """The provider that is meant: `provider` wins."""
        return self.provider if self.provider is not None else self.llm or ""

    def __repr__(self) -> str:
        return f"Load({self.name!r}, api_key={'***' if self.api_key else None})"


class Generate(msgspec.Struct, frozen=True):
    """Generate a reply."""

    messages: list[ChatMessage] = []
    params: Params | None = None
    stream: bool | None = None
    llm: str | None = None
    provider: str | None = None
    sentences: bool | None = None
    chunks: bool | None = None
    reasoning: bool | None = None
    tool_deltas: bool | None = None
    fallback: list[Any] | None = None
    supersedes: Raw = MISSING


class Interrupt(msgspec.Struct, frozen=True):
    """End all generations of this connection, or the one that is named."""

    target_request_id: Raw = MISSING


class Close(msgspec.Struct, frozen=True):
    """End the module."""


class GetProviders(msgspec.Struct, frozen=True):
    """Which providers there are."""

    detail: bool | None = None


class GetModels(msgspec.Struct, frozen=True):
    """Which models the current provider, or the named one, has."""

    llm: str | None = None
    provider: str | None = None


class Status(msgspec.Struct, frozen=True):
    """How the module and its workers are."""


_BODIES: Final[dict[Kind, type[msgspec.Struct]]] = {
    Kind.LOAD: Load,
    Kind.GENERATE: Generate,
    Kind.INTERRUPT: Interrupt,
    Kind.CLOSE: Close,
    Kind.GET_PROVIDERS: GetProviders,
    Kind.GET_MODELS: GetModels,
    Kind.STATUS: Status,
}


@dataclass(frozen=True, slots=True)
class RequestId:
    """A client's id: the bytes to echo, and a key under which equal ids are equal (1, 1.0 and 1e0 are)."""

    raw: bytes
    key: str | float

    def __str__(self) -> str:
        return self.raw.decode()


@dataclass(frozen=True, slots=True)
class Address:
    """Where a reply goes: the id and the provider's name and field exactly as the request had them."""

    id: RequestId | None = None
    llm: str | None = None
    provider: str | None = None

    @property
    def raw_id(self) -> Raw | UnsetType:
        """The id as it is echoed, or nothing."""
        return UNSET if self.id is None else Raw(self.id.raw)


Body = TypeVar("Body", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Incoming(Generic[Body]):
    """A request that follows the protocol."""

    kind: Kind
    address: Address
    body: Body


@dataclass(frozen=True, slots=True)
class Broken:
    """A request of a known type that breaks the protocol in one of its fields."""

    kind: Kind
    address: Address
    stream: bool
    failure: Failure


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Text that is no request at all."""

    failure: Failure
    address: Address = Address()


Parsed: TypeAlias = "Incoming[Any] | Broken | Unreadable"


class _Envelope(msgspec.Struct, frozen=True):
    """What is read first, so that a request which breaks the protocol can still be answered by its id."""

    type: Raw = MISSING
    unique_request_id: Raw = MISSING
    stream: Raw = MISSING
    llm: Raw = MISSING
    provider: Raw = MISSING


_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)
_DECODERS: Final = {kind: msgspec.json.Decoder(body, strict=False) for kind, body in _BODIES.items()}
_STRING: Final = msgspec.json.Decoder(str)
_TRUE: Final = (b"true", b'"true"', b"1", b'"1"')
"""What the lax decoder takes for true, as far as clients send it."""


def parse(text: str | bytes) -> Parsed:
    """Reads one frame of a client. Lone surrogates become U+FFFD; NaN, Infinity and non-objects are refused.

    Integral floats are integers (Godot sends every number as a float); unknown fields are ignored.
    """
    if isinstance(text, str):
        # by way of UTF-16, in which two halves of a pair are one character and a lone half is an error
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
    try:
        text.decode("utf-8")  # the decoder does not look into what it skips or keeps raw
        envelope = _decode(_ENVELOPE, text)
    except UnicodeDecodeError:
        return _unreadable("The message is not UTF-8.")
    except (msgspec.MsgspecError, RecursionError):
        return _unreadable("The message is not a JSON object.")
    kind = _kind(envelope.type)
    if isinstance(kind, Unreadable):
        return kind
    return _request(kind, envelope, _repaired(text))


def _request(kind: Kind, envelope: _Envelope, data: bytes) -> Parsed:
    stream = bytes(envelope.stream) in _TRUE
    names = {"llm": _string_or_none(envelope.llm), "provider": _string_or_none(envelope.provider)}
    try:
        address = Address(request_id(envelope.unique_request_id, "unique_request_id"), **names)
    except ValueError as exc:
        return Broken(kind, Address(None, **names), stream, _broken(str(exc)))
    try:
        body = _DECODERS[kind].decode(data)
        _check(body)
    except msgspec.ValidationError as exc:
        return Broken(kind, address, stream, _broken(_sentence(str(exc))))
    except (ValueError, RecursionError) as exc:
        return Broken(kind, address, stream, _broken(str(exc) or "The message is nested too deeply."))
    return Incoming(kind, address, body)


def _decode(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    """Decodes, and once more without lone surrogates if that is what was wrong."""
    try:
        return decoder.decode(data)
    except msgspec.DecodeError:
        repaired = _repaired(data)
        if repaired == data:
            raise
        return decoder.decode(repaired)


_ESCAPE: Final = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_REPLACEMENT: Final = rb"\ufffd"


def _repaired(data: bytes) -> bytes:
    """`data` with every escape of half a surrogate pair replaced by U+FFFD (Node slices emoji in two)."""
    if b"\\ud" not in data and b"\\uD" not in data:
        return data
    pieces: list[bytes] = []
    copied = 0
    high: re.Match[bytes] | None = None
    for match in _ESCAPE.finditer(data):
        unit = int(match[1], 16) if match[1] else 0
        if high is not None and high.end() == match.start() and 0xDC00 <= unit <= 0xDFFF:
            high = None
            continue
        lone = high
        high = match if 0xD800 <= unit <= 0xDBFF else None
        for half in (lone, match if 0xDC00 <= unit <= 0xDFFF else None):
            if half is not None:
                pieces += (data[copied : half.start()], _REPLACEMENT)
                copied = half.end()
    if high is not None:
        pieces += (data[copied : high.start()], _REPLACEMENT)
        copied = high.end()
    return b"".join((*pieces, data[copied:]))


def _kind(raw: Raw) -> Kind | Unreadable:
    name = _string_or_none(raw)
    if name is None:
        return _unreadable("The message has no type.")
    try:
        return Kind(name)
    except ValueError:
        shown = name[:UNREADABLE_SHOWN_CHARS]
        return _unreadable(f"Unknown type {shown!r}; known are {', '.join(kind.value for kind in Kind)}.")


def request_id(raw: Raw, field: str) -> RequestId | None:
    """The id in a raw JSON value, or None for a missing one.

    Raises:
        ValueError: it is neither a string nor a number, or too long.
    """
    data = bytes(raw)
    if data in (b"", b"null"):
        return None
    if len(data) > ID_MAX_CHARS:
        raise ValueError(f"{field} is longer than {ID_MAX_CHARS} characters.")
    try:
        value = msgspec.json.decode(_repaired(data))
    except msgspec.DecodeError as exc:
        raise ValueError(f"{field} is out of range.") from exc
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{field} must be a string or a number.")
    return RequestId(data, value)


def _string_or_none(raw: Raw) -> str | None:
    try:
        return _STRING.decode(_repaired(bytes(raw)))
    except msgspec.MsgspecError:
        return None


def _check(body: msgspec.Struct) -> None:
    if isinstance(body, Load):
        _check_load(body)
    elif isinstance(body, Generate):
        _check_generate(body)


def _check_load(body: Load) -> None:
    if body.llm is not None and body.provider is not None and body.llm != body.provider:
        raise ValueError("llm and provider name two different providers.")
    if not body.name:
        raise ValueError("load must name a provider, in provider or in llm.")
    _check_nesting("options", body.options)


def _check_generate(body: Generate) -> None:
    if not body.messages:
        raise ValueError("messages must hold at least one message.")
    for index, message in enumerate(body.messages):
        if message.role not in ROLES:
            raise ValueError(f"messages[{index}].role must be one of {', '.join(ROLES)}.")
        _check_tool_message(f"messages[{index}]", message)
    params = body.params or Params()
    for field in ("max_output_length", "timeout_ms", "first_token_timeout_ms"):
        value = getattr(params, field)
        if isinstance(value, int) and value < 1:
            raise ValueError(f"params.{field} must be at least 1.")
    _check_nesting("params.extra", params.extra)
    _check_nesting("params.response_format", params.response_format)
    _check_nesting("params.tools", params.tools)
    _check_nesting("params.tool_choice", params.tool_choice)


def _check_tool_message(where: str, message: ChatMessage) -> None:
    if message.role == "tool" and not message.tool_call_id:
        raise ValueError(f"{where}.tool_call_id is missing: it names the call that the tool answers.")
    if message.role == "function" and not message.name:
        raise ValueError(f"{where}.name is missing: it names the function that answers.")
    if (message.tool_calls or message.function_call) and message.role != "assistant":
        raise ValueError(f"{where} is of role {message.role}; only an assistant calls tools.")
    for number, call in enumerate(message.tool_calls or ()):
        place = f"{where}.tool_calls[{number}]"
        if not (call.id and call.function.name):
            raise ValueError(f"{place} needs an id and the name of a function.")
        if call.type not in (None, "function"):
            raise ValueError(f"{place}.type must be function.")
        _check_nesting(f"{place}.function.arguments", call.function.arguments)


def _check_nesting(field: str, value: object) -> None:
    level = [value]
    for _ in range(NESTING_MAX):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise ValueError(f"{field} is nested more than {NESTING_MAX} levels deep.")


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _sentence(error: str) -> str:
    """msgspec's "Expected `str`, got `int` - at `$.messages[1].content`" as our sentence."""
    what, _, where = error.partition(" - at ")
    path = where.strip("`").removeprefix("$").removeprefix(".")
    return f"{path or 'message'}: {what[:1].lower()}{what[1:]}."


def _broken(message: str) -> Failure:
    return Failure(Code.INVALID_REQUEST, message)


def _unreadable(message: str) -> Unreadable:
    return Unreadable(Failure(Code.INVALID_REQUEST, message))

"""What one client may do now, and which replies it is owed. Pure: inputs in, replies and commands out.

It knows no socket, process or clock. Whoever owns it feeds it what the client said (`receive`) and what
became of its commands (`load_ended`, `chunk`, `call_part`, `generation_ended`, …), sends the replies in the
order in which they come out, and carries out the commands.

Invariants, held by tests/supervisor/test_session.py over random histories:
 1. Every request that can be understood gets its acknowledgement at once, then exactly one terminal message.
 2. Nothing with a request's id follows its terminal message, until the client uses the id anew.
 3. After `interrupt_ack` no chunk of what it ended is sent, of text or of a call of a tool; its terminal
    message says INTERRUPT.
 4. An accepted generation is ended by one `generation_ended`; later news of it is ignored.
 5. Loads take effect in order, one at a time; a failed load leaves no current provider.
 6. After `disconnect` nothing comes out.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec import UNSET, Raw

from supervisor.calls import Calls, piece_message
from supervisor.commands import (
    AskProviders,
    AskStatus,
    CallPart,
    CancelLoad,
    CloseModule,
    EndGeneration,
    LoadResult,
    Outcome,
    Output,
    StartGeneration,
    StartLoad,
)
from supervisor.errors import BUG_MESSAGE, Failure
from supervisor.jobs import Job, Limits, make_job, unsupported
from supervisor.messages import (
    Address,
    Broken,
    Close,
    Generate,
    GetModels,
    GetProviders,
    Incoming,
    Interrupt,
    Kind,
    Load,
    Parsed,
    RequestId,
    Status,
    Unreadable,
    request_id,
)
from supervisor.providers import Catalog, Provider
from supervisor.replies import (
    ChunkEncoder,
    CloseAck,
    Dialect,
    ErrorReply,
    GenerateAck,
    GenerateDone,
    GenerateStreamDone,
    GetModelsDone,
    GetProvidersDone,
    InterruptAck,
    LoadAck,
    LoadDone,
    LoadProgress,
    Reply,
    StatusDone,
    failed,
    named,
    succeeded,
)
from workers.codes import Code

__all__ = ["Session", "State"]

ALL: Final = "*"
"""`supersedes: "*"` ends every open generation of the connection."""


class State(enum.Enum):
    """Of a session; it only moves downwards."""

    OPEN = "open"
    CLOSING = "closing"
    GONE = "gone"


@dataclass(slots=True)
class _Generation:
    address: Address
    stream: bool
    encoder: ChunkEncoder
    tool_deltas: bool = False
    """Whether pieces of calls were asked for."""
    interrupted: bool = False
    pieces: list[str] = field(default_factory=list)
    calls: Calls = field(default_factory=Calls)


@dataclass(frozen=True, slots=True)
class _PendingLoad:
    """A load that waits for its turn; one that cannot succeed waits too, since loads take effect in order."""

    ticket: int
    address: Address
    provider: Provider | Failure
    request: Load


@dataclass(frozen=True, slots=True)
class _Loaded:
    models: tuple[str, ...]
    preload_model: str | None


class Session:
    """One client's side of the protocol.

    Args:
        catalog: the providers that can be loaded.
        limits: bounds and defaults of requests.
        numbers: request numbers, never the same twice in one process.
        may_close: whether this client may end the module.
    """

    def __init__(
        self, catalog: Catalog, limits: Limits, numbers: Iterator[int], *, may_close: bool = True
    ) -> None:
        self._may_close = may_close
        self._catalog = catalog
        self._limits = limits
        self._numbers = numbers
        self._state = State.OPEN
        self._dialect = Dialect.SEED
        self._dialect_fixed = False
        self._current: str | None = None
        self._loaded: dict[str, _Loaded] = {}
        self._loads: deque[_PendingLoad] = deque()
        self._generations: dict[int, _Generation] = {}
        self._questions: dict[int, Address] = {}

    # ---- what the client said

    def receive(self, parsed: Parsed) -> list[Output]:
        """Everything that one message of the client causes, in order."""
        if self._state is State.GONE:
            return []
        if isinstance(parsed, Unreadable):
            return [ErrorReply(**failed(parsed.failure, self._dialect))]
        self._learn_dialect(parsed)
        address = parsed.address
        if isinstance(parsed, Broken):
            if parsed.kind is Kind.LOAD and self._state is State.OPEN:
                return self._enqueue(address, parsed.failure, Load())
            return self._refused(parsed.kind, address, parsed.failure, stream=parsed.stream)
        stream = isinstance(parsed.body, Generate) and bool(parsed.body.stream)
        if self._state is State.CLOSING and parsed.kind is not Kind.CLOSE:
            gone = Failure(Code.SHUTTING_DOWN, "The module is closing.")
            return self._refused(parsed.kind, address, gone, stream=stream)
        return self._accepted(parsed)

    def bug(self) -> list[Output]:
        """What a client is told when one of its messages met a bug of ours."""
        return [ErrorReply(**failed(Failure(Code.UNEXPECTED, BUG_MESSAGE), self._dialect))]

    def _accepted(self, parsed: Incoming[Any]) -> list[Output]:
        address = parsed.address
        match parsed.body:
            case Load() as load:
                return self._load(address, load)
            case Generate() as generate:
                return self._generate(address, generate)
            case Interrupt() as interrupt:
                return self._interrupt(address, interrupt)
            case Close():
                return self._close(address)
            case GetProviders() as question:
                return self._get_providers(address, question)
            case GetModels() as question:
                return self._get_models(address, question)
            case Status():
                return [AskStatus(self._ask(address))]
            case body:
                raise AssertionError(f"no rule for {type(body).__name__}")

    def _learn_dialect(self, parsed: Incoming[Any] | Broken) -> None:
        """The first load fixes the dialect; until then, what only the SDK's client sends decides."""
        if self._dialect_fixed:
            return
        address = parsed.address
        if parsed.kind is Kind.LOAD and (address.llm, address.provider) != (None, None):
            self._dialect_fixed = True
            self._dialect = Dialect.SEED if address.provider is None else Dialect.SDK
            return
        question = parsed.kind in (Kind.GET_PROVIDERS, Kind.GET_MODELS)
        if question or (parsed.kind is not Kind.GENERATE and address.id is not None):
            self._dialect = Dialect.SDK

    def _refused(
        self, kind: Kind, address: Address, failure: Failure, *, stream: bool = False
    ) -> list[Output]:
        """The acknowledgement and the terminal message of a request that is not carried out."""
        if kind in (Kind.LOAD, Kind.GENERATE) and self._is_open(address.id):
            return [self._duplicate(address)]
        fields = {**_id(address), **failed(failure, self._dialect)}
        match kind:
            case Kind.LOAD:
                to = named(address)
                return [LoadAck(**to), LoadDone(**{**fields, **to})]
            case Kind.GENERATE:
                ended = self._terminal(_Generation(address, stream, ChunkEncoder(address)), Outcome(failure))
                return [GenerateAck(**_id(address)), ended]
            case Kind.INTERRUPT:
                return [InterruptAck(**fields, interrupted=[])]
            case Kind.CLOSE:
                return [CloseAck(**fields)]
            case Kind.GET_PROVIDERS:
                return [GetProvidersDone(**fields, providers=[])]
            case Kind.GET_MODELS:
                return [GetModelsDone(**fields, models=[])]
            case Kind.STATUS:
                return [StatusDone(**fields)]

    # ---- load

    def _load(self, address: Address, load: Load) -> list[Output]:
        provider = self._catalog.find(load.name)
        return self._enqueue(address, provider or self._no_provider(load.name), load)

    def _enqueue(self, address: Address, provider: Provider | Failure, load: Load) -> list[Output]:
        if self._is_open(address.id):
            return [self._duplicate(address)]
        if len(self._loads) >= self._limits.loads:
            busy = Failure(Code.BUSY, f"{len(self._loads)} loads of this connection are already waiting.")
            return self._refused(Kind.LOAD, address, busy)
        self._loads.append(_PendingLoad(next(self._numbers), address, provider, load))
        acknowledged: list[Output] = [LoadAck(**named(address))]
        return acknowledged + (self._next_load() if len(self._loads) == 1 else [])

    def _next_load(self) -> list[Output]:
        """Starts the first waiting load that can succeed; those before it fail in their turn."""
        outputs: list[Output] = []
        while self._loads:
            first = self._loads[0]
            if isinstance(first.provider, Provider):
                return [*outputs, StartLoad(first.ticket, first.provider, first.request)]
            self._loads.popleft()
            self._current = None
            outputs.append(LoadDone(**named(first.address), **failed(first.provider, self._dialect)))
        return outputs

    def load_progress(self, ticket: int, phase: str, message: str, fraction: float | None) -> list[Output]:
        """How far the running load is; sent only to a client that asked for it."""
        if not self._loads or self._loads[0].ticket != ticket or not self._loads[0].request.progress:
            return []
        to = named(self._loads[0].address)
        return [LoadProgress(**to, phase=phase, message=message, fraction=fraction)]

    def load_ended(self, ticket: int, result: LoadResult | Failure) -> list[Output]:
        """The running load succeeded or failed; the next one is started."""
        if not self._loads or self._loads[0].ticket != ticket:
            return []
        pending = self._loads.popleft()
        provider = pending.provider
        if isinstance(provider, Failure):
            raise AssertionError("a load without a provider is never started")
        if isinstance(result, Failure):
            done = self._load_failed(pending.address, provider, result)
        else:
            done = self._load_succeeded(pending, provider, result)
        return [done, *self._next_load()]

    def _load_succeeded(self, pending: _PendingLoad, provider: Provider, result: LoadResult) -> Reply:
        before = self._loaded.get(provider.id)
        preload = pending.request.preload_model_id or (before.preload_model if before is not None else None)
        self._current = provider.id
        self._loaded[provider.id] = _Loaded(tuple(result.models), preload)
        return LoadDone(
            **named(pending.address),
            **succeeded(self._dialect),
            models_count=len(result.models),
            timings_ms=result.timings_ms,
            warnings=result.warnings or UNSET,
        )

    def _load_failed(self, address: Address, provider: Provider, failure: Failure) -> Reply:
        self._current = None
        self._loaded.pop(provider.id, None)
        return LoadDone(**named(address), **failed(failure, self._dialect))

    # ---- generate

    def _generate(self, address: Address, request: Generate) -> list[Output]:
        try:
            superseded = self._superseded(request)
        except ValueError as exc:
            failure = Failure(Code.INVALID_REQUEST, str(exc))
            return self._refused(Kind.GENERATE, address, failure, stream=bool(request.stream))
        if self._is_open(address.id, except_for=superseded):
            return [self._duplicate(address)]
        admitted = self._admit(request, len(superseded))
        if isinstance(admitted, Failure):
            return self._refused(Kind.GENERATE, address, admitted, stream=bool(request.stream))
        provider, job = admitted
        outputs = self._settle(superseded)
        number = next(self._numbers)
        stream, deltas = bool(request.stream), bool(request.tool_deltas)
        self._generations[number] = _Generation(address, stream, ChunkEncoder(address), deltas)
        return [*outputs, GenerateAck(**_id(address)), StartGeneration(number, provider.id, job)]

    def _admit(self, request: Generate, freed: int) -> tuple[Provider, Job] | Failure:
        """The provider and the work of a request, or why it cannot be carried out."""
        provider = self._provider_for(request)
        if isinstance(provider, Failure):
            return provider
        model = self._model(provider, request)
        if isinstance(model, Failure):
            return model
        if len(self._generations) - freed >= self._limits.generations:
            return Failure(Code.BUSY, f"{len(self._generations)} generations of this connection are open.")
        job = unsupported(request) or make_job(request, model, self._limits)
        return job if isinstance(job, Failure) else (provider, job)

    def _provider_for(self, request: Generate) -> Provider | Failure:
        name = request.provider if request.provider is not None else request.llm
        if name is None:
            if self._current is None:
                return Failure(Code.NOT_LOADED, "No provider is loaded; send load and wait for load_done.")
            return self._catalog.providers[self._current]
        provider = self._catalog.find(name)
        if provider is None:
            return self._no_provider(name)
        if provider.id not in self._loaded:
            return Failure(
                Code.NOT_LOADED, f"{provider.name} is not loaded on this connection; load it first."
            )
        return provider

    def _model(self, provider: Provider, request: Generate) -> str | Failure:
        """The named model, else the preloaded one, else the provider's default, else the only one it has."""
        asked = request.params.model_id if request.params is not None else None
        loaded = self._loaded[provider.id]
        model = asked or loaded.preload_model or provider.default_model
        if model is None and len(loaded.models) == 1:
            model = loaded.models[0]
        if model is None:
            return Failure(
                Code.INVALID_MODEL,
                f"{provider.name} has no default model; name one in model_id (get_models lists them).",
            )
        return model

    def _superseded(self, request: Generate) -> list[int]:
        """The open generations that this one replaces."""
        target = request_id(request.supersedes, "supersedes")
        if target is None:
            return []
        if target.key == ALL:
            return list(self._generations)
        return [n for n, g in self._generations.items() if g.address.id and g.address.id.key == target.key]

    def _settle(self, numbers: Sequence[int]) -> list[Output]:
        """Ends generations with INTERRUPT here and now; what their workers still say is ignored."""
        outputs: list[Output] = []
        for number in numbers:
            generation = self._generations.pop(number)
            outputs += (self._terminal(generation, Outcome(_INTERRUPTED)), EndGeneration(number))
        return outputs

    def chunk(self, number: int, text: str) -> bytes | None:
        """The message for a piece of text, or None when none is owed (not streamed, or ended)."""
        generation = self._generations.get(number)
        if generation is None or generation.interrupted:
            return None
        if generation.stream:
            return generation.encoder.encode(text)
        generation.pieces.append(text)
        return None

    def call_part(self, number: int, part: CallPart) -> list[Output]:
        """What a client is told of a piece of a call: those who asked for it, where the reply is streamed."""
        generation = self._generations.get(number)
        if generation is None or generation.interrupted:
            return []
        generation.calls.take(part)
        if generation.stream and generation.tool_deltas:
            return [piece_message(generation.address, part)]
        return []

    def generation_ended(self, number: int, outcome: Outcome) -> list[Output]:
        """A generation is over; whatever else is said of it later is ignored."""
        generation = self._generations.pop(number, None)
        if generation is None:
            return []
        return [self._terminal(generation, outcome)]

    def _terminal(self, generation: _Generation, outcome: Outcome) -> Reply:
        failure = _INTERRUPTED if generation.interrupted else outcome.failure
        fields: dict[str, Any] = {
            **_id(generation.address),
            **(failed(failure, self._dialect) if failure is not None else succeeded(self._dialect)),
            "finish_reason": outcome.finish_reason
            if failure is None
            else _REASONS.get(failure.code, "error"),
            **_facts(outcome),
        }
        if failure is None and (calls := generation.calls.whole()):  # half a call must not be carried out
            fields["tool_calls"] = calls
        if generation.stream:
            return GenerateStreamDone(**fields)
        text = "".join(generation.pieces)
        if failure is None:
            return GenerateDone(**fields, response=text)
        nothing = None if self._dialect is Dialect.SEED else ""
        return GenerateDone(**fields, response=nothing, partial_response=text)

    # ---- interrupt, close, going away

    def _interrupt(self, address: Address, request: Interrupt) -> list[Output]:
        try:
            target = request_id(request.target_request_id, "target_request_id")
        except ValueError as exc:
            return self._refused(Kind.INTERRUPT, address, Failure(Code.INVALID_REQUEST, str(exc)))
        numbers = [
            number
            for number, generation in self._generations.items()
            if not generation.interrupted and _is(generation.address, target)
        ]
        ids = [Raw(g.address.id.raw) for n in numbers if (g := self._generations[n]).address.id is not None]
        ack = InterruptAck(**_id(address), **succeeded(self._dialect), interrupted=ids)
        return [ack, *self._end(numbers)]

    def _end(self, numbers: Sequence[int]) -> list[Output]:
        """Marks generations as interrupted; their terminal messages follow when the workers have let go."""
        for number in numbers:
            self._generations[number].interrupted = True
        return [EndGeneration(number) for number in numbers]

    def _close(self, address: Address) -> list[Output]:
        if not self._may_close:
            refusal = Failure(Code.AUTHORIZATION, "Only a client on the module's own machine may close it.")
            return self._refused(Kind.CLOSE, address, refusal)
        return [CloseAck(**_id(address), **succeeded(self._dialect)), *self.close(), CloseModule()]

    def close(self) -> list[Output]:
        """The module is closing: open work ends with INTERRUPT, requests from now on with SHUTTING_DOWN."""
        if self._state is not State.OPEN:
            return []
        self._state = State.CLOSING
        outputs: list[Output] = [CancelLoad(self._loads[0].ticket)] if self._loads else []
        interrupted = failed(_INTERRUPTED, self._dialect)
        outputs += [LoadDone(**named(pending.address), **interrupted) for pending in self._loads]
        self._loads.clear()
        return outputs + self._end([n for n, g in self._generations.items() if not g.interrupted])

    def disconnect(self) -> list[Output]:
        """The client is gone: commands that end its work. Nothing comes out afterwards."""
        if self._state is State.GONE:
            return []
        self._state = State.GONE
        outputs: list[Output] = [CancelLoad(self._loads[0].ticket)] if self._loads else []
        outputs += [EndGeneration(number) for number in self._generations]
        self._loads.clear()
        self._generations.clear()
        self._questions.clear()
        self._loaded.clear()
        return outputs

    @property
    def settled(self) -> bool:
        """Whether no request is owed anything any more."""
        return not (self._generations or self._loads or self._questions)

    # ---- questions

    def _get_providers(self, address: Address, question: GetProviders) -> list[Output]:
        if question.detail:
            return [AskProviders(self._ask(address))]
        return [GetProvidersDone(**_id(address), providers=list(self._catalog.providers))]

    def _get_models(self, address: Address, question: GetModels) -> list[Output]:
        """From what the load learned; nothing is asked upstream."""
        name = question.provider if question.provider is not None else question.llm
        provider = self._current
        if name is not None:
            found = self._catalog.find(name)
            provider = found.id if found is not None else None
        loaded = self._loaded.get(provider) if provider is not None else None
        return [GetModelsDone(**_id(address), models=list(loaded.models) if loaded is not None else [])]

    def _ask(self, address: Address) -> int:
        ticket = next(self._numbers)
        self._questions[ticket] = address
        return ticket

    def providers(self, ticket: int, details: Mapping[str, Mapping[str, Any]]) -> list[Output]:
        """The answer to AskProviders; what this client has loaded is added here."""
        address = self._questions.pop(ticket, None)
        if address is None:
            return []
        full = {name: {**detail, "loaded": name in self._loaded} for name, detail in details.items()}
        return [GetProvidersDone(**_id(address), providers=list(self._catalog.providers), details=full)]

    def status(self, ticket: int, report: Mapping[str, Any]) -> list[Output]:
        """The answer to AskStatus."""
        address = self._questions.pop(ticket, None)
        return [] if address is None else [StatusDone(**_id(address), **report)]

    # ---- small things

    def _is_open(self, identifier: RequestId | None, *, except_for: Sequence[int] = ()) -> bool:
        """Whether an open load or generation has that id; requests without one cannot be told apart."""
        if identifier is None:
            return False
        open_requests = [g.address for number, g in self._generations.items() if number not in except_for]
        open_requests += [load.address for load in self._loads]
        return any(_is(address, identifier) for address in open_requests)

    def _duplicate(self, address: Address) -> Reply:
        failure = Failure(
            Code.DUPLICATE_ID, "This unique_request_id is in use by an open request; use a new one."
        )
        return ErrorReply(**_id(address), **failed(failure, self._dialect))

    def _no_provider(self, name: str) -> Failure:
        near = self._catalog.nearest(name)
        hint = f" Did you mean {' or '.join(near)}?" if near else " get_providers lists those there are."
        return Failure(Code.INVALID_PROVIDER, f"There is no provider named {name[:SHOWN_CHARS]!r}.{hint}")


SHOWN_CHARS: Final = 64
"""How much of a name that a client made up is shown back to it."""
_INTERRUPTED: Final = Failure(Code.INTERRUPT, "The request was interrupted.")
_REASONS: Final = {
    Code.INTERRUPT: "interrupt",
    Code.TIMEOUT: "timeout",
    Code.CONTENT_FILTERED: "content_filter",
}


def _id(address: Address) -> dict[str, Any]:
    return {"unique_request_id": address.raw_id}


def _is(address: Address, target: RequestId | None) -> bool:
    return target is None or (address.id is not None and address.id.key == target.key)


def _facts(outcome: Outcome) -> dict[str, Any]:
    """The optional fields of a terminal message: those that are known."""
    facts: dict[str, Any] = {
        "model": outcome.model,
        "usage": outcome.usage or None,
        "warnings": outcome.warnings or None,
        "retries": outcome.retries or None,
        "upstream_closed_ms": outcome.upstream_closed_ms,
        "timings_ms": outcome.timings_ms or None,
    }
    return {name: value for name, value in facts.items() if value is not None}

"""One client: joins its session to its connection and to the pool.

What the connection reads goes into the session; what comes out is sent or carried out here. It also keeps
what must not be shared between clients: the bindings, and how much of each stream the client has taken.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Protocol

from supervisor.bindings import Binding
from supervisor.commands import (
    AskProviders,
    AskStatus,
    CallPart,
    CancelLoad,
    CloseModule,
    EndGeneration,
    Outcome,
    Output,
    StartGeneration,
    StartLoad,
)
from supervisor.config import Settings
from supervisor.credentials import binding_for
from supervisor.errors import Failure, failure_of
from supervisor.logs import register_secret
from supervisor.messages import parse
from supervisor.pool import LoadOptions, Pool
from supervisor.replies import encode
from supervisor.session import Session
from workers.codes import Code

__all__ = ["Client", "Module", "Outbox"]

log = logging.getLogger(__name__)

CREDIT_STEP_CHARS: Final = 64 << 10
"""Credit goes back to the worker in steps of this size: four frames for a whole credit, not one per chunk."""
PROGRESS_INTERVAL_S: Final = 0.1
"""At most ten progress messages a second."""


class Outbox(Protocol):
    """The connection, as far as a client needs it."""

    def send(self, message: bytes) -> None:
        """Sends one text message."""


class Module(Protocol):
    """What a client may ask of the whole module."""

    def close(self) -> None:
        """End it."""

    async def status(self) -> Mapping[str, Any]:
        """The fields of `status_done`."""

    def provider_details(self) -> Mapping[str, Mapping[str, Any]]:
        """Details of every provider."""

    def ended(self, provider: str, outcome: Outcome) -> None:
        """Count the end of a generation."""


class Client:
    """One client's requests, from its messages to its replies."""

    def __init__(
        self,
        outbox: Outbox,
        session: Session,
        pool: Pool,
        settings: Settings,
        module: Module,
        numbers: Iterator[int],
        on_gone: Callable[[Client], None],
    ) -> None:
        self._outbox = outbox
        self._session = session
        self._pool = pool
        self._settings = settings
        self._module = module
        self._numbers = numbers
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._bindings: dict[str, Binding] = {}
        self._providers: dict[int, str] = {}
        """Open generation → the provider that carries it out."""
        self._untaken: dict[int, int] = {}
        self._due: set[int] = set()
        self._load: asyncio.Task[None] | None = None
        self._questions: set[asyncio.Task[None]] = set()
        self._last_progress = float("-inf")
        self._late_progress: asyncio.TimerHandle | None = None

    # ---- from the connection

    def message(self, text: bytes) -> None:
        """A message of the client."""
        try:
            self._carry_out(self._session.receive(parse(text)))
        except Exception:  # the boundary of one client's message: a bug of ours must not end the connection
            log.exception("message not handled")
            self._carry_out(self._session.bug())

    def drained(self) -> None:
        """The socket took everything: the streams that wait for credit get it."""
        for number in self._due:
            self._give_credit(number)
        self._due.clear()

    def gone(self) -> None:
        """The connection is over: whatever was open ends, and the keys are forgotten."""
        self._carry_out(self._session.disconnect())
        for provider, binding in self._bindings.items():
            self._pool.unload(provider, binding.id)
        self._bindings.clear()
        for task in self._questions:
            task.cancel()
        if self._late_progress is not None:
            self._late_progress.cancel()
        self._on_gone(self)

    def close(self) -> None:
        """The module is closing."""
        self._carry_out(self._session.close())

    @property
    def settled(self) -> bool:
        """Whether this client is owed nothing any more."""
        return self._session.settled

    # ---- from the pool

    def chunk(self, number: int, text: str) -> None:
        """A piece of a reply."""
        message = self._session.chunk(number, text)
        if message is None:
            return
        self._outbox.send(message)
        if self._owes_credit(number, len(text)):
            self._due.add(number)

    def call_part(self, number: int, part: CallPart) -> None:
        """A piece of a call of a tool. For one that the client is not sent there is credit at once."""
        outputs = self._session.call_part(number, part)
        self._carry_out(outputs)
        if not self._owes_credit(number, len(part.arguments)):
            return
        if outputs:
            self._due.add(number)
        else:
            self._give_credit(number)

    def _owes_credit(self, number: int, chars: int) -> bool:
        """Counts what a worker has sent; whether it is enough to give credit for."""
        untaken = self._untaken[number] + chars
        self._untaken[number] = untaken
        return untaken >= CREDIT_STEP_CHARS

    def _give_credit(self, number: int) -> None:
        self._pool.credit(self._providers[number], number, self._untaken[number])
        self._untaken[number] = 0

    def ended(self, number: int, outcome: Outcome) -> None:
        """The end of a generation."""
        provider = self._providers.pop(number, None)
        self._untaken.pop(number, None)
        self._due.discard(number)
        if provider is not None:
            self._module.ended(provider, outcome)
        self._carry_out(self._session.generation_ended(number, outcome))

    # ---- carrying out

    def _carry_out(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            match output:
                case StartLoad():
                    self._load = asyncio.create_task(self._run_load(output))
                case CancelLoad():
                    self._cancel_load()
                case StartGeneration():
                    self._start_generation(output)
                case EndGeneration(number):
                    self._end_generation(number)
                case AskProviders(ticket):
                    self._carry_out(self._session.providers(ticket, self._module.provider_details()))
                case AskStatus(ticket):
                    self._answer_status(ticket)
                case CloseModule():
                    self._module.close()
                case reply:
                    self._outbox.send(encode(reply))

    def _answer_status(self, ticket: int) -> None:
        async def answer() -> None:
            self._carry_out(self._session.status(ticket, await self._module.status()))

        task = asyncio.create_task(answer())
        self._questions.add(task)
        task.add_done_callback(self._questions.discard)

    async def _run_load(self, command: StartLoad) -> None:
        """One load, to its end; the session starts the next one when it hears of it."""
        provider = command.provider

        def report(phase: str, message: str, fraction: float | None) -> None:
            self._report(command.ticket, phase, message, fraction)

        try:
            before = self._bindings.get(provider.id)
            number = next(self._numbers)
            binding = binding_for(provider, command.request, self._settings, number=number, before=before)
            register_secret(binding.key)
            for setting in provider.settings:
                if setting.secret:
                    register_secret(str(binding.options.get(setting.name) or "") or None)
            options = LoadOptions(
                verify=command.request.verify is not False,
                preload_model=command.request.preload_model_id or None,
            )
            result = await self._pool.load(provider, binding, options, report)
        except Exception as exc:  # the boundary of one client's load: whatever happens, it gets its answer
            failure = failure_of(exc)
            unexpected = exc if failure.code is Code.UNEXPECTED else None
            log.warning(
                "load failed provider=%s code=%s reason=%r",
                provider.id,
                failure.code.name,
                failure.message,
                exc_info=unexpected,
            )
            self._carry_out(self._session.load_ended(command.ticket, failure))
        else:
            self._bindings[provider.id] = binding
            self._carry_out(self._session.load_ended(command.ticket, result))

    def _report(self, ticket: int, phase: str, message: str, fraction: float | None) -> None:
        """Sends progress at most every interval; of what comes in between, the newest is sent at its end."""
        if self._late_progress is not None:
            self._late_progress.cancel()
            self._late_progress = None
        wait_s = self._last_progress + PROGRESS_INTERVAL_S - self._loop.time()
        if wait_s > 0:
            late = (ticket, phase, message, fraction)
            self._late_progress = self._loop.call_later(wait_s, self._report, *late)
            return
        self._last_progress = self._loop.time()
        self._carry_out(self._session.load_progress(ticket, phase, message, fraction))

    def _cancel_load(self) -> None:
        if self._load is not None:
            self._load.cancel()
            self._load = None

    def _start_generation(self, command: StartGeneration) -> None:
        binding = self._bindings[command.provider]
        self._providers[command.number] = command.provider
        self._untaken[command.number] = 0
        self._pool.generate(command.provider, binding.id, command.number, command.job, self)

    def _end_generation(self, number: int) -> None:
        """After a disconnect nothing asks for the end again, so what is known of it goes with `ended`."""
        provider = self._providers.get(number)
        if provider is not None:
            interrupted = Failure(Code.INTERRUPT, "The request was interrupted.")
            self._pool.end(provider, number, interrupted)

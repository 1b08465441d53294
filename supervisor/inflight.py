"""The open requests of one worker, and their deadlines.

A request is entered in `_open` before its frames are written and leaves it in exactly one place, `_settle`:
when its Done frame is read, when the grace after its Cancel is over, or when the worker's death is learned.
Whatever the wire says of it afterwards finds no entry and is dropped. So no request ends twice, and none is
forgotten.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from supervisor.commands import CallPart, Outcome
from supervisor.errors import Failure
from supervisor.jobs import Job
from supervisor.replies import WarningNote
from workers import wire
from workers.codes import Code

__all__ = ["Requests", "Sink", "code_of", "notes_of"]

log = logging.getLogger(__name__)

LET_GO_S: Final = 0.5
"""After Cancel, for the worker's Done; then the client gets its terminal message all the same."""


class Sink(Protocol):
    """Where the news of a generation go."""

    def chunk(self, number: int, text: str) -> None:
        """A piece of visible text."""

    def call_part(self, number: int, part: CallPart) -> None:
        """A piece of a call of a tool."""

    def ended(self, number: int, outcome: Outcome) -> None:
        """The one end."""


class _DoneBody(msgspec.Struct, frozen=True):
    finish_reason: str | None = None
    model: str | None = None
    usage: dict[str, int | None] | None = None
    warnings: tuple[tuple[str, str], ...] = ()
    retries: int = 0
    retry_after_ms: int | None = None
    provider_status: int | None = None
    upstream_closed_ms: int | None = None


@dataclass(slots=True)
class _Open:
    """One request that this worker has. Times are the loop's."""

    sink: Sink
    job: Job
    accepted: float
    started: float
    last_life: float
    first_token: float | None = None
    ending: Failure | None = None
    unpaid_chars: int = 0
    """Sent by the worker and not yet taken by the client."""
    timer: asyncio.TimerHandle | None = None


class Requests:
    """Every generation that one worker has. `write` puts frames on the worker's pipe."""

    def __init__(self, name: str, write: Callable[[Iterable[wire.Down]], None]) -> None:
        self._name = name
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, _Open] = {}
        self._over: Failure | None = None
        self.finished = 0
        self.last_used = self._loop.time()
        """When a request was given to it or ended; the loop's time."""

    def __len__(self) -> int:
        return len(self._open)

    def start(self, number: int, binding: int, job: Job, sink: Sink, *, accepted: float) -> None:
        """Starts a generation; `sink` hears of it from now on, and of its end exactly once.

        `accepted` is the loop's time at which the client asked; its deadline counts from then.
        """
        if self._over is not None:  # the worker died between being ready and this
            sink.ended(number, Outcome(self._over))
            return
        entry = _Open(sink, job, accepted, self._loop.time(), last_life=accepted)
        self._open[number] = entry
        self.last_used = entry.started
        self._write(wire.parts(number, binding, wire.pack_body(dict(job.body))))
        self._watch(number, entry)

    def end(self, number: int, failure: Failure) -> None:
        """Closes the upstream of a generation; its end follows when the worker let go, or after LET_GO_S."""
        entry = self._open.get(number)
        if entry is None or entry.ending is not None:
            return
        entry.ending = failure
        self._write([wire.Cancel(number)])
        self._arm(entry, self._loop.time() + LET_GO_S, self._not_let_go, number)

    def end_all(self, failure: Failure) -> None:
        """The worker is no more: everything that it had is over, and what comes later ends at once."""
        self._over = failure
        for number in list(self._open):
            self._settle(number, Outcome(failure))

    def credit(self, number: int, chars: int) -> None:
        """The client took that much of a streamed reply."""
        entry = self._open.get(number)
        if entry is not None:
            entry.unpaid_chars -= chars
            self._write([wire.Credit(number, chars)])

    # ---- what the worker says

    def chunk(self, frame: wire.Chunk) -> None:
        """A piece of text."""
        entry = self._heard(frame.request, len(frame.text))
        if entry is not None:
            entry.sink.chunk(frame.request, frame.text)

    def call_part(self, frame: wire.CallPart) -> None:
        """A piece of a call of a tool."""
        entry = self._heard(frame.request, len(frame.arguments))
        if entry is not None:
            part = CallPart(frame.index, frame.id, frame.name, frame.arguments)
            entry.sink.call_part(frame.request, part)

    def _heard(self, number: int, chars: int) -> _Open | None:
        """The request that a piece of a reply is for, unless it is over or ending."""
        entry = self._open.get(number)
        if entry is None or entry.ending is not None:
            return None
        now = self._loop.time()
        if entry.first_token is None:
            entry.first_token = now
        entry.last_life = now
        entry.unpaid_chars += chars
        return entry

    def alive(self, frame: wire.Alive) -> None:
        """A sign of life that nobody sees."""
        entry = self._open.get(frame.request)
        if entry is not None:
            entry.last_life = self._loop.time()

    def done(self, frame: wire.Done) -> None:
        """The worker's word that a generation is over.

        Raises:
            WireError: its body has another shape.
        """
        if frame.request not in self._open:
            return
        try:
            body = msgspec.json.decode(frame.body, type=_DoneBody)
        except msgspec.MsgspecError as exc:
            raise wire.WireError(f"Done has a body of another shape: {exc}") from exc
        code = code_of(frame.code)
        failure = None
        if code is not Code.SUCCESS:
            failure = Failure(code, frame.message, body.retry_after_ms, body.provider_status)
        outcome = Outcome(
            failure,
            finish_reason=body.finish_reason or "stop",
            model=body.model,
            usage={name: count for name, count in (body.usage or {}).items() if count is not None},
            warnings=notes_of(body.warnings),
            retries=body.retries,
            upstream_closed_ms=body.upstream_closed_ms,
        )
        self._settle(frame.request, outcome)

    # ---- deadlines

    def _watch(self, number: int, entry: _Open) -> None:
        """Arms the timer for the next moment at which this request could be late."""
        self._arm(entry, self._deadline(entry), self._maybe_late, number)

    def _deadline(self, entry: _Open) -> float:
        job = entry.job
        deadline = (entry.last_life if job.stream else entry.accepted) + job.timeout_s
        if entry.first_token is None and job.first_token_timeout_s is not None:
            deadline = min(deadline, entry.accepted + job.first_token_timeout_s)
        return deadline

    def _arm(self, entry: _Open, when: float, then: Callable[[int], None], number: int) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
        entry.timer = self._loop.call_at(when, then, number)

    def _maybe_late(self, number: int) -> None:
        """The timer looks at what arrived since it was set, instead of being moved by every chunk."""
        entry = self._open[number]
        if entry.job.stream and entry.unpaid_chars >= wire.CREDIT_CHARS:
            entry.last_life = self._loop.time()  # it is the client who does not read, not the provider
        if self._loop.time() < self._deadline(entry):
            self._watch(number, entry)
            return
        waited = self._loop.time() - (entry.last_life if entry.job.stream else entry.accepted)
        message = f"Nothing arrived from {self._name} for {waited:.1f} s."
        if not entry.job.stream:
            message = f"{self._name} did not finish within {waited:.1f} s."
        self.end(number, Failure(Code.TIMEOUT, message))

    def _not_let_go(self, number: int) -> None:
        log.warning("worker does not let go provider=%r request=%d", self._name, number)
        self._settle(number, Outcome())

    def _settle(self, number: int, outcome: Outcome) -> None:
        """The one place where a request leaves."""
        entry = self._open.pop(number)
        if entry.timer is not None:
            entry.timer.cancel()
        self.finished += 1
        self.last_used = self._loop.time()
        failure = entry.ending or outcome.failure
        entry.sink.ended(
            number, dataclasses.replace(outcome, failure=failure, timings_ms=self._timings(entry))
        )

    def _timings(self, entry: _Open) -> dict[str, int]:
        timings = {"queued": entry.started - entry.accepted, "total": self._loop.time() - entry.accepted}
        if entry.first_token is not None:
            timings["first_token"] = entry.first_token - entry.accepted
        return {name: round(seconds * 1000) for name, seconds in timings.items()}


def code_of(number: int) -> Code:
    """The code that a worker named.

    Raises:
        WireError: there is none of that number.
    """
    try:
        return Code(number)
    except ValueError as exc:
        raise wire.WireError(f"there is no code {number}") from exc


def notes_of(pairs: Iterable[tuple[str, str]]) -> tuple[WarningNote, ...]:
    """Warnings as a client gets them."""
    return tuple(WarningNote(name, message) for name, message in pairs)

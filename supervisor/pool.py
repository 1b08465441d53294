"""Provider → running worker: at most one start at a time, restarts within a budget, and who may use it.

A worker is started by the first load that needs it, serves every connection that loaded its provider, each
under a binding of its own, and is started again when it dies while somebody still uses it. Requests that
it had when it died are ended, never sent again: the provider may have run, and billed, them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from supervisor.bindings import Binding
from supervisor.commands import LoadResult, Outcome
from supervisor.errors import BootError, Failure, ModuleError, WorkerError, failure_of
from supervisor.health import WorkerHealth
from supervisor.inflight import Sink
from supervisor.jobs import Job
from supervisor.providers import Provider
from supervisor.restarts import PoolLimits
from supervisor.slots import ReportProgress, Slot
from supervisor.worker import Death, Worker, WorkerState
from workers.codes import Code

__all__ = ["LoadOptions", "Pool", "ReportProgress"]

log = logging.getLogger(__name__)


class MakeWorker(Protocol):
    """How a worker that is not started yet comes to be: environment found or made, Worker built."""

    def __call__(
        self, provider: Provider, report: ReportProgress, on_death: Callable[[Worker, Death], None]
    ) -> Awaitable[Worker]:
        """Raises ProvisionError."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a client wants a provider loaded."""

    verify: bool = True
    preload_model: str | None = None


class Pool:
    """All workers of the module."""

    def __init__(self, make_worker: MakeWorker, limits: PoolLimits) -> None:
        self._make_worker = make_worker
        self._limits = limits
        self._slots: dict[str, Slot] = {}
        self._loop = asyncio.get_running_loop()
        self._closing = False

    # ---- loading

    async def load(
        self, provider: Provider, binding: Binding, options: LoadOptions, report: ReportProgress
    ) -> LoadResult:
        """Makes the provider ready for one binding. Cancelling it is safe: the binding is taken back.

        Raises:
            ModuleError: the environment, the worker or the provider refused.
        """
        slot = self._slots.setdefault(provider.id, Slot(provider, self._limits))
        slot.listeners.add(report)
        self._keep_or_stop(slot)
        slot.down = False  # a load by hand is always worth one try
        try:
            fresh = slot.worker is None
            async with slot.locks[binding.id]:
                worker = await self._running(slot)
                before = self._loop.time()
                bound = await worker.bindings.bind(
                    binding, verify=options.verify, preload_model=options.preload_model, on_progress=report
                )
                slot.bindings[binding.id] = binding
            bind_ms = round((self._loop.time() - before) * 1000)
        except ModuleError as exc:
            slot.last_error = exc.message
            raise
        finally:
            slot.listeners.discard(report)
            if binding.id not in slot.bindings:
                slot.locks.pop(binding.id, None)
            self._keep_or_stop(slot)
        timings = {
            **(slot.timings_ms if fresh else {"provision": 0, "start": 0, "import": 0}),
            "connect": bind_ms if bound.connect_ms is None else bound.connect_ms,
            "model": bound.model_ms or 0,
        }
        return LoadResult(bound.models, timings, bound.warnings)

    async def _running(self, slot: Slot) -> Worker:
        """The slot's worker, started if there is none; all who ask meanwhile wait for the same start."""
        if slot.worker is not None and slot.worker.state is WorkerState.READY:
            return slot.worker
        if self._closing:
            raise WorkerError("The module is closing.", code=Code.SHUTTING_DOWN)
        if slot.starting is None:
            wait_s = slot.history.wait_s(self._loop.time())
            if wait_s > 0:
                raise _not_yet(slot.last_failure, wait_s)
            slot.starting = asyncio.create_task(self._start(slot))
            slot.starting.add_done_callback(_retrieved)
        return await asyncio.shield(slot.starting)

    async def _start(self, slot: Slot) -> Worker:
        begun = self._loop.time()
        slot.rests = False
        try:
            slot.report("provision", f"Looking for the environment of {slot.provider.name}.", None)
            worker = await self._make_worker(slot.provider, slot.report, self._died)
            provisioned = self._loop.time()
            worker = await self._booted(slot, worker)
        except WorkerError as exc:
            slot.history.start_failed(self._loop.time())
            slot.last_failure = failure_of(exc)
            raise
        finally:
            slot.starting = None
        spent = round((self._loop.time() - provisioned) * 1000)
        slot.timings_ms = {
            "provision": round((provisioned - begun) * 1000),
            "start": max(0, spent - worker.import_ms),
            "import": worker.import_ms,
        }
        slot.worker = worker
        slot.history.started()
        slot.may_start.set()
        self._keep_or_stop(slot)  # those who waited for it may be gone
        return worker

    async def _booted(self, slot: Slot, worker: Worker) -> Worker:
        """The worker, started, or another one, where the first died before it could say why."""
        name = slot.provider.name
        slot.report("start", f"Starting the worker of {name}.", None)
        try:
            try:
                await worker.start()
            except BootError as exc:
                log.warning("worker not started provider=%s reason=%r", slot.provider.id, exc.message)
                slot.report("start", f"Starting the worker of {name} once more.", None)
                worker = await self._make_worker(slot.provider, slot.report, self._died)
                await worker.start()
        except OSError as exc:  # its Python is gone, or the system has no process or descriptor to give
            reason = exc.strerror or type(exc).__name__
            raise WorkerError(f"The worker of {name} cannot be started: {reason}.") from exc
        return worker

    def unload(self, provider: str, binding: int) -> None:
        """Forgets one binding; the worker stays for the next who loads it."""
        slot = self._slots.get(provider)
        if slot is None:
            return
        slot.forget(binding)
        if slot.worker is not None:
            slot.worker.bindings.unbind(binding)
        self._keep_or_stop(slot)

    def _keep_or_stop(self, slot: Slot) -> None:
        """A worker that no connection uses is kept for a while, since one may come back; so is one whose
        connections want its memory back when they say nothing."""
        if slot.idle is not None:
            slot.idle.cancel()
            slot.idle = None
        slot.last_asked = self._loop.time()
        if not slot.listeners:
            self._look_again(slot)

    def _look_again(self, slot: Slot) -> None:
        """Arms the timer for the next moment at which the worker may have been unused for long enough."""
        keep_s = slot.keep_s()
        if math.isfinite(keep_s):
            slot.idle = self._loop.call_at(slot.last_used() + keep_s, self._maybe_rest, slot)

    def _maybe_rest(self, slot: Slot) -> None:
        """The timer looks at what happened since it was set, instead of being moved by every request."""
        now = self._loop.time()
        if slot.busy:
            slot.idle = self._loop.call_at(now + slot.keep_s(), self._maybe_rest, slot)
        elif now < slot.last_used() + slot.keep_s():
            self._look_again(slot)
        else:
            self._stop_idle(slot)

    def _stop_idle(self, slot: Slot) -> None:
        slot.idle = None
        worker = slot.take_worker()
        if worker is not None:
            slot.rests = True
            task = asyncio.create_task(worker.stop("idle"))
            slot.stopping.add(task)
            task.add_done_callback(slot.stopping.discard)

    # ---- generating

    def generate(self, provider: str, binding: int, number: int, job: Job, sink: Sink) -> None:
        """Starts a generation; `sink` hears of its end exactly once, whatever happens."""
        slot = self._slots[provider]
        worker = slot.worker
        accepted = self._loop.time()
        ready = worker is not None and worker.state is WorkerState.READY
        if worker is not None and ready and binding in worker.bindings.bound:
            self._hand_over(slot, worker, binding, number, job, sink, accepted)
            return
        task = asyncio.create_task(self._when_running(slot, binding, number, job, accepted))
        slot.waiting[number] = (sink, task)
        task.add_done_callback(lambda done: self._waited(slot, number, done))

    def _hand_over(
        self, slot: Slot, worker: Worker, binding: int, number: int, job: Job, sink: Sink, accepted: float
    ) -> None:
        if worker.swamped:
            busy = f"{slot.provider.name} has {len(worker.requests)} open requests already."
            sink.ended(number, Outcome(Failure(Code.BUSY, busy)))
            return
        worker.requests.start(number, binding, job, sink, accepted=accepted)

    async def _when_running(self, slot: Slot, binding: int, number: int, job: Job, accepted: float) -> None:
        """A generation that came while its worker was down: it waits, within its own timeout."""
        worker: Worker | None = None
        try:
            worker = await asyncio.wait_for(self._bound(slot, binding), job.timeout_s)
            failure = None
        except asyncio.TimeoutError:
            late = f"The worker of {slot.provider.name} was not back within {job.timeout_s:g} s."
            failure = Failure(Code.TIMEOUT, late)
        except ModuleError as exc:
            failure = failure_of(exc)
        if number not in slot.waiting:  # it was ended, in the very moment in which its wait was over
            return
        sink, _ = slot.waiting.pop(number)
        if worker is None:
            sink.ended(number, Outcome(failure))
        else:
            self._hand_over(slot, worker, binding, number, job, sink, accepted)

    def _waited(self, slot: Slot, number: int, task: asyncio.Task[None]) -> None:
        """The end of a wait: whoever was neither started nor told by then met a bug of ours, and is told."""
        exc = None if task.cancelled() else task.exception()
        if exc is not None:
            log.error("generation not started provider=%s", slot.provider.id, exc_info=exc)
        if number in slot.waiting:
            sink, _ = slot.waiting.pop(number)
            sink.ended(number, Outcome(failure_of(exc or asyncio.CancelledError())))

    async def _bound(self, slot: Slot, binding: int) -> Worker:
        """The worker, running and knowing that binding."""
        worker = await self._running_again(slot)
        if binding in worker.bindings.bound:
            return worker
        async with slot.locks[binding]:
            worker = await self._running_again(slot)
            if binding not in slot.bindings:
                raise WorkerError(f"{slot.provider.name} is not loaded any more.", code=Code.NOT_LOADED)
            if binding not in worker.bindings.bound:
                known = slot.bindings[binding]
                await worker.bindings.bind(known, verify=False, preload_model=None, on_progress=_nobody)
        return worker

    async def _running_again(self, slot: Slot) -> Worker:
        """The worker as who loaded it before gets it: after the pause, and only if it is not given up."""
        await slot.may_start.wait()
        if slot.down:
            raise WorkerError(self._down_words(slot), code=Code.PROVIDER_DOWN)
        return await self._running(slot)

    def end(self, provider: str, number: int, failure: Failure) -> None:
        """Closes the upstream of a generation, or takes it out of the queue."""
        slot = self._slots.get(provider)
        if slot is None:
            return
        if number in slot.waiting:
            sink, task = slot.waiting.pop(number)
            task.cancel()
            sink.ended(number, Outcome(failure))
        elif slot.worker is not None:
            slot.worker.requests.end(number, failure)

    def credit(self, provider: str, number: int, chars: int) -> None:
        """The client took that much of a streamed reply."""
        slot = self._slots.get(provider)
        if slot is not None and slot.worker is not None:
            slot.worker.requests.credit(number, chars)

    # ---- dying and closing

    def _died(self, worker: Worker, death: Death) -> None:
        """A running worker is gone; it is started again while somebody uses it and the budget lasts."""
        slot = self._slots[worker.provider.id]
        slot.take_worker()
        slot.last_error = death.words
        uptime_s = time.monotonic() - worker.started_at
        pause_s = slot.history.died(self._loop.time(), uptime_s=uptime_s)
        if slot.restarting is not None:
            slot.restarting.cancel()  # one that still waits: somebody else has started the worker meanwhile
        if self._closing or not slot.bindings:
            return
        if pause_s is None:
            slot.down = True
            log.error(
                "worker given up provider=%s deaths=%d words=%r",
                *(slot.provider.id, slot.history.recent_deaths, death.words),
            )
            return
        slot.may_start.clear()
        slot.restarting = asyncio.create_task(self._restart(slot, pause_s))

    async def _restart(self, slot: Slot, pause_s: float) -> None:
        log.info(
            "worker restarting provider=%s n=%d of=%d pause_s=%g",
            slot.provider.id,
            slot.history.recent_deaths,
            self._limits.restarts,
            pause_s,
        )
        await asyncio.sleep(pause_s)
        slot.may_start.set()
        if not slot.bindings:  # its last client left meanwhile
            return
        try:
            worker = await self._running(slot)
        except ModuleError as exc:
            slot.last_error = exc.message
            slot.down = True
            log.error("worker not restarted provider=%s reason=%r", slot.provider.id, exc.message)
            return
        for binding in list(slot.bindings):
            if slot.worker is not worker:
                return  # it died again, and the restart after that death gives them anew
            try:
                await self._bound(slot, binding)
            except ModuleError as exc:  # it is asked for again by its client's next generation
                slot.last_error = exc.message
                log.warning("binding not given anew provider=%s reason=%r", slot.provider.id, exc.message)

    def _down_words(self, slot: Slot) -> str:
        deaths = slot.history.recent_deaths
        why = "could not be started again"
        if deaths > self._limits.restarts:
            why = f"died {deaths} times in {self._limits.restart_window_s:g} s"
        return (
            f"{slot.provider.name} is down: its worker {why}. Last: {slot.last_error} "
            "Load it to try once more."
        )

    def snapshot(self) -> list[WorkerHealth]:
        """What operators want to know of every worker."""
        return [slot.health() for slot in self._slots.values()]

    async def close(self) -> None:
        """Ends every worker and every start, side by side; each step in it is bounded."""
        self._closing = True
        tasks: list[asyncio.Future[Any]] = []
        for slot in self._slots.values():
            waiting = [task for _, task in slot.waiting.values()]
            for number, (sink, _) in list(slot.waiting.items()):
                sink.ended(number, Outcome(Failure(Code.INTERRUPT, "The module is closing.")))
            slot.waiting.clear()
            slot.may_start.set()
            if slot.idle is not None:
                slot.idle.cancel()
            tasks += slot.stopping
            for task in (slot.starting, slot.restarting, *waiting):
                if task is not None and not task.done():
                    task.cancel()
                    tasks.append(task)
            if slot.worker is not None:
                tasks.append(asyncio.ensure_future(slot.worker.stop()))
        await asyncio.gather(*tasks, return_exceptions=True)


def _not_yet(failure: Failure, wait_s: float) -> ModuleError:
    """The failure of the last start, for who asks again at once."""
    error = WorkerError(failure.message, code=failure.code)
    error.retry_after_ms = math.ceil(wait_s * 1000)
    return error


def _nobody(_phase: str, _message: str, _fraction: float | None) -> None:
    """Progress that nobody asked for."""


def _retrieved(task: asyncio.Task[Any]) -> None:
    """A failure that nobody waited for any more is not a mistake."""
    if not task.cancelled():
        task.exception()

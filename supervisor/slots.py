"""One provider's worker over its deaths: what the pool knows of it, and how operators read it."""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeAlias

from supervisor.bindings import Binding
from supervisor.errors import Failure
from supervisor.health import WorkerHealth
from supervisor.inflight import Sink
from supervisor.providers import Provider
from supervisor.restarts import PoolLimits, Restarts
from supervisor.worker import Worker
from workers.codes import Code

__all__ = ["ReportProgress", "Slot"]

ReportProgress: TypeAlias = "Callable[[str, str, float | None], None]"
"""phase, sentence, fraction."""


class Slot:
    """What the pool keeps of one provider; the rules are pool.py's."""

    def __init__(self, provider: Provider, limits: PoolLimits) -> None:
        self.provider = provider
        self.history = Restarts(limits)
        self._limits = limits
        self.worker: Worker | None = None
        self.starting: asyncio.Task[Worker] | None = None
        self.restarting: asyncio.Task[None] | None = None
        self.may_start = asyncio.Event()
        """Not set during the pause before a restart, which a load cuts short and a generation does not."""
        self.may_start.set()
        self.bindings: dict[int, Binding] = {}
        self.locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        """One bind of a binding at a time: a load and a restart must not overtake each other."""
        self.waiting: dict[int, tuple[Sink, asyncio.Task[None]]] = {}
        """Generations that wait for a restart; whoever takes one out has to end it or hand it over."""
        self.listeners: set[ReportProgress] = set()
        self.stopping: set[asyncio.Task[None]] = set()
        """Workers that nobody used any more, on their way out."""
        self.idle: asyncio.TimerHandle | None = None
        self.last_asked = 0.0
        """When a connection loaded it or left it last; the loop's time."""
        self._kept_by_the_last: float | None = None
        """What the connection that left it last had said of how long to keep it."""
        self.rests = False
        """Whether the last worker was stopped because nobody used it."""
        self.down = False
        """Whether it was given up: it died too often, or could not be started again."""
        self.timings_ms: dict[str, int] = {}
        self.last_error: str | None = None
        self.last_failure = Failure(Code.UNEXPECTED, "")
        """Of a start."""
        self._finished = 0
        """Requests of the workers that are no more."""

    def take_worker(self) -> Worker | None:
        """The worker, which is the slot's no longer."""
        worker, self.worker = self.worker, None
        if worker is not None:
            self._finished += worker.requests.finished
        return worker

    def keep_s(self) -> float:
        """How long its worker stays unused: as the most patient of its connections wants, and one that said
        nothing wants it while it is there; without any as the last one had said, else as is usual."""
        if self.bindings:
            wishes = [binding.keep_alive_s for binding in self.bindings.values()]
            return max(math.inf if wish is None else wish for wish in wishes)
        if self._kept_by_the_last is not None:
            return self._kept_by_the_last
        return self._limits.engine_idle_s if self.provider.is_engine else self._limits.idle_s

    def forget(self, binding: int) -> None:
        """A connection has left."""
        left = self.bindings.pop(binding, None)
        self.locks.pop(binding, None)
        if left is not None:
            self._kept_by_the_last = left.keep_alive_s

    def last_used(self) -> float:
        """When somebody wanted something of it; the loop's time."""
        used = self.worker.requests.last_used if self.worker is not None else 0.0
        return max(used, self.last_asked)

    @property
    def busy(self) -> bool:
        """Whether a request is under way, or waits for its worker."""
        return bool(self.waiting) or (self.worker is not None and len(self.worker.requests) > 0)

    def report(self, phase: str, message: str, fraction: float | None) -> None:
        """Tells all who wait for a load how far it is."""
        for listener in list(self.listeners):
            listener(phase, message, fraction)

    def health(self) -> WorkerHealth:
        """How its worker is now."""
        worker = self.worker
        return WorkerHealth(
            provider=self.provider.id,
            state=self._state(),
            pid=worker.pid if worker is not None else None,
            uptime_s=round(time.monotonic() - worker.started_at, 3) if worker is not None else 0.0,
            restarts=self.history.total_restarts,
            deaths=self.history.total_deaths,
            open_requests=len(worker.requests) if worker is not None else 0,
            finished_requests=self._finished + (worker.requests.finished if worker is not None else 0),
            **_vital_signs(worker),
            last_error=self.last_error,
        )

    def _state(self) -> str:
        if self.starting is not None:
            return "starting"
        if self.worker is not None:
            return self.worker.state.value
        if self.down:
            return "down"
        return "idle" if self.rests else "dead"


def _vital_signs(worker: Worker | None) -> dict[str, Any]:
    watch = worker.watch if worker is not None else None
    if watch is None:
        return {}
    round_trip_s = watch.pulse.round_trip_s
    return {
        "condition": watch.pulse.condition.value,
        "heartbeat_ms": None if round_trip_s is None else round(round_trip_s * 1000, 2),
        "memory_bytes": watch.memory_bytes,
        "models": watch.models.names,
        "memory_before_bytes": watch.models.before_bytes,
        "cpu_s": None if watch.cpu_s is None else round(watch.cpu_s, 2),
        "cpu_percent": watch.cpu_percent,
    }

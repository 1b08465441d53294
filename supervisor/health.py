"""How the workers and the supervisor are, as operators read it: in the log, in `status`, in /metrics."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from supervisor import spawn
from supervisor.model_memory import megabytes

__all__ = [
    "STATES",
    "HealthLimits",
    "HealthLines",
    "ModuleHealth",
    "Report",
    "WorkerHealth",
    "log_module",
    "log_workers",
    "measured",
    "one_word",
]

log = logging.getLogger(__name__)

STATES: Final = ("starting", "ready", "stopping", "dead", "down", "idle")
"""All that a worker's `state` can say."""
LOOK_S: Final = 1.0
"""Between two looks at the loop's lag while there is a worker; with none there is nothing to be late for."""


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """How often operators are told; each is a setting."""

    interval_s: float = 60.0
    """Between two health lines of a worker: a day of ten workers is three megabytes of log."""


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """One provider's worker at one moment, over its deaths."""

    provider: str
    state: str
    """`starting`, `ready`, `stopping`, `dead`, `down` when its restart budget is spent, or `idle` when it was
    stopped because no connection used it."""
    pid: int | None = None
    uptime_s: float = 0.0
    restarts: int = 0
    deaths: int = 0
    open_requests: int = 0
    finished_requests: int = 0
    condition: str | None = None
    """What its heartbeats say: `well`, `busy`, `loop blocked`, `silent`; None while there were none."""
    heartbeat_ms: float | None = None
    """The last ping's way through its event loop and back."""
    memory_bytes: int | None = None
    """Resident, at most a second old."""
    models: tuple[str, ...] = ()
    """Of an engine: what is in its memory."""
    memory_before_bytes: int | None = None
    """Resident before the first of them came."""
    cpu_s: float | None = None
    """Processor time since its start, as old."""
    cpu_percent: float | None = None
    """Of one processor, over the last second or so."""
    last_error: str | None = None

    def fields(self) -> dict[str, Any]:
        """As `status_done` tells them."""
        return {**dataclasses.asdict(self), "models": list(self.models)}


@dataclass(frozen=True, slots=True)
class ModuleHealth:
    """The supervisor itself at one moment."""

    uptime_s: float
    clients: int = 0
    memory_bytes: int | None = None
    """Resident."""
    cpu_s: float = 0.0
    """Processor time since its start, of all its threads."""
    lag_s: float = 0.0
    """How late its event loop came to what was due: the worst since the last health line."""
    lost_lines: Mapping[str, int] = field(default_factory=dict)
    """Log lines that a sink could not take, by sink."""


Report: TypeAlias = "tuple[ModuleHealth, Sequence[WorkerHealth]]"


async def measured(module: ModuleHealth) -> ModuleHealth:
    """The same with what the system knows of this process; a worker is sampled by its own watch."""
    sample = await asyncio.to_thread(_own_sample)
    if sample is None:
        return dataclasses.replace(module, cpu_s=time.process_time())
    return dataclasses.replace(module, memory_bytes=sample.memory_bytes, cpu_s=sample.cpu_s)


def _own_sample() -> spawn.Sample | None:
    return spawn.Sampler(os.getpid()).sample()


def log_workers(workers: Iterable[WorkerHealth]) -> None:
    """One line for each worker."""
    for worker in workers:
        log.info(
            "worker health provider=%s state=%s pid=%s uptime_s=%.0f memory_mb=%s models=%d "
            "before_models_mb=%s cpu_pct=%s open=%d finished=%d restarts=%d heartbeat_ms=%s condition=%s "
            "last_error=%r",
            worker.provider,
            worker.state,
            worker.pid,
            worker.uptime_s,
            megabytes(worker.memory_bytes),
            len(worker.models),
            megabytes(worker.memory_before_bytes),
            _rounded(worker.cpu_percent),
            worker.open_requests,
            worker.finished_requests,
            worker.restarts,
            _rounded(worker.heartbeat_ms),
            one_word(worker.condition),
            worker.last_error,
        )


def log_module(module: ModuleHealth, cpu_percent: float) -> None:
    """One line for the supervisor."""
    log.info(
        "module health uptime_s=%.0f clients=%d memory_mb=%s cpu_pct=%s lag_ms=%s log_lines_lost=%d",
        module.uptime_s,
        module.clients,
        megabytes(module.memory_bytes),
        _rounded(cpu_percent),
        _rounded(module.lag_s * 1000),
        sum(module.lost_lines.values()),
    )


def one_word(text: str | None) -> str | None:
    """As the value of a field in a line for people, which ends at a space."""
    return None if text is None else text.replace(" ", "_")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


class HealthLines:
    """Writes them at their interval, and knows how late the loop was since the last ones."""

    def __init__(
        self,
        limits: HealthLimits,
        workers: Callable[[], Sequence[WorkerHealth]],
        look: Callable[[], Awaitable[Report]],
    ) -> None:
        self.lag_s = 0.0
        self._interval_s = limits.interval_s
        self._workers = workers
        self._look = look
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Until it is cancelled, which is safe at any time."""
        cpu_s, since = time.process_time(), self._loop.time()
        while True:
            await self._interval()
            module, workers = await self._look()
            now = self._loop.time()
            log_workers(workers)
            log_module(module, 100 * (module.cpu_s - cpu_s) / (now - since))
            cpu_s, since, self.lag_s = module.cpu_s, now, 0.0

    async def _interval(self) -> None:
        """Waits for the next lines; while there are workers the loop's lag is looked at in between."""
        end = self._loop.time() + self._interval_s
        while (left_s := end - self._loop.time()) > 0:
            pause_s = min(left_s, LOOK_S) if self._is_somebody_there() else left_s
            due = self._loop.time() + pause_s
            await asyncio.sleep(pause_s)
            self.lag_s = max(self.lag_s, self._loop.time() - due)

    def _is_somebody_there(self) -> bool:
        return any(worker.pid is not None for worker in self._workers())

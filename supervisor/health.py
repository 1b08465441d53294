"""How the workers are, as operators read it: in the log, in `status`, in /metrics."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

__all__ = ["WorkerHealth"]


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """One provider's worker at one moment, over its deaths."""

    provider: str
    state: str
    """`starting`, `ready`, `stopping`, `dead`, or `down` when its restart budget is spent."""
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
    cpu_s: float | None = None
    """Processor time since its start, as old."""
    cpu_percent: float | None = None
    """Of one processor, over the last second or so."""
    last_error: str | None = None

    def fields(self) -> dict[str, Any]:
        """As `status_done` tells them."""
        return dataclasses.asdict(self)

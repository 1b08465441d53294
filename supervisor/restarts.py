"""How often one provider's worker is started again. Pure: time comes in as an argument.

A worker that dies is started again after a growing pause, at most `restarts` times within a window; one
that had stayed up long enough starts the count anew. A start that failed is not tried again for a moment,
whoever asks, since its reason is still there.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

__all__ = ["PoolLimits", "Restarts"]

PAUSES_S: Final = (0.0, 0.25, 1.0, 2.0, 4.0)
"""Before the first, second, … restart in a window: the first at once, so that a character keeps talking."""


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """How long workers are kept, and how often one that dies is started again; each is a setting."""

    restarts: int = 5
    """In `restart_window_s`; then the provider is down until a client loads it by hand."""
    restart_window_s: float = 180.0
    stable_s: float = 60.0
    """A worker that was up for so long before it died is no worker that keeps dying."""
    start_again_s: float = 5.0
    """After a start that failed, until the next one is tried."""
    idle_s: float = 300.0
    """A worker that no connection uses is stopped after so long."""
    engine_idle_s: float = 30.0
    """The same for an engine's: its model has gone with the last connection, and what is left in memory (some
    hundred megabytes) is soon worth more than the start that it would save."""


class Restarts:
    """The deaths and failed starts of one provider's worker."""

    def __init__(self, limits: PoolLimits) -> None:
        self._limits = limits
        self._deaths: deque[float] = deque()
        self._failed_at = float("-inf")
        self._dead = False
        self.total_deaths = 0
        self.total_restarts = 0

    @property
    def recent_deaths(self) -> int:
        """Those that count."""
        return len(self._deaths)

    def died(self, now: float, *, uptime_s: float) -> float | None:
        """A running worker died: the pause before it is started again, or None when it is given up."""
        if uptime_s >= self._limits.stable_s:
            self._deaths.clear()
        self.total_deaths += 1
        self._dead = True
        self._deaths.append(now)
        while self._deaths[0] < now - self._limits.restart_window_s:
            self._deaths.popleft()
        if len(self._deaths) > self._limits.restarts:
            return None
        return PAUSES_S[min(len(self._deaths), len(PAUSES_S)) - 1]

    def started(self) -> None:
        """A worker runs; after a death that was a restart, whoever asked for it."""
        self.total_restarts += self._dead
        self._dead = False

    def start_failed(self, now: float) -> None:
        """A worker could not be started."""
        self._failed_at = now

    def wait_s(self, now: float) -> float:
        """For how long a start is not tried; 0 when it may be now."""
        return max(0.0, self._failed_at + self._limits.start_again_s - now)

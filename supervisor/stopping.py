"""How a worker's process is brought to its end: in steps, each of them bounded.

    asked     it cancels its requests and leaves by itself
    ended     by way of its nanny, which takes all that it started along
    killed    with its nanny, should that one be stopped

One that is stuck is first made to write its stacks to stderr, and so into the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from supervisor import spawn

__all__ = ["Stopping", "within"]

ASK_S: Final = 0.5
"""A worker has nothing to save: what it does when asked takes milliseconds, or does not happen."""
END_S: Final = 1.5
"""For its nanny, who gives what the worker had started a second."""
KILL_S: Final = 2.0
"""Asked, ended, killed: four seconds in all, the most that a desktop application wants to wait."""
ABORT_S: Final = 1.0
"""For a stuck worker to write its stacks before it is ended; it takes some 2 ms."""


class Stopping:
    """The ways to the end of one process, which is over when `dead` is set."""

    def __init__(self, group: spawn.Group, dead: asyncio.Event) -> None:
        self._group = group
        self._dead = dead

    async def stop(self, ask: Callable[[], None]) -> str | None:
        """Ends it politely; returns the step that did, None if it was dead, `survived` if none did."""
        return await self._steps((("asked", ask, ASK_S), *self._hard_steps()))

    async def put_down(self, *, hung: bool) -> None:
        """Ends it without a question."""
        if hung:
            await self.abort()
        await self._steps(self._hard_steps())

    async def abort(self) -> None:
        """Makes it write its stacks and die, if it still can."""
        if self._group.worker is not None and not self._dead.is_set():
            self._group.abort()
            await within(self._dead.wait(), ABORT_S)

    def _hard_steps(self) -> tuple[tuple[str, Callable[[], None], float], ...]:
        return ("ended", self._group.end, END_S), ("killed", self._group.kill, KILL_S)

    async def _steps(self, steps: tuple[tuple[str, Callable[[], None], float], ...]) -> str | None:
        for name, step, wait_s in steps:
            if self._dead.is_set():
                return None
            step()
            if await within(self._dead.wait(), wait_s):
                return name
        return "survived"


async def within(awaitable: Awaitable[object], timeout_s: float) -> bool:
    """Whether it came to an end in time; it is cancelled if not."""
    try:
        await asyncio.wait_for(awaitable, timeout_s)
    except asyncio.TimeoutError:
        return False
    return True

"""What must still be done when a request has ended, whatever becomes of who asked for it.

A provider may have to be told that nobody listens any more, and the task that knows it may be cancelled, even
twice. The work goes on in a task of its own, bounded by itself; whoever began it waits a moment for it, and
so does a close for what is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

__all__ = ["Afterwards"]

WAIT_S: Final = 0.4
"""How long the end of a request waits for it: the supervisor waits 0.5 s for the worker to let go."""


class Afterwards:
    """Such work of one binding."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Does `work`, which must end by itself and raise nothing. Cancelling only ends the waiting."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait({task}, timeout=WAIT_S)

    async def close(self) -> None:
        """Waits a moment for what is left, and ends it."""
        tasks = set(self._tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=WAIT_S)
        for task in tasks:
            task.cancel()

"""What must still be done when a request has ended, whatever becomes of who asked for it.

A provider may have to be told that nobody listens any more, and the task that knows it may be cancelled, even
twice. The work goes on in a task of its own, bounded by itself; whoever began it waits a moment for it, and
so does a close for what is left. What is just being begun over there has first to have begun, to be ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

__all__ = ["Afterwards"]

T = TypeVar("T")

WAIT_S: Final = 0.4
"""How long the end of a request waits for it: the supervisor waits 0.5 s for the worker to let go."""
CLOSE_S: Final = 1.2
"""How long a close does: what is just being begun may take a second to be known. An adapter that takes 1.5 s
to close is given up (workers/bindings.py)."""
ENDED_S: Final = 0.1
"""How long what is ended then may take to leave."""


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

    async def begun(
        self, beginning: Coroutine[Any, Any, T], end: Callable[[T], Awaitable[None]], *, grace_s: float
    ) -> T:
        """What `beginning` gives. Cancelling this does not take it back, since it may have been read already:
        what it gives within `grace_s` is ended, by `end`, which must end by itself and raise nothing.

        Raises:
            AdapterError: as `beginning`.
        """
        task = asyncio.ensure_future(beginning)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await self.do(_taken_back(task, end, grace_s))
            raise

    async def close(self) -> None:
        """Waits for what is left, and ends it."""
        tasks = set(self._tasks)
        if not tasks:
            return
        _, left = await asyncio.wait(tasks, timeout=CLOSE_S)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=ENDED_S)


async def _taken_back(
    beginning: asyncio.Future[T], end: Callable[[T], Awaitable[None]], grace_s: float
) -> None:
    """The end of what nobody wants any more, if it comes to be."""
    try:
        await asyncio.wait({beginning}, timeout=grace_s)
    finally:  # a close may end this too
        if not beginning.done():
            beginning.cancel()  # closes the connection on which it is asked for
            await asyncio.wait({beginning}, timeout=grace_s)
        begun = beginning.done() and not beginning.cancelled() and beginning.exception() is None
    if begun:
        await end(beginning.result())

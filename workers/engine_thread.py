"""A request in an engine: a thread waits in the engine, and what it brings is taken in the event loop.

The engine must let the interpreter go while it computes, and give control back for every piece: what the
thread answers then may end the request. So an interrupt waits for one token.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final, Generic, TypeAlias, TypeVar

from workers.adapter import AdapterError, Request
from workers.codes import Code

__all__ = ["Pieces", "Take", "read_in_time"]

AT_ONCE_CHARS: Final = 8192
"""A prompt up to that long becomes tokens within a millisecond or two."""

STOP_MAX_S: Final = 0.4
"""How long an ended request waits for the engine to let go: a token takes less, a batch of a long prompt may
take more. The place in the engine is free only when it has let go, however long that takes."""

T = TypeVar("T")
Take: TypeAlias = "Callable[[T], bool]"
"""Hands a piece over; true when nobody wants more."""


async def read_in_time(read: Callable[[Request], T], request: Request) -> T:
    """What `read` makes of a request: in a thread where it may take long; else a thread would be what takes
    long. Cancelling it is safe, and what the thread makes is lost."""
    if sum(len(message.content) for message in request.messages) > AT_ONCE_CHARS:
        return await asyncio.to_thread(read, request)
    return read(request)


@dataclass(frozen=True, slots=True)
class _Over:
    """The last thing that a thread brings."""

    error: Exception | None


class Pieces(Generic[T]):
    """What one request brings. There is no way to slow an engine down: what a slow client has not taken
    waits here, at most as many pieces as the request allows."""

    def __init__(
        self,
        threads: Executor,
        run: Callable[[Take[T]], None],
        refused: Callable[[Exception], AdapterError],
        errors: tuple[type[Exception], ...],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._refused = refused
        self._brought: asyncio.Queue[T | _Over] = asyncio.Queue()
        self._stop = threading.Event()
        self.work = self._loop.run_in_executor(threads, self._run, run, errors)
        """Done when the engine is through with it, which may be later than whoever takes the pieces."""

    async def taken(self) -> AsyncGenerator[T, None]:
        """The pieces up to the end, or up to whoever takes them losing interest: closing ends the request.

        Raises:
            AdapterError: the engine refuses the request.
        """
        try:
            while not isinstance(piece := await self._brought.get(), _Over):
                yield piece
        finally:
            self._stop.set()
            await asyncio.wait({self.work}, timeout=STOP_MAX_S)
        if piece.error is not None:
            raise self._refused(piece.error) from piece.error
        if self.work.done() and (broke := self.work.exception()) is not None:
            raise AdapterError(
                Code.UPSTREAM_ERROR, "The engine broke in the middle of its answer; try again."
            ) from broke

    def _run(self, run: Callable[[Take[T]], None], errors: tuple[type[Exception], ...]) -> None:
        """The thread."""
        error: Exception | None = None
        try:
            run(self._take)
        except errors as exc:
            error = exc
        finally:  # also when an engine in Rust panics, which is no Exception
            self._loop.call_soon_threadsafe(self._brought.put_nowait, _Over(error))

    def _take(self, piece: T) -> bool:
        """The thread's too."""
        if not self._stop.is_set():
            self._loop.call_soon_threadsafe(self._brought.put_nowait, piece)
        return self._stop.is_set()

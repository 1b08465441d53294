"""One reply as an engine of tokens makes it: numbers in, numbers out, brought from a thread into the loop.

The engine says after every step what it has; whoever takes it may stop. Pure but for the queue between them.
What an engine does with jobs is behind one interface, Runner.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final, Protocol

from workers.token_choice import Choice

__all__ = ["Job", "Runner"]

_IDS: Final = itertools.count(1)


class Job:
    """A reply to be made, and what is there of it. Made in the loop that takes it."""

    def __init__(self, prompt: Sequence[int], *, limit: int, ends: frozenset[int], choice: Choice) -> None:
        self.id = f"reply-{next(_IDS)}"
        self.prompt = list(prompt)
        self.limit = limit
        """Tokens at most."""
        self.ends = ends
        """Tokens that end it."""
        self.choice = choice
        self.computed = 0
        """Tokens of the prompt that were computed for it; of the others an earlier reply's were taken."""
        self._taken = 0
        self._loop = asyncio.get_running_loop()
        self._brought: asyncio.Queue[tuple[Sequence[int], bool] | Exception] = asyncio.Queue()

    # ---- the engine's thread

    def bring(self, tokens: Sequence[int], *, over: bool) -> None:
        """All tokens so far; none of them is a sign of life."""
        self._put((tokens, over))

    def fail(self, error: Exception) -> None:
        """Nothing more comes."""
        self._put(error)

    def _put(self, item: tuple[Sequence[int], bool] | Exception) -> None:
        try:
            self._loop.call_soon_threadsafe(self._brought.put_nowait, item)
        except RuntimeError:  # the loop is closed, and with it everybody who could want it
            return

    # ---- the loop

    async def next(self) -> tuple[Sequence[int], bool]:
        """The tokens that came since, and whether they are the last. Cancelling it is safe.

        Raises:
            Exception: what the engine failed with.
        """
        item = await self._brought.get()
        if isinstance(item, Exception):
            raise item
        tokens, over = item
        new = tokens[self._taken :]
        self._taken += len(new)  # and not to the end: the engine may have said one more meanwhile
        return new, over


class Runner(Protocol):
    """A way to make replies with a loaded model."""

    places: int
    broken: bool
    """It makes no reply any more."""

    def answer(self, job: Job, let_go: Callable[[], None]) -> AsyncGenerator[Sequence[int], None]:
        """The tokens of a reply as they come, sometimes none as a sign of life; closing ends the reply.

        `let_go` is called when the engine is through with it, which may be later.

        Raises, while they are taken:
            AdapterError: the engine failed.
        """

    def warm_up(self, prompt: Sequence[int]) -> None:
        """One token: touches all weights. Blocks.

        Raises:
            AdapterError: it says none.
        """

    def stop(self) -> None:
        """Ends its threads; no reply may be open. Blocks."""

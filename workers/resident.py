"""One model in memory at a time, and who may use it now: an engine's worker serves all its clients with it.

1. Turns are granted in the order in which they were asked for. One for the model in memory is granted while
   the model has a free place; one for another model waits until the places are empty, then its model takes
   the other's place. So nobody waits for ever behind a stream of requests for the other model.
2. A turn is given back exactly once, by `release`; before it was granted, that gives up its place in line.
3. Loading is owned here: one who gives up his turn does not tear it apart. He asks it to stop, and a model
   that is there in spite of that stays for the next one.
4. When nobody is interested any more (`leave`), the model goes as soon as its places are empty.

It knows no engine: a Model is whatever `load` returns. It belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from workers.adapter import ReportProgress

__all__ = ["Model", "Resident", "Turn"]


class Model(Protocol):
    """A loaded model."""

    @property
    def places(self) -> int:
        """How many requests it serves at once."""

    def serves(self, wanted: Any) -> bool:
        """Whether it is what `wanted` describes."""

    async def close(self) -> None:
        """Gives its memory back; called once, when no place is taken."""


W = TypeVar("W")
M = TypeVar("M", bound=Model)


class Turn(Generic[W, M]):
    """One request's turn, asked for by `Resident.ask`."""

    def __init__(self, resident: Resident[W, M], wanted: W, report: ReportProgress) -> None:
        self._resident = resident
        self._granted: asyncio.Future[M] = asyncio.get_running_loop().create_future()
        self._released = False
        self.wanted = wanted
        self.report = report
        self.given_up = threading.Event()
        """A load for this turn should stop where it can; a thread reads it."""

    @property
    def model(self) -> M:
        """The model, once the turn is granted."""
        return self._granted.result()

    @property
    def ahead(self) -> int:
        """How many turns are before this one in the line."""
        return self._resident.ahead_of(self)

    async def granted(self, within_s: float) -> bool:
        """Waits for the turn, at most so long. Cancelling it is safe; the turn must still be released.

        Raises:
            AdapterError: the model cannot be loaded.
        """
        await asyncio.wait({self._granted}, timeout=within_s)
        if not self._granted.done():
            return False
        self._granted.result()
        return True

    def release(self) -> None:
        """Gives the turn back, or gives it up; a second call does nothing."""
        if self._released:
            return
        self._released = True
        self.given_up.set()
        self._resident.take_back(self, had_it=self.has_model)

    # ---- for Resident

    @property
    def has_model(self) -> bool:
        """Whether it holds a place."""
        return self._granted.done() and not self._granted.cancelled() and self._granted.exception() is None

    def grant(self, model: M) -> None:
        """It may begin."""
        self._granted.set_result(model)

    def refuse(self, error: BaseException) -> None:
        """Its model cannot be had."""
        self._granted.set_exception(error)
        self._granted.exception()  # also when nobody asks any more, it was looked at


class Resident(Generic[W, M]):
    """The one model, its places and the line before them."""

    def __init__(self, load: Callable[[Turn[W, M]], Awaitable[M]]) -> None:
        self._load = load
        self._model: M | None = None
        self._line: deque[Turn[W, M]] = deque()
        self._taken = 0
        self._interested = 0
        self._switching: asyncio.Task[None] | None = None

    def join(self) -> None:
        """Somebody may ask for a model from now on."""
        self._interested += 1

    async def leave(self) -> None:
        """He does not any more. Returns when the model is gone, if he was the last one and it is unused."""
        self._interested -= 1
        self._advance()
        if self._switching is not None and not self._interested:
            await asyncio.wait({self._switching})

    def ask(self, wanted: W, report: ReportProgress = lambda phase, message, fraction: None) -> Turn[W, M]:
        """A turn in the line, to be released in any case."""
        turn = Turn(self, wanted, report)
        self._line.append(turn)
        self._advance()
        return turn

    @property
    def taken(self) -> int:
        """How many requests the model serves now."""
        return self._taken

    @property
    def busy(self) -> bool:
        """Whether there is a model, or anybody who waits for one."""
        return self._model is not None or self._switching is not None or bool(self._line)

    def ahead_of(self, turn: Turn[W, M]) -> int:
        """How many turns are before this one in the line."""
        return self._line.index(turn) if turn in self._line else 0

    def take_back(self, turn: Turn[W, M], *, had_it: bool) -> None:
        """The turn is over, or nobody wants it any more."""
        if had_it:
            self._taken -= 1
        elif turn in self._line:
            self._line.remove(turn)
        self._advance()

    def _advance(self) -> None:
        """Grants what can be granted, and begins what must happen before the next grant."""
        while self._line and self._switching is None:
            turn = self._line[0]
            if self._model is None or not self._model.serves(turn.wanted):
                if not self._taken:
                    self._switch(turn)
                return
            if self._taken >= self._model.places:
                return
            self._line.popleft()
            self._taken += 1
            turn.grant(self._model)
        idle = not self._interested and not self._taken and self._switching is None
        if idle and self._model is not None:
            self._switch(None)

    def _switch(self, turn: Turn[W, M] | None) -> None:
        self._switching = asyncio.get_running_loop().create_task(self._switched(turn))
        self._switching.add_done_callback(partial(self._switch_over, turn))

    async def _switched(self, turn: Turn[W, M] | None) -> None:
        """The task of a switch: the old model goes, and the one for `turn` comes."""
        old, self._model = self._model, None
        if old is not None:
            await old.close()
        if turn is None or turn.given_up.is_set():
            return
        self._model = await self._load(turn)

    def _switch_over(self, turn: Turn[W, M] | None, task: asyncio.Task[None]) -> None:
        """The loop's callback at the end of a switch: whoever it was for hears of its failure."""
        self._switching = None
        error = None if task.cancelled() else task.exception()
        if error is not None and turn is not None and turn in self._line:
            self._line.remove(turn)
            turn.refuse(error)
        self._advance()

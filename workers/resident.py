"""The models in memory, and who may use them now: an engine's worker serves all its clients with them.

1. Turns are granted in the order in which they were asked for. One for a model in memory is granted while
   the model has a free place. One for another model waits until there is room (`keep` models, one unless the
   operator allows more) or until a model is unused: the one that was used longest ago goes. So nobody waits
   for ever behind a stream of requests for another model.
2. A turn is given back exactly once, by `release`; before it was granted, that gives up its place in line.
3. Loading is owned here: one who gives up his turn does not tear it apart. He asks it to stop, and a model
   that is there in spite of that stays for the next one.
4. When nobody is interested any more (`leave`), the model goes as soon as its places are empty; unless the
   last one who left wants it kept for whoever comes next, until the process ends.
5. Whatever comes and goes is told, when it does.

It knows no engine: a Model is whatever `load` returns. It belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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


@dataclass(eq=False, slots=True)
class _Held(Generic[M]):
    """A model in memory, and how many requests it serves."""

    model: M
    wanted: Any
    """As it was asked for when it was loaded."""
    taken: int = 0


class Turn(Generic[W, M]):
    """One request's turn, asked for by `Resident.ask`."""

    def __init__(self, resident: Resident[W, M], wanted: W, report: ReportProgress) -> None:
        self._resident = resident
        self._granted: asyncio.Future[_Held[M]] = asyncio.get_running_loop().create_future()
        self._released = False
        self.wanted = wanted
        self.report = report
        self.given_up = threading.Event()
        """A load for this turn should stop where it can; a thread reads it."""

    @property
    def model(self) -> M:
        """The model, once the turn is granted."""
        return self._granted.result().model

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
        self._resident.take_back(self, self._held)

    # ---- for Resident

    @property
    def _held(self) -> _Held[M] | None:
        """The model of which it holds a place."""
        done = self._granted.done() and not self._granted.cancelled()
        return self._granted.result() if done and self._granted.exception() is None else None

    def grant(self, held: _Held[M]) -> None:
        """It may begin."""
        self._granted.set_result(held)

    def refuse(self, error: BaseException) -> None:
        """Its model cannot be had."""
        self._granted.set_exception(error)
        self._granted.exception()  # also when nobody asks any more, it was looked at


class Resident(Generic[W, M]):
    """The models, their places and the line before them."""

    def __init__(self, load: Callable[[Turn[W, M]], Awaitable[M]]) -> None:
        self._load = load
        self._held: list[_Held[M]] = []
        """The one that was used last is the last."""
        self._line: deque[Turn[W, M]] = deque()
        self._interested = 0
        self._switching: asyncio.Task[None] | None = None
        self.keep = 1
        """How many models may be in memory."""
        self._kept = False
        """Whether the last one who left wants the models to stay."""
        self.tell: Callable[[str, W], None] = lambda event, wanted: None
        """Hears that a model is `loading`, is `loaded`, `failed` to load, or is `gone`."""

    def join(self) -> None:
        """Somebody may ask for a model from now on."""
        self._interested += 1

    async def leave(self, *, keep: bool = False) -> None:
        """He does not any more. Returns when all unused models are gone, if he was the last one and does not
        want them kept."""
        self._interested -= 1
        self._kept = keep
        self._advance()
        while self._switching is not None and not self._interested:
            await asyncio.wait({self._switching})

    def ask(self, wanted: W, report: ReportProgress = lambda phase, message, fraction: None) -> Turn[W, M]:
        """A turn in the line, to be released in any case."""
        turn = Turn(self, wanted, report)
        self._line.append(turn)
        self._advance()
        return turn

    def ready_for(self, wanted: W) -> bool:
        """Whether it is in memory, and nobody in the line wants another one in its place."""
        held = next((held.model for held in self._held if held.model.serves(wanted)), None)
        return held is not None and all(held.serves(turn.wanted) for turn in self._line)

    @property
    def taken(self) -> int:
        """How many requests are served now."""
        return sum(held.taken for held in self._held)

    @property
    def busy(self) -> bool:
        """Whether there is a model, or anybody who waits for one."""
        return bool(self._held) or self._switching is not None or bool(self._line)

    def ahead_of(self, turn: Turn[W, M]) -> int:
        """How many turns are before this one in the line."""
        return self._line.index(turn) if turn in self._line else 0

    def take_back(self, turn: Turn[W, M], held: _Held[M] | None) -> None:
        """The turn is over, or nobody wants it any more; `held` is what it had."""
        if held is not None:
            held.taken -= 1
        elif turn in self._line:
            self._line.remove(turn)
        self._advance()

    def _advance(self) -> None:
        """Grants what can be granted, and begins what must happen before the next grant."""
        while self._line and self._switching is None:
            turn = self._line[0]
            held = next((held for held in self._held if held.model.serves(turn.wanted)), None)
            if held is None:
                self._make_room(turn)
                return
            if held.taken >= held.model.places:
                return
            self._line.popleft()
            held.taken += 1
            self._held.remove(held)
            self._held.append(held)
            turn.grant(held)
        if not self._interested and not self._kept and self._switching is None:
            unused = self._unused()
            if unused is not None:
                self._switch(unused, None)

    def _unused(self) -> _Held[M] | None:
        """The model that nobody uses, and nobody has used for longest."""
        return next((held for held in self._held if not held.taken), None)

    def _make_room(self, turn: Turn[W, M]) -> None:
        """Begins to load the model of a turn, if one may be loaded now."""
        if len(self._held) < self.keep:
            self._switch(None, turn)
        elif (unused := self._unused()) is not None:
            self._switch(unused, turn)

    def _switch(self, old: _Held[M] | None, turn: Turn[W, M] | None) -> None:
        self._switching = asyncio.get_running_loop().create_task(self._switched(old, turn))
        self._switching.add_done_callback(partial(self._switch_over, turn))

    async def _switched(self, old: _Held[M] | None, turn: Turn[W, M] | None) -> None:
        """The task of a switch: the old model goes, and the one for `turn` comes."""
        if old is not None:
            self._held.remove(old)
            await old.model.close()
            self.tell("gone", old.wanted)
        if turn is None or turn.given_up.is_set():
            return
        self.tell("loading", turn.wanted)
        try:
            self._held.append(_Held(await self._load(turn), turn.wanted))
        except BaseException:
            self.tell("failed", turn.wanted)
            raise
        self.tell("loaded", turn.wanted)

    def _switch_over(self, turn: Turn[W, M] | None, task: asyncio.Task[None]) -> None:
        """The loop's callback at the end of a switch: whoever it was for hears of its failure."""
        self._switching = None
        error = None if task.cancelled() else task.exception()
        if error is not None and turn is not None and turn in self._line:
            self._line.remove(turn)
            turn.refuse(error)
        self._advance()

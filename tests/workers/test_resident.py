"""The models in memory: who may use it when, and what becomes of loads that nobody wants any more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from workers.adapter import AdapterError
from workers.codes import Code
from workers.resident import Resident, Turn

WAIT_S = 5.0


class Model:
    """Serves its name, two requests at once."""

    places = 2

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self._log = log

    def serves(self, wanted: Any) -> bool:
        return bool(wanted == self.name)

    async def close(self) -> None:
        self._log.append(f"-{self.name}")


class Rig:
    """A Resident whose loads wait to be told, and a log of them."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.news: list[str] = []
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.failure: Exception | None = None
        self.resident: Resident[str, Model] = Resident(self._load)
        self.resident.tell = lambda event, wanted: self.news.append(f"{event} {wanted}")
        self.resident.join()

    async def _load(self, turn: Turn[str, Model]) -> Model:
        await self.may_load.wait()
        if turn.given_up.is_set():
            raise AdapterError(Code.INTERRUPT, "stopped")
        if self.failure is not None:
            raise self.failure
        self.log.append(f"+{turn.wanted}")
        return Model(turn.wanted, self.log)

    async def turn(self, name: str) -> Turn[str, Model]:
        turn = self.resident.ask(name)
        assert await turn.granted(WAIT_S)
        return turn


async def test_a_model_is_loaded_once_for_all_who_want_it() -> None:
    rig = Rig()
    first, second = await rig.turn("a"), await rig.turn("a")
    assert first.model is second.model
    assert (rig.log, rig.resident.taken) == (["+a"], 2)


async def test_a_third_waits_for_a_place() -> None:
    rig = Rig()
    first, _ = await rig.turn("a"), await rig.turn("a")
    third = rig.resident.ask("a")
    assert not await third.granted(0)
    first.release()
    assert await third.granted(WAIT_S)


async def test_another_model_waits_until_the_places_are_empty() -> None:
    rig = Rig()
    first, second = await rig.turn("a"), await rig.turn("a")
    other = rig.resident.ask("b")
    first.release()
    assert not await other.granted(0)
    second.release()
    assert await other.granted(WAIT_S)
    assert rig.log == ["+a", "-a", "+b"]


async def test_nobody_overtakes_one_who_waits_for_another_model() -> None:
    rig = Rig()
    first = await rig.turn("a")
    other, late = rig.resident.ask("b"), rig.resident.ask("a")
    assert not await late.granted(0), "though a place is free"
    assert (other.ahead, late.ahead) == (0, 1)
    first.release()
    assert await other.granted(WAIT_S)
    other.release()
    assert await late.granted(WAIT_S)
    assert rig.log == ["+a", "-a", "+b", "-b", "+a"]


async def test_one_who_gives_up_in_the_line_is_passed_over() -> None:
    rig = Rig()
    first = await rig.turn("a")
    rig.resident.ask("b").release()
    assert await rig.resident.ask("a").granted(WAIT_S)
    first.release()
    first.release()
    assert (rig.log, rig.resident.taken) == (["+a"], 1)


async def test_one_who_gives_up_during_his_load_stops_it() -> None:
    rig = Rig()
    rig.may_load.clear()
    turn = rig.resident.ask("a")
    assert not await turn.granted(0)
    turn.release()
    next_one = rig.resident.ask("b")
    rig.may_load.set()
    assert await next_one.granted(WAIT_S)
    assert rig.log == ["+b"]


@pytest.mark.parametrize("failure", [AdapterError(Code.INVALID_MODEL, "No."), KeyError("a bug")])
async def test_a_load_that_fails_fails_for_the_one_who_wanted_it(failure: Exception) -> None:
    rig = Rig()
    rig.failure = failure
    turn = rig.resident.ask("a")
    with pytest.raises(type(failure)):
        await turn.granted(WAIT_S)
    turn.release()
    rig.failure = None
    assert (await rig.turn("a")).model.name == "a"


async def test_the_last_one_to_leave_takes_the_model_along() -> None:
    rig = Rig()
    rig.resident.join()
    (await rig.turn("a")).release()
    await rig.resident.leave()
    assert rig.log == ["+a"]
    await rig.resident.leave()
    assert rig.log == ["+a", "-a"]
    assert not rig.resident.busy


async def test_a_model_in_use_goes_when_its_last_request_has_ended() -> None:
    rig = Rig()
    turn = await rig.turn("a")
    await rig.resident.leave()
    assert rig.log == ["+a"]
    turn.release()
    rig.resident.join()
    await rig.resident.leave()  # which waits for what has begun
    assert rig.log == ["+a", "-a"]


async def test_a_model_stays_for_the_next_one_if_the_last_one_who_left_wants_that() -> None:
    rig = Rig()
    (await rig.turn("a")).release()
    await rig.resident.leave(keep=True)
    assert rig.log == ["+a"]
    rig.resident.join()
    (await rig.turn("a")).release()
    await rig.resident.leave()
    assert rig.log == ["+a", "-a"]


async def test_one_who_wants_it_kept_and_is_not_the_last_does_not_decide() -> None:
    rig = Rig()
    rig.resident.join()
    (await rig.turn("a")).release()
    await rig.resident.leave(keep=True)
    await rig.resident.leave()
    assert rig.log == ["+a", "-a"]


async def test_a_model_is_ready_while_nobody_wants_another_one_in_its_place() -> None:
    rig = Rig()
    assert not rig.resident.ready_for("a")
    turn = await rig.turn("a")
    assert rig.resident.ready_for("a")
    assert not rig.resident.ready_for("b")
    other = rig.resident.ask("b")
    assert not rig.resident.ready_for("a"), "it will have gone soon"
    other.release()
    turn.release()


# ---- several models


async def test_what_comes_and_goes_is_told_when_it_does() -> None:
    rig = Rig()
    (await rig.turn("a")).release()
    (await rig.turn("b")).release()
    rig.failure = AdapterError(Code.INVALID_MODEL, "broken")
    with pytest.raises(AdapterError):
        await rig.turn("c")
    await rig.resident.leave()
    assert rig.news == [
        *("loading a", "loaded a", "gone a"),
        *("loading b", "loaded b", "gone b"),
        *("loading c", "failed c"),
    ]


async def test_with_room_for_two_the_one_that_was_used_longest_ago_goes() -> None:
    rig = Rig()
    rig.resident.keep = 2
    for name in ("a", "b", "a"):
        (await rig.turn(name)).release()
    (await rig.turn("c")).release()
    assert rig.log == ["+a", "+b", "-b", "+c"]
    await rig.resident.leave()
    assert rig.log == ["+a", "+b", "-b", "+c", "-a", "-c"]
    assert not rig.resident.busy


async def test_a_model_in_use_does_not_go_for_another_one() -> None:
    rig = Rig()
    rig.resident.keep = 2
    first, second = await rig.turn("a"), await rig.turn("b")
    third = rig.resident.ask("c")
    assert not await third.granted(0)
    assert rig.resident.taken == 2
    second.release()
    assert await third.granted(WAIT_S)
    assert rig.log == ["+a", "+b", "-b", "+c"]
    assert (first.model.name, third.model.name) == ("a", "c")
    first.release()
    third.release()
    await rig.resident.leave()


async def test_two_models_serve_side_by_side() -> None:
    rig = Rig()
    rig.resident.keep = 2
    turns = [await rig.turn(name) for name in ("a", "b", "a", "b")]
    assert rig.resident.taken == 4
    assert rig.log == ["+a", "+b"]
    for turn in turns:
        turn.release()
    await rig.resident.leave()

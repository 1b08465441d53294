"""What is done after a request: it goes on when its caller does not, and holds nothing up."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.bound import cancelled
from workers import afterwards, bindings
from workers.adapters import ai_horde, replicate
from workers.afterwards import Afterwards


class Work:
    """Something to do, which waits to be let go."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.ends: list[str] = []

    async def __call__(self) -> None:
        self.begun.set()
        try:
            await self.go_on.wait()
            self.ends.append("done")
        except asyncio.CancelledError:
            self.ends.append("ended")
            raise


async def test_work_that_is_quick_is_done_when_its_caller_goes_on() -> None:
    work = Work()
    work.go_on.set()
    await Afterwards().do(work())
    assert work.ends == ["done"]


async def test_a_caller_that_is_cancelled_leaves_the_work_going_on() -> None:
    work, kept = Work(), Afterwards()
    caller = asyncio.ensure_future(kept.do(work()))
    await asyncio.wait_for(work.begun.wait(), 5)
    await cancelled(caller)
    work.go_on.set()
    await kept.close()
    assert work.ends == ["done"]


async def test_work_that_hangs_holds_up_neither_its_caller_nor_a_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(afterwards, "WAIT_S", 0.01)
    monkeypatch.setattr(afterwards, "CLOSE_S", 0.01)
    work, kept = Work(), Afterwards()
    await kept.do(work())
    assert work.ends == []
    await kept.close()
    assert work.ends == ["ended"]


class Beginning:
    """Something that is begun at a provider, and what of it was ended there."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.ended: list[str] = []

    async def __call__(self) -> str:
        self.asked.set()
        return await self.answer

    async def end(self, begun: str) -> None:
        self.ended.append(begun)

    async def left(self, kept: Afterwards, *, grace_s: float) -> asyncio.Future[str]:
        """Begins it, and leaves while it is being asked for."""
        caller = asyncio.ensure_future(kept.begun(self(), self.end, grace_s=grace_s))
        await asyncio.wait_for(self.asked.wait(), 5)
        caller.cancel()
        return caller


async def test_what_is_begun_and_wanted_is_given_and_not_ended() -> None:
    beginning = Beginning()
    beginning.answer.set_result("a job")
    assert await Afterwards().begun(beginning(), beginning.end, grace_s=5) == "a job"
    assert beginning.ended == []


async def test_what_is_begun_after_its_caller_has_left_is_ended() -> None:
    beginning, kept = Beginning(), Afterwards()
    caller = await beginning.left(kept, grace_s=5)
    beginning.answer.set_result("a job")
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert beginning.ended == ["a job"]


async def test_what_fails_to_begin_is_not_ended() -> None:
    beginning, kept = Beginning(), Afterwards()
    caller = await beginning.left(kept, grace_s=5)
    beginning.answer.set_exception(OSError("gone"))
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert beginning.ended == []


async def test_what_does_not_begin_within_its_grace_is_given_up() -> None:
    beginning, kept = Beginning(), Afterwards()
    with pytest.raises(asyncio.CancelledError):
        await (await beginning.left(kept, grace_s=0.0))
    await kept.close()
    assert (beginning.answer.cancelled(), beginning.ended) == (True, [])


async def test_a_close_waits_for_what_is_just_being_begun_and_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(afterwards, "WAIT_S", 0.0)
    beginning, kept = Beginning(), Afterwards()
    with pytest.raises(asyncio.CancelledError):
        await (await beginning.left(kept, grace_s=5))
    closing = asyncio.ensure_future(kept.close())
    await asyncio.sleep(0)  # the close waits by now
    beginning.answer.set_result("a job")
    await asyncio.wait_for(closing, 5)
    assert beginning.ended == ["a job"]


async def test_a_close_leaves_nothing_behind_that_is_still_being_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(afterwards, "WAIT_S", 0.0)
    monkeypatch.setattr(afterwards, "CLOSE_S", 0.0)
    beginning, kept = Beginning(), Afterwards()
    with pytest.raises(asyncio.CancelledError):
        await (await beginning.left(kept, grace_s=5))
    await kept.close()
    assert (beginning.answer.cancelled(), beginning.ended) == (True, [])


def test_a_close_is_over_before_an_adapter_is_given_up() -> None:
    grace_s = max(replicate.BEGIN_GRACE_S, ai_horde.LET_GO_S)
    assert grace_s < afterwards.CLOSE_S
    assert afterwards.CLOSE_S + afterwards.ENDED_S < bindings.CLOSE_MAX_S


async def test_a_close_without_work_is_one() -> None:
    await Afterwards().close()

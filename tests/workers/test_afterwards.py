"""What is done after a request: it goes on when its caller does not, and holds nothing up."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.bound import cancelled
from workers import afterwards
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
    work, kept = Work(), Afterwards()
    await kept.do(work())
    assert work.ends == []
    await kept.close()
    await asyncio.sleep(0)
    assert work.ends == ["ended"]


async def test_a_close_without_work_is_one() -> None:
    await Afterwards().close()

"""One reply between an engine's thread and the loop that takes it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from workers.token_choice import LIKELIEST
from workers.token_job import Job


def made() -> Job:
    return Job([1, 2, 3], limit=10, ends=frozenset({9}), choice=LIKELIEST)


async def test_what_comes_is_taken_once() -> None:
    job = made()
    job.bring([5], over=False)
    job.bring((), over=False)
    job.bring([5, 6, 7], over=False)
    job.bring([5, 6, 7, 9], over=True)
    assert [await job.next() for _ in range(4)] == [([5], False), ((), False), ([6, 7], False), ([9], True)]


class Growing(list[int]):
    """What an engine goes on appending to, in its own thread; here between two looks at it."""

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        if len(self) < 3:
            self.append(len(self))
        return found


async def test_a_token_that_is_said_while_others_are_taken_is_not_lost() -> None:
    job, said = made(), Growing([0])
    for over in (False, False, True):
        job.bring(said, over=over)
    taken = [(await job.next())[0] for _ in range(3)]
    assert [token for tokens in taken for token in tokens] == [0, 1, 2]


async def test_it_is_brought_from_a_thread() -> None:
    job = made()
    thread = threading.Thread(target=job.bring, args=([5],), kwargs={"over": True})
    thread.start()
    assert await job.next() == ([5], True)
    thread.join()


async def test_what_went_wrong_is_raised_where_it_is_taken() -> None:
    job = made()
    job.fail(RuntimeError("no"))
    with pytest.raises(RuntimeError, match="no"):
        await job.next()


async def test_each_has_a_name_of_its_own() -> None:
    assert made().id != made().id


def test_nothing_is_brought_into_a_loop_that_is_closed() -> None:
    async def begin() -> Job:
        return made()

    asyncio.run(begin()).bring([5], over=True)

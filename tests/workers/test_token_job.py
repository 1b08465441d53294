"""One reply between an engine's thread and the loop that takes it."""

from __future__ import annotations

import asyncio
import threading

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

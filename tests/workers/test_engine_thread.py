"""Pieces that a thread brings: in order, up to the end, an error, or a loss of interest."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from workers.adapter import AdapterError
from workers.codes import Code
from workers.engine_thread import Pieces, Take


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def pieces(threads: ThreadPoolExecutor, run: Callable[[Take[int]], None]) -> Pieces[int]:
    return Pieces[int](
        threads, run, lambda error: AdapterError(Code.INVALID_PROMPT, str(error)), (ValueError,)
    )


async def test_pieces_come_in_order_and_end(threads: ThreadPoolExecutor) -> None:
    def run(take: Take[int]) -> None:
        for number in range(5):
            take(number)

    assert [piece async for piece in pieces(threads, run).taken()] == [0, 1, 2, 3, 4]


async def test_an_error_comes_after_the_pieces_before_it(threads: ThreadPoolExecutor) -> None:
    def run(take: Take[int]) -> None:
        take(1)
        raise ValueError("no more")

    found = []
    with pytest.raises(AdapterError, match="no more"):
        async for piece in pieces(threads, run).taken():
            found.append(piece)  # noqa: PERF401 - what came before the error is looked at
    assert found == [1]


async def test_whoever_loses_interest_stops_the_thread(threads: ThreadPoolExecutor) -> None:
    stopped = threading.Event()

    def run(take: Take[int]) -> None:
        while not take(1):
            pass
        stopped.set()

    begun = pieces(threads, run)
    async with contextlib.aclosing(begun.taken()) as taken:
        await anext(taken)
    assert stopped.is_set()
    assert begun.work.done()


async def test_an_engine_that_does_not_let_go_is_not_waited_for(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.engine_thread.STOP_MAX_S", 0.01)
    go_on = threading.Event()

    def run(take: Take[int]) -> None:
        take(1)
        go_on.wait(5.0)

    begun = pieces(threads, run)
    async with contextlib.aclosing(begun.taken()) as taken:
        await anext(taken)
    assert not begun.work.done()
    go_on.set()
    await asyncio.wait({begun.work}, timeout=5.0)
    assert begun.work.done()


async def test_an_engine_that_breaks_in_a_way_of_its_own_ends_the_request(
    threads: ThreadPoolExecutor,
) -> None:
    class Panic(BaseException):
        """As the bridge to Rust raises it."""

    def run(take: Take[int]) -> None:
        take(1)
        raise Panic

    with pytest.raises(AdapterError) as caught:
        assert [piece async for piece in pieces(threads, run).taken()] == [1]
    assert caught.value.code is Code.UPSTREAM_ERROR

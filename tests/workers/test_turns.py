"""A turn is of one owner, is given on in the order of asking, and is gone when nobody needs it."""

from __future__ import annotations

import asyncio

from tests.fakes.bound import cancelled
from workers.turns import turn_of


async def test_a_turn_is_shared_by_those_of_one_owner_and_by_no_others() -> None:
    turn = turn_of("a")
    assert turn_of("a") is turn
    assert turn_of("b") is not turn


async def test_a_turn_is_gone_when_nobody_holds_it_and_nobody_waits() -> None:
    async with turn_of("a"):
        assert turn_of("a").locked()
    assert not turn_of("a").locked()


async def test_a_turn_is_given_on_in_order_and_not_to_one_that_has_gone() -> None:
    order = []

    async def take(name: str) -> None:
        async with turn_of("a"):
            order.append(name)
            await asyncio.sleep(0)

    async with turn_of("a"):
        first, gone, last = (asyncio.ensure_future(take(name)) for name in ("first", "gone", "last"))
        await asyncio.sleep(0)
        await cancelled(gone)
    await asyncio.gather(first, last)
    assert order == ["first", "last"]

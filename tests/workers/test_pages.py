"""A list in pages ends where it says so, or where nobody would read on, and never takes too long."""

from __future__ import annotations

from typing import Any

from workers.pages import PAGES_MAX, all_pages


def following(page: Any) -> str:
    """Each page of these is the number of the next one."""
    return f"&after={page}" if page else ""


async def test_each_page_is_asked_for_by_what_the_one_before_says() -> None:
    asked: list[str] = []

    async def get(path: str, timeout_s: float) -> int:
        asked.append(path)
        return (7, 8, 0)[len(asked) - 1]

    assert await all_pages(get, "/models?size=2", 5.0, following) == [7, 8, 0]
    assert asked == ["/models?size=2", "/models?size=2&after=7", "/models?size=2&after=8"]


async def test_a_list_without_an_end_is_left_and_its_time_is_shared() -> None:
    left: list[float] = []

    async def get(path: str, timeout_s: float) -> int:
        left.append(timeout_s)
        return 1

    assert await all_pages(get, "/models", 5.0, following) == [1] * PAGES_MAX
    assert all(0 <= seconds <= 5.0 for seconds in left)
    assert left == sorted(left, reverse=True)

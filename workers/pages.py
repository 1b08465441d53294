"""A list that comes in pages: all of them, within one time limit and a number of pages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

__all__ = ["all_pages"]

PAGES_MAX: Final = 4
"""No list that is worth showing has more; one that names itself as its next page never ends."""


async def all_pages(
    get: Callable[[str, float], Awaitable[Any]],
    path: str,
    timeout_s: float,
    following: Callable[[Any], str],
) -> list[Any]:
    """What `get` answers for `path`, then for `path` and what `following` finds in the page before, until
    that is nothing. Cancelling it is safe.

    Raises:
        AdapterError: whatever `get` raises.
    """
    loop = asyncio.get_running_loop()
    ends = loop.time() + timeout_s
    pages: list[Any] = []
    after = ""
    for _ in range(PAGES_MAX):
        page = await get(path + after, max(ends - loop.time(), 0))
        pages.append(page)
        after = following(page)
        if not after:
            break
    return pages

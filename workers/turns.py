"""Whose turn it is: a lock for each owner, for providers that make one reply at a time for each key.

All adapters of a process share it, whichever connection they belong to. A lock is there as long as somebody
holds it or waits for it. Who waits gets it in the order of asking, and may be cancelled at any moment.
"""

from __future__ import annotations

import asyncio
from typing import Final
from weakref import WeakValueDictionary

__all__ = ["turn_of"]

_TURNS: Final[WeakValueDictionary[str, asyncio.Lock]] = WeakValueDictionary()


def turn_of(owner: str) -> asyncio.Lock:
    """The lock that everybody shares who acts for that owner; the caller keeps it while it needs it."""
    lock = _TURNS.get(owner)
    if lock is None:
        lock = _TURNS[owner] = asyncio.Lock()
    return lock

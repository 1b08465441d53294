"""Loads and ends of processes, again and again: what the module has after each, and whether any of it grows.

    growth = await cycles(module, load, process_ends, count=30)
    growth.check()

`load` loads a model over a new connection and says something; `process_ends` waits for the end of it. What
must not grow are things that can be counted, and memory.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import psutil

from tests.e2e.client import Client, connect
from tests.e2e.module import Module
from tests.wheelhouse import wait_until

__all__ = ["Growth", "Held", "cycles", "process_ends"]

WARM_CYCLES: Final = 10
"""The first ones fill caches; from then on nothing may come."""
SUPERVISOR_MAX_BYTES: Final = 1 << 20
"""What its memory may be more after all of them: 30 loads that each kept 36 KB would be noticed. It was
20 KB after 200."""
BACK_SHARE: Final = 1.05
"""Of the memory before the first load, supervisor and workers together."""
END_S: Final = 10.0

Load: TypeAlias = Callable[[Client], Awaitable[object]]
End: TypeAlias = Callable[[Module, int], None]
"""Waits for the end of the load of that number."""


@dataclass(frozen=True, slots=True)
class Held:
    """What the module has at one moment."""

    counted: dict[str, int]
    """Descriptors and threads of the supervisor, and processes below it."""
    supervisor_bytes: int
    workers_bytes: int


@dataclass(slots=True)
class Growth:
    """What the module had before the first load, with a model after each, and after each end."""

    before: Held
    loaded: list[Held] = field(default_factory=list)
    ended: list[Held] = field(default_factory=list)

    def check(self) -> None:
        """Nothing that can be counted is more at the end than it was when all was warm, and no memory grew
        beyond its bound."""
        for moments in (self.loaded, self.ended):
            warm, last = moments[min(WARM_CYCLES, len(moments) // 2)], moments[-1]
            assert last.counted == warm.counted
            assert last.supervisor_bytes - warm.supervisor_bytes < SUPERVISOR_MAX_BYTES

    def check_given_back(self) -> None:
        """After the first end and after the last one the module has what it had before the first load."""
        before = self.before.supervisor_bytes + self.before.workers_bytes
        for moment in (self.ended[0], self.ended[-1]):
            assert moment.supervisor_bytes + moment.workers_bytes <= before * BACK_SHARE

    def row(self) -> str:
        """The figures of memory in MiB: the supervisor, and all that is below it."""
        warm = self.ended[min(WARM_CYCLES, len(self.ended) // 2)]
        moments = (self.before, self.loaded[0], self.ended[0], warm, self.loaded[-1], self.ended[-1])
        return "  ".join(f"{m.supervisor_bytes / 2**20:.1f} + {m.workers_bytes / 2**20:.1f}" for m in moments)


async def cycles(module: Module, load: Load, end: End, count: int) -> Growth:
    """So many times: a new connection loads and leaves, and `end` waits for what then has to end."""
    async with connect(module) as client:  # from here on what samples processes is in the supervisor's memory
        await client.ask({"type": "status", "unique_request_id": "before"}, "status_done")
    growth = Growth(held(module))
    for number in range(1, count + 1):
        async with connect(module) as client:
            await load(client)
            growth.loaded.append(held(module))
        await asyncio.to_thread(end, module, number)
        growth.ended.append(held(module))
    return growth


def process_ends(module: Module, number: int) -> None:
    """The worker's process ends, and gives back all that it had."""
    wait_until(lambda: len(module.family()) == 1, "the end of the worker", END_S)


def held(module: Module) -> Held:
    """What the module has now."""
    supervisor, *below = module.family()
    counted = {"threads": supervisor.num_threads(), "processes below": len(below)}
    if sys.platform != "win32":  # its handles come and go by themselves
        counted["descriptors"] = supervisor.num_fds()
    sizes = [_resident_bytes(process) for process in (supervisor, *below)]
    return Held(counted, sizes[0], sum(sizes[1:]))


def _resident_bytes(process: psutil.Process) -> int:
    size: int = process.memory_info().rss
    return size

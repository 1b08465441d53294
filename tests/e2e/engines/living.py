"""Rows about the life of a process: what it leaves after many loads, and when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import psutil
import pytest

from tests.e2e.engines.stage import Stage
from tests.wheelhouse import wait_until

__all__ = ["Living"]

CYCLES: Final = 200
WARM_CYCLES: Final = 50
"""Until then allocators are still taking what they will keep."""
WORKER_GROWTH_MAX_BYTES: Final = 32 << 20
"""Less than eight of 150 models and their contexts would leave behind."""
SUPERVISOR_GROWTH_MAX_BYTES: Final = 2 << 20
"""For 150 connections and loads: fourteen kilobytes each would be a leak."""
LEFT_MAX: Final = 15
"""Threads and open files: asyncio's pool may grow by some, and a leak would be one for each of 150 cycles."""
BRIEF_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Size:
    """What one process has of the machine."""

    memory_bytes: int
    threads: int
    files: int

    @classmethod
    def of(cls, process: psutil.Process) -> Size:
        """As the system tells it now."""
        files: Any = getattr(process, "num_fds", None) or getattr(process, "num_handles")  # noqa: B009
        return cls(process.memory_info().rss, process.num_threads(), files())


class Living:
    """How a process lives."""

    @pytest.mark.timeout(600)
    async def test_two_hundred_loads_and_unloads_leave_nothing(self, stage: Stage) -> None:
        supervisor = psutil.Process(stage.module.process.pid)
        early: list[Size] = []
        for number, model in enumerate(_alternating()):
            async with stage.talk(model) as talk:
                reply = await talk.say(max_output_length=2)
                assert reply.end["model"] == model, "the one before has gone, since one is kept in memory"
                (worker,) = stage.module.workers()
                if number == WARM_CYCLES:
                    early = [Size.of(supervisor), Size.of(worker)]
        late = [Size.of(supervisor), Size.of(worker)]
        limits = (SUPERVISOR_GROWTH_MAX_BYTES, WORKER_GROWTH_MAX_BYTES)
        for before, after, limit in zip(early, late, limits, strict=True):
            assert after.memory_bytes - before.memory_bytes < limit, (before, after)
            assert after.threads - before.threads < LEFT_MAX, (before, after)
            assert after.files - before.files < LEFT_MAX, (before, after)
        assert len(stage.module.family()) == 3, "the supervisor, the nanny, the worker"

    async def test_keep_alive_ends_the_process_and_the_next_request_starts_it(self, stage: Stage) -> None:
        async with stage.talk("tiny", keep_alive=BRIEF_S) as talk:
            said = await talk.works()
            (worker,) = stage.module.workers()
            await asyncio.to_thread(wait_until, lambda: not worker.is_running(), "the process's end")
            await asyncio.to_thread(wait_until, lambda: len(stage.module.family()) == 1, "the nanny's end")
            assert await talk.works() == said
            assert stage.module.workers() != [worker]

    async def test_keep_alive_for_ever_keeps_the_process(self, stage: Stage) -> None:
        async with stage.talk("tiny", keep_alive=-1) as talk:
            await talk.works()
            (worker,) = stage.module.workers()
        async with stage.talk("tiny") as other:
            await other.works()
            assert stage.module.workers() == [worker]


def _alternating() -> Iterator[str]:
    for number in range(CYCLES):
        yield ("tiny", "other")[number % 2]

"""Watching, on a real process (this one or a child) and a worker that only remembers what was asked of it."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from supervisor.heartbeat import Condition, HeartbeatLimits
from supervisor.providers import Provider
from supervisor.watch import Watch, WatchLimits
from supervisor.worker import WorkerLimits
from tests.supervisor.fakes import WAIT_S, soon
from workers.codes import Code

NEVER_S = 1e6
BEAT_S = 0.01


class Remembering:
    """A worker that answers as the test says."""

    def __init__(self) -> None:
        self.pings: list[int] = []
        self.asked_for_stacks = 0
        self.ends: list[tuple[str, Code, bool]] = []
        self.excused = False
        self.answer: Callable[[int], None] = lambda serial: None
        self.changed = asyncio.Event()

    def ping(self, serial: int) -> None:
        self.pings.append(serial)
        self.answer(serial)
        self.changed.set()

    def ask_for_stacks(self) -> None:
        self.asked_for_stacks += 1

    def is_excused(self) -> bool:
        return self.excused

    def end(self, words: str, *, code: Code, hung: bool) -> None:
        self.ends.append((words, code, hung))
        self.changed.set()

    async def until(self, true: Callable[[], bool]) -> None:
        while not true():
            self.changed.clear()
            await soon(self.changed.wait())


class Room:
    """Starts watches and cancels them at the end."""

    def __init__(self) -> None:
        self.worker = Remembering()
        self.tasks: list[asyncio.Task[None]] = []

    def watch(
        self, pid: int, *, report_s: float = NEVER_S, hung_s: float = NEVER_S, **limits: Any
    ) -> tuple[Watch, asyncio.Task[None]]:
        memory = {"memory_soft_mb": 0, "memory_hard_mb": 0, "memory_setting": "worker.x", **limits}
        heartbeat = HeartbeatLimits(report_s, hung_s, hung_s, load_s=NEVER_S)
        watch = Watch(self.worker, "demo", pid, WatchLimits(BEAT_S, heartbeat, **memory))
        task = asyncio.create_task(watch.run())
        self.tasks.append(task)
        return watch, task


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    made = Room()
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)


@pytest.fixture
def still() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        yield child
        child.kill()


async def test_it_pings_at_the_interval_and_knows_memory_and_processor_time(room: Room) -> None:
    watch, _ = room.watch(os.getpid())
    await room.worker.until(lambda: len(room.worker.pings) >= 5)
    assert room.worker.pings[:5] == [1, 2, 3, 4, 5]
    assert watch.memory_bytes is not None
    assert watch.memory_bytes > 1 << 20
    assert watch.cpu_s is not None
    assert watch.cpu_percent is not None
    assert room.worker.ends == []


async def test_a_model_that_comes_or_goes_is_sampled_in_that_moment(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    watch, _ = room.watch(os.getpid())
    await room.worker.until(lambda: watch.memory_bytes is not None)
    with caplog.at_level(logging.INFO, "supervisor.model_memory"):
        for event in ("loading", "loaded", "gone"):
            watch.memory_bytes = None
            watch.model_news(event, "tiny")
            assert watch.memory_bytes is not None
    assert [line.partition(" ms=")[0].partition(" before")[0] for line in caplog.messages] == [
        f"model {what} provider=demo pid={os.getpid()} model='tiny'" for what in ("loaded", "gone")
    ]


async def test_answers_keep_a_worker_well(room: Room) -> None:
    watch, _ = room.watch(os.getpid(), report_s=NEVER_S, hung_s=BEAT_S * 1000)
    loop = asyncio.get_running_loop()

    def answer(serial: int) -> None:
        for source in ("thread", "loop"):
            watch.pulse.pong(serial, source, loop.time())

    room.worker.answer = answer
    await room.worker.until(lambda: len(room.worker.pings) >= 10)
    assert watch.pulse.condition is Condition.WELL
    assert watch.pulse.round_trip_s is not None


async def test_silence_is_reported_with_stacks_and_then_ended_as_hung(
    room: Room, still: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    room.watch(still.pid, report_s=BEAT_S * 3, hung_s=BEAT_S * 8)
    await room.worker.until(lambda: bool(room.worker.ends))
    words, code, hung = room.worker.ends[0]
    assert "it did not answer for" in words
    assert (code, hung) == (Code.WORKER_CRASHED, True)
    assert room.worker.asked_for_stacks == 1
    (report,) = [r for r in caplog.records if r.getMessage().startswith("worker silent provider=demo")]
    assert report.levelno == logging.WARNING


async def test_a_worker_that_loads_is_not_judged(room: Room) -> None:
    room.worker.excused = True
    room.watch(os.getpid(), report_s=BEAT_S * 2, hung_s=BEAT_S * 3)
    await room.worker.until(lambda: len(room.worker.pings) >= 20)
    assert (room.worker.ends, room.worker.asked_for_stacks) == ([], 0)


async def test_too_much_memory_ends_it_with_the_figure_and_the_setting(room: Room) -> None:
    room.watch(os.getpid(), memory_hard_mb=1)
    await room.worker.until(lambda: bool(room.worker.ends))
    words, code, hung = room.worker.ends[0]
    assert "over the limit of 1 MB (worker.x)" in words
    assert (code, hung) == (Code.OUT_OF_MEMORY, False)


async def test_the_soft_limit_warns_once(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    room.watch(os.getpid(), memory_soft_mb=1, memory_hard_mb=1 << 20)
    await room.worker.until(lambda: len(room.worker.pings) >= 5)
    assert len([r for r in caplog.records if "worker grows provider=demo" in r.getMessage()]) == 1
    assert room.worker.ends == []


async def test_one_that_cannot_be_sampled_is_watched_all_the_same(
    room: Room, still: subprocess.Popen[bytes]
) -> None:
    watch, _ = room.watch(still.pid, report_s=BEAT_S * 30, hung_s=BEAT_S * 60)
    await room.worker.until(lambda: len(room.worker.pings) >= 2)
    still.kill()
    await asyncio.to_thread(still.wait, WAIT_S)
    await room.worker.until(lambda: bool(room.worker.ends))
    assert (watch.memory_bytes, watch.cpu_percent) == (None, None)


def test_each_kind_of_provider_has_its_own_limits_and_names_its_own_setting() -> None:
    limits = WorkerLimits(bind_s=7, memory_hard_mb=11, engine_memory_mb=13)
    shapes = {
        kind: limits.watch_of(Provider("demo", "Demo", kind, "scripted", "base"))
        for kind in ("script", "engine")
    }
    assert {shape.heartbeat.load_s for shape in shapes.values()} == {7}
    assert [(s.memory_hard_mb, s.memory_setting) for s in shapes.values()] == [
        (11, "worker.memory_hard_mb"),
        (13, "worker.engine_memory_mb"),
    ]

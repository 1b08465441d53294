"""The health lines, what is measured for them, and how often they are written."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Sequence

import pytest

from supervisor import health
from supervisor.health import (
    HealthLimits,
    HealthLines,
    ModuleHealth,
    Report,
    WorkerHealth,
    log_module,
    log_workers,
    measured,
)
from tests.supervisor.fakes import soon

WELL = WorkerHealth(
    "groq",
    "ready",
    41,
    uptime_s=120.4,
    finished_requests=12,
    condition="well",
    heartbeat_ms=0.42,
    memory_bytes=34_400_000,
    models=("tiny",),
    memory_before_bytes=11_500_000,
    cpu_s=1.5,
    cpu_percent=0.31,
)


def test_a_worker_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    down = WorkerHealth("demo", "down", restarts=5, last_error="it died\nagain")
    with caplog.at_level(logging.INFO, "supervisor.health"):
        log_workers([WELL, down])
    assert caplog.messages == [
        "worker health provider=groq state=ready pid=41 uptime_s=120 memory_mb=33 models=1 "
        "before_models_mb=11 cpu_pct=0.3 open=0 finished=12 restarts=0 heartbeat_ms=0.4 condition=well "
        "last_error=None",
        "worker health provider=demo state=down pid=None uptime_s=0 memory_mb=None models=0 "
        "before_models_mb=None cpu_pct=None open=0 finished=0 restarts=5 heartbeat_ms=None condition=None "
        r"last_error='it died\nagain'",
    ]


def test_a_condition_of_two_words_is_one_word_of_the_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "supervisor.health"):
        log_workers([dataclasses.replace(WELL, condition="loop blocked")])
    assert "condition=loop_blocked last_error" in caplog.text


def test_the_supervisor_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    module = ModuleHealth(61.2, 2, 25_100_000, 1.0, lag_s=0.0123, lost_lines={"stderr": 3, "file": 4})
    with caplog.at_level(logging.INFO, "supervisor.health"):
        log_module(module, cpu_percent=1.26)
    assert caplog.messages == [
        "module health uptime_s=61 clients=2 memory_mb=24 cpu_pct=1.3 lag_ms=12.3 log_lines_lost=7"
    ]


def test_the_states_are_those_of_a_workers_description() -> None:
    assert "ready" in health.STATES
    assert set(dataclasses.asdict(WELL)) == set(WELL.fields())


# ---- measuring


async def test_the_supervisors_own_memory_and_time_are_measured() -> None:
    module = await soon(measured(ModuleHealth(1.0, 2)))
    assert module.memory_bytes is not None
    assert module.memory_bytes > 1_000_000
    assert 0 < module.cpu_s <= time.process_time()
    assert (module.uptime_s, module.clients) == (1.0, 2)


# ---- the interval


class Looks:
    """What the lines are joined to; it hears of each look."""

    def __init__(self, workers: Sequence[WorkerHealth]) -> None:
        self.workers = workers
        self.asked = 0
        self.taken: asyncio.Queue[float] = asyncio.Queue()
        self.lines = HealthLines(HealthLimits(interval_s=0.02), self.snapshot, self.look)

    def snapshot(self) -> Sequence[WorkerHealth]:
        self.asked += 1
        return self.workers

    async def look(self) -> Report:
        self.taken.put_nowait(self.lines.lag_s)
        return ModuleHealth(1.0), self.workers


async def test_the_lines_come_again_and_again_until_the_end(caplog: pytest.LogCaptureFixture) -> None:
    looks = Looks([WELL])
    with caplog.at_level(logging.INFO, "supervisor.health"):
        running = asyncio.create_task(looks.lines.run())
        for _ in range(3):
            await soon(looks.taken.get())
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    events = [message.split(" provider")[0].split(" uptime")[0] for message in caplog.messages]
    assert events[:4] == ["worker health", "module health"] * 2


async def test_without_a_worker_nothing_wakes_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LOOK_S", 0.000_01)
    counts = []
    for workers in ([], [WorkerHealth("gone", "dead")], [WELL]):
        looks = Looks(workers)
        running = asyncio.create_task(looks.lines.run())
        await soon(looks.taken.get())
        running.cancel()
        counts.append(looks.asked)
    assert counts[2] > max(counts[:2])
    assert max(counts[:2]) <= 2  # a timer may come a little early


async def test_a_loop_that_was_blocked_is_seen_as_late() -> None:
    looks = Looks([])
    running = asyncio.create_task(looks.lines.run())
    await asyncio.sleep(0)
    blocked_s = 0.1
    until = time.monotonic() + blocked_s
    while time.monotonic() < until:
        pass  # the loop cannot turn
    lag_s = await soon(looks.taken.get())
    assert lag_s >= blocked_s - 0.03
    running.cancel()

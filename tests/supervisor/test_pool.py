"""The pool: one start for many loads, restarts within a budget, and one end for every generation.

Policy is tested with workers that have no process; at the end the real worker shows that it holds.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import supervisor.restarts as restarts_module
import supervisor.stopping as stopping_module
from supervisor.bindings import Binding
from supervisor.commands import LoadResult
from supervisor.errors import BootError, Failure, ProvisionError, WorkerError
from supervisor.pool import LoadOptions, Pool, ReportProgress
from supervisor.providers import Provider
from supervisor.restarts import PoolLimits
from supervisor.spawn import worker_environment
from supervisor.worker import Death, Worker, WorkerLimits, WorkerState
from tests.supervisor.fakes import (
    PROVIDER,
    START_WAIT_S,
    FakeSink,
    FakeWorker,
    as_worker,
    ignore_progress,
    kill,
    make_job,
    soon,
)
from tests.worker_process import CHECKOUT, make_site_packages
from workers.codes import Code

INTERRUPT = Failure(Code.INTERRUPT, "The request was interrupted.")


class Shop:
    """A pool whose workers are fakes: `prepare` changes those that are made from now on."""

    def __init__(self, **limits: Any) -> None:
        self.made: list[FakeWorker] = []
        self.prepare: Callable[[FakeWorker], None] = lambda worker: None
        self.provision_errors: deque[ProvisionError] = deque()
        self.pool = Pool(self._make, PoolLimits(**limits))
        self._came = asyncio.Event()

    async def _make(
        self, provider: Provider, report: ReportProgress, on_death: Callable[[Worker, Death], None]
    ) -> Worker:
        report("provision", "Installing.", 0.5)
        await asyncio.sleep(0)
        if self.provision_errors:
            raise self.provision_errors.popleft()
        worker = FakeWorker(provider, on_death)
        self.prepare(worker)
        self.made.append(worker)
        self._came.set()
        return as_worker(worker)

    async def worker(self, index: int) -> FakeWorker:
        """The worker of that number, as soon as it is made."""
        while len(self.made) <= index:
            self._came.clear()
            await soon(self._came.wait())
        return self.made[index]

    async def load(self, number: int = 1, *, keep_alive_s: float | None = None, **options: Any) -> LoadResult:
        """Loads the demo under that binding."""
        binding = Binding(number, keep_alive_s=keep_alive_s)
        loading = self.pool.load(PROVIDER, binding, LoadOptions(**options), ignore_progress)
        return await soon(loading)

    def generate(self, number: int, sink: FakeSink, *, binding: int = 1, **changes: Any) -> None:
        """Starts a generation."""
        self.pool.generate("demo", binding, number, make_job(**changes), sink)

    @property
    def state(self) -> str:
        """What `status` says of the worker."""
        (row,) = self.pool.snapshot()
        return row.state


@pytest.fixture
async def shop(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    monkeypatch.setattr(restarts_module, "PAUSES_S", (0.0,))
    shop = Shop(restarts=3, start_again_s=1e-9)
    yield shop
    await soon(shop.pool.close())


async def turns(count: int = 20) -> None:
    """Lets everything run that is ready to."""
    for _ in range(count):
        await asyncio.sleep(0)


# ---- loading


async def test_many_loads_at_once_start_one_worker_and_each_gets_its_own_binding(shop: Shop) -> None:
    results = await asyncio.gather(*(shop.load(number) for number in range(8)))
    assert [result.models for result in results] == [("m1", "m2")] * 8
    assert len(shop.made) == 1
    assert shop.made[0].starts == 1
    assert shop.made[0].bindings.bound == set(range(8))


async def test_a_load_hands_on_its_options_and_returns_what_was_learned(shop: Shop) -> None:
    result = await shop.load(3, verify=False, preload_model="m2")
    assert [(b.id, verify, model) for b, verify, model in shop.made[0].bindings.asked] == [(3, False, "m2")]
    assert [note.name for note in result.warnings] == ["NOT_VERIFIED"]
    assert set(result.timings_ms) == {"provision", "start", "import", "connect", "model"}
    assert (result.timings_ms["import"], result.timings_ms["connect"]) == (3, 5)


async def test_a_second_load_pays_for_no_start(shop: Shop) -> None:
    await shop.load(1)
    timings = (await shop.load(2)).timings_ms
    assert (timings["provision"], timings["start"], timings["import"]) == (0, 0, 0)


async def test_everybody_who_waits_for_a_start_hears_of_its_progress(shop: Shop) -> None:
    gate = asyncio.Event()
    shop.prepare = lambda worker: setattr(worker, "may_start", gate)
    heard: dict[int, list[str]] = {1: [], 2: []}

    def listener(number: int) -> ReportProgress:
        return lambda phase, message, fraction: heard[number].append(phase)

    loads = [
        asyncio.ensure_future(shop.pool.load(PROVIDER, Binding(n), LoadOptions(), listener(n)))
        for n in (1, 2)
    ]
    await shop.worker(0)
    await turns()
    gate.set()
    await soon(asyncio.gather(*loads))
    assert heard[1] == heard[2] == ["provision", "provision", "start", "connect"]


async def test_a_failed_provision_fails_the_load_and_the_next_one_tries_again(shop: Shop) -> None:
    shop.provision_errors.append(ProvisionError("No room on the disk."))
    with pytest.raises(ProvisionError, match="No room"):
        await shop.load()
    assert shop.pool.snapshot()[0].last_error == "No room on the disk."
    await shop.load()
    assert shop.state == "ready"


async def test_a_failed_start_fails_all_who_wait_and_the_next_load_starts_anew(shop: Shop) -> None:
    shop.prepare = lambda worker: setattr(worker, "start_error", WorkerError("It did not say hello."))
    results = await asyncio.gather(*(shop.load(n) for n in range(3)), return_exceptions=True)
    assert [str(result) for result in results] == ["It did not say hello."] * 3
    assert len(shop.made) == 1
    shop.prepare = lambda worker: None
    await shop.load()
    assert len(shop.made) == 2


async def test_a_cancelled_load_does_not_stop_the_start_that_another_waits_for(shop: Shop) -> None:
    gate = asyncio.Event()
    shop.prepare = lambda worker: setattr(worker, "may_start", gate)
    first = asyncio.ensure_future(shop.load(1))
    second = asyncio.ensure_future(shop.load(2))
    await shop.worker(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(first)
    gate.set()
    await soon(second)
    assert shop.made[0].bindings.bound == {2}


async def test_a_refused_bind_fails_its_load_and_leaves_the_worker(shop: Shop) -> None:
    await shop.load(1)
    shop.made[0].bind_error = WorkerError("No such key.", code=Code.AUTHORIZATION)
    with pytest.raises(WorkerError, match="No such key"):
        await shop.load(2)
    assert shop.state == "ready"
    assert shop.made[0].bindings.bound == {1}


async def test_loads_that_fail_leave_nothing_behind(shop: Shop) -> None:
    await shop.load(1)
    shop.made[0].bind_error = WorkerError("No such key.", code=Code.AUTHORIZATION)
    for number in range(2, 100):
        with pytest.raises(WorkerError, match="No such key"):
            await shop.load(number)
    with pytest.raises(WorkerError, match="No such key"):
        await shop.load(1)
    (slot,) = shop.pool._slots.values()
    assert list(slot.locks) == [1]


async def test_unloading_takes_the_binding_from_the_worker_and_from_restarts(shop: Shop) -> None:
    await shop.load(1)
    await shop.load(2)
    shop.pool.unload("demo", 1)
    assert shop.made[0].bindings.bound == {2}
    shop.made[0].die()
    worker = await shop.worker(1)
    await turns()
    assert [binding.id for binding, _, _ in worker.bindings.asked] == [2]


async def test_unloading_what_was_never_loaded_is_nothing(shop: Shop) -> None:
    shop.pool.unload("demo", 1)
    shop.pool.end("demo", 1, INTERRUPT)
    shop.pool.credit("demo", 1, 1)
    assert shop.pool.snapshot() == []


# ---- generating


async def test_a_generation_goes_to_the_worker_at_once(shop: Shop) -> None:
    await shop.load()
    sink = FakeSink()
    shop.generate(1, sink)
    assert list(shop.made[0].requests.open) == [1]
    shop.pool.credit("demo", 1, 500)
    assert shop.made[0].requests.credits == [(1, 500)]
    shop.pool.end("demo", 1, INTERRUPT)
    assert (await sink.failure(1)).code is Code.INTERRUPT


async def test_a_swamped_worker_takes_no_more_and_says_busy(shop: Shop) -> None:
    await shop.load()
    shop.made[0].swamped = True
    sink = FakeSink()
    shop.generate(1, sink)
    failure = await sink.failure(1)
    assert (failure.code, "Demo" in failure.message) == (Code.BUSY, True)
    assert not shop.made[0].requests.open


async def test_a_death_ends_what_was_open_and_the_next_worker_knows_every_binding(shop: Shop) -> None:
    await shop.load(1)
    await shop.load(2)
    sink = FakeSink()
    shop.generate(1, sink)
    shop.made[0].die()
    assert (await sink.failure(1)).code is Code.WORKER_CRASHED
    worker = await shop.worker(1)
    await turns()
    assert worker.bindings.bound == {1, 2}
    assert [(verify, model) for _, verify, model in worker.bindings.asked] == [(False, None)] * 2
    assert not worker.requests.open
    assert shop.pool.snapshot()[0].restarts == 1


async def test_a_generation_during_a_restart_waits_and_is_served(shop: Shop) -> None:
    await shop.load()
    gate = asyncio.Event()
    shop.prepare = lambda worker: setattr(worker, "may_start", gate)
    shop.made[0].die()
    sink = FakeSink()
    shop.generate(1, sink)
    worker = await shop.worker(1)
    await turns()
    assert (sink.ends, worker.requests.open) == ({}, {})
    assert shop.state == "starting"
    gate.set()
    await turns()
    assert list(worker.requests.open) == [1]
    worker.requests.finish(1)
    assert (await sink.end(1)).failure is None


async def test_many_waiting_generations_of_one_binding_ask_for_one_bind(shop: Shop) -> None:
    await shop.load()
    shop.made[0].die()
    sink = FakeSink()
    for number in range(5):
        shop.generate(number, sink)
    worker = await shop.worker(1)
    await turns(50)
    assert sorted(worker.requests.open) == list(range(5))
    assert len(worker.bindings.asked) == 1


async def test_a_waiting_generation_that_is_cancelled_ends_once_and_is_never_sent(shop: Shop) -> None:
    await shop.load()
    gate = asyncio.Event()
    shop.prepare = lambda worker: setattr(worker, "may_start", gate)
    shop.made[0].die()
    sink = FakeSink()
    shop.generate(1, sink)
    worker = await shop.worker(1)
    shop.pool.end("demo", 1, INTERRUPT)
    shop.pool.end("demo", 1, INTERRUPT)
    assert [outcome.failure for outcome in sink.ends[1]] == [INTERRUPT]
    gate.set()
    await turns()
    assert worker.requests.open == {}
    assert len(sink.ends[1]) == 1


async def test_a_waiting_generation_ends_with_timeout_when_the_worker_is_not_back(shop: Shop) -> None:
    await shop.load()
    shop.prepare = lambda worker: setattr(worker, "may_start", asyncio.Event())
    shop.made[0].die()
    sink = FakeSink()
    shop.generate(1, sink, timeout_s=0.05)
    failure = await sink.failure(1)
    assert failure.code is Code.TIMEOUT
    assert "was not back within 0.05 s" in failure.message


async def test_a_waiting_generation_hears_why_the_restart_failed(shop: Shop) -> None:
    await shop.load()
    shop.prepare = lambda worker: setattr(worker, "start_error", WorkerError("It cannot import."))
    shop.made[0].die()
    sink = FakeSink()
    shop.generate(1, sink)
    assert (await sink.failure(1)).message == "It cannot import."
    assert shop.state == "down"


async def test_a_generation_does_not_cut_the_pause_before_a_restart_but_a_load_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(restarts_module, "PAUSES_S", (0.1,))
    shop = Shop()
    await shop.load()
    sink = FakeSink()
    shop.made[0].die()
    shop.generate(1, sink)
    await turns(50)
    assert len(shop.made) == 1
    await shop.worker(1)
    await turns()
    assert list(shop.made[1].requests.open) == [1]
    monkeypatch.setattr(restarts_module, "PAUSES_S", (600.0,))
    shop.made[1].die()
    shop.generate(2, sink)
    await turns()
    assert len(shop.made) == 2
    await shop.load()
    await turns()
    assert list(shop.made[2].requests.open) == [2]
    await soon(shop.pool.close())


async def test_a_generation_that_is_ended_at_any_moment_of_a_restart_ends_once(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    await shop.load()
    sink = FakeSink()
    for number in range(30):
        gate = asyncio.Event()
        shop.prepare = lambda worker, gate=gate: setattr(worker, "may_start", gate)  # type: ignore[misc]
        shop.made[-1].started_at -= 60.0
        shop.made[-1].die()
        shop.generate(number, sink)
        await shop.worker(number + 1)
        gate.set()
        await turns(number)
        shop.pool.end("demo", number, INTERRUPT)
        await turns(50)
        assert [outcome.failure for outcome in sink.ends[number]] == [INTERRUPT]
        assert not shop.made[-1].requests.open
    assert not [record for record in caplog.records if "not started" in record.getMessage()]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (
            FileNotFoundError(2, "No such file or directory"),
            Code.WORKER_CRASHED,
            "cannot be started: No such file",
        ),
        (RuntimeError("a bug"), Code.UNEXPECTED, "its log has the traceback"),
    ],
    ids=["its Python is gone", "a bug of ours"],
)
async def test_a_waiting_generation_ends_once_whatever_stops_the_restart(
    shop: Shop, error: Exception, code: Code, words: str
) -> None:
    await shop.load()
    shop.prepare = lambda worker: setattr(worker, "start_error", error)
    shop.made[0].die()
    sink = FakeSink()
    shop.generate(1, sink)
    failure = await sink.failure(1)
    assert (failure.code, words in failure.message) == (code, True)
    assert not shop.pool.snapshot()[0].open_requests


async def test_a_death_while_the_bindings_are_given_anew_costs_one_restart_and_no_more(shop: Shop) -> None:
    await shop.load()
    shop.prepare = lambda worker: worker.bindings.may_bind.clear()
    shop.made[0].die()
    second = await shop.worker(1)
    await turns()
    shop.prepare = lambda worker: None
    second.die()
    third = await shop.worker(2)
    await turns()
    assert shop.state == "ready"
    assert third.bindings.bound == {1}
    sink = FakeSink()
    shop.generate(1, sink)
    await turns()
    assert list(third.requests.open) == [1]


async def test_a_binding_that_is_refused_after_a_restart_is_nobody_elses_trouble(shop: Shop) -> None:
    await shop.load(1)
    await shop.load(2)
    shop.prepare = lambda worker: worker.bindings.refused.add(1)
    shop.made[0].die()
    worker = await shop.worker(1)
    await turns()
    sink = FakeSink()
    shop.generate(1, sink, binding=1)
    shop.generate(2, sink, binding=2)
    assert (await sink.failure(1)).code is Code.AUTHORIZATION
    await turns()
    assert list(worker.requests.open) == [2]


async def test_a_generation_for_a_binding_that_was_unloaded_is_not_loaded(shop: Shop) -> None:
    await shop.load(1)
    await shop.load(2)
    shop.pool.unload("demo", 1)
    sink = FakeSink()
    shop.generate(1, sink, binding=1)
    assert (await sink.failure(1)).code is Code.NOT_LOADED


# ---- the budget


async def test_when_the_budget_is_spent_the_provider_is_down_and_says_so(shop: Shop) -> None:
    await shop.load()
    for index in range(3):
        shop.made[index].die()
        await shop.worker(index + 1)
        await turns()
    shop.made[3].die("signal 11 (SIGSEGV)")
    await turns()
    assert (len(shop.made), shop.state) == (4, "down")
    sink = FakeSink()
    shop.generate(1, sink)
    failure = await sink.failure(1)
    assert failure.code is Code.PROVIDER_DOWN
    assert "died 4 times" in failure.message
    assert "SIGSEGV" in failure.message
    assert len(shop.made) == 4


async def test_a_generation_that_waits_when_the_budget_is_spent_starts_no_further_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(restarts_module, "PAUSES_S", (0.0,))
    shop = Shop(restarts=1)
    await shop.load()
    shop.prepare = lambda worker: worker.bindings.may_bind.clear()
    shop.made[0].die()
    second = await shop.worker(1)
    await turns()
    sink = FakeSink()
    shop.generate(1, sink)
    await turns()
    second.die()
    assert (await sink.failure(1)).code is Code.PROVIDER_DOWN
    await turns()
    assert (len(shop.made), shop.state) == (2, "down")
    await soon(shop.pool.close())


async def test_who_asks_a_provider_that_could_not_be_started_again_is_told_so(shop: Shop) -> None:
    await shop.load()
    shop.prepare = failing(WorkerError("It cannot import."))
    shop.made[0].die()
    await shop.worker(1)
    await turns()
    sink = FakeSink()
    shop.generate(1, sink)
    failure = await sink.failure(1)
    assert failure.code is Code.PROVIDER_DOWN
    assert "could not be started again. Last: It cannot import." in failure.message


async def test_a_load_by_hand_gives_a_provider_that_is_down_one_more_try(shop: Shop) -> None:
    await test_when_the_budget_is_spent_the_provider_is_down_and_says_so(shop)
    await shop.load()
    assert (len(shop.made), shop.state) == (5, "ready")
    sink = FakeSink()
    shop.generate(2, sink)
    assert list(shop.made[4].requests.open) == [2]
    shop.made[4].die()
    await turns()
    assert (len(shop.made), shop.state) == (5, "down")


async def test_deaths_long_ago_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts_module, "PAUSES_S", (0.0,))
    shop = Shop(restarts=1, restart_window_s=1e-9)
    await shop.load()
    for index in range(5):
        shop.made[index].die()
        await shop.worker(index + 1)
        await turns()
    assert shop.state == "ready"
    await soon(shop.pool.close())


async def test_a_worker_that_nobody_uses_is_not_started_again(shop: Shop) -> None:
    await shop.load()
    shop.pool.unload("demo", 1)
    shop.made[0].die()
    await turns()
    assert (len(shop.made), shop.state) == (1, "dead")


async def test_one_whose_last_client_leaves_during_the_pause_is_not_started_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts_module, "PAUSES_S", (0.01,))
    await shop.load()
    shop.made[0].die()
    shop.pool.unload("demo", 1)
    await asyncio.sleep(0.03)  # no event tells of what does not happen
    assert (len(shop.made), shop.state) == (1, "dead")


async def test_a_worker_that_was_up_for_long_starts_the_count_anew(shop: Shop) -> None:
    await shop.load()
    for index in range(8):
        shop.made[index].started_at -= 60.0
        shop.made[index].die()
        await shop.worker(index + 1)
        await turns()
    assert (shop.state, shop.pool.snapshot()[0].deaths) == ("ready", 8)


# ---- starts that fail


def failing(error: WorkerError) -> Callable[[FakeWorker], None]:
    """Workers made from now on do not start."""
    return lambda worker: setattr(worker, "start_error", error)


async def test_a_worker_that_dies_at_its_start_is_started_once_more(shop: Shop) -> None:
    def first_dies(worker: FakeWorker) -> None:
        worker.start_error = BootError("signal 9") if not shop.made else None

    shop.prepare = first_dies
    await shop.load()
    assert (len(shop.made), shop.state) == (2, "ready")


async def test_one_that_dies_again_or_says_why_is_not(shop: Shop) -> None:
    for error, tries in ((BootError("It died."), 2), (WorkerError("No numpy."), 1)):
        shop.made.clear()
        shop.prepare = failing(error)
        with pytest.raises(WorkerError, match=str(error)):
            await shop.load()
        assert len(shop.made) == tries
        await turns()


async def test_who_asks_again_at_once_gets_the_same_answer_and_how_long_to_wait() -> None:
    shop = Shop(start_again_s=5)
    shop.prepare = failing(WorkerError("No numpy.", code=Code.PROVISION_FAILED))
    for _ in range(3):
        with pytest.raises(WorkerError, match=r"No numpy\.") as caught:
            await shop.load()
    assert len(shop.made) == 1
    assert caught.value.code is Code.PROVISION_FAILED
    assert caught.value.retry_after_ms is not None
    assert 0 < caught.value.retry_after_ms <= 5000
    await soon(shop.pool.close())


# ---- rest


async def test_a_worker_that_no_connection_uses_is_stopped_after_a_while() -> None:
    shop = Shop(idle_s=0.01)
    await shop.load(1)
    await shop.load(2)
    shop.pool.unload("demo", 1)
    await asyncio.sleep(0.03)  # no event tells of what does not happen
    assert shop.made[0].stopped == 0
    shop.pool.unload("demo", 2)
    await soon(shop.made[0].has_stopped.wait())
    await turns()
    assert shop.state == "idle"
    shop.prepare = failing(WorkerError("It cannot import."))
    with pytest.raises(WorkerError, match="cannot import"):
        await shop.load(3)
    assert shop.state == "dead"
    await soon(shop.pool.close())


async def test_one_that_rests_wakes_for_the_next_load() -> None:
    shop = Shop(idle_s=0.01)
    await shop.load(1)
    shop.pool.unload("demo", 1)
    await soon(shop.made[0].has_stopped.wait())
    await shop.load(2)
    assert (len(shop.made), shop.state) == (2, "ready")
    await soon(shop.pool.close())


async def test_one_that_is_loaded_again_in_time_is_kept() -> None:
    shop = Shop(idle_s=0.02)
    await shop.load(1)
    shop.pool.unload("demo", 1)
    await shop.load(2)
    await asyncio.sleep(0.05)  # no event tells of what does not happen
    assert (shop.made[0].stopped, shop.state) == (0, "ready")
    await soon(shop.pool.close())


async def test_a_load_that_began_in_time_is_not_cut_by_the_end_of_the_rest() -> None:
    shop = Shop(idle_s=0.02)
    await shop.load(1)
    shop.pool.unload("demo", 1)
    shop.made[0].bindings.may_bind.clear()
    second = asyncio.ensure_future(shop.load(2))
    await asyncio.sleep(0.05)  # no event tells of what does not happen
    assert shop.made[0].stopped == 0
    shop.made[0].bindings.may_bind.set()
    await soon(second)
    assert shop.state == "ready"
    await soon(shop.pool.close())


async def test_one_that_became_ready_when_nobody_waited_any_more_does_not_stay() -> None:
    shop = Shop(idle_s=0.01)
    gate = asyncio.Event()
    shop.prepare = lambda worker: setattr(worker, "may_start", gate)
    load = asyncio.ensure_future(shop.load(1))
    worker = await shop.worker(0)
    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    await asyncio.sleep(0.03)  # its rest is over before it is ready
    gate.set()
    await soon(worker.has_stopped.wait())
    await soon(shop.pool.close())


async def test_one_whose_only_load_failed_does_not_stay(shop: Shop) -> None:
    shop = Shop(idle_s=0.01)
    shop.prepare = lambda worker: setattr(worker, "bind_error", WorkerError("The key is refused."))
    with pytest.raises(WorkerError, match="refused"):
        await shop.load()
    await soon(shop.made[0].has_stopped.wait())
    await soon(shop.pool.close())


# ---- keep_alive


async def test_one_whose_connection_wants_its_memory_back_is_stopped_when_it_says_nothing() -> None:
    shop = Shop()
    await shop.load(1, keep_alive_s=0.01)
    await soon(shop.made[0].has_stopped.wait())
    await turns()
    assert shop.state == "idle"
    sink = FakeSink()
    shop.generate(1, sink)
    woken = await shop.worker(1)
    await turns()
    assert list(woken.requests.open) == [1]
    await soon(shop.pool.close())


async def test_one_that_talks_is_not_stopped_and_its_rest_begins_when_it_ends() -> None:
    shop = Shop()
    await shop.load(1, keep_alive_s=0.02)
    sink = FakeSink()
    shop.generate(1, sink)
    await asyncio.sleep(0.06)  # no event tells of what does not happen
    assert shop.made[0].stopped == 0
    shop.made[0].requests.finish(1)
    await soon(shop.made[0].has_stopped.wait())
    await soon(shop.pool.close())


@pytest.mark.parametrize("patient", [None, math.inf, 3600.0])
async def test_the_most_patient_connection_decides(patient: float | None) -> None:
    shop = Shop()
    await shop.load(1, keep_alive_s=0.01)
    await shop.load(2, keep_alive_s=patient)
    await asyncio.sleep(0.03)  # no event tells of what does not happen
    assert shop.made[0].stopped == 0
    shop.pool.unload("demo", 2)
    await soon(shop.made[0].has_stopped.wait())
    await soon(shop.pool.close())


async def test_a_pinned_one_outlives_its_last_connection() -> None:
    shop = Shop(idle_s=0.01)
    await shop.load(1, keep_alive_s=math.inf)
    shop.pool.unload("demo", 1)
    await asyncio.sleep(0.03)  # no event tells of what does not happen
    assert (shop.made[0].stopped, shop.state) == (0, "ready")
    await shop.load(2)
    shop.pool.unload("demo", 2)
    await soon(shop.made[0].has_stopped.wait())
    await soon(shop.pool.close())


async def test_what_the_last_connection_said_goes_before_the_setting() -> None:
    shop = Shop(idle_s=3600.0)
    await shop.load(1, keep_alive_s=0.0)
    shop.pool.unload("demo", 1)
    await soon(shop.made[0].has_stopped.wait())
    await soon(shop.pool.close())


async def test_an_engine_that_no_connection_uses_rests_sooner() -> None:
    shop = Shop(idle_s=3600.0, engine_idle_s=0.01)
    engine = replace(PROVIDER, kind="engine")
    await soon(shop.pool.load(engine, Binding(1), LoadOptions(), ignore_progress))
    shop.pool.unload("demo", 1)
    await soon(shop.made[0].has_stopped.wait())
    await soon(shop.pool.close())


# ---- closing


async def test_close_stops_workers_and_starts_and_ends_what_waits(shop: Shop) -> None:
    await shop.load()
    shop.prepare = lambda worker: setattr(worker, "may_start", asyncio.Event())
    shop.made[0].die()
    sink = FakeSink()
    shop.generate(1, sink)
    await shop.worker(1)
    await soon(shop.pool.close())
    assert len(sink.ends.get(1, ())) == 1
    with pytest.raises(WorkerError, match="closing") as caught:
        await shop.load(2)
    assert caught.value.code is Code.SHUTTING_DOWN


async def test_after_close_a_running_worker_is_stopped_and_a_death_starts_nothing(shop: Shop) -> None:
    await shop.load()
    await soon(shop.pool.close())
    assert shop.made[0].stopped == 1
    shop.made[0].die()
    await turns()
    assert len(shop.made) == 1


# ---- with the real worker


class RealShop:
    """A pool with real workers of the `scripted` adapter."""

    def __init__(self, folder: Path) -> None:
        self.site_packages = make_site_packages(folder / "site-packages")
        self.made: list[Worker] = []
        self.pool = Pool(self._make, PoolLimits())

    async def _make(
        self, provider: Provider, report: ReportProgress, on_death: Callable[[Worker, Death], None]
    ) -> Worker:
        self.made.append(
            Worker(
                provider,
                python=Path(sys.executable),
                site_packages=self.site_packages,
                checkout=CHECKOUT,
                environment=worker_environment(os.environ),
                limits=WorkerLimits(),
                on_death=on_death,
            )
        )
        return self.made[-1]

    async def load(self, number: int, **options: Any) -> LoadResult:
        binding = Binding(number, options=options)
        return await soon(self.pool.load(PROVIDER, binding, LoadOptions(), ignore_progress), START_WAIT_S)


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[RealShop]:
    shop = RealShop(tmp_path)
    yield shop
    await soon(shop.pool.close(), START_WAIT_S)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")
async def test_after_a_kill_the_waiting_generation_is_served_by_the_next_worker(real: RealShop) -> None:
    await real.load(1, replies=[{"match": "hang", "text": "a b", "hang": True}, {"text": "mine"}])
    await real.load(2, replies=[{"text": "yours"}])
    sink = FakeSink()
    real.pool.generate("demo", 1, 1, make_job(text="hang"), sink)
    await sink.first_chunk(1)
    (first,) = real.made
    assert first.pid is not None
    kill(first.pid)
    assert "signal 9 (SIGKILL)" in (await sink.failure(1)).message
    real.pool.generate("demo", 1, 2, make_job(), sink)
    real.pool.generate("demo", 2, 3, make_job(), sink)
    assert (await sink.end(2, START_WAIT_S)).failure is None
    assert (await sink.end(3, START_WAIT_S)).failure is None
    assert (sink.text(2), sink.text(3)) == ("mine", "yours")
    assert len(sink.ends[1]) == 1
    assert real.made[1].pid != first.pid


async def test_close_in_the_middle_of_a_real_start_leaves_no_process(
    real: RealShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping_module, "ASK_S", 0.05)
    load = asyncio.ensure_future(real.load(1))
    while not real.made or real.made[0].pid is None:  # noqa: ASYNC110  # the worker has no event for it
        await asyncio.sleep(0.001)
    await soon(real.pool.close(), START_WAIT_S)
    with pytest.raises((asyncio.CancelledError, WorkerError)):
        await soon(load)
    assert real.made[0].state is WorkerState.DEAD


async def test_two_providers_have_two_workers(real: RealShop) -> None:
    await real.load(1)
    other = replace(PROVIDER, id="other", name="Other")
    await soon(real.pool.load(other, Binding(2), LoadOptions(), ignore_progress), START_WAIT_S)
    assert [row.provider for row in real.pool.snapshot()] == ["demo", "other"]
    assert real.made[0].pid != real.made[1].pid

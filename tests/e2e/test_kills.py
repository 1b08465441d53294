"""Workers killed again and again under open streams: every request ends once, and nothing else is hurt.

    python install.py --test tests/e2e/test_kills.py --kills 100

The restart budget is raised here, since it would end the killing after five, and a worker counts as stable at
once, so that each death is the first: else the pauses before the restarts would be what is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

import psutil
import pytest

from tests.e2e.client import Client, connect
from tests.e2e.figures import Figures
from tests.e2e.hostile import worker_of
from tests.e2e.module import Installation, Module
from tests.wheelhouse import wait_until

STREAMS: Final = 50
BUDGET: Final = ("--set", "pool.restarts=100000", "--set", "pool.stable_s=0.001")
LONG_S: Final = 20.0
ENDLESS: Final = "stream 1000000"
QUIET: Final = "timed 100000"
NEIGHBOURS: Final = ("neighbour", "engine")
PIECES: Final = 4
"""A kill comes after so many pieces at most, while the large ones are on their way."""
START_S: Final = 0.3
"""A worker is up in half of it."""
SEED: Final = 20
TITLE: Final = "workers killed under open streams"


def numbers(text: str) -> list[int]:
    """The numbers of the pieces; the last piece may be cut."""
    return [int(piece.split(";")[0]) for piece in text.split("|") if piece]


class Ledger:
    """What the kills showed."""

    def __init__(self, module: Module) -> None:
        self.process = psutil.Process(module.process.pid)
        self.module = module
        self.random = random.Random(SEED)  # noqa: S311  # it is to be the same each time
        self.ended = 0
        self.back_s: list[float] = []

    def memory_bytes(self) -> int:
        """Of the supervisor."""
        return int(self.process.memory_info().rss)

    def held(self) -> dict[str, int]:
        """What the supervisor has that must not grow; a zombie is a child too."""
        held = {
            "threads": self.process.num_threads(),
            "processes below": len(self.process.children(recursive=True)),
        }
        if sys.platform != "win32":  # its handles come and go by themselves
            held["descriptors"] = self.process.num_fds()
        return held

    def cut_frames(self) -> int:
        """Deaths in the middle of a frame."""
        return len(re.findall(r"worker died .* cut_bytes=[1-9]", self.module.stderr()))


async def killed_once(client: Client, next_one: Client, ledger: Ledger) -> None:
    """Opens the streams, kills their worker in the middle, and waits until a request works again."""
    requests = [await client.generate(ENDLESS) for _ in range(STREAMS)]
    await client.chunk(requests[-1], ledger.random.randint(1, PIECES))
    pid = (await worker_of(client, "hostile"))["pid"]
    psutil.Process(pid).kill()
    begun = time.monotonic()
    while (await next_one.say("stream 1", timeout_s=LONG_S)).code != "SUCCESS":
        assert time.monotonic() < begun + LONG_S  # it came before the death was known
    ledger.back_s.append(time.monotonic() - begun)
    ends = [await client.end(request, timeout_s=LONG_S) for request in requests]
    assert {end.code for end in ends} == {"WORKER_CRASHED"}
    for end in ends:
        seen = numbers(end.text)
        assert seen == list(range(len(seen)))
    ledger.ended += len(ends)
    assert (await client.say("stream 1", timeout_s=LONG_S)).code == "SUCCESS"
    client.received.clear()  # each kill is checked by itself; all of it would fill the memory
    client.texts.clear()
    client.sent.clear()


async def test_every_stream_of_a_killed_worker_ends_once(
    hostile_place: Installation, figures: Figures, request: pytest.FixtureRequest
) -> None:
    kills: int = request.config.getoption("--kills")
    with Module(hostile_place, BUDGET) as module:
        async with connect(module) as client, connect(module) as other, connect(module) as next_one:
            await client.load("hostile")
            await next_one.load("hostile")
            theirs = [await endless(other, provider) for provider in NEIGHBOURS]
            ledger = Ledger(module)
            await client.say("stream 1")
            before, memory = ledger.held(), ledger.memory_bytes()
            for _ in range(kills):
                await killed_once(client, next_one, ledger)
            after, grown = ledger.held(), ledger.memory_bytes() - memory
            await other.interrupt()
            seen = [numbers((await other.end(request)).text) for request in theirs]
            worker = await worker_of(client, "hostile")
        assert seen == [list(range(len(each))) for each in seen]
        assert (worker["deaths"], worker["restarts"]) == (kills, kills)
        statuses = module.stderr().count("status=-9 words='The worker of hostile died: signal 9 (SIGKILL)")
        assert statuses == kills
        assert after == before
        note(figures, ledger, kills, grown)


async def endless(client: Client, provider: str) -> object:
    """A stream of that provider, begun, that goes on until it is interrupted."""
    await client.load(provider)
    request = await client.generate(QUIET)
    await client.chunk(request)
    return request


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process that is half started may be missed")
async def test_requests_end_once_whenever_the_worker_or_its_nanny_is_killed(
    hostile_place: Installation, figures: Figures, request: pytest.FixtureRequest
) -> None:
    kills: int = request.config.getoption("--kills")
    with Module(hostile_place, (*BUDGET, "--set", "pool.start_again_s=0.01")) as module:
        async with connect(module) as client:
            await client.load("hostile")
            killing = asyncio.create_task(asyncio.to_thread(kill_at_any_moment, module, kills))
            codes: Counter[str] = Counter()
            while not killing.done():
                requests = [await client.generate("stream 5") for _ in range(5)]
                codes += Counter([(await client.end(each, timeout_s=LONG_S)).code for each in requests])
                while "PROVIDER_DOWN" in codes and (await client.load("hostile"))["is_error"]:
                    assert not killing.done() or killing.result() is None
            await killing
            while (await client.load("hostile"))["is_error"]:  # the last kill may have met a start
                assert module.process.poll() is None
            assert (await client.say("stream 1", timeout_s=LONG_S)).code == "SUCCESS"
    assert set(codes) <= {"SUCCESS", "WORKER_CRASHED", "PROVIDER_DOWN"}
    for code, count in codes.items():
        figures.add(
            "requests while a worker or its nanny is killed at any moment", f"{kills} kills", code, count
        )


def kill_at_any_moment(module: Module, kills: int) -> None:
    """Kills one of the processes below the module, again and again, in its start or later."""
    chance = random.Random(SEED)  # noqa: S311  # as above
    pause = threading.Event()
    for _ in range(kills):
        wait_until(lambda: len(module.family()) > 1, "a start")
        pause.wait(chance.random() * START_S)
        for process in chance.sample(below := module.family()[1:], min(1, len(below))):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def note(figures: Figures, ledger: Ledger, kills: int, grown_bytes: int) -> None:
    """The row of the table."""
    row = f"{kills} kills"
    figures.add(TITLE, row, "frames cut", str(ledger.cut_frames()))
    figures.add(TITLE, row, "requests ended once", str(ledger.ended))
    figures.add(TITLE, row, "back after ms, median", 1000 * statistics.median(ledger.back_s))
    figures.add(TITLE, row, "p99", 1000 * _p99(ledger.back_s))
    figures.add(TITLE, row, "memory of the supervisor grew by MB", grown_bytes / (1 << 20))


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[max(0, round(len(values) * 0.99) - 1)]


async def test_deaths_are_named_in_words(hostile: Client, impatient: Module) -> None:
    deeds = {
        "die 3": "died: status 3.",
        "die SIGKILL": "died: signal 9 (SIGKILL).",
        "die SIGABRT": "died: signal 6 (SIGABRT). Its last words: Fatal Python error: Aborted",
        "die segfault": "died: signal 11 (SIGSEGV). Its last words: Fatal Python error: Segmentation fault",
    }
    for deed, words in deeds.items():
        reply = await hostile.say(deed)
        assert (reply.code, words in reply.end["message"]) == ("WORKER_CRASHED", True), reply.end["message"]
        assert (await hostile.say("stream 1")).code == "SUCCESS"


async def test_a_worker_that_keeps_dying_is_given_up_and_a_load_tries_once_more(
    hostile_place: Installation,
) -> None:
    with Module(hostile_place, ("--set", "pool.restarts=2")) as module:
        async with connect(module) as client:
            await client.load("hostile")
            for _ in range(3):
                assert (await client.say("die 3")).code == "WORKER_CRASHED"
            reply = await client.say("stream 1")
            assert reply.code == "PROVIDER_DOWN"
            assert "died 3 times" in reply.end["message"]
            assert (await worker_of(client, "hostile"))["state"] == "down"
            assert (await client.load("neighbour"))["is_error"] is False
            assert (await client.load("hostile"))["is_error"] is False
            assert (await client.say("stream 1")).code == "SUCCESS"
        assert "worker given up provider=hostile deaths=3" in module.stderr()


async def test_a_boot_that_fails_is_tried_twice_or_not_at_all_and_says_why(impatient: Module) -> None:
    async with connect(impatient) as client:
        stillborn = await client.load("stillborn")
        again = await client.load("stillborn")
        lame = await client.load("lame")
    assert stillborn["error_name"] == "WORKER_CRASHED"
    assert "signal 6 (SIGABRT)" in stillborn["message"]
    assert again["message"] == stillborn["message"]
    assert 0 < again["retry_after_ms"] <= 5000
    assert (lame["error_name"], "a_package_that_is_not_there" in lame["message"]) == (
        "PROVISION_FAILED",
        True,
    )
    log = impatient.stderr()
    assert [log.count(f"worker starting provider={name}") for name in ("stillborn", "lame")] == [2, 1]


async def test_a_worker_that_nobody_uses_rests_and_wakes_for_the_next_load(
    hostile_place: Installation,
) -> None:
    with Module(hostile_place, ("--set", "pool.idle_s=0.2")) as module:
        async with connect(module) as watcher:
            async with connect(module) as client:
                await client.load("hostile")
                assert (await client.say("stream 1")).code == "SUCCESS"
            await asyncio.to_thread(wait_until, lambda: "reason=idle" in module.stderr(), "its rest")
            worker = await worker_of(watcher, "hostile")
            assert (worker["state"], worker["finished_requests"], module.workers()) == ("idle", 1, [])
            assert (await watcher.load("hostile"))["is_error"] is False
            assert (await watcher.say("stream 1")).code == "SUCCESS"

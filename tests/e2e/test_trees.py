"""However the module or a worker ends, nothing is left: no worker, no nanny, nothing that they started."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.client import Client, connect
from tests.e2e.figures import Figures
from tests.e2e.hostile import worker_of
from tests.e2e.module import Installation, Module
from tests.wheelhouse import wait_until

if sys.platform != "linux":
    pytest.skip("elsewhere what leaves its worker's group can outlive it", allow_module_level=True)

WAYS = ("in its group", "in a session", "as a daemon")
STATES = {"idle": None, "streaming": "stream 100000", "GIL held": "hold 600"}
ENDS = ("close", "SIGTERM", "SIGINT", "SIGINT twice", "SIGKILL", "stdin", "parent")


async def started(client: Client, how: str) -> psutil.Process:
    """A process that the worker has left."""
    return psutil.Process(int((await client.say(f"start {how}")).text))


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("end", ["die 3", "die SIGKILL", "die segfault"])
async def test_what_a_worker_started_ends_with_it(hostile: Client, how: str, end: str) -> None:
    left = await started(hostile, how)
    assert (await hostile.say(end)).code == "WORKER_CRASHED"
    wait_until(lambda: not _alive(left), f"the end of what was started {how}")


async def test_what_another_worker_started_lives_on(impatient: Module, hostile: Client) -> None:
    async with connect(impatient) as other:
        await other.load("neighbour")
        theirs = await started(other, "as a daemon")
        assert (await hostile.say("die SIGKILL")).code == "WORKER_CRASHED"
        assert (await hostile.say("stream 1")).code == "SUCCESS"
        assert _alive(theirs)


@pytest.mark.parametrize("how", WAYS)
async def test_a_grandchild_that_holds_the_pipes_delays_no_restart(hostile: Client, how: str) -> None:
    before = await worker_of(hostile, "hostile")
    await started(hostile, how)
    assert (await hostile.say("die SIGKILL")).code == "WORKER_CRASHED"
    assert (await hostile.say("stream 1")).code == "SUCCESS"
    assert (await worker_of(hostile, "hostile"))["pid"] != before["pid"]


@pytest.fixture
def owned(hostile_place: Installation, end: str, tmp_path: Path) -> Iterator[Module]:
    """A module that can be ended in that way; one whose parent is a process of ours where that is to die."""
    flags = ("--exit-on-stdin-eof",) if end == "stdin" else ()
    if end == "parent":
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as parent:
            module = Module(hostile_place, ("--parent-pid", str(parent.pid)))
            module.parent = parent
            yield module
            parent.kill()
    else:
        yield Module(hostile_place, flags)


async def bring_about(end: str, module: Module, client: Client) -> None:
    """The beginning of the end."""
    if end == "close":
        await client.ask({"type": "close"}, "close_ack")
    elif end == "stdin":
        assert module.process.stdin is not None
        module.process.stdin.close()
    elif end == "parent":
        assert module.parent is not None
        module.parent.kill()
        await asyncio.to_thread(module.parent.wait, 5)
    else:
        name, _, twice = end.partition(" ")
        module.process.send_signal(getattr(signal, name))
        if twice:
            await asyncio.to_thread(wait_until, lambda: "ending reason" in module.stderr(), "the first")
            module.process.send_signal(getattr(signal, name))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("end", ENDS)
async def test_nothing_outlives_the_module(owned: Module, end: str, state: str, figures: Figures) -> None:
    with owned as module:
        async with connect(module) as client:
            client.leaves_early = True
            await client.load("hostile")
            family = [await started(client, how) for how in WAYS]
            if STATES[state] is not None:
                await client.generate(str(STATES[state]))
                await client.wait(lambda m: m["type"] in ("generate_ack", "generate_stream_chunk"))
            family += module.family()
            assert len({process.pid for process in family}) >= 6  # these, the module, a nanny, a worker
            begun = time.monotonic()
            await bring_about(end, module, client)
            await asyncio.to_thread(wait_until, lambda: not any(map(_alive, family)), "the end of all")
            figures.add("the end of the module and all below it, s", end, state, time.monotonic() - begun)
        await asyncio.to_thread(module.wait)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

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
STATES = ("idle", "streaming", "GIL held")
TITLE = "the end of the module and all below it, s"
STUCK_S = 10.0
"""More than the module's patience in these tests, and all steps of ending a worker."""
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


async def nanny_of(client: Client) -> psutil.Process:
    """The process between the module and the worker."""
    parent = psutil.Process((await worker_of(client, "hostile"))["pid"]).parent()
    assert parent is not None
    return parent


async def test_a_worker_whose_nanny_is_killed_goes_with_it_and_the_next_request_works(
    hostile: Client,
) -> None:
    nanny = await nanny_of(hostile)
    family = [nanny, *nanny.children(recursive=True), await started(hostile, "in its group")]
    request = await hostile.generate("stream 100000")
    await hostile.chunk(request)
    nanny.kill()
    assert (await hostile.end(request)).code == "WORKER_CRASHED"
    wait_until(lambda: not any(map(_alive, family)), "the end of the worker")
    assert (await hostile.say("stream 1")).code == "SUCCESS"


async def test_a_worker_that_dies_under_a_stopped_nanny_is_given_up_in_time(hostile: Client) -> None:
    nanny = await nanny_of(hostile)
    family = [nanny, *nanny.children(recursive=True)]
    request = await hostile.generate("stream 100000")
    await hostile.chunk(request)
    nanny.suspend()
    family[1].kill()
    assert (await hostile.end(request, timeout_s=STUCK_S)).code == "WORKER_CRASHED"
    wait_until(lambda: not any(map(_alive, family)), "the end of both")
    assert (await hostile.say("stream 1")).code == "SUCCESS"


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


async def bring_into(state: str, module: Module, client: Client) -> None:
    """Waits until the worker is really in that state."""
    if state == "streaming":
        await client.chunk(await client.generate("stream 100000"))
    elif state == "GIL held":
        await client.generate("hold 600")
        await asyncio.to_thread(wait_until, lambda: "text='holding'" in module.stderr(), "the call")


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
            await bring_into(state, module, client)
            family += module.family()
            assert len({process.pid for process in family}) >= 6  # these, the module, a nanny, a worker
            begun = time.monotonic()
            await bring_about(end, module, client)
            await asyncio.to_thread(wait_until, lambda: not any(map(_alive, family)), "the end of all")
            figures.add(TITLE, end, state, time.monotonic() - begun)
        await asyncio.to_thread(module.wait)


@pytest.mark.parametrize("end", ["close", "SIGTERM", "SIGINT twice", "SIGKILL"])
async def test_nothing_outlives_a_module_that_ends_while_a_worker_imports(
    owned: Module, end: str, figures: Figures
) -> None:
    with owned as module:
        async with connect(module) as client:
            client.leaves_early = True
            await client.send({"type": "load", "provider": "sluggish"})
            await asyncio.to_thread(wait_until, lambda: "text='importing'" in module.stderr(), "the import")
            family = module.family()
            begun = time.monotonic()
            await bring_about(end, module, client)
            await asyncio.to_thread(wait_until, lambda: not any(map(_alive, family)), "the end of all")
            figures.add(TITLE, end, "importing", time.monotonic() - begun)
        await asyncio.to_thread(module.wait)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

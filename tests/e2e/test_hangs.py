"""A worker that is stuck is reported with its stacks and ended; one that is busy is left alone.

python install.py --test tests/e2e/test_hangs.py --real-patience      with the module's own figures
"""

from __future__ import annotations

import asyncio
import sys
import time

import psutil
import pytest

from tests.e2e.client import Client, connect
from tests.e2e.figures import Figures
from tests.e2e.hostile import IMPATIENT, worker_of
from tests.e2e.module import Installation, Module
from tests.wheelhouse import wait_until

LONG_S = 10.0
"""For what takes seconds by itself; the module's patience in these tests ends after 1.5 s."""
TRIES = 20
"""Far more loads than the time that a stuck worker is given."""
TITLE = "what was reported and ended when"
linux = pytest.mark.skipif(sys.platform == "win32", reason="its processes cannot be stopped or aborted")


@linux
@pytest.mark.parametrize(
    ("deed", "condition", "function", "words"),
    [
        pytest.param("block 600", "loop blocked", "block_the_loop", "event loop", id="loop blocked"),
        pytest.param("hold 600", "silent", "hold_the_interpreter", "did nothing", id="GIL held, waiting"),
        pytest.param("regex", "busy", "meet_a_bad_regex", "computed", id="GIL held, computing"),
        pytest.param("die SIGSTOP", "silent", "die", "did nothing", id="stopped"),
    ],
)
async def test_a_stuck_worker_is_reported_and_ended_and_the_next_request_works(
    impatient: Module,
    hostile: Client,
    patience: float,
    figures: Figures,
    deed: str,
    condition: str,
    function: str,
    words: str,
) -> None:
    before = await worker_of(hostile, "hostile")
    begun = time.monotonic()
    request = await hostile.generate(deed)
    await asyncio.to_thread(
        wait_until, lambda: "worker silent" in impatient.stderr(), "a report", LONG_S * patience
    )
    figures.add(TITLE, deed, "reported after s", time.monotonic() - begun)
    reply = await hostile.end(request, timeout_s=LONG_S * patience)
    figures.add(TITLE, deed, "ended after s", time.monotonic() - begun)
    figures.add(TITLE, deed, "as", condition)
    assert reply.code == "WORKER_CRASHED"
    assert words in reply.end["message"]
    assert (await hostile.say("stream 2", timeout_s=LONG_S)).end["is_error"] is False
    after = await worker_of(hostile, "hostile")
    assert (after["pid"] != before["pid"], after["deaths"], after["condition"]) == (True, 1, "well")
    log = impatient.stderr()
    (report,) = [line for line in log.splitlines() if "worker silent" in line]
    assert f"pid={before['pid']} condition='{condition}'" in report
    assert any(f" in {function}" in line for line in log.splitlines() if "worker says" in line)


@pytest.mark.parametrize("deed", ["python", "native", "wait"])
async def test_a_busy_worker_is_left_alone(
    impatient: Module, hostile: Client, patience: float, figures: Figures, deed: str
) -> None:
    before = await worker_of(hostile, "hostile")
    seconds = 2.0 * patience
    assert (await hostile.say(f"{deed} {seconds}", timeout_s=LONG_S * patience)).code == "SUCCESS"
    figures.add(TITLE, f"{deed} {seconds:g}", "as", "well")
    assert (await worker_of(hostile, "hostile"))["pid"] == before["pid"]
    assert "worker silent" not in impatient.stderr()


async def test_an_engine_that_computes_is_reported_and_not_ended(impatient: Module) -> None:
    async with connect(impatient) as client:
        await client.load("engine")
        assert (await client.say("compute 3", timeout_s=LONG_S * 3)).text == "done"
        while (worker := await worker_of(client, "engine"))["condition"] != "well":  # from the next beat on
            assert worker["deaths"] == 0
    assert "worker silent provider=engine" in impatient.stderr()


@linux
async def test_an_engine_that_is_stuck_is_ended_with_its_stack_in_the_log(impatient: Module) -> None:
    async with connect(impatient) as client:
        await client.load("engine")
        before = await worker_of(client, "engine")
        reply = await client.say("hold 600", timeout_s=LONG_S * 3)
        assert (reply.code, "did nothing" in reply.end["message"]) == ("WORKER_CRASHED", True)
        assert (await client.say("stream 2", timeout_s=LONG_S)).code == "SUCCESS"
        assert (await worker_of(client, "engine"))["pid"] != before["pid"]
    said = [line for line in impatient.stderr().splitlines() if "worker says provider=engine" in line]
    assert any(" in hold_the_interpreter" in line for line in said)


async def test_a_load_of_an_engine_that_computes_with_the_interpreter_held_is_no_hang(
    impatient: Module,
) -> None:
    async with connect(impatient) as client:
        done = await client.load("engine", options={"compute_s": 3}, timeout_s=LONG_S * 3)
        assert done["is_error"] is False
        assert (await worker_of(client, "engine"))["deaths"] == 0
        assert (await client.say("stream 2", timeout_s=LONG_S)).code == "SUCCESS"


async def test_an_import_that_holds_the_interpreter_is_no_hang(impatient: Module) -> None:
    async with connect(impatient) as client:
        done = await client.load("sluggish")
        assert done["is_error"] is False
        assert done["timings_ms"]["import"] >= 3000
    assert "worker silent" not in impatient.stderr()


async def test_a_load_that_blocks_the_loop_is_no_hang(impatient: Module) -> None:
    async with connect(impatient) as client:
        assert (await client.load("hostile", options={"block_s": 2.0}))["is_error"] is False
    assert "worker silent" not in impatient.stderr()


async def test_loads_that_follow_each_other_do_not_keep_a_stuck_worker_alive(
    hostile_place: Installation,
) -> None:
    with Module(hostile_place, (*IMPATIENT, "--set", "worker.bind_s=0.5")) as module:
        async with connect(module) as client:
            failed = [await client.load("hostile", options={"block_s": 600})]
            while failed[-1]["error_name"] == "TIMEOUT":
                assert len(failed) < TRIES
                failed.append(await client.load("hostile", options={"block_s": 600}))
            assert failed[-1]["error_name"] == "WORKER_CRASHED"
            assert "its event loop did not turn" in failed[-1]["message"]
            assert (await client.load("hostile"))["is_error"] is False


async def test_a_module_that_was_stopped_for_a_while_ends_no_worker(
    impatient: Module, hostile: Client
) -> None:
    before = await worker_of(hostile, "hostile")
    psutil.Process(impatient.process.pid).suspend()
    await asyncio.sleep(2.5)  # more than its patience with a worker; there is no event in a stopped process
    psutil.Process(impatient.process.pid).resume()
    assert (await hostile.say("stream 3")).code == "SUCCESS"
    assert (await worker_of(hostile, "hostile"))["pid"] == before["pid"]
    assert "worker at fault" not in impatient.stderr()


async def test_a_worker_that_grows_too_large_is_ended_and_the_next_request_works(
    hostile_place: object, hostile: Client, impatient: Module
) -> None:
    flags = ("--set", "worker.memory_soft_mb=60", "--set", "worker.memory_hard_mb=150")
    with Module(impatient.installation, flags) as module:
        async with connect(module) as client:
            await client.load("hostile")
            reply = await client.say("grow 300", timeout_s=LONG_S)
            assert reply.code == "OUT_OF_MEMORY"
            assert "over the limit of 150 MB (worker.memory_hard_mb)" in reply.end["message"]
            assert (await client.say("stream 2", timeout_s=LONG_S)).code == "SUCCESS"
            assert (await client.say("grow 90", stream=True, params={"timeout_ms": 1500})).code == "TIMEOUT"
        wait_until(lambda: "worker grows provider=hostile" in module.stderr(), "the warning")


async def test_noise_and_garbage_are_the_worker_s_fault_alone(impatient: Module, hostile: Client) -> None:
    async with connect(impatient) as other:
        await other.load("neighbour")
        theirs = await other.generate("stream 300")
        assert (await hostile.say("noise")).code == "SUCCESS"
        reply = await hostile.say("garbage")
        assert (reply.code, "is not our wire" in reply.end["message"]) == ("WORKER_CRASHED", True)
        end = await other.end(theirs, timeout_s=LONG_S)
    assert [int(piece.split(";")[0]) for piece in end.text.split("|")[:-1]] == list(range(300))
    assert "worker says provider=hostile text='noise 499'" in impatient.stderr()

"""However a connection or the module ends, what it had open upstream ends too, and no process is left."""

from __future__ import annotations

import asyncio
import sys

import pytest

from tests.e2e.client import Client, connect
from tests.e2e.module import Installation, Module
from tests.e2e.upstream import Upstream
from tests.fakes.openai_server import Behaviour
from tests.wheelhouse import wait_until

STALLED = Behaviour(gate_after=1)
posix = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows has no signal that a process can receive alone"
)


@pytest.fixture
async def own_module(installation: Installation, upstream: Upstream) -> Module:
    """A module that the test may end; it is stopped by whoever enters it."""
    return Module(installation, variables={"OPENAI_BASE_URL": upstream.base_url})


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "unstreamed"])
@pytest.mark.parametrize("how", ["leave", "vanish"])
async def test_a_client_that_goes_away_closes_its_upstream(
    module: Module, upstream: Upstream, how: str, stream: bool
) -> None:
    upstream.behaviour = STALLED if stream else Behaviour(gate_before_head=True)
    async with connect(module) as client:
        await client.load("openai", api_key=module.new_key())
        await client.generate(stream=stream)
        await upstream.received(1)
        await (client.leave() if how == "leave" else client.vanish())
        await upstream.closed(0)


async def test_a_client_that_goes_away_takes_nothing_from_another(
    module: Module, openai: Client, upstream: Upstream
) -> None:
    upstream.behaviour = STALLED
    ours = await openai.generate()
    await openai.chunk(ours)
    async with connect(module) as other:
        await other.load("openai", api_key=module.new_key())
        await other.chunk(await other.generate())
        await other.vanish()
    await upstream.closed(1)
    upstream.gate.set()
    assert (await openai.end(ours)).text == "Hello there."


@pytest.mark.parametrize("seed", [True, False], ids=["seed", "sdk"])
async def test_close_ends_every_open_stream_with_interrupt_and_the_process_with_0(
    own_module: Module, upstream: Upstream, seed: bool
) -> None:
    upstream.behaviour = STALLED
    with own_module as module:
        async with connect(module, seed=seed) as closing, connect(module) as other:
            streams = []
            for client in (closing, other, other):
                await client.load("openai", api_key=module.new_key())
                streams.append((client, await client.generate()))
                await client.chunk(streams[-1][1])
            module.family()
            ack = await closing.ask({"type": "close"}, "close_ack")
            ends = [await client.end(request) for client, request in streams]
        code = await asyncio.to_thread(module.wait)
    assert (ack["is_error"], code) == (False, 0)
    assert [end.code for end in ends] == ["INTERRUPT"] * 3
    assert [end.chunks for end in ends] == [["Hello"]] * 3


async def test_a_load_that_is_open_at_close_ends_with_interrupt(
    own_module: Module, upstream: Upstream
) -> None:
    upstream.models = Behaviour(gate_before_head=True)
    with own_module as module:
        async with connect(module) as client:
            await client.send(
                {"type": "load", "provider": "openai", "unique_request_id": "l", "api_key": "none"}
            )
            await client.wait(lambda m: m["type"] == "load_ack")
            await client.ask({"type": "close"}, "close_ack")
            done = await client.wait(lambda m: m["type"] == "load_done")
        assert await asyncio.to_thread(module.wait) == 0
    assert done["error"] == "INTERRUPT"


@posix
@pytest.mark.parametrize(("signal_name", "code"), [("SIGTERM", 0), ("SIGINT", 130)])
async def test_a_signal_ends_the_module_as_close_does(
    own_module: Module, upstream: Upstream, signal_name: str, code: int
) -> None:
    import signal  # here: only where a signal can be sent

    upstream.behaviour = STALLED
    with own_module as module:
        async with connect(module) as client:
            await client.load("openai", api_key=module.new_key())
            request = await client.generate()
            await client.chunk(request)
            module.family()
            module.process.send_signal(getattr(signal, signal_name))
            reply = await client.end(request)
        assert await asyncio.to_thread(module.wait) == code
    assert reply.code == "INTERRUPT"


@posix
async def test_a_second_signal_is_not_kept_waiting(own_module: Module, upstream: Upstream) -> None:
    import signal  # here: only where a signal can be sent

    upstream.behaviour = STALLED
    with own_module as module:
        async with connect(module) as client:
            await client.load("openai", api_key=module.new_key())
            await client.chunk(await client.generate())
            client.leaves_early = True
            module.family()
            client.socket.transport.pause_reading()  # it will not say goodbye
            module.process.send_signal(signal.SIGINT)
            await asyncio.to_thread(
                wait_until, lambda: "module ending reason" in module.stderr(), "the first"
            )
            module.process.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(module.wait) == 130
            client.socket.transport.resume_reading()
    assert "module ending at once reason=SIGINT" in module.log()


async def test_the_end_of_stdin_ends_the_module_where_that_was_asked_for(own_module: Module) -> None:
    own_module.flags = ("--exit-on-stdin-eof",)
    with own_module as module:
        assert module.process.stdin is not None
        module.process.stdin.close()
        assert await asyncio.to_thread(module.wait) == 0


async def test_no_worker_outlives_a_module_that_is_killed(own_module: Module, upstream: Upstream) -> None:
    upstream.behaviour = STALLED
    with own_module as module:
        async with connect(module) as client:
            await client.load("openai", api_key=module.new_key())
            await client.chunk(await client.generate())
            assert len(module.workers()) == 1
            client.leaves_early = True
            module.process.kill()
            await upstream.closed(0)
        await asyncio.to_thread(module.wait)


async def test_the_ready_line_is_all_that_stdout_ever_gets(own_module: Module, upstream: Upstream) -> None:
    with own_module as module:
        async with connect(module) as client:
            await client.load("openai", api_key=module.new_key())
            await client.say()
            await client.ask({"type": "close"}, "close_ack")
        await asyncio.to_thread(module.wait)
        assert module.stdout().count("\n") == 1
    assert (module.ready["event"], module.ready["host"], module.ready["pid"]) == (
        "ready",
        "127.0.0.1",
        module.process.pid,
    )

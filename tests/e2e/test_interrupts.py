"""An interrupt really ends the upstream request, wherever it was, and nothing else."""

from __future__ import annotations

import pytest

from tests.e2e.client import Client, connect
from tests.e2e.module import Module
from tests.e2e.upstream import Upstream
from tests.fakes.openai_server import Behaviour

SILENT = Behaviour(gate_before_head=True)
STALLED = Behaviour(gate_after=1)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "unstreamed"])
async def test_an_interrupt_before_the_first_byte_closes_the_upstream(
    openai: Client, upstream: Upstream, stream: bool
) -> None:
    upstream.behaviour = SILENT
    request = await openai.generate(stream=stream)
    await upstream.received(1)
    ack = await openai.interrupt()
    reply = await openai.end(request)
    await upstream.closed(0)
    assert ack["interrupted"] == [request]
    assert (reply.code, reply.end["error"], reply.end["finish_reason"]) == (
        "INTERRUPT",
        "INTERRUPT",
        "interrupt",
    )
    assert reply.end["upstream_closed_ms"] >= 0
    assert openai.received.index(ack) < openai.received.index(reply.end)


async def test_an_interrupt_in_mid_stream_closes_the_upstream(openai: Client, upstream: Upstream) -> None:
    upstream.behaviour = STALLED
    request = await openai.generate()
    await openai.chunk(request)
    await openai.interrupt()
    reply = await openai.end(request)
    await upstream.closed(0)
    upstream.gate.set()
    assert (reply.code, reply.chunks) == ("INTERRUPT", ["Hello"])
    assert "upstream_closed_ms" in reply.end


async def test_an_unstreamed_reply_that_is_interrupted_has_no_response(
    openai: Client, upstream: Upstream
) -> None:
    upstream.behaviour = SILENT
    request = await openai.generate(stream=False)
    await upstream.received(1)
    await openai.interrupt()
    reply = await openai.end(request)
    assert reply.end["response"] == ""
    assert "partial_response" in reply.end


async def test_an_interrupt_with_a_target_leaves_the_others(openai: Client, upstream: Upstream) -> None:
    upstream.behaviour = STALLED
    first, second = await openai.generate(), await openai.generate()
    await openai.chunk(first)
    await openai.chunk(second)
    ack = await openai.interrupt(first)
    assert ack["interrupted"] == [first]
    assert (await openai.end(first)).code == "INTERRUPT"
    upstream.gate.set()
    assert (await openai.end(second)).text == "Hello there."


async def test_an_interrupt_with_nothing_open_is_acknowledged(openai: Client) -> None:
    assert (await openai.interrupt())["interrupted"] == []


async def test_a_neighbour_s_stream_loses_nothing(module: Module, openai: Client, upstream: Upstream) -> None:
    upstream.behaviour = Behaviour(texts=tuple(f"{n} " for n in range(50)), gate_after=25)
    async with connect(module) as neighbour:
        await neighbour.load("openai", api_key=module.new_key())
        theirs, ours = await neighbour.generate(), await openai.generate()
        await neighbour.chunk(theirs, 25)
        await openai.chunk(ours, 25)
        await openai.interrupt()
        assert (await openai.end(ours)).code == "INTERRUPT"
        upstream.gate.set()
        assert (await neighbour.end(theirs)).text == "".join(f"{n} " for n in range(50))


@pytest.mark.parametrize("target", ["its id", "*"])
async def test_a_generation_that_supersedes_another_ends_it(
    openai: Client, upstream: Upstream, target: str
) -> None:
    upstream.script = [STALLED]
    old = await openai.generate("first")
    await openai.chunk(old)
    new = await openai.generate("second", supersedes=old if target == "its id" else "*")
    ended, reply = await openai.end(old), await openai.end(new)
    await upstream.closed(0)
    assert (ended.code, ended.chunks) == ("INTERRUPT", ["Hello"])
    assert reply.text == "Hello there."
    assert upstream.requests[1].body["messages"][-1]["content"] == "second"


async def test_the_worker_s_next_reply_is_whole_after_an_interrupt(
    openai: Client, upstream: Upstream
) -> None:
    upstream.script = [STALLED]
    request = await openai.generate()
    await openai.chunk(request)
    await openai.interrupt()
    await openai.end(request)
    assert (await openai.say()).text == "Hello there."

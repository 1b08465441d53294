"""A client that does not read holds up nobody, and what it asked for does not pile up."""

from __future__ import annotations

import json

from websockets.asyncio.client import connect as open_websocket

from tests.e2e.client import WAIT_S, connect, prompt
from tests.e2e.module import Installation, Module
from tests.e2e.upstream import Upstream
from tests.fakes.openai_server import Exchange, piece

LOAD = {"type": "load", "provider": "openai", "unique_request_id": "l"}
GENERATE = {
    "type": "generate",
    "unique_request_id": "g",
    "messages": prompt("Go on for ever."),
    "params": {"max_output_length": 10_000_000},
    "stream": True,
}


async def endless(exchange: Exchange) -> None:
    """A reply that ends only when its reader does."""
    await exchange.head(200, {"Content-Type": "text/event-stream"}, chunked=True)
    words = piece({"content": "x" * 50_000 + " "})
    while True:
        await exchange.send(words)


async def never_reads(module: Module, upstream: Upstream) -> None:
    """Asks for a reply without end, reads nothing of it, and waits until its upstream is closed."""
    url = f"ws://127.0.0.1:{module.port}"
    async with open_websocket(url, proxy=None, max_queue=1, close_timeout=0.1) as socket:
        await socket.send(json.dumps({**LOAD, "api_key": module.new_key()}))
        while json.loads(await socket.recv())["type"] != "load_done":
            pass
        upstream.script = [endless]
        await socket.send(json.dumps(GENERATE))
        await upstream.received(1)
        async with connect(module) as neighbour:
            await neighbour.load("openai", api_key=module.new_key())
            for _ in range(5):
                assert (await neighbour.say(timeout_s=WAIT_S)).text == "Hello there."
        await upstream.closed(0)


async def test_a_client_that_never_reads_is_dropped_and_its_neighbour_talks_on(
    installation: Installation, upstream: Upstream
) -> None:
    flags = ("--set", "server.stall_timeout_s=0.3")
    with Module(installation, flags, {"OPENAI_BASE_URL": upstream.base_url}) as module:
        await never_reads(module, upstream)
        assert module.process.poll() is None

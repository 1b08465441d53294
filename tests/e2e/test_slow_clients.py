"""A client that does not read holds up nobody, and what it asked for does not pile up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Iterator

import psutil
import pytest
from websockets.asyncio.client import connect as open_websocket

from tests.e2e.client import WAIT_S, connect, prompt
from tests.e2e.figures import Figures
from tests.e2e.module import Installation, Module
from tests.e2e.upstream import Upstream
from tests.fakes.openai_server import Exchange, piece
from tests.wheelhouse import wait_until

LOAD = {"type": "load", "provider": "openai", "unique_request_id": "l"}
GENERATE = {
    "type": "generate",
    "unique_request_id": "g",
    "messages": prompt("Go on for ever."),
    "params": {"max_output_length": 10_000_000},
    "stream": True,
}


FLOOD = {**GENERATE, "messages": prompt("flood 100000000")}
HANDSHAKE = (
    "GET / HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TITLE = "a stream beside somebody rude"


async def endless(exchange: Exchange) -> None:
    """A reply that ends only when its reader does."""
    await exchange.head(200, {"Content-Type": "text/event-stream"}, chunked=True)
    words = piece({"content": "x" * 50_000 + " "})
    while True:
        await exchange.send(words)


async def never_reads(module: Module, upstream: Upstream) -> None:
    """Asks for a reply without end, reads nothing of it, and waits until its upstream is closed."""
    url = f"ws://127.0.0.1:{module.port}"
    async with open_websocket(url, proxy=None, max_queue=1, close_timeout=0.1) as websocket:
        await websocket.send(json.dumps({**LOAD, "api_key": module.new_key()}))
        while json.loads(await websocket.recv())["type"] != "load_done":
            pass
        upstream.script = [endless]
        await websocket.send(json.dumps(GENERATE))
        await upstream.received(1)
        async with connect(module) as neighbour:
            await neighbour.load("openai", api_key=module.new_key())
            for _ in range(5):
                assert (await neighbour.say(timeout_s=WAIT_S)).text == "Hello there."
        await upstream.closed(0)


@contextlib.contextmanager
def deaf(port: int) -> Iterator[socket.socket]:
    """A client whose system takes next to nothing for it, and which asks for a flood and reads none of it."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(WAIT_S)
        sock.connect(("127.0.0.1", port))
        sock.sendall(HANDSHAKE.format(port).encode())
        sock.sendall(masked(json.dumps({"type": "load", "provider": "hostile"}).encode()))
        said = b""
        while b"load_done" not in said:
            said += sock.recv(4096)
        sock.sendall(masked(json.dumps(FLOOD).encode()))
        yield sock


def masked(message: bytes) -> bytes:
    """A frame of text as a client must send it, with a mask that changes nothing."""
    return bytes((0x81, 0x80 | 126, *len(message).to_bytes(2, "big"), 0, 0, 0, 0)) + message


def dropped_after_s(module: Module) -> float:
    """How long the module bore with a client that does not read."""
    begun = time.monotonic()
    wait_until(lambda: "client dropped reason='it does not read'" in module.stderr(), "its end")
    return time.monotonic() - begun


async def latencies_ms(module: Module, chunks: int) -> list[float]:
    """How long each piece of a stream took from the worker to a client that reads."""
    async with connect(module) as client:
        await client.load("hostile")
        request = await client.generate(f"timed {chunks}", params={"max_output_length": 10_000_000})
        arrived: list[int] = []
        seen = 0
        while len(arrived) < chunks:
            await client.wait(lambda m: "chunk" in m or "is_error" in m, after=seen)
            now = time.monotonic_ns()
            arrived += [now] * sum("chunk" in message for message in client.received[seen:])
            seen = len(client.received)
        reply = await client.end(request)
    pieces = [piece.split(";") for piece in reply.text.split("|")[:-1]]
    assert [int(number) for number, *_ in pieces] == list(range(chunks))
    return sorted((at - int(left)) / 1e6 for at, (_, left, _) in zip(arrived, pieces, strict=True))


async def test_a_client_that_does_not_read_costs_the_others_nothing(
    hostile_place: Installation, figures: Figures, request: pytest.FixtureRequest
) -> None:
    chunks: int = request.config.getoption("--chunks")
    stall_s = min(5.0, chunks / 4000)  # the default where there is time for it
    with Module(hostile_place, ("--set", f"server.stall_timeout_s={stall_s}")) as module:
        process = psutil.Process(module.process.pid)
        await latencies_ms(module, 100)
        alone = await latencies_ms(module, chunks // 4)
        before = process.memory_info().rss
        with deaf(module.port):
            dropped = asyncio.create_task(asyncio.to_thread(dropped_after_s, module))
            beside = await latencies_ms(module, chunks)
            grown = process.memory_info().rss - before
            late_s = await dropped
    row = "beside a client that does not read"
    note(figures, "alone", alone)
    note(figures, row, beside)
    figures.add(TITLE, row, "chunks", str(len(beside)))
    figures.add(TITLE, row, "that one was dropped after s", late_s)
    figures.add(TITLE, row, "memory of the supervisor grew by MB", grown / (1 << 20))


async def test_a_worker_that_floods_its_stderr_costs_the_others_next_to_nothing(
    hostile_place: Installation, figures: Figures
) -> None:
    with Module(hostile_place) as module:
        await latencies_ms(module, 10)
        async with connect(module) as client:
            await client.load("neighbour")
            shouting = await client.generate("shout 3")
            await asyncio.to_thread(wait_until, lambda: "text='shout'" in module.stderr(), "its first lines")
            note(figures, "beside a worker that floods its stderr", await latencies_ms(module, 500))
            assert (await client.end(shouting, timeout_s=WAIT_S * 2)).code == "SUCCESS"
            assert (await client.say("noise")).code == "SUCCESS"
        wait_until(lambda: "worker says too much provider=neighbour" in module.stderr(), "what was left out")


def note(figures: Figures, row: str, latencies: list[float]) -> None:
    """Sorted latencies, as a row of the table."""
    for name, share in {"p50": 0.5, "p99": 0.99, "max": 1.0}.items():
        figures.add(TITLE, row, f"{name} ms", latencies[round(share * (len(latencies) - 1))])


async def test_a_client_that_never_reads_is_dropped_and_its_neighbour_talks_on(
    installation: Installation, upstream: Upstream
) -> None:
    flags = ("--set", "server.stall_timeout_s=0.3")
    with Module(installation, flags, {"OPENAI_BASE_URL": upstream.base_url}) as module:
        await never_reads(module, upstream)
        assert module.process.poll() is None

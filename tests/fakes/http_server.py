"""A server on 127.0.0.1 that speaks one wire, well or badly, and records what it sees.

    async with FakeServer(wire) as server:
        server.behaviour = Behaviour(texts=("Hel", "lo"))
        ...                                    # a client talks to server.base_url
        server.asked(0).key                    # what it was asked, and with which key
        await server.closed(0)                 # when the client's socket of request 0 was closed

A behaviour is a Behaviour or a coroutine function that takes an Exchange and does whatever it likes to it.
It uses no framework, since those tidy up the very faults that are needed here. What its answers look like is
the wire's: tests/fakes/wire.py.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Final, TypeAlias, TypeVar
from urllib.parse import parse_qsl

from tests.fakes.wire import JSON, Asked, Behaviour, Part, Received, Wire

__all__ = ["WAIT_S", "Exchange", "FakeServer", "Step"]

S = TypeVar("S", bound="FakeServer")
WAIT_S: Final = 5.0
"""No wait of a test is longer."""
FORM: Final = "application/x-www-form-urlencoded"
_LINGER_NONE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER that turns a close into a reset."""


class Exchange:
    """One request while it is answered; each method sends what it says and nothing else."""

    def __init__(self, server: FakeServer, connection: _Connection, request: Received) -> None:
        self.server = server
        self.request = request
        self._connection = connection
        self._chunked = False

    async def head(
        self,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        *,
        length: int | None = None,
        chunked: bool = False,
    ) -> None:
        """The status line and the headers."""
        self._chunked = chunked
        lines = [f"HTTP/1.1 {status} X"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if chunked:
            lines.append("Transfer-Encoding: chunked")
        elif length is not None:
            lines.append(f"Content-Length: {length}")
        else:
            lines.append("Connection: close")
        await self.raw(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    async def send(self, data: bytes) -> None:
        """A piece of the body."""
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data)

    async def end(self) -> None:
        """The end of the body."""
        if self._chunked:
            await self.raw(b"0\r\n\r\n")

    async def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        await self._connection.write(data)

    def fin(self) -> None:
        """Closes the connection once all is sent."""
        self._connection.transport.close()

    def reset(self) -> None:
        """Resets the connection."""
        sock = self._connection.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
        self._connection.transport.abort()


Step: TypeAlias = "Behaviour | Callable[[Exchange], Awaitable[None]]"


class FakeServer:
    """The server; see the module."""

    def __init__(
        self, wire: Wire, *, tls: ssl.SSLContext | None = None, listening: socket.socket | None = None
    ) -> None:
        self.wire = wire
        self.behaviour: Step = Behaviour()
        self.script: list[Step] = []
        """Behaviours of the next requests, first one first; then `behaviour` holds again."""
        self.models: Step = _answer_models
        self.model_names: tuple[str, ...] = wire.names
        self.requests: list[Received] = []
        """Every generation, in order."""
        self.lists: list[Received] = []
        """Every request for what costs nothing, in order."""
        self.follows: list[Received] = []
        """Every request for the answer to a generation that another one began."""
        self.cancels: list[Received] = []
        self.tokens: list[Received] = []
        """Every request for a token."""
        self.selling: Step | None = None
        """How a token is sold, instead of well."""
        self.begins: Step | None = None
        """How a generation that others follow is begun, instead of well."""
        self.following: list[Step] = []
        """Behaviours of the next requests that follow one, first one first."""
        self.follow: Step | None = None
        """How all others are answered, instead of well."""
        self.cancelling: Step = Behaviour(body=b"{}")
        self._begun: dict[int, Step] = {}
        """How generations that were begun are answered to the next request that follows."""
        self.gate = asyncio.Event()
        """What behaviours that wait are waiting for."""
        self._tls = tls
        self._listening = listening
        """A socket that listens already and outlives the server, instead of one of its own."""
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.connections = 0
        """How many connections were ever accepted."""

    async def __aenter__(self: S) -> S:
        loop = asyncio.get_running_loop()
        if self._listening is not None:
            self._server = await loop.create_server(lambda: _Connection(self), sock=self._listening.dup())
        else:
            self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self._open):
            connection.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.wait_for(self._empty.wait(), WAIT_S)
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        """The port that the system gave."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def base_url(self) -> str:
        """What a client is given."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}{self.wire.mount}"

    @property
    def open_connections(self) -> int:
        """How many clients' sockets are open now."""
        return len(self._open)

    def asked(self, index: int = -1) -> Asked:
        """A generation as it was received, read from its wire."""
        return self.wire.asked(self.requests[index])

    def step_for(self, request: Received) -> Step:
        """How that request is answered."""
        part = self.wire.part(request)
        if part is Part.LIST:
            return self.models
        if part is Part.TOKEN:
            return self.selling or Behaviour(body=self.wire.token(request))
        number = self.wire.number(request)
        if part is Part.CANCEL:
            return self.cancelling
        if part is Part.FOLLOW:
            if self.following:
                return self.following.pop(0)
            if self.follow is not None:
                return self.follow
            if number is None:
                return Behaviour(body=self.wire.followed(request))
            return self._begun.pop(number, self.behaviour)
        step = self.script.pop(0) if self.script else self.behaviour
        return self._begin(request, step)

    def _begin(self, request: Received, step: Step) -> Step:
        """The answer to a generation; where the wire says so and it is a good one, kept for what follows."""
        if isinstance(step, Behaviour) and (step.body is not None or step.status != HTTPStatus.OK):
            return step
        number = self.requests.index(request)
        body = self.wire.begun(request, number, self.base_url)
        if body is None:
            return step
        self._begun[number] = step
        return self.begins or Behaviour(status=HTTPStatus.CREATED, body=body)

    async def received(self, count: int) -> Received:
        """Waits until `count` generations have arrived; returns the last of them."""
        return await self.arrived(self.requests, count)

    async def awaited(self, count: int) -> Received:
        """Waits until `count` answers are waited for, whichever request brings them; returns the last."""
        return await self.arrived(self.follows if self.wire.follows else self.requests, count)

    async def cancelled(self, index: int) -> None:
        """Waits until generation `index` was cancelled by a request of its own."""

        def told() -> bool:
            generation = self.requests[index]
            return any(self.wire.ends(request, generation, index) for request in self.cancels)

        await self._until(told)

    async def arrived(self, where: Sequence[Received], count: int) -> Received:
        """Waits until `where` holds `count` requests; returns the last of them."""
        await self._until(lambda: len(where) >= count)
        return where[count - 1]

    async def _until(self, holds: Callable[[], bool]) -> None:
        async def held() -> None:
            while not holds():
                self._changed.clear()
                await self._changed.wait()

        await asyncio.wait_for(held(), WAIT_S)

    async def closed(self, index: int) -> int:
        """Waits until the client's socket of request `index` is closed; returns when, in ns."""
        request = self.requests[index]
        await asyncio.wait_for(request.gone.wait(), WAIT_S)
        assert request.closed_ns is not None
        return request.closed_ns

    def _kept(self, part: Part) -> list[Received]:
        """Where requests of that kind are."""
        match part:
            case Part.GENERATION:
                return self.requests
            case Part.FOLLOW:
                return self.follows
            case Part.CANCEL:
                return self.cancels
            case Part.TOKEN:
                return self.tokens
            case _:
                return self.lists

    def _take(self, connection: _Connection, request: Received) -> None:
        self._kept(self.wire.part(request)).append(request)
        self._changed.set()
        exchange = Exchange(self, connection, request)
        task = asyncio.get_running_loop().create_task(self._serve(connection, exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        connection.task = task

    async def _serve(self, connection: _Connection, exchange: Exchange) -> None:
        await self._answer(exchange)
        connection.next()

    async def _answer(self, exchange: Exchange) -> None:
        step = self.step_for(exchange.request)
        if isinstance(step, Behaviour):
            await _perform(step, exchange)
        else:
            await step(exchange)


class _Connection(asyncio.Protocol):
    """One client's socket: parses requests, one after the other, and notes when it is closed."""

    transport: asyncio.Transport

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._data = b""
        self._requests: list[Received] = []
        self._writable = asyncio.Event()
        self._writable.set()
        self.task: asyncio.Task[None] | None = None
        self._number = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._number = self._server.connections
        self._server.connections += 1
        self._server._open.add(self)
        self._server._empty.clear()

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._parse()

    def eof_received(self) -> None:
        self._gone()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()
        self.transport.close()  # Python 3.10 does not count an SSL transport as closed otherwise
        self._server._open.discard(self)
        if not self._server._open:
            self._server._empty.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def write(self, data: bytes) -> None:
        self.transport.write(data)
        await self._writable.wait()

    def next(self) -> None:
        self.task = None
        self._parse()

    def _gone(self) -> None:
        now = time.monotonic_ns()
        for request in self._requests:
            if request.closed_ns is None:
                request.closed_ns = now
                request.gone.set()
        if self.task is not None:
            self.task.cancel()

    def _parse(self) -> None:
        head, found, rest = self._data.partition(b"\r\n\r\n")
        if not found or self.task is not None:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        raw, self._data = rest[:length], rest[length:]
        form = headers.get("content-type") == FORM
        body = dict(parse_qsl(raw.decode())) if form else json.loads(raw) if raw else None
        request = Received(method, path, headers, body, raw, self._number, time.monotonic_ns())
        self._requests.append(request)
        self._server._take(self, request)


async def _perform(behaviour: Behaviour, exchange: Exchange) -> None:
    if behaviour.gate_before_head:
        await exchange.server.gate.wait()
    wire = exchange.server.wire
    body, status = behaviour.body, behaviour.status
    if body is None and behaviour.events is None and not wire.streams(exchange.request):
        body = wire.whole(behaviour)
        status = wire.whole_status if status == 200 else status
    if body is not None:
        headers = {"Content-Type": JSON, **behaviour.headers}
        await exchange.head(status, headers, length=len(body))
        await exchange.send(body)
        return
    headers = {"Content-Type": wire.stream_type, **behaviour.headers}
    await exchange.head(behaviour.status, headers, chunked=behaviour.chunked)
    await _stream(behaviour, exchange)


async def _stream(behaviour: Behaviour, exchange: Exchange) -> None:
    events = exchange.server.wire.events(behaviour) if behaviour.events is None else behaviour.events
    for index, data in enumerate(events):
        if behaviour.cut_after == index:
            exchange.reset() if behaviour.cut == "rst" else exchange.fin()
            return
        if behaviour.gate_after == index:
            await exchange.server.gate.wait()
        await exchange.send(data)
    await exchange.end()
    if not behaviour.chunked:
        exchange.fin()


async def _answer_models(exchange: Exchange) -> None:
    server = exchange.server
    body = server.wire.models(server.model_names, exchange.request)
    await exchange.head(200, {"Content-Type": JSON}, length=len(body))
    await exchange.send(body)

"""A server on 127.0.0.1 that speaks the OpenAI wire, well or badly, and records what it sees.

    async with OpenAIServer() as server:
        server.behaviour = Behaviour(texts=("Hel", "lo"))
        ...                                    # a client talks to server.base_url
        server.requests[0].key                 # what it was asked, and with which key
        await server.closed(0)                 # when the client's socket of request 0 was closed

A behaviour is a Behaviour or a coroutine function that takes an Exchange and does whatever it likes to it.
It uses no framework, since those tidy up the very faults that are needed here.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

__all__ = ["Behaviour", "Exchange", "OpenAIServer", "Received", "Step", "event", "piece"]

WAIT_S: Final = 5.0
"""No wait of a test is longer."""
_LINGER_NONE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER that turns a close into a reset."""
_SSE: Final = "text/event-stream"
_JSON: Final = "application/json"
MODELS: Final = ("fake-small", "fake-large")


@dataclass
class Received:
    """One request, and what became of its connection."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: Any
    """The parsed JSON, or None."""
    raw: bytes
    connection: int
    """The same number for requests of one connection."""
    arrived_ns: int
    closed_ns: int | None = None
    """When the client's socket was closed, on the monotonic clock."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def key(self) -> str | None:
        """The bearer key, if there was one."""
        scheme, _, key = self.headers.get("authorization", "").partition(" ")
        return key if scheme == "Bearer" else None


@dataclass(frozen=True)
class Behaviour:
    """How to answer `POST /chat/completions`; the default answers as a provider should."""

    texts: tuple[str, ...] = ("Hello", " there", ".")
    reasoning: tuple[str, ...] = ()
    reasoning_field: str = "reasoning_content"
    finish_reason: str | None = "stop"
    usage: Mapping[str, Any] | None = field(
        default_factory=lambda: {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    )
    """Sent with an empty list of choices, after the end; None sends none."""
    done: bool = True
    """Whether `[DONE]` ends the stream."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """Sent as it is instead of an answer, with its length; the content type is JSON unless headers say."""
    events: tuple[bytes, ...] | None = None
    """Sent as they are instead of the stream that the fields above describe."""
    gate_before_head: bool = False
    """Wait for `server.gate` before anything is answered."""
    gate_after: int | None = None
    """Wait for `server.gate` after so many pieces of the stream."""
    cut_after: int | None = None
    """Break the connection after so many pieces."""
    cut: str = "fin"
    """`fin`: close it; `rst`: reset it."""
    chunked: bool = True
    """Otherwise the end of the connection is the end of the stream."""


class Exchange:
    """One request while it is answered; each method sends what it says and nothing else."""

    def __init__(self, server: OpenAIServer, connection: _Connection, request: Received) -> None:
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


class OpenAIServer:
    """The server; see the module."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.behaviour: Step = Behaviour()
        self.script: list[Step] = []
        """Behaviours of the next requests, first one first; then `behaviour` holds again."""
        self.models: Step = _answer_models
        self.key_check: Step = Behaviour(body=b'{"data": {"label": "fake"}}')
        self.model_names: tuple[str, ...] = MODELS
        self.requests: list[Received] = []
        """Every POST, in order."""
        self.lists: list[Received] = []
        """Every GET, in order."""
        self.gate = asyncio.Event()
        """What behaviours that wait are waiting for."""
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.connections = 0
        """How many connections were ever accepted."""

    async def __aenter__(self) -> OpenAIServer:
        loop = asyncio.get_running_loop()
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
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/v1"

    @property
    def open_connections(self) -> int:
        """How many clients' sockets are open now."""
        return len(self._open)

    async def received(self, count: int) -> Received:
        """Waits until `count` POSTs have arrived; returns the last of them."""

        async def arrived() -> None:
            while len(self.requests) < count:
                self._changed.clear()
                await self._changed.wait()

        await asyncio.wait_for(arrived(), WAIT_S)
        return self.requests[count - 1]

    async def closed(self, index: int) -> int:
        """Waits until the client's socket of request `index` is closed; returns when, in ns."""
        request = self.requests[index]
        await asyncio.wait_for(request.gone.wait(), WAIT_S)
        assert request.closed_ns is not None
        return request.closed_ns

    def _take(self, connection: _Connection, request: Received) -> None:
        (self.requests if request.method == "POST" else self.lists).append(request)
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
        if exchange.request.method == "POST":
            step = self.script.pop(0) if self.script else self.behaviour
        elif exchange.request.path.endswith("/key"):
            step = self.key_check
        else:
            step = self.models
        if isinstance(step, Behaviour):
            await _perform(step, exchange)
        else:
            await step(exchange)


class _Connection(asyncio.Protocol):
    """One client's socket: parses requests, one after the other, and notes when it is closed."""

    transport: asyncio.Transport

    def __init__(self, server: OpenAIServer) -> None:
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
        body = json.loads(raw) if raw else None
        request = Received(method, path, headers, body, raw, self._number, time.monotonic_ns())
        self._requests.append(request)
        self._server._take(self, request)


def event(value: object) -> bytes:
    """An event of a stream with that JSON."""
    return b"data: %s\n\n" % json.dumps(value).encode()


def piece(delta: Mapping[str, Any], finish_reason: str | None = None, **extra: Any) -> bytes:
    """An event with one choice."""
    choice = {"index": 0, "delta": dict(delta), "finish_reason": finish_reason}
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake-small"}
    return event({**base, "choices": [choice], **extra})


def _events(behaviour: Behaviour) -> list[bytes]:
    if behaviour.events is not None:
        return list(behaviour.events)
    result = [piece({behaviour.reasoning_field: thought}) for thought in behaviour.reasoning]
    result += [piece({"content": text}) for text in behaviour.texts]
    if behaviour.finish_reason is not None:
        result.append(piece({}, behaviour.finish_reason))
    if behaviour.usage is not None:
        result.append(
            event({"id": "chatcmpl-1", "model": "fake-small", "choices": [], "usage": behaviour.usage})
        )
    if behaviour.done:
        result.append(b"data: [DONE]\n\n")
    return result


def _whole(behaviour: Behaviour) -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(behaviour.texts)}
    if behaviour.reasoning:
        message[behaviour.reasoning_field] = "".join(behaviour.reasoning)
    choice = {"index": 0, "message": message, "finish_reason": behaviour.finish_reason}
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "model": "fake-small", "choices": [choice]}
    return json.dumps({**answer, **({"usage": behaviour.usage} if behaviour.usage else {})}).encode()


async def _perform(behaviour: Behaviour, exchange: Exchange) -> None:
    if behaviour.gate_before_head:
        await exchange.server.gate.wait()
    streamed = isinstance(exchange.request.body, dict) and exchange.request.body.get("stream") is True
    body = behaviour.body
    if body is None and not streamed and behaviour.events is None:
        body = _whole(behaviour)
    if body is not None:
        headers = {"Content-Type": _JSON, **behaviour.headers}
        await exchange.head(behaviour.status, headers, length=len(body))
        await exchange.send(body)
        return
    headers = {"Content-Type": _SSE, **behaviour.headers}
    await exchange.head(behaviour.status, headers, chunked=behaviour.chunked)
    await _stream(behaviour, exchange)


async def _stream(behaviour: Behaviour, exchange: Exchange) -> None:
    for index, data in enumerate(_events(behaviour)):
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
    names = [{"id": name, "object": "model"} for name in exchange.server.model_names]
    body = json.dumps({"object": "list", "data": names}).encode()
    await exchange.head(200, {"Content-Type": _JSON}, length=len(body))
    await exchange.send(body)

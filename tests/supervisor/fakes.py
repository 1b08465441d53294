"""What stands around one supervisor module in its tests: clients, sinks, workers and raw sockets.

The fakes record what they are told and do nothing else. Every wait here is bounded by WAIT_S.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import psutil

from supervisor.access import Access
from supervisor.bindings import Binding, BoundResult
from supervisor.commands import CallPart, Outcome
from supervisor.config import Settings, Variables
from supervisor.errors import Failure, ModuleError, WorkerError
from supervisor.home import Home
from supervisor.inflight import Sink
from supervisor.jobs import Job
from supervisor.pages import Answer, Question
from supervisor.providers import Provider
from supervisor.replies import WarningNote
from supervisor.server import Connection, Server, ServerLimits
from supervisor.worker import Death, Worker, WorkerState
from workers.codes import Code

__all__ = [
    "PROVIDER",
    "START_WAIT_S",
    "WAIT_S",
    "FakeClient",
    "FakeSink",
    "FakeWorker",
    "RawClient",
    "ignore_progress",
    "kill",
    "make_job",
    "make_settings",
    "serving",
    "soon",
]

WAIT_S: Final = 5.0
"""Bound of every wait: hundreds of times what a quiet machine needs."""
START_WAIT_S: Final = 20.0
"""Bound of a wait that includes the start of a process."""
KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="
PROVIDER: Final = Provider("demo", "Demo", "script", "scripted", "base", default_model="demo")
T = TypeVar("T")


async def soon(awaitable: Awaitable[T], wait_s: float = WAIT_S) -> T:
    """What `awaitable` gives, within the bound."""
    return await asyncio.wait_for(awaitable, wait_s)


def ignore_progress(_phase: str, _message: str, _fraction: float | None) -> None:
    """For a load whose progress nobody looks at."""


def kill(pid: int) -> None:
    """Ends a process as nothing can prevent; on POSIX that is SIGKILL."""
    psutil.Process(pid).kill()


def make_job(
    *,
    text: str = "hello",
    stream: bool = True,
    timeout_s: float = 60.0,
    first_token_timeout_s: float | None = None,
) -> Job:
    """A generation with every field that a worker wants."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": text, "name": None, "tool_calls": [], "tool_call_id": None}],
        "model": "",
        "stream": stream,
        "timeout_ms": round(timeout_s * 1000),
        "character_name": None,
        "temperature": 1.0,
        "max_output_length": 1_000_000,
        "stop": [],
        "stop_ids": [],
        "sampling": {},
        "response_format": None,
        "reasoning_effort": None,
        "tools": [],
        "tool_choice": None,
        "extra": {},
    }
    return Job(stream, timeout_s, first_token_timeout_s, body)


def make_settings(root: Path, *, variables: Mapping[str, str] | None = None, **changes: Any) -> Settings:
    """Settings over a HOME and a checkout below `root`, which need not be there."""
    return Settings(
        home=Home(root / "home"), checkout=root / "checkout", variables=Variables(variables or {}), **changes
    )


class FakeSink:
    """Where the news of generations go: all of them, by number, in order."""

    def __init__(self) -> None:
        self.chunks: dict[int, list[str]] = {}
        self.call_parts: dict[int, list[CallPart]] = {}
        self.ends: dict[int, list[Outcome]] = {}
        self._changed = asyncio.Event()

    def chunk(self, number: int, text: str) -> None:
        assert number not in self.ends, "a chunk after the end"
        self.chunks.setdefault(number, []).append(text)
        self._changed.set()

    def call_part(self, number: int, part: CallPart) -> None:
        assert number not in self.ends, "a piece of a call after the end"
        self.call_parts.setdefault(number, []).append(part)
        self._changed.set()

    def ended(self, number: int, outcome: Outcome) -> None:
        self.ends.setdefault(number, []).append(outcome)
        self._changed.set()

    def text(self, number: int) -> str:
        """All of a reply so far."""
        return "".join(self.chunks.get(number, ()))

    async def first_chunk(self, number: int) -> None:
        """Waits until something of a reply arrived."""
        await self.until(lambda: bool(self.chunks.get(number)))

    async def end(self, number: int, wait_s: float = WAIT_S) -> Outcome:
        """The one end of a generation."""
        await self.until(lambda: number in self.ends, wait_s)
        (outcome,) = self.ends[number]
        return outcome

    async def failure(self, number: int, wait_s: float = WAIT_S) -> Failure:
        """Why a generation failed."""
        failure = (await self.end(number, wait_s)).failure
        assert failure is not None
        return failure

    async def until(self, true: Callable[[], bool], wait_s: float = WAIT_S) -> None:
        """Waits until something is true that only news of a generation can make true."""
        while not true():
            self._changed.clear()
            await soon(self._changed.wait(), wait_s)


class FakeWorker:
    """A worker without a process, for the pool's policy; it does what a test tells it."""

    def __init__(self, provider: Provider, on_death: Callable[[Worker, Death], None]) -> None:
        self.provider = provider
        self.state = WorkerState.STARTING
        self.pid = 4711
        self.started_at = time.monotonic()
        self.import_ms = 3
        self.swamped = False
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.start_error: ModuleError | None = None
        self.bind_error: ModuleError | None = None
        self.stopped = 0
        self.has_stopped = asyncio.Event()
        self.starts = 0
        self.watch = None
        self._on_death = on_death
        self.bindings = _FakeBindings(self)
        self.requests = _FakeRequests()

    async def start(self) -> None:
        """Ready as soon as the test lets it."""
        self.starts += 1
        await self.may_start.wait()
        if self.start_error is not None:
            raise self.start_error
        self.state = WorkerState.READY

    async def stop(self, reason: str = "closing") -> None:
        """Ends at once."""
        self.stopped += 1
        self.has_stopped.set()
        self.state = WorkerState.DEAD

    def die(self, words: str = "signal 9 (SIGKILL)") -> None:
        """As a crash does: everything open ends, and the pool hears of it."""
        self.state = WorkerState.DEAD
        self.bindings.bound.clear()
        self.bindings.may_bind.set()
        self.requests.end_all(Failure(Code.WORKER_CRASHED, words))
        self._on_death(as_worker(self), Death(Code.WORKER_CRASHED, words, -9))


def as_worker(fake: FakeWorker) -> Worker:
    """The fake, where a Worker is asked for."""
    worker: Any = fake
    assert isinstance(worker, FakeWorker)
    result: Worker = worker  # type: ignore[assignment]  # it has all that pool.py uses
    return result


class _FakeBindings:
    def __init__(self, worker: FakeWorker) -> None:
        self._worker = worker
        self.bound: set[int] = set()
        self.asked: list[tuple[Binding, bool, str | None]] = []
        self.may_bind = asyncio.Event()
        self.may_bind.set()
        self.refused: set[int] = set()

    async def bind(
        self,
        binding: Binding,
        *,
        verify: bool,
        preload_model: str | None,
        on_progress: Callable[[str, str, float | None], None],
    ) -> BoundResult:
        self.asked.append((binding, verify, preload_model))
        on_progress("connect", "Connecting.", None)
        await self.may_bind.wait()
        if self._worker.state is not WorkerState.READY:
            raise WorkerError("died while it loaded", code=Code.WORKER_CRASHED)
        if binding.id in self.refused or self._worker.bind_error is not None:
            raise self._worker.bind_error or WorkerError("No such key.", code=Code.AUTHORIZATION)
        self.bound.add(binding.id)
        return BoundResult(("m1", "m2"), (WarningNote("NOT_VERIFIED", "Nobody looked."),), 5, None)

    def unbind(self, binding: int) -> None:
        self.bound.discard(binding)


class _FakeRequests:
    def __init__(self) -> None:
        self.open: dict[int, tuple[int, Job, Sink]] = {}
        self.credits: list[tuple[int, int]] = []
        self.finished = 0
        self.last_used = asyncio.get_running_loop().time()

    def __len__(self) -> int:
        return len(self.open)

    def start(self, number: int, binding: int, job: Job, sink: Sink, *, accepted: float) -> None:
        self.last_used = asyncio.get_running_loop().time()
        self.open[number] = (binding, job, sink)

    def finish(self, number: int) -> None:
        self.last_used = asyncio.get_running_loop().time()
        self.open.pop(number)[2].ended(number, Outcome())

    def end(self, number: int, failure: Failure) -> None:
        if number in self.open:
            self.last_used = asyncio.get_running_loop().time()
            self.open.pop(number)[2].ended(number, Outcome(failure))

    def end_all(self, failure: Failure) -> None:
        for number in list(self.open):
            self.end(number, failure)

    def credit(self, number: int, chars: int) -> None:
        self.credits.append((number, chars))


class FakeClient:
    """What a connection needs behind it; `echo` sends every message back."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.messages: deque[bytes] = deque()
        self.drains = 0
        self.gone_calls = 0
        self.left = asyncio.Event()
        self._came = asyncio.Event()
        self.echo = True

    def message(self, text: bytes) -> None:
        self.messages.append(text)
        self._came.set()
        if self.echo:
            self.connection.send(text)

    def drained(self) -> None:
        self.drains += 1

    def gone(self) -> None:
        self.gone_calls += 1
        self.left.set()

    async def next_message(self) -> bytes:
        """The next message that was not taken yet."""
        while not self.messages:
            self._came.clear()
            await soon(self._came.wait())
        return self.messages.popleft()


class ServerUnderTest:
    """A listening server, and the clients that were made behind it, oldest first."""

    def __init__(self, access: Access, limits: ServerLimits) -> None:
        self.clients: list[FakeClient] = []
        self._came = asyncio.Event()
        self.server = Server(access, limits, self._new_client, self._answer)
        self.echo = True
        self.port = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    def _new_client(self, connection: Connection) -> FakeClient:
        client = FakeClient(connection)
        client.echo = self.echo
        self.clients.append(client)
        self._came.set()
        return client

    async def _answer(self, question: Question) -> Answer:
        await self.may_answer.wait()
        return Answer(f"the page {question.page.value} verbose={question.verbose}")

    @property
    def uri(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def client(self, index: int = 0) -> FakeClient:
        """The client of that number, as soon as its handshake is done."""
        while len(self.clients) <= index:
            self._came.clear()
            await soon(self._came.wait())
        return self.clients[index]


@contextlib.asynccontextmanager
async def serving(access: Access | None = None, **limits: Any) -> AsyncIterator[ServerUnderTest]:
    """A server on a free port of 127.0.0.1; what is left of its connections is cut at the end."""
    under_test = ServerUnderTest(access or Access(), ServerLimits(**limits))
    under_test.port = await under_test.server.listen(["127.0.0.1"], 0)
    try:
        yield under_test
    finally:
        under_test.server.stop_listening()
        left = list(under_test.server.connections)
        for connection in left:
            connection.abort("the test is over")
        for connection in left:
            await soon(connection.closed.wait())


class RawClient:
    """A WebSocket client made of bytes, which can be as rude as a test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        self.reader = reader
        self.writer = writer
        self._port = port

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(cls, port: int, **kwargs: Any) -> AsyncIterator[RawClient]:
        """An open TCP connection, without a handshake."""
        reader, writer = await soon(asyncio.open_connection("127.0.0.1", port, **kwargs))
        try:
            yield cls(reader, writer, port)
        finally:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def request(self, *headers: str, host: str | None = None) -> bytes:
        """A handshake for this server; `host` "" leaves the header out."""
        return self.handshake(self._port, *headers, host=host)

    @staticmethod
    def handshake(port: int, *headers: str, host: str | None = None) -> bytes:
        """The bytes of a handshake."""
        name = f"127.0.0.1:{port}" if host is None else host
        lines = [
            "GET / HTTP/1.1",
            *([f"Host: {name}"] if name else []),
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {KEY}",
            *headers,
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def shake_hands(self, *headers: str, host: str | None = None) -> tuple[int, str]:
        """The status, and the head of the answer with its body if it was refused."""
        self.writer.write(self.request(*headers, host=host))
        return await self.answer()

    async def answer(self) -> tuple[int, str]:
        """The answer to a handshake that was sent."""
        head = (await soon(self.reader.readuntil(b"\r\n\r\n"))).decode()
        status = int(head.split()[1])
        if status != 101:
            head += (await self.rest()).decode()
        return status, head

    def send(self, data: bytes, *, opcode: int = 1, fin: bool = True) -> None:
        """One masked frame."""
        self.writer.write(masked(data, opcode=opcode, fin=fin))

    async def frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame of the server."""
        first, second = await soon(self.reader.readexactly(2))
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", await soon(self.reader.readexactly(2)))
        elif length == 127:
            (length,) = struct.unpack(">Q", await soon(self.reader.readexactly(8)))
        return first & 0x0F, await soon(self.reader.readexactly(length))

    async def rest(self) -> bytes:
        """Everything until the server ends the connection, however it does that."""
        got = bytearray()
        with contextlib.suppress(ConnectionError):
            while data := await soon(self.reader.read(1 << 16)):
                got += data
        return bytes(got)


def masked(data: bytes, *, opcode: int = 1, fin: bool = True) -> bytes:
    """A client's frame."""
    head = bytes([(0x80 if fin else 0) | opcode])
    if len(data) < 126:
        head += bytes([0x80 | len(data)])
    elif len(data) < 1 << 16:
        head += bytes([0x80 | 126]) + struct.pack(">H", len(data))
    else:
        head += bytes([0x80 | 127]) + struct.pack(">Q", len(data))
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))

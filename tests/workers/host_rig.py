"""A host in this process for tests: pipes for a wire, an adapter that does as it is told (or a real one)."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar, TypeVar

from tests.worker_process import WAIT_S, request_body
from workers import stdio, wire
from workers.adapter import (
    Adapter,
    AdapterError,
    Alive,
    Binding,
    Event,
    Finish,
    Loaded,
    LoadRequest,
    ProviderSpec,
    Reasoning,
    ReportProgress,
    Request,
    Text,
    ToolCallPart,
)
from workers.codes import Code
from workers.host import Host

__all__ = ["BIND", "SPEC", "Caller", "Fake", "Rig", "body_of", "running", "soon"]

F = TypeVar("F")
T = TypeVar("T")
SPEC = ProviderSpec("test", "Test")
BIND: dict[str, Any] = {"key": None, "base_url": None, "options": {}, "verify": True, "preload_model": None}


class Fake(Adapter):
    """Does what the last message names."""

    made: ClassVar[list[Fake]] = []

    def __init__(self, provider: ProviderSpec, binding: Binding) -> None:
        super().__init__(provider, binding)
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()
        self.upstream_closed = asyncio.Event()
        self.closed = asyncio.Event()
        self.yielded = 0
        self.report: ReportProgress
        self.late: Callable[[], object] = lambda: None
        Fake.made.append(self)

    async def load(self, load: LoadRequest, report: ReportProgress) -> Loaded:
        match self.binding.options.get("load"):
            case "refuse":
                raise AdapterError(Code.AUTHORIZATION, "No.", provider_status=401)
            case "break":
                raise RuntimeError(f"a bug that quotes {self.binding.key}")
            case "hang":
                report("connect", "waiting", None)
                await self.go_on.wait()
            case "progress":
                self.report = report
                await asyncio.to_thread(report, "model", "reading", 0.5)
                report("model", "dropped, it comes too soon", 0.6)
            case "unsendable":
                return Loaded(models=("x" * wire.FRAME_MAX_BYTES,))
        return Loaded(models=("m1", "half \ud800"))

    async def generate(self, request: Request) -> AsyncIterator[Event]:
        scene: Callable[[Request], AsyncIterator[Event]] = getattr(self, request.messages[-1].content)
        try:
            self.started.set()
            async for event in scene(request):
                self.yielded += 1
                yield event
        finally:
            self.upstream_closed.set()

    async def close(self) -> None:
        assert not self.closed.is_set(), "closed twice"
        self.closed.set()

    async def hello(self, request: Request) -> AsyncIterator[Event]:
        yield Text("Hel")
        yield Text("lo")
        yield Finish("stop", model="m1", retries=1)

    async def hang(self, request: Request) -> AsyncIterator[Event]:
        await asyncio.Event().wait()
        yield Alive()

    async def hang_later(self, request: Request) -> AsyncIterator[Event]:
        yield Text("Hel")
        await self.go_on.wait()
        yield Text("lo")
        yield Finish("stop")

    async def cancel_late(self, request: Request) -> AsyncIterator[Event]:
        await asyncio.sleep(0)
        # Runs between the end of this task and the callback that sends its Done.
        asyncio.get_running_loop().call_soon(self.late)
        yield Finish("stop")

    async def never_suspend(self, request: Request) -> AsyncIterator[Event]:
        while True:
            yield Alive()

    async def stubborn(self, request: Request) -> AsyncIterator[Event]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield Text("I go on")
        yield Finish("stop")

    async def flood(self, request: Request) -> AsyncIterator[Event]:
        for _ in range(100):
            yield Text("x" * wire.CHUNK_MAX_CHARS)
        yield Finish("stop")

    async def endless(self, request: Request) -> AsyncIterator[Event]:
        while True:
            yield Text("x" * (1 << 20))

    async def bug(self, request: Request) -> AsyncIterator[Event]:
        yield Text("Hel")
        raise KeyError(f"a bug that quotes {self.binding.key}")

    async def fail(self, request: Request) -> AsyncIterator[Event]:
        raise AdapterError(Code.RATE_LIMITED, "Too many.", retry_after_ms=7, provider_status=429)
        yield Alive()

    async def memory(self, request: Request) -> AsyncIterator[Event]:
        raise MemoryError
        yield Alive()

    async def no_thread(self, request: Request) -> AsyncIterator[Event]:
        raise RuntimeError("can't start new thread")
        yield Alive()

    async def cancel_itself(self, request: Request) -> AsyncIterator[Event]:
        raise asyncio.CancelledError
        yield Alive()

    async def cut(self, request: Request) -> AsyncIterator[Event]:
        yield Text("Hel")

    async def odd(self, request: Request) -> AsyncIterator[Event]:
        yield "a string"  # type: ignore[misc]  # what a new adapter may get wrong

    async def odd_finish(self, request: Request) -> AsyncIterator[Event]:
        yield Finish("whatever")  # type: ignore[arg-type]  # the same

    async def unsendable(self, request: Request) -> AsyncIterator[Event]:
        yield Finish("stop", model="x" * wire.FRAME_MAX_BYTES)

    async def thoughts(self, request: Request) -> AsyncIterator[Event]:
        for _ in range(1000):
            yield Reasoning("hm")
        yield Text("<think>hm</think>")
        yield Finish("length")

    async def call(self, request: Request) -> AsyncIterator[Event]:
        yield Text("Let me see.")
        for part in (
            ToolCallPart(3, "a1", "look"),
            ToolCallPart(3, arguments='{"at": '),
            ToolCallPart(3, arguments='"cat"}'),
            ToolCallPart(4, "", "ping"),
        ):
            yield part
        yield Finish("stop")

    async def call_at_length(self, request: Request) -> AsyncIterator[Event]:
        yield ToolCallPart(0, "a1", "write", '"')
        for _ in range(8):
            yield ToolCallPart(0, arguments="x" * wire.CHUNK_MAX_CHARS)
        yield ToolCallPart(0, arguments='"')
        yield Finish("tool_calls")

    async def call_without_end(self, request: Request) -> AsyncIterator[Event]:
        while True:
            yield ToolCallPart(0, "a1", "write", "x" * wire.CHUNK_MAX_CHARS)

    async def call_and_hang(self, request: Request) -> AsyncIterator[Event]:
        yield ToolCallPart(0, "a1", "write", '{"half')
        await asyncio.Event().wait()

    async def tell_tools(self, request: Request) -> AsyncIterator[Event]:
        yield Text(f"{len(request.tools)} {request.tool_choice}")
        yield Finish("stop")

    async def stop_here(self, request: Request) -> AsyncIterator[Event]:
        yield Text("one STOP two")
        await asyncio.Event().wait()


class Caller(Fake):
    """The same, on a wire that carries tools."""

    carries_tools = True


class Rig:
    """A host on pipes, and the supervisor's end of them."""

    def __init__(self, adapter: type[Adapter], spec: ProviderSpec) -> None:
        self._host_reads, self._down = os.pipe()
        self._up, self._host_writes = os.pipe()
        self.left: list[int] = []
        self.gone = asyncio.Event()
        loop = asyncio.get_running_loop()

        def leave(code: int) -> None:
            self.left.append(code)
            loop.call_soon_threadsafe(self.gone.set)

        writer = stdio.FrameWriter(self._host_writes, leave=leave)
        self.host = Host(adapter, spec, self._host_reads, writer, leave=leave)
        self._frames: asyncio.Queue[Any] = asyncio.Queue()
        self._reader = threading.Thread(target=self._read, args=(loop,), daemon=True)
        self._reader.start()

    def send(self, *frames: wire.Down) -> None:
        self.send_bytes(b"".join(wire.encode(frame) for frame in frames))

    def send_bytes(self, data: bytes) -> None:
        os.write(self._down, data)

    async def receive(self) -> Any:
        return await soon(self._frames.get())

    async def until(self, kind: type[F]) -> F:
        while not isinstance(frame := await self.receive(), kind):
            pass
        return frame

    async def bind(self, binding: int = 1, **changes: Any) -> wire.Bound:
        self.send(wire.Bind(binding, wire.pack_body({**BIND, **changes})))
        return await self.until(wire.Bound)

    def generate(self, request: int, scene: str, *, binding: int = 1, **changes: Any) -> None:
        self.send(*wire.parts(request, binding, wire.pack_body(request_body(scene, **changes))))

    async def reply(self, request: int) -> tuple[str, wire.Done]:
        text = ""
        while True:
            frame = await self.receive()
            if isinstance(frame, wire.Chunk) and frame.request == request:
                text += frame.text
            if isinstance(frame, wire.Done) and frame.request == request:
                return text, frame

    async def nothing_more(self) -> None:
        """The loop has handled everything that was sent, and has said nothing to it."""
        self.send(wire.Ping(999))
        pongs = [await self.receive(), await self.receive()]
        assert pongs == [wire.Pong(999, "thread"), wire.Pong(999, "loop")]

    def close_down(self) -> None:
        if self._down >= 0:
            os.close(self._down)
            self._down = -1

    async def close(self) -> None:
        """Ends both threads: the host's by the end of the wire, ours by the end of what it says."""
        self.close_down()
        await soon(self.gone.wait())
        os.close(self._host_reads)
        os.close(self._host_writes)
        self._reader.join(WAIT_S)
        os.close(self._up)

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        decoder = wire.Decoder(wire.UP)
        while data := os.read(self._up, 1 << 16):
            for frame in decoder.feed(data):
                loop.call_soon_threadsafe(self._frames.put_nowait, frame)


async def soon(wait: Awaitable[T]) -> T:
    return await asyncio.wait_for(wait, WAIT_S)


@asynccontextmanager
async def running(adapter: type[Adapter] = Fake, spec: ProviderSpec = SPEC) -> AsyncIterator[Rig]:
    Fake.made.clear()
    rig = Rig(adapter, spec)
    task = asyncio.create_task(rig.host.run())
    try:
        yield rig
        if rig.left:
            rig.host._shutdown.set()  # a real process would be gone by now
        else:
            rig.send(wire.Shutdown())
        await soon(task)
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=WAIT_S)
        await rig.close()


def body_of(frame: wire.Done | wire.Bound) -> dict[str, Any]:
    return wire.unpack_body(frame.body)

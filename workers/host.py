"""The worker's loop: frames in, one task per request, frames out.

1. A thread of its own blocks on the wire (Windows' loop cannot wait for a pipe). It answers Ping and Dump at
   once, hands everything to the loop in the order it came, and ends the process when the wire ends.
2. Every Generate gets exactly one Done, sent in `_end`, which removes the request first. What calls it
   when a task is over is the loop's callback, which comes once, also for a task that was cancelled
   before its first step.
3. Clocks belong to the supervisor: it sends Cancel when a request takes too long.

Chunks, calls, credit and Alive are workers.reply's, adapters and their loads workers.bindings', which
exception becomes which code workers.endings'.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from workers import bodies, stdio, wire
from workers.adapter import Adapter, AdapterError, ProviderSpec, Warn
from workers.bindings import Bindings, Serving
from workers.codes import Code
from workers.endings import INTERRUPTED, Ending, guarded
from workers.reply import Reply
from workers.toolless import without_tools

__all__ = ["EXIT_BROKEN_WIRE", "EXIT_STUCK", "Host"]

EXIT_BROKEN_WIRE: Final = 70
"""What came down the wire were no frames of the supervisor."""
EXIT_STUCK: Final = 71
"""The loop did not take what was read for READ_AHEAD_WAIT_S."""
READ_AHEAD: Final = 256
"""Reads that the loop has not handled yet, 64 MiB at most; when full the thread stops reading, and the
supervisor's writes wait."""
READ_AHEAD_WAIT_S: Final = 60.0
"""Twice what the supervisor grants a loop that does not turn before it ends the worker."""
OPEN_MAX: Final = 1024
"""Open requests of one worker; the supervisor allows far fewer."""
CANCEL_MAX_S: Final = 1.0
"""How long a shutdown waits for cancelled requests to let go of their upstreams."""
SHUTDOWN_MAX_S: Final = 5.0
"""More than all waits of a shutdown together: after Shutdown the wire's end is no reason to hurry, but a
loop that does not turn must not keep the process."""
_MS_PER_S: Final = 1000

_LOG = logging.getLogger(__name__)
_SELF_CANCELLED: Final = Ending(
    Code.UNEXPECTED, "The adapter cancelled the request by itself; try again.", finish_reason="error"
)


@dataclass(eq=False, slots=True)
class _Open:
    """A request between its Generate and its Done; it has a task once its body is complete."""

    id: int
    binding: int
    length: int
    serving: Serving | None = None
    body: bytearray = field(default_factory=bytearray)
    task: asyncio.Task[Ending] | None = None
    reply: Reply | None = None
    cancelled_at: float | None = None


class Host:
    """Serves one provider over one wire. `run` once, in a loop; `leave` ends the process."""

    def __init__(
        self,
        adapter: type[Adapter],
        provider: ProviderSpec,
        read_fd: int,
        writer: stdio.FrameWriter,
        *,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._read_fd = read_fd
        self._writer = writer
        self._leave = leave
        self._bindings = Bindings(adapter, provider, writer.push)
        self._open: dict[int, _Open] = {}
        self._read_ahead = threading.BoundedSemaphore(READ_AHEAD)
        self._shutdown = asyncio.Event()
        self._told_to_stop = False  # the reading thread's
        self._stopped = threading.Event()

    async def run(self) -> None:
        """Serves until Shutdown, then ends what is open and closes the adapters, within bounds."""
        loop = asyncio.get_running_loop()
        self._writer.attach(loop)
        threading.Thread(target=self._read, args=(loop,), name="wire", daemon=True).start()
        await self._shutdown.wait()
        for request in list(self._open):
            self._cancel(request)
        tasks = {entry.task for entry in self._open.values() if entry.task is not None}
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_MAX_S)
        for entry in list(self._open.values()):  # of an adapter that does not let go
            self._end(entry, INTERRUPTED)
        await self._bindings.close()
        self._writer.flush()
        self._stopped.set()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        """The reading thread."""
        decoder = wire.Decoder(wire.DOWN)
        try:
            while data := stdio.read(self._read_fd):
                frames = decoder.feed(data)
                for frame in frames:
                    if type(frame) is wire.Ping:
                        self._writer.write(wire.encode(wire.Pong(frame.serial, "thread")))
                    elif type(frame) is wire.Dump:
                        stdio.dump_stacks()
                    elif type(frame) is wire.Shutdown:
                        self._told_to_stop = True
                if not self._read_ahead.acquire(timeout=READ_AHEAD_WAIT_S):
                    _LOG.error("the loop has not turned for %.0f s", READ_AHEAD_WAIT_S)
                    self._leave(EXIT_STUCK)
                    return
                loop.call_soon_threadsafe(self._handle_all, frames)
        except wire.WireError as exc:
            _LOG.error("the supervisor's frames cannot be read: %s", exc)
            self._leave(EXIT_BROKEN_WIRE)
        except RuntimeError:  # the loop is closed: `run` is over, and the process about to end
            return
        else:
            if self._told_to_stop:
                self._stopped.wait(SHUTDOWN_MAX_S)
            self._leave(0)  # the supervisor is gone, and everybody who could want an answer with it

    def _handle_all(self, frames: list[wire.Down]) -> None:
        self._read_ahead.release()
        for frame in frames:
            self._handle(frame)

    def _handle(self, frame: wire.Down) -> None:
        match frame:
            case wire.Credit():
                entry = self._open.get(frame.request)
                if entry is not None and entry.reply is not None:
                    entry.reply.grant(frame.chars)
            case wire.Generate():
                self._generate(frame)
            case wire.Part():
                self._gather(self._open.get(frame.request), frame.data)
            case wire.Cancel():
                self._cancel(frame.request)
            case wire.Ping():
                self._writer.push(wire.encode(wire.Pong(frame.serial, "loop")))
            case wire.Bind():
                self._bind(frame)
            case wire.Unbind():
                self._unbind(frame.binding)
            case wire.Shutdown():
                self._shutdown.set()
            case wire.Dump():
                pass
            case _:
                _LOG.error("a %s was not expected here", type(frame).__name__)

    def _bind(self, frame: wire.Bind) -> None:
        if self._shutdown.is_set():
            self._writer.push(bodies.bound_frame(frame.binding, _shutting_down()))
        else:
            self._bindings.bind(frame)

    def _unbind(self, binding: int) -> None:
        for entry in list(self._open.values()):
            if entry.binding == binding:
                self._cancel(entry.id)
        self._bindings.unbind(binding)

    def _generate(self, frame: wire.Generate) -> None:
        if frame.request in self._open:  # a Done for it would end the first one
            _LOG.error("request %d is open already; the second one was ignored", frame.request)
            return
        entry = _Open(frame.request, frame.binding, frame.length)
        refusal = self._refusal(frame)
        self._open[entry.id] = entry
        if refusal is not None:
            self._end(entry, refusal)
            return
        entry.serving = self._bindings.lease(frame.binding)
        self._gather(entry, frame.body)

    def _refusal(self, frame: wire.Generate) -> Ending | None:
        if self._shutdown.is_set():
            return _shutting_down()
        if len(self._open) >= OPEN_MAX:
            return _failure(Code.BUSY, f"The worker has {OPEN_MAX} open requests; wait for some to end.")
        if frame.length > wire.BODY_MAX_BYTES:
            return _failure(
                Code.INVALID_REQUEST, f"The request is longer than {wire.BODY_MAX_BYTES} bytes; send less."
            )
        return None

    def _gather(self, entry: _Open | None, data: bytes) -> None:
        """Adds a piece of a body; starts the request when it is complete."""
        if entry is None or entry.task is not None:  # refused or cancelled meanwhile, or a piece too many
            return
        entry.body += data
        if len(entry.body) > entry.length:
            self._end(entry, _failure(Code.UNEXPECTED, "The request's parts do not add up; try again."))
        elif len(entry.body) == entry.length:
            work = guarded(f"request {entry.id}", partial(self._relay, entry))
            entry.task = asyncio.get_running_loop().create_task(work)
            entry.task.add_done_callback(partial(self._over, entry))

    async def _relay(self, entry: _Open) -> Ending:
        """The request's task."""
        if entry.serving is None:
            raise AdapterError(Code.NOT_LOADED, "The provider is not loaded for this connection.")
        adapter = entry.serving.adapter
        warnings: tuple[Warn, ...] = ()
        request = bodies.read_request(entry.id, bytes(entry.body))
        entry.body.clear()
        if not adapter.carries_tools:
            request, warnings = without_tools(request)
        entry.reply = Reply(request, self._writer.push, warnings)
        return await entry.reply.relay(adapter.generate(request))

    def _cancel(self, request: int) -> None:
        entry = self._open.get(request)
        if entry is None or entry.cancelled_at is not None:
            return
        if entry.task is not None and entry.task.done():  # its Done is on the way
            return
        entry.cancelled_at = time.perf_counter()
        if entry.task is None:
            self._end(entry, INTERRUPTED)
            return
        if entry.reply is not None:
            entry.reply.cancel()
        entry.task.cancel()

    def _over(self, entry: _Open, task: asyncio.Task[Ending]) -> None:
        """The loop's callback at the end of a task."""
        if entry.cancelled_at is not None:
            self._end(entry, INTERRUPTED)
        else:
            self._end(entry, _SELF_CANCELLED if task.cancelled() else task.result())

    def _end(self, entry: _Open, ending: Ending) -> None:
        """The only place that sends a Done."""
        if self._open.get(entry.id) is not entry:
            return
        del self._open[entry.id]
        closed_ms = None
        if entry.cancelled_at is not None:
            closed_ms = round((time.perf_counter() - entry.cancelled_at) * _MS_PER_S)
        self._writer.push(bodies.done_frame(entry.id, ending, upstream_closed_ms=closed_ms))
        if entry.serving is not None:
            self._bindings.release(entry.serving)


def _failure(code: Code, message: str) -> Ending:
    return Ending(code, message, finish_reason="error")


def _shutting_down() -> Ending:
    return _failure(Code.SHUTTING_DOWN, "The worker is shutting down.")

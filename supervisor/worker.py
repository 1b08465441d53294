"""One worker process: its life, its pipes, and what it says.

    STARTING ──► READY ──► STOPPING ──► DEAD        (any of the first three may go to DEAD directly)

Death is judged by the exit status, never by the end of a pipe, which a grandchild may hold. It ends every
open request (inflight.py). Whether to start a worker, and again after a death, is pool.py's.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from supervisor import spawn
from supervisor.bindings import Bindings
from supervisor.catalog import Provider
from supervisor.errors import Failure, WorkerError
from supervisor.inflight import Requests, code_of
from supervisor.logs import scrub
from workers import wire
from workers.codes import Code

__all__ = ["Death", "Worker", "WorkerLimits", "WorkerState"]

log = logging.getLogger(__name__)

_T = TypeVar("_T")

DRAIN_S: Final = 0.2
"""After a death, for what the worker had still written; a grandchild may hold the pipe open for ever."""
STOP_ASK_S: Final = 2.0
STOP_TERMINATE_S: Final = 1.0
STOP_KILL_S: Final = 2.0
"""Asked, terminated, killed: five seconds in all, the most that a desktop application wants to wait."""
STDERR_LINES: Final = 20
STDERR_LINE_BYTES: Final = 8 << 10
_STDOUT: Final = 1
_STDERR: Final = 2
STDIN_MAX_BYTES: Final = 16 << 20
"""Unread by the worker; above it new requests are BUSY, since it does not read."""


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """Bounds of one worker; each is a setting."""

    hello_s: float = 10.0
    """From spawn to Hello; 0.1 s is usual, a cold disk behind an antivirus takes thirty times that."""
    ready_s: float = 60.0
    """From Hello to Ready: the imports."""
    bind_s: float = 60.0
    """For one load, renewed by every Progress frame."""
    requests: int = 128
    """In flight at once; more are BUSY."""


@dataclass(frozen=True, slots=True)
class Death:
    """Why a worker is no more."""

    code: Code
    words: str
    returncode: int | None


class WorkerState(enum.Enum):
    """Of one worker process."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    DEAD = "dead"


_MOVES: Final = {
    WorkerState.STARTING: {WorkerState.READY, WorkerState.STOPPING, WorkerState.DEAD},
    WorkerState.READY: {WorkerState.STOPPING, WorkerState.DEAD},
    WorkerState.STOPPING: {WorkerState.DEAD},
    WorkerState.DEAD: set[WorkerState](),
}


class Worker:
    """A worker process. Made, started, used, stopped; `on_death` is called once if it dies by itself."""

    def __init__(
        self,
        provider: Provider,
        *,
        python: Path,
        site_packages: Path,
        checkout: Path,
        environment: Mapping[str, str],
        limits: WorkerLimits,
        on_death: Callable[[Worker, Death], None],
    ) -> None:
        self.provider = provider
        self.pid: int | None = None
        self.started_at = time.monotonic()
        self.import_ms = 0
        self._argv = spawn.worker_argv(python, checkout, provider.adapter, site_packages)
        self._environment = environment
        self._limits = limits
        self._on_death = on_death
        self._nonce = secrets.token_hex(8)
        self._loop = asyncio.get_running_loop()
        self._state = WorkerState.STARTING
        self._decoder = wire.Decoder(wire.UP)
        self._process: asyncio.SubprocessTransport | None = None
        self._group: spawn.Group | None = None
        self._hello: asyncio.Future[wire.Hello] = self._loop.create_future()
        self._ready: asyncio.Future[wire.Ready] = self._loop.create_future()
        self.requests = Requests(provider.name, self._write)
        self.bindings = Bindings(provider.name, limits.bind_s, self._write)
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self._stderr_rest = b""
        self._fault: str | None = None
        self._stdout_ended = asyncio.Event()
        self._dying: asyncio.Task[None] | None = None
        self.dead = asyncio.Event()

    # ---- life

    @property
    def state(self) -> WorkerState:
        """Where in its life the worker is."""
        return self._state

    def _move(self, state: WorkerState) -> None:
        if state not in _MOVES[self._state]:
            raise RuntimeError(f"a worker cannot go from {self._state.value} to {state.value}")
        self._state = state

    async def start(self) -> None:
        """Starts the process and waits until its packages are imported. Cancelling it ends the process.

        Raises:
            WorkerError: it did not say hello, or could not import, or died.
        """
        log.info("worker starting provider=%s", self.provider.id)
        try:
            await self._spawn()
            hello = await self._awaited(self._hello, self._limits.hello_s, "did not say hello")
            self._check_hello(hello)
            self._write([wire.Init(wire.VERSION, self.provider.id, self._settings())])
            ready = await self._awaited(self._ready, self._limits.ready_s, "was not ready")
        except BaseException:
            await self.stop()
            raise
        self.import_ms = ready.import_ms
        self._move(WorkerState.READY)
        spent_ms = round((time.monotonic() - self.started_at) * 1000)
        log.info("worker ready provider=%s pid=%s ms=%d", self.provider.id, self.pid, spent_ms)

    async def _spawn(self) -> None:
        await self._loop.subprocess_exec(
            lambda: _Pipes(self), *self._argv, self._nonce, **spawn.worker_options(self._environment)
        )

    def connected(self, process: asyncio.SubprocessTransport) -> None:
        """The process runs; it may be over before `_spawn` hears of it."""
        self._process = process
        self.pid = process.get_pid()
        self._group = spawn.Group(process.get_extra_info("subprocess"))

    async def _awaited(self, future: asyncio.Future[_T], timeout_s: float, what: str) -> _T:
        """The future's result; the worker's death or the timeout instead is a WorkerError."""
        done, _ = await asyncio.wait({future}, timeout=timeout_s)
        if done:
            return future.result()
        raise WorkerError(f"The worker of {self.provider.name} {what} within {timeout_s:g} s.")

    def _check_hello(self, hello: wire.Hello) -> None:
        if hello.version != wire.VERSION:
            raise WorkerError(f"The worker speaks wire {hello.version}, this supervisor {wire.VERSION}.")
        if hello.nonce != self._nonce:
            raise WorkerError("Something else than our worker answered on its pipe.")
        self.pid = hello.pid

    def _settings(self) -> bytes:
        provider = self.provider
        return wire.pack_body(
            {
                "name": provider.name,
                "base_url": provider.base_url,
                "default_model": provider.default_model,
                "key_variables": list(provider.key),
                "quirks": dict(provider.quirks),
            }
        )

    async def stop(self) -> None:
        """Ends the process, in steps that are each bounded, and everything it has open.

        Open requests end with INTERRUPT. Safe to call in every state, and more than once.
        """
        if self._state in (WorkerState.STARTING, WorkerState.READY):
            self._move(WorkerState.STOPPING)
        if self._process is None or self._group is None:
            self._finish(Death(Code.INTERRUPT, "never started", None))
            return
        steps: tuple[tuple[str, Callable[[], None], float], ...] = (
            ("asked", self._ask_to_stop, STOP_ASK_S),
            ("terminated", self._group.terminate, STOP_TERMINATE_S),
            ("killed", self._group.kill, STOP_KILL_S),
        )
        for name, step, wait_s in steps:
            if self.dead.is_set():
                break
            step()
            if await _within(self.dead.wait(), wait_s):
                log.info("worker stopped provider=%s pid=%s step=%s", self.provider.id, self.pid, name)
                break
        else:
            log.error("worker survived being killed provider=%s pid=%s", self.provider.id, self.pid)

    def _ask_to_stop(self) -> None:
        self._write([wire.Shutdown()])
        stdin = self._stdin()
        if stdin is not None:
            stdin.close()

    def fault(self, words: str) -> None:
        """The worker breaks the wire's rules: it is killed, and dies of `words`."""
        if self._fault is None and self._group is not None:
            log.error("worker at fault provider=%s pid=%s reason=%r", self.provider.id, self.pid, words)
            self._fault = words
            self._group.kill()

    # ---- its pipes

    def pipe_data(self, fd: int, data: bytes) -> None:
        """What one read of stdout (1) or stderr (2) brought."""
        if fd == _STDERR:
            self._stderr_data(data)
            return
        if self._fault is not None:
            return
        try:
            for frame in self._decoder.feed(data):
                self._frame(frame)
        except wire.WireError as exc:
            self.fault(f"its output is not our wire: {exc}")

    def pipe_lost(self, fd: int) -> None:
        """A pipe is at its end; death itself is judged by the exit status."""
        if fd == _STDOUT:
            self._stdout_ended.set()

    def exited(self) -> None:
        """The exit status is known."""
        self._dying = asyncio.ensure_future(self._die())

    async def _die(self) -> None:
        """Reads what the worker had still written, then ends everything it had."""
        await _within(self._stdout_ended.wait(), DRAIN_S)
        process = self._process
        returncode = process.get_returncode() if process is not None else None
        if self._group is not None:
            self._group.kill()  # what it started goes with it
        if process is not None:
            process.close()
        expected = self._state is WorkerState.STOPPING
        self._finish(self._death_of(returncode, expected=expected))

    def _death_of(self, returncode: int | None, *, expected: bool) -> Death:
        name = self.provider.name
        if expected:
            return Death(Code.INTERRUPT, f"The worker of {name} was stopped.", returncode)
        how = self._fault or spawn.exit_words(returncode)
        self._stderr_data(b"\n")  # what it said last may have no end of line
        last = f" Its last words: {scrub(self._stderr[-1])}" if self._stderr else ""
        return Death(Code.WORKER_CRASHED, f"The worker of {name} died: {how}.{last}", returncode)

    def _finish(self, death: Death) -> None:
        if self._state is WorkerState.DEAD:
            return
        was = self._state
        self._move(WorkerState.DEAD)
        error = WorkerError(death.words, code=death.code)
        futures: tuple[asyncio.Future[Any], ...] = (self._hello, self._ready)
        for future in futures:
            if not future.done():
                future.set_exception(error)
                future.exception()  # whoever waits gets it; nobody waiting is no mistake
        self.bindings.end_all(error)
        self.requests.end_all(Failure(death.code, death.words))
        self.dead.set()
        if was is WorkerState.READY:
            log.error(
                "worker died provider=%s pid=%s status=%s words=%r",
                self.provider.id,
                self.pid,
                death.returncode,
                death.words,
            )
            self._on_death(self, death)

    def _stderr_data(self, data: bytes) -> None:
        *lines, rest = (self._stderr_rest + data).split(b"\n")
        self._stderr_rest = rest[-STDERR_LINE_BYTES:]
        for line in lines:
            text = line[:STDERR_LINE_BYTES].decode("utf-8", "replace").rstrip()
            if text:
                self._stderr.append(text)
                log.info("worker says provider=%s text=%r", self.provider.id, text)

    def _stdin(self) -> asyncio.WriteTransport | None:
        pipe = self._process.get_pipe_transport(0) if self._process is not None else None
        return pipe if isinstance(pipe, asyncio.WriteTransport) and not pipe.is_closing() else None

    def _write(self, frames: Iterable[wire.Down]) -> None:
        stdin = self._stdin()
        if stdin is not None:
            stdin.write(b"".join(map(wire.encode, frames)))

    # ---- what it says

    def _frame(self, frame: wire.Up) -> None:
        match frame:
            case wire.Chunk():
                self.requests.chunk(frame)
            case wire.Alive():
                self.requests.alive(frame)
            case wire.Done():
                self.requests.done(frame)
            case wire.Progress():
                self.bindings.progress(frame)
            case wire.Bound():
                self.bindings.answer(frame)
            case wire.Hello():
                _resolve(self._hello, frame)
            case wire.Ready():
                _resolve(self._ready, frame)
            case wire.Failed():
                self._failed(frame)
            case wire.Pong():
                pass

    def _failed(self, frame: wire.Failed) -> None:
        error = WorkerError(frame.message, code=code_of(frame.code))
        waiting = self._ready if self._hello.done() else self._hello
        if not waiting.done():
            waiting.set_exception(error)

    @property
    def swamped(self) -> bool:
        """Whether it takes no more: too many open requests, or it does not read its pipe."""
        stdin = self._stdin()
        unread = 0 if stdin is None else stdin.get_write_buffer_size()
        return len(self.requests) >= self._limits.requests or unread > STDIN_MAX_BYTES


class _Pipes(asyncio.SubprocessProtocol):
    """asyncio's callbacks, handed on."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._worker.connected(cast(asyncio.SubprocessTransport, transport))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._worker.pipe_data(fd, data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._worker.pipe_lost(fd)

    def process_exited(self) -> None:
        self._worker.exited()


async def _within(awaitable: Awaitable[object], timeout_s: float) -> bool:
    """Whether it came to an end in time; it is cancelled if not."""
    try:
        await asyncio.wait_for(awaitable, timeout_s)
    except asyncio.TimeoutError:
        return False
    return True


def _resolve(future: asyncio.Future[_T], value: _T) -> None:
    if not future.done():
        future.set_result(value)

"""One worker process: its life, its pipes, and what it says.

    STARTING ──► READY ──► STOPPING ──► DEAD        (any of the first three may go to DEAD directly)

Death is judged by the exit status, never by the end of a pipe, which a grandchild may hold. It ends every
open request (inflight.py). Whether a running worker is well is watch.py's to say; whether to start one, and
again after a death, pool.py's.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from supervisor import spawn
from supervisor.bindings import Bindings
from supervisor.errors import BootError, Failure, WorkerError
from supervisor.heartbeat import HeartbeatLimits
from supervisor.inflight import Requests, code_of
from supervisor.lastwords import LastWords
from supervisor.model_memory import megabytes
from supervisor.providers import Provider
from supervisor.stopping import Stopping, within
from supervisor.watch import Watch, WatchLimits
from workers import wire
from workers.codes import Code

__all__ = ["Death", "Worker", "WorkerLimits", "WorkerState"]

log = logging.getLogger(__name__)

_T = TypeVar("_T")

DRAIN_S: Final = 0.2
"""After a death, for what the worker had still written; a grandchild may hold the pipe open for ever."""
SMALLER: Final = "Load it with half the options.context_length, or a smaller model."
"""To whom an engine's memory was too small."""
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
    heartbeat_s: float = 5.0
    """Between two pings."""
    report_s: float = 10.0
    """A worker that does not answer for so long is reported, with its stacks."""
    hung_s: float = 30.0
    """And ended after so long."""
    engine_ready_s: float = 300.0
    """As `ready_s`, for providers whose engine runs in the worker: torch alone takes seconds."""
    engine_hung_s: float = 300.0
    """As `hung_s`, for an engine that does not answer but computes: a prompt may hold the interpreter."""
    memory_soft_mb: int = field(default=512, metadata={"zero": "no limit"})
    """Above it one warning."""
    memory_hard_mb: int = field(default=1024, metadata={"zero": "no limit"})
    """Above it the worker is ended, and its requests with OUT_OF_MEMORY."""
    engine_memory_mb: int = field(default=0, metadata={"zero": "no limit"})
    """As `memory_hard_mb`, for engines, whose models may be of any size."""

    def ready_of(self, provider: Provider) -> float:
        """How long that provider's imports may take."""
        return self.engine_ready_s if provider.is_engine else self.ready_s

    def watch_of(self, provider: Provider) -> WatchLimits:
        """How that provider's worker is watched."""
        engine = provider.is_engine
        return WatchLimits(
            self.heartbeat_s,
            HeartbeatLimits(
                self.report_s, self.hung_s, self.engine_hung_s if engine else self.hung_s, self.bind_s
            ),
            memory_soft_mb=0 if engine else self.memory_soft_mb,
            memory_hard_mb=self.engine_memory_mb if engine else self.memory_hard_mb,
            memory_setting="worker.engine_memory_mb" if engine else "worker.memory_hard_mb",
        )


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
        self._stopping: Stopping | None = None
        self._hello: asyncio.Future[wire.Hello] = self._loop.create_future()
        self._ready: asyncio.Future[wire.Ready] = self._loop.create_future()
        self.requests = Requests(provider.name, self._write)
        self.bindings = Bindings(provider.name, limits.bind_s, self._write)
        self._stderr = LastWords(provider.id)
        self._fault: Death | None = None
        self._stdout_ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        """Its watch, its end when it is stuck, its death: each ends by itself or with the process."""
        self._oom_kills = deque([spawn.oom_kills()], maxlen=2)
        """At the last two pings: what the system ended before that was somebody else."""
        self.watch: Watch | None = None
        self._watching: asyncio.Task[None] | None = None
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
            hello = await self._awaited(self._hello, self._limits.hello_s, "did not say hello", BootError)
            self._check_hello(hello)
            self._write([wire.Init(wire.VERSION, self.provider.id, self._settings())])
            sampler = await self._sampler(hello.pid)
            ready = await self._awaited(
                self._ready, self._limits.ready_of(self.provider), "was not ready", WorkerError
            )
        except BaseException:
            await self.stop()
            raise
        self.import_ms = ready.import_ms
        self._move(WorkerState.READY)
        self.watch = Watch(self, self.provider.id, hello.pid, self._limits.watch_of(self.provider), sampler)
        self._watching = self._own(self.watch.run())
        spent_ms = round((time.monotonic() - self.started_at) * 1000)
        log.info("worker ready provider=%s pid=%s ms=%d", self.provider.id, self.pid, spent_ms)

    async def _sampler(self, pid: int) -> spawn.Sampler | None:
        """Made while an engine is imported: its first model comes at once, and what it had before is told."""
        return await asyncio.to_thread(spawn.Sampler, pid) if self.provider.is_engine else None

    async def _spawn(self) -> None:
        await self._loop.subprocess_exec(
            lambda: _Pipes(self), *self._argv, self._nonce, **spawn.worker_options(self._environment)
        )

    def connected(self, process: asyncio.SubprocessTransport) -> None:
        """The process runs; it may be over before `_spawn` hears of it."""
        self._process = process
        self.pid = process.get_pid()
        self._group = spawn.Group(process.get_extra_info("subprocess"))
        self._stopping = Stopping(self._group, self.dead)

    async def _awaited(
        self, future: asyncio.Future[_T], timeout_s: float, what: str, error: type[WorkerError]
    ) -> _T:
        """The future's result; the worker's death instead is a BootError, the timeout an `error`."""
        done, _ = await asyncio.wait({future}, timeout=timeout_s)
        if done:
            return future.result()
        if self._stopping is not None:
            await self._stopping.abort()  # the log then says what it was waiting for
        raise error(f"The worker of {self.provider.name} {what} within {timeout_s:g} s.")

    def _check_hello(self, hello: wire.Hello) -> None:
        if hello.version != wire.VERSION:
            raise WorkerError(f"The worker speaks wire {hello.version}, this supervisor {wire.VERSION}.")
        if hello.nonce != self._nonce:
            raise WorkerError("Something else than our worker answered on its pipe.")
        self.pid = hello.pid
        if self._group is not None:
            self._group.worker = hello.pid

    def _settings(self) -> bytes:
        provider = self.provider
        return wire.pack_body(
            {
                "name": provider.name,
                "base_url": provider.base_url,
                "default_model": provider.default_model,
                "key_variables": list(provider.key),
                "quirks": dict(provider.quirks),
                "silent_s": self._limits.report_s,
            }
        )

    async def stop(self, reason: str = "closing") -> None:
        """Ends the process, in steps that are each bounded, and everything it has open.

        Open requests end with INTERRUPT. Safe to call in every state, and more than once.
        """
        if self._state in (WorkerState.STARTING, WorkerState.READY):
            self._move(WorkerState.STOPPING)
        if self._process is None or self._stopping is None:
            self._finish(Death(Code.INTERRUPT, "never started", None))
            return
        step = await self._stopping.stop(self._ask_to_stop)
        if step == "survived":
            log.error("worker survived being killed provider=%s pid=%s", self.provider.id, self.pid)
        elif step is not None:
            log.info(
                "worker stopped provider=%s pid=%s memory_mb=%s reason=%s step=%s",
                *(self.provider.id, self.pid, self._memory_mb, reason, step),
            )

    @property
    def _memory_mb(self) -> int | None:
        """What goes back to the system with it."""
        return megabytes(self.watch.memory_bytes) if self.watch is not None else None

    def _ask_to_stop(self) -> None:
        self._write([wire.Shutdown()])
        stdin = self._stdin()
        if stdin is not None:
            stdin.close()

    def end(self, words: str, *, code: Code = Code.WORKER_CRASHED, hung: bool = False) -> None:
        """Ends a worker that must not go on: it dies of `words`. One that hangs leaves its stacks first."""
        if self._fault is not None or self._stopping is None:
            return
        log.error("worker at fault provider=%s pid=%s reason=%r", self.provider.id, self.pid, words)
        self._fault = Death(code, words, None)
        self._own(self._stopping.put_down(hung=hung))

    def _own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # ---- what watching needs

    def ping(self, serial: int) -> None:
        """Sends a ping."""
        self._oom_kills.append(spawn.oom_kills())
        self._write([wire.Ping(serial)])

    def ask_for_stacks(self) -> None:
        """Its reading thread writes all stacks to stderr, where it still can."""
        self._write([wire.Dump()])

    def is_excused(self) -> bool:
        """Whether it loads something for a client: that has a time limit of its own."""
        return self.bindings.loading

    # ---- its pipes

    def pipe_data(self, fd: int, data: bytes) -> None:
        """What one read of stdout (1) or stderr (2) brought."""
        if fd == _STDERR:
            self._stderr.feed(data)
            return
        if self._fault is not None:
            return
        try:
            for frame in self._decoder.feed(data):
                self._frame(frame)
        except wire.WireError as exc:
            self.end(f"its output is not our wire: {exc}")

    def pipe_lost(self, fd: int) -> None:
        """A pipe is at its end; death itself is judged by the exit status."""
        if fd == _STDOUT:
            self._stdout_ended.set()

    def exited(self) -> None:
        """The exit status is known."""
        self._own(self._die())

    async def _die(self) -> None:
        """Reads what the worker had still written, then ends everything it had."""
        await within(self._stdout_ended.wait(), DRAIN_S)
        process = self._process
        returncode = process.get_returncode() if process is not None else None
        if self._group is not None:
            self._group.kill()  # what it started goes with it, should its nanny have been killed
            self._group.close()
        if process is not None:
            process.close()
        expected = self._state is WorkerState.STOPPING
        self._finish(self._death_of(returncode, expected=expected))

    def _death_of(self, returncode: int | None, *, expected: bool) -> Death:
        """Why it died; where an engine's memory ran out, with what would need less."""
        death = self._death_as_found(returncode, expected=expected)
        if death.code is Code.OUT_OF_MEMORY and self.provider.is_engine:
            return replace(death, words=f"{death.words} {SMALLER}")
        return death

    def _death_as_found(self, returncode: int | None, *, expected: bool) -> Death:
        name = self.provider.name
        self._stderr.close()
        if self._fault is not None:
            words = f"The worker of {name} was ended: {self._fault.words}."
            return Death(self._fault.code, words, returncode)
        if expected:
            return Death(Code.INTERRUPT, f"The worker of {name} was stopped.", returncode)
        how = spawn.exit_words(returncode)
        if spawn.was_killed(returncode) and spawn.oom_kills() > self._oom_kills[0]:
            words = f"The worker of {name} died: {how}, the system ran out of memory."
            return Death(Code.OUT_OF_MEMORY, words, returncode)
        if self._stderr.out_of_memory:
            words = f"The worker of {name} died: {how}, its memory ran out."
            return Death(Code.OUT_OF_MEMORY, words, returncode)
        said = "" if self._stderr.reason is None else f" Its last words: {self._stderr.reason}"
        return Death(Code.WORKER_CRASHED, f"The worker of {name} died: {how}.{said}", returncode)

    def _finish(self, death: Death) -> None:
        if self._state is WorkerState.DEAD:
            return
        was = self._state
        self._move(WorkerState.DEAD)
        if self._watching is not None:
            self._watching.cancel()
        kind = BootError if was is WorkerState.STARTING else WorkerError
        error = kind(death.words, code=death.code)
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
                "worker died provider=%s pid=%s status=%s words=%r cut_bytes=%d",
                *(self.provider.id, self.pid, death.returncode, death.words, self._decoder.pending_bytes),
            )
            self._on_death(self, death)

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
            case wire.CallPart():
                self.requests.call_part(frame)
            case wire.Alive():
                self.requests.alive(frame)
            case wire.Done():
                self.requests.done(frame)
            case wire.Progress():
                self.bindings.progress(frame)
            case wire.Bound():
                self.bindings.answer(frame)
            case wire.ModelNews():
                if self.watch is not None:
                    self.watch.model_news(frame.event, frame.model)
            case wire.Hello():
                _resolve(self._hello, frame)
            case wire.Ready():
                _resolve(self._ready, frame)
            case wire.Failed():
                self._failed(frame)
            case wire.Pong():
                if self.watch is not None:
                    self.watch.pulse.pong(frame.serial, frame.source, self._loop.time())

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


def _resolve(future: asyncio.Future[_T], value: _T) -> None:
    if not future.done():
        future.set_result(value)

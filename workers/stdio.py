"""What a worker asks of the operating system: its two pipes, its end with its parent, its secrecy.

`claim` runs before anything but the standard library is imported: afterwards only this file knows the
descriptors of the wire, fd 0 reads nothing, and whatever is written to fd 1, by Python, by a C library
or by a child, goes to stderr. Every platform branch of workers/ is here. Frames are workers.wire's.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from typing import NoReturn

__all__ = [
    "FrameWriter",
    "claim",
    "dump_stacks",
    "guard",
    "read",
    "read_exactly",
    "under_nanny",
    "watch_interpreter",
]

READ_BYTES: Final = 256 << 10
"""One read of the wire: a whole Part, so that a long prompt arrives in few steps."""
FLUSH_BYTES: Final = 32 << 10
"""Frames collected in one turn of the loop are written when they reach half of a Linux pipe."""

LEAVE_S: Final = 3.0
"""For a worker whose wire has ended while its supervisor lives; longer than the supervisor itself waits."""
HUP_POLL_MS: Final = 5
"""A dying supervisor's pipes end a moment before it is no longer our parent."""
IDLE_POLL_MS: Final = None if sys.platform == "linux" else 1000
"""Linux tells a nanny of the wire's end whatever else it waits for; of other systems that is not known."""
SWEEP_S: Final = 1.0
"""For what a worker had started to be gone after SIGKILL."""
SWEEP_POLL_S: Final = 0.002
OOM_SCORE: Final = 500
"""When memory is short the system is to end a worker, and neither the supervisor nor the user's game."""

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36
_SEM_FAILCRITICALERRORS: Final = 0x0001
_SEM_NOGPFAULTERRORBOX: Final = 0x0002
_STD_INPUT_HANDLE: Final = -10
_STD_OUTPUT_HANDLE: Final = -11


def claim() -> tuple[int, int]:
    """Takes fd 0 and 1 for the wire and returns the private descriptors to read from and to write to.

    The duplicates are not inheritable; what takes their places is, so a child of the worker reads
    nothing and its output is stderr's.
    """
    read_fd, write_fd = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    try:
        os.dup2(2, 1)
    except OSError:  # started without stderr: noise goes nowhere rather than into the wire
        os.dup2(null, 1)
    os.close(null)
    _make_plain(read_fd, write_fd)
    # Over fd 0 and 1 again, never closing them: a library that closes sys.stdout must not free fd 1
    # for the next file that is opened. Line by line, so that noise and log keep their order.
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115 for good
    sys.stdout = open(  # noqa: SIM115 for good
        1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
    return read_fd, write_fd


def under_nanny(parent_pid: int, read_fd: int, write_fd: int) -> int:
    """Goes on in a child of this process and returns its parent's id: the nanny's, which stays behind.

    Nothing that a worker starts may outlive it or the supervisor, however either goes, and a process that is
    killed cannot clean up after itself. So the process that the supervisor started forks before anything is
    imported and becomes the nanny: it waits for the worker, ends all that the worker has left, and ends as
    the worker did, so that the supervisor reads the worker's exit status as its own child's. It ends them
    too when the supervisor is gone, or asks for it with SIGTERM. On Windows a job object does all this.
    """
    if sys.platform == "win32":
        return parent_pid
    else:  # noqa: RET505  # mypy reads another platform's branch only in this shape
        nanny = os.getpid()
        _leave_no_core()
        worker = os.fork()
        if worker != 0:
            os.close(write_fd)
            os.dup2(0, 1)  # 0 is the null device: the worker's pipes are to end with the worker
            os.dup2(0, 2)
            _Nanny(worker, parent_pid, read_fd).watch()
        os.setsid()
        return nanny


def guard(parent_pid: int) -> None:
    """Ends with the parent where the system can do that, and hides from its neighbours.

    `parent_pid` is what `under_nanny` returned. Standard input's end and the supervisor's job object are the
    other halves; this one also takes a worker whose interpreter is stuck.
    """
    import signal  # not before the claim, which needs nothing but os and sys

    # The supervisor says when to stop; a Ctrl-C meant for it must not end a worker first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "win32":
        _no_crash_dialog()
    if sys.platform == "linux":
        _bind_to_parent()
        _offer_to_the_system()
        if os.getppid() != parent_pid:  # it died before the signal was set: nobody will send it
            os._exit(0)


def watch_interpreter(silent_s: float) -> None:
    """Lets a worker that holds its interpreter for `silent_s` write its stacks to stderr, where nobody else
    can ask it to: elsewhere than on Windows the supervisor's SIGABRT does."""
    if sys.platform == "win32":
        import faulthandler  # not before the claim

        def re_arm() -> None:
            pause = threading.Event()
            while True:
                faulthandler.dump_traceback_later(silent_s)
                pause.wait(silent_s / 3)

        threading.Thread(target=re_arm, name="stacks", daemon=True).start()


def dump_stacks() -> None:
    """Writes the stack of every thread to stderr."""
    import faulthandler  # not before the claim

    faulthandler.dump_traceback(all_threads=True)


def read(fd: int) -> bytes:
    """Some bytes, as soon as there are any; none at the end. A broken pipe is an end as well."""
    try:
        return os.read(fd, READ_BYTES)
    except OSError:  # Windows reports a pipe whose other end is gone as an error
        return b""


def read_exactly(fd: int, size: int) -> bytes:
    """`size` bytes and not one more; fewer only when the other side is gone."""
    data = b""
    while len(data) < size:
        try:
            piece = os.read(fd, size - len(data))
        except OSError:
            break
        if not piece:
            break
        data += piece
    return data


class FrameWriter:
    """The one writer of the wire: whole frames, from any thread, never two mixed.

    1. `write` may be called from any thread and returns when the pipe has taken everything.
    2. `push` belongs to the loop: what one turn pushes leaves in one write at the turn's end.
    3. A write blocks while the pipe is full. The supervisor never stops reading (its reader waits for no
       client), so that is a pace and not a stop; a thread in between would cost every chunk two switches.
    4. A broken pipe means that the supervisor is gone: the process leaves without a word.
    """

    def __init__(self, fd: int, *, leave: Callable[[int], object] = os._exit) -> None:
        self._fd = fd
        self._leave = leave
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pushed: list[bytes] = []
        self._pushed_bytes = 0

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop whose turns `push` collects."""
        self._loop = loop

    def write(self, data: bytes) -> None:
        """Sends encoded frames now."""
        try:
            with self._lock:
                sent = os.write(self._fd, data)
                while sent < len(data):  # a signal may cut a write short
                    sent += os.write(self._fd, data[sent:])
        except OSError:
            self._leave(0)

    def push(self, frame: bytes) -> None:
        """Sends one encoded frame at the end of this turn of the loop, in order with the others."""
        if not self._pushed and self._loop is not None:
            self._loop.call_soon(self.flush)
        self._pushed.append(frame)
        self._pushed_bytes += len(frame)
        if self._pushed_bytes >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Sends what was pushed."""
        if self._pushed:
            data = b"".join(self._pushed)
            self._pushed.clear()
            self._pushed_bytes = 0
            self.write(data)


def _make_plain(read_fd: int, write_fd: int) -> None:
    """Blocking bytes on the wire, and on Windows the standard handles that children inherit."""
    if sys.platform == "win32":
        import ctypes  # Windows only: what children inherit is a handle, not a descriptor
        import msvcrt

        msvcrt.setmode(read_fd, os.O_BINARY)
        msvcrt.setmode(write_fd, os.O_BINARY)
        kernel32 = ctypes.WinDLL("kernel32")
        for name, fd in ((_STD_INPUT_HANDLE, 0), (_STD_OUTPUT_HANDLE, 1)):
            kernel32.SetStdHandle(ctypes.c_ulong(name), ctypes.c_void_p(msvcrt.get_osfhandle(fd)))
    else:
        os.set_blocking(read_fd, True)
        os.set_blocking(write_fd, True)


def _bind_to_parent() -> None:
    """Linux: SIGKILL at the parent's death, and no look into /proc/PID/mem and environ."""
    try:
        import ctypes  # after the claim: it maps a C library
    except ImportError:
        sys.stderr.write("WARNING workers.stdio: this Python has no ctypes, so only stdin tells of a death\n")
        return
    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    sigkill = 9  # cannot be caught, and needs no interpreter that still runs
    prctl(_PR_SET_PDEATHSIG, sigkill, 0, 0, 0)
    prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _offer_to_the_system() -> None:
    """Linux: when memory runs out, take this process first. After the fork, so that the nanny stays."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123  # no pathlib yet
            file.write(str(OOM_SCORE))
    except OSError:  # a container may forbid it
        return


def _no_crash_dialog() -> None:
    """Windows: a worker that crashes ends, instead of waiting behind a message box."""
    if sys.platform == "win32":
        import ctypes  # Windows only here

        ctypes.WinDLL("kernel32").SetErrorMode(_SEM_FAILCRITICALERRORS | _SEM_NOGPFAULTERRORBOX)


if sys.platform != "win32":

    def _leave_no_core() -> None:
        import resource  # does not exist on Windows

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the keys

    class _Nanny:
        """The process between supervisor and worker. It reads nothing, writes nothing and imports nothing
        that the boot has not imported already, so it costs what its page tables cost."""

        def __init__(self, worker: int, supervisor: int, read_fd: int) -> None:
            import select  # these after the claim, and in the nanny alone
            import signal
            import time

            self._worker = worker
            self._supervisor = supervisor
            self._signal = signal
            self._now = time.monotonic
            self._sleep = time.sleep
            self._asked = False
            self._ended_at: float | None = None
            wake_read, wake_write = os.pipe()
            os.set_blocking(wake_write, False)
            os.set_blocking(wake_read, False)
            self._wake_fd = wake_read
            self._wire_fd = read_fd
            self._poll = select.poll()
            self._poll.register(wake_read, select.POLLIN)
            self._poll.register(read_fd, 0)  # its end is always reported; what is on it is the worker's
            signal.set_wakeup_fd(wake_write)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C meant for the supervisor
            signal.signal(signal.SIGCHLD, lambda *_: None)
            signal.signal(signal.SIGTERM, self._ask)
            if sys.platform == "linux":
                _adopt_orphans()

        def _ask(self, *_: object) -> None:
            self._asked = True

        def watch(self) -> NoReturn:
            """Waits for the end of the worker, or brings it about, and leaves as the worker did."""
            status = self._reap()
            while status is None:
                self._wait()
                if self._due():
                    self._kill_worker()
                status = self._reap()
            self._sweep()
            self._leave(status)

        def _wait(self) -> None:
            """Until a signal, or the wire's end; after that end in short steps."""
            for fd, _ in self._poll.poll(IDLE_POLL_MS if self._ended_at is None else HUP_POLL_MS):
                if fd == self._wire_fd:
                    self._poll.unregister(fd)
                    self._ended_at = self._now()
                else:
                    os.read(self._wake_fd, 512)

        def _due(self) -> bool:
            """Whether the worker has to go now."""
            if self._asked or os.getppid() != self._supervisor:
                return True
            return self._ended_at is not None and self._now() - self._ended_at > LEAVE_S

        def _reap(self) -> int | None:
            """Takes the statuses of all that ended; the worker's, when it is among them."""
            found = None
            try:
                while True:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                    if pid == 0:
                        return found
                    if pid == self._worker:
                        found = status
            except ChildProcessError:
                return found

        def _kill_worker(self) -> None:
            """Itself, our child and not reaped, so that the id is still its own; the sweep takes the rest."""
            self._kill(os.kill, self._worker)

        def _kill(self, send: Callable[[int, int], None], target: int) -> None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # gone, or not ours to end
                send(target, self._signal.SIGKILL)

        def _sweep(self) -> None:
            """Ends what the worker started: its group, and on Linux all that came to us as orphans."""
            self._kill(os.killpg, self._worker)
            if sys.platform == "linux":
                until = self._now() + SWEEP_S
                while self._has_children() and self._now() < until:
                    for pid in _children():
                        self._kill(os.kill, pid)
                    self._sleep(SWEEP_POLL_S)

        def _has_children(self) -> bool:
            try:
                while os.waitpid(-1, os.WNOHANG)[0] != 0:
                    pass
            except ChildProcessError:
                return False
            return True

        def _leave(self, status: int) -> NoReturn:
            """Ends with the worker's exit status, by the same signal where it was one."""
            if os.WIFSIGNALED(status):
                number = os.WTERMSIG(status)
                if number not in (self._signal.SIGKILL, self._signal.SIGSTOP):
                    self._signal.signal(number, self._signal.SIG_DFL)
                os.kill(os.getpid(), number)
                os._exit(128 + number)  # the shell's convention, should the signal not have ended us
            os._exit(os.WEXITSTATUS(status))


if sys.platform == "linux":

    def _adopt_orphans() -> None:
        """Whoever loses its parent below us becomes our child, also one that made itself a daemon."""
        try:
            import ctypes  # after the claim: it maps a C library
        except ImportError:
            return  # the worker says so
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def _children() -> list[int]:
        """The ids of our children."""
        found = []
        for name in os.listdir("/proc"):  # noqa: PTH208  # no pathlib in a nanny
            if name.isdecimal():
                try:
                    with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                        fields = file.read().rpartition(b")")[2].split()
                except OSError:
                    continue
                if int(fields[1]) == os.getpid():
                    found.append(int(name))
        return found

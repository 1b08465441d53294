"""What a worker asks of the operating system: its two pipes, its parent's life, its secrecy.

`claim` runs before anything but the standard library is imported: afterwards only this file knows the
descriptors of the wire, fd 0 reads nothing, and whatever is written to fd 1, by Python, by a C library
or by a child, goes to stderr. Every platform branch of workers/ is here. Frames are workers.wire's.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

__all__ = ["FrameWriter", "claim", "guard", "read", "read_exactly"]

READ_BYTES: Final = 256 << 10
"""One read of the wire: a whole Part, so that a long prompt arrives in few steps."""
FLUSH_BYTES: Final = 32 << 10
"""Frames collected in one turn of the loop are written when they reach half of a Linux pipe."""

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
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


def guard(parent_pid: int) -> None:
    """Ends with the parent where the system can do that, leaves no core file, hides from its neighbours.

    `parent_pid` is what getppid said first of all. Standard input's end and the supervisor's job object
    are the other halves; this one also takes a worker whose interpreter is stuck.
    """
    import signal  # not before the claim, which needs nothing but os and sys

    # The supervisor says when to stop; a Ctrl-C meant for it must not end a worker first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "win32":
        _no_crash_dialog()
    else:
        import resource  # does not exist on Windows

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the keys
    if sys.platform == "linux":
        _bind_to_parent()
        if os.getppid() != parent_pid:  # it died before the signal was set: nobody will send it
            os._exit(0)


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


def _no_crash_dialog() -> None:
    """Windows: a worker that crashes ends, instead of waiting behind a message box."""
    if sys.platform == "win32":
        import ctypes  # Windows only here

        ctypes.WinDLL("kernel32").SetErrorMode(_SEM_FAILCRITICALERRORS | _SEM_NOGPFAULTERRORBOX)

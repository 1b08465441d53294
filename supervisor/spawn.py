"""The operating system: every platform branch of this project stands here.

The first part is what installing needs before anything is installed, so the module imports the standard
library alone: the user's data directory, the ABI, the layout of an environment, the one lock, the hand-over
from one Python to another, and children that die with us."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.machinery
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, NoReturn

from supervisor.errors import SettingsError

if sys.platform == "win32":
    import ctypes
    import msvcrt
    from ctypes import wintypes
else:
    import fcntl
    import pwd

__all__ = [
    "IS_WINDOWS",
    "PYCACHE",
    "STAY_VARIABLE",
    "Group",
    "Sample",
    "Sampler",
    "abi",
    "environment_python",
    "exclusive_lock",
    "exit_words",
    "hand_over",
    "hide_environment",
    "listener_on",
    "on_end_signals",
    "only_if_asked_for",
    "oom_kills",
    "path_limit",
    "run_child",
    "running_under",
    "system_words",
    "user_data_directory",
    "was_killed",
    "watch_process",
    "worker_argv",
    "worker_environment",
    "worker_options",
]

IS_WINDOWS: Final = sys.platform == "win32"
"""For the few who must know and start nothing: which launcher to write."""

STAY_VARIABLE: Final = "WAIFU_LLM_STAY"
"""Set, it says: this Python is the right one, do not look for the supervisor's environment. A hand-over sets
it, so that there is never a second one; so do tests, which run in the development environment."""

PYCACHE: Final = "PYTHONPYCACHEPREFIX"
"""Compiled modules go to HOME, since nothing is written into the checkout."""

LOCK_POLL_S: Final = 0.1
"""Between two tries of a busy lock: short against any build, long against the cost of a try."""

TICK_S: Final = 1.0
"""A child that says nothing for so long makes `on_tick` speak: a person should see that something lives."""

REAP_S: Final = 10.0
"""For a killed child to be gone; the system needs longer only when its disk hangs."""

LINES_HELD: Final = 1000
"""Lines of a child that wait for us; when full, the child waits at its pipe."""


def user_data_directory(environ: Mapping[str, str]) -> Path:
    """The directory for a user's own, local data; found in an emptied environment too.

    Raises:
        SettingsError: the system knows no home directory for this user.
    """
    if sys.platform == "win32":
        local = environ.get("LOCALAPPDATA")
        profile = environ.get("USERPROFILE")
        if not local and profile:
            local = str(Path(profile, "AppData", "Local"))
        return Path(local or _known_local_app_data())
    elif sys.platform == "darwin":  # noqa: RET505  # mypy reads another platform's branch only in this shape
        return _home_directory(environ) / "Library" / "Application Support"
    else:
        given = environ.get("XDG_DATA_HOME", "")
        if given.startswith("/"):  # its specification: a relative path is to be ignored
            return Path(given)
        return _home_directory(environ) / ".local" / "share"


def abi() -> str:
    """What compiled modules of this Python are compatible with: version, build, system, processor."""
    if sys.platform == "win32":
        machine = ""  # the suffix says it: .cp311-win_amd64.pyd
    else:
        machine = os.uname().machine
    tag = sys.implementation.cache_tag or sys.implementation.name
    return " ".join((tag, importlib.machinery.EXTENSION_SUFFIXES[0], sys.platform, machine))


def environment_python(directory: Path) -> Path:
    """The interpreter of the virtual environment in `directory`."""
    if sys.platform == "win32":
        return directory / "Scripts" / "python.exe"
    return directory / "bin" / "python"


if sys.platform == "win32":

    def _known_local_app_data() -> str:
        csidl_local_appdata = 0x1C
        buffer = ctypes.create_unicode_buffer(wintypes.MAX_PATH)
        if ctypes.windll.shell32.SHGetFolderPathW(None, csidl_local_appdata, None, 0, buffer) != 0:
            raise SettingsError(_NO_HOME)
        return buffer.value

else:

    def _home_directory(environ: Mapping[str, str]) -> Path:
        given = environ.get("HOME", "")
        if given.startswith("/"):
            return Path(given)
        try:
            return Path(pwd.getpwuid(os.getuid()).pw_dir)
        except KeyError as exc:  # a container's arbitrary user id
            raise SettingsError(_NO_HOME) from exc


_NO_HOME: Final = "this user has no home directory: give one with --home DIR or WAIFU_LLM_HOME"


@contextlib.contextmanager
def exclusive_lock(
    path: Path, *, timeout_s: float, on_wait: Callable[[float], None] | None = None
) -> Iterator[None]:
    """Holds the lock file `path` for the body; `on_wait` hears the seconds waited so far at every try.

    The system's own lock, so it is released when its holder dies, however it dies. The file is never deleted
    and the lock never taken from a holder that lives: both would let two in. Ours and not filelock's, because
    install.py must lock before any package is installed, and two kinds of lock would not exclude each other.

    Raises:
        TimeoutError: another process held it all the time.
        OSError: the file cannot be opened.
    """
    started = time.monotonic()
    with path.open("a+b") as file:
        while not _try_lock(file):
            waited_s = time.monotonic() - started
            if waited_s >= timeout_s:
                raise TimeoutError(f"{path.name} is held by another process")
            if on_wait is not None:
                on_wait(waited_s)
            time.sleep(LOCK_POLL_S)
        try:
            yield
        finally:
            _unlock(file)


if sys.platform == "win32":

    def _try_lock(file: IO[bytes]) -> bool:
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:  # EACCES or EDEADLK: somebody has it
            return False
        return True

    def _unlock(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)


def hand_over(argv: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Goes on as the Python program `argv`; its exit code becomes ours. `argv[0]` is an absolute path.

    Variables that would send that Python to other modules than its own are left out.

    On Windows the program is a child, because exec there returns to the shell at once, loses the exit code
    and splits paths at spaces. We wait without a bound, since its life is ours: interrupts are its business,
    and it dies with us."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    kept = {key: value for key, value in environment.items() if key not in _MISLEADING}
    kept[STAY_VARIABLE] = "1"
    if sys.platform == "win32":
        raise SystemExit(_run_as_child(argv, kept))
    else:  # noqa: RET506  # mypy reads the branch of the other platform only in this shape
        os.execve(argv[0], list(argv), kept)  # noqa: S606  # no shell is meant


_MISLEADING: Final = frozenset(
    "PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONEXECUTABLE PYTHONPLATLIBDIR PYTHONUSERBASE "  # noqa: SIM905  # a table
    "PYTHONDONTWRITEBYTECODE VIRTUAL_ENV __PYVENV_LAUNCHER__".split()
)
"""PYTHONDONTWRITEBYTECODE would make every later start compile all modules again."""


if sys.platform == "win32":

    def _run_as_child(argv: Sequence[str], environment: Mapping[str, str]) -> int:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGBREAK, signal.SIG_IGN)
        with _Job() as job:
            child = subprocess.Popen(
                list(argv), env=dict(environment), stdin=_own(0), stdout=_own(1), stderr=_own(2)
            )
            job.add(child)
            code = child.wait()
        return code - 2**32 if code >= 2**31 else code  # NTSTATUS codes are unsigned, exit codes are not

    def _own(descriptor: int) -> int:
        """Our own standard stream, by number, so that pipes are inherited too; null where we have none."""
        try:
            os.fstat(descriptor)
        except OSError:
            return subprocess.DEVNULL
        return descriptor

    class _Job:
        """A job object: its processes end when its last handle does, which is when we close it or die."""

        def __init__(self) -> None:
            self._kernel = ctypes.WinDLL("kernel32", use_last_error=True)
            self._kernel.CreateJobObjectW.restype = wintypes.HANDLE
            self._handle = wintypes.HANDLE(self._kernel.CreateJobObjectW(None, None))
            size = 144 if ctypes.sizeof(ctypes.c_void_p) == 8 else 112  # JOBOBJECT_EXTENDED_LIMIT_INFORMATION
            limits = bytearray(size)
            limits[16:20] = (0x2000).to_bytes(4, "little")  # LimitFlags: KILL_ON_JOB_CLOSE, after two times
            self._kernel.SetInformationJobObject(
                self._handle,
                9,
                (ctypes.c_char * size).from_buffer(limits),
                size,  # 9: that structure
            )

        def __enter__(self) -> _Job:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

        def close(self) -> None:
            """Gives the handle back, which ends whatever is still in the job."""
            self._kernel.CloseHandle(self._handle)

        def add(self, child: subprocess.Popen[bytes]) -> None:
            """Takes the child in; a child that is gone already is none."""
            handle = wintypes.HANDLE(int(child._handle))  # type: ignore[attr-defined]  # no public name for it
            self._kernel.AssignProcessToJobObject(self._handle, handle)

        def end(self) -> None:
            """Ends every process in it."""
            self._kernel.TerminateJobObject(self._handle, 1)


def run_child(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    cwd: Path,
    timeout_s: float,
    on_line: Callable[[str], None],
    on_tick: Callable[[], None] | None = None,
) -> int:
    """Runs a program to its end and returns its exit code; every line it prints goes to `on_line`.

    The program and its children end when we do, when `timeout_s` is over, and when any exception leaves this
    function.

    Raises:
        TimeoutError: it did not end in time, and was ended.
        OSError: it cannot be started.
    """
    deadline = time.monotonic() + timeout_s
    with _started(argv, environment, cwd) as child:
        lines: queue.Queue[str | None] = queue.Queue(LINES_HELD)
        threading.Thread(target=_read_lines, args=(child.stdout, lines), daemon=True).start()
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"{Path(argv[0]).name} did not end within {timeout_s:.0f} s")
            try:
                line = lines.get(timeout=min(TICK_S, left_s))
            except queue.Empty:
                if child.poll() is not None:  # a grandchild may hold the pipe: the exit status counts
                    return child.returncode
                if on_tick is not None:
                    on_tick()
                continue
            if line is None:
                return child.wait(timeout=max(left_s, REAP_S))
            on_line(line)


def only_if_asked_for(
    environ: Mapping[str, str], names: frozenset[str], prefixes: tuple[str, ...]
) -> dict[str, str]:
    """The variables that a child may see: those the system needs to work at all, and those that are named.

    Names are compared without case, since Windows does not know it and proxies are spelled in both.
    """
    allowed = names | _SYSTEM_VARIABLES
    return {
        key: value
        for key, value in environ.items()
        if key.upper() in allowed or (prefixes and key.upper().startswith(prefixes))
    }


_SYSTEM_VARIABLES: Final = frozenset(
    "HOME USER LOGNAME PATH LANG LC_ALL LC_CTYPE TMPDIR TEMP TMP TZ XDG_CACHE_HOME XDG_CONFIG_HOME "  # noqa: SIM905  # a table
    "XDG_DATA_HOME SYSTEMROOT SYSTEMDRIVE WINDIR COMSPEC PATHEXT APPDATA LOCALAPPDATA USERPROFILE "
    "USERNAME HOMEDRIVE HOMEPATH PROGRAMDATA PROGRAMFILES PROCESSOR_ARCHITECTURE NUMBER_OF_PROCESSORS "
    "OS LD_LIBRARY_PATH".split()
)


def _read_lines(stream: IO[bytes], lines: queue.Queue[str | None]) -> None:
    with contextlib.suppress(ValueError, OSError):  # closed under us: the child was ended
        for raw in stream:
            lines.put(raw.decode("utf-8", "replace").rstrip())
    lines.put(None)


if sys.platform == "win32":

    @contextlib.contextmanager
    def _started(
        argv: Sequence[str], environment: Mapping[str, str], cwd: Path
    ) -> Iterator[subprocess.Popen[bytes]]:
        with _Job() as job:
            child = subprocess.Popen(
                list(argv),
                env=dict(environment),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                creationflags=subprocess.CREATE_NO_WINDOW,
            )
            job.add(child)
            try:
                yield child
            finally:
                job.end()
                child.wait(timeout=REAP_S)

else:
    # Between us and the program stands a process that holds the reading end of a pipe of ours. When we are
    # gone, however we went, that pipe ends, and it ends its whole group. PR_SET_PDEATHSIG would do this on
    # Linux alone, and not for the program's own children.
    _DEAD_MAN: Final = """
import _thread, os, signal, sys
def watch():
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)
child = os.fork()
if child == 0:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        os.execv(sys.argv[1], sys.argv[1:])
    except OSError as exc:
        os.write(2, f"{sys.argv[1]}: {exc.strerror}".encode())
    os._exit(127)
_thread.start_new_thread(watch, ())
status = os.waitpid(child, 0)[1]
code = os.waitstatus_to_exitcode(status)
os._exit(code if code >= 0 else 128 - code)
"""

    @contextlib.contextmanager
    def _started(
        argv: Sequence[str], environment: Mapping[str, str], cwd: Path
    ) -> Iterator[subprocess.Popen[bytes]]:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _DEAD_MAN, *argv],
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield child
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a zombie group
                os.killpg(child.pid, signal.SIGKILL)
            child.wait(timeout=REAP_S)
            for stream in (child.stdin, child.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()


def running_under(directory: Path) -> list[int]:
    """The ids of the processes, ours excepted, whose interpreter stands in `directory`."""
    import psutil  # not at the top: installing comes before it, and it costs a start 20 ms

    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        if words[0].startswith(str(directory) + os.sep) and process.pid != os.getpid():
            found.append(process.pid)
    return found


# ---------------------------------------------------------------- worker processes

WORKER_VARIABLES: Final = (
    ("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "TEMP", "TMP", "USERPROFILE", "APPDATA", "LOCALAPPDATA",
     "PROGRAMDATA", "PATH", "PATHEXT", "COMSPEC", "NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE")
    if sys.platform == "win32"
    else ("HOME", "PATH", "TMPDIR", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "USER", "LOGNAME", "XDG_CACHE_HOME")
)  # fmt: skip
"""What a worker inherits: what the system and its libraries need, and never a key."""
MODEL_VARIABLES: Final = ("HF_HOME", "HF_HUB_CACHE")
"""Where the models of the Hugging Face hub are, for those who keep them on another disk."""
GPU_VARIABLES: Final = (
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_PATH",
    "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HSA_OVERRIDE_GFX_VERSION",
    "GGML_VK_VISIBLE_DEVICES", "ONEAPI_DEVICE_SELECTOR", "ZE_AFFINITY_MASK",
)  # fmt: skip
"""Which GPU is for whom, on a machine that streams with the other one."""
LOGIN_VARIABLES: Final = ("GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG")
"""Where an operator keeps who they are to a cloud: the place of a file, which no client may choose."""
NETWORK_VARIABLES: Final = (
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
    "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
"""The way to the network is the user's to say, for workers as for every other program."""


def worker_argv(python: Path, checkout: Path, adapter: str, site_packages: Path) -> list[str]:
    """How a worker is started; its nonce is added as the last argument, its key never is."""
    boot = checkout / "workers" / "__main__.py"
    options = ["-I", "-S", "-X", "utf8", "-X", "faulthandler"]
    if sys.pycache_prefix:  # -I ignores the variable, and the checkout may be read-only
        options += ["-X", f"pycache_prefix={sys.pycache_prefix}"]
    return [str(python), *options, str(boot), adapter, str(site_packages)]


def worker_environment(
    environ: Mapping[str, str], logins: Mapping[str, str | None] | None = None
) -> dict[str, str]:
    """The allow-listed part of our own environment, and those of `logins`, which may stand in a `.env` file,
    that are the place of a file and not its text."""
    allowed = (*WORKER_VARIABLES, *MODEL_VARIABLES, *GPU_VARIABLES, *NETWORK_VARIABLES)
    places = {name: value for name, value in (logins or {}).items() if value and not value.startswith("{")}
    return {**{name: environ[name] for name in allowed if name in environ}, **places}


def worker_options(environment: Mapping[str, str]) -> dict[str, Any]:
    """What `loop.subprocess_exec` needs: pipes on all three ends, and a group (or window) of its own."""
    options: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "env": dict(environment),
    }
    if sys.platform == "win32":
        options["creationflags"] = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
    else:
        options["start_new_session"] = True
    return options


class Group:
    """A worker and all that it started.

    On POSIX the process that we started is the worker's nanny (workers/stdio.py), and the worker leads a
    group of its own below it; on Windows all are in a job, which ends with our handle.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._nanny = process.pid
        self.worker: int | None = None
        """Its own id, once it has said it."""
        if sys.platform == "win32":
            self._job = _Job()
            self._job.add(process)

    def abort(self) -> None:
        """Lets a worker that is stuck write its stacks and die; Windows cannot, and does nothing."""
        if sys.platform != "win32":
            self._signal(os.kill, self.worker, signal.SIGABRT)
            self._signal(os.kill, self.worker, signal.SIGCONT)  # else one that was stopped would not hear it

    def end(self) -> None:
        """Ends all of them, by way of the nanny; their exit status stays true."""
        if sys.platform == "win32":
            self._job.end()
        else:
            self._signal(os.kill, self._nanny, signal.SIGTERM)

    def kill(self) -> None:
        """Ends them without asking the nanny, which may be stopped."""
        if sys.platform == "win32":
            self._job.end()
        else:
            self._signal(os.killpg, self.worker, signal.SIGKILL)
            self._signal(os.killpg, self._nanny, signal.SIGKILL)

    def close(self) -> None:
        """The process is over: gives back what the system keeps for it. Nothing is called after this."""
        if sys.platform == "win32":
            self._job.close()

    if sys.platform != "win32":

        def _signal(
            self, send: Callable[[int, int], None], target: int | None, number: signal.Signals
        ) -> None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says EPERM of a zombie
                if target is not None:
                    send(target, number)


def exit_words(returncode: int | None) -> str:
    """An exit status in words: `signal 9 (SIGKILL)`, `status 1`."""
    if returncode is None:
        return "for a reason the system did not tell"
    if sys.platform == "win32":
        return f"status {returncode & 0xFFFFFFFF:#x}" if returncode & 0x80000000 else f"status {returncode}"
    if returncode >= 0:
        return f"status {returncode}"
    try:
        return f"signal {-returncode} ({signal.Signals(-returncode).name})"
    except ValueError:
        return f"signal {-returncode}"


def was_killed(returncode: int | None) -> bool:
    """Whether somebody, or the system, ended it with SIGKILL; Windows does not tell."""
    return sys.platform != "win32" and returncode == -signal.SIGKILL


def on_end_signals(loop: asyncio.AbstractEventLoop, callback: Callable[[str], None]) -> None:
    """Calls `callback` with the name of each signal that asks the module to end."""
    if sys.platform == "win32":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGBREAK):
            signal.signal(number, lambda n, _: loop.call_soon_threadsafe(callback, signal.Signals(n).name))
    else:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, callback, number.name)


def watch_process(pid: int) -> Callable[[], bool]:
    """A question to ask again and again: does that very process still live? A reused pid is another one."""
    import psutil  # not at the top: only a parent that asks for it pays the 20 ms

    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return lambda: False
    return lambda: process.is_running() and process.status() != psutil.STATUS_ZOMBIE


class Sample(NamedTuple):
    """What a process uses."""

    memory_bytes: int
    """Resident."""
    cpu_s: float
    """Since its start."""


class Sampler:
    """Samples one process again and again. Making one imports psutil, some 20 ms: do it in a thread."""

    def __init__(self, pid: int) -> None:
        import psutil  # not at the top: the way to the ready line does not pay for it

        self._open = psutil.Process
        self._unknown = (psutil.Error, OSError)  # OSError: we have no descriptor left to look with
        self._pid = pid
        self._process: psutil.Process | None = None

    def sample(self) -> Sample | None:
        """What it uses now, some 30 µs; None when nobody can tell: it is gone, or may not be looked at."""
        try:
            if self._process is None:
                self._process = self._open(self._pid)
            if not self._process.is_running():
                return None
            with self._process.oneshot():
                times = self._process.cpu_times()
                return Sample(int(self._process.memory_info().rss), float(times.user + times.system))
        except self._unknown:
            return None


def oom_kills() -> int:
    """How many processes this system has ended for want of memory since it started; Linux alone counts."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


def hide_environment() -> None:
    """Keeps other processes of this user from reading our environment and memory, where the system can.

    Linux only: on Windows and macOS a process's environment is not a file that anybody may open.
    """
    if sys.platform == "linux":
        import ctypes  # 8 ms that the way to the ready line does not pay

        pr_set_dumpable = 4  # linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_dumpable, 0, 0, 0, 0)


# ---------------------------------------------------------------- questions of the doctor


def system_words() -> str:
    """The system's name and version, for a report."""
    import platform  # only who makes a report asks

    return platform.platform()


def listener_on(port: int) -> tuple[int, str] | None:
    """The process that listens on a TCP port, and its name, where the system tells us."""
    import psutil  # not at the top, as above

    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            place, pid = connection.laddr, connection.pid
            if connection.status == psutil.CONN_LISTEN and place and place.port == port and pid is not None:
                return pid, psutil.Process(pid).name()
    return None


def path_limit() -> int | None:
    """How many characters a path may have, where the system sets a limit that users meet."""
    if sys.platform == "win32":
        import winreg  # as above

        with contextlib.suppress(OSError):
            key = r"SYSTEM\CurrentControlSet\Control\FileSystem"
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as opened:
                if winreg.QueryValueEx(opened, "LongPathsEnabled")[0]:
                    return None
        return int(wintypes.MAX_PATH)
    return None

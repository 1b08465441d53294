"""The real module as a child process: `python CHECKOUT/supervisor 0 --home H`, started, read and ended.

    with Module(installation, OPENAI_BASE_URL=url) as module:
        ...                      # clients talk to module.port
    module.exit_code, module.output()

Every key that a test uses is given to `module.keys`; none of them may be found in anything that the module
wrote, nor in the arguments and the environment of it and its workers.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import psutil

from supervisor.spawn import STAY_VARIABLE
from tests.wheelhouse import wait_until

__all__ = ["Installation", "Module"]

START_S: Final = 20.0
STOP_S: Final = 20.0
KEPT_VARIABLES: Final = ("PATH", "SYSTEMROOT", "SYSTEMDRIVE", "TEMP", "TMP", "TMPDIR", "LANG", "USERPROFILE")
"""What a Python needs to start at all; a parent may have emptied the rest."""


@dataclass(frozen=True)
class Installation:
    """A checkout, a HOME, and the wheels from which its environments are made."""

    checkout: Path
    home: Path
    wheels: Path


@dataclass
class Module:
    """One running module."""

    installation: Installation
    flags: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    port: int = 0
    keys: list[str] = field(default_factory=list)
    parent: subprocess.Popen[bytes] | None = None
    """The process that it was told is its parent, where there is one."""
    stderr_end: IO[bytes] | None = None
    """What it gets as its stderr instead of a file; the test's to close."""

    def __enter__(self) -> Module:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts it and waits for its ready line."""
        self._folder = tempfile.TemporaryDirectory(prefix="waifu-e2e-")
        self._stderr: IO[bytes] = (Path(self._folder.name) / "stderr").open("w+b")
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._stdout: list[str] = []
        self._seen: dict[int, psutil.Process] = {}
        self.process = subprocess.Popen(
            self._argv(),
            env=self._environment(),
            cwd=self._folder.name,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr_end or self._stderr,
            encoding="utf-8",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        line = self._lines.get(timeout=START_S)
        if line is None:
            self.process.wait(STOP_S)
            raise AssertionError(f"the module did not start: {self.stderr()}")
        self.ready: dict[str, Any] = json.loads(line)
        self.port = self.ready["port"]

    def _argv(self) -> list[str]:
        place = self.installation
        return [
            sys.executable,
            str(place.checkout / "supervisor"),
            "0",
            "--home",
            str(place.home),
            *self.flags,
        ]

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        return {**kept, STAY_VARIABLE: "1", **self.variables}

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._stdout.append(line)
            self._lines.put(line)
        self._lines.put(None)

    # ---- keys

    def new_key(self) -> str:
        """A random key that must not be seen anywhere."""
        key = f"canary{secrets.token_hex(16)}"
        self.keys.append(key)
        return key

    def check_keys(self) -> None:
        """No key is in anything that was written, nor in what the system shows of the processes."""
        places = {"stdout": "".join(self._stdout), "stderr": self.stderr(), "the log": self.log()}
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
                places[f"the arguments of {process.pid}"] = " ".join(process.cmdline())
                places[f"the environment of {process.pid}"] = repr(process.environ())
        for place, text in places.items():
            assert not [key for key in self.keys if key in text], f"a key is in {place}"

    # ---- processes

    def family(self) -> list[psutil.Process]:
        """The module and everything below it that runs now."""
        try:
            supervisor = psutil.Process(self.process.pid)
            alive = [supervisor, *supervisor.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
        self._seen.update({process.pid: process for process in alive})
        return alive

    def workers(self) -> list[psutil.Process]:
        """The running workers; between each and the module stands its nanny, of the same command line."""
        below = {process.pid: process for process in self.family()[1:]}
        return [p for p in below.values() if p.ppid() in below and below[p.ppid()].cmdline() == p.cmdline()]

    # ---- the end

    def wait(self) -> int:
        """Waits for its end, however it came; nothing of it may be left. Returns the exit status."""
        code = self.process.wait(STOP_S)
        wait_until(lambda: not _running(self._seen.values()), "the end of the workers")
        self._reader.join(STOP_S)
        return code

    def stop(self) -> None:
        """Ends it as a terminal would, unless it has ended already, and looks at what it wrote."""
        try:
            self.check_keys()
            if self.process.poll() is None:
                self.process.terminate()
            self.wait()
            self.check_keys()
        finally:
            self._release()

    def _release(self) -> None:
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(STOP_S)
        self._reader.join(STOP_S)
        for stream in (self.process.stdin, self.process.stdout, self._stderr):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self._folder.cleanup()

    # ---- what it wrote

    def stdout(self) -> str:
        """All that it printed."""
        return "".join(self._stdout)

    def stderr(self) -> str:
        """All that it said on stderr."""
        return Path(self._stderr.name).read_text(encoding="utf-8", errors="replace")

    def log(self) -> str:
        """All its log files."""
        files = sorted((self.installation.home / "logs").glob("*"))
        return "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)


def _running(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    running = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                running.append(process)
    return running

"""Child processes of a benchmark: started, waited for, ended; what they used of the processor and of memory.

A child that serves ends with its stdin, so nothing is left if the benchmark is killed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from benchmarks.places import CHECKOUT

__all__ = [
    "Memory",
    "cpu_s",
    "memory_of",
    "module_argv",
    "other_work_percent",
    "own",
    "raise_file_limit",
    "serving",
    "tree",
]

END_S: Final = 20.0
"""For a child to end when it is asked; then it is killed."""
FILES_WANTED: Final = 8192
"""A thousand streams are two thousand sockets in the module and its peers together."""
_KIB: Final = 1024
_MB: Final = 1e6


def module_argv(name: str) -> list[str]:
    """The argv of one of our own programs, to be started in the checkout."""
    return [sys.executable, "-X", "utf8", "-m", name]


@contextlib.contextmanager
def serving(
    argv: Sequence[str], *, log: Path | None = None, variables: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A child that serves until the end of the block, with its stdout to read; stderr goes to `log`."""
    with contextlib.ExitStack() as stack:
        stderr = subprocess.DEVNULL if log is None else stack.enter_context(log.open("ab"))
        child = subprocess.Popen(
            list(argv),
            cwd=CHECKOUT,
            env={**os.environ, **(variables or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
        )
        try:
            yield child
        finally:
            _end(child)


def _end(child: subprocess.Popen[str]) -> None:
    below = tree(child.pid)
    if child.stdin is not None:
        child.stdin.close()
    child.terminate()
    try:
        child.wait(END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(END_S)
    for process in below:
        with contextlib.suppress(psutil.Error):
            process.kill()
    if child.stdout is not None:
        child.stdout.close()


def own() -> psutil.Process:
    """The process that asks."""
    return psutil.Process()


def other_work_percent(watch_s: float) -> float:
    """How busy the machine is while we do nothing, in percent of all its cores."""
    return float(psutil.cpu_percent(interval=watch_s))


def tree(pid: int) -> list[psutil.Process]:
    """A process and everything below it."""
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """The seconds of processor time that they have used so far."""
    total = 0.0
    for process in processes:
        times = process.cpu_times()
        total += times.user + times.system
    return total


@dataclass(frozen=True, slots=True)
class Memory:
    """Of some processes, in millions of bytes."""

    mb: float
    proportional: bool
    """Whether shared pages count once in all; resident memory, which counts them in full, otherwise."""


def memory_of(processes: Iterable[psutil.Process]) -> Memory:
    """Their proportional memory, or their resident memory where the system shows no other.

    Linux shows proportional memory of our own processes, and of those that hide from their neighbours (the
    module's do) to root alone; Windows and macOS show none.
    """
    sizes = [_memory(process) for process in processes]
    return Memory(sum(size.mb for size in sizes), all(size.proportional for size in sizes))


def _memory(process: psutil.Process) -> Memory:
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return Memory(process.memory_info().rss / _MB, proportional=False)
    line = next(line for line in text.splitlines() if line.startswith("Pss:"))
    return Memory(int(line.split()[1]) * _KIB / _MB, proportional=True)


def raise_file_limit() -> None:
    """Lets this process and its children open a file for every stream of the largest crowd."""
    if sys.platform != "win32":
        import resource  # does not exist on Windows

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

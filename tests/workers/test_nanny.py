"""The nanny of a worker, with real processes: nothing that a worker started outlives it or its parent."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.wheelhouse import wait_until
from tests.worker_process import CHECKOUT, FLAGS, WorkerProcess, make_site_packages
from workers import wire

if sys.platform == "win32":
    pytest.skip("Windows has a job object instead", allow_module_level=True)

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives a nanny the orphans below it")

# A worker that says its id in a frame, waits for one, and does what it is told; `start` leaves a process.
WORKER = """
import os, sys, time
parent = os.getppid()
sys.path.append({checkout!r})
from workers import stdio
read_fd, write_fd = stdio.claim()
stdio.guard(stdio.under_nanny(parent, read_fd, write_fd))
sys.path.append({site!r})
from workers import wire
writer = stdio.FrameWriter(write_fd)
def start(how):
    left, wrote = os.pipe()
    if os.fork() == 0:
        if how != "in its group":
            os.setsid()
        if how == "as a daemon" and os.fork() != 0:
            os._exit(0)
        os.write(wrote, str(os.getpid()).encode())
        os.close(wrote)
        time.sleep(600)
        os._exit(0)
    os.close(wrote)
    if how == "as a daemon":
        os.wait()
    writer.write(wire.encode(wire.Progress(0, "left", os.read(left, 20).decode(), 0.0)))
writer.write(wire.encode(wire.Alive(os.getpid())))
stdio.read(read_fd)
{work}
"""
UNTIL_THE_END = "while stdio.read(read_fd): pass"
HELD = "import ctypes; ctypes.PyDLL(None).sleep(600)"
"""A call that keeps the interpreter."""


@pytest.fixture(scope="module")
def site_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site_packages(tmp_path_factory.mktemp("site"))


@contextlib.contextmanager
def worker(site_packages: Path, work: str) -> Iterator[tuple[WorkerProcess, psutil.Process]]:
    """What was started, and the worker below it."""
    source = WORKER.format(checkout=str(CHECKOUT), site=str(site_packages), work=work)
    with WorkerProcess(site_packages, command=[sys.executable, *FLAGS, "-c", source]) as process:
        below = psutil.Process(process.until(wire.Alive).request)
        process.send(wire.Ping(1))
        yield process, below


def gone(process: psutil.Process | None) -> None:
    """Waits until it is no more."""
    if process is None:
        return
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, str(process))


def left(process: WorkerProcess) -> psutil.Process | None:
    """What the worker has just started; None if it is no more by the time that we hear of it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(int(process.until(wire.Progress).message))
    return None


@pytest.mark.parametrize(
    ("work", "status"),
    [
        pytest.param("os._exit(0)", 0, id="exit 0"),
        pytest.param("os._exit(72)", 72, id="exit 72"),
        pytest.param("os.kill(os.getpid(), 9)", -9, id="SIGKILL"),
        pytest.param("os.kill(os.getpid(), 15)", -15, id="SIGTERM"),
        pytest.param("os.abort()", -signal.SIGABRT, id="abort"),
        pytest.param("import ctypes; ctypes.string_at(0)", -signal.SIGSEGV, id="a bad pointer"),
    ],
)
def test_it_ends_as_its_worker_did(site_packages: Path, work: str, status: int) -> None:
    with worker(site_packages, work) as (process, _):
        assert process.exit_status() == status


def test_the_worker_s_pipes_end_with_the_worker(site_packages: Path) -> None:
    with worker(site_packages, "os._exit(0)") as (process, _):
        with pytest.raises(EOFError):
            process.receive()
        process.exit_status()


def test_a_worker_that_is_killed_from_outside_takes_its_nanny_along(site_packages: Path) -> None:
    with worker(site_packages, UNTIL_THE_END) as (process, below):
        assert below.ppid() == process.pid
        below.kill()
        assert process.exit_status() == -9


@LINUX
@pytest.mark.parametrize("how", ["in its group", "in a session", "as a daemon"])
@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), 9)"], ids=["exit", "kill"])
def test_what_a_worker_started_ends_with_it(site_packages: Path, how: str, end: str) -> None:
    with worker(site_packages, f"start({how!r}); {end}") as (process, _):
        grandchild = left(process)
        assert process.exit_status() == (3 if "exit" in end else -9)
        gone(grandchild)


@LINUX
def test_a_whole_family_ends(site_packages: Path) -> None:
    with worker(site_packages, "[start('as a daemon') for _ in range(20)]; os._exit(0)") as (process, _):
        family = [left(process) for _ in range(20)]
        assert process.exit_status() == 0
        for member in family:
            gone(member)


@pytest.mark.parametrize("work", [UNTIL_THE_END, HELD], ids=["waiting", "interpreter held"])
def test_asked_with_sigterm_it_ends_the_worker(site_packages: Path, work: str) -> None:
    with worker(site_packages, work) as (process, below):
        os.kill(process.pid, signal.SIGTERM)
        assert process.exit_status() == -9
        gone(below)


def test_a_worker_whose_wire_ends_leaves_by_itself(site_packages: Path) -> None:
    with worker(site_packages, f"{UNTIL_THE_END}\nos._exit(5)") as (process, _):
        process.close_stdin()
        assert process.exit_status() == 5


def test_one_that_does_not_is_ended(site_packages: Path) -> None:
    with worker(site_packages, HELD) as (process, _):
        process.close_stdin()
        assert process.exit_status() == -9


PARENT = """
import subprocess, sys
worker = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
worker.stdin.write(b"go")
worker.stdin.flush()
worker.wait()
"""


@pytest.mark.parametrize("work", [UNTIL_THE_END, HELD], ids=["waiting", "interpreter held"])
@pytest.mark.parametrize(
    "how", [None, pytest.param("in its group", marks=LINUX), pytest.param("as a daemon", marks=LINUX)]
)
def test_nothing_outlives_a_supervisor_that_is_killed(
    site_packages: Path, how: str | None, work: str
) -> None:
    starting = "" if how is None else f"start({how!r})\n"
    source = WORKER.format(checkout=str(CHECKOUT), site=str(site_packages), work=starting + work)
    command = [sys.executable, "-c", PARENT, sys.executable, *FLAGS, "-c", source]
    with WorkerProcess(site_packages, command=command) as supervisor:
        below = psutil.Process(supervisor.until(wire.Alive).request)
        family: list[psutil.Process | None] = [below, psutil.Process(below.ppid())]
        if how is not None:
            family.append(left(supervisor))
        supervisor.process.kill()
        for process in family:
            gone(process)


def test_a_sigint_for_the_supervisor_s_group_ends_no_worker(site_packages: Path) -> None:
    with worker(site_packages, f"{UNTIL_THE_END}\nos._exit(5)") as (process, below):
        os.kill(process.pid, signal.SIGINT)
        os.kill(below.pid, signal.SIGINT)
        process.close_stdin()
        assert process.exit_status() == 5


@LINUX
def test_the_system_s_choice_when_memory_runs_out_is_the_worker(site_packages: Path) -> None:
    with worker(site_packages, UNTIL_THE_END) as (process, below):
        scores = [
            int(Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="ascii"))
            for pid in (below.pid, process.pid)
        ]
    assert scores[0] >= 500 > scores[1]

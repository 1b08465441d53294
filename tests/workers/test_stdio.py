"""The claim of stdin and stdout, with real processes: no noise on the wire, nothing eaten from it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.worker_process import CHECKOUT, FLAGS, WAIT_S, WorkerProcess, make_site_packages, pythons
from workers import stdio, wire

PYTHONS = [pytest.param(python, id=f"python {index}") for index, python in enumerate(pythons())]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux")

# What a worker does, with noise in the middle: a frame, the noise, a frame, and an answer to what came.
CHILD = """
import os, sys
parent = os.getppid()
sys.path.append({checkout!r})
from workers import stdio
read_fd, write_fd = stdio.claim()
stdio.guard(stdio.under_nanny(parent, read_fd, write_fd))
sys.path.append({site!r})
from workers import wire
writer = stdio.FrameWriter(write_fd)
writer.write(wire.encode(wire.Alive(1)))
{noise}
writer.write(wire.encode(wire.Alive(2)))
decoder = wire.Decoder(wire.DOWN)
for frame in decoder.feed(stdio.read(read_fd)):
    writer.write(wire.encode(wire.Pong(frame.serial, "thread")))
"""

NOISES = {
    "print": "print('NOISE')",
    "stdout.write": "sys.stdout.write('NOISE\\n')",
    "the first stdout": "sys.__stdout__.write('NOISE'); sys.__stdout__.flush()",
    "fd 1": "os.write(1, b'NOISE')",
    "fd 1 after stdout was closed": "sys.stdout.close(); os.write(1, b'NOISE')",
    "an unpaired surrogate": "print('NOISE \\ud800')",
    "a child": "import subprocess; subprocess.run([sys.executable, '-c', 'print(\"NOISE\")'], check=True)",
    "a shell": "os.system('echo NOISE')",
    "a warning": "import warnings; warnings.warn('NOISE')",
    "a log line": "import logging; logging.warning('NOISE')",
}
POSIX_NOISES = {
    "puts": "import ctypes; c = ctypes.CDLL(None); c.puts(b'NOISE'); c.fflush(None)",
    "a child that reads": "import subprocess; subprocess.run(['cat'], check=True); print('NOISE')",
    "a forked child": "pid = os.fork() or (os.write(1, b'NOISE'), os._exit(0)); os.waitpid(pid, 0)",
}


@pytest.fixture(scope="module")
def site_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site_packages(tmp_path_factory.mktemp("site"))


def child(site_packages: Path, noise: str, python: str = sys.executable) -> WorkerProcess:
    source = CHILD.format(checkout=str(CHECKOUT), site=str(site_packages), noise=noise)
    return WorkerProcess(site_packages, command=[python, *FLAGS, "-c", source])


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(
    "noise",
    [
        *(pytest.param(code, id=name) for name, code in NOISES.items()),
        *(pytest.param(code, id=name, marks=POSIX) for name, code in POSIX_NOISES.items()),
    ],
)
def test_noise_goes_to_stderr_and_never_to_the_wire(site_packages: Path, noise: str, python: str) -> None:
    with child(site_packages, noise, python) as worker:
        worker.send(wire.Ping(7))  # lies in the pipe while the noise is made
        assert [worker.receive() for _ in range(3)] == [
            wire.Alive(1),
            wire.Alive(2),
            wire.Pong(7, "thread"),
        ]
        assert worker.exit_status() == 0
        with pytest.raises(EOFError):
            worker.receive()
        assert "NOISE" in worker.stderr()


def make_noisy_venv(folder: Path, python: str) -> tuple[Path, Path]:
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=WAIT_S * 4)
    (site,) = [*folder.glob("lib/python3*/site-packages"), *folder.glob("Lib/site-packages")]
    make_site_packages(site)
    (site / "noise.pth").write_text("import os; os.write(1, b'NOISE of a .pth')\n", encoding="utf-8")
    (site / "sitecustomize.py").write_text("import os; os.write(1, b'NOISE of site')\n", encoding="utf-8")
    (executable,) = [*folder.glob("bin/python"), *folder.glob("Scripts/python.exe")]
    return executable, site


@pytest.mark.parametrize("python", PYTHONS)
def test_what_site_would_run_never_reaches_the_wire(tmp_path: Path, python: str) -> None:
    executable, site = make_noisy_venv(tmp_path / "venv", python)
    control = subprocess.run([executable, "-I", "-c", ""], capture_output=True, check=True, timeout=WAIT_S)
    assert b"NOISE" in control.stdout  # without -S it would
    with WorkerProcess(site, python=executable) as worker:
        worker.boot()
        assert worker.bind().code == 0
        worker.generate(5, "tell me a joke")
        assert worker.reply(5)[1].code == 0
        worker.send(wire.Shutdown())
        assert worker.exit_status() == 0
        assert "NOISE" not in worker.stderr()


@POSIX
def test_the_descriptors_of_the_wire_are_not_inherited(site_packages: Path) -> None:
    report = "import os; print('OPEN', sorted(set(range(100)) & set(map(int, os.listdir('/dev/fd')))))"
    noise = (
        f"import subprocess; subprocess.run([sys.executable, '-c', {report!r}], check=True, close_fds=False)"
    )
    with child(site_packages, noise) as worker:
        worker.send(wire.Ping(7))
        assert worker.exit_status() == 0
        assert "OPEN [0, 1, 2, 3]" in worker.stderr()  # 3 lists the folder


@LINUX
def test_a_worker_leaves_no_core_hides_its_memory_and_dies_with_its_parent(site_packages: Path) -> None:
    noise = """
import ctypes, resource, signal
prctl = ctypes.CDLL(None).prctl
death = ctypes.c_int()
prctl(2, ctypes.byref(death))
core = resource.getrlimit(resource.RLIMIT_CORE)
print("GUARD", core, prctl(3), death.value, signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
"""
    with child(site_packages, noise) as worker:
        worker.send(wire.Ping(7))
        assert worker.exit_status() == 0
        assert "GUARD (0, 0) 0 9 True" in worker.stderr()


@LINUX
def test_a_worker_whose_parent_died_before_the_guard_leaves_at_once(site_packages: Path) -> None:
    source = f"""
import sys
sys.path.append({str(CHECKOUT)!r})
from workers import stdio
stdio.claim()
stdio.guard(-1)
print("still here")
"""
    with WorkerProcess(site_packages, command=[sys.executable, *FLAGS, "-c", source]) as worker:
        assert worker.exit_status() == 0
        assert "still here" not in worker.stderr()


# ---- the writer, in this process


class Pipe:
    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()
        self.left: list[int] = []
        self.writer = stdio.FrameWriter(self.write_fd, leave=self.left.append)

    def close(self) -> bytes:
        """Everything that was written."""
        os.close(self.write_fd)
        with open(self.read_fd, "rb") as file:  # noqa: PTH123 a descriptor has no path
            return file.read()


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


def test_frames_of_many_threads_are_not_mixed(pipe: Pipe) -> None:
    frames = [wire.encode(wire.Chunk(number, str(number) * 5000)) for number in range(8)]

    def write(frame: bytes) -> None:
        for _ in range(20):
            pipe.writer.write(frame)

    threads = [threading.Thread(target=write, args=(frame,), daemon=True) for frame in frames]
    decoder = wire.Decoder(wire.UP)
    for thread in threads:
        thread.start()
    heard: list[wire.Chunk] = []
    while len(heard) < 20 * len(frames):
        heard += decoder.feed(stdio.read(pipe.read_fd))
    assert all(chunk.text == str(chunk.request) * 5000 for chunk in heard)
    assert pipe.close() == b""


def test_a_short_write_is_continued(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    pipe.writer.write(b"0123456789")
    monkeypatch.undo()
    assert pipe.close() == b"0123456789"


def test_a_broken_pipe_means_to_leave_quietly(pipe: Pipe) -> None:
    os.close(pipe.read_fd)
    pipe.writer.write(b"x")
    assert pipe.left == [0]
    os.close(pipe.write_fd)


async def test_what_one_turn_pushes_leaves_in_one_write(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(pipe.writer, "write", written.append)
    pipe.writer.attach(asyncio.get_running_loop())
    pipe.writer.push(b"a")
    pipe.writer.push(b"b")
    assert written == []
    await asyncio.sleep(0)
    assert written == [b"ab"]
    pipe.writer.push(b"c" * stdio.FLUSH_BYTES)
    assert written[1:] == [b"c" * stdio.FLUSH_BYTES]
    await asyncio.sleep(0)
    assert len(written) == 2
    pipe.close()


def test_read_exactly_takes_no_byte_too_many() -> None:
    pipe = Pipe()
    os.write(pipe.write_fd, b"abcdef")
    assert stdio.read_exactly(pipe.read_fd, 4) == b"abcd"
    os.close(pipe.write_fd)
    assert stdio.read_exactly(pipe.read_fd, 4) == b"ef"
    assert stdio.read(pipe.read_fd) == b""
    os.close(pipe.read_fd)


def test_a_pipe_that_is_gone_reads_as_its_end() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    os.close(write_fd)
    assert stdio.read(read_fd) == b""
    assert stdio.read_exactly(read_fd, 4) == b""

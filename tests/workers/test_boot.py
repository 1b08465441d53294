"""The boot of a worker, with real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.worker_process import (
    FLAGS,
    NONCE,
    WAIT_S,
    WorkerProcess,
    init_frame,
    make_checkout,
    make_site_packages,
    pythons,
)
from workers import wire
from workers.codes import Code

EXIT_FAILED = 72
EXIT_NO_WIRE = 73
CANARY = "sk-canary-0123456789"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux")

ADAPTER = """
from workers.adapter import Adapter, AdapterError, Finish, Loaded, Text
class A(Adapter):
    async def generate(self, request):
        {generate}
        yield Finish("stop")
ADAPTER = A
"""


@pytest.fixture(scope="module")
def site_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site_packages(tmp_path_factory.mktemp("site"))


def failure(worker: WorkerProcess) -> wire.Failed:
    """What a worker answers to its Init when it cannot serve; it has ended by then."""
    assert isinstance(worker.receive(), wire.Hello)
    worker.send(init_frame())
    failed = worker.receive()
    assert isinstance(failed, wire.Failed)
    assert worker.exit_status() == EXIT_FAILED
    return failed


@pytest.mark.parametrize("python", [pytest.param(item, id=f"python {n}") for n, item in enumerate(pythons())])
def test_the_demo_boots_and_speaks_with_nothing_but_msgpack(site_packages: Path, python: str) -> None:
    with WorkerProcess(site_packages, python=python) as worker:
        hello, ready = worker.boot()
        assert (hello.version, hello.nonce) == (wire.VERSION, NONCE)
        assert psutil.Process(hello.pid).ppid() == worker.pid  # a nanny; on Windows a venv's launcher
        assert hello.python.startswith("3.")
        assert ready.import_ms >= 0
        bound = worker.bind()
        assert wire.unpack_body(bound.body)["models"] == ["demo"]
        worker.generate(5, "Tell me a joke, please.")
        text, done = worker.reply(5)
        assert "buffering" in text
        assert done.code == Code.SUCCESS
        worker.send(wire.Shutdown())
        assert worker.exit_status() == 0
        assert worker.stderr() == ""


def test_frames_right_behind_init_are_not_lost(site_packages: Path) -> None:
    bind: dict[str, Any] = {"key": None, "base_url": None, "options": {}, "verify": True}
    body = wire.pack_body({**bind, "preload_model": None})
    with WorkerProcess(site_packages) as worker:
        worker.send(init_frame(), wire.Bind(1, body), wire.Ping(7))
        assert [type(worker.receive()) for _ in range(3)] == [wire.Hello, wire.Ready, wire.Pong]
        assert worker.until(wire.Bound).code == Code.SUCCESS


def test_another_version_of_the_wire_is_refused_with_both_numbers(site_packages: Path) -> None:
    with WorkerProcess(site_packages) as worker:
        worker.receive()
        worker.send(init_frame(version=99))
        failed = worker.receive()
        assert isinstance(failed, wire.Failed)
        assert "99" in failed.message
        assert f"version {wire.VERSION}" in failed.message
        assert worker.exit_status() == EXIT_FAILED


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(wire.encode(wire.Ping(1)), id="another frame"),
        pytest.param(b"\xff" * 8, id="noise"),
        pytest.param(wire.encode(wire.Init(wire.VERSION, "demo", b"[]")), id="settings that are none"),
        pytest.param(wire.encode(wire.Init(wire.VERSION, "demo", b"{}")), id="settings without fields"),
    ],
)
def test_what_is_no_init_is_refused(site_packages: Path, data: bytes) -> None:
    with WorkerProcess(site_packages) as worker:
        worker.receive()
        worker.send_bytes(data)
        assert isinstance(worker.receive(), wire.Failed)
        assert worker.exit_status() == EXIT_FAILED


def test_a_missing_package_is_named_with_what_to_do(site_packages: Path, tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path, needy="import a_package_that_is_missing\n")
    with WorkerProcess(site_packages, checkout=checkout, adapter="needy") as worker:
        failed = failure(worker)
        assert failed.code == Code.PROVISION_FAILED
        assert "a_package_that_is_missing" in failed.message
        assert "install.py --llm demo" in failed.message


@pytest.mark.parametrize(
    "adapter", ["../scripted", "scripted.x", "Scripted", "", "os", "a/b", "a\\b", "_x", "scripted\n", "é"]
)
def test_a_name_that_is_no_adapter_is_refused(site_packages: Path, adapter: str) -> None:
    with WorkerProcess(site_packages, adapter=adapter) as worker:
        failed = failure(worker)
        assert failed.code == Code.UNEXPECTED
        assert "venvs.toml" in failed.message


@pytest.mark.parametrize(
    "source", ["raise OSError('BROKEN')", "raise SystemExit('BROKEN')", "ADAPTER = int", "BROKEN = 1"]
)
def test_an_adapter_that_does_not_import_says_so_and_logs_why(
    site_packages: Path, tmp_path: Path, source: str
) -> None:
    checkout = make_checkout(tmp_path, broken=source)
    with WorkerProcess(site_packages, checkout=checkout, adapter="broken") as worker:
        failed = failure(worker)
        assert failed.code == Code.UNEXPECTED
        assert "BROKEN" not in failed.message
        assert "Traceback" in worker.stderr()


def test_without_msgpack_there_is_one_line_on_stderr(tmp_path: Path) -> None:
    with WorkerProcess(tmp_path) as worker:
        assert worker.exit_status() == EXIT_NO_WIRE
        assert "msgpack" in worker.stderr()
        assert "Traceback" not in worker.stderr()


def test_a_package_called_workers_in_site_packages_is_not_ours(tmp_path: Path) -> None:
    site = make_site_packages(tmp_path)
    (site / "workers").mkdir()
    (site / "workers" / "__init__.py").write_text("raise SystemExit(1)", encoding="utf-8")
    with WorkerProcess(site) as worker:
        worker.boot()


@pytest.mark.parametrize("booted", [False, True])
def test_the_end_of_stdin_ends_the_process(site_packages: Path, booted: bool) -> None:
    with WorkerProcess(site_packages) as worker:
        if booted:
            worker.boot()
            worker.bind(options={"replies": [{"hang": True}]})
            worker.generate(5)
        else:
            worker.receive()
        worker.close_stdin()
        assert worker.exit_status() == 0


def test_the_end_of_stdin_after_shutdown_does_not_cut_the_closing_short(
    site_packages: Path, tmp_path: Path
) -> None:
    close = """
    async def close(self):
        import asyncio, os
        for _ in range(1000):
            await asyncio.sleep(0)
        os.write(2, b"CLOSED")
ADAPTER = A
"""
    source = ADAPTER.format(generate="pass").replace("\nADAPTER = A\n", close)
    checkout = make_checkout(tmp_path, slow=source)
    with WorkerProcess(site_packages, checkout=checkout, adapter="slow") as worker:
        worker.boot()
        worker.bind()
        worker.send(wire.Shutdown())
        worker.close_stdin()
        assert worker.exit_status() == 0
        assert "CLOSED" in worker.stderr()


def test_shutdown_does_not_wait_for_a_thread_that_a_package_left(site_packages: Path, tmp_path: Path) -> None:
    thread = "import threading\nthreading.Thread(target=threading.Event().wait).start()\n"
    checkout = make_checkout(tmp_path, threaded=thread + ADAPTER.format(generate="pass"))
    with WorkerProcess(site_packages, checkout=checkout, adapter="threaded") as worker:
        worker.boot()
        worker.send(wire.Shutdown())
        assert worker.exit_status() == 0


def test_a_key_that_an_exception_quotes_is_in_no_output(site_packages: Path, tmp_path: Path) -> None:
    generate = "raise ValueError('header ' + self.binding.key)"
    checkout = make_checkout(tmp_path, leaky=ADAPTER.format(generate=generate))
    with WorkerProcess(site_packages, checkout=checkout, adapter="leaky") as worker:
        worker.boot()
        worker.bind(key=CANARY)
        worker.generate(5)
        _, done = worker.reply(5)
        assert done.code == Code.UNEXPECTED
        assert CANARY not in f"{done!r}"
        worker.send(wire.Shutdown())
        assert worker.exit_status() == 0
        assert "header ***" in worker.stderr()
        assert CANARY not in worker.stderr()


@LINUX
def test_a_key_is_in_no_argument_and_no_environment(site_packages: Path) -> None:
    with WorkerProcess(site_packages) as worker:
        worker.boot()
        worker.bind(key=CANARY)
        for name in ("cmdline", "environ"):
            try:
                seen = Path(f"/proc/{worker.pid}/{name}").read_bytes()
            except PermissionError:  # dumpable 0: not even ours to read
                continue
            assert CANARY.encode() not in seen


PARENT = """
import subprocess, sys
worker = subprocess.Popen(sys.argv[3:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
worker.stdin.write(bytes.fromhex(sys.argv[1]))
worker.stdin.flush()
while worker.stdout.read(1):
    pass
"""
STUCK = """
import ctypes, os
os.write(2, b"STUCK")
ctypes.PyDLL(None).sleep(60)  # holds the interpreter's lock
"""


@LINUX
@pytest.mark.parametrize("adapter", ["scripted", "stuck"])
def test_a_worker_dies_with_its_parent_even_with_a_stuck_interpreter(
    site_packages: Path, tmp_path: Path, adapter: str
) -> None:
    checkout = make_checkout(tmp_path, stuck=STUCK)
    boot = [sys.executable, *FLAGS, str(checkout / "workers" / "__main__.py"), adapter, str(site_packages)]
    frames = wire.encode(init_frame()).hex()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, frames, "--", *boot, NONCE], stderr=subprocess.PIPE, bufsize=0
    )
    assert parent.stderr is not None
    with parent, parent.stderr:
        if adapter == "stuck":
            assert parent.stderr.read(5) == b"STUCK"
        parent.kill()
        parent.wait(WAIT_S)
        # The worker holds the other end of this pipe: its end is the worker's end (the test's own
        # timeout is the bound).
        assert parent.stderr.read() == b""

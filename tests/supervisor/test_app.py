"""The whole module as its parent sees it: the ready line, what ends it, the exit codes.

Each test starts `python supervisor` as an application does; it stays in the running Python.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from supervisor.app import EXIT_INTERRUPTED, EXIT_PORT_TAKEN, EXIT_SETTINGS, main
from supervisor.spawn import STAY_VARIABLE
from supervisor.version import VERSION
from tests.supervisor.fakes import START_WAIT_S, soon
from tests.worker_process import CHECKOUT

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and pipes")


class Module:
    """A running module, and its parent's ends of the pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    async def ready(self) -> dict[str, Any]:
        """The ready line."""
        assert self.process.stdout is not None
        line = await soon(asyncio.to_thread(self.process.stdout.readline), START_WAIT_S)
        if not line:
            raise AssertionError((await self.output())[1])
        ready: dict[str, Any] = json.loads(line)
        return ready

    async def exit_status(self) -> int:
        """Waits for the end."""
        return await asyncio.to_thread(self.process.wait, START_WAIT_S)

    async def output(self) -> tuple[str, str]:
        """What is left of stdout and stderr, to their ends."""
        out, err = await asyncio.to_thread(self.process.communicate, None, START_WAIT_S)
        return out.decode(), err.decode()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Module]]:
    """Starts modules with a HOME of the test's own, and kills what is left of them."""
    processes: list[subprocess.Popen[bytes]] = []

    def started(*argv: str, environment: dict[str, str] | None = None, **pipes: Any) -> Module:
        variables = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TEMP") if name in os.environ}
        processes.append(
            subprocess.Popen(
                [sys.executable, str(CHECKOUT / "supervisor"), *argv],
                env={
                    **variables,
                    STAY_VARIABLE: "1",
                    "WAIFU_LLM_HOME": str(tmp_path / "home"),
                    **(environment or {}),
                },
                cwd=tmp_path,
                **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **pipes},
            )
        )
        return Module(processes[-1])

    yield started
    for process in processes:
        process.kill()
        process.wait(START_WAIT_S)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


Start = Callable[..., Module]


@contextlib.asynccontextmanager
async def client_of(ready: dict[str, Any], **kwargs: Any) -> AsyncIterator[ClientConnection]:
    """A client of a module that is ready."""
    async with connect(f"ws://127.0.0.1:{ready['port']}", proxy=None, close_timeout=1, **kwargs) as client:
        yield client


async def ask(client: ClientConnection, **message: Any) -> dict[str, Any]:
    """The next message after that request."""
    await client.send(json.dumps(message))
    answer: dict[str, Any] = json.loads(await soon(client.recv()))
    return answer


# ---- the ready line


async def test_the_ready_line_is_alone_on_stdout_and_true(start: Start, tmp_path: Path) -> None:
    module = start("0")
    ready = await module.ready()
    assert ready["event"] == "ready"
    assert (ready["host"], ready["pid"], ready["version"]) == ("127.0.0.1", module.process.pid, VERSION)
    assert Path(ready["log"]).is_relative_to((tmp_path / "home").resolve())
    async with client_of(ready) as client:
        status = await ask(client, type="status")
        assert (status["type"], status["version"], status["workers"]) == ("status_done", VERSION, [])
        await ask(client, type="close")
    assert await module.exit_status() == 0
    out, err = await module.output()
    assert out == ""
    assert "module ready" in err
    log = await asyncio.to_thread(Path(ready["log"]).read_text, encoding="utf-8")
    assert "module closed" in log


async def test_close_is_acknowledged_before_the_end(start: Start) -> None:
    module = start("0")
    async with client_of(await module.ready()) as client:
        assert (await ask(client, type="close"))["type"] == "close_ack"
    assert await module.exit_status() == 0


# ---- what ends it


ENDINGS = {"SIGINT": (signal.SIGINT, 130), "SIGTERM": (signal.SIGTERM, 0)}


@posix_only
@pytest.mark.parametrize(("number", "status"), ENDINGS.values(), ids=ENDINGS.keys())
async def test_a_signal_ends_it_as_close_does(start: Start, number: signal.Signals, status: int) -> None:
    module = start("0")
    async with client_of(await module.ready()) as client:
        module.process.send_signal(number)
        await soon(client.wait_closed())
        assert client.close_code == 1001
    assert await module.exit_status() == status
    assert "Traceback" not in (await module.output())[1]


@posix_only
@pytest.mark.parametrize("level", ["INFO", "ERROR"])
async def test_an_interrupt_says_why_whatever_the_log_s_level(start: Start, level: str) -> None:
    module = start("0", "--log-level", level)
    await module.ready()
    module.process.send_signal(signal.SIGINT)
    assert await module.exit_status() == EXIT_INTERRUPTED
    said = (await module.output())[1]
    assert ("module interrupted" in said) == (level == "ERROR")
    assert said


async def test_the_end_of_stdin_ends_it_where_that_was_asked_for(start: Start) -> None:
    module = start("0", "--exit-on-stdin-eof")
    await module.ready()
    assert module.process.stdin is not None
    module.process.stdin.write(b"what stdin says is nobody's business\n")
    module.process.stdin.close()
    module.process.stdin = None
    assert await module.exit_status() == 0


async def test_the_end_of_stdin_is_nothing_where_nobody_asked(start: Start) -> None:
    module = start("0", stdin=subprocess.DEVNULL)
    async with client_of(await module.ready()) as client:
        assert (await ask(client, type="status"))["type"] == "status_done"
        await ask(client, type="close")
    assert await module.exit_status() == 0


async def test_the_death_of_the_named_parent_ends_it(start: Start) -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=subprocess.PIPE)
    try:
        module = start("0", "--parent-pid", str(parent.pid))
        await module.ready()
        assert module.process.poll() is None
    finally:
        await soon(parent.communicate(b"\n"), START_WAIT_S)
    assert await module.exit_status() == 0


async def test_a_parent_that_is_not_there_ends_it_at_once(start: Start) -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    await soon(parent.wait(), START_WAIT_S)
    module = start("0", "--parent-pid", str(parent.pid))
    assert await module.exit_status() == 0


# ---- what does not


async def test_a_parent_that_closed_stdout_does_not_hurt(start: Start) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    module = start(str(port))
    assert module.process.stdout is not None
    module.process.stdout.close()
    module.process.stdout = None
    async with _patiently(port) as client:
        await ask(client, type="close")
    assert await module.exit_status() == 0


@contextlib.asynccontextmanager
async def _patiently(port: int) -> AsyncIterator[ClientConnection]:
    """A client of a module that cannot say when it is ready."""
    until = time.monotonic() + START_WAIT_S
    while True:
        try:
            client = await connect(f"ws://127.0.0.1:{port}", proxy=None, close_timeout=1)
            break
        except OSError:
            assert time.monotonic() < until, "it does not listen"
            await asyncio.sleep(0.05)
    async with client:
        yield client


REFUSALS_THAT_FILL_A_PIPE = 600
"""Each is a log line of over 200 characters; a pipe holds 64 KiB."""


@posix_only
async def test_a_stderr_that_nobody_reads_neither_stops_it_nor_its_end(start: Start) -> None:
    module = start("0")
    ready = await module.ready()
    async with client_of(ready) as client:
        for _ in range(REFUSALS_THAT_FILL_A_PIPE):
            with pytest.raises(InvalidStatus):
                async with client_of(ready, origin="https://" + "e" * 200):
                    pass
        assert (await ask(client, type="status"))["type"] == "status_done"
        assert (await ask(client, type="close"))["type"] == "close_ack"
    assert await module.exit_status() == 0


@posix_only
async def test_a_stderr_that_is_closed_does_not_hurt(start: Start) -> None:
    module = start("0")
    ready = await module.ready()
    assert module.process.stderr is not None
    module.process.stderr.close()
    module.process.stderr = None
    async with client_of(ready) as client:
        assert (await ask(client, type="status"))["type"] == "status_done"
        await ask(client, type="close")
    assert await module.exit_status() == 0


# ---- bad starts


BAD_STARTS = {
    "a port too high": (["65536"], "the port must be from 0 to 65535"),
    "a port that is no number": (["http"], "http"),
    "an unknown flag": (["--colour"], "--colour"),
    "an unknown setting": (["0", "--set", "worker.legs=2"], "worker.legs"),
    "a host without a token": (["0", "--host", "203.0.113.1"], "WAIFU_LLM_TOKEN"),
    "a bad level": (["0", "--log-level", "loud"], "log_level"),
}


@pytest.mark.parametrize(("argv", "words"), BAD_STARTS.values(), ids=BAD_STARTS.keys())
async def test_bad_arguments_end_with_2_and_a_sentence(start: Start, argv: list[str], words: str) -> None:
    module = start(*argv)
    out, err = await module.output()
    assert (module.process.returncode, out) == (EXIT_SETTINGS, "")
    assert words in err
    assert "Traceback" not in err


async def test_a_broken_catalogue_of_the_operator_ends_with_2(start: Start, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "venvs.local.toml").write_text("[provider.x]\nname = 3\n", encoding="utf-8")
    module = start("0")
    out, err = await module.output()
    assert (module.process.returncode, out) == (EXIT_SETTINGS, "")
    assert err.startswith("supervisor: [provider.x]")
    assert len(err.splitlines()) == 1


async def test_a_port_that_is_taken_ends_with_3_and_one_sentence(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        module = start(str(port))
        out, err = await module.output()
    assert (module.process.returncode, out) == (EXIT_PORT_TAKEN, "")
    (sentence,) = err.splitlines()
    assert f"port {port} is taken" in sentence


async def test_an_address_that_is_not_ours_ends_with_3(start: Start) -> None:
    module = start("0", "--host", "203.0.113.1", environment={"WAIFU_LLM_TOKEN": "t0ken-of-the-test"})
    out, err = await module.output()
    assert (module.process.returncode, out) == (EXIT_PORT_TAKEN, "")
    assert "203.0.113.1" in err
    assert "t0ken" not in err


def test_bad_settings_are_answered_before_anything_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["70000", "--home", str(tmp_path / "h")]) == EXIT_SETTINGS
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "supervisor: the port must be from 0 to 65535, not 70000\n"


def test_the_exit_codes_are_those_of_the_protocol() -> None:
    assert (EXIT_SETTINGS, EXIT_PORT_TAKEN, EXIT_INTERRUPTED) == (2, 3, 130)

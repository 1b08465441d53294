"""What protocol section 5 promises to an application that spawns the module, tried from one in Node and from
one in Python: installed by install.py below paths with spaces and letters of two scripts, and offline."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from supervisor.launcher import LAUNCHER_NAME
from tests.e2e.module import Installation
from tests.e2e.spawned import LANGUAGES, Application, gone, talk_to
from tests.wheelhouse import BASE_PYTHON, PATIENCE_S, Site, wait_until

pytestmark = pytest.mark.install

NOT_ON_WINDOWS: Final = "Windows has no signal that a process can receive alone, and no sh"
posix = pytest.mark.skipif(sys.platform == "win32", reason=NOT_ON_WINDOWS)
in_both_languages = pytest.mark.parametrize("language", LANGUAGES)

STARTS: Final = 50
"""How often a client connects the moment that the ready line is there."""

FLOOD_BYTES: Final = 10_000_000
ORIGIN_BYTES: Final = 3_900
"""Of the longest Origin that a refusal logs whole: logs.py cuts a line at 4,000 characters."""

HANGS: Final = {"text": "Once upon a", "hang": True}
PYTHONS: Final = ("3.10", "3.11", "3.12", "3.13", "3.14")

NOTHING: Final = {key: os.environ[key] for key in ("SYSTEMROOT", "COMSPEC") if key in os.environ}
"""An emptied environment; without these two no program starts on Windows."""


@dataclass(frozen=True, slots=True)
class Installed:
    """What install.py made, as an application finds it."""

    checkout: Path
    home: Path

    @property
    def argv(self) -> list[str]:
        """What spawn.json says."""
        said = json.loads((self.home / "spawn.json").read_text(encoding="utf-8"))
        return [str(word) for word in said["argv"]]

    @property
    def launcher(self) -> list[str]:
        """The launcher of fixed name."""
        if sys.platform == "win32":
            return [os.environ["COMSPEC"], "/c", str(self.home / "bin" / f"{LAUNCHER_NAME}.cmd")]
        return [str(self.home / "bin" / LAUNCHER_NAME)]

    def by_path(self, python: str) -> list[str]:
        """`python CHECKOUT/supervisor`, with that Python."""
        return [python, str(self.checkout / "supervisor"), "--home", str(self.home)]


@pytest.fixture(scope="session")
def installed(unprovisioned: Installation, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The demo, installed as a person would."""
    home = tmp_path_factory.mktemp("application") / "hôme of é漢"
    place = Site(home.parent, unprovisioned.checkout, unprovisioned.wheels)
    done = place.run("--llm", "demo", home=home)
    assert done.returncode == 0, done.stderr
    return Installed(unprovisioned.checkout, home.resolve())


def run(argv: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """A program that ends by itself, in an emptied environment."""
    return subprocess.run(
        argv,
        cwd=cwd,
        env=NOTHING,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE_S,
        check=False,
    )


def in_shell(script: str, *argv: str) -> list[str]:
    """A shell that does `script` with `argv` as its words."""
    return [str(shutil.which("sh")), "-c", script, "sh", *argv]


# ---------------------------------------------------------------- from anywhere, with nothing


@in_both_languages
@pytest.mark.parametrize("by", ["argv", "launcher"])
def test_with_nothing_but_its_argv_it_serves_and_close_ends_it_with_0(
    installed: Installed, tmp_path: Path, language: str, by: str
) -> None:
    """No variables, another working directory, and a stdin that nobody writes to."""
    argv = [*getattr(installed, by), "0"]
    with Application(language, argv, cwd=tmp_path, env=NOTHING) as application:
        ready = application.ready()
        assert (ready["host"], Path(ready["log"]).parent) == ("127.0.0.1", installed.home / "logs")
        with talk_to(ready["port"]) as talk:
            talk.load()
            assert "Ask me" in talk.say()
            application.family()
            talk.send(type="close", unique_request_id="c")
            talk.next("close_ack")
        ended = application.ended()
    assert (ended.code, ended.signal) == (0, None)
    assert "Traceback" not in ended.stderr


@in_both_languages
def test_it_listens_on_the_port_that_was_asked_for(
    installed: Installed, tmp_path: Path, language: str
) -> None:
    port = free_port()
    with Application(language, [*installed.argv, str(port)], cwd=tmp_path, env=NOTHING) as application:
        assert application.ready()["port"] == port
        with talk_to(port) as talk:
            talk.load()


def free_port() -> int:
    """One that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@posix
@in_both_languages
def test_a_working_directory_that_is_deleted_is_not_missed(
    installed: Installed, tmp_path: Path, language: str
) -> None:
    folder = tmp_path / "soon gone"
    folder.mkdir()
    with Application(language, [*installed.argv, "0"], cwd=folder, env=NOTHING) as application:
        port = application.ready()["port"]
        folder.rmdir()
        with talk_to(port) as talk:
            talk.load()
            assert "Ask me" in talk.say()
        application.order("SIGTERM")
        assert application.ended().code == 0


@posix
@pytest.mark.parametrize("by", ["argv", "launcher", "python"])
def test_a_working_directory_that_is_gone_before_the_start_is_not_missed(
    installed: Installed, tmp_path: Path, by: str
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    argv = installed.by_path(BASE_PYTHON) if by == "python" else getattr(installed, by)
    script = in_shell('rmdir "$PWD" && exec "$@"', *argv, "0")
    with Application("python", script, cwd=folder, env=os.environ) as application:
        with talk_to(application.ready()["port"]) as talk:
            talk.load()
        application.order("SIGTERM")
        assert application.ended().code == 0


@posix
def test_a_home_that_is_relative_to_a_directory_that_is_gone_is_2_and_one_sentence(
    installed: Installed, tmp_path: Path
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    argv = installed.argv[: installed.argv.index("--home")]
    done = run(in_shell('rmdir "$PWD" && exec "$@" 0 --home here 2>&1', *argv), folder)
    assert done.returncode == 2, done.stdout
    check_one_sentence(done.stdout)


@pytest.mark.parametrize("version", PYTHONS)
def test_any_python_of_the_machine_starts_it_by_path(
    installed: Installed, tmp_path: Path, version: str
) -> None:
    python = python_of(version)
    if python is None:
        pytest.skip(f"this machine has no Python {version}")
    argv = [*installed.by_path(python), "0", "--exit-on-stdin-eof"]
    with Application("python", argv, cwd=tmp_path, env=NOTHING) as application:
        with talk_to(application.ready()["port"]) as talk:
            talk.load()
        application.order("end stdin")
        assert application.ended().code == 0


def python_of(version: str) -> str | None:
    """A Python of that version which starts: a shim without one behind it does not."""
    beside = [str(path) for path in Path(sys.base_prefix).parent.glob(f"{version}*/bin/python")]
    beside += [str(path) for path in Path(BASE_PYTHON).parents[2].glob(f"{version}*/bin/python")]
    for candidate in [*beside, shutil.which(f"python{version}")]:
        if (
            candidate
            and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0
        ):
            return candidate
    return None


def test_whoever_connects_when_the_ready_line_is_there_is_let_in(
    installed: Installed, tmp_path: Path
) -> None:
    for number in range(STARTS):
        argv = [*installed.argv, "0", "--exit-on-stdin-eof"]
        process = subprocess.Popen(
            argv,
            cwd=tmp_path,
            env=NOTHING,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        try:
            assert process.stdout is not None
            port = json.loads(process.stdout.readline())["port"]
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()
            process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
        assert process.returncode == 0, f"start {number}"


# ---------------------------------------------------------------- pipes


@in_both_languages
def test_a_stream_goes_on_while_ten_megabytes_of_log_find_no_reader(
    installed: Installed, tmp_path: Path, language: str
) -> None:
    argv = [*installed.argv, "0"]
    with Application(language, argv, cwd=tmp_path, env=NOTHING, reads="the ready line") as application:
        port = application.ready()["port"]
        with talk_to(port) as talk:
            talk.load({"chunks": ["word "], "repeat": 100_000, "delay_ms": 1})
            talk.stream()
            for _ in range(FLOOD_BYTES // ORIGIN_BYTES + 1):
                be_refused(port)
            talk.next("generate_stream_chunk")
            application.family()
            talk.send(type="close", unique_request_id="c")
            assert talk.next("generate_stream_done")["error"] == "INTERRUPT"
        assert application.ended().code == 0


def be_refused(port: int) -> None:
    """Makes the module log a line of four kilobytes."""
    origin = f"http://{'x' * ORIGIN_BYTES}"
    request = (
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: {origin}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as sock:
        sock.sendall(request.encode())
        assert b"403" in sock.recv(64)


@in_both_languages
def test_it_serves_when_nothing_of_it_is_ever_read(
    installed: Installed, tmp_path: Path, language: str
) -> None:
    port = free_port()
    argv = [*installed.argv, str(port)]
    with Application(language, argv, cwd=tmp_path, env=NOTHING, reads="nothing") as application:
        wait_until(lambda: listens(port), "listening")
        with talk_to(port) as talk:
            talk.load()
            application.family()
            talk.send(type="close", unique_request_id="c")
        assert application.ended().code == 0


def listens(port: int) -> bool:
    """Whether somebody does."""
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()
        return True
    return False


@in_both_languages
def test_a_stdout_that_is_closed_after_the_ready_line_is_not_missed(
    installed: Installed, tmp_path: Path, language: str
) -> None:
    argv = [*installed.argv, "0"]
    with Application(language, argv, cwd=tmp_path, env=NOTHING, reads="the ready line") as application:
        port = application.ready()["port"]
        application.order("close stdout")
        with talk_to(port) as talk:
            talk.load()
            application.family()
            talk.send(type="close", unique_request_id="c")
        assert application.ended().code == 0


@posix
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_standard_stream_that_was_never_there_is_not_missed(
    installed: Installed, tmp_path: Path, closed: str
) -> None:
    """As of a daemon. Its number goes to the next file that is opened, which must not be taken for it."""
    port = free_port()
    argv = in_shell(f'exec "$@" {closed}', *installed.argv, str(port))
    with Application("python", argv, cwd=tmp_path, env=os.environ, reads="nothing") as application:
        wait_until(lambda: listens(port), "listening")
        with talk_to(port) as talk:
            talk.load()
            assert "Ask me" in talk.say()
        application.family()
        application.order("SIGTERM")
        assert application.ended().code == 0


@in_both_languages
@pytest.mark.parametrize("stdin", ["pipe", "ignore"])
def test_a_silent_or_empty_stdin_ends_nothing_unless_that_is_asked_for(
    installed: Installed, tmp_path: Path, language: str, stdin: str
) -> None:
    argv = [*installed.argv, "0"]
    with Application(language, argv, cwd=tmp_path, env=NOTHING, stdin=stdin) as application:
        port = application.ready()["port"]
        with talk_to(port) as talk:
            talk.load()
            assert "Ask me" in talk.say()
            application.family()
            talk.send(type="close", unique_request_id="c")
        assert application.ended().code == 0


@in_both_languages
def test_the_end_of_stdin_ends_it_where_that_is_asked_for(
    installed: Installed, tmp_path: Path, language: str
) -> None:
    argv = [*installed.argv, "0", "--exit-on-stdin-eof"]
    with Application(language, argv, cwd=tmp_path, env=NOTHING) as application:
        with talk_to(application.ready()["port"]) as talk:
            talk.load(HANGS)
            talk.stream()
            application.family()
            application.order("end stdin")
            assert talk.next("generate_stream_done")["error"] == "INTERRUPT"
        assert application.ended().code == 0


# ---------------------------------------------------------------- signals

SIGNALS: Final = {"SIGINT": 130, "SIGTERM": 0, "SIGHUP": 0}


@posix
@in_both_languages
@pytest.mark.parametrize("by", ["argv", "launcher"])
@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_ends_its_streams_with_interrupt_and_it_as_close_does(
    installed: Installed, tmp_path: Path, language: str, by: str, name: str
) -> None:
    argv = [*getattr(installed, by), "0"]
    with Application(language, argv, cwd=tmp_path, env=NOTHING) as application:
        with talk_to(application.ready()["port"]) as talk:
            talk.load(HANGS)
            talk.stream()
            application.family()
            application.order(name)
            assert talk.next("generate_stream_done")["error"] == "INTERRUPT"
        ended = application.ended()
    assert (ended.code, ended.signal) == (SIGNALS[name], None)
    assert f"module ending reason={name}" in ended.stderr


@posix
def test_whoever_is_behind_a_shell_that_execed_gets_the_signal(installed: Installed, tmp_path: Path) -> None:
    argv = in_shell('exec "$@"', *installed.argv, "0")
    with Application("python", argv, cwd=tmp_path, env=NOTHING) as application:
        assert application.ready()["pid"] == application.module.pid
        application.order("SIGINT")
        assert application.ended().code == 130


@posix
@pytest.mark.parametrize("moment", ["supervisor.errors", "supervisor.home", "asyncio", "supervisor.server"])
def test_an_interrupt_in_the_middle_of_the_start_is_130_and_no_traceback(
    installed: Installed, tmp_path: Path, moment: str
) -> None:
    """The moment is that import, of which Python tells; before our first line it is Python's own affair."""
    python, *words = installed.argv
    process = subprocess.Popen(
        [python, "-X", "importtime", *words, "0"],
        cwd=tmp_path,
        env=NOTHING,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.rpartition("|")[2].strip() == moment:
                break
        process.send_signal(signal.SIGINT)
        said = [line for line in process.stderr if not line.startswith("import time:")]
        assert process.wait(PATIENCE_S) == 130, said
    assert not [line for line in said if "Traceback" in line or "KeyboardInterrupt" in line]


# ---------------------------------------------------------------- a parent that dies

CORDS: Final = {
    "its pid": ["--parent-pid", "{pid}"],
    "stdin": ["--exit-on-stdin-eof"],
    "both": ["--parent-pid", "{pid}", "--exit-on-stdin-eof"],
}
"""What ties the module to its parent."""


@in_both_languages
@pytest.mark.parametrize("cord", CORDS)
def test_no_process_outlives_an_application_that_is_killed(
    installed: Installed, tmp_path: Path, language: str, cord: str
) -> None:
    argv = [*installed.argv, "0", *CORDS[cord]]
    with Application(language, argv, cwd=tmp_path, env=NOTHING) as application:
        with talk_to(application.ready()["port"]) as talk:
            talk.load(HANGS)
            talk.stream()
            family = application.family()
            application.kill()
            assert talk.next("generate_stream_done")["error"] == "INTERRUPT"
        assert len(family) >= 2
        assert gone(family)


@in_both_languages
def test_a_parent_that_is_gone_before_the_start_ends_it_too(
    installed: Installed, tmp_path: Path, language: str
) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait(PATIENCE_S)
    argv = [*installed.argv, "0", "--parent-pid", str(dead.pid)]
    with Application(language, argv, cwd=tmp_path, env=NOTHING) as application:
        assert application.ready()["event"] == "ready"
        assert application.ended().code == 0


@in_both_languages
def test_what_was_detached_and_tied_to_nothing_outlives_its_application(
    installed: Installed, tmp_path: Path, language: str
) -> None:
    argv = [*installed.argv, "0"]
    with Application(language, argv, cwd=tmp_path, env=NOTHING, detached=True) as application:
        port = application.ready()["port"]
        application.kill()
        with talk_to(port) as talk:
            talk.load()
            assert "Ask me" in talk.say()
            family = application.family()
            talk.send(type="close", unique_request_id="c")
            talk.next("close_ack")
        assert gone(family)


@posix
@in_both_languages
def test_detached_and_tied_to_its_application_it_ends_with_it(
    installed: Installed, tmp_path: Path, language: str
) -> None:
    argv = [*installed.argv, "0", *CORDS["both"]]
    with Application(language, argv, cwd=tmp_path, env=NOTHING, detached=True) as application:
        application.ready()
        if sys.platform != "win32":
            assert os.getsid(application.module.pid) == application.module.pid
        application.kill()
        assert gone([application.module])


# ---------------------------------------------------------------- what cannot start


@in_both_languages
def test_a_second_one_on_the_same_port_says_so_with_3_and_leaves_the_first_alone(
    installed: Installed, tmp_path: Path, language: str
) -> None:
    with Application(language, [*installed.argv, "0"], cwd=tmp_path, env=NOTHING) as first:
        port = first.ready()["port"]
        with talk_to(port) as talk:
            talk.load()
            with Application(language, [*installed.argv, str(port)], cwd=tmp_path, env=NOTHING) as second:
                ended = second.ended()
            assert "Ask me" in talk.say()
    assert (ended.code, ended.signal) == (3, None)
    assert ended.stderr == (
        f"supervisor: port {port} is taken, maybe by another copy of this module: choose another one\n"
    )


REFUSED: Final = {
    "a port that is none": ["70000"],
    "a word that is no port": ["here"],
    "a flag that is none": ["--prot", "7562"],
    "a flag without its value": ["--parent-pid"],
    "a setting that is none": ["0", "--set", "worker.request=1"],
    "a number that is none": ["0", "--set", "worker.requests=many"],
    "an address without a token": ["0", "--host", "0.0.0.0"],  # noqa: S104  # it is refused
}


@in_both_languages
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_2_and_one_sentence(
    installed: Installed, tmp_path: Path, language: str, case: str
) -> None:
    argv = [*installed.argv, *REFUSED[case]]
    with Application(language, argv, cwd=tmp_path, env=NOTHING) as application:
        ended = application.ended()
    assert (ended.code, ended.signal) == (2, None)
    check_one_sentence(ended.stderr)


def check_one_sentence(stderr: str) -> None:
    """One line of ours; argparse shows the usage above it."""
    sentences = [line for line in stderr.splitlines() if line.startswith("supervisor: ")]
    assert len(sentences) == 1, stderr
    assert stderr.endswith(sentences[0] + "\n")


@pytest.mark.parametrize("by", ["argv", "python"])
def test_a_home_that_cannot_be_made_is_2_and_names_the_way_out(
    installed: Installed, tmp_path: Path, by: str
) -> None:
    (tmp_path / "file").touch()
    argv = installed.by_path(BASE_PYTHON) if by == "python" else installed.argv
    wrong = [*argv[: argv.index("--home")], "--home", str(tmp_path / "file" / "home")]
    done = run([*wrong, "0"], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    check_one_sentence(done.stderr)
    assert "--home DIR" in done.stderr


def test_what_is_not_installed_is_2_and_the_command_that_installs_it(
    installed: Installed, tmp_path: Path
) -> None:
    home = tmp_path / "an empty hôme"
    done = run([BASE_PYTHON, str(installed.checkout / "supervisor"), "--home", str(home), "0"], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    check_one_sentence(done.stderr)
    assert f'"{installed.checkout / "install.py"}" --home "{home.resolve()}"' in done.stderr


@posix
def test_what_nobody_foresaw_is_1_and_one_sentence(installed: Installed, tmp_path: Path) -> None:
    """Here: a limit of so few files that there cannot be an event loop. The log's lines follow it."""
    done = run(in_shell('ulimit -n 5; exec "$@"', *installed.argv, "0"), tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    sentences = [line for line in done.stderr.splitlines() if line.startswith("supervisor: ")]
    assert sentences == ["supervisor: something went wrong: Too many open files"]

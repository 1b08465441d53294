"""The terminal chat with the real module: from a pipe, in a terminal with Ctrl-C, and failing."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import psutil
import pytest
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import ClientConnection

from supervisor.chat import HISTORY_MAX_CHARS, _Chat
from supervisor.home import find_home
from supervisor.provision import Recipe, provision
from supervisor.spawn import STAY_VARIABLE
from tests.wheelhouse import CHECKOUT, copy_checkout, wait_until

pytestmark = pytest.mark.install

PATIENCE_S: Final = 20.0
"""For a start of the chat, of its module and of a worker."""
SCRIPT: Final = [
    {"match": "story", "chunks": ["Once ", "upon ", "a ", "time "], "hang": True},
    {"match": "limit", "error": {"code": "RATE_LIMITED", "message": "Slow down."}},
    {"match": "escape", "chunks": ["red\x1b[2J", "\x07blue\n", "green\x9b1m"]},
    {"text": "You said: {message}"},
]
CONTROLLING_TERMINAL: Final = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
PRESSES: Final = 4
CTRL_C: Final = b"\x03"
CTRL_D: Final = b"\x04"


@dataclass(frozen=True)
class Place:
    """A checkout and a HOME in which the demo, with a script of ours, is ready to be loaded."""

    checkout: Path
    home: Path

    def argv(self, *flags: str) -> list[str]:
        """How the chat is started."""
        return [sys.executable, str(self.checkout / "supervisor"), "chat", "--home", str(self.home), *flags]

    @property
    def environment(self) -> dict[str, str]:
        """The tests' environment is the supervisor's."""
        return {**os.environ, STAY_VARIABLE: "1", "TERM": "dumb", "PYTHONUTF8": "1"}

    def run(self, text: str, *flags: str) -> subprocess.CompletedProcess[str]:
        """The chat, fed from a pipe, to its end."""
        return subprocess.run(
            self.argv(*flags),
            input=text,
            env=self.environment,
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE_S,
            check=False,
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Made once: nothing in here changes it."""
    root = tmp_path_factory.mktemp("chat of 漢字")
    wheels = root / "wheels"
    wheels.mkdir()
    checkout = copy_checkout(root / "the checkout", wheels)
    shutil.copy(CHECKOUT / "venvs.toml", checkout / "venvs.toml")
    home = find_home(str(root / "hôme"), {})
    provision(home, Recipe("base", checkout / "locks" / "base.txt", ("msgpack",)), wheelhouse=wheels)
    script = root / "script.json"
    script.write_text(json.dumps(SCRIPT), encoding="utf-8")
    table = f"[provider.demo.quirks]\nscript = {json.dumps(str(script), ensure_ascii=False)}\n"
    home.local_catalog.write_text(table, encoding="utf-8")
    return Place(checkout, home.root)


# ---------------------------------------------------------------- from a pipe


def test_from_a_pipe_each_line_is_answered_without_prompts(place: Place) -> None:
    done = place.run("one 漢字\n\n   \ntwo 🎉\n")
    assert (done.returncode, done.stdout) == (0, "You said: one 漢字\nYou said: two 🎉\n")


def test_from_a_pipe_the_progress_of_the_load_is_not_among_the_replies(place: Place) -> None:
    done = place.run("")
    assert (done.returncode, done.stdout) == (0, "")
    assert "demo: " in done.stderr


def test_a_failed_reply_is_told_and_the_conversation_goes_on(place: Place) -> None:
    done = place.run("the limit\nstill there?\n")
    assert (done.returncode, done.stdout) == (0, "\nYou said: still there?\n")
    assert "[Slow down.]" in done.stderr


def test_a_reply_cannot_send_control_characters_to_the_terminal(place: Place) -> None:
    assert place.run("escape\n").stdout == "red[2Jblue\ngreen1m\n"


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        pytest.param(["--provider", "groq"], 4, "GROQ_API_KEY", id="no key"),
        pytest.param(["--provider", "dmeo"], 4, "Did you mean demo", id="unknown provider"),
        pytest.param(["--model", "no-such-model"], 4, "no-such-model", id="unknown model"),
        pytest.param(["--prov", "demo"], 2, "unrecognized arguments", id="unknown flag"),
        pytest.param(["--url", "http://127.0.0.1:1"], 2, "is not a WebSocket URL", id="wrong kind of URL"),
        pytest.param(["--url", "ws://127.0.0.1:1"], 1, "cannot be reached", id="nobody listens"),
    ],
)
def test_what_cannot_begin_ends_with_its_code_and_one_sentence(
    place: Place, flags: list[str], code: int, said: str
) -> None:
    done = place.run("hello\n", *flags)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_module_that_does_not_start_lends_its_code_and_its_words(place: Place, tmp_path: Path) -> None:
    home = find_home(str(tmp_path / "home"), {})
    home.local_catalog.write_text("[provider.demo]\nkind = 'riddle'\n", encoding="utf-8")
    done = Place(place.checkout, home.root).run("hello\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert "kind 'riddle'" in done.stderr
    assert "the module did not start (status 2)" in done.stderr


def test_settings_that_cannot_be_read_end_it_before_anything_starts(place: Place, tmp_path: Path) -> None:
    home = find_home(str(tmp_path / "home"), {})
    home.settings.write_text("[server\n", encoding="utf-8")
    done = Place(place.checkout, home.root).run("hello\n")
    assert done.returncode == 2
    assert "settings.toml cannot be read" in done.stderr


def test_a_token_in_the_settings_is_used(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAIFU_LLM_TOKEN", "a canary token")
    assert place.run("hello\n").stdout == "You said: hello\n"


@contextlib.contextmanager
def piped(place: Place) -> Iterator[subprocess.Popen[str]]:
    """A chat at the other end of two pipes, which has answered once."""
    with subprocess.Popen(
        place.argv(),
        env=place.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as chat:
        try:
            assert chat.stdin is not None
            assert chat.stdout is not None
            chat.stdin.write("hello\n")
            chat.stdin.flush()
            assert chat.stdout.readline() == "You said: hello\n"
            yield chat
        finally:
            chat.kill()


def family(pid: int) -> list[psutil.Process]:
    """The module of a chat, first, and what that started."""
    return psutil.Process(pid).children(recursive=True)


def gone(processes: Sequence[psutil.Process]) -> bool:
    """Whether none of them lives. They are nobody's children any more, so a zombie may wait for init."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                return False
    return True


def test_a_module_that_dies_ends_the_chat_with_1(place: Place) -> None:
    with piped(place) as chat:
        module, *workers = family(chat.pid)
        module.kill()
        _, said = chat.communicate("are you there?\n", timeout=PATIENCE_S)
        wait_until(lambda: gone(workers), "the end of the workers")
    assert chat.returncode == 1
    assert "the module closed the connection" in said


def test_the_module_and_its_worker_do_not_outlive_a_chat_that_is_killed(place: Place) -> None:
    with piped(place) as chat:
        processes = family(chat.pid)
        assert len(processes) >= 2  # the module, its worker, and on POSIX the worker's nanny
        chat.kill()
        chat.wait(PATIENCE_S)
        wait_until(lambda: gone(processes), "the end of the module and its worker")


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to one process")
def test_an_interrupt_without_a_terminal_ends_it_with_130(place: Place) -> None:
    with piped(place) as chat:
        processes = family(chat.pid)
        chat.send_signal(signal.SIGINT)
        _, said = chat.communicate(timeout=PATIENCE_S)
        assert gone(processes)
    assert chat.returncode == 130
    assert said.endswith("chat: interrupted\n")


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe without a reader is another error there")
def test_a_reader_of_the_replies_that_leaves_ends_it_without_a_traceback(place: Place) -> None:
    with piped(place) as chat:
        processes = family(chat.pid)
        assert chat.stdin is not None
        assert chat.stdout is not None
        assert chat.stderr is not None
        chat.stdout.close()
        chat.stdin.write("still there?\n")
        chat.stdin.flush()
        assert chat.wait(PATIENCE_S) == 1
        assert "Traceback" not in chat.stderr.read()
        assert gone(processes)


def test_a_module_that_runs_already_is_talked_to_and_left_running(place: Place) -> None:
    argv = [sys.executable, str(place.checkout / "supervisor"), "0", "--home", str(place.home)]
    with subprocess.Popen(
        [*argv, "--exit-on-stdin-eof"],
        env=place.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as module:
        try:
            assert module.stdout is not None
            url = f"ws://127.0.0.1:{json.loads(module.stdout.readline())['port']}"
            assert place.run("one\n", "--url", url).stdout == "You said: one\n"
            assert place.run("two\n", "--url", url).stdout == "You said: two\n"
            assert module.poll() is None
            module.communicate(timeout=PATIENCE_S)
        finally:
            module.kill()
    assert module.returncode == 0


# ---------------------------------------------------------------- in a terminal


@dataclass
class Terminal:
    """A chat in a pseudo terminal that is its controlling one, so that Ctrl-C is a signal to its group."""

    process: subprocess.Popen[bytes]
    descriptor: int
    seen: str = ""
    _raw: bytes = field(default=b"", repr=False)

    def press(self, keys: bytes) -> None:
        """Types."""
        os.write(self.descriptor, keys)

    def leave(self) -> int:
        """Presses Ctrl-C until the chat is gone; returns its exit code.

        Python loses a signal that comes between a prompt and its read, about one in a thousand.
        """
        for _ in range(PRESSES):
            self.press(CTRL_C)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(PATIENCE_S / PRESSES)
        raise AssertionError(f"the chat does not leave: {self.seen!r}")

    def until(self, text: str) -> str:
        """Waits for a text on the screen; returns all up to it and forgets that."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.seen:
            ready, _, _ = select.select([self.descriptor], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{text!r} did not appear, but {self.seen!r}"
            try:
                self._raw += os.read(self.descriptor, 4096)
            except OSError:  # Linux says EIO when the other side is gone
                raise AssertionError(f"the chat left before {text!r}: {self.seen!r}") from None
            self.seen = self._raw.decode("utf-8", "replace").replace("\r\n", "\n")
        before, _, self.seen = self.seen.partition(text)
        self._raw = self.seen.encode()
        return before + text


@pytest.fixture
def terminal(place: Place) -> Iterator[Terminal]:
    """A chat that shows its first prompt."""
    pty: Any = pytest.importorskip("pty", reason="this system has no pseudo terminals")
    ours, its = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", CONTROLLING_TERMINAL, *place.argv()[1:]],
        env=place.environment,
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
    ) as process:
        os.close(its)
        try:
            screen = Terminal(process, ours)
            screen.until("you> ")
            yield screen
        finally:
            process.kill()
            os.close(ours)


def test_ctrl_c_interrupts_a_reply_and_at_the_prompt_it_leaves(terminal: Terminal) -> None:
    processes = family(terminal.process.pid)
    terminal.press(b"tell me a story\n")
    terminal.until("demo> Once upon a time ")  # and it has no end, so these words were streamed
    terminal.press(CTRL_C)
    terminal.until(" [interrupted]\nyou> ")
    terminal.press(b"go on\n")
    terminal.until("demo> You said: go on\nyou> ")
    assert terminal.leave() == 0
    assert len(processes) >= 2
    assert gone(processes)


def test_the_end_of_the_input_leaves(terminal: Terminal) -> None:
    processes = family(terminal.process.pid)
    terminal.press(CTRL_D)
    assert terminal.process.wait(PATIENCE_S) == 0
    assert gone(processes)


def test_a_failed_reply_is_shown_and_the_prompt_comes_back(terminal: Terminal) -> None:
    terminal.press(b"the limit\n")
    assert "[Slow down.]" in terminal.until("you> ")


# ---------------------------------------------------------------- what it says to the module


class Scripted:
    """A connection whose other side says what was written down for it."""

    def __init__(self, *replies: dict[str, Any]) -> None:
        self.sent: list[dict[str, Any]] = []
        self._replies = list(replies)

    def send(self, text: str) -> None:
        """Keeps what was said."""
        self.sent.append(json.loads(text))

    def recv(self, timeout: float) -> str:
        """The next reply, or the end."""
        if not self._replies:
            raise ConnectionClosedOK(None, None)
        return json.dumps(self._replies.pop(0))


def chat_on(connection: Scripted, model: str | None = None) -> _Chat:
    """A chat over it."""
    return _Chat(cast(ClientConnection, connection), "demo", model)


def chunk(text: str) -> dict[str, Any]:
    """A piece of a reply."""
    return {"type": "generate_stream_chunk", "chunk": text}


DONE: Final = {"type": "generate_stream_done", "is_error": False}
FAILED: Final = {"type": "generate_stream_done", "is_error": True, "error_code": 12, "message": "Slow down."}


def test_the_history_goes_with_every_message_and_a_failed_one_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\nthree\n"))
    connection = Scripted(chunk("a "), chunk("reply"), DONE, FAILED, DONE)
    chat_on(connection).talk()
    assert connection.sent[2]["messages"] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "a reply"},
        {"role": "user", "content": "three"},
    ]


def test_the_oldest_part_of_a_long_conversation_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    half = "x" * (HISTORY_MAX_CHARS // 2)
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\nthree\n"))
    connection = Scripted(chunk(half), DONE, chunk(half), DONE, DONE)
    chat_on(connection).talk()
    assert [message["content"] for message in connection.sent[2]["messages"]] == ["two", half, "three"]


def test_a_second_ctrl_c_does_not_wait_for_the_reply_to_end() -> None:
    connection = Scripted(chunk("a"), chunk("b"))
    presses = [signal.SIGINT, signal.SIGINT]
    with pytest.raises(KeyboardInterrupt):
        chat_on(connection)._stream([], presses)


def test_a_held_ctrl_c_sends_one_interrupt_and_reads_on_to_the_terminal_message() -> None:
    connection = Scripted(chunk("a"), chunk("b"), {"type": "interrupt_ack"}, FAILED)
    assert chat_on(connection)._stream([], [signal.SIGINT]) == FAILED
    assert [request["type"] for request in connection.sent] == ["interrupt"]


def test_the_model_is_loaded_and_named_in_every_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n"))
    connection = Scripted({"type": "load_done", "is_error": False}, DONE)
    chat = chat_on(connection, "a-model")
    chat.load()
    chat.talk()
    assert connection.sent[0]["preload_model_id"] == "a-model"
    assert connection.sent[1]["params"]["model_id"] == "a-model"


def test_warnings_are_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n"))
    warnings = [{"name": "EMPTY_REPLY", "message": "It only thought."}]
    connection = Scripted({"type": "load_done", "is_error": False}, {**DONE, "warnings": warnings})
    chat = chat_on(connection)
    chat.load()
    chat.talk()
    assert capsys.readouterr().err == "[It only thought.]\n"

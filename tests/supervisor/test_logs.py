"""What operators read: no keys, one bounded line an event, and never a wait for whoever does not read."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor import logs
from supervisor.logs import LogFiles, register_secret, scrub, start_logging
from workers.codes import Code

KEY = "canary-0123456789abcdef"
WAIT_S = 5.0
log = logging.getLogger("test.logs")


@pytest.fixture(autouse=True)
def own_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Logging, and the registered secrets, are as before when the test is over."""
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    levels = {name: logging.getLogger(name).level for name in ("asyncio", "websockets")}
    monkeypatch.setattr(logs, "_secrets", set())
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raises
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def close(files: LogFiles) -> None:
    """Stops the log and gives its file back."""
    files.stop()
    for sink in files._sinks:
        sink.target.close()


def written(
    monkeypatch: pytest.MonkeyPatch, directory: Path | None, *, level: str = "INFO", json_lines: bool = False
) -> tuple[io.StringIO, LogFiles]:
    """A running log, whose stderr is a text in memory."""
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    return stderr, start_logging(directory, level=level, json_lines=json_lines)


# ---- secrets


@pytest.mark.parametrize("json_lines", [False, True], ids=["console", "json"])
def test_a_registered_key_is_in_no_line_no_traceback_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, json_lines: bool
) -> None:
    register_secret(KEY)
    stderr, files = written(monkeypatch, tmp_path, json_lines=json_lines)
    log.info("the key is %s", KEY)
    try:
        raise RuntimeError(f"a bug that quotes {KEY}")
    except RuntimeError:
        log.exception("it failed")
    close(files)
    assert files.path is not None
    for text in (stderr.getvalue(), files.path.read_text(encoding="utf-8")):
        assert "the key is ***" in text
        assert "a bug that quotes ***" in text
        assert "RuntimeError" in text
        assert KEY not in text


def test_a_key_that_json_would_escape_is_masked_before_it_is_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = 'k"\\é-0123456789'
    register_secret(odd)
    stderr, files = written(monkeypatch, None, json_lines=True)
    log.info("the key is %s.", odd)
    close(files)
    assert json.loads(stderr.getvalue())["msg"] == "the key is ***."


KEY_LIKE = {
    "openai": "sk-proj-abcDEF0123456789",
    "groq": "gsk_abcdefghijklmnop0123",
    "xai": "xai-abcdefghijklmnop0123",
    "huggingface": "hf_abcdefghijklmnop0123",
    "a header": "Bearer abcdefghijklmnop0123",
}


@pytest.mark.parametrize("text", KEY_LIKE.values(), ids=KEY_LIKE.keys())
def test_what_looks_like_a_key_is_masked_though_nobody_registered_it(text: str) -> None:
    assert scrub(f"refused: {text}, sorry") == "refused: ***, sorry"


def test_a_word_too_short_to_be_a_key_is_not_masked() -> None:
    register_secret("x")
    register_secret("")
    register_secret(None)
    assert scrub("an axe") == "an axe"


def test_of_two_secrets_the_longer_is_masked_whole() -> None:
    for end in range(len(KEY) - 8, len(KEY) + 1):
        register_secret(KEY[:end])
    assert scrub(f"<{KEY}>") == "<***>"


# ---- lines


def test_an_event_is_one_bounded_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr, files = written(monkeypatch, None)
    log.info("one\ntwo\r\x1b[31mred\ttab\x07\x85\x9b1m\x00")
    log.info("x" * 100_000)
    close(files)
    first, second = stderr.getvalue().splitlines()
    assert first.endswith("one\\ntwo\\r\\x1b[31mred\ttab\\x07\\x85\\x9b1m\\x00")
    assert "INFO" in first
    assert len(second) < logs.LINE_MAX_CHARS + 100


def test_a_json_line_is_an_object_with_time_level_and_logger(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr, files = written(monkeypatch, None, json_lines=True)
    log.warning("schön\n漢字")
    close(files)
    (line,) = stderr.getvalue().splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["logger"]) == ("WARNING", "test.logs")
    assert entry["msg"] == "schön\\n漢字"
    assert entry["ts"].endswith("Z")


def test_the_level_is_kept_and_noisy_libraries_are_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr, files = written(monkeypatch, None, level="WARNING")
    log.info("hidden")
    log.warning("shown")
    logging.getLogger("asyncio").info("noise")
    close(files)
    assert "shown" in stderr.getvalue()
    assert "hidden" not in stderr.getvalue()
    assert "noise" not in stderr.getvalue()


class Unspeakable:
    """Something that cannot be written."""

    def __str__(self) -> str:
        raise LookupError("no words")


@pytest.mark.parametrize("json_lines", [False, True], ids=["console", "json"])
def test_a_record_that_cannot_be_formatted_does_not_stop_the_log(
    monkeypatch: pytest.MonkeyPatch, json_lines: bool
) -> None:
    stderr, files = written(monkeypatch, None, json_lines=json_lines)
    log.info("%d apples", "no number")
    log.info("apples n=%s", Unspeakable())
    log.info("next")
    close(files)
    lines = stderr.getvalue().splitlines()
    assert ["log call cannot be formatted at=" in line for line in lines] == [True, True, False]
    assert "next" in lines[2]


def entries(stderr: io.StringIO) -> list[dict[str, Any]]:
    """The lines of JSON."""
    return [json.loads(line) for line in stderr.getvalue().splitlines()]


def test_a_json_line_has_the_events_words_and_its_fields_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr, files = written(monkeypatch, None, json_lines=True)
    log.info("worker ready provider=%s pid=%s ms=%d", "groq", 41, 812)
    log.info("module closed uptime_s=%.1f pid=%s reason=%r", 12.340000000000002, None, "it\nends")
    log.info("100 %% done")
    log.info("lines of %s n=%d", "a file", 3)
    log.info("plain")
    close(files)
    ready, closed, done, lines, plain = entries(stderr)
    assert {name: ready[name] for name in ("event", "provider", "pid", "ms")} == {
        "event": "worker ready",
        "provider": "groq",
        "pid": 41,
        "ms": 812,
    }
    assert ready["msg"] == "worker ready provider=groq pid=41 ms=812"
    assert (closed["uptime_s"], closed["pid"], closed["reason"]) == (12.34, None, "it\\nends")
    assert done["event"] == "100 %% done"
    assert (lines["event"], lines["n"]) == ("lines of", 3)
    assert set(plain) == {"ts", "level", "logger", "event", "msg"}


def test_a_field_cannot_take_the_place_of_a_lines_own_and_every_value_is_json(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stderr, files = written(monkeypatch, None, json_lines=True)
    log.info("odd level=%s msg=%s code=%s nan=%s path=%s", 1, 2, Code.TIMEOUT, math.nan, Path("a"))
    log.info("by name %(name)s", {"name": "x"})
    close(files)
    odd, by_name = entries(stderr)
    assert (odd["level"], odd["code"], odd["nan"], odd["path"]) == ("INFO", 6, "nan", "a")
    assert odd["msg"].startswith("odd level=1 msg=2")
    assert by_name["msg"] == "by name x"


def test_a_field_is_scrubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    register_secret(KEY)
    stderr, files = written(monkeypatch, None, json_lines=True)
    log.info("refused key=%s text=%r", KEY, {"key": KEY})
    close(files)
    assert KEY not in stderr.getvalue()
    assert entries(stderr)[0]["key"] == "***"


# ---- files


def test_the_file_rotates_and_old_ones_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 2_000)
    monkeypatch.setattr(logs, "FILES_KEPT", 2)
    monkeypatch.setattr(logs, "BATCH_RECORDS", 10)
    _, files = written(monkeypatch, tmp_path / "logs")
    for index in range(200):
        log.info("line %d %s", index, "x" * 50)
    close(files)
    names = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert names == ["supervisor.log", "supervisor.log.1", "supervisor.log.2"]
    assert files.path == tmp_path / "logs" / "supervisor.log"
    assert "line 199" in files.path.read_text(encoding="utf-8")


def test_a_directory_that_cannot_be_made_leaves_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").write_text("", encoding="utf-8")
    stderr, files = written(monkeypatch, tmp_path / "a file" / "logs")
    log.info("still here")
    close(files)
    assert files.path is None
    assert "still here" in stderr.getvalue()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_does_not_reach_the_caller_nor_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "supervisor.log").symlink_to("/dev/full")
    stderr, files = written(monkeypatch, tmp_path)
    log.info("one")
    log.info("two")
    files.stop()
    assert [line.rpartition(" ")[2] for line in stderr.getvalue().splitlines()] == ["one", "two"]
    assert files.lost() == {"stderr": 0, "file": 2}
    with pytest.raises(OSError, match="No space left"):
        files._sinks[1].target.close()


def test_without_a_stderr_the_file_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    files = start_logging(tmp_path, level="INFO", json_lines=False)
    log.info("in the file")
    close(files)
    assert files.path is not None
    assert "in the file" in files.path.read_text(encoding="utf-8")


def test_everything_logged_before_the_stop_is_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, files = written(monkeypatch, tmp_path)
    for index in range(1_000):
        log.info("line %d", index)
    close(files)
    assert files.path is not None
    assert files.path.read_text(encoding="utf-8").count("line ") == 1_000


# ---- nobody reads


class Gate:
    """A stderr whose pipe nobody reads until `release`; `shut` closes it again."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.text = ""
        self._open = threading.Event()
        self._came = threading.Condition()

    def write(self, text: str) -> int:
        self.asked.set()
        self._open.wait(WAIT_S * 4)
        with self._came:
            self.text += text
            self._came.notify_all()
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def release(self) -> None:
        """From now on it is read."""
        self._open.set()

    def shut(self) -> None:
        """From now on it is not, once more."""
        self.asked.clear()
        self._open.clear()

    def until(self, text: str) -> None:
        """Waits until that was written."""
        with self._came:
            assert self._came.wait_for(lambda: text in self.text, WAIT_S), self.text


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A stderr that nobody reads; whoever waits for it is let go at the end."""
    gate = Gate()
    yield gate
    gate.release()


@pytest.mark.parametrize("records", [10, 200], ids=["queue not full", "queue full"])
def test_a_stderr_that_nobody_reads_blocks_neither_a_call_nor_the_stop(
    monkeypatch: pytest.MonkeyPatch, gate: Gate, records: int
) -> None:
    monkeypatch.setattr(logs, "QUEUE_RECORDS", 50)
    monkeypatch.setattr(logs, "STOP_S", 0.05)
    monkeypatch.setattr(sys, "stderr", gate)
    files = start_logging(None, level="INFO", json_lines=False)
    stopped = threading.Event()

    def flood_and_stop() -> None:
        for index in range(records):
            log.info("line %d", index)
        files.stop()
        stopped.set()

    log.info("the one that nobody takes")
    assert gate.asked.wait(WAIT_S)
    work = threading.Thread(target=flood_and_stop, daemon=True)
    work.start()
    work.join(WAIT_S)
    assert stopped.is_set()  # an exception in the thread is a warning, and so an error, of the test


def test_a_stderr_that_nobody_reads_does_not_keep_lines_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    monkeypatch.setattr(logs, "STOP_S", 0.05)
    monkeypatch.setattr(sys, "stderr", gate)
    files = start_logging(tmp_path, level="INFO", json_lines=False)
    log.info("the one that nobody takes")
    assert gate.asked.wait(WAIT_S)
    for index in range(1_000):
        log.info("line %d", index)
    files._sinks[1].ask_to_stop()
    files._sinks[1].thread.join(WAIT_S)
    assert files.path is not None
    assert files.path.read_text(encoding="utf-8").count("line ") == 1_000
    close(files)


def test_one_line_tells_how_many_were_lost_once_the_sink_moves_again(
    monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    monkeypatch.setattr(logs, "QUEUE_RECORDS", 20)
    monkeypatch.setattr(sys, "stderr", gate)
    files = start_logging(None, level="INFO", json_lines=False)
    for lost in (30, 7):
        log.info("the one that nobody takes")
        assert gate.asked.wait(WAIT_S)
        before = files.lost()["stderr"]
        for index in range(20 + lost):
            log.info("line %d", index)
        assert files.lost() == {"stderr": before + lost}
        gate.release()
        gate.until(f"log lines lost n={lost}")
        gate.shut()
    gate.release()
    files.stop()
    assert gate.text.count("log lines lost") == 2
    assert gate.text.count("line ") == 40


class Broken(io.StringIO):
    """A stderr that its reader closed, until somebody opens it again."""

    closed_by_reader = True

    def write(self, text: str) -> int:
        if self.closed_by_reader:
            raise BrokenPipeError
        return super().write(text)


def test_what_cannot_be_written_is_counted_and_told_when_it_can_be_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = Broken()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(logs, "BATCH_RECORDS", 1)
    files = start_logging(tmp_path, level="INFO", json_lines=True)
    log.info("one")
    log.info("two")
    files._sinks[0].ask_to_stop()
    files._sinks[0].thread.join(WAIT_S)
    assert files.lost() == {"stderr": 2, "file": 0}
    stderr.closed_by_reader = False
    again = logs._Sink("stderr", files._sinks[0].target, logs._JsonFormat())
    again._unwritten = 2
    again.emit(logs._record(logging.INFO, "three"))
    again.ask_to_stop()
    again.thread.join(WAIT_S)
    lines = [json.loads(line) for line in stderr.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["three", "log lines lost"]
    assert lines[1]["n"] == 2
    close(files)
    assert files.path is not None
    assert len(files.path.read_text(encoding="utf-8").splitlines()) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="the size of a pipe is POSIX's")
def test_a_full_pipe_holds_up_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "STOP_S", 0.05)
    reader, writer = os.pipe()
    stderr = os.fdopen(writer, "w", buffering=1, encoding="utf-8")
    monkeypatch.setattr(sys, "stderr", stderr)
    files = start_logging(None, level="INFO", json_lines=False)
    (sink,) = files._sinks
    try:
        for index in range(500):
            log.info("%d %s", index, "x" * 1_000)
        files.stop()
    finally:
        os.close(reader)  # the write that hangs fails, and the thread comes to the rest of its queue
        sink.thread.join(WAIT_S)
        with pytest.raises(BrokenPipeError):
            stderr.close()
    assert not sink.thread.is_alive()

"""What operators read: one line per event, on stderr and in a rotating file under HOME.

Log calls never block the module, whoever stops reading: each sink has a bounded queue and a thread of its
own, so that a stuck one starves neither the module nor the other sink. What does not fit is counted, and one
line tells of it when the sink moves again. Keys never appear: every key that the module learns is registered
here, and whatever is written, or shown to a client from a worker's stderr, is scrubbed.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import logging.handlers
import math
import queue
import re
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

__all__ = ["MASK", "SECRET_MIN_CHARS", "LogFiles", "register_secret", "scrub", "start_logging"]

FILE_BYTES: Final = 2 << 20
FILES_KEPT: Final = 5
"""Ten megabytes in all: a day of a busy stream, and small enough to attach to a report."""
QUEUE_RECORDS: Final = 2_000
"""Of one sink: two seconds of a worker that floods its stderr, and two megabytes or so while nobody reads."""
BATCH_RECORDS: Final = 50
"""Written with one system call: a thread that waits for the interpreter's lock at each line falls behind."""
STOP_S: Final = 0.5
"""For the last lines at the end, in all; a parent that does not read our stderr must not keep us alive."""
SECRET_MIN_CHARS: Final = 6
"""A shorter "key" (a local server takes any word) would blacken half the log."""
LINE_MAX_CHARS: Final = 4_000
TEMPLATES_KEPT: Final = 500
"""Of log calls, taken apart; ours are fewer, and a library that builds its own must not fill the memory."""
DIGITS: Final = 6
"""Of a number that is not whole: no measurement of ours has more that mean anything."""
MASK: Final = "***"

_KEY_LIKE: Final = re.compile(r"(?i)\b(?:sk|gsk|xai|hf|pst|r8|key|bearer)[-_ ][A-Za-z0-9_\-.]{12,}")
_PLACE: Final = re.compile(r"(?:(\w+)=)?%(?:%|[-#0 +]*\d*(?:\.\d+)?([a-zA-Z]))")
"""One place of a template, `pid=%s` or `%s`; `%%` is none, and has no second group."""
_CONTROL: Final = {
    **{code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != ord("\t")},
    ord("\r"): "\\r",
    ord("\n"): "\\n",
}
"""What a line may not do: begin another one, or steer the terminal that shows it."""
_secrets: set[str] = set()


def register_secret(value: str | None) -> None:
    """From now on `value` is masked wherever a log line or an error text would show it."""
    if value and len(value) >= SECRET_MIN_CHARS:
        _secrets.add(value)


def scrub(text: str) -> str:
    """`text` without any registered secret and without what looks like a key, on one line, bounded."""
    for secret in sorted(_secrets, key=len, reverse=True):  # one may begin with another
        text = text.replace(secret, MASK)
    text = _KEY_LIKE.sub(MASK, text)
    if len(text) > LINE_MAX_CHARS:
        text = text[:LINE_MAX_CHARS] + "…"
    return text.translate(_CONTROL)


# ---------------------------------------------------------------- lines


class _ConsoleFormat(logging.Formatter):
    """`12:34:56.789 INFO  worker ready provider=groq pid=41 ms=812`; a traceback follows on its own lines."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock}.{int(record.msecs):03d} {record.levelname:<7} {scrub(record.getMessage())}"
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            line += "".join(f"\n    {scrub(part)}" for part in trace.splitlines())
        return line


class _JsonFormat(logging.Formatter):
    """One JSON object per line: the event's words and its fields by name, and the line that people read."""

    def format(self, record: logging.LogRecord) -> str:
        event, names = _taken_apart(str(record.msg))
        entry: dict[str, Any] = {
            "ts": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "event": scrub(event),
        }
        args = record.args if isinstance(record.args, tuple) else ()
        for name, value in zip(names, args, strict=False):
            if name:
                entry.setdefault(name, _typed(value))
        entry["msg"] = scrub(record.getMessage())
        if record.exc_info:
            entry["traceback"] = scrub(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False)


@functools.lru_cache(maxsize=TEMPLATES_KEPT)
def _taken_apart(template: str) -> tuple[str, tuple[str | None, ...]]:
    """The words before the first place of a log call's template, and the name of each place that has one."""
    places = [match for match in _PLACE.finditer(template) if match[2]]
    words = template[: places[0].start()] if places else template
    return words.strip(), tuple(match[1] for match in places)


def _typed(value: object) -> object:
    """A log call's argument as JSON has it: a number stays one, and all that is text is scrubbed."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{DIGITS}g}")
    return scrub(str(value))


class _Text(logging.StreamHandler):  # type: ignore[type-arg]  # Python 3.10's cannot be subscripted
    """Makes text of records; one that cannot be formatted leaves its template, and the rest goes on."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self._made = io.StringIO()
        super().__init__(self._made)
        self.setFormatter(formatter)

    def handleError(self, record: logging.LogRecord) -> None:
        """Called by `emit` for whatever was raised."""
        self.emit(_record(logging.ERROR, "log call cannot be formatted at=%s:%d", record.name, record.lineno))

    def take(self) -> str:
        """The text since the last call."""
        text = self._made.getvalue()
        self._made.seek(0)
        self._made.truncate()
        return text


def _record(level: int, template: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord(__name__, level, __file__, 0, template, args, None)


# ---------------------------------------------------------------- sinks


class _Remembering(logging.Handler):
    """Remembers that a write failed: a full disk or a closed pipe must not print into the next one."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Called by `emit` for whatever was raised."""
        self.failed = True


class _Stream(_Remembering, logging.StreamHandler):  # type: ignore[type-arg]  # as above
    """Our stderr."""


class _File(_Remembering, logging.handlers.RotatingFileHandler):
    """The file under HOME."""


class _Sink(logging.Handler):
    """Hands records, without waiting, to the thread that formats and writes them."""

    def __init__(self, name: str, target: _Stream | _File, formatter: logging.Formatter) -> None:
        super().__init__()
        self.name = name
        self.target = target
        self._text = _Text(formatter)
        self._records: queue.Queue[logging.LogRecord | None] = queue.Queue(QUEUE_RECORDS)
        self._unfit = 0
        self._unwritten = 0
        self._told = 0
        self._stopping = False
        self.thread = threading.Thread(target=self._serve, name=f"log {name}", daemon=True)
        self.thread.start()

    @property
    def lost(self) -> int:
        """How many records did not fit, or could not be written. Each counter has one writer."""
        return self._unfit + self._unwritten

    def emit(self, record: logging.LogRecord) -> None:
        """Takes a record, or counts it as lost; logging holds a lock around this."""
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self._unfit += 1

    def ask_to_stop(self) -> None:
        """The thread ends once the queue is empty."""
        self._stopping = True
        with contextlib.suppress(queue.Full):  # then it does not sleep, and needs no waking
            self._records.put_nowait(None)

    def _serve(self) -> None:
        stopped = False
        while not stopped:
            records = self._batch()
            if not self._written(records):
                self._unwritten += len(records)
            caught_up = self._records.empty()
            lost = self.lost
            if caught_up and lost > self._told and self._written([_loss(lost - self._told)]):
                self._told = lost
            stopped = caught_up and self._stopping

    def _batch(self) -> list[logging.LogRecord]:
        """Waits for a record; with it comes what else is there."""
        taken = [self._records.get()]
        with contextlib.suppress(queue.Empty):
            while len(taken) < BATCH_RECORDS:
                taken.append(self._records.get_nowait())
        return [record for record in taken if record is not None]

    def _written(self, records: list[logging.LogRecord]) -> bool:
        """Writes them at once; returns whether that was possible."""
        for record in records:
            self._text.emit(record)
        text = self._text.take()
        self.target.failed = False
        if text:
            self.target.emit(_record(logging.INFO, text.removesuffix("\n")))
        return not self.target.failed


def _loss(count: int) -> logging.LogRecord:
    return _record(logging.WARNING, "log lines lost n=%d", count)


class LogFiles:
    """The running log; `stop` writes what is still queued, within a bound."""

    def __init__(self, path: Path | None, sinks: Sequence[_Sink]) -> None:
        self.path = path
        self._sinks = sinks

    def lost(self) -> dict[str, int]:
        """How many records each sink lost so far."""
        return {str(sink.name): sink.lost for sink in self._sinks}

    def tell(self, sentence: str) -> None:
        """A line that is written whatever the level."""
        for sink in self._sinks:
            sink.handle(_record(logging.INFO, "%s", sentence))

    def stop(self) -> None:
        """Ends the log's threads. One that a reader blocks is not waited for: it is a daemon."""
        for sink in self._sinks:
            sink.ask_to_stop()
        until = time.monotonic() + STOP_S
        for sink in self._sinks:
            sink.thread.join(timeout=max(0.0, until - time.monotonic()))


def start_logging(directory: Path | None, *, level: str, json_lines: bool) -> LogFiles:
    """Sends all records to stderr and, when `directory` can be written, to a rotating file in it."""
    formatter = _JsonFormat() if json_lines else _ConsoleFormat()
    logging.raiseExceptions = False  # a log call that fails must not print into a pipe that nobody reads
    sinks: list[_Sink] = []
    if sys.stderr is not None:
        sinks.append(_Sink("stderr", _Stream(sys.stderr), formatter))
    file = _opened(directory)
    if file is not None:
        sinks.append(_Sink("file", file, formatter))
    root = logging.getLogger()
    root.handlers[:] = sinks
    root.setLevel(level)
    for noisy in ("asyncio", "websockets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return LogFiles(None if file is None else Path(file.baseFilename), sinks)


def _opened(directory: Path | None) -> _File | None:
    if directory is None:
        return None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "supervisor.log"
        return _File(
            path, maxBytes=FILE_BYTES, backupCount=FILES_KEPT, encoding="utf-8", errors="backslashreplace"
        )
    except OSError:
        return None

"""What operators read: one line per event, on stderr and in a rotating file under HOME.

Log calls never block the module, whoever stops reading: records go through a bounded queue to a thread of
their own, and what does not fit is counted and dropped. Keys never appear: every key that the module
learns is registered here, and whatever is written, or shown to a client from a worker's stderr, is scrubbed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import queue
import re
import sys
import time
from pathlib import Path
from typing import Final

__all__ = ["MASK", "SECRET_MIN_CHARS", "LogFiles", "register_secret", "scrub", "start_logging"]

FILE_BYTES: Final = 2 << 20
FILES_KEPT: Final = 5
"""Ten megabytes in all: a day of a busy stream, and small enough to attach to a report."""
QUEUE_RECORDS: Final = 10_000
SECRET_MIN_CHARS: Final = 6
"""A shorter "key" (a local server takes any word) would blacken half the log."""
LINE_MAX_CHARS: Final = 4_000
MASK: Final = "***"

_KEY_LIKE: Final = re.compile(r"(?i)\b(?:sk|gsk|xai|hf|pst|r8|key|bearer)[-_ ][A-Za-z0-9_\-.]{12,}")
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
    return text.replace("\r", "\\r").replace("\n", "\\n").replace("\x1b", "\\x1b")


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
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "ts": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "msg": scrub(record.getMessage()),
        }
        if record.exc_info:
            entry["traceback"] = scrub(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False)


class _Queue(logging.handlers.QueueHandler):
    """Hands records on without waiting; what does not fit is counted."""

    dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record  # same process: nothing needs to be made picklable


class LogFiles:
    """The running log; `stop` writes what is still queued, within a bound."""

    def __init__(self, path: Path | None, listener: logging.handlers.QueueListener) -> None:
        self.path = path
        self._listener = listener

    def stop(self) -> None:
        """Ends the log's thread. A reader that blocks it is not waited for: the thread is a daemon."""
        thread = self._listener._thread
        with contextlib.suppress(queue.Full):  # nobody reads stderr: the thread would not come to it
            self._listener.enqueue_sentinel()
        if thread is not None:
            thread.join(timeout=STOP_S)


STOP_S: Final = 0.5
"""For the last lines at the end; a parent that does not read our stderr must not keep us alive."""


def start_logging(directory: Path | None, *, level: str, json_lines: bool) -> LogFiles:
    """Sends all records to stderr and, when `directory` can be written, to a rotating file in it."""
    formatter = _JsonFormat() if json_lines else _ConsoleFormat()
    handlers: list[logging.Handler] = []
    if sys.stderr is not None:
        handlers.append(logging.StreamHandler(sys.stderr))
    file = _file_handler(directory)
    if file is not None:
        handlers.append(file)
    for handler in handlers:
        handler.setFormatter(formatter)
    records: queue.Queue[logging.LogRecord] = queue.Queue(QUEUE_RECORDS)
    listener = logging.handlers.QueueListener(records, *handlers)
    logging.raiseExceptions = False  # a full disk or a closed pipe must not print into the next one
    root = logging.getLogger()
    root.handlers[:] = [_Queue(records)]
    root.setLevel(level)
    for noisy in ("asyncio", "websockets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    listener.start()
    return LogFiles(Path(file.baseFilename) if file is not None else None, listener)


def _file_handler(directory: Path | None) -> logging.handlers.RotatingFileHandler | None:
    if directory is None:
        return None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return logging.handlers.RotatingFileHandler(
            directory / "supervisor.log", maxBytes=FILE_BYTES, backupCount=FILES_KEPT, encoding="utf-8"
        )
    except OSError:
        return None

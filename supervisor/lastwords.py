"""What a worker writes to stderr: each line goes into the log; the last ones are kept, since one says why."""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

from supervisor.logs import scrub

__all__ = ["LastWords"]

log = logging.getLogger(__name__)

LINES: Final = 40
"""A stack of a worker that crashed, with what it said before."""
LINE_BYTES: Final = 8 << 10
"""What is longer is cut: a line in the log must stay readable."""
SHOWN_CHARS: Final = 300
"""Of one line, for a client; the log has all of it."""
FATAL: Final = "Fatal Python error"
"""How the interpreter's own last words begin; what follows them are stacks."""


class LastWords:
    """The stderr of one worker, as bytes in any split."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._lines: deque[str] = deque(maxlen=LINES)
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """What one read brought."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-LINE_BYTES:]
        for line in lines:
            self._line(line)

    def close(self) -> None:
        """It ended; what it said last may have no end of line."""
        rest, self._rest = self._rest, b""
        self._line(rest)

    def _line(self, line: bytes) -> None:
        text = line[:LINE_BYTES].decode("utf-8", "replace").rstrip()
        if text:
            self._lines.append(text)
            log.info("worker says provider=%s text=%r", self._provider, text)

    @property
    def reason(self) -> str | None:
        """The line that most likely says why it died, scrubbed; None if it said nothing."""
        fatal = [line for line in self._lines if line.startswith(FATAL)]
        said = fatal or [line for line in self._lines if not line[0].isspace()] or list(self._lines)
        return scrub(said[-1])[:SHOWN_CHARS] if said else None

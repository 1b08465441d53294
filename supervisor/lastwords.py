"""What a worker writes to stderr: each line goes into the log; the last ones are kept, since one says why."""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from supervisor.logs import scrub

__all__ = ["LastWords"]

log = logging.getLogger(__name__)

LINES: Final = 40
"""A stack of a worker that crashed, with what it said before."""
LINE_BYTES: Final = 8 << 10
"""What is longer is cut: a line in the log must stay readable."""
LINES_A_SECOND: Final = 1_000
"""Of a worker that floods its stderr so many are logged, which takes the loop 30 ms; a pipe brings 30,000
short lines in one read, and all other streams would wait two thirds of a second for them, again and again."""
SHOWN_CHARS: Final = 300
"""Of one line, for a client; the log has all of it."""
FATAL: Final = "Fatal Python error"
"""How the interpreter's own last words begin; what follows them are stacks."""


NO_MEMORY: Final = re.compile(
    r"^memory allocation of \d+ bytes failed|terminat.*std::bad_alloc|CUDA error: out of memory"
)
"""What runtimes say before they abort for want of memory: Rust's, C++'s, and llama.cpp's on a GPU. Who goes
on after it says it in other words."""


class LastWords:
    """The stderr of one worker, as bytes in any split."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._lines: deque[str] = deque(maxlen=LINES)
        self._rest = b""
        self._second = float("-inf")
        self._room = 0
        self._left_out = 0
        self.out_of_memory = False
        """Whether it said that it must end for want of memory."""

    def feed(self, data: bytes) -> None:
        """What one read brought."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-LINE_BYTES:]
        self._take(lines)

    def close(self) -> None:
        """It ended; what it said last may have no end of line."""
        rest, self._rest = self._rest, b""
        if rest:
            self._take([rest])
        self._tell_of_left_out()

    def _take(self, lines: Sequence[bytes]) -> None:
        """Logs as many as there is room for in this second; of the others the last ones are kept."""
        now = time.monotonic()
        if now - self._second >= 1:
            self._tell_of_left_out()
            self._second, self._room = now, LINES_A_SECOND
        logged, others = lines[: self._room], lines[self._room :]
        self._room -= len(logged)
        self._left_out += len(others)
        for line in logged:
            if text := self._keep(line):
                log.info("worker says provider=%s text=%r", self._provider, text)
        for line in others[-LINES:]:
            self._keep(line)

    def _keep(self, line: bytes) -> str:
        """The line as text, remembered unless it is empty."""
        text = line[:LINE_BYTES].decode("utf-8", "replace").rstrip()
        if text:
            self._lines.append(text)
            self.out_of_memory |= NO_MEMORY.search(text) is not None
        return text

    def _tell_of_left_out(self) -> None:
        if self._left_out:
            log.warning("worker says too much provider=%s lines_left_out=%d", self._provider, self._left_out)
            self._left_out = 0

    @property
    def reason(self) -> str | None:
        """The line that most likely says why it died, scrubbed; None if it said nothing."""
        fatal = [line for line in self._lines if line.startswith(FATAL)]
        said = fatal or [line for line in self._lines if not line[0].isspace()] or list(self._lines)
        return scrub(said[-1])[:SHOWN_CHARS] if said else None

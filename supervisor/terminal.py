"""Progress for a person: one line that is written over in a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
from typing import Final, TextIO

from supervisor.provision import Phase, Progress

__all__ = ["ProgressLine", "StatusLine", "size_text"]

QUIET_S: Final = 10.0
"""Between two plain lines of the same phase: a log should not hold one a second."""


class ProgressLine:
    """Call it with each Progress, and `end` it before anything else is written to the stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rewrites = stream.isatty()
        self._open = False
        self._phase: tuple[Phase, str] | None = None
        self._spoke_s = 0.0

    def __call__(self, progress: Progress) -> None:
        """Shows it."""
        text = _text(progress)
        if self._rewrites:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write("\r" + text[:width].ljust(width))
            self._open = True
            if progress.phase is Phase.DONE:
                self.end()
        elif self._is_news(progress):
            self._stream.write(text + "\n")
        self._stream.flush()

    def end(self) -> None:
        """Closes the line that is written over."""
        if self._open:
            self._stream.write("\n")
            self._stream.flush()
            self._open = False

    def _is_news(self, progress: Progress) -> bool:
        step = (progress.phase, "" if progress.done else progress.message)
        if step == self._phase and progress.elapsed_s - self._spoke_s < QUIET_S:
            return False
        self._phase = step
        self._spoke_s = progress.elapsed_s
        return True


class StatusLine:
    """What a load does: one line that is written over in a terminal, a line per step elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rewrites = stream.isatty()
        self._shown = ""

    def show(self, text: str) -> None:
        """Shows it, if it is news."""
        if text == self._shown:
            return
        if self._rewrites:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write("\r" + text[:width].ljust(width))
        else:
            self._stream.write(text + "\n")
        self._stream.flush()
        self._shown = text

    def end(self) -> None:
        """Clears the line that is written over."""
        if self._shown and self._rewrites:
            self._stream.write("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")
            self._stream.flush()


def _text(progress: Progress) -> str:
    count = f" {progress.done} of {progress.total}" if progress.total else ""
    return f"[{progress.elapsed_s:6.1f} s] {progress.phase.value}{count}: {progress.message}"


def size_text(size_bytes: int) -> str:
    """A size for a person: 812 kB, 12.3 MB, 1.1 GB."""
    if size_bytes < 1_000_000:
        return f"{size_bytes / 1e3:.0f} kB"
    if size_bytes < 1_000_000_000:
        return f"{size_bytes / 1e6:.1f} MB"
    return f"{size_bytes / 1e9:.1f} GB"

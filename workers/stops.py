"""Stop strings: cuts a reply at the first one, however the text was split on its way.

Semantics, the same at every split of the text:

1. The stop that begins earliest wins, even when a later one is complete first; the text before it is the
   reply, and neither the stop nor anything after it is ever seen.
2. Stops count from the first character that is not white space.
3. White space before that character is part of the reply, unless some stop begins with white space: then
   it is left out, since a stop would otherwise stand in the output.
4. Text is held back only while it may be the beginning of a stop.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["StopCutter"]


class StopCutter:
    """Text of one reply in, text that may be shown out; used once."""

    def __init__(self, stops: Iterable[str]) -> None:
        self.found = False
        wanted = sorted({stop for stop in stops if stop}, key=len)
        self._by_first: dict[str, list[str]] = {}
        for stop in wanted:
            self._by_first.setdefault(stop[0], []).append(stop)
        # With nothing wanted this matches nowhere.
        self._first = re.compile(f"[{re.escape(''.join(self._by_first))}]" if wanted else r"(?!)")
        self._whole = re.compile("|".join(map(re.escape, wanted)) if wanted else r"(?!)")
        self._reach = max((len(stop) for stop in wanted), default=1) - 1
        self._trims = any(first.isspace() for first in self._by_first)
        self._begun = False
        self._held = ""

    def feed(self, text: str) -> str:
        """What may be shown now."""
        if self.found:
            return ""
        if not self._begun:
            bare = text.lstrip()
            if not bare:
                return "" if self._trims else text
            self._begun = True
            lead = "" if self._trims else text[: len(text) - len(bare)]
            return lead + self._cut(bare)
        if not self._held and self._first.search(text) is None:
            return text
        return self._cut(text)

    def finish(self) -> str:
        """The reply is complete: what was held back and turned out to be no stop."""
        held, self._held = self._held, ""
        match = self._whole.search(held)
        if match is None:
            return held
        self.found = True
        return held[: match.start()]

    def _cut(self, text: str) -> str:
        text = self._held + text
        match = self._whole.search(text)
        open_from = self._open_from(text, len(text) if match is None else match.start())
        if match is not None and open_from == match.start():
            self.found = True
            self._held = ""
            return text[:open_from]
        self._held = text[open_from:]
        return text[:open_from]

    def _open_from(self, text: str, end: int) -> int:
        """Where the earliest stop that may still become complete begins, or `end`."""
        for candidate in self._first.finditer(text, max(0, len(text) - self._reach), end):
            start = candidate.start()
            if self._may_grow(text, start):
                return start
        return end

    def _may_grow(self, text: str, start: int) -> bool:
        room = len(text) - start
        tail = text[start:]
        return any(len(stop) > room and stop.startswith(tail) for stop in self._by_first[text[start]])

"""The tokens of one reply become its text: whole letters only, up to the end that the reply finds. Pure.

A tokenizer turns tokens into text, and only together: a token may be half a letter, or begin with a space
that is shown only behind another one. So a token is read together with some before it, and what would end
with half a letter waits for the next.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, TypeAlias

from workers.adapter import FinishReason
from workers.stops import StopCutter

__all__ = ["Decode", "TokenReply", "TokenText"]

Decode: TypeAlias = "Callable[[Sequence[int]], str]"
"""Tokens as text; what is no whole letter becomes U+FFFD."""

HALF: Final = "\ufffd"
HELD_MAX: Final = 8
"""A letter has four bytes at most, so more tokens than that are none: they are shown as they are."""


class TokenText:
    """Tokens in, text out; used once."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        """From the last ones that were shown on, which those after them are read with."""
        self._shown = 0
        """How many of them are shown."""

    def feed(self, token: int) -> str:
        """What can be shown now."""
        self._tokens.append(token)
        text = self._new()
        if text.endswith(HALF) and len(self._tokens) - self._shown <= HELD_MAX:
            return ""
        if text:
            del self._tokens[: self._shown]
            self._shown = len(self._tokens)
        return text

    def finish(self) -> str:
        """What was held back, without the half letter at its end."""
        return self._new().rstrip(HALF)

    def _new(self) -> str:
        before = self._decode(self._tokens[: self._shown]) if self._shown else ""
        return self._decode(self._tokens)[len(before) :]


class TokenReply:
    """One reply, token by token; `reason` says how it ended, once it has."""

    def __init__(
        self,
        decode: Decode,
        *,
        ends: Collection[int],
        limit: int,
        stops: Iterable[str] = (),
        trims: bool = False,
    ) -> None:
        """`ends`: tokens that end it; `trims`: white space at its start is none of it."""
        self._text = TokenText(decode)
        self._cutter = StopCutter(stops)
        self._ends = frozenset(ends)
        self._limit = limit
        self._trims = trims
        self.tokens = 0
        """That came so far, the one that ended it among them."""
        self.reason: FinishReason | None = None

    def feed(self, tokens: Iterable[int]) -> str:
        """What can be shown now; nothing more comes once there is a reason."""
        shown = ""
        for token in tokens:
            if self.reason is None:
                shown += self._token(token)
        if self._trims:
            shown = shown.lstrip()
            self._trims = not shown
        return shown

    def _token(self, token: int) -> str:
        self.tokens += 1
        if token in self._ends:
            return self._ended("stop", "")
        text = self._cutter.feed(self._text.feed(token))
        if self._cutter.found:
            self.reason = "stop"
            return text
        return self._ended("length", text) if self.tokens >= self._limit else text

    def _ended(self, reason: FinishReason, text: str) -> str:
        self.reason = reason
        text += self._cutter.feed(self._text.finish())
        return text + self._cutter.finish()

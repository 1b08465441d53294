"""The text of a reply that a client may see, made from the pieces that a provider sends.

In this order, and the same however the text was split:

1. A surrogate pair that arrives in halves is joined; a half that stays alone becomes U+FFFD.
2. `<think>…</think>` (or `<thinking>…</thinking>`) at the very start, after white space at most, is
   hidden with the white space around it; several in a row too. One that is never closed hides the rest.
   A closing tag that is the first thing of a reply is hidden as well: the model's template had opened
   the block, and it was empty. A closing tag further on is left alone: what stands before it has been
   shown already, and the tag may be something that the character talks about.
3. An echo of the character's name and a colon (`Mia:`, in any case, also with the full-width colon) is
   hidden with the white space around it: once, at the very start, and nothing but exactly that name.
4. The rest is cut at the first stop string (workers.stops).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final

from workers.stops import StopCutter
from workers.thinking import HEAD_MAX_CHARS, TAGS

__all__ = ["COLONS", "VisibleText", "join_halves"]

COLONS: Final = (":", "\uff1a")


class _Place(enum.Enum):
    HEAD = "head"  # nothing shown yet: a tag or a name may come
    THINK = "think"  # inside a hidden block
    TRIM = "trim"  # the name was hidden: white space after it goes as well
    BODY = "body"


class VisibleText:
    """Text of one reply in, visible text out; used once."""

    def __init__(self, stops: Iterable[str] = (), character_name: str | None = None) -> None:
        stops = tuple(stops)
        self._cutter = StopCutter(stops) if stops else None
        self._name = (character_name or "").strip()
        self._place = _Place.HEAD
        self._body = False
        self._half = ""  # the first half of a surrogate pair
        self._kept = ""  # of HEAD: undecided text; of THINK: what may be the closing tag's beginning
        self._closing = ""
        self._trims = False
        self.reasoned = False
        """A block of thinking was hidden."""
        self.name_hidden = False
        """An echo of the character's name was hidden."""

    @property
    def stopped(self) -> bool:
        """A stop string was found: the reply is complete, whatever still arrives."""
        return self._cutter is not None and self._cutter.found

    @property
    def hidden(self) -> bool:
        """Something that the provider sent was not shown, a stop string and what follows it included."""
        return self.reasoned or self.name_hidden or self.stopped

    def feed(self, text: str) -> str:
        """What may be shown now."""
        if self._half or not text.isascii():
            text = self._joined(text)
        if not self._body:
            text = self._opened(text)
        return text if self._cutter is None else self._cutter.feed(text)

    def finish(self) -> str:
        """The reply is complete: what was held back and may be shown after all."""
        text = "\ufffd" if self._half else ""
        self._half = ""
        if not self._body:
            text = self._opened(text)
            if self._place is _Place.HEAD:
                text += self._kept
            self._kept = ""
        if self._cutter is None:
            return text
        return self._cutter.feed(text) + self._cutter.finish()

    def _joined(self, text: str) -> str:
        text, self._half = join_halves(self._half + text)
        return text

    def _opened(self, text: str) -> str:
        """Moves through the places in front of BODY as far as `text` allows; returns what is BODY's."""
        text = self._kept + text
        rest = ""
        while text != rest and not self._body:  # a step that changes nothing waits for more
            rest = text
            if self._place is _Place.HEAD:
                text = self._head(text)
            elif self._place is _Place.THINK:
                text = self._think(text)
            else:
                text = self._trim(text)
        self._kept = "" if self._body else text
        return text if self._body else ""

    def _head(self, text: str) -> str:
        bare = text.lstrip()
        lead = 0 if self._trims else len(text) - len(bare)
        if lead > HEAD_MAX_CHARS:
            return self._enter(_Place.BODY, text)
        for tag, closing in TAGS.items():
            if bare.startswith(tag):
                self._closing = closing
                self.reasoned = True
                return self._enter(_Place.THINK, bare[len(tag) :])
            if bare.startswith(closing):
                self.reasoned = self._trims = True
                return bare[len(closing) :].lstrip()
        name = len(self._name)
        if name and bare[name : name + 1] in COLONS and bare[:name].casefold() == self._name.casefold():
            self.name_hidden = True
            return self._enter(_Place.TRIM, bare[name + 1 :])
        shown = bare if self._trims else text
        return shown if self._undecided(bare) else self._enter(_Place.BODY, shown)

    def _undecided(self, bare: str) -> bool:
        """Whether more text could still make a tag or the name of it."""
        if any(tag.startswith(bare) for pair in TAGS.items() for tag in pair):
            return True
        return bare.casefold() == self._name[: len(bare)].casefold()

    def _think(self, text: str) -> str:
        end = text.find(self._closing)
        if end < 0:
            return text[-(len(self._closing) - 1) :]
        self._trims = True
        return self._enter(_Place.HEAD, text[end + len(self._closing) :])

    def _trim(self, text: str) -> str:
        bare = text.lstrip()
        return self._enter(_Place.BODY, bare) if bare else ""

    def _enter(self, place: _Place, rest: str) -> str:
        self._place = place
        self._body = place is _Place.BODY
        return rest


def join_halves(text: str) -> tuple[str, str]:
    """`text` with its surrogate pairs joined and what is none marked, and a first half at its end that waits
    for the other."""
    half = ""
    try:
        text.encode()
    except UnicodeEncodeError:
        if "\ud800" <= text[-1] <= "\udbff":
            half = text[-1]
            text = text[:-1]
        # The detour through UTF-16 joins what is a pair there and marks what is none.
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text, half

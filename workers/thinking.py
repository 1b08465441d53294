"""The thinking that some models write at the very start of a reply, between marks: where it ends.

`<think>…</think>` or `<thinking>…</thinking>`, after white space at most; several in a row too. A closing
mark that is the first thing of a reply ends a block that the model's template had opened. What becomes of it
is for others to say: workers/visible.py hides it, and SpokenCutter leaves it alone, since a model that thinks
of what somebody else may say has not ended its turn. Pure.
"""

from __future__ import annotations

from typing import Final

from workers.stops import StopCutter

__all__ = ["HEAD_MAX_CHARS", "TAGS", "SpokenCutter", "Thinking"]

TAGS: Final = {"<think>": "</think>", "<thinking>": "</thinking>"}
"""What opens a block of thinking → what closes it."""
HEAD_MAX_CHARS: Final = 4096
"""White space at the start is held back until something follows; more than this is passed on as it is."""


class Thinking:
    """Divides the text of one reply into its thinking and what is said; used once."""

    def __init__(self) -> None:
        self._kept = ""
        self._closing = ""
        self._over = False

    def feed(self, text: str) -> tuple[str, str]:
        """What of it is thinking, marks included, and what is said; what may be either is held back."""
        if self._over:
            return "", text
        text = self._kept + text
        thought = 0
        while not self._over and (further := self._further(text, thought)) != thought:
            thought = further
        self._kept = "" if self._over else text[thought:]
        return text[:thought], text[thought:] if self._over else ""

    def finish(self) -> tuple[str, str]:
        """The reply is complete: what was held back, as the one or the other."""
        kept, self._kept = self._kept, ""
        return (kept, "") if self._closing else ("", kept)

    def _further(self, text: str, thought: int) -> int:
        """Where the thinking ends of which so much is known, as far as the text tells."""
        if self._closing:
            end = text.find(self._closing, thought)
            if end < 0:
                return max(thought, len(text) - len(self._closing) + 1)
            end += len(self._closing)
            self._closing = ""
            return end
        bare = text[thought:].lstrip()
        start = len(text) - len(bare)
        if start - thought > HEAD_MAX_CHARS:
            self._over = True
            return thought
        for tag in (*TAGS, *TAGS.values()):
            if bare.startswith(tag):
                self._closing = TAGS.get(tag, "")
                return start + len(tag)
        self._over = not any(tag.startswith(bare) for pair in TAGS.items() for tag in pair)
        return thought


class SpokenCutter:
    """Cuts what is said in a reply at the first stop string; its thinking stays as it is. Used once."""

    def __init__(self, cutter: StopCutter) -> None:
        self._cutter = cutter
        self._thinking = Thinking()

    @property
    def found(self) -> bool:
        """A stop string was found: the reply is complete, whatever still arrives."""
        return self._cutter.found

    def feed(self, text: str) -> str:
        """What may be passed on now."""
        thought, said = self._thinking.feed(text)
        return thought + self._cutter.feed(said)

    def finish(self) -> str:
        """The reply is complete: what was held back and turned out to be no stop."""
        thought, said = self._thinking.finish()
        return thought + self._cutter.feed(said) + self._cutter.finish()

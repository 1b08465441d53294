"""A conversation as plain text, for models that have no chat template: they only continue what they read.

    Mia is a cheerful witch.

    Ann: Hello!
    Mia: Hi, Ann!
    Ann: How are you?
    Mia:

The model goes on after the last colon; a line that begins with somebody else's name is where it must stop.
Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from workers.adapter import Message, Request
from workers.prompt import plain_roles
from workers.stops import StopCutter
from workers.thinking import Thinking

__all__ = ["OneTurn", "Transcript", "transcript"]

USER: Final = "User"
ASSISTANT: Final = "Assistant"


@dataclass(frozen=True, slots=True)
class Transcript:
    """The lines so far, and how the next one begins and ends."""

    lines: tuple[Message, ...]
    """The messages, each content the line that it becomes, and no names."""
    speaker: str
    """Who speaks next; the text goes on after `speaker:`."""
    stops: tuple[str, ...]
    """Where somebody else would begin to speak."""

    @property
    def prompt(self) -> str:
        """All of it as one text."""
        return "".join(f"{line.content}\n" for line in self.lines) + f"{self.speaker}:"

    @property
    def ends(self) -> tuple[str, ...]:
        """Where the next turn begins, whoever takes it."""
        return (*self.stops, f"\n{self.speaker}:")


class OneTurn:
    """What a model says after `speaker:`, cut where its turn ends, and nowhere in its thinking; used once.

    The server does not cut, or not before the end is in the text. An end may be the first thing that comes; a
    stop string counts from the first word, as everywhere (workers.stops)."""

    def __init__(self, ends: Iterable[str], stops: Iterable[str] = ()) -> None:
        ends = tuple(ends)
        self._thinking = Thinking()
        self._first = StopCutter(ends)
        self._first.feed(":")  # what the prompt ends with
        self._rest = StopCutter((*ends, *stops))
        """What cuts from the first word on."""
        self._said = False

    @property
    def over(self) -> bool:
        """Whether its end was found: whatever still comes belongs to somebody else."""
        return self._first.found or self._rest.found

    def feed(self, text: str) -> str:
        """What is said now, without the white space before the first word."""
        thought, said = self._thinking.feed(text)
        return thought + self._spoken(said)

    def finish(self) -> str:
        """The model has ended: what was held back and turned out to be said."""
        thought, said = self._thinking.finish()
        shown = thought + self._spoken(said)
        if not self._said:
            shown += self._rest.feed(self._first.finish().lstrip())
        return shown + self._rest.finish()

    def _spoken(self, text: str) -> str:
        if self.over:
            return ""
        if self._said:
            return self._rest.feed(text)
        text = self._first.feed(text).lstrip()
        if not text:
            return ""
        self._said = True
        shown = self._rest.feed(text + self._first.finish())
        return shown + (self._rest.finish() if self._first.found else "")


def transcript(request: Request) -> Transcript:
    """The messages of a request as a transcript.

    Raises:
        AdapterError: UNSUPPORTED, a message belongs to a tool.
    """
    speaker = _one_line(request.character_name) or ASSISTANT
    lines, others = [], [USER]
    for message in plain_roles(request.messages):
        if message.role == "system":
            lines.append(replace(message, name=None, content=f"{message.content}\n"))
            continue
        name = _one_line(message.name) or (USER if message.role == "user" else speaker)
        if name != speaker:
            others.append(name)
        lines.append(replace(message, name=None, content=f"{name}: {message.content}"))
    return Transcript(tuple(lines), speaker, tuple(dict.fromkeys(f"\n{other}:" for other in others)))


def _one_line(name: str | None) -> str:
    return " ".join((name or "").split())

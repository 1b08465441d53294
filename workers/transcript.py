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
from workers.thinking import SpokenCutter

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

    The server does not cut, or not before the end is in the text. What a client wants cut is no end of a turn:
    it counts from the first word that is seen, and is the host's to cut."""

    def __init__(self, ends: Iterable[str]) -> None:
        cutter = StopCutter(ends)
        cutter.feed(":")  # what the prompt ends with, so that an end may be the first thing to follow
        self._cutter = SpokenCutter(cutter)
        self._said = False

    @property
    def over(self) -> bool:
        """Whether its end was found: whatever still comes belongs to somebody else."""
        return self._cutter.found

    def feed(self, text: str) -> str:
        """What is said now, without the white space before the first word."""
        return self._bare(self._cutter.feed(text))

    def finish(self) -> str:
        """The model has ended: what was held back and turned out to be said."""
        return "" if self.over else self._bare(self._cutter.finish())

    def _bare(self, text: str) -> str:
        if not self._said:
            text = text.lstrip()
            self._said = bool(text)
        return text


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

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

from dataclasses import dataclass, replace
from typing import Final

from workers.adapter import Message, Request
from workers.prompt import plain_roles

__all__ = ["Transcript", "transcript"]

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

"""A transcript as a model without a chat template is sent it, taken apart again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from tests.fakes.wire import Turn

__all__ = ["Spoken", "spoken"]

SPEAKER: Final = re.compile(r"([^:\n]{1,64}):( |\Z)")
"""What a line that somebody says begins with."""


@dataclass(frozen=True)
class Spoken:
    """What stood there, and who is to go on."""

    system: str
    turns: tuple[Turn, ...]
    speaker: str


def spoken(prompt: str) -> Spoken:
    """The turns of a transcript; it must end where somebody is to speak."""
    lines = prompt.split("\n")
    found = [SPEAKER.match(line) for line in lines]
    speaker = SPEAKER.fullmatch(lines[-1])
    assert speaker is not None, "nobody is to speak"
    start = next(number for number, match in enumerate(found) if match)
    turns = []
    for line, match in zip(lines[start:-1], found[start:-1], strict=True):
        name = match[1] if match else None
        role = "system" if name is None else "assistant" if name == speaker[1] else "user"
        turns.append(Turn(role, line))
    return Spoken("\n".join(lines[:start]), tuple(turns), speaker[1])

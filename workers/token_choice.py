"""How the next token of a reply is chosen: what a client says of it, and the reply's own source of chance.

Each reply draws from a source of its own, seeded or not, so that no reply changes what another one says.
Where the chances are, in tensors, is the engine's business; here is what is drawn and what counts. Pure.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from workers.adapter import Request

__all__ = ["LIKELIEST", "Choice", "choice_of"]

NEUTRAL: Final[Mapping[str, float]] = {
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""What changes nothing."""
BELOW_ONE: Final = 1.0 - 2.0**-24
"""The largest number below one that 32 bits hold: as a share of a sum it never is the whole of it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What one reply's tokens are chosen by."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    chance: random.Random = field(repr=False)
    seeded: bool = False
    """The same words are wanted again."""

    @property
    def greedy(self) -> bool:
        """Whether it always is the likeliest one."""
        return self.temperature <= 0 or self.top_k == 1

    @property
    def cuts(self) -> bool:
        """Whether unlikely tokens are left out."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    @property
    def remembers(self) -> bool:
        """Whether it matters what was said before."""
        said = (self.presence_penalty, self.frequency_penalty)
        return self.repetition_penalty != 1 or any(said)

    def draw(self) -> float:
        """The next number of this reply, from 0 to just below 1."""
        return min(self.chance.random(), BELOW_ONE)


LIKELIEST: Final = Choice(0.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0, random.Random(0))  # noqa: S311  # it draws nothing
"""Always the likeliest token."""


def choice_of(request: Request) -> Choice:
    """What the request says; a reply without a seed gets one of the system's."""
    given = {**NEUTRAL, **{name: request.sampling[name] for name in NEUTRAL if name in request.sampling}}
    seed = request.sampling.get("seed")
    return Choice(
        temperature=request.temperature,
        top_k=max(int(given["top_k"]), 0),
        top_p=given["top_p"],
        min_p=given["min_p"],
        repetition_penalty=given["repetition_penalty"],
        presence_penalty=given["presence_penalty"],
        frequency_penalty=given["frequency_penalty"],
        chance=random.Random(None if seed is None else int(seed)),  # noqa: S311  # the same again is the point
        seeded=seed is not None,
    )

"""Draws the tokens of a reply with a seed of its own, for engines whose randomness belongs to all requests.

The engine says how likely the next tokens are; which one it becomes is decided here, the same for the same
seed. Pure. Only the likeliest tokens are told, so what is drawn comes from those. A token that is part of a
letter is taken only where it is the likeliest: alone it could not be said in text.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from workers.adapter import Request

__all__ = ["END_HELD", "Candidate", "Draw"]

END_HELD: Final = 5.0
"""So much less likely, as a logarithm, the engine is told to take the end of a reply: it ends a reply itself
where that is the likeliest, and then tells nothing. Added again before drawing."""
_PART: Final = "\ufffd"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that may be next."""

    id: int
    text: str
    """What it says alone; U+FFFD where it is a part of a letter."""
    log_chance: float
    """At temperature 1, with the engine's own penalties."""


class Draw:
    """The draws of one reply; used once."""

    def __init__(self, request: Request, ends: Collection[int]) -> None:
        sampling = request.sampling
        self._random = random.Random(int(sampling["seed"]))  # noqa: S311  # the same again is the point
        self._temperature = request.temperature
        self._top_k = int(sampling.get("top_k", 0))
        self._top_p = sampling.get("top_p", 1.0)
        self._min_p = sampling.get("min_p", 0.0)
        self._presence = sampling.get("presence_penalty", 0.0)
        self._frequency = sampling.get("frequency_penalty", 0.0)
        self._ends = frozenset(ends)
        self._said: Counter[int] = Counter()

    def choose(self, candidates: Sequence[Candidate]) -> Candidate:
        """The next token; the candidates come with the likeliest first."""
        whole = [one for one in candidates[1:] if _PART not in one.text]
        scored = sorted(
            ((self._score(one), one) for one in (candidates[0], *whole)),
            key=lambda item: (-item[0], item[1].id),
        )
        chosen = self._drawn(scored)
        self.note(chosen)
        return chosen

    def note(self, candidate: Candidate) -> None:
        """That token was said."""
        self._said[candidate.id] += 1

    def _score(self, one: Candidate) -> float:
        score = one.log_chance + (END_HELD if one.id in self._ends else 0.0)
        times = self._said[one.id]
        score -= times * self._frequency + (self._presence if times else 0.0)
        return score / self._temperature

    def _drawn(self, scored: list[tuple[float, Candidate]]) -> Candidate:
        best = scored[0][0]
        weights = [math.exp(score - best) for score, _ in scored]
        kept = self._kept(weights)
        left = self._random.random() * sum(weights[:kept])
        for (_, one), weight in zip(scored[:kept], weights, strict=False):
            left -= weight
            if left <= 0:
                return one
        return scored[0][1]

    def _kept(self, weights: list[float]) -> int:
        """How many of the weights, from the first one, may be drawn."""
        kept = min(self._top_k, len(weights)) if self._top_k > 0 else len(weights)
        total, reached = sum(weights[:kept]), 0.0
        for number, weight in enumerate(weights[:kept]):
            if number and (reached >= self._top_p * total or weight < self._min_p):
                return number
            reached += weight
        return kept

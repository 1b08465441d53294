"""The next token of a reply, chosen from the chances that an engine says as an array of numbers.

As workers.torch_choice, for engines that bring no torch; what counts stands in workers.token_choice. Pure,
but for the reply's own source of chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from workers.token_choice import Choice

__all__ = ["Chooser"]

FIRST: Final = 1024
"""Tokens that are looked at before all are: more than top_p takes, of a model that knows what to say."""

Array: TypeAlias = "np.ndarray[Any, Any]"


class Chooser:
    """Chooses the tokens of one reply, one after the other."""

    def __init__(self, choice: Choice, prompt: Sequence[int]) -> None:
        self._choice = choice
        self._seen = set(prompt)
        """What the repetition penalty is for."""
        self._said: dict[int, int] = {}
        """How often each token was chosen."""

    def next(self, scores: bytes) -> int:
        """The next token, by the scores of all of them as 32-bit numbers."""
        chances = np.frombuffer(scores, dtype=np.float32)
        if self._choice.remembers:
            chances = self._penalised(chances.copy())
        token = int(chances.argmax()) if self._choice.greedy else _drawn(chances, self._choice)
        self._seen.add(token)
        self._said[token] = self._said.get(token, 0) + 1
        return token

    def _penalised(self, scores: Array) -> Array:
        choice = self._choice
        if choice.repetition_penalty != 1:
            seen = np.fromiter(self._seen, dtype=np.int64)
            old = scores[seen]
            scores[seen] = np.where(old < 0, old * choice.repetition_penalty, old / choice.repetition_penalty)
        if self._said and (choice.presence_penalty or choice.frequency_penalty):
            tokens = np.fromiter(self._said, dtype=np.int64)
            times = np.fromiter(self._said.values(), dtype=np.float32)
            scores[tokens] -= times * choice.frequency_penalty + choice.presence_penalty
        return scores


def _drawn(scores: Array, choice: Choice) -> int:
    """One of the tokens that may be drawn. Sorting a whole vocabulary takes longer than some models take for
    a token (20 ms for 152,000), so at first only the likeliest are looked at."""
    with np.errstate(over="ignore"):  # next to nothing as a temperature
        below = (scores - scores.max()) / np.float32(choice.temperature)
    if not choice.cuts:
        return _place(np.exp(below), choice)
    tokens, chances = _likeliest(below, choice.top_k or FIRST)
    kept = _kept(chances / (chances if choice.top_k else np.exp(below)).sum(dtype=np.float64), choice)
    if not choice.top_k and kept[-1]:  # there may be more
        tokens, chances = _likeliest(below, below.size)
        kept = _kept(chances / chances.sum(), choice)
    return int(tokens[_place(chances * kept, choice)])


def _likeliest(below: Array, count: int) -> tuple[Array, Array]:
    """So many tokens, the likeliest first, and how likely they are beside it."""
    from_place = max(below.size - count, 0)
    places = np.argpartition(below, from_place)[from_place:]
    tokens = places[np.argsort(-below[places], kind="stable")]
    return tokens, np.exp(below[tokens].astype(np.float64))


def _place(chances: Array, choice: Choice) -> int:
    """Where the share of all chances lies that is drawn."""
    sums = chances.cumsum(dtype=np.float64)
    return min(int(np.searchsorted(sums, sums[-1] * choice.draw(), side="right")), chances.size - 1)


def _kept(chances: Array, choice: Choice) -> Array:
    """Which of them may be drawn; they come with the likeliest first, which always may."""
    before = chances.cumsum() - chances
    kept: Array = (before < choice.top_p) & (chances >= choice.min_p * chances[0])
    kept[0] = True
    return kept

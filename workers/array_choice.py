"""The next token of a reply, chosen from the chances that an engine says as an array of numbers.

As workers.torch_choice, for engines that bring no torch; what counts stands in workers.token_choice. The only
import of numpy. Pure, but for the reply's own source of chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from workers.token_choice import Choice

__all__ = ["Chooser"]

FAR: Final = 40.0
"""How far below the best one a token is never drawn: all tokens of a large vocabulary that are further away
have together less than one chance in 10^12."""

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
    """One of the tokens that may be drawn."""
    below = (scores.astype(np.float64) - scores.max()) / choice.temperature
    tokens = np.flatnonzero(below > -FAR)
    if choice.cuts:
        tokens = tokens[np.argsort(-below[tokens], kind="stable")][: choice.top_k or None]
    chances = np.exp(below[tokens])
    chances /= chances.sum()
    if choice.cuts:
        chances *= _kept(chances, choice)
    sums = chances.cumsum()
    place = int(np.searchsorted(sums, sums[-1] * choice.draw(), side="right"))
    return int(tokens[min(place, len(tokens) - 1)])


def _kept(chances: Array, choice: Choice) -> Array:
    """Which of them may be drawn; they come with the likeliest first, which always may."""
    before = chances.cumsum() - chances
    kept: Array = (before < choice.top_p) & (chances >= choice.min_p * chances[0])
    kept[0] = True
    return kept

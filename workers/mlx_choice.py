"""Chooses the next token of a reply from the scores of all tokens, in arrays of MLX.

Each reply draws from its own source of chance (workers.token_choice), a number for each token: MLX has one
for the whole process, which is not used. Nothing here waits: MLX computes when the token is looked at, while
the one after it is prepared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from workers.mlx_library import mx
from workers.token_choice import Choice

__all__ = ["Array", "penalties", "sampler"]

Array = Any
"""Of MLX, whose types are not there where it is not."""


def sampler(choice: Choice) -> Callable[[Array], Array]:
    """What chooses one reply's tokens: scores of all tokens in one row, and the token in one place."""

    def chosen(scores: Array) -> Array:
        if choice.greedy:
            return scores.argmax(axis=-1).astype(mx.int32)
        return _chosen(scores[0].astype(mx.float32) / choice.temperature, choice).astype(mx.int32)

    return chosen


def penalties(
    choice: Choice, prompt_length: int, before: Sequence[int] = ()
) -> list[Callable[[Array, Array], Array]]:
    """What makes tokens less likely that came before, as the library wants it: none where nothing does.

    `before`: the beginning of the prompt, where the library does not know of it."""
    if not choice.remembers:
        return []
    first = mx.array(list(before), dtype=mx.int32)

    def penalised(tokens: Array, scores: Array) -> Array:
        seen = mx.concatenate([first, tokens.astype(mx.int32)])
        return _penalised(scores[0], choice, seen, seen[prompt_length:])[None]

    return [penalised]


def _chosen(scores: Array, choice: Choice) -> Array:
    if not choice.cuts:
        return _drawn(mx.softmax(scores), choice.draw())
    if choice.top_k or choice.top_p < 1:
        tokens = _likeliest(scores, choice.top_k)
        chances = mx.softmax(scores[tokens])
        before = chances.cumsum() - chances
        kept = (before < choice.top_p) & (chances >= choice.min_p * chances[0])
        kept = kept | (mx.arange(chances.size) == 0)
        return tokens[_drawn(mx.where(kept, chances, 0.0), choice.draw())]
    chances = mx.softmax(scores)  # that some are far less likely is seen without an order
    return _drawn(mx.where(chances >= choice.min_p * chances.max(), chances, 0.0), choice.draw())


def _likeliest(scores: Array, count: int) -> Array:
    """So many tokens, or all of them, the likeliest first."""
    if not 0 < count < scores.size:
        return mx.argsort(-scores)
    best = mx.argpartition(-scores, kth=count - 1)[:count]
    return best[mx.argsort(-scores[best])]


def _drawn(chances: Array, share: float) -> Array:
    """The place in which that share of all chances lies."""
    sums = chances.cumsum()
    place = (sums <= sums[-1:] * share).sum(keepdims=True)
    return mx.minimum(place, chances.size - 1)


def _penalised(scores: Array, choice: Choice, seen: Array, said: Array) -> Array:
    scores = scores.astype(mx.float32)
    if choice.repetition_penalty != 1:
        old = scores[seen]
        weaker = mx.where(old < 0, old * choice.repetition_penalty, old / choice.repetition_penalty)
        scores[seen] = weaker
    if said.size and (choice.presence_penalty or choice.frequency_penalty):
        times = mx.zeros(scores.shape).at[said].add(1.0)
        scores = scores - times * choice.frequency_penalty - (times > 0) * choice.presence_penalty
    return scores

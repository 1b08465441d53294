"""Chooses the next token of a reply from the scores of all tokens, in tensors.

Each reply draws from its own source of chance (workers.token_choice), a number for each token: the same
scores and the same seed give the same token, whatever else the engine does. Nothing here waits for a GPU,
but where only likely tokens may be chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from workers.hf_library import torch
from workers.token_choice import Choice

__all__ = ["Tensor", "chosen", "only"]

Tensor = Any
"""Of torch, whose types are not there where it is not."""
FIRST: Final = 1024
"""Tokens that are looked at first where only the likeliest may be chosen; sorting all takes milliseconds."""


def chosen(scores: Tensor, choice: Choice, prompt: Sequence[int], said: Sequence[int]) -> Tensor:
    """The next token of one reply, from the scores of all tokens; nothing waits for a GPU here."""
    if choice.remembers:
        scores = _penalised(scores, choice, prompt, said)
    if choice.greedy:
        return scores.argmax()
    scores = scores / choice.temperature
    if not choice.cuts:
        return _drawn(scores.softmax(-1), choice.draw())
    best, tokens = scores.topk(min(choice.top_k or FIRST, scores.numel()))
    chances = best.softmax(-1) if choice.top_k else (best - scores.logsumexp(-1)).exp()
    kept = _kept(chances, choice)
    if not choice.top_k and kept[-1]:  # there may be more
        best, tokens = scores.sort(descending=True)
        chances = best.softmax(-1)
        kept = _kept(chances, choice)
    return tokens[_drawn(chances * kept, choice.draw())]


def _kept(chances: Tensor, choice: Choice) -> Tensor:
    """Which of them may be drawn; they come with the likeliest first, which always may."""
    before = chances.cumsum(-1) - chances
    kept = (before < choice.top_p) & (chances >= choice.min_p * chances[0])
    kept[0] = True
    return kept


def _drawn(chances: Tensor, share: float) -> Tensor:
    """The place in which that share of all chances lies."""
    sums = chances.cumsum(-1)
    place = torch.searchsorted(sums, sums[-1:] * share, right=True)[0]
    return place.clamp(max=chances.numel() - 1)


def _penalised(scores: Tensor, choice: Choice, prompt: Sequence[int], said: Sequence[int]) -> Tensor:
    scores = scores.clone()
    if choice.repetition_penalty != 1:
        seen = torch.tensor(sorted({*prompt, *said}), device=scores.device)
        old = scores[seen]
        scores[seen] = torch.where(old < 0, old * choice.repetition_penalty, old / choice.repetition_penalty)
    if said and (choice.presence_penalty or choice.frequency_penalty):
        tokens, times = torch.tensor(said, device=scores.device).unique(return_counts=True)
        scores[tokens] -= times * choice.frequency_penalty + choice.presence_penalty
    return scores


def only(scores: Tensor, tokens: Sequence[Tensor]) -> Tensor:
    """Scores by which nothing but these can be chosen, one in each row."""
    made = torch.full_like(scores, -torch.inf)
    return made.scatter(1, torch.stack(list(tokens)).view(-1, 1), 0.0)

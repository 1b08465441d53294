"""How a converted model makes replies: one after the other, a token at a time.

The model keeps what it has computed of a conversation. So the next turn goes on from where the two are the
same, and only what is new is computed, in steps between which an interrupt is heard. A reply with a seed
begins anew: what was computed in other steps differs in its last digits, and a seed is to say the same again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Final

import numpy as np

from workers.engine_thread import Take
from workers.hf_library import torch
from workers.openvino_library import OVModelForCausalLM, openvino
from workers.openvino_options import CPU, Used
from workers.token_job import Job
from workers.torch_choice import Tensor, chosen
from workers.torch_replies import InThread, OneByOne, warmed

__all__ = ["Stateful", "runner_of"]

STEP: Final = {CPU: 128}
"""Tokens of a prompt that are computed at once, by device: an interrupt waits for as many."""
GPU_STEP: Final = 512
KEPT_MIN: Final = 32
"""Fewer tokens are computed anew: to cut what is kept, all of it is copied."""
_PLACES_AXIS: Final = 2
"""Keys and values are (batch, heads, places, width)."""


def runner_of(model: Any, used: Used, prompt: Sequence[int]) -> InThread:
    """The way that suits a model, which has said its first token after that prompt. Blocks.

    Raises:
        AdapterError: it says none.
    """
    plain = (
        type(model) is OVModelForCausalLM and model.stateful
    )  # others prepare their input in ways of their own
    return warmed(Stateful(model, used) if plain else OneByOne(model), prompt)


class Stateful(InThread):
    """With the model's own memory."""

    def __init__(self, model: Any, used: Used) -> None:
        super().__init__()
        self._model = model
        self._step = STEP.get(used.device, GPU_STEP)
        self._keeps = used.prefix_cache
        self._kept: list[int] = []
        """The tokens that the model's memory holds."""

    def run(self, job: Job, take: Take[Sequence[int]]) -> None:
        """As InThread says."""
        start = self._start(job)
        job.computed = len(job.prompt) - start
        scores: Tensor = None
        for at in range(start, len(job.prompt), self._step):
            if take(()):
                return
            scores = self._computed(job.prompt[at : at + self._step])
        said: list[int] = []
        while True:
            said.append(int(chosen(scores, job.choice, job.prompt, said)))
            if take(said[-1:]) or len(said) >= job.limit or said[-1] in job.ends:
                return
            scores = self._computed(said[-1:])

    def _start(self, job: Job) -> int:
        """How many of the prompt's tokens need not be computed; the last one must be."""
        pairs = zip(self._kept, job.prompt[:-1], strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if self._keeps and not job.choice.seeded and same >= KEPT_MIN and self._cut(same):
            return same
        self._kept = []
        return 0

    def _cut(self, count: int) -> bool:
        """Forgets all but the first tokens; false where that cannot be done."""
        if count == len(self._kept):
            return True
        states = self._model.request.query_state()
        values = [state.state for state in states]
        if any(not _is_of_places(value.shape, len(self._kept)) for value in values):
            return False
        for state, value in zip(states, values, strict=True):
            state.state = openvino.Tensor(np.ascontiguousarray(value.data[:, :, :count]))
        del self._kept[count:]
        self._model._past_length = count
        return True

    def _computed(self, tokens: Sequence[int]) -> Tensor:
        """The scores of the token after these, which come after what is kept."""
        past = ((),) if self._kept else None  # as the model itself says that it has a past
        self._kept = [*self._kept, *tokens]
        made = self._model(
            input_ids=torch.tensor([list(tokens)]),
            attention_mask=torch.ones(1, len(self._kept), dtype=torch.long),
            past_key_values=past,
        )
        return made.logits[0, -1]


def _is_of_places(shape: Sequence[int], places: int) -> bool:
    return len(shape) > _PLACES_AXIS and shape[_PLACES_AXIS] == places

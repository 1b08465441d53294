"""How a loaded model makes one reply after the other: in a thread that asks after each token whether more are
wanted. Every model can go that way.

`OneByOne` does it with transformers' own `generate`, which would choose from one source of chance for the
whole process. So what is chosen is chosen by workers.torch_choice, and the library finds no other token
possible. workers.torch_batch makes several replies at once, workers.openvino_replies those of converted
models.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from workers.adapter import AdapterError
from workers.engine_thread import Pieces, Take
from workers.hf_library import torch, transformers
from workers.token_choice import LIKELIEST
from workers.token_job import Job, Runner
from workers.torch_choice import Tensor, chosen, only
from workers.torch_faults import ERRORS, failed

__all__ = ["InThread", "OneByOne", "warmed"]


R = TypeVar("R", bound=Runner)


def warmed(runner: R, prompt: Sequence[int]) -> R:
    """The runner, after its first token. Blocks.

    Raises:
        AdapterError: it says none; it is stopped then.
    """
    try:
        runner.warm_up(prompt)
    except BaseException:  # whatever it is, no thread stays
        runner.stop()
        raise
    return runner


class InThread(abc.ABC):
    """One reply at a time, in a thread of its own."""

    places = 1

    def __init__(self) -> None:
        self.broken = False
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="engine")

    @abc.abstractmethod
    def run(self, job: Job, take: Take[Sequence[int]]) -> None:
        """Makes a reply and hands its tokens over, until nobody wants more. Blocks, in the thread.

        Raises:
            one of ERRORS.
        """

    async def answer(self, job: Job, let_go: Callable[[], None]) -> AsyncGenerator[Sequence[int], None]:
        """As Runner says."""

        def run(take: Take[Sequence[int]]) -> None:
            self.run(job, take)

        pieces = Pieces[Sequence[int]](self._threads, run, self._refused, (*ERRORS, MemoryError))
        pieces.work.add_done_callback(lambda _: let_go())
        async with contextlib.aclosing(pieces.taken()) as taken:
            async for tokens in taken:
                yield tokens

    def warm_up(self, prompt: Sequence[int]) -> None:
        """As Runner says."""
        try:
            asyncio.run(self._warm_up(prompt))
        except ERRORS as exc:
            raise failed(exc) from exc

    async def _warm_up(self, prompt: Sequence[int]) -> None:
        """In a loop, where jobs are made."""
        self.run(Job(prompt, limit=1, ends=frozenset(), choice=LIKELIEST), lambda tokens: False)

    def _refused(self, error: Exception) -> AdapterError:
        self.broken = True
        return failed(error)

    def stop(self) -> None:
        """As Runner says."""
        self._threads.shutdown()


class _Watch(transformers.StoppingCriteria):  # type: ignore[misc]  # the library has no types
    """Hands over every token, and hears whether more are wanted."""

    def __init__(self, job: Job, take: Take[Sequence[int]]) -> None:
        self._job = job
        self._take = take

    def __call__(self, input_ids: Tensor, scores: Any, **more: Any) -> Tensor:
        """After each token."""
        token = int(input_ids[0, -1])
        over = self._take((token,)) or token in self._job.ends
        return torch.tensor([over], device=input_ids.device)


class _Choose(transformers.LogitsProcessor):  # type: ignore[misc]  # as above
    """Chooses for `generate`."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Before each token."""
        job = self._job
        said = input_ids[0, len(job.prompt) :].tolist() if job.choice.remembers else ()
        return only(scores, [chosen(scores[0], job.choice, job.prompt, said)])


class OneByOne(InThread):
    """With `generate`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model

    def run(self, job: Job, take: Take[Sequence[int]]) -> None:
        """As InThread says."""
        job.computed = len(job.prompt)
        prompt = torch.tensor([job.prompt], device=self._model.device)
        self._model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=job.limit,
            do_sample=False,
            pad_token_id=0,
            logits_processor=transformers.LogitsProcessorList([_Choose(job)]),
            stopping_criteria=transformers.StoppingCriteriaList([_Watch(job, take)]),
        )

"""Several replies of a model of transformers at once, in the library's continuous batch.

A thread of its own computes one token of all open replies together, and prompts in pieces. A cancelled reply
is out of the batch at its next step. The batch would choose with one setting for all replies; so what is
chosen is chosen by workers.torch_choice, and it finds no other token possible.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Final

from workers.adapter import AdapterError
from workers.codes import Code
from workers.hf_library import continuous_batching_config, output_router, torch, transformers
from workers.token_choice import LIKELIEST
from workers.token_job import Job, Runner
from workers.torch_choice import Tensor, chosen, only
from workers.torch_faults import ERRORS, failed, is_no_memory
from workers.torch_options import CPU, Used
from workers.torch_replies import OneByOne, warmed

__all__ = ["Batch", "runner_of"]

PAGE: Final = 32
"""Tokens that the batch keeps together, and that a later reply with the same beginning can take over."""
STEP: Final = {CPU: 128}
"""Tokens of prompts that are computed at once, by device: an interrupt waits for as many."""
GPU_STEP: Final = 512
WARM_UP_S: Final = 600.0
"""For one token: a large model that is read from a slow disk again and again."""
STOP_S: Final = 10.0
"""For the batch's thread to end, which looks at it after every step."""
_LOG = logging.getLogger(__name__)
_PAGED: Final = frozenset(("full_attention", "sliding_attention"))
"""The kinds of layers that the batch keeps contexts for."""


def runner_of(model: Any, used: Used, prompt: Sequence[int]) -> Runner:
    """The way that suits a model, which has said its first token after that prompt. Blocks.

    Raises:
        AdapterError: it says none.
        one of ERRORS.
    """
    if _batches(model):
        attention = model.config._attn_implementation
        try:
            return warmed(Batch(model, used), prompt)
        except (*ERRORS, AdapterError) as exc:
            if is_no_memory(exc):
                raise
            _LOG.warning("%s is not served in a batch: %s", type(model).__name__, exc)
            model.set_attn_implementation(attention)  # the batch may have changed it
    return warmed(OneByOne(model), prompt)


class _Router(output_router):  # type: ignore[misc]  # the library has no types
    """Brings what the batch has made to the jobs; what nobody waits for is dropped."""

    def __init__(self, jobs: Mapping[str, Job]) -> None:
        super().__init__()
        self._jobs = jobs

    def deliver(self, output: Any) -> None:
        """Called in the batch's thread."""
        job = self._jobs.get(output.request_id)
        if job is None:
            return
        if output.error is not None:
            job.fail(RuntimeError(output.error))
        else:
            job.bring(output.generated_tokens, over=output.is_finished())

    def deliver_batch(self, outputs: list[Any]) -> None:
        """As above."""
        for output in outputs:
            self.deliver(output)


class _Sampler:
    """Chooses for the batch, in the place of its list of logits processors: one call for each step."""

    tensors_required = 0
    do_processing = True

    def __init__(self, jobs: Mapping[str, Job]) -> None:
        self._jobs = jobs
        self._rows: list[Any] = []

    def check_kwargs(self, kwargs: Mapping[str, Any]) -> None:
        """There are none."""

    def fill_defaults(self, tensor: Tensor) -> None:
        """There are none."""

    def prepare_tensor_args(self, requests_in_batch: list[Any], arg_storage: Tensor) -> Tensor:
        """Notes which replies this step is for, in the order of its rows."""
        self._rows = [request.state for request in requests_in_batch if request.has_new_token]
        for request in requests_in_batch:
            job = self._jobs.get(request.state.request_id)
            if job is not None and not request.state.generated_tokens:
                job.computed += request.query_length
                job.bring((), over=False)
        return arg_storage

    def __call__(self, input_ids: Tensor, scores: Tensor, more: Tensor) -> Tensor:
        """The scores of the step, with which the batch chooses what is chosen here. After the rows that make
        a token come others, of prompts that are not at their ends."""
        tokens = [self._token(state, row) for state, row in zip(self._rows, scores, strict=False)]
        made = len(tokens)
        return torch.cat((only(scores[:made], tokens), scores[made:])) if made else scores

    def _token(self, state: Any, scores: Tensor) -> Tensor:
        job = self._jobs.get(state.request_id)
        if job is None:  # cancelled meanwhile
            return scores.argmax()
        return chosen(scores, job.choice, job.prompt, state.generated_tokens)


class Batch:
    """All replies of a model at once."""

    def __init__(self, model: Any, used: Used) -> None:
        """Makes the memory for contexts, and starts. Blocks.

        Raises:
            one of ERRORS: the model is none for it.
        """
        self.places = used.slots
        self.broken = False
        self._jobs: dict[str, Job] = {}
        plan = transformers.GenerationConfig(do_sample=False, eos_token_id=-1)
        pages = -(-used.context_length // PAGE) + 1
        self._manager = model.init_continuous_batching(plan, _batch_config(used, pages))
        self._manager.logit_processor = _Sampler(self._jobs)
        self._manager.output_router = _Router(self._jobs)
        with torch.inference_mode():
            self._manager.start()

    async def answer(self, job: Job, let_go: Callable[[], None]) -> AsyncGenerator[Sequence[int], None]:
        """As Runner says."""
        over = False
        self._jobs[job.id] = job
        try:
            self._add(job)
            while not over:
                tokens, over = await job.next()
                yield tokens
        except RuntimeError as exc:  # it ends all replies of a batch, and the batch
            over = self.broken = True
            raise failed(exc) from exc
        finally:
            self._jobs.pop(job.id, None)
            if not over:
                self._manager.cancel_request(job.id)
            let_go()

    def warm_up(self, prompt: Sequence[int]) -> None:
        """As Runner says."""
        try:
            asyncio.run(asyncio.wait_for(self._warm_up(prompt), WARM_UP_S))
        except asyncio.TimeoutError as exc:
            sentence = f"The engine said nothing within {WARM_UP_S:.0f} s: take a smaller model."
            raise AdapterError(Code.TIMEOUT, sentence) from exc

    async def _warm_up(self, prompt: Sequence[int]) -> None:
        job = Job(prompt, limit=1, ends=frozenset(), choice=LIKELIEST)
        async with contextlib.aclosing(self.answer(job, lambda: None)) as tokens:
            async for _ in tokens:
                pass

    def _add(self, job: Job) -> None:
        added = self._manager.add_request(
            job.prompt, job.id, max_new_tokens=job.limit, streaming=True, eos_token_id=list(job.ends) or -1
        )
        if added is None:
            raise RuntimeError("the batch has ended")

    def stop(self) -> None:
        """As Runner says."""
        self._manager.stop(block=True, timeout=STOP_S, hard_stop=True)


def _batch_config(used: Used, pages: int) -> Any:
    return continuous_batching_config(
        page_size=PAGE,
        num_blocks=pages * used.slots,
        max_batch_tokens=STEP.get(used.device, GPU_STEP),
        max_requests_per_batch=used.slots,
        allow_block_sharing=used.prefix_cache,
        safety_margin=0.0,  # each place has pages for a whole context
        use_cuda_graph=False,  # a graph cannot ask what to choose
        use_async_batching=False,
        auto_switch_to_flash=False,  # it would look for kernels on the hub
        per_request_processors=False,
    )


def _batches(model: Any) -> bool:
    """Whether the batch says that it can hold a model of that kind."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ("full_attention",))
    whole = not (getattr(model, "_is_stateful", False) or getattr(config, "is_encoder_decoder", False))
    return whole and kinds <= _PAGED and bool(getattr(model, "_supports_attention_backend", False))

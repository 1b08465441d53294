"""How a model of MLX makes replies: some together in the library's batch, others each by itself.

1. What MLX prepares in one thread it cannot compute in another. So one thread loads the model, makes all
   replies, and lets it go: whatever is asked of it stands in its line.
2. It goes in rounds: a token for every reply in the batch, or a piece of its prompt, then the same for every
   one that is by itself. Between two rounds replies come and go, so an interrupt waits for one round.
3. Numbers that are computed in another company, or in other pieces, differ in their last digits. So a reply
   with a seed is by itself and from its beginning: it is the same whoever else talks. By itself is also what
   the batch cannot hold.
4. What was computed of a conversation is kept for its next turn, however the reply ended.
"""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

from workers.engine_faults import RAISED
from workers.kept_prefixes import KeptPrefixes, Record
from workers.mlx_choice import penalties, sampler
from workers.mlx_faults import failed, is_no_memory
from workers.mlx_library import (
    BatchGenerator,
    StopSequences,
    can_trim_prompt_cache,
    clear,
    generate_step,
    generation_stream,
    has_gpu,
    make_prompt_cache,
    mx,
    trim_prompt_cache,
)
from workers.token_job import Job

__all__ = ["Replies"]

STEP: Final = 128
"""Tokens of a prompt that a processor computes at once: an interrupt waits for as many."""
GPU_STEP: Final = 512
REHEARSED: Final = 3
"""Replies together, to see whether a model can. It is no number of heads, with which a wrong shape would
seem right."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    """What was computed of a prompt before."""

    count: int
    """Of its first tokens."""
    cache: list[Any] | None


class _Source(Protocol):
    """Where the tokens of a reply come from."""

    @property
    def over(self) -> bool:
        """Nothing more comes."""

    def leave(self) -> Record[list[Any]]:
        """Nobody wants more; what was computed."""


class Replies:
    """A loaded model and its replies; made by a thread that may wait, used by one event loop."""

    def __init__(self, *, places: int, kept_bytes: int) -> None:
        self.places = places
        self.broken = False
        """It makes no reply any more."""
        self._jobs: dict[str, Job] = {}
        self._sources: dict[str, _Source] = {}
        """Of the jobs that are begun."""
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._rounds = False
        """Whether the next round is in line."""
        self._model: Any = None
        self._batch: _Batch | None = None
        self._kept: KeptPrefixes[list[Any]] = KeptPrefixes(kept_bytes)

    def start(self, load: Callable[[], Any], prompt: Sequence[int]) -> None:
        """Loads the model, and lets it say one token after that prompt. Blocks.

        Raises:
            AdapterError: the load was given up.
            one of RAISED: it cannot be loaded.
        """
        try:
            self._threads.submit(self._start, load, prompt).result()
        except BaseException:  # whatever it is, neither model nor thread stays
            self.stop()
            raise

    async def answer(self, job: Job, let_go: Callable[[], None]) -> AsyncGenerator[Sequence[int], None]:
        """As token_engine.Runner says."""
        over = False
        self._submit(self._enter, job)
        try:
            while not over:
                tokens, over = await job.next()
                yield tokens
        finally:
            self._submit(self._leave, job)
            let_go()  # whoever comes now stands in line behind that

    def stop(self) -> None:
        """Gives the memory back and ends the thread; no reply may be open. Blocks."""
        self._threads.submit(self._drop).result()
        self._threads.shutdown()

    # ---- in the thread

    def _start(self, load: Callable[[], Any], prompt: Sequence[int]) -> None:
        self._model = load()
        if _goes_together(self._model, prompt):
            self._batch = _Batch(self._model, self.places)
        else:
            next(generate_step(mx.array(list(prompt)), self._model, max_tokens=1))

    def _enter(self, job: Job) -> None:
        self._jobs[job.id] = job
        if self.broken:
            raise RuntimeError("it had failed before")
        known = _Known(0, None) if job.choice.seeded else self._known(job)
        if self._batch is None or job.choice.seeded:
            self._sources[job.id] = _Alone(self._model, job, known)
        else:
            self._sources[job.id] = self._batch.enter(job, known)
        if not self._rounds:
            self._rounds = True
            self._submit(self._round)

    def _round(self) -> None:
        """A token for every reply; at its end the next round takes its place in line."""
        self._rounds = False
        if self._batch is not None:
            self._batch.round()
        for source in self._sources.values():
            if isinstance(source, _Alone):
                source.round()
        if not all(source.over for source in self._sources.values()):
            self._rounds = True
            self._submit(self._round)

    def _leave(self, job: Job) -> None:
        """A reply is over, or nobody wants it any more."""
        self._jobs.pop(job.id, None)
        source = self._sources.pop(job.id, None)
        if source is None or self.broken:
            return
        record = source.leave()
        if record.tokens:
            self._kept.keep(record)

    def _known(self, job: Job) -> _Known:
        count, record = self._kept.nearest(job.prompt)
        if record is None:
            return _Known(0, None)
        cache = copy.deepcopy(record.value)  # of another conversation it may be the beginning, too
        if count < len(record.tokens):
            trim_prompt_cache(cache, len(record.tokens) - count)
        return _Known(count, cache)

    def _drop(self) -> None:
        if self._batch is not None:
            self._batch.close()
        self._batch = self._model = None
        self._kept = KeptPrefixes(0)
        gc.collect()
        clear()

    # ---- in both

    def _submit(self, work: Callable[..., None], *arguments: Any) -> None:
        self._threads.submit(work, *arguments).add_done_callback(self._done)

    def _done(self, future: Future[None]) -> None:
        """Called in the thread: what goes wrong there ends all replies, whatever it is."""
        if (error := future.exception()) is None:
            return
        self.broken = True
        for job in self._jobs.values():
            job.fail(failed(error))


def _goes_together(model: Any, prompt: Sequence[int]) -> bool:
    """Whether the library's batch can hold a model's replies, which it does not know of all by itself: some
    cannot compute replies of different lengths together (Gemma 2's). Touches all weights.

    Raises:
        one of RAISED: the memory runs out.
    """
    if not all(hasattr(layer, "merge") for layer in make_prompt_cache(model)):
        return False
    batch = BatchGenerator(model, completion_batch_size=REHEARSED, prefill_batch_size=REHEARSED)
    prompts = [[*prompt] * (number + 1) for number in range(REHEARSED)]
    open_ones = set(batch.insert(prompts, max_tokens=[2] * REHEARSED))
    try:
        while open_ones:
            _, tokens = batch.next()
            open_ones -= {told.uid for told in tokens if told.finish_reason is not None}
    except RAISED as exc:
        if is_no_memory(exc):
            raise
        _LOG.warning("%s is not served in a batch: %s", type(model).__name__, exc)
        return False
    finally:
        batch.close()
    return True


class _Batch:
    """The replies that are computed together."""

    def __init__(self, model: Any, places: int) -> None:
        self._library = BatchGenerator(
            model,
            completion_batch_size=places,
            prefill_batch_size=places,
            prefill_step_size=GPU_STEP if has_gpu() else STEP,
        )
        self._jobs: dict[int, _Together] = {}

    def enter(self, job: Job, known: _Known) -> _Together:
        """Takes a reply in."""
        (number,) = self._library.insert(
            [job.prompt[known.count :]],
            max_tokens=[job.limit],
            caches=[known.cache],
            all_tokens=[job.prompt[: known.count]],
            samplers=[sampler(job.choice)],
            logits_processors=[penalties(job.choice, len(job.prompt))],
            stop_sequences=[StopSequences([[end] for end in job.ends])],
        )
        job.computed = len(job.prompt) - known.count
        self._jobs[number] = _Together(self, number, job)
        return self._jobs[number]

    def round(self) -> None:
        """A token of every reply, or a piece of its prompt."""
        if not self._jobs:
            return
        prompts, tokens = self._library.next()
        for told in prompts:
            self._jobs[told.uid].job.bring((), over=False)
        for told in tokens:
            reply = self._jobs[told.uid]
            reply.said.append(told.token)
            over = told.finish_reason is not None
            if over:
                reply.record = _record(told.all_tokens, told.prompt_cache)
                del self._jobs[told.uid]
            reply.job.bring(reply.said, over=over)

    def leave(self, number: int) -> Record[list[Any]]:
        """A reply that is not at its end goes; what was computed of it."""
        del self._jobs[number]
        cache, tokens = self._library.remove([number], return_prompt_caches=True)[number]
        return _record(tokens, cache)

    def close(self) -> None:
        """Nothing more comes."""
        self._library.close()


class _Together:
    """A reply in the batch."""

    def __init__(self, batch: _Batch, number: int, job: Job) -> None:
        self._batch = batch
        self._number = number
        self.job = job
        self.said: list[int] = []
        self.record: Record[list[Any]] | None = None
        """What was computed, once it is over."""

    @property
    def over(self) -> bool:
        """As _Source says."""
        return self.record is not None

    def leave(self) -> Record[list[Any]]:
        """As _Source says."""
        return self.record or self._batch.leave(self._number)


class _Alone:
    """A reply by itself."""

    def __init__(self, model: Any, job: Job, known: _Known) -> None:
        self._model = model
        self._job = job
        self._cache = known.cache or make_prompt_cache(model)
        self._fed = job.prompt[: known.count]
        """What the cache holds."""
        self._said: list[int] = []
        self._steps = self._run()
        self.over = False
        job.computed = len(job.prompt) - known.count

    def round(self) -> None:
        """Its next token, or a piece of its prompt."""
        if not self.over:
            self.over = next(self._steps, True)
            self._job.bring(self._said, over=self.over)

    def leave(self) -> Record[list[Any]]:
        """As _Source says."""
        self._steps.close()
        return _record(self._fed, self._cache)

    def _run(self) -> Generator[bool, None, None]:
        """False for every step, and True with the last token."""
        job, step = self._job, GPU_STEP if has_gpu() else STEP
        before = job.prompt[:-1]
        while len(self._fed) < len(before):
            piece = before[len(self._fed) : len(self._fed) + step]
            with mx.stream(generation_stream):
                self._model(mx.array([piece]), cache=self._cache)
                mx.eval([layer.state for layer in self._cache])
            self._fed += piece
            mx.clear_cache()
            yield False
        tokens = generate_step(
            mx.array(job.prompt[-1:]),
            self._model,
            max_tokens=job.limit,
            sampler=sampler(job.choice),
            logits_processors=penalties(job.choice, len(job.prompt), before),
            prompt_cache=self._cache,
        )
        self._fed += job.prompt[-1:]
        for token, _ in tokens:  # the library has fed it to the model before it says it
            self._fed.append(token)
            self._said.append(token)
            yield token in job.ends or len(self._said) >= job.limit


def _record(tokens: Sequence[int], cache: list[Any]) -> Record[list[Any]]:
    """To be kept; the arrays are computed, so that they do not hold what they come from."""
    if not tokens:
        return Record([], cache, 0, cuttable=False)
    mx.eval([layer.state for layer in cache])
    size = sum(layer.nbytes for layer in cache)
    return Record(list(tokens), cache, size, cuttable=can_trim_prompt_cache(cache))

"""Replies of a model in ONNX Runtime GenAI: prompts in, tokens out, conversations kept for their next turn.

1. A conversation is a Generator of the library's and the tokens that it has computed. There are never more of
   them than the model has places; when one more is wanted, the one that was used longest ago goes.
2. A reply takes the conversation that shares the longest beginning with its prompt, and computes what is
   new. What differs is taken back first; where a model cannot do that, a new conversation begins. So it
   does where little is shared and there is room: two clients must not take each other's.
3. A prompt is computed in steps, so that an interrupt in it waits for one.
4. Tokens are chosen here (workers.array_choice), each reply by its own source of chance, since the library
   fixes that for a whole conversation. Only where a grammar leads does the library choose: then the
   conversation is the reply's own, and ends with it.
5. With a seed nothing of another reply is taken but whole steps of its prompt: what is computed in other
   steps may differ in the last digit, and then the same seed might say something else.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from workers.array_choice import Chooser
from workers.genai_library import Generator, LibraryError, Model
from workers.token_choice import Choice

__all__ = ["Conversations", "GenaiJob"]


@dataclass(eq=False, slots=True)
class GenaiJob:
    """A reply to be made."""

    prompt: Sequence[int]
    limit: int
    """Tokens of the reply at most."""
    ends: frozenset[int]
    """Tokens that end it."""
    choice: Choice
    exact: bool
    """The same again must come of it: it has a seed."""
    grammar: tuple[str, str] | None = None
    """A kind of grammar, and what it says."""
    search: Mapping[str, float] | None = None
    """What the library is told where it chooses."""
    computed: int = 0
    """Tokens of the prompt that were computed for it; of the others an earlier reply's were taken."""


class _Talk:
    """One conversation. It belongs to one thread at a time."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.tokens: list[int] = []
        """What it has computed."""
        self.steps = 0
        """How many of them, from the first one, were computed in whole steps of a prompt."""

    def shared(self, job: GenaiJob, step: int) -> int:
        """How much of its beginning can be taken; one token is always computed, for what comes after it."""
        pairs = zip(self.tokens, job.prompt[:-1], strict=False)
        same = next((place for place, (old, new) in enumerate(pairs) if old != new), None)
        count = min(len(self.tokens), len(job.prompt) - 1) if same is None else same
        return min(count, self.steps) // step * step if job.exact else count

    def rewind(self, length: int) -> None:
        """Forgets all after that many tokens."""
        if length < len(self.tokens):
            self.generator.rewind(length)
            del self.tokens[length:]
            self.steps = min(self.steps, length)

    def append(self, tokens: Sequence[int]) -> None:
        """Computes so many more."""
        self.generator.append(tokens)
        self.tokens.extend(tokens)


class Conversations:
    """All of one model. Its methods may be called from several threads."""

    def __init__(self, model: Model, *, context_length: int, places: int, step: int, keeps: bool) -> None:
        """`step`: tokens of a prompt that are computed at once; `keeps`: for a next turn."""
        self._model = model
        self._context_length = context_length
        self._places = places
        self._step = step
        self._keeps = keeps
        self._idle: list[_Talk] = []
        """The one that was used last is the last."""
        self._busy = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        """Gives all of them back; no reply is being made."""
        for talk in self._idle:
            talk.generator.close()
        self._idle.clear()

    def reply(self, job: GenaiJob, take: Callable[[int | None], bool]) -> None:
        """Makes a reply; `take` gets its tokens, None as a sign of life, and says when nobody wants more.
        Blocks.

        Raises:
            LibraryError: the library refuses something.
        """
        with self._talk(job) as talk:
            if self._read(talk, job, take):
                return
            tokens = self._led(talk, job) if job.grammar else self._chosen(talk, job)
            for count, token in enumerate(tokens, 1):
                if take(token) or token in job.ends or count >= job.limit:
                    return

    def _read(self, talk: _Talk, job: GenaiJob, take: Callable[[int | None], bool]) -> bool:
        """Computes the prompt; true when nobody wants it any more."""
        job.computed = len(job.prompt) - len(talk.tokens)
        while new := job.prompt[len(talk.tokens) : len(talk.tokens) + self._step]:
            whole = talk.steps == len(talk.tokens) and len(new) == self._step
            talk.append(new)
            talk.steps += self._step if whole else 0
            if take(None):
                return True
        return False

    def _chosen(self, talk: _Talk, job: GenaiJob) -> Iterator[int]:
        chooser = Chooser(job.choice, job.prompt)
        while True:
            token = chooser.next(talk.generator.scores())
            yield token
            talk.append([token])

    def _led(self, talk: _Talk, job: GenaiJob) -> Iterator[int]:
        while not talk.generator.done:
            yield talk.generator.next()

    @contextlib.contextmanager
    def _talk(self, job: GenaiJob) -> Iterator[_Talk]:
        """The conversation for a reply, kept afterwards if nothing went wrong in it."""
        talk = self._new(job) if job.grammar else (self._continued(job) or self._new(job))
        kept = False
        try:
            yield talk
            kept = self._keeps and job.grammar is None
        finally:
            with self._lock:
                self._busy -= 1
                if kept:
                    self._idle.append(talk)
            if not kept:
                talk.generator.close()

    def _continued(self, job: GenaiJob) -> _Talk | None:
        """The idle conversation that shares most with the prompt, if any does."""
        with self._lock:
            best = max(self._idle, key=lambda talk: talk.shared(job, self._step), default=None)
            shared = best.shared(job, self._step) if best is not None else 0
            if best is None or not shared or self._is_better_left(best, shared):
                return None
            self._idle.remove(best)
            self._busy += 1
        try:
            best.rewind(shared)
        except LibraryError:  # some kinds of models cannot
            with self._lock:
                self._busy -= 1
            best.generator.close()
            return None
        return best

    def _is_better_left(self, talk: _Talk, shared: int) -> bool:
        """Whether it is somebody else's, who would miss more than the reply gains, and it need not go."""
        full = self._busy + len(self._idle) >= self._places
        return 2 * shared < len(talk.tokens) and not (full and talk is self._idle[0])

    def _new(self, job: GenaiJob) -> _Talk:
        with self._lock:
            self._busy += 1
            surplus = max(self._busy + len(self._idle) - self._places, 0)
            gone, self._idle[:surplus] = self._idle[:surplus], []
        for talk in gone:
            talk.generator.close()
        try:
            numbers = {"max_length": self._context_length, **(job.search or {})}
            return _Talk(Generator(self._model, numbers, job.grammar))
        except BaseException:
            with self._lock:
                self._busy -= 1
            raise

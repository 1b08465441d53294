"""A model in ONNX Runtime GenAI: requests become tokens for it, and its replies are begun and given back.

How it is loaded stands in the adapter, which alone has the package; how replies are made in
workers.genai_replies.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from workers.adapter import AdapterError, Request, Warn
from workers.chat_prompt import Prompt, manner_of, prompt_of, reply_limit
from workers.codes import Code
from workers.engine_memory import was_memory
from workers.engine_thread import Pieces, Take
from workers.genai_folder import GenaiModel
from workers.genai_library import Generator, LibraryError, Model, Tokenizer
from workers.genai_options import CPU, Given, Used, smaller
from workers.genai_replies import Conversations, GenaiJob
from workers.genai_request import check, grammar_of, search_of, unknown
from workers.machine import give_back_memory
from workers.redaction import redacted
from workers.token_choice import choice_of

__all__ = ["ERRORS", "STEP", "Asked", "Engine", "Wanted", "quoted"]

STEP: Final = 64
"""Tokens of a prompt that are computed at once: larger steps were no faster on a processor, and an interrupt
waits for one."""
GPU_STEP: Final = 512
"""The same where a GPU computes, which such a step takes some milliseconds."""
QUOTE_MAX_CHARS: Final = 200
"""Of the engine's errors, which go on with names of its insides."""
ERRORS: Final = (LibraryError, MemoryError)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model, and how it is to be loaded."""

    name: str
    path: Path
    options: Given


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, ready for the engine."""

    prompt: Prompt
    job: GenaiJob
    warnings: tuple[Warn, ...]


class Engine:
    """A loaded model."""

    def __init__(self, wanted: Wanted, found: GenaiModel, used: Used, model: Model) -> None:
        self._path = wanted.path
        self._used = used
        self._model = model
        self._tokenizer = Tokenizer(model)
        self._encoding = threading.Lock()
        self._signs = self._first_signs()
        self._ends = frozenset(found.eos_ids)
        self._talk_bytes = found.kv_bytes * used.context_length
        self._manner = manner_of(found.template, found.words, as_transcript=used.transcript)
        self._talks = Conversations(
            model,
            context_length=used.context_length,
            places=used.slots,
            step=STEP if used.device == CPU else GPU_STEP,
            keeps=used.prefix_cache and not found.windowed,
        )
        self._threads = ThreadPoolExecutor(used.slots, thread_name_prefix="engine")
        self.places = used.slots

    def serves(self, wanted: Wanted) -> bool:
        """Whether it is that model, loaded in a way that will do."""
        return wanted.path == self._path and self._used.will_do_for(wanted.options)

    async def close(self) -> None:
        """Gives the memory back; no request may be running."""
        await asyncio.to_thread(self._drop)

    def _drop(self) -> None:
        self._threads.shutdown()  # all are idle
        self._talks.close()
        self._tokenizer.close()
        self._model.close()
        give_back_memory()

    def decode(self, tokens: Any) -> str:
        """As TokenReply wants it. Only the event loop calls it."""
        return self._tokenizer.decode(tokens)

    def read(self, request: Request) -> Asked:
        """What a request asks for, in tokens. Blocks.

        Raises:
            AdapterError: UNSUPPORTED, INVALID_PROMPT or CONTEXT_TOO_LONG.
        """
        check(request)
        prompt = prompt_of(request, self._manner)
        tokens = self._encode(prompt)
        limit = reply_limit(request, prompt, len(tokens), self._used.context_length)
        ends = frozenset() if request.extra.get("ignore_eos") is True else self._ends
        grammar = grammar_of(request)
        job = GenaiJob(
            prompt=tokens,
            limit=limit,
            ends=ends | set(request.stop_ids),
            choice=choice_of(request),
            exact="seed" in request.sampling,
            grammar=grammar,
            search=search_of(request) if grammar else None,
        )
        return Asked(prompt, job, unknown(request))

    def answer(self, job: GenaiJob, let_go: Callable[[], None]) -> AsyncGenerator[int | None, None]:
        """Begins a reply and returns its tokens, None as a sign of life; closing them ends it.

        `let_go` is called when the engine is through with it, which may be later.

        Raises, while the tokens are taken:
            AdapterError: the engine refuses the request.
        """

        def run(take: Take[int | None]) -> None:
            self._talks.reply(job, take)

        pieces = Pieces[int | None](self._threads, run, self._refused, ERRORS)
        pieces.work.add_done_callback(lambda _: let_go())
        return pieces.taken()

    def _encode(self, prompt: Prompt) -> list[int]:
        """A chat template writes the signs that a text begins with; in a transcript there are none."""
        with self._encoding:
            tokens = self._tokenizer.encode(prompt.text)
        return [*self._signs, *tokens] if prompt.plain else tokens

    def _first_signs(self) -> list[int]:
        """The signs that the tokenizer itself would put before a text."""
        bare = self._tokenizer.encode("Hi")
        self._tokenizer.add_special_tokens(add=True)
        whole = self._tokenizer.encode("Hi")
        self._tokenizer.add_special_tokens(add=False)
        at = next((at for at in range(len(whole)) if whole[at : at + len(bare)] == bare), 0)
        return whole[:at]

    def warm_up(self) -> None:
        """One token: touches all weights. Blocks.

        Raises:
            LibraryError: the graph is broken.
        """
        generator = Generator(self._model, {"max_length": self._used.context_length})
        try:
            generator.append(self._tokenizer.encode("Hi") or [0])
            generator.scores()
        finally:
            generator.close()

    def _refused(self, error: Exception) -> AdapterError:
        """The error for an exception of the engine in a reply."""
        if was_memory(error, self._talk_bytes):
            sentence = f"The engine ran out of memory: try {smaller(self._used)}."
            return AdapterError(Code.OUT_OF_MEMORY, sentence)
        return AdapterError(
            Code.INVALID_PROMPT, f"The engine refuses the request (it said: {quoted(error)})."
        )


def quoted(error: Exception) -> str:
    """The first line of what the engine said."""
    return redacted(str(error).strip().partition("\n")[0])[:QUOTE_MAX_CHARS]

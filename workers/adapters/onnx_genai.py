"""ONNX Runtime GenAI inside the worker: a folder with a graph in the format ONNX, no torch, no network.

A model is a folder with a genai_config.json (workers.genai_folder), found by workers.genai_names. What all
engines do alike stands in workers.engine_adapter, how replies are made in workers.genai_replies. What was
found out about version 0.18.0, and what follows from it:

1. The package sends what it is used for to its maker, and leaves a number of this machine on the disk, unless
   a variable forbids it before it is imported.
2. Its classes never let the interpreter go. So the C functions below them are called (workers.genai_library).
3. What samples is fixed with a conversation's beginning, and so is its chance. So tokens are chosen here, and
   a request that says something else can go on with a conversation.
4. Requests at once are conversations in threads: its own batching is for graphs that only GPUs compute.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from workers.adapter import (
    AdapterError,
    Alive,
    Begun,
    Binding,
    Event,
    Finish,
    ProviderSpec,
    ReportProgress,
    Request,
    Text,
    Usage,
    Warn,
)
from workers.chat_prompt import THINK, THINKING_HEADROOM, Manner, Prompt, prompt_of
from workers.chat_template import renderer
from workers.codes import Code
from workers.engine_adapter import EngineAdapter
from workers.engine_memory import was_memory
from workers.engine_options import read_options
from workers.engine_thread import Pieces, Take
from workers.folder_model import BadFolder
from workers.genai_folder import GenaiModel, read_genai_folder
from workers.genai_library import Generator, Library, LibraryError, Model, Tokenizer
from workers.genai_names import files_of_model, find_genai, genai_names, split_hub_name
from workers.genai_options import CPU, Given, Used, check_memory, fill, need_bytes, smaller
from workers.genai_replies import Conversations, GenaiJob
from workers.genai_request import check, grammar_of, search_of, unknown
from workers.hub_download import Hub
from workers.machine import give_back_memory, memory_bytes
from workers.redaction import redacted
from workers.resident import Resident, Turn
from workers.token_choice import choice_of
from workers.token_reply import TokenReply
from workers.warm_files import read_once

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime_genai  # it reads that while it is imported

__all__ = ["ADAPTER", "OnnxGenai"]

STEP: Final = 64
"""Tokens of a prompt that are computed at once: larger steps were no faster on a processor, and an interrupt
waits for one."""
GPU_STEP: Final = 512
"""The same where a GPU computes, which such a step takes some milliseconds."""
AT_ONCE_CHARS: Final = 8192
"""A prompt up to that long becomes tokens within a millisecond or two."""
ERRORS_ONLY: Final = 3
"""Of the engine's log."""
QUOTE_MAX_CHARS: Final = 200
"""Of the engine's errors, which go on with names of its insides."""
_ERRORS: Final = (LibraryError, MemoryError)
_DEVICES: Final = ("cuda", "webgpu")
"""What builds of the package may compute with besides the processor. On others that they know, DirectML among
them, nothing can be added to a conversation."""


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
        self._manner = _manner(found, used)
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
        if not tokens:
            raise AdapterError(
                Code.INVALID_PROMPT, "The model's chat template makes nothing of these messages."
            )
        room = self._used.context_length - len(tokens)
        if room <= 0:
            raise AdapterError(
                Code.CONTEXT_TOO_LONG,
                f"The messages have {len(tokens)} tokens and the context holds {self._used.context_length}: "
                "send fewer, or load with a larger options.context_length.",
            )
        wanted = request.max_output_length + (THINKING_HEADROOM if prompt.thinks else 0)
        ends = frozenset() if request.extra.get("ignore_eos") is True else self._ends
        grammar = grammar_of(request)
        job = GenaiJob(
            prompt=tokens,
            limit=min(wanted, room),
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

        pieces = Pieces[int | None](self._threads, run, self._refused, _ERRORS)
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
            Code.INVALID_PROMPT, f"The engine refuses the request (it said: {_quoted(error)})."
        )


class OnnxGenai(EngineAdapter[Wanted, Engine]):
    """One connection's use of the engine."""

    kind = "a folder with genai_config.json and an .onnx file"

    def __init__(self, provider: ProviderSpec, binding: Binding) -> None:
        super().__init__(provider, binding)
        self.resident = _RESIDENT
        self._options = Given()

    def read_options(self, options: Mapping[str, Any]) -> tuple[Warn, ...]:
        """As EngineAdapter wants it."""
        self._options, warnings = read_options(options, Given)
        return warnings

    def wanted(self, name: str, path: Path) -> Wanted:
        """As EngineAdapter wants it."""
        return Wanted(name, path, self._options)

    def names(self) -> tuple[str, ...]:
        """As EngineAdapter wants it."""
        return genai_names(self.files)

    def find(self, name: str) -> Path:
        """As EngineAdapter wants it."""
        return find_genai(self.files, name)

    def split(self, model: str) -> tuple[str, str] | None:
        """As EngineAdapter wants it: of a repository a folder in it."""
        return split_hub_name(model)

    def fetch(
        self, hub: Hub, repo: str, file: str, report: ReportProgress, given_up: threading.Event
    ) -> Path:
        """As EngineAdapter wants it: the folder of one model, of however many the repository has."""

        def choose(repo: str, names: Any) -> list[str]:
            return files_of_model(repo, file, names)

        hub.fetch_repository(repo, report, given_up, choose)
        return self.find(f"{repo}/{file}" if file else repo)

    async def generate(self, request: Request) -> AsyncIterator[Event]:
        """The reply as the engine makes it. Cancelling or closing it ends it in the engine too."""
        turn = self.resident.ask(await self.wanted_of(request.model))
        try:
            async for alive in self.waiting(turn):
                yield alive
            engine, model = turn.model, turn.wanted.name
            asked = await _read(engine, request)
            if asked.warnings:
                yield Begun(asked.warnings)
            if asked.prompt.opens_thinking:
                yield Text(THINK)
            tokens = engine.answer(asked.job, turn.release)
        except BaseException:  # from here on the engine gives the turn back
            turn.release()
            raise
        async with contextlib.aclosing(tokens):
            async for event in _events(tokens, asked, engine, model):
                yield event


async def _read(engine: Engine, request: Request) -> Asked:
    """In a thread where it may take long; else a thread would be what takes long."""
    if sum(len(message.content) for message in request.messages) > AT_ONCE_CHARS:
        return await asyncio.to_thread(engine.read, request)
    return engine.read(request)


async def _events(
    tokens: AsyncIterator[int | None], asked: Asked, engine: Engine, model: str
) -> AsyncGenerator[Event, None]:
    prompt, job = asked.prompt, asked.job
    reply = TokenReply(engine.decode, ends=job.ends, limit=job.limit, stops=prompt.stops, trims=prompt.plain)
    async for token in tokens:
        text = "" if token is None else reply.feed((token,))
        yield Text(text) if text else Alive()
        if reply.reason is not None:
            break
    reason = reply.reason or ("stop" if job.grammar else "length")
    usage = Usage(len(job.prompt), reply.tokens, cached_input_tokens=len(job.prompt) - job.computed)
    yield Finish(reason, model, usage, asked.warnings)


def _manner(found: GenaiModel, used: Used) -> Manner:
    """How the model wants to be spoken to.

    Raises:
        AdapterError: INVALID_MODEL, its chat template cannot be read.
    """
    if used.transcript:
        return Manner(None, may_think=False)
    template = found.template or ""
    return Manner(renderer(template, found.words), may_think="think" in template)


# ---- loading, in a thread


@functools.cache
def _library() -> Library:
    """The package's own library, which its import has brought into the process."""
    folder = Path(onnxruntime_genai.__file__).parent
    return Library(next(path for path in folder.iterdir() if "onnxruntime-genai." in path.name))


async def _load_engine(turn: Turn[Wanted, Engine]) -> Engine:
    return await asyncio.to_thread(_opened, turn.wanted, turn.report, turn.given_up)


def _opened(wanted: Wanted, report: ReportProgress, given_up: threading.Event) -> Engine:
    """Loads the model and lets it say one token, so that the next one costs no loading.

    Raises:
        AdapterError: INVALID_MODEL, UNSUPPORTED or OUT_OF_MEMORY; INTERRUPT when it was given up.
    """
    found = _looked_at(wanted)
    used = fill(wanted.options, found, _device(wanted, found), os.cpu_count() or 1)
    machine_bytes, file_bytes = memory_bytes(), sum(found.files.values())
    if used.device == CPU:
        check_memory(wanted.name, used, found, machine_bytes)
    if file_bytes < machine_bytes // 2:  # a larger one would push itself out again
        read_once(wanted.name, found.files, report, given_up)
    report("model", f"starting the engine with {wanted.name} on {used.device}", None)
    try:
        return _started(wanted, found, used)
    except _ERRORS as exc:
        give_back_memory()
        if was_memory(exc, need_bytes(used, found)):
            sentence = f"The memory ran out while {wanted.name!r} was loaded: try {smaller(used)}."
            raise AdapterError(Code.OUT_OF_MEMORY, sentence) from exc
        raise AdapterError(
            Code.INVALID_MODEL,
            f"The engine cannot load {wanted.name!r} (architecture {found.kind or 'unknown'}); "
            f"it said: {_quoted(exc)}.",
        ) from exc


def _started(wanted: Wanted, found: GenaiModel, used: Used) -> Engine:
    model = Model.load(_library(), wanted.path, _overlay(used), used.device)
    try:
        engine = Engine(wanted, found, used, model)
        engine.warm_up()
    except BaseException:
        model.close()
        raise
    give_back_memory()  # the first conversation's, a whole context long
    return engine


def _overlay(used: Used) -> str:
    """What is laid over the model's own config. Threads that spin would take from games and voices what they
    do not need: without, a token took no longer."""
    session = {
        "intra_op_num_threads": used.threads,
        "session.intra_op.allow_spinning": "0",
        "log_severity_level": ERRORS_ONLY,
    }
    return json.dumps({"model": {"decoder": {"session_options": session}}})


def _looked_at(wanted: Wanted) -> GenaiModel:
    try:
        return read_genai_folder(wanted.path)
    except BadFolder as exc:
        raise AdapterError(Code.INVALID_MODEL, f"{wanted.name!r} {exc}; download it once more.") from exc
    except OSError as exc:
        sentence = f"{wanted.name!r} cannot be read ({exc.strerror}); check its files and who may read them."
        raise AdapterError(Code.INVALID_MODEL, sentence) from exc


def _device(wanted: Wanted, found: GenaiModel) -> str:
    """What computes the model: what the client wants, or what the model was made for.

    Raises:
        AdapterError: UNSUPPORTED or INVALID_MODEL, this build has it not.
    """
    there = (CPU, *(name for name in _DEVICES if getattr(onnxruntime_genai, f"is_{name}_available")()))
    shown = ", ".join(there)
    given = wanted.options.device
    if given is not None:
        if given.partition(":")[0] not in there:
            sentence = (
                f"This build of the engine has no {given}: leave out options.device (there is {shown})."
            )
            raise AdapterError(Code.UNSUPPORTED, sentence)
        return given
    missing = [name for name in found.devices if name not in there]
    if missing:
        raise AdapterError(
            Code.INVALID_MODEL,
            f"{wanted.name!r} was made for {missing[0]}, and this build of the engine computes with {shown}: "
            "take the folder of its repository that is for that, or try options.device of 'cpu'.",
        )
    return found.devices[0] if found.devices else CPU


def _quoted(error: Exception) -> str:
    """The first line of what the engine said."""
    return redacted(str(error).strip().partition("\n")[0])[:QUOTE_MAX_CHARS]


_RESIDENT: Final[Resident[Wanted, Engine]] = Resident(_load_engine)
"""The models of this process."""

ADAPTER: Final = OnnxGenai

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
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
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
from workers.chat_prompt import THINK
from workers.codes import Code
from workers.engine_adapter import EngineAdapter
from workers.engine_memory import was_memory
from workers.engine_options import read_options
from workers.engine_thread import read_in_time
from workers.folder_model import BadFolder
from workers.genai_engine import ERRORS, Asked, Engine, Wanted, quoted
from workers.genai_folder import GenaiModel, read_genai_folder
from workers.genai_library import Library, Model
from workers.genai_names import files_of_model, find_genai, genai_names, split_hub_name
from workers.genai_options import CPU, Given, Used, check_memory, fill, need_bytes, smaller
from workers.hub_download import Hub
from workers.machine import give_back_memory, memory_bytes
from workers.resident import Resident, Turn
from workers.token_reply import TokenReply
from workers.warm_files import read_once

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime_genai  # it reads that while it is imported

__all__ = ["ADAPTER", "OnnxGenai"]

ERRORS_ONLY: Final = 3
"""Of the engine's log."""
_DEVICES: Final = ("cuda", "webgpu")
"""What builds of the package may compute with besides the processor. On others that they know, DirectML among
them, nothing can be added to a conversation."""


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
            asked = await read_in_time(engine.read, request)
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
    except ERRORS as exc:
        give_back_memory()
        if was_memory(exc, need_bytes(used, found)):
            sentence = f"The memory ran out while {wanted.name!r} was loaded: try {smaller(used)}."
            raise AdapterError(Code.OUT_OF_MEMORY, sentence) from exc
        raise AdapterError(
            Code.INVALID_MODEL,
            f"The engine cannot load {wanted.name!r} (architecture {found.kind or 'unknown'}); "
            f"it said: {quoted(exc)}.",
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


_RESIDENT: Final[Resident[Wanted, Engine]] = Resident(_load_engine)
"""The models of this process."""

ADAPTER: Final = OnnxGenai

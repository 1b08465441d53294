"""llama.cpp inside the worker, by the package xllamacpp: GGUF files, without a server, a key or a network.

Whose turn it is decides workers.resident, where a file is workers.model_files, and what all engines do alike
stands in workers.engine_adapter. The engine is the package's Server, whose requests are called, not sent:

1. A request has a thread that waits in the engine without holding the interpreter. The engine calls it back
   for every piece, and what it answers to that may end the request: an interrupt waits for one token, or for
   one batch of the prompt.
2. Making a Server does hold the interpreter, from the first byte to the last. So the file is read once
   before, in a thread, with progress and a way to stop: then the engine finds it in the system's memory.
3. A Server listens on a port of this machine, which cannot be turned off. It gets a key that nobody knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import xllamacpp

from workers.adapter import (
    AdapterError,
    Begun,
    Binding,
    Event,
    ProviderSpec,
    ReportProgress,
    Request,
    Warn,
)
from workers.codes import Code
from workers.engine_adapter import EngineAdapter
from workers.engine_memory import smaller_context, was_memory
from workers.engine_options import Given, Used, check_memory, fill, read_options
from workers.engine_thread import Pieces, Take
from workers.gguf_header import BadGguf, GgufHeader, read_header
from workers.llama_chat import TRANSCRIPT_TEMPLATE, Manner, body_of, events_of, refused
from workers.machine import give_back_memory
from workers.model_files import parts_of
from workers.resident import Resident, Turn
from workers.warm_files import read_once

__all__ = ["ADAPTER", "LlamaCpp"]

BATCH: Final = 128
"""Tokens of a prompt that are computed at once. Larger ones were no faster on processors, and an interrupt
waits for one."""
GPU_BATCH: Final = 512
"""The same where there is a GPU, which such a batch takes some milliseconds."""
CACHE_MIB: Final = 256
"""Conversations that had to leave their place, kept to come back without being computed again."""
ERRORS_ONLY: Final = 1
"""The engine's log says at the next level what no operator needs, for every request."""
_ENGINE_ERRORS: Final = (ValueError, RuntimeError, IndexError, OverflowError)
"""What becomes of the engine's exceptions on their way into Python."""
_GPUS: Final = (
    xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_GPU,
    xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_IGPU,
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model, and how it is to be loaded."""

    name: str
    path: Path
    options: Given


class Engine:
    """A loaded model."""

    def __init__(self, wanted: Wanted, header: GgufHeader, used: Used, server: Any) -> None:
        self._path = wanted.path
        self._used = used
        self._server = server
        self.places = used.slots
        self._threads = ThreadPoolExecutor(used.slots, thread_name_prefix="engine")
        template = "" if used.transcript else header.template or ""
        self.manner = Manner(
            plain=used.transcript, may_think="think" in template, knows_tools="tools" in template
        )

    def serves(self, wanted: Wanted) -> bool:
        """Whether it is that model, loaded in a way that will do."""
        return wanted.path == self._path and self._used.will_do_for(wanted.options)

    async def close(self) -> None:
        """Gives the memory back; no request may be running."""
        await asyncio.to_thread(self._drop)

    def _drop(self) -> None:
        self._threads.shutdown()  # all are idle
        self._server = None  # the last reference: its destructor ends the engine's threads
        give_back_memory()

    def answer(self, body: bytes, let_go: Callable[[], None]) -> AsyncGenerator[bytes, None]:
        """Begins a request and returns the pieces of its answer, each a JSON text; closing them ends it.

        `let_go` is called when the engine is through with it, which may be later.

        Raises, while the pieces are taken:
            AdapterError: the engine refuses the request.
        """

        def run(take: Take[bytes]) -> None:
            self._server.handle_chat_completions(body, take)

        pieces = Pieces[bytes](self._threads, run, refused, (*_ENGINE_ERRORS, MemoryError))
        pieces.work.add_done_callback(lambda _: let_go())
        return pieces.taken()


class LlamaCpp(EngineAdapter[Wanted, Engine]):
    """One connection's use of the engine."""

    kind = "a .gguf file"
    carries_tools: ClassVar[bool] = True

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

    async def generate(self, request: Request) -> AsyncIterator[Event]:
        """The reply as the engine makes it. Cancelling or closing it ends it in the engine too."""
        turn = self.resident.ask(await self.wanted_of(request.model))
        try:
            async for alive in self.waiting(turn):
                yield alive
            engine, model = turn.model, turn.wanted.name
            body = body_of(request, model, engine.manner)
            if body.warnings:
                yield Begun(body.warnings)
            answer = engine.answer(body.encoded(), turn.release)
        except BaseException:  # from here on the engine gives the turn back
            turn.release()
            raise
        events = events_of(answer, request, body, model, engine.manner)
        async with contextlib.aclosing(answer), contextlib.aclosing(events):
            async for event in events:
                yield event


# ---- loading, in a thread


async def _load_engine(turn: Turn[Wanted, Engine]) -> Engine:
    return await asyncio.to_thread(_opened, turn.wanted, turn.report, turn.given_up)


def _opened(wanted: Wanted, report: ReportProgress, given_up: threading.Event) -> Engine:
    """Loads the model and lets it say one token, so that the next one costs no loading.

    Raises:
        AdapterError: INVALID_MODEL or OUT_OF_MEMORY; INTERRUPT when it was given up.
    """
    header, sizes = _looked_at(wanted)
    file_bytes = sum(sizes.values())
    gpu, memory_bytes = _machine()
    used = fill(wanted.options, header, os.cpu_count() or 1)
    if not gpu:
        check_memory(wanted.name, used, header, file_bytes=file_bytes, memory_bytes=memory_bytes)
    if file_bytes < memory_bytes // 2:  # a larger one would push itself out again
        read_once(wanted.name, sizes, report, given_up)
    report("model", f"starting the engine with {wanted.name}", None)
    try:
        server = xllamacpp.Server(_params(wanted, used, gpu=gpu))
        _warm_up(server)
    except (*_ENGINE_ERRORS, MemoryError) as exc:
        raise _not_loaded(exc, wanted.name, header, used, file_bytes) from exc
    return Engine(wanted, header, used, server)


def _not_loaded(error: Exception, name: str, header: GgufHeader, used: Used, file_bytes: int) -> AdapterError:
    """Why the engine could not be made: its exception does not say, and its reason is in the log alone."""
    token_bytes = header.kv_bytes * used.slots
    if was_memory(error, file_bytes + token_bytes * used.context_length):
        remedy = smaller_context(file_bytes, token_bytes, used.context_length)
        return AdapterError(
            Code.OUT_OF_MEMORY, f"The memory ran out while {name!r} was loaded: try {remedy}."
        )
    return AdapterError(
        Code.INVALID_MODEL,
        f"The engine cannot load {name!r}: the file is broken, or its architecture "
        f"({header.architecture}) or its chat template is unknown here; the log has the engine's words.",
    )


def _looked_at(wanted: Wanted) -> tuple[GgufHeader, dict[Path, int]]:
    """The header, and the size of each file."""
    try:
        header = read_header(wanted.path)
        return header, {part: part.stat().st_size for part in parts_of(wanted.path)}
    except BadGguf as exc:
        raise AdapterError(Code.INVALID_MODEL, f"{wanted.name!r} {exc}; download it once more.") from exc
    except OSError as exc:
        sentence = f"{wanted.name!r} cannot be read ({exc.strerror}); check the file and who may read it."
        raise AdapterError(Code.INVALID_MODEL, sentence) from exc


def _machine() -> tuple[bool, int]:
    """Whether there is a GPU that the engine can use, and how much memory the machine has."""
    devices = xllamacpp.get_device_info()
    memory = [device["memory_total"] for device in devices if device["type"] not in _GPUS]
    return any(device["type"] in _GPUS for device in devices), max(memory, default=0)


def _params(wanted: Wanted, used: Used, *, gpu: bool) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(wanted.path)
    params.model_alias = {wanted.name}
    params.offline = True
    params.n_parallel = used.slots
    params.n_ctx = used.context_length * used.slots
    params.n_batch = params.n_ubatch = GPU_BATCH if gpu else BATCH
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = used.threads
    params.fit_params = gpu  # without one it finds nothing to fit, and tries for minutes
    if used.gpu_layers is not None:
        params.n_gpu_layers = used.gpu_layers
    params.cache_ram_mib = CACHE_MIB
    params.warmup = False  # it would hold the interpreter; ours does not
    params.verbosity = ERRORS_ONLY
    if used.transcript:
        params.chat_template = TRANSCRIPT_TEMPLATE
        params.force_pure_content_parser = True
    _shut(params)
    return params


def _shut(params: Any) -> None:
    """The engine's own HTTP server, as closed as it can be."""
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [secrets.token_urlsafe(32)]
    params.cors_origins = ""
    params.ui = params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
    params.n_threads_http = 1


def _warm_up(server: Any) -> None:
    """One token: touches all weights, and tries the chat template."""
    body = {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 1,
        "stream": True,
        "cache_prompt": False,
    }
    server.handle_chat_completions(json.dumps(body).encode(), lambda piece: False)


_RESIDENT: Final[Resident[Wanted, Engine]] = Resident(_load_engine)
"""The one model of this process."""

ADAPTER: Final = LlamaCpp

"""llama.cpp inside the worker, by the package xllamacpp: GGUF files, without a server, a key or a network.

One model is in memory at a time and serves all connections (workers.resident); where its file is found is
workers.model_files' business. The engine is the package's Server, whose requests are called, not sent:

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
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import xllamacpp

from workers.adapter import (
    Adapter,
    AdapterError,
    Alive,
    Begun,
    Binding,
    Event,
    Loaded,
    LoadRequest,
    ProviderSpec,
    ReportProgress,
    Request,
    Warn,
)
from workers.codes import Code
from workers.engine_options import Given, Used, check_memory, fill, read_options
from workers.gguf_header import BadGguf, GgufHeader, read_header
from workers.hub_download import Hub
from workers.llama_chat import TRANSCRIPT_TEMPLATE, Manner, body_of, events_of, refused
from workers.model_files import ModelFiles, hub_name, parts_of
from workers.resident import Resident, Turn

__all__ = ["ADAPTER", "LlamaCpp"]

BEAT_S: Final = 1.0
"""How often a request that waits for its turn says that it is alive."""
STOP_MAX_S: Final = 0.4
"""How long an ended request waits for the engine to let go: a token takes less, a batch of a long prompt may
take more. The place in the engine is free only when it has let go, however long that takes."""
READ_BYTES: Final = 8 << 20
"""Between two looks at whether the load is still wanted."""
BATCH: Final = 128
"""Tokens of a prompt that are computed at once. Larger ones were no faster on processors, and an interrupt
waits for one."""
GPU_BATCH: Final = 512
"""The same where there is a GPU, which such a batch takes some milliseconds."""
CACHE_MIB: Final = 256
"""Conversations that had to leave their place, kept to come back without being computed again."""
ERRORS_ONLY: Final = 1
"""The engine's log says at the next level what no operator needs, for every request."""
HUB: Final = "https://huggingface.co"
_QUIRKS: Final = ("models_dir", "download", "hub", "models_in_memory", "suggested")
"""Where models are; whether what is not there may be fetched on a load; from where; how many models may be in
memory at once."""
_MS_PER_S: Final = 1000
_ENGINE_ERRORS: Final = (ValueError, RuntimeError, IndexError, OverflowError)
"""What becomes of the engine's exceptions on their way into Python."""
_GPUS: Final = (
    xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_GPU,
    xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_IGPU,
)


_Pieces: TypeAlias = "asyncio.Queue[bytes | Exception | None]"
"""What the engine's thread puts: the pieces, then None, or why there are none."""


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
        thinks = not used.transcript and "think" in (header.template or "")
        self.manner = Manner(plain=used.transcript, may_think=thinks)

    def serves(self, wanted: Wanted) -> bool:
        """Whether it is that model, loaded in a way that will do."""
        return wanted.path == self._path and self._used.will_do_for(wanted.options)

    async def close(self) -> None:
        """Gives the memory back; no request may be running."""
        await asyncio.to_thread(self._drop)

    def _drop(self) -> None:
        self._threads.shutdown()  # all are idle
        self._server = None  # the last reference: its destructor ends the engine's threads

    def answer(self, body: bytes, let_go: Callable[[], None]) -> AsyncGenerator[bytes, None]:
        """Begins a request and returns the pieces of its answer, each a JSON text; closing them ends it.

        `let_go` is called when the engine is through with it, which may be later. There is no way to slow
        the engine down: what a slow client has not taken waits, at most as many tokens as the request allows.

        Raises, while the pieces are taken:
            AdapterError: the engine refuses the request.
        """
        loop = asyncio.get_running_loop()
        pieces: _Pieces = asyncio.Queue()
        stop = threading.Event()

        def take(piece: bytes) -> bool:
            if not stop.is_set():
                loop.call_soon_threadsafe(pieces.put_nowait, piece)
            return stop.is_set()

        def run() -> None:
            error: Exception | None = None
            try:
                self._server.handle_chat_completions(body, take)
            except (*_ENGINE_ERRORS, MemoryError) as exc:
                error = exc
            loop.call_soon_threadsafe(pieces.put_nowait, error)

        work = loop.run_in_executor(self._threads, run)
        work.add_done_callback(lambda _: let_go())
        return _taken(pieces, work, stop)


async def _taken(
    pieces: _Pieces, work: asyncio.Future[None], stop: threading.Event
) -> AsyncGenerator[bytes, None]:
    """The pieces up to the end, or up to whoever takes them losing interest."""
    try:
        while isinstance(piece := await pieces.get(), bytes):
            yield piece
    finally:
        stop.set()
        await asyncio.wait({work}, timeout=STOP_MAX_S)
    if piece is not None:
        raise refused(piece) from piece


class LlamaCpp(Adapter):
    """One connection's use of the engine."""

    def __init__(self, provider: ProviderSpec, binding: Binding) -> None:
        super().__init__(provider, binding)
        self._files = ModelFiles.of(_known_quirks(provider), os.environ)
        self._options = Given()
        self._default = provider.default_model or ""
        self._found: dict[str, Path] = {}
        self._joined = False

    async def load(self, load: LoadRequest, report: ReportProgress) -> Loaded:
        """Finds the models, and brings the one to preload into memory. Cancelling it is safe.

        Raises:
            AdapterError: INVALID_REQUEST, INVALID_MODEL or OUT_OF_MEMORY.
        """
        self._options, warnings = read_options(self.binding.options)
        names = await asyncio.to_thread(self._files.names)
        _RESIDENT.keep = max(int(self.provider.quirks.get("models_in_memory", 1)), 1)
        _RESIDENT.join()
        self._joined = True
        model_ms = None
        if load.preload_model:
            started = time.monotonic()
            await self._preload(load.preload_model, report)
            model_ms = round((time.monotonic() - started) * _MS_PER_S)
            self._default = load.preload_model
            names = tuple(dict.fromkeys((load.preload_model, *names)))
        elif not names:
            sentence = (
                f"There is no GGUF file in {self._files.places()}; put one there, or name one by its path."
            )
            warnings = (*warnings, Warn("NO_MODELS", sentence))
        return Loaded(models=names, warnings=warnings, model_ms=model_ms)

    async def generate(self, request: Request) -> AsyncIterator[Event]:
        """The reply as the engine makes it. Cancelling or closing it ends it in the engine too."""
        turn = _RESIDENT.ask(await self._wanted(request.model))
        try:
            while not await turn.granted(BEAT_S):
                yield Alive()
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

    async def close(self) -> None:
        """The model leaves the memory when the last connection has gone."""
        if self._joined:
            self._joined = False
            await _RESIDENT.leave()

    async def _preload(self, model: str, report: ReportProgress) -> None:
        await self._fetched(model, report)
        turn = _RESIDENT.ask(await self._wanted(model), report)
        try:
            while not await turn.granted(BEAT_S):
                if waits_for := turn.ahead + _RESIDENT.taken:
                    report("model", f"waiting for {waits_for} request(s) of the model in memory", None)
        finally:
            turn.release()

    async def _fetched(self, model: str, report: ReportProgress) -> None:
        """The model is on the disk afterwards, if it may be fetched and is one of the hub's."""
        named = hub_name(model)
        quirks = self.provider.quirks
        if named is None or quirks.get("download") is not True:
            return
        try:
            await self._wanted(model)
        except AdapterError:
            hub = Hub(str(quirks.get("hub", HUB)).rstrip("/"), self._files.hub, self.binding.key)
            given_up = threading.Event()
            try:
                file = await asyncio.to_thread(hub.fetch, *named, report, given_up)
            finally:
                given_up.set()
            self._found[model] = await asyncio.to_thread(self._files.find, f"{named[0]}/{file}")

    async def _wanted(self, model: str) -> Wanted:
        name = model or self._default or await asyncio.to_thread(self._only_one)
        path = self._found.get(name)
        if path is None:
            path = self._found[name] = await asyncio.to_thread(self._files.find, name)
        return Wanted(name, path, self._options)

    def _only_one(self) -> str:
        names = self._files.names()
        if len(names) == 1:
            return names[0]
        known = (
            f"one of {', '.join(names)}"
            if names
            else f"a .gguf file; there is none in {self._files.places()}"
        )
        raise AdapterError(Code.INVALID_MODEL, f"Say which model: {known}.")


def _known_quirks(provider: ProviderSpec) -> Mapping[str, Any]:
    unknown = sorted(set(provider.quirks) - set(_QUIRKS))
    if unknown:
        raise AdapterError(Code.UNEXPECTED, f"[provider.{provider.id}.quirks]: unknown key {unknown[0]!r}")
    return provider.quirks


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
        _read_all(wanted, sizes, report, given_up)
    report("model", f"starting the engine with {wanted.name}", None)
    try:
        server = xllamacpp.Server(_params(wanted, used, gpu=gpu))
        _warm_up(server)
    except _ENGINE_ERRORS as exc:
        raise AdapterError(
            Code.INVALID_MODEL,
            f"The engine cannot load {wanted.name!r}: the file is broken, or its architecture "
            f"({header.architecture}) or its chat template is unknown here; the log has the engine's words.",
        ) from exc
    return Engine(wanted, header, used, server)


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


def _read_all(
    wanted: Wanted, sizes: Mapping[Path, int], report: ReportProgress, given_up: threading.Event
) -> None:
    """Reads the files once, which brings them into the system's memory."""
    buffer = bytearray(READ_BYTES)
    done, total = 0, max(sum(sizes.values()), 1)
    for path in sizes:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                if given_up.is_set():
                    raise AdapterError(Code.INTERRUPT, "Loading the model was stopped.")
                done += count
                report("model", f"reading {wanted.name}", min(done / total, 1.0))


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

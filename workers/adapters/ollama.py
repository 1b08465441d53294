"""Ollama by its own wire, `POST /api/chat`, and the models in its memory.

Connections, keys and ends are http_chat.py's, requests and answers ollama_chat.py's, and how a model is
fetched is ollama_pull.py's. Here:

1. A load that names a model brings it into memory, so that the next token costs no loading.
2. Ollama loads a model anew for every other size of its context, so what a binding says of it goes with each
   request, the one that loads included.
3. A model leaves the memory when Ollama wants that, or with the last connection of this worker that uses it,
   if that one's client asked for it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncGenerator, Collection
from typing import Any, Final

from workers.adapter import (
    AdapterError,
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
from workers.http_chat import HttpChat
from workers.model_lists import model_names
from workers.ndjson import NDJSONDecoder
from workers.ollama_chat import LEVELS, THINK, OllamaReply, build, fields_of, mapping
from workers.ollama_options import Given, read_options
from workers.ollama_pull import beating, pull
from workers.parameters import Body
from workers.quirks import Quirks
from workers.refusals import Refusal, Who
from workers.upstream import Upstream

__all__ = ["ADAPTER", "USUAL", "Ollama"]

CHAT: Final = "/api/chat"
USUAL: Final = Quirks(
    chat_path=CHAT,
    models_path="/api/tags",
    repetition_penalty_field="repeat_penalty",
    stop_max=64,  # no limit is known
    reasoning_headroom=2048,
    thinking_off={"think": False},
)
WARM_MAX_S: Final = 900.0
"""For a model of 70 GB on a slow disk; Ollama itself gives up when nothing moves for five minutes."""
UNLOAD_S: Final = 1.0
"""A close has little more; Ollama answers before the memory is free."""
_LATEST: Final = ":latest"
"""The tag of a name without one."""
_NO_MEMORY: Final = ("system memory", "out of memory", "insufficient memory")
_MS_PER_S: Final = 1000
_LOG = logging.getLogger(__name__)

_USERS: Final[dict[tuple[str, str], set[object]]] = {}
"""Server and model → the adapters of this worker that use it, for the last one to unload it."""


class Ollama(HttpChat):
    """One Ollama for one binding."""

    usual = USUAL
    stream_types = ("application/x-ndjson", "application/ndjson", "application/jsonl", "text/plain", "")
    decoder = NDJSONDecoder
    last_ends = False

    def __init__(self, provider: ProviderSpec, binding: Binding) -> None:
        super().__init__(
            dataclasses.replace(provider, base_url=_root(provider.base_url)),
            dataclasses.replace(binding, base_url=_root(binding.base_url)),
        )
        self._given = Given()
        self._abilities: dict[str, Collection[str]] = {}
        """By model, where the server tells them, which it does from 0.30 on."""
        self._model_ms: int | None = None

    def body(self, request: Request, quirks: Quirks, refused: Collection[str]) -> Body:
        thinks = None
        if (abilities := self._abilities.get(_full(request.model))) is not None:
            thinks = "thinking" in abilities
        return build(request, quirks, self._given, thinks=thinks, refused=refused)

    def reader(self, who: Who, request: Request) -> OllamaReply:
        return OllamaReply(who, model=request.model, max_output_length=request.max_output_length)

    def named(self, error: Refusal, body: Body) -> frozenset[str]:
        message = error.fields.message if THINK in body.fields else ""
        if "think value" in message:
            return frozenset((LEVELS,))
        return frozenset((THINK,)) if "does not support thinking" in message else super().named(error, body)

    async def models(self, upstream: Upstream, path: str, timeout_s: float) -> tuple[str, ...]:
        listed = await self.listed(upstream, path, timeout_s)
        self._abilities = _abilities(listed)
        return model_names(listed)

    async def load(self, load: LoadRequest, report: ReportProgress) -> Loaded:
        """As for every HTTP provider; a model that is named is in the server's memory then.

        Raises:
            AdapterError: AUTHORIZATION, UNREACHABLE, INVALID_MODEL, OUT_OF_MEMORY or INVALID_REQUEST.
        """
        self._given, warnings = read_options(self.binding.options)
        try:
            loaded = await super().load(load, report)
        except AdapterError as exc:
            if exc.code is not Code.UNREACHABLE:
                raise
            remedy = "start Ollama (its app, or `ollama serve`), or say where it is in base_url"
            raise AdapterError(exc.code, f"{exc.message}; {remedy}") from exc
        return dataclasses.replace(loaded, warnings=loaded.warnings + warnings, model_ms=self._model_ms)

    async def preload(self, model: str | None, report: ReportProgress) -> tuple[Warn, ...]:
        if not model or _is_elsewhere(model):
            return ()
        started = time.monotonic()
        try:
            warnings = await super().preload(self._spelled(model), report)
            await self._warm(model, report)
        except AdapterError as exc:
            if exc.code is not Code.INVALID_MODEL:
                raise
            if not self._quirks.pull:
                raise AdapterError(exc.code, f"{exc.message}; `ollama pull {model}` fetches one") from exc
            warnings = await self._fetch(model, report)
        self._model_ms = round((time.monotonic() - started) * _MS_PER_S)
        return warnings

    def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """The reply as it arrives. Cancelling or closing it closes the connection, and Ollama ends it too.

        Raises:
            AdapterError: INVALID_MODEL, no model is named and there are several; and as for every provider.
        """
        if not request.model:
            request = dataclasses.replace(request, model=self._only_one())
        self._use(request.model)
        return super().generate(request)

    async def close(self) -> None:
        """Closes all connections; first it unloads what nobody else uses, if the client wanted that."""
        unused = self._leave()
        if unused and self._given.unload_on_close:
            unloads = asyncio.gather(*map(self._unload, unused), return_exceptions=True)
            for model, failure in zip(unused, await unloads, strict=True):
                if failure is not None:
                    _LOG.warning("model not unloaded model=%s reason=%s", model, failure)
        await super().close()

    # ---- models in the server's memory

    async def _fetch(self, model: str, report: ReportProgress) -> tuple[Warn, ...]:
        upstream = self.opened()
        await pull(upstream, model, report)
        warnings = await self._checked(upstream, verify=False)
        await self._warm(model, report)
        return warnings

    async def _warm(self, model: str, report: ReportProgress) -> None:
        """The model is in memory afterwards: a chat without messages loads it and says nothing."""
        fields = {**fields_of(model, self._given), "messages": [], "stream": False}
        asking = self.opened().ask("POST", CHAT, Body(fields, ()).encoded(), timeout_s=WARM_MAX_S)
        try:
            await beating(asking, lambda: report("model", f"{self.provider.name} is loading {model}", None))
        except Refusal as exc:
            if not any(words in exc.fields.message.lower() for words in _NO_MEMORY):
                raise
            sentence = (
                f"{self.provider.name} has too little memory for {model!r}: "
                "take a smaller model, or a smaller num_ctx in options"
            )
            raise AdapterError(Code.OUT_OF_MEMORY, sentence, provider_status=exc.provider_status) from exc
        self._use(model)

    async def _unload(self, model: str) -> None:
        fields = {"model": model, "messages": [], "keep_alive": 0, "stream": False}
        await self.opened().ask("POST", CHAT, Body(fields, ()).encoded(), timeout_s=UNLOAD_S)

    def _use(self, model: str) -> None:
        if self._upstream is not None:
            _USERS.setdefault((self._upstream.where, _full(model)), set()).add(self)

    def _leave(self) -> list[str]:
        """Uses no model any more; returns those that nobody uses now."""
        mine = [key for key, users in _USERS.items() if self in users]
        for key in mine:
            _USERS[key].discard(self)
        unused = [key for key in mine if not _USERS[key]]
        for key in unused:
            del _USERS[key]
        return [model for _, model in unused]

    # ---- names

    def _spelled(self, model: str) -> str:
        """The model's name as the server lists it, for which case does not count."""
        return next((name for name in self._models if _full(name) == _full(model)), model)

    def _only_one(self) -> str:
        if len(self._models) == 1:
            return self._models[0]
        remedy = "name one from get_models" if self._models else "fetch one with `ollama pull`"
        raise AdapterError(Code.INVALID_MODEL, f"{self.provider.name} must be told which model: {remedy}")


ADAPTER: Final = Ollama


def _root(base_url: str | None) -> str | None:
    """The server's own address, where that of its OpenAI door was given."""
    return base_url.rstrip("/").removesuffix("/v1") if base_url else base_url


def _full(model: str) -> str:
    """A model's name as the server knows it: with its tag, and in lower case."""
    name = model.lower()
    return name if ":" in name.rpartition("/")[2] else name + _LATEST


def _is_elsewhere(model: str) -> bool:
    """Whether the model runs at Ollama's own servers, which keep no list of it here and need no loading."""
    return _full(model).endswith((":cloud", "-cloud"))


def _abilities(listed: Any) -> dict[str, Collection[str]]:
    items = mapping(listed).get("models")
    return {
        _full(item["name"]): item["capabilities"]
        for item in (items if isinstance(items, list) else ())
        if isinstance(item, dict)
        and isinstance(item.get("name"), str)
        and isinstance(item.get("capabilities"), list)
    }

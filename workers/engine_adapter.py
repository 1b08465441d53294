"""What the adapters of engines share: a model is found, or fetched, brought into memory, waited for, let go.

An engine's adapter says how its options are read, what counts as a model, and how one is loaded and asked;
workers.resident decides whose turn it is. One object is one connection's use of the engine.
"""

from __future__ import annotations

import abc
import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

from workers.adapter import (
    Adapter,
    AdapterError,
    Alive,
    Binding,
    Loaded,
    LoadRequest,
    ProviderSpec,
    ReportProgress,
    TellOfModel,
    Warn,
)
from workers.codes import Code
from workers.engine_options import outlasts_its_connection
from workers.hub_download import Hub
from workers.model_files import MAIN, ModelFiles, hub_name
from workers.resident import Model, Resident, Turn

__all__ = ["QUIRKS", "EngineAdapter"]

BEAT_S: Final = 1.0
"""How often a request that waits for its turn says that it is alive."""
HUB: Final = "https://huggingface.co"
QUIRKS: Final = ("models_dir", "download", "hub", "models_in_memory", "suggested")
"""Where models are; whether what is not there may be fetched on a load; from where; how many models may be in
memory at once; what to begin with where there is none: names → what they cost."""
_MS_PER_S: Final = 1000


class Named(Protocol):
    """A model as it is wanted."""

    @property
    def name(self) -> str:
        """As clients name it."""


W = TypeVar("W", bound=Named)
M = TypeVar("M", bound=Model)


class EngineAdapter(Adapter, Generic[W, M]):
    """One connection's use of an engine whose models are W when wanted and M when loaded."""

    resident: Resident[W, M]
    """The models of this process; the engine's adapter has it."""
    kind: str
    """What a model is, for a sentence: `a .gguf file`."""
    quirks: tuple[str, ...] = QUIRKS
    """What an operator may say."""
    revision: str = MAIN
    """Of a repository of the hub's."""

    def __init__(self, provider: ProviderSpec, binding: Binding) -> None:
        super().__init__(provider, binding)
        self.files = ModelFiles.of(self._known_quirks(provider), os.environ)
        self._default = provider.default_model or ""
        self._found: dict[str, Path] = {}
        self._joined = False

    # ---- what engines differ in

    @abc.abstractmethod
    def read_options(self, options: Mapping[str, Any]) -> tuple[Warn, ...]:
        """Keeps what the client's options say; returns what must be said about them.

        Raises:
            AdapterError: INVALID_REQUEST.
        """

    @abc.abstractmethod
    def wanted(self, name: str, path: Path) -> W:
        """That model, loaded as the options say."""

    def names(self) -> tuple[str, ...]:
        """All models that can be named. Blocks."""
        return self.files.names()

    def find(self, name: str) -> Path:
        """Where a model is. Blocks.

        Raises:
            AdapterError: INVALID_MODEL.
        """
        return self.files.find(name)

    def split(self, model: str) -> tuple[str, str] | None:
        """Repository and file of a name of the hub's, the file empty where none is; None for others."""
        return hub_name(model)

    def fetch(
        self, hub: Hub, repo: str, file: str, report: ReportProgress, given_up: threading.Event
    ) -> Path:
        """Brings a model from the hub; the file is empty where none was named. Blocks.

        Raises:
            AdapterError: it cannot be had.
        """
        return self.files.find(f"{repo}/{hub.fetch(repo, file, report, given_up)}")

    # ---- what they share

    async def load(self, load: LoadRequest, report: ReportProgress) -> Loaded:
        """Finds the models, and brings the one to preload into memory. Cancelling it is safe.

        Raises:
            AdapterError: INVALID_REQUEST, INVALID_MODEL or OUT_OF_MEMORY.
        """
        warnings = self.read_options(self.binding.options)
        names = await asyncio.to_thread(self.names)
        self.resident.keep = max(int(self.provider.quirks.get("models_in_memory", 1)), 1)
        self.resident.join()
        self._joined = True
        model_ms = None
        if model := load.preload_model or self._suggested(names):
            started = time.monotonic()
            await self._preload(model, report)
            model_ms = round((time.monotonic() - started) * _MS_PER_S)
            self._default = model
            names = tuple(dict.fromkeys((model, *names)))
        elif not names:
            warnings = (*warnings, Warn("NO_MODELS", self._where_to_get_one()))
        return Loaded(models=names, warnings=warnings, model_ms=model_ms)

    def tell_of_models(self, tell: TellOfModel) -> None:
        """As Adapter wants it; all connections' models are the same ones, so the last to ask is told."""
        self.resident.tell = lambda event, wanted: tell(event, wanted.name)

    async def close(self) -> None:
        """The model leaves the memory when the last connection has gone, unless that one wants it to stay as
        long as the process does."""
        if self._joined:
            self._joined = False
            await self.resident.leave(keep=outlasts_its_connection(self.binding.options))

    async def waiting(self, turn: Turn[W, M]) -> AsyncIterator[Alive]:
        """Signs of life until a turn is granted. Cancelling it is safe; the turn must still be released.

        Raises:
            AdapterError: the model cannot be loaded.
        """
        while not await turn.granted(BEAT_S):
            yield Alive()

    async def wanted_of(self, model: str) -> W:
        """The model that a request names, or the one that it means when it names none.

        Raises:
            AdapterError: INVALID_MODEL.
        """
        name = model or self._default or await asyncio.to_thread(self._only_one)
        path = self._found.get(name)
        if path is None:
            path = self._found[name] = await asyncio.to_thread(self.find, name)
        return self.wanted(name, path)

    async def _preload(self, model: str, report: ReportProgress) -> None:
        await self._fetched(model, report)
        wanted = await self.wanted_of(model)
        if self.resident.ready_for(wanted):
            return  # a turn would wait for a free place
        turn = self.resident.ask(wanted, report)
        try:
            while not await turn.granted(BEAT_S):
                if waits_for := turn.ahead + self.resident.taken:
                    report("model", f"waiting for {waits_for} request(s) of the model in memory", None)
        finally:
            turn.release()

    async def _fetched(self, model: str, report: ReportProgress) -> None:
        """The model is on the disk afterwards, if it may be fetched and is one of the hub's."""
        named = self.split(model)
        if named is None or self.provider.quirks.get("download") is not True:
            return
        try:
            await self.wanted_of(model)
        except AdapterError:
            endpoint = str(self.provider.quirks.get("hub", HUB)).rstrip("/")
            hub = Hub(endpoint, self.files.hub, self.binding.key, self.revision)
            given_up = threading.Event()
            try:
                self._found[model] = await asyncio.to_thread(self.fetch, hub, *named, report, given_up)
            finally:
                given_up.set()

    def _known_quirks(self, provider: ProviderSpec) -> Mapping[str, Any]:
        unknown = sorted(set(provider.quirks) - set(self.quirks))
        if unknown:
            sentence = f"[provider.{provider.id}.quirks]: unknown key {unknown[0]!r}"
            raise AdapterError(Code.UNEXPECTED, sentence)
        return provider.quirks

    def _suggested(self, names: tuple[str, ...]) -> str:
        """The model to begin with where there is none yet and one may be fetched; else empty."""
        suggested = self.provider.quirks.get("suggested", {})
        may = not names and suggested and self.provider.quirks.get("download") is True
        return next(iter(suggested)) if may else ""

    def _where_to_get_one(self) -> str:
        suggested = self.provider.quirks.get("suggested", {})
        small = ", ".join(f"{name} ({what})" for name, what in suggested.items())
        fetched = (
            f", or start the module with --allow-download and name one of the hub: {small}" if small else ""
        )
        places = self.files.places()
        return f"There is no model in {places}; put {self.kind} there, name one by its path{fetched}."

    def _only_one(self) -> str:
        names = self.names()
        if len(names) == 1:
            return names[0]
        known = (
            f"one of {', '.join(names)}" if names else f"{self.kind}; there is none in {self.files.places()}"
        )
        raise AdapterError(Code.INVALID_MODEL, f"Say which model: {known}.")

"""The adapters of engines in this process, on models of random weights that are made on the spot."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from tests.fakes.bound import load_only
from tests.fakes.bound import request as any_request
from workers.adapter import Adapter, Binding, LoadRequest, ProviderSpec, Request
from workers.adapters.llama_cpp import LlamaCpp

__all__ = ["LONG", "SAME_WORDS", "Local", "engine", "engine_of", "request"]

A = TypeVar("A", bound=Adapter)

LONG: Final[dict[str, Any]] = {"max_output_length": 7000, "extra": {"ignore_eos": True}}
"""Some seconds of talk, so that whatever happens to it happens in its middle."""
SAME_WORDS: Final[dict[str, Any]] = {"max_output_length": 40, "sampling": {"seed": 3}}


class Local(Generic[A]):
    """How the adapter of one engine is made."""

    def __init__(self, adapter: type[A]) -> None:
        self._adapter = adapter

    def of(
        self,
        options: Mapping[str, Any] | None = None,
        *,
        models_dir: Path | None = None,
        default: str | None = None,
        **quirks: Any,
    ) -> A:
        """One that is not loaded yet; one thread, since the machine that tests is not idle."""
        if models_dir is not None:
            quirks["models_dir"] = str(models_dir)
        spec = ProviderSpec("engine", "Engine", default_model=default, quirks=quirks)
        return self._adapter(spec, Binding(1, options={"threads": 1, **(options or {})}))

    @contextlib.asynccontextmanager
    async def loaded(self, model: Path, **options: Any) -> AsyncIterator[A]:
        """One with that model in memory, closed at the end."""
        adapter = self.of(options)
        try:
            await load_only(adapter, LoadRequest(preload_model=str(model)))
            yield adapter
        finally:
            await adapter.close()


_LLAMA: Final = Local(LlamaCpp)
engine_of, engine = _LLAMA.of, _LLAMA.loaded


def request(text: str = "Hello", **fields: Any) -> Request:
    """A streamed request for the model that was preloaded."""
    return any_request(text, **{"model": "", **fields})

"""The adapter `llama_cpp` in this process, on models of random weights that are made on the spot."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

from tests.fakes.bound import load_only
from tests.fakes.bound import request as any_request
from workers.adapter import Binding, LoadRequest, ProviderSpec, Request
from workers.adapters.llama_cpp import LlamaCpp

__all__ = ["LONG", "SAME_WORDS", "engine", "engine_of", "request"]

LONG: Final[dict[str, Any]] = {"max_output_length": 7000, "extra": {"ignore_eos": True}}
"""Some seconds of talk, so that whatever happens to it happens in its middle."""
SAME_WORDS: Final[dict[str, Any]] = {"max_output_length": 40, "sampling": {"seed": 3}}


def engine_of(
    options: Mapping[str, Any] | None = None, *, models_dir: Path | None = None, default: str | None = None
) -> LlamaCpp:
    """An adapter that is not loaded yet; one thread, since the machine that tests is not idle."""
    quirks = {"models_dir": str(models_dir)} if models_dir is not None else {}
    spec = ProviderSpec("llama-cpp", "llama.cpp", default_model=default, quirks=quirks)
    return LlamaCpp(spec, Binding(1, options={"threads": 1, **(options or {})}))


@contextlib.asynccontextmanager
async def engine(model: Path, **options: Any) -> AsyncIterator[LlamaCpp]:
    """An adapter with that model in memory, closed at the end."""
    adapter = engine_of(options)
    try:
        await load_only(adapter, LoadRequest(preload_model=str(model)))
        yield adapter
    finally:
        await adapter.close()


def request(text: str = "Hello", **fields: Any) -> Request:
    """A streamed request for the model that was preloaded."""
    return any_request(text, **{"model": "", **fields})

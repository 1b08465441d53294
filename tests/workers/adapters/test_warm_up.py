"""A load lets an engine say one token, so that the next one costs no loading: counted, not timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import xllamacpp

from tests.fakes.bound import collect, load_only
from tests.fakes.local_model import engine_of, request
from tests.fakes.mistral_model import LOCAL, make_first
from tests.tiny_gguf import make_tiny_gguf
from workers.adapter import LoadRequest
from workers.adapters import mistralrs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    make_tiny_gguf(path / "tiny.gguf")
    make_first(path / "tiny")
    return path


class Counting:
    """An engine, and how often it was asked for a reply."""

    def __init__(self, real: Any, asks: str, asked: list[str]) -> None:
        self._real = real
        self._asks = asks
        self._asked = asked

    def __getattr__(self, name: str) -> Any:
        if name == self._asks:
            self._asked.append(name)
        return getattr(self._real, name)


async def test_llama_cpp_has_said_a_token_when_it_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    made = xllamacpp.Server
    monkeypatch.setattr(
        xllamacpp, "Server", lambda params: Counting(made(params), "handle_chat_completions", asked)
    )
    adapter = engine_of(models_dir=folder)
    await load_only(adapter, LoadRequest(preload_model="tiny"))
    assert len(asked) == 1
    await collect(adapter, request(max_output_length=1))
    await adapter.close()
    assert len(asked) == 2


async def test_mistral_rs_has_said_a_token_when_it_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    made = mistralrs._made
    monkeypatch.setattr(
        mistralrs, "_made", lambda *parts: Counting(made(*parts), "send_chat_completion_request", asked)
    )
    adapter = LOCAL.of(models_dir=folder)
    await load_only(adapter, LoadRequest(preload_model="tiny"))
    assert len(asked) == 1
    await collect(adapter, request(max_output_length=1))
    await adapter.close()
    assert len(asked) == 2

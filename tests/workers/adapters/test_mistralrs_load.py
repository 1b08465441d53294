"""What mistral.rs has of its own in a load, seen in the process; what it shares with all engines is in
tests/e2e/engines."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fakes.bound import collect, finish_of, load_only
from tests.fakes.hub_server import hub_server
from tests.fakes.local_model import request
from tests.fakes.mistral_model import LOCAL, make_first
from tests.tiny_gguf import make_tiny_gguf
from tests.tiny_model import Shape
from tests.tiny_safetensors import make_tiny_safetensors
from workers import warm_files
from workers.adapter import AdapterError, Binding, LoadRequest, ProviderSpec
from workers.adapters import mistralrs
from workers.adapters.mistralrs import MistralRs
from workers.codes import Code

pytestmark = pytest.mark.foreign

MACHINE_BYTES: Final = 200_000
"""Enough for the tiny model with weights of four bits, and for no larger ones."""
SETTINGS: Final = LoadRequest(preload_model="tiny")
FILES: Final = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    make_first(path / "tiny")
    return path


@pytest.fixture(autouse=True)
def nothing_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither from one test to the next, nor from what the developer has in his hub's cache."""
    monkeypatch.setenv("HF_HUB_CACHE", str(folder / "no hub"))
    yield
    assert not mistralrs._RESIDENT.busy


async def test_a_load_learns_the_folders_and_the_gguf_files(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "tiny", tmp_path / "sub" / "tiny")
    make_tiny_gguf(tmp_path / "small.gguf")
    adapter = LOCAL.of(models_dir=tmp_path)
    loaded = await load_only(adapter)
    await adapter.close()
    assert (loaded.models, loaded.warnings, loaded.model_ms) == (("sub/tiny", "small"), (), None)


async def test_the_only_model_needs_no_name_and_a_load_tells_how_far_it_is(folder: Path) -> None:
    told: list[tuple[str, str, float | None]] = []
    adapter = LOCAL.of(models_dir=folder)
    loaded = await adapter.load(SETTINGS, lambda *news: told.append(news))
    finish = finish_of(await collect(adapter, request(max_output_length=2)))
    await adapter.close()
    assert finish.model == "tiny"
    assert loaded.model_ms is not None
    assert told[0] == ("model", "reading tiny", 1.0)
    assert told[-1] == ("model", "starting the engine with tiny", None)


@pytest.mark.parametrize("options", [{"isq": "q8_0"}, {"isq": "Q4K", "prefix_cache": False}], ids=["8", "4"])
async def test_a_model_is_quantised_in_place(tmp_path: Path, options: dict[str, Any]) -> None:
    make_tiny_safetensors(tmp_path / "wide", shape=Shape(width=256, feed_forward=256, layers=1))
    async with LOCAL.loaded(tmp_path / "wide", **options) as adapter:
        assert finish_of(await collect(adapter, request(max_output_length=2))).reason == "length"


async def test_the_weights_may_lie_in_several_files(tmp_path: Path) -> None:
    make_tiny_safetensors(tmp_path / "parts", files=3)
    async with LOCAL.loaded(tmp_path / "parts") as adapter:
        assert finish_of(await collect(adapter, request(max_output_length=2))).reason == "length"


async def test_a_model_that_cannot_fit_may_fit_when_it_is_quantised(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mistralrs, "memory_bytes", lambda: MACHINE_BYTES)
    adapter = LOCAL.of({"context_length": 256})
    with pytest.raises(AdapterError) as caught:
        await load_only(adapter, LoadRequest(preload_model=str(folder / "tiny")))
    await adapter.close()
    assert caught.value.code is Code.OUT_OF_MEMORY
    assert "options.isq of 'Q4K'" in caught.value.message


async def test_an_option_without_a_meaning_or_an_effect_is_a_warning(folder: Path) -> None:
    adapter = LOCAL.of({"gpu_layers": 4, "threads": 7, "keep_alive": "5m"}, models_dir=folder)
    loaded = await load_only(adapter)
    await adapter.close()
    assert [warning.name for warning in loaded.warnings] == ["UNKNOWN_OPTION", "OPTION_IGNORED"]


async def test_an_unknown_quirk_is_the_operators_to_mend() -> None:
    with pytest.raises(AdapterError) as caught:
        MistralRs(ProviderSpec("x", "X", quirks={"modelsdir": "/"}), Binding(1))
    assert "'modelsdir'" in caught.value.message


async def test_a_load_that_is_cancelled_stops_reading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_files, "READ_BYTES", 1 << 10)
    reading, go_on = threading.Event(), threading.Event()
    told: list[str] = []

    def report(phase: str, message: str, fraction: float | None) -> None:
        told.append(message)
        reading.set()
        go_on.wait(5.0)

    adapter = LOCAL.of(models_dir=folder)
    task = asyncio.ensure_future(adapter.load(SETTINGS, report))
    await asyncio.to_thread(reading.wait, 5.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await adapter.close()
    assert told == ["reading tiny"], "the engine was never started"


async def test_where_there_is_no_model_the_suggested_one_is_fetched_if_the_operator_allows_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    files = {name: (folder / "tiny" / name).read_bytes() for name in (*FILES, "model.safetensors")}
    quirks: dict[str, Any] = {
        "models_dir": tmp_path / "none",
        "suggested": {"org/tiny": "1 MB", "org/other": "9 GB"},
    }
    with hub_server(files) as hub:
        forbidden = LOCAL.of(hub=hub.endpoint, **quirks)
        (warning,) = (await load_only(forbidden)).warnings
        await forbidden.close()
        assert "--allow-download and name one of the hub: org/tiny (1 MB)" in warning.message
        assert hub.asked == []
        adapter = LOCAL.of(hub=hub.endpoint, download=True, **quirks)
        loaded = await load_only(adapter)
        finish = finish_of(await collect(adapter, request(max_output_length=2)))
        await adapter.close()
    assert (loaded.models, loaded.warnings, finish.model) == (("org/tiny",), (), "org/tiny")
    assert loaded.model_ms is not None


@pytest.mark.skipif(sys.platform == "win32", reason="a signal there ends the process")
async def test_an_engine_leaves_the_signals_as_they_were(folder: Path) -> None:
    watched = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in watched]
    arrived = []
    try:
        for number in watched:
            signal.signal(number, lambda number, frame: arrived.append(number))
        async with LOCAL.loaded(folder / "tiny"):
            for number in watched:
                os.kill(os.getpid(), number)
    finally:
        for number, handler in zip(watched, before, strict=True):
            signal.signal(number, handler)
    assert arrived == list(watched)

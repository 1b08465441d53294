"""What llama.cpp has of its own in a load, seen in the process; what it shares with all engines is in
tests/e2e/engines."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.fakes.bound import cancelled
from tests.fakes.local_model import LONG, engine, engine_of, request
from tests.tiny_gguf import make_tiny_gguf
from workers import engine_adapter, warm_files
from workers.adapter import AdapterError, Binding, LoadRequest, ProviderSpec, Text
from workers.adapters import llama_cpp
from workers.engine_options import Given, fill
from workers.gguf_header import read_header

pytestmark = pytest.mark.foreign

SETTINGS: Final = LoadRequest(preload_model="tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    make_tiny_gguf(path / "tiny.gguf")
    return path


@pytest.fixture(autouse=True)
def nothing_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither from one test to the next, nor from what the developer has in his hub's cache."""
    monkeypatch.setenv("HF_HUB_CACHE", str(folder / "no hub"))
    yield
    assert not llama_cpp._RESIDENT.busy


async def test_a_load_tells_how_far_it_is(folder: Path) -> None:
    told: list[tuple[str, str, float | None]] = []
    adapter = engine_of(models_dir=folder)
    loaded = await adapter.load(SETTINGS, lambda *news: told.append(news))
    await adapter.close()
    assert loaded.model_ms is not None
    assert told[0] == ("model", "reading tiny", 1.0)
    assert told[-1] == ("model", "starting the engine with tiny", None)


async def test_an_unknown_quirk_is_the_operators_to_mend() -> None:
    with pytest.raises(AdapterError) as caught:
        llama_cpp.LlamaCpp(ProviderSpec("x", "X", quirks={"modelsdir": "/"}), Binding(1))
    assert "'modelsdir'" in caught.value.message


async def test_a_load_that_is_cancelled_stops_reading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_files, "READ_BYTES", 1 << 10)
    reading, go_on = threading.Event(), threading.Event()
    told: list[str] = []

    def report(phase: str, message: str, fraction: float | None) -> None:
        told.append(message)
        reading.set()
        go_on.wait(5.0)

    adapter = engine_of(models_dir=folder)
    task = asyncio.ensure_future(adapter.load(SETTINGS, report))
    await asyncio.to_thread(reading.wait, 5.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await adapter.close()
    assert told == ["reading tiny"], "the engine was never started"


async def test_a_load_waits_for_the_replies_of_another_model_and_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_adapter, "BEAT_S", 0.01)
    make_tiny_gguf(tmp_path / "other.gguf", seed=8)
    waiting = asyncio.Event()

    def report(phase: str, message: str, fraction: float | None) -> None:
        if message.startswith("waiting for 1 request"):
            waiting.set()

    second = engine_of(models_dir=tmp_path)
    async with engine(folder / "tiny.gguf") as first:
        started = asyncio.Event()

        async def talk() -> None:
            async for event in first.generate(request(**LONG)):
                if isinstance(event, Text):
                    started.set()

        talking = asyncio.ensure_future(talk())
        await started.wait()
        loading = asyncio.ensure_future(second.load(LoadRequest(preload_model="other"), report))
        await waiting.wait()
        assert not loading.done()
        await cancelled(talking)
        await loading
    await second.close()


def test_an_engine_is_never_asked_to_download(folder: Path) -> None:
    wanted = llama_cpp.Wanted("tiny", folder / "tiny.gguf", Given())
    used = fill(Given(), read_header(wanted.path), 1)
    params = llama_cpp._params(wanted, used, gpu=False)
    assert params.offline is True
    assert (params.model.url, params.model.hf_repo, params.model.hf_file) == ("", "", "")


@pytest.mark.skipif(sys.platform == "win32", reason="a signal there ends the process")
async def test_an_engine_leaves_the_signals_as_they_were(folder: Path) -> None:
    watched = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in watched]
    arrived = []
    try:
        for number in watched:
            signal.signal(number, lambda number, frame: arrived.append(number))
        async with engine(folder / "tiny.gguf"):
            for number in watched:
                os.kill(os.getpid(), number)
    finally:
        for number, handler in zip(watched, before, strict=True):
            signal.signal(number, handler)
    assert arrived == list(watched)

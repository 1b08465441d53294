"""Loads of the engine llama.cpp in the process: what can be wrong with a model, and what a load leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from tests.fakes.bound import cancelled, collect, finish_of, load_only
from tests.fakes.local_model import LONG, engine, engine_of, request
from tests.tiny_gguf import Shape, make_tiny_gguf
from workers import engine_adapter, warm_files
from workers.adapter import AdapterError, Binding, LoadRequest, ProviderSpec, Text
from workers.adapters import llama_cpp
from workers.codes import Code
from workers.engine_options import Given, fill
from workers.gguf_header import read_header

pytestmark = pytest.mark.foreign

CYCLES: Final = 50
WARM_CYCLES: Final = 10
"""Until then the allocator is still taking what it will keep."""
GROWTH_MAX_BYTES: Final = 16 << 20
"""Less than one model and its context would leave behind in two cycles."""
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


async def refusal(model: Path | str, **options: Any) -> AdapterError:
    adapter = engine_of(options)
    with pytest.raises(AdapterError) as caught:
        await load_only(adapter, LoadRequest(preload_model=str(model)))
    await adapter.close()
    return caught.value


async def test_a_load_learns_the_models_and_needs_none(folder: Path) -> None:
    adapter = engine_of(models_dir=folder)
    loaded = await load_only(adapter)
    await adapter.close()
    assert (loaded.models, loaded.warnings, loaded.model_ms) == (("tiny",), (), None)


async def test_a_load_without_any_model_says_where_to_put_one(tmp_path: Path) -> None:
    adapter = engine_of(models_dir=tmp_path)
    loaded = await load_only(adapter)
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, request())
    await adapter.close()
    assert [warning.name for warning in loaded.warnings] == ["NO_MODELS"]
    assert str(tmp_path) in loaded.warnings[0].message
    assert caught.value.code is Code.INVALID_MODEL


async def test_the_only_model_needs_no_name(folder: Path) -> None:
    adapter = engine_of(models_dir=folder)
    await load_only(adapter)
    finish = finish_of(await collect(adapter, request(max_output_length=2)))
    await adapter.close()
    assert finish.model == "tiny"


async def test_a_load_tells_how_far_it_is(folder: Path) -> None:
    told: list[tuple[str, str, float | None]] = []
    adapter = engine_of(models_dir=folder)
    loaded = await adapter.load(SETTINGS, lambda *news: told.append(news))
    await adapter.close()
    assert loaded.model_ms is not None
    assert told[0] == ("model", "reading tiny", 1.0)
    assert told[-1] == ("model", "starting the engine with tiny", None)


async def test_what_is_loaded_is_loaded_once(folder: Path) -> None:
    told: list[str] = []
    first, second = engine_of(models_dir=folder), engine_of(models_dir=folder)
    await load_only(first, SETTINGS)
    await second.load(SETTINGS, lambda phase, message, fraction: told.append(message))
    await first.close()
    assert finish_of(await collect(second, request(max_output_length=2))).reason == "length"
    await second.close()
    assert told == []


async def test_other_options_load_the_model_anew(folder: Path) -> None:
    async with engine(folder / "tiny.gguf") as first, engine(folder / "tiny.gguf", context_length=256):
        assert finish_of(await collect(first, request(max_output_length=2))).reason == "length"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: b"", "is no GGUF file"),
        (lambda data: b"PK\x03\x04" + data, "is no GGUF file"),
        (lambda data: data[:100], "cut off in its header"),
        (lambda data: data[: len(data) // 2], "weights are missing"),
        (lambda data: data[:-100], "file is broken"),
        (lambda data: data.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0xlama"), "xlama"),
    ],
    ids=[
        "empty",
        "another format",
        "cut in the header",
        "cut in the weights",
        "cut at the end",
        "architecture",
    ],
)
async def test_a_file_that_is_no_model_says_so(folder: Path, tmp_path: Path, damage: Any, words: str) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(damage((folder / "tiny.gguf").read_bytes()))
    error = await refusal(path)
    assert error.code is Code.INVALID_MODEL
    assert words in error.message


async def test_a_template_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "template.gguf"
    make_tiny_gguf(path, template="{% if %}")
    error = await refusal(path)
    assert error.code is Code.INVALID_MODEL
    assert "chat template" in error.message
    async with engine(path, transcript=True) as adapter:
        assert finish_of(await collect(adapter, request(max_output_length=2))).reason == "length"


async def test_a_missing_file_is_an_invalid_model(tmp_path: Path) -> None:
    assert (await refusal(tmp_path / "nothing.gguf")).code is Code.INVALID_MODEL


async def test_a_model_that_cannot_fit_says_what_would(tmp_path: Path) -> None:
    path = tmp_path / "vast.gguf"
    make_tiny_gguf(path, shape=Shape(context=1 << 30))
    error = await refusal(path, context_length=1 << 30)
    assert error.code is Code.OUT_OF_MEMORY
    assert "try options.context_length of" in error.message
    async with engine(path) as adapter:
        assert finish_of(await collect(adapter, request(max_output_length=2))).reason == "length"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"context_length": "long"}, "options.context_length must be a whole number"),
        ({"slots": 0}, "options.slots must be a whole number from 1"),
        ({"transcript": "yes"}, "options.transcript must be true or false"),
    ],
)
async def test_an_option_that_cannot_be_meant_is_refused(
    folder: Path, options: dict[str, Any], words: str
) -> None:
    error = await refusal(folder / "tiny.gguf", **options)
    assert error.code is Code.INVALID_REQUEST
    assert words in error.message


async def test_an_unknown_option_is_a_warning(folder: Path) -> None:
    adapter = engine_of({"gpu": True}, models_dir=folder)
    loaded = await load_only(adapter)
    await adapter.close()
    assert [warning.name for warning in loaded.warnings] == ["UNKNOWN_OPTION"]


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


async def test_fifty_loads_and_unloads_leave_nothing(folder: Path) -> None:
    sizes: list[int] = []
    threads: list[str] = []
    for _ in range(CYCLES):
        adapter = engine_of(models_dir=folder)
        await load_only(adapter, SETTINGS)
        await collect(adapter, request(max_output_length=2))
        await adapter.close()
        sizes.append(_resident_bytes())
        threads += [thread.name for thread in threading.enumerate() if thread.name.startswith("engine")]
    assert sizes[-1] - sizes[WARM_CYCLES] < GROWTH_MAX_BYTES
    assert threads == []


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


def _resident_bytes() -> int:
    size: int = psutil.Process().memory_info().rss
    return size

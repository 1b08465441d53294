"""Loads of the engine mistral.rs in the process: what can be wrong with a model, and what a load leaves."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import psutil
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

CYCLES: Final = 30
WARM_CYCLES: Final = 10
"""Until then the allocator is still taking what it will keep."""
GROWTH_MAX_BYTES: Final = 16 << 20
"""Less than one model and its context would leave behind in each cycle."""
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


async def refusal(model: Path | str, **options: Any) -> AdapterError:
    adapter = LOCAL.of(options)
    with pytest.raises(AdapterError) as caught:
        await load_only(adapter, LoadRequest(preload_model=str(model)))
    await adapter.close()
    return caught.value


async def test_a_load_learns_the_folders_and_the_gguf_files(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "tiny", tmp_path / "sub" / "tiny")
    make_tiny_gguf(tmp_path / "small.gguf")
    adapter = LOCAL.of(models_dir=tmp_path)
    loaded = await load_only(adapter)
    await adapter.close()
    assert (loaded.models, loaded.warnings, loaded.model_ms) == (("sub/tiny", "small"), (), None)


async def test_a_load_without_any_model_says_where_to_put_one(tmp_path: Path) -> None:
    adapter = LOCAL.of(models_dir=tmp_path)
    loaded = await load_only(adapter)
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, request())
    await adapter.close()
    assert [warning.name for warning in loaded.warnings] == ["NO_MODELS"]
    assert str(tmp_path) in loaded.warnings[0].message
    assert caught.value.code is Code.INVALID_MODEL


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


async def test_other_options_load_the_model_anew_and_the_same_ones_do_not(folder: Path) -> None:
    told: list[str] = []
    async with LOCAL.loaded(folder / "tiny") as first, LOCAL.loaded(folder / "tiny", context_length=256):
        assert finish_of(await collect(first, request(max_output_length=2))).reason == "length"
        again = LOCAL.of()
        wanted = LoadRequest(preload_model=str(folder / "tiny"))
        await again.load(wanted, lambda phase, message, fraction: told.append(message))
        await again.close()
    assert told == []


def _config(**changes: Any) -> Callable[[Path], None]:
    def damage(model: Path) -> None:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        (model / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")

    return damage


def _cut(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_cut, "is cut off"),
        (lambda model: (model / "model.safetensors").write_bytes(b"PK\x03\x04"), "is no safetensors file"),
        (lambda model: (model / "config.json").write_bytes(b"{"), "config.json that is no JSON"),
        (lambda model: (model / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda model: (model / "tokenizer.json").write_bytes(b"{"), "it said:"),
        (_config(architectures=["XForCausalLM"]), "XForCausalLM"),
        (_config(num_hidden_layers=3), "layers.2"),
    ],
    ids=[
        "cut",
        "another format",
        "config",
        "no tokenizer",
        "tokenizer",
        "architecture",
        "a layer is missing",
    ],
)
async def test_a_folder_that_is_no_model_says_so(
    folder: Path, tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    model = tmp_path / "broken"
    shutil.copytree(folder / "tiny", model)
    damage(model)
    error = await refusal(model)
    assert error.code is Code.INVALID_MODEL
    assert words in error.message


async def test_a_template_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    make_tiny_safetensors(tmp_path / "template", template="{% if %}")
    error = await refusal(tmp_path / "template")
    assert error.code is Code.INVALID_MODEL
    assert "chat template" in error.message
    async with LOCAL.loaded(tmp_path / "template", transcript=True) as adapter:
        assert finish_of(await collect(adapter, request(max_output_length=2))).reason == "length"


async def test_a_model_that_cannot_fit_says_what_would(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mistralrs, "memory_bytes", lambda: MACHINE_BYTES)
    error = await refusal(folder / "tiny", context_length=256)
    assert error.code is Code.OUT_OF_MEMORY
    assert "options.isq of 'Q4K'" in error.message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"context_length": "long"}, "options.context_length must be a whole number"),
        ({"isq": "Q9"}, "options.isq must be one of Q2K"),
        ({"prefix_cache": "yes"}, "options.prefix_cache must be true or false"),
    ],
)
async def test_an_option_that_cannot_be_meant_is_refused(
    folder: Path, options: dict[str, Any], words: str
) -> None:
    error = await refusal(folder / "tiny", **options)
    assert error.code is Code.INVALID_REQUEST
    assert words in error.message


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


async def test_a_repository_is_fetched_only_when_the_operator_allows_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    files = {name: (folder / "tiny" / name).read_bytes() for name in (*FILES, "model.safetensors")}
    with hub_server({**files, "modeling_tiny.py": b"raise SystemExit", "pytorch_model.bin": b"x"}) as hub:
        forbidden = LOCAL.of(hub=hub.endpoint)
        with pytest.raises(AdapterError) as caught:
            await load_only(forbidden, LoadRequest(preload_model="org/tiny"))
        await forbidden.close()
        assert "allow downloads" in caught.value.message
        assert hub.asked == []
        adapter = LOCAL.of(hub=hub.endpoint, download=True)
        await load_only(adapter, LoadRequest(preload_model="org/tiny"))
        finish = finish_of(await collect(adapter, request(max_output_length=2)))
        await adapter.close()
    assert finish.model == "org/tiny"
    assert not {path for _, path, *_ in hub.asked if path.endswith((".py", ".bin"))}
    offline = LOCAL.of(download=True, hub=hub.endpoint)
    assert (await load_only(offline, LoadRequest(preload_model="org/tiny"))).models == ("org/tiny",)
    await offline.close()


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


async def test_loads_and_unloads_leave_nothing(folder: Path) -> None:
    sizes: list[int] = []
    for _ in range(CYCLES):
        adapter = LOCAL.of(models_dir=folder)
        await load_only(adapter, SETTINGS)
        await collect(adapter, request(max_output_length=2))
        await adapter.close()
        sizes.append(psutil.Process().memory_info().rss)
    assert sizes[-1] - sizes[WARM_CYCLES] < GROWTH_MAX_BYTES
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("engine")]


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

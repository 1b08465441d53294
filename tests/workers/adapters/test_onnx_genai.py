"""What ONNX Runtime GenAI has of its own, in the process; what all engines do stands in tests/e2e/engines."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fakes import mistral_model
from tests.fakes.bound import cancelled, collect, finish_of, load_only, text_of
from tests.fakes.hub_server import hub_server
from tests.fakes.local_model import LONG, SAME_WORDS, request
from tests.fakes.onnx_model import LOCAL
from tests.tiny_onnx import make_tiny_onnx
from tests.wheelhouse import CHECKOUT
from workers.adapter import AdapterError, Alive, Begun, Finish, LoadRequest, Message, Text
from workers.adapters import onnx_genai
from workers.adapters.onnx_genai import OnnxGenai
from workers.codes import Code
from workers.genai_engine import STEP
from workers.genai_library import Generator, LibraryError

pytestmark = pytest.mark.foreign

STEPS: Final = 40
"""Of a long prompt."""
ALONE: Final = """
import asyncio, sys
from pathlib import Path
from tests.fakes.bound import collect
from tests.fakes.local_model import request
from tests.fakes.onnx_model import LOCAL

async def main():
    async with LOCAL.loaded(Path(sys.argv[1])) as adapter:
        await collect(adapter, request(max_output_length=3))

asyncio.run(main())
"""
"""A process that does nothing else."""
ALONE_S: Final = 30.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny_onnx(path)
    return path


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights, as another engine wants them."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    mistral_model.make_first(path)
    return path


@pytest.fixture(autouse=True)
def nothing_stays(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither from one test to the next, nor from what the developer has in his hub's cache."""
    monkeypatch.setenv("HF_HUB_CACHE", str(model.parent / "no hub"))
    yield
    assert not onnx_genai._RESIDENT.busy


@pytest.fixture
async def adapter(model: Path) -> AsyncIterator[OnnxGenai]:
    async with LOCAL.loaded(model) as running:
        yield running


def cached(finish: Finish) -> int:
    assert finish.usage is not None
    assert finish.usage.cached_input_tokens is not None
    return finish.usage.cached_input_tokens


async def refusal(model: Path | str, **options: Any) -> AdapterError:
    adapter = LOCAL.of(options)
    with pytest.raises(AdapterError) as caught:
        await load_only(adapter, LoadRequest(preload_model=str(model)))
    await adapter.close()
    return caught.value


# ---- the library


async def test_another_engine_says_the_same_with_the_same_weights(adapter: OnnxGenai, same: Path) -> None:
    likeliest = request("Tell me of the sea.", max_output_length=60, temperature=0.0)
    async with mistral_model.LOCAL.loaded(same) as other:
        theirs = text_of(await collect(other, likeliest))
    assert text_of(await collect(adapter, likeliest)) == theirs


def test_nothing_of_its_use_is_kept_or_sent(model: Path, tmp_path: Path) -> None:
    """By itself the package puts a number of this machine, and what it is to send, into the home folder."""
    home = {name: str(tmp_path) for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "LOCALAPPDATA")}
    subprocess.run(
        [sys.executable, "-c", ALONE, str(model)],
        env={**os.environ, **home, "PYTHONPATH": str(CHECKOUT)},
        cwd=CHECKOUT,
        timeout=ALONE_S,
        check=True,
    )
    assert list(tmp_path.iterdir()) == []


async def test_others_live_while_a_prompt_is_computed(adapter: OnnxGenai) -> None:
    turn = adapter.resident.ask(await adapter.wanted_of(""))
    while not await turn.granted(1.0):
        pass
    generator = Generator(turn.model._model, {"max_length": 8000})
    work = threading.Thread(target=generator.append, args=([7] * 6000,))
    work.start()
    lived = 0
    while work.is_alive():
        lived += 1
    generator.close()
    turn.release()
    assert lived > 100, "this thread had the interpreter meanwhile"


async def test_letters_that_are_none_do_not_swallow_the_rest(adapter: OnnxGenai) -> None:
    turn = adapter.resident.ask(await adapter.wanted_of(""))
    while not await turn.granted(1.0):
        pass
    decode = turn.model.decode

    def said(text: bytes) -> str:
        return str(decode([3 + byte for byte in text]))

    assert said("é漢😀".encode()) == "é漢😀"
    assert said(b"A\xc3BC\xff!") == "A\ufffdBC\ufffd!"
    assert said(b"A\0B") == "AB"
    assert said(b"A\xf0\x9f").rstrip("\ufffd") == "A"
    turn.release()


# ---- prompts and conversations


async def test_a_long_prompt_is_computed_in_steps_that_an_interrupt_can_end(adapter: OnnxGenai) -> None:
    wanted = request("x" * (STEP * STEPS), max_output_length=1)
    signs = [event async for event in adapter.generate(wanted) if isinstance(event, Alive)]
    assert len(signs) >= STEPS
    begun = asyncio.Event()

    async def talk() -> None:
        async for event in adapter.generate(request("y" * (STEP * STEPS), **LONG)):
            assert not isinstance(event, Text), "it was ended in its prompt"
            begun.set()
            await asyncio.sleep(0)

    task = asyncio.ensure_future(talk())
    await begun.wait()
    await cancelled(task)
    assert text_of(await collect(adapter, request(max_output_length=3)))


async def test_with_a_seed_only_whole_steps_of_a_prompt_are_taken_over(adapter: OnnxGenai) -> None:
    long = "x" * (3 * STEP)
    first = await collect(adapter, request(long, **SAME_WORDS))
    again = await collect(adapter, request(long, **SAME_WORDS))
    assert text_of(again) == text_of(first)
    assert (cached(finish_of(first)), cached(finish_of(again))) == (0, 3 * STEP)
    free = await collect(adapter, request(long, max_output_length=3))
    usage = finish_of(free).usage
    assert usage is not None
    assert cached(finish_of(free)) == (usage.input_tokens or 0) - 1


@pytest.mark.parametrize("keeps", [True, False])
async def test_the_second_turn_pays_only_for_what_is_new(model: Path, keeps: bool) -> None:
    turn = [Message("system", "You are Mia. " * 40), Message("user", "Hello!")]
    async with LOCAL.loaded(model, prefix_cache=keeps) as adapter:
        reply = await collect(adapter, request(messages=tuple(turn), max_output_length=30))
        turn += [Message("assistant", text_of(reply)), Message("user", "And then?")]
        second = finish_of(await collect(adapter, request(messages=tuple(turn), max_output_length=5)))
    first = finish_of(reply).usage
    assert first is not None
    assert (cached(second) >= (first.input_tokens or 0) - 1) is keeps


async def test_there_are_no_more_conversations_than_places(model: Path) -> None:
    texts = ["Ada " * 20, "Bo " * 20, "Cy " * 20]
    async with LOCAL.loaded(model, slots=2) as adapter:
        ends = [
            finish_of(await collect(adapter, request(text, max_output_length=2)))
            for text in [*texts, texts[2], texts[1], texts[0]]
        ]
    kept = [cached(end) > len(texts[0]) // 2 for end in ends]
    assert kept == [False, False, False, True, True, False], "the first one had to go for the third"


async def test_a_model_that_cannot_take_back_begins_anew(
    adapter: OnnxGenai, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(generator: Generator, length: int) -> None:
        raise LibraryError("RewindTo is currently not supported")

    monkeypatch.setattr(Generator, "rewind", refuse)
    texts = [text_of(await collect(adapter, request(max_output_length=9, temperature=0.0))) for _ in range(2)]
    assert texts[0] == texts[1]


# ---- what a request says


@pytest.mark.parametrize("sampling", [{"seed": 5}, {"top_k": 1}, {"top_p": 0.5, "repetition_penalty": 1.2}])
async def test_a_grammar_leads_the_reply_to_its_end(adapter: OnnxGenai, sampling: dict[str, float]) -> None:
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["glad", "sad"]}, "loud": {"type": "boolean"}},
        "required": ["mood", "loud"],
        "additionalProperties": False,
    }
    wanted = request(
        max_output_length=60,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        sampling=sampling,
    )
    texts = []
    for _ in range(2):
        events = await collect(adapter, wanted)
        texts.append(text_of(events))
        assert set(json.loads(texts[-1])) == {"mood", "loud"}
        assert (finish_of(events).reason, finish_of(events).warnings) == ("stop", ())
    assert texts[0] == texts[1] or not {"seed", "top_k"} & set(sampling)


async def test_what_has_no_place_is_a_warning(adapter: OnnxGenai) -> None:
    wanted = request(
        max_output_length=5,
        response_format={"type": "json_object"},
        sampling={"min_p": 0.1},
        extra={"n": 2},
    )
    events = await collect(adapter, wanted)
    begun = [event for event in events if isinstance(event, Begun)]
    assert [warning.name for warning in finish_of(events).warnings] == ["PARAMETER_LEFT_OUT"] * 2
    assert begun[0].warnings == finish_of(events).warnings


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, "no table"], ids=["schema", "type"])
async def test_what_is_no_schema_is_an_invalid_prompt(adapter: OnnxGenai, schema: object) -> None:
    response_format = {"type": "json_schema", "json_schema": {"schema": schema}}
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, request(response_format=response_format))
    assert caught.value.code is Code.INVALID_PROMPT
    assert finish_of(await collect(adapter, request(max_output_length=3))).reason == "length"


async def test_memory_that_runs_out_in_a_reply_names_the_next_smaller_setting(
    adapter: OnnxGenai, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(generator: Generator, tokens: object) -> None:
        raise LibraryError("std::bad_alloc")

    with monkeypatch.context() as patched:
        patched.setattr(Generator, "append", fail)
        with pytest.raises(AdapterError) as caught:
            await collect(adapter, request())
    assert caught.value.code is Code.OUT_OF_MEMORY
    assert "try options.slots of 1" in caught.value.message
    assert finish_of(await collect(adapter, request(max_output_length=3))).reason == "length"


# ---- loads


def _config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(model: Path) -> None:
        config = json.loads((model / "genai_config.json").read_text(encoding="utf-8"))
        change(config["model"]["decoder"])
        (model / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")

    return damage


def _made_for(*devices: str) -> Callable[[Path], None]:
    options: list[dict[str, object]] = [{device: {}} for device in devices]
    return _config(lambda decoder: decoder["session_options"].update(provider_options=options))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda model: (model / "genai_config.json").write_bytes(b"{"), "genai_config.json that is no JSON"),
        (lambda model: (model / "model.onnx.data").unlink(), "it said:"),
        (lambda model: (model / "model.onnx").write_bytes(b"PK\x03\x04"), "it said:"),
        (lambda model: (model / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (_config(lambda decoder: decoder.pop("filename")), "the name of its graph is missing"),
        (_made_for("cuda"), "was made for cuda, and this build of the engine computes with cpu"),
        (
            _config(lambda decoder: decoder["session_options"].update(custom_ops_library="x.so")),
            "asks for custom_ops_library",
        ),
    ],
    ids=["config", "no weights", "graph", "no tokenizer", "no name", "device", "library"],
)
async def test_a_folder_that_is_no_model_says_so(
    tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    make_tiny_onnx(tmp_path / "broken")
    damage(tmp_path / "broken")
    error = await refusal(tmp_path / "broken")
    assert (error.code, words in error.message) == (Code.INVALID_MODEL, True), error.message


async def test_a_model_for_another_device_may_be_tried_on_the_processor(tmp_path: Path) -> None:
    make_tiny_onnx(tmp_path / "tiny")
    _made_for("cuda")(tmp_path / "tiny")
    async with LOCAL.loaded(tmp_path / "tiny", device="cpu") as adapter:
        assert finish_of(await collect(adapter, request(max_output_length=2))).reason == "length"


async def test_a_device_that_the_build_has_not_is_unsupported(model: Path) -> None:
    error = await refusal(model, device="cuda:1")
    assert error.code is Code.UNSUPPORTED
    assert "there is cpu" in error.message


async def test_a_model_that_cannot_fit_says_what_would(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_genai, "memory_bytes", lambda: 2_000_000)
    error = await refusal(model, context_length=4096)
    assert error.code is Code.OUT_OF_MEMORY
    assert "try options.context_length of 1024 and options.slots of 1" in error.message


def _files(model: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in model.iterdir()}


async def test_of_a_repository_the_folder_of_one_device_is_fetched(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    files = _files(model)
    offered = {f"{place}/int4/{name}": data for place in ("cpu", "cuda") for name, data in files.items()}
    with hub_server({**offered, "cpu/int4/run.py": b"raise SystemExit"}) as hub:
        unclear = LOCAL.of(hub=hub.endpoint, download=True)
        with pytest.raises(AdapterError) as caught:
            await load_only(unclear, LoadRequest(preload_model="org/repo"))
        await unclear.close()
        assert "org/repo/cpu/int4, org/repo/cuda/int4" in caught.value.message
        adapter = LOCAL.of(hub=hub.endpoint, download=True)
        await load_only(adapter, LoadRequest(preload_model="org/repo/cpu/int4"))
        finish = finish_of(await collect(adapter, request(max_output_length=2)))
        await adapter.close()
    assert finish.model == "org/repo/cpu/int4"
    assert not [path for _, path, *_ in hub.asked if "cuda" in path or path.endswith(".py")]
    offline = LOCAL.of()
    assert (await load_only(offline)).models == ("org/repo/cpu/int4",)
    await offline.close()

"""What llama.cpp has of its own in a generation, seen in the process; what it shares with all engines is in
tests/e2e/engines."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.fakes.bound import cancelled, collect, finish_of, reasoning_of, text_of
from tests.fakes.local_model import LONG, engine, request
from tests.tiny_gguf import make_tiny_gguf
from workers import engine_adapter
from workers.adapter import Alive, Text
from workers.adapters import llama_cpp
from workers.adapters.llama_cpp import LlamaCpp

pytestmark = pytest.mark.foreign

THINKING: Final = (
    "{%- for message in messages -%}{{ message.role }}: {{ message.content }}{%- endfor -%}assistant: "
    "{%- if enable_thinking is defined and not enable_thinking -%}<think>\n\n</think>\n\n{%- endif -%}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    make_tiny_gguf(path)
    return path


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """No test leaves a model, or a request for one, to the next."""
    yield
    assert not llama_cpp._RESIDENT.busy


@pytest.fixture
async def adapter(model: Path) -> AsyncIterator[LlamaCpp]:
    async with engine(model) as running:
        yield running


async def test_a_sign_of_life_from_the_prompt_comes_before_the_text(adapter: LlamaCpp) -> None:
    events = await collect(adapter, request(max_output_length=20))
    assert isinstance(events[0], Alive)
    assert all(event.text for event in events if isinstance(event, Text))


async def test_letters_of_several_bytes_come_whole(adapter: LlamaCpp) -> None:
    kana = {"grammar": "root ::= [あ-ん]+", "ignore_eos": True}
    events = await collect(adapter, request(max_output_length=31, extra=kana))
    pieces = [event.text for event in events if isinstance(event, Text)]
    assert len(pieces) == 10, "31 tokens are ten letters of three bytes, and the first byte of another"
    assert all("あ" <= piece <= "ん" for piece in pieces)


async def test_an_interrupt_in_the_prompt_is_heard_before_its_end(model: Path) -> None:
    async with engine(model, slots=1) as adapter:
        events = adapter.generate(request("x" * 6000, max_output_length=1))
        assert isinstance(await anext(events), Alive)
        await events.aclose()  # type: ignore[attr-defined]  # generate is an async generator
        usage = finish_of(await collect(adapter, request("x" * 6000, max_output_length=1))).usage
        assert usage is not None
        assert usage.cached_input_tokens is not None
        assert usage.cached_input_tokens < 6000, "the first one did not get to its end"


async def test_one_that_waits_for_a_place_says_that_it_lives(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_adapter, "BEAT_S", 0.01)
    async with engine(model, slots=1) as adapter:
        started = asyncio.Event()
        talking = asyncio.ensure_future(_talk(adapter, started))
        await started.wait()
        waiting = adapter.generate(request(max_output_length=3))
        assert isinstance(await anext(waiting), Alive)
        await cancelled(talking)
        assert finish_of([event async for event in waiting]).reason == "length"


async def test_a_model_that_may_think_is_told_not_to_unless_it_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "thinker.gguf"
    make_tiny_gguf(path, template=THINKING)
    async with engine(path) as adapter:
        quick = finish_of(await collect(adapter, request(max_output_length=3)))
        asked = await collect(
            adapter, request(max_output_length=3, reasoning_effort="low", extra={"max_tokens": 20})
        )
    thinking = finish_of(asked)
    assert quick.usage is not None
    assert thinking.usage is not None
    assert quick.usage.input_tokens is not None
    assert thinking.usage.input_tokens is not None
    assert quick.usage.input_tokens > thinking.usage.input_tokens, "it saw an empty block of thinking"
    assert reasoning_of(asked), "and this one thought"
    assert text_of(asked) == ""


async def test_the_engines_own_port_answers_nobody(adapter: LlamaCpp) -> None:
    turn = llama_cpp._RESIDENT.ask(await adapter.wanted_of(""))
    await turn.granted(5.0)
    address = turn.model._server.listening_address
    turn.release()
    assert address.startswith("http://127.0.0.1:")
    for path in ("/props", "/slots", "/v1/models", "/metrics", "/"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            await asyncio.to_thread(urllib.request.urlopen, address + path, timeout=5.0)
        caught.value.close()
        assert caught.value.code in (401, 404), path


async def _talk(adapter: LlamaCpp, started: asyncio.Event) -> None:
    async for event in adapter.generate(request(**LONG)):
        if isinstance(event, Text):
            started.set()

"""What mistral.rs has of its own in a generation, seen in the process; what it shares with all engines is in
tests/e2e/engines."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fakes.bound import cancelled, collect, finish_of, text_of
from tests.fakes.local_model import SAME_WORDS, request
from tests.fakes.mistral_model import LOCAL, LONG, make_first
from tests.tiny_gguf import make_tiny_gguf
from workers import engine_adapter
from workers.adapter import Alive, Begun, Message, Text
from workers.adapters import mistralrs
from workers.adapters.mistralrs import MistralRs

pytestmark = pytest.mark.foreign

QUIET_S: Final = 0.3
IDLE_SHARE: Final = 0.25
"""Of a processor: an engine that talks takes one."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    make_first(path)
    return path


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """No test leaves a model, or a request for one, to the next."""
    yield
    assert not mistralrs._RESIDENT.busy


@pytest.fixture
async def adapter(model: Path) -> AsyncIterator[MistralRs]:
    async with LOCAL.loaded(model) as running:
        yield running


@contextlib.asynccontextmanager
async def talking(adapter: MistralRs, **fields: Any) -> AsyncIterator[asyncio.Future[Any]]:
    """A long reply that has begun; it is ended at the end."""
    started = asyncio.Event()

    async def talk() -> None:
        async for event in adapter.generate(request(**LONG, **fields)):
            if isinstance(event, Text):
                started.set()

    task = asyncio.ensure_future(talk())
    await started.wait()
    yield task
    if not task.done():
        await cancelled(task)


async def test_letters_of_several_bytes_come_whole(adapter: MistralRs) -> None:
    kana = {"grammar": "[あ-ん]{20}", "grammar_type": "regex"}
    events = await collect(adapter, request(max_output_length=31, extra=kana))
    pieces = [event.text for event in events if isinstance(event, Text)]
    assert len(pieces) == 10, "31 tokens are ten letters of three bytes, and the first byte of another"
    assert all("あ" <= piece <= "ん" for piece in pieces)


async def test_a_grammar_leaves_no_room_for_a_seed_and_says_so(adapter: MistralRs) -> None:
    wanted = request(
        max_output_length=5, response_format={"type": "json_object"}, sampling={"seed": 1}, extra={"n": 2}
    )
    events = await collect(adapter, wanted)
    begun = [event for event in events if isinstance(event, Begun)]
    assert [warning.name for warning in finish_of(events).warnings] == ["PARAMETER_LEFT_OUT"] * 2
    assert begun[0].warnings == finish_of(events).warnings


async def test_nothing_is_kept_of_a_conversation_if_a_client_says_so(model: Path) -> None:
    first = [Message("system", "You are Mia. " * 40), Message("user", "Hello!")]
    async with LOCAL.loaded(model, prefix_cache=False) as adapter:
        reply = await collect(adapter, request(messages=tuple(first), max_output_length=30))
        second = [*first, Message("assistant", text_of(reply)), Message("user", "And then?")]
        usage = finish_of(await collect(adapter, request(messages=tuple(second), max_output_length=5))).usage
    assert usage is not None
    assert not usage.cached_input_tokens


@pytest.mark.parametrize("sampling", [{}, {"seed": 3}], ids=["drawn there", "drawn here"])
async def test_an_interrupt_stops_the_engine_and_frees_its_place(
    model: Path, sampling: dict[str, float]
) -> None:
    async with LOCAL.loaded(model, slots=1) as adapter:
        async with talking(adapter, sampling=sampling) as task:
            await cancelled(task)
        assert mistralrs._RESIDENT.taken == 0
        await asyncio.to_thread(_await_idleness)
        assert finish_of(await collect(adapter, request(max_output_length=3))).reason == "length"


async def test_one_that_waits_for_a_place_says_that_it_lives(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_adapter, "BEAT_S", 0.01)
    async with LOCAL.loaded(model, slots=1) as adapter:
        async with talking(adapter):
            waiting = adapter.generate(request(max_output_length=3))
            assert isinstance(await anext(waiting), Alive)
        assert finish_of([event async for event in waiting]).reason == "length"


async def test_a_request_for_another_model_waits_for_its_turn(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    make_tiny_gguf(other, seed=8)
    async with LOCAL.loaded(model) as adapter:
        first, second = await asyncio.gather(
            collect(adapter, request(**SAME_WORDS)), collect(adapter, request(**SAME_WORDS, model=str(other)))
        )
        back = await collect(adapter, request(**SAME_WORDS))
    assert finish_of(first).model == finish_of(back).model == str(model)
    assert finish_of(second).model == str(other)
    assert text_of(first) == text_of(back) != text_of(second)


async def test_an_engine_that_keeps_too_much_is_made_anew_when_nobody_talks(
    adapter: MistralRs, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_adapter, "BEAT_S", 0.01)
    monkeypatch.setattr(mistralrs, "cache_bytes", lambda memory: 1)
    before = await _runner(adapter)
    async with talking(adapter) as task:
        wanted = request(max_output_length=3)
        assert finish_of(await collect(adapter, wanted)).reason == "length"
        waiting = adapter.generate(wanted)
        assert isinstance(await anext(waiting), Alive), "until the other one has come to its end"
        assert await _runner(adapter) is before
        await cancelled(task)
        assert finish_of([event async for event in waiting]).reason == "length"
    assert await _runner(adapter) is not before


def _await_idleness() -> None:
    """Until the process uses no processor any more, which the engine does for as long as it talks."""
    for _ in range(10):
        before = time.process_time()
        time.sleep(QUIET_S)
        if time.process_time() - before < QUIET_S * IDLE_SHARE:
            return
    raise AssertionError("the engine goes on")


async def _runner(adapter: MistralRs) -> Any:
    """The engine itself, of the model in memory."""
    (held,) = adapter.resident._held
    return held.model._runner

"""Generations of the engine mistral.rs in the process: text, ends, stops, seeds, places and interrupts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fakes.bound import cancelled, collect, finish_of, text_of
from tests.fakes.local_model import SAME_WORDS, request
from tests.fakes.mistral_model import LOCAL, LONG, make_first
from tests.tiny_gguf import make_tiny_gguf
from tests.tiny_model import SPECIALS
from tests.tiny_safetensors import make_tiny_safetensors
from workers import engine_adapter
from workers.adapter import AdapterError, Alive, Begun, Event, Message, Text
from workers.adapters import mistralrs
from workers.adapters.mistralrs import MistralRs
from workers.codes import Code

pytestmark = pytest.mark.foreign

MANY: Final = 6
"""Requests at once, more than there are places."""
QUIET_S: Final = 0.3
IDLE_SHARE: Final = 0.25
"""Of a processor: an engine that talks takes one."""
THINKING: Final = (
    "{%- for message in messages -%}{{ message.role }}: {{ message.content }}{%- endfor -%}assistant: "
    "{%- if enable_thinking is defined and not enable_thinking -%}<think>\n\n</think>\n\n{%- endif -%}"
)
STRICT: Final = (
    "{%- if messages | length > 2 -%}{{ raise_exception('two messages at most') }}{%- endif -%}"
    "{%- for message in messages -%}{{ message.content }}{%- endfor -%}"
)


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


async def test_a_reply_has_text_an_end_and_usage(adapter: MistralRs, model: Path) -> None:
    events = await collect(adapter, request(max_output_length=20))
    finish = finish_of(events)
    assert len(text_of(events)) > 0
    assert (finish.reason, finish.model, finish.warnings) == ("length", str(model), ())
    assert finish.usage is not None
    assert (finish.usage.input_tokens, finish.usage.output_tokens) == (24, 20)
    assert all(event.text for event in events if isinstance(event, Text))


async def test_one_seed_says_the_same_and_another_does_not(adapter: MistralRs) -> None:
    texts = [text_of(await collect(adapter, request(**SAME_WORDS))) for _ in range(3)]
    other = text_of(await collect(adapter, request(max_output_length=40, sampling={"seed": 4})))
    assert texts[0] == texts[1] == texts[2] != other


async def test_a_seed_is_its_requests_own_whoever_else_talks(adapter: MistralRs) -> None:
    alone = text_of(await collect(adapter, request(**SAME_WORDS)))
    async with talking(adapter):
        assert text_of(await collect(adapter, request(**SAME_WORDS))) == alone


async def test_parameters_of_sampling_reach_the_engine_and_the_seeded_draw(adapter: MistralRs) -> None:
    cold = text_of(await collect(adapter, request(max_output_length=30, temperature=0.0)))
    for sampling in ({"top_k": 1}, {"top_k": 1, "seed": 1}, {"top_p": 0.0001, "seed": 2}):
        assert text_of(await collect(adapter, request(max_output_length=30, sampling=sampling))) == cold
    everything = {
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.1,
    }
    for sampling in (everything, {**everything, "seed": 3}):
        events = await collect(adapter, request(max_output_length=5, sampling=sampling))
        assert finish_of(events).warnings == ()


@pytest.mark.parametrize("sampling", [{"seed": 3}, {"top_k": 1}], ids=["drawn here", "drawn there"])
async def test_a_stop_string_ends_the_reply(adapter: MistralRs, sampling: dict[str, float]) -> None:
    same: dict[str, Any] = {"max_output_length": 40, "sampling": sampling}
    whole = text_of(await collect(adapter, request(**same)))
    stop = whole[15:18]
    events = await collect(adapter, request(**same, stop=(stop, "\x01never")))
    finish = finish_of(events)
    assert text_of(events) == whole[: whole.index(stop)]
    assert finish.reason == "stop"
    assert finish.usage is not None
    assert finish.usage.output_tokens is not None
    assert finish.usage.output_tokens < 40, "the engine stopped, nobody had to cut"


@pytest.mark.parametrize("sampling", [{"seed": 3}, {"top_k": 1}], ids=["drawn here", "drawn there"])
async def test_a_token_id_ends_the_reply(adapter: MistralRs, sampling: dict[str, float]) -> None:
    same: dict[str, Any] = {"max_output_length": 40, "sampling": sampling}
    whole = text_of(await collect(adapter, request(**same)))
    stop_id = len(SPECIALS) + ord(whole[10])
    events = await collect(adapter, request(**same, stop_ids=(stop_id,)))
    assert text_of(events) == whole[: whole.index(whole[10])]
    assert finish_of(events).reason == "stop"


async def test_letters_of_several_bytes_come_whole(adapter: MistralRs) -> None:
    kana = {"grammar": "[あ-ん]{20}", "grammar_type": "regex"}
    events = await collect(adapter, request(max_output_length=31, extra=kana))
    pieces = [event.text for event in events if isinstance(event, Text)]
    assert len(pieces) == 10, "31 tokens are ten letters of three bytes, and the first byte of another"
    assert all("あ" <= piece <= "ん" for piece in pieces)


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["yes", "no"]}}},
    ],
    ids=["object", "schema"],
)
async def test_a_response_format_becomes_a_grammar(
    adapter: MistralRs, response_format: dict[str, Any]
) -> None:
    events = await collect(adapter, request(max_output_length=60, response_format=response_format))
    if response_format["type"] == "json_schema":
        assert json.loads(text_of(events)) in ("yes", "no")
    else:
        assert text_of(events).startswith("{")


async def test_a_grammar_leaves_no_room_for_a_seed_and_says_so(adapter: MistralRs) -> None:
    wanted = request(
        max_output_length=5, response_format={"type": "json_object"}, sampling={"seed": 1}, extra={"n": 2}
    )
    events = await collect(adapter, wanted)
    begun = [event for event in events if isinstance(event, Begun)]
    assert [warning.name for warning in finish_of(events).warnings] == ["PARAMETER_LEFT_OUT"] * 2
    assert begun[0].warnings == finish_of(events).warnings


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}},
        {"extra": {"grammar": "[", "grammar_type": "regex"}},
        {"extra": {"grammar": "x", "grammar_type": "poem"}},
        {"extra": {"logit_bias": {"a": 1}}},
        {"sampling": {"repetition_penalty": 0.0}},
    ],
    ids=["schema", "grammar", "kind of grammar", "type", "value"],
)
async def test_what_the_engine_cannot_take_is_an_invalid_prompt(
    adapter: MistralRs, fields: dict[str, Any]
) -> None:
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, request(**fields))
    assert caught.value.code is Code.INVALID_PROMPT
    assert finish_of(await collect(adapter, request(max_output_length=3))).reason == "length"


async def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(model: Path) -> None:
    async with LOCAL.loaded(model, context_length=512) as adapter:
        with pytest.raises(AdapterError) as caught:
            await collect(adapter, request("word " * 200))
        assert caught.value.code is Code.CONTEXT_TOO_LONG
        assert "1019 tokens" in caught.value.message
        assert "holds 512" in caught.value.message


@pytest.mark.parametrize("sampling", [{}, {"seed": 3}], ids=["drawn there", "drawn here"])
async def test_a_reply_ends_where_the_context_does(model: Path, sampling: dict[str, float]) -> None:
    async with LOCAL.loaded(model, context_length=256) as adapter:
        finish = finish_of(await collect(adapter, request("x" * 200, **LONG, sampling=sampling)))
    assert finish.reason == "length"
    assert finish.usage is not None
    assert finish.usage.input_tokens is not None
    assert finish.usage.output_tokens == 256 - finish.usage.input_tokens


@pytest.mark.parametrize("keeps", [True, False])
async def test_the_second_turn_pays_only_for_what_is_new(model: Path, keeps: bool) -> None:
    first = [Message("system", "You are Mia. " * 40), Message("user", "Hello!")]
    async with LOCAL.loaded(model, prefix_cache=keeps) as adapter:
        reply = await collect(adapter, request(messages=tuple(first), max_output_length=30))
        second = [*first, Message("assistant", text_of(reply)), Message("user", "And then?")]
        usage = finish_of(await collect(adapter, request(messages=tuple(second), max_output_length=5))).usage
    before = finish_of(reply).usage
    assert before is not None
    assert before.input_tokens is not None
    assert usage is not None
    assert ((usage.cached_input_tokens or 0) >= before.input_tokens - 1) is keeps


async def test_names_are_part_of_the_prompt(adapter: MistralRs) -> None:
    named = finish_of(
        await collect(adapter, request(messages=(Message("user", "Hi", name="Ann"),), max_output_length=1))
    )
    plain = finish_of(await collect(adapter, request("Ann: Hi", max_output_length=1)))
    assert named.usage is not None
    assert plain.usage is not None
    assert named.usage.input_tokens == plain.usage.input_tokens


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


async def test_more_requests_than_places_are_all_served(model: Path) -> None:
    async with LOCAL.loaded(model, slots=2) as adapter:
        replies = await asyncio.gather(
            *(collect(adapter, request(f"Hello {i}", max_output_length=30)) for i in range(MANY))
        )
    assert [finish_of(events).usage is not None for events in replies] == [True] * MANY


async def test_two_replies_come_at_the_same_time(adapter: MistralRs) -> None:
    async with talking(adapter) as first, talking(adapter) as second:
        assert not first.done()
        assert not second.done()


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


async def test_a_model_that_may_think_is_told_not_to_unless_it_is_asked(tmp_path: Path) -> None:
    make_tiny_safetensors(tmp_path / "thinker", template=THINKING)
    async with LOCAL.loaded(tmp_path / "thinker") as adapter:
        quick = finish_of(await collect(adapter, request(max_output_length=3)))
        asked = finish_of(await collect(adapter, request(max_output_length=3, reasoning_effort="low")))
    assert quick.usage is not None
    assert asked.usage is not None
    assert quick.usage.input_tokens is not None
    assert asked.usage.input_tokens is not None
    assert quick.usage.input_tokens > asked.usage.input_tokens, "it saw an empty block of thinking"
    assert quick.usage.output_tokens == 3
    assert asked.usage.output_tokens is not None
    assert asked.usage.output_tokens > 3, "and this one had room for it"


async def test_a_template_that_refuses_the_messages_says_why(tmp_path: Path) -> None:
    make_tiny_safetensors(tmp_path / "strict", template=STRICT)
    messages = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "So?"))
    async with LOCAL.loaded(tmp_path / "strict") as adapter:
        with pytest.raises(AdapterError) as caught:
            await collect(adapter, request(messages=messages))
    assert caught.value.code is Code.INVALID_PROMPT
    assert "two messages at most" in caught.value.message


@pytest.mark.parametrize("sampling", [{}, {"seed": 2}], ids=["drawn there", "drawn here"])
async def test_a_model_without_a_template_continues_a_transcript(
    tmp_path: Path, sampling: dict[str, float]
) -> None:
    make_tiny_safetensors(tmp_path / "base", template=None)
    messages = (Message("system", "A tale."), Message("user", "Hi", name="Ann"))
    wanted = request(messages=messages, character_name="Mia", max_output_length=10, sampling=sampling)
    async with LOCAL.loaded(tmp_path / "base") as adapter:
        events: list[Event] = await collect(adapter, wanted)
    usage = finish_of(events).usage
    assert usage is not None
    assert usage.input_tokens == len("A tale.\n\nAnn: Hi\nMia:")
    assert not text_of(events)[:1].isspace()


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

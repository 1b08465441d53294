"""Generations of the engine llama.cpp in the process: text, ends, stops, seeds, places and interrupts."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fakes.bound import cancelled, collect, finish_of, reasoning_of, text_of
from tests.fakes.local_model import LONG, SAME_WORDS, engine, request
from tests.tiny_gguf import make_tiny_gguf
from workers import engine_adapter
from workers.adapter import AdapterError, Alive, Message, Text
from workers.adapters import llama_cpp
from workers.adapters.llama_cpp import LlamaCpp
from workers.codes import Code

pytestmark = pytest.mark.foreign

MANY: Final = 6
"""Requests at once, more than there are places."""
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


async def test_a_reply_has_text_an_end_and_usage(adapter: LlamaCpp, model: Path) -> None:
    events = await collect(adapter, request(max_output_length=20))
    finish = finish_of(events)
    assert 0 < len(text_of(events)) <= 20
    assert (finish.reason, finish.model, finish.warnings) == ("length", str(model), ())
    assert finish.usage is not None
    assert (finish.usage.input_tokens, finish.usage.output_tokens) == (24, 20)


async def test_the_first_text_is_text_and_none_is_empty(adapter: LlamaCpp) -> None:
    events = await collect(adapter, request(max_output_length=20))
    assert isinstance(events[0], Alive), "a sign of life from the prompt comes before"
    assert all(event.text for event in events if isinstance(event, Text))


async def test_one_seed_says_the_same_and_another_does_not(adapter: LlamaCpp) -> None:
    texts = [text_of(await collect(adapter, request(**SAME_WORDS))) for _ in range(3)]
    other = text_of(await collect(adapter, request(max_output_length=40, sampling={"seed": 4})))
    assert texts[0] == texts[1] == texts[2] != other


async def test_parameters_of_sampling_reach_the_engine(adapter: LlamaCpp) -> None:
    greedy = [
        text_of(await collect(adapter, request(max_output_length=30, sampling={"top_k": 1, "seed": seed})))
        for seed in (1, 2)
    ]
    cold = text_of(await collect(adapter, request(max_output_length=30, temperature=0.0)))
    assert greedy[0] == greedy[1] == cold
    everything = {
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.1,
        "seed": 3,
    }
    assert finish_of(await collect(adapter, request(max_output_length=5, sampling=everything))).warnings == ()


async def test_a_stop_string_ends_the_reply_in_the_engine(adapter: LlamaCpp) -> None:
    whole = text_of(await collect(adapter, request(**SAME_WORDS)))
    stop = whole[15:18]
    events = await collect(adapter, request(**SAME_WORDS, stop=(stop, "\x01never")))
    finish = finish_of(events)
    assert text_of(events) == whole[: whole.index(stop)]
    assert finish.reason == "stop"
    assert finish.usage is not None
    assert finish.usage.output_tokens is not None
    assert finish.usage.output_tokens < 40, "the engine stopped, nobody had to cut"


async def test_a_token_id_ends_the_reply(adapter: LlamaCpp) -> None:
    whole = text_of(await collect(adapter, request(**SAME_WORDS)))
    stop_id = 3 + "".join(map(chr, [*range(0x21, 0x7F)])).index(whole[10]) + 0x21
    events = await collect(adapter, request(**SAME_WORDS, stop_ids=(stop_id,)))
    assert text_of(events) == whole[: whole.index(whole[10])]
    assert finish_of(events).reason == "stop"


async def test_letters_of_several_bytes_come_whole(adapter: LlamaCpp) -> None:
    kana = {"grammar": "root ::= [あ-ん]+", "ignore_eos": True}
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
    adapter: LlamaCpp, response_format: dict[str, Any]
) -> None:
    wanted = request(max_output_length=200, response_format=response_format, sampling={"seed": 1})
    text = text_of(await collect(adapter, wanted))
    if response_format["type"] == "json_schema":
        assert json.loads(text) in ("yes", "no")
    else:
        assert text.lstrip().startswith("{")


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}},
        {"extra": {"grammar": "root ::= ["}},
        {"extra": {"temperature": "warm"}},
    ],
    ids=["schema", "grammar", "type"],
)
async def test_what_the_engine_cannot_take_is_an_invalid_prompt(
    adapter: LlamaCpp, fields: dict[str, Any]
) -> None:
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, request(**fields))
    assert caught.value.code is Code.INVALID_PROMPT
    assert finish_of(await collect(adapter, request(max_output_length=3))).reason == "length"


async def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(model: Path) -> None:
    async with engine(model, context_length=512) as adapter:
        with pytest.raises(AdapterError) as caught:
            await collect(adapter, request("word " * 200))
        assert caught.value.code is Code.CONTEXT_TOO_LONG
        assert "1019 tokens" in caught.value.message
        assert "holds 512" in caught.value.message


async def test_a_reply_ends_where_the_context_does(model: Path) -> None:
    async with engine(model, context_length=512) as adapter:
        finish = finish_of(await collect(adapter, request(**LONG)))
    assert finish.reason == "length"
    assert finish.usage is not None
    assert finish.usage.output_tokens is not None
    assert finish.usage.output_tokens <= 512


async def test_the_second_turn_pays_only_for_what_is_new(adapter: LlamaCpp) -> None:
    first = [Message("system", "You are Mia. " * 40), Message("user", "Hello!")]
    reply = await collect(adapter, request(messages=tuple(first), max_output_length=30))
    second = [*first, Message("assistant", text_of(reply)), Message("user", "And then?")]
    again = finish_of(await collect(adapter, request(messages=tuple(second), max_output_length=5)))
    before = finish_of(reply).usage
    assert before is not None
    assert again.usage is not None
    assert before.input_tokens is not None
    assert again.usage.input_tokens is not None
    assert again.usage.cached_input_tokens is not None
    assert again.usage.cached_input_tokens >= before.input_tokens - 1
    assert again.usage.input_tokens - again.usage.cached_input_tokens < 80


async def test_names_are_part_of_the_prompt(adapter: LlamaCpp) -> None:
    named = finish_of(
        await collect(adapter, request(messages=(Message("user", "Hi", name="Ann"),), max_output_length=1))
    )
    plain = finish_of(await collect(adapter, request("Ann: Hi", max_output_length=1)))
    assert named.usage is not None
    assert plain.usage is not None
    assert named.usage.input_tokens == plain.usage.input_tokens


async def test_an_interrupt_frees_the_place_in_the_engine(model: Path) -> None:
    async with engine(model, slots=1) as adapter:
        started = asyncio.Event()
        task = asyncio.ensure_future(_talk(adapter, started))
        await started.wait()
        await cancelled(task)
        assert llama_cpp._RESIDENT.taken == 0
        assert finish_of(await collect(adapter, request(max_output_length=3))).reason == "length"


async def test_an_interrupt_in_the_prompt_is_heard_before_its_end(model: Path) -> None:
    async with engine(model, slots=1) as adapter:
        events = adapter.generate(request("x" * 6000, max_output_length=1))
        assert isinstance(await anext(events), Alive)
        await events.aclose()  # type: ignore[attr-defined]  # generate is an async generator
        usage = finish_of(await collect(adapter, request("x" * 6000, max_output_length=1))).usage
        assert usage is not None
        assert usage.cached_input_tokens is not None
        assert usage.cached_input_tokens < 6000, "the first one did not get to its end"


async def test_more_requests_than_places_are_all_served(model: Path) -> None:
    async with engine(model, slots=2) as adapter:
        replies = await asyncio.gather(
            *(collect(adapter, request(f"Hello {i}", max_output_length=30)) for i in range(MANY))
        )
    assert [finish_of(events).usage is not None for events in replies] == [True] * MANY


async def test_two_replies_come_at_the_same_time(adapter: LlamaCpp) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    tasks = [asyncio.ensure_future(_talk(adapter, event)) for event in (first, second)]
    await first.wait()
    await second.wait()
    for task in tasks:
        await cancelled(task)


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


async def test_one_that_gives_up_its_place_in_line_lets_the_next_one_go(model: Path) -> None:
    async with engine(model, slots=1) as adapter:
        started = asyncio.Event()
        talking = asyncio.ensure_future(_talk(adapter, started))
        await started.wait()
        waiting = [asyncio.ensure_future(collect(adapter, request(max_output_length=3))) for _ in range(2)]
        await asyncio.sleep(0)  # both are in line
        await cancelled(waiting[0])
        await cancelled(talking)
        assert finish_of(await waiting[1]).reason == "length"


async def test_a_request_for_another_model_waits_for_its_turn(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    make_tiny_gguf(other, seed=8)
    async with engine(model) as adapter:
        first, second = await asyncio.gather(
            collect(adapter, request(**SAME_WORDS)), collect(adapter, request(**SAME_WORDS, model=str(other)))
        )
        back = await collect(adapter, request(**SAME_WORDS))
    assert finish_of(first).model == finish_of(back).model == str(model)
    assert finish_of(second).model == str(other)
    assert text_of(first) == text_of(back) != text_of(second)


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


async def test_a_template_that_refuses_the_messages_says_why(tmp_path: Path) -> None:
    path = tmp_path / "strict.gguf"
    make_tiny_gguf(path, template=STRICT)
    messages = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "So?"))
    async with engine(path) as adapter:
        with pytest.raises(AdapterError) as caught:
            await collect(adapter, request(messages=messages))
    assert caught.value.code is Code.INVALID_PROMPT
    assert "two messages at most" in caught.value.message
    async with engine(path, transcript=True) as adapter:
        assert finish_of(await collect(adapter, request(messages=messages, max_output_length=3))).usage


async def test_a_model_without_a_template_continues_a_transcript(tmp_path: Path) -> None:
    path = tmp_path / "base.gguf"
    make_tiny_gguf(path, template=None)
    messages = (Message("system", "A tale."), Message("user", "Hi", name="Ann"))
    wanted = request(messages=messages, character_name="Mia", max_output_length=10, sampling={"seed": 2})
    async with engine(path) as adapter:
        events = await collect(adapter, wanted)
    usage = finish_of(events).usage
    assert usage is not None
    assert usage.input_tokens == len("A tale.\n\nAnn: Hi\nMia:")
    assert not text_of(events)[:1].isspace()


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

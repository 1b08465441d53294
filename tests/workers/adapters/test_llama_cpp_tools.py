"""Tools on the engine llama.cpp in the process: it makes a model of random weights call one, by a grammar."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest

from tests.fakes.bound import collect, finish_of, text_of
from tests.fakes.local_model import LONG, engine, request
from tests.fakes.tool_model import ENDS_WHEN_IT_MAY, make_calling_model
from tests.tiny_gguf import make_tiny_gguf
from workers.adapter import AdapterError, Event, Message, ToolCall, ToolCallPart
from workers.adapters import llama_cpp
from workers.adapters.llama_cpp import LlamaCpp
from workers.codes import Code
from workers.tool_calls import ToolCalls

pytestmark = pytest.mark.foreign

SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Oslo", "Rome"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
}
WEATHER: Final = {
    "type": "function",
    "function": {"name": "weather", "description": "Of a city.", "parameters": SCHEMA},
}
EMPTY: Final = {"type": "object", "properties": {}, "additionalProperties": False}
PING: Final = {"type": "function", "function": {"name": "ping", "parameters": EMPTY}}
NAMED: Final = {"type": "function", "function": {"name": "ping"}}
ROOM: Final = 500
"""Tokens for a call: each byte is one, and a grammar lets white space stand between all of it."""
CALLED: Final = ToolCall("call_1", "weather", '{"city": "Oslo", "days": 1}')


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that always begins a call, where its template knows of tools."""
    path = tmp_path_factory.mktemp("models") / "caller.gguf"
    make_calling_model(path)
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


def calls_of(events: list[Event]) -> list[ToolCall]:
    """The whole calls, as the host makes them."""
    calls = ToolCalls()
    parts = [part for event in events if isinstance(event, ToolCallPart) and (part := calls.feed(event))]
    parts += calls.finish()
    assert calls.warnings() == ()
    whole: dict[int, ToolCall] = {}
    for part in parts:
        before = whole[part.index].arguments if part.index in whole else ""
        whole[part.index] = ToolCall(part.id, part.name, before + part.arguments)
    return list(whole.values())


async def called(adapter: LlamaCpp, **fields: Any) -> list[ToolCall]:
    usual = {"tool_choice": "required", "extra": ENDS_WHEN_IT_MAY, "max_output_length": ROOM}
    wanted = request(**{"tools": (WEATHER, PING), **usual, **fields})
    events = await collect(adapter, wanted)
    assert text_of(events) == ""
    assert finish_of(events).warnings == ()
    return calls_of(events)


@pytest.mark.parametrize("seed", range(3))
async def test_the_arguments_are_json_for_the_schema(adapter: LlamaCpp, seed: int) -> None:
    (call,) = await called(adapter, tools=(WEATHER,), sampling={"seed": seed})
    jsonschema.validate(json.loads(call.arguments), SCHEMA)
    assert call.name == "weather"
    assert call.id


async def test_a_call_comes_in_pieces_and_says_why_the_reply_ended(adapter: LlamaCpp) -> None:
    usual: dict[str, Any] = {"extra": ENDS_WHEN_IT_MAY, "max_output_length": ROOM}
    events = await collect(adapter, request(tools=(WEATHER,), tool_choice="required", **usual))
    parts = [event for event in events if isinstance(event, ToolCallPart)]
    assert len(parts) > 3
    assert finish_of(events).reason == "tool_calls"


async def test_a_reply_that_is_not_streamed_has_the_same_calls(adapter: LlamaCpp) -> None:
    same: dict[str, Any] = {"tools": (WEATHER,), "sampling": {"seed": 5}}
    (streamed,), (whole,) = [await called(adapter, stream=stream, **same) for stream in (True, False)]
    assert (streamed.name, streamed.arguments) == (whole.name, whole.arguments)


async def test_several_calls_at_once_are_told_apart(adapter: LlamaCpp) -> None:
    events = await collect(
        adapter,
        request(
            tools=(WEATHER,),
            tool_choice="required",
            extra={"parallel_tool_calls": True, "ignore_eos": True},
            max_output_length=600,
        ),
    )
    parts = [event for event in events if isinstance(event, ToolCallPart) and event.name]
    assert len(parts) > 1
    assert len({part.index for part in parts}) == len(parts) == len({part.id for part in parts})


async def test_a_tool_that_is_chosen_by_its_name_is_the_one_that_is_called(adapter: LlamaCpp) -> None:
    (call,) = await called(adapter, tool_choice=NAMED)
    assert (call.name, json.loads(call.arguments)) == ("ping", {})


async def test_a_choice_of_no_tool_calls_none(adapter: LlamaCpp) -> None:
    events = await collect(adapter, request(tools=(WEATHER,), tool_choice="none", max_output_length=30))
    assert calls_of(events) == []
    assert text_of(events)


async def test_a_choice_that_is_none_of_the_tools_is_refused(adapter: LlamaCpp) -> None:
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, request(tools=(WEATHER,), tool_choice=NAMED))
    assert caught.value.code is Code.INVALID_PROMPT
    assert "'ping'" in caught.value.message


async def test_a_stop_string_does_not_cut_a_call(adapter: LlamaCpp) -> None:
    (call,) = await called(adapter, tools=(WEATHER,), stop=("\n", "city", "{"))
    jsonschema.validate(json.loads(call.arguments), SCHEMA)


async def test_what_the_tool_said_is_in_the_prompt_of_the_next_turn(adapter: LlamaCpp) -> None:
    asked = Message("user", "How is it?")
    turns = (
        asked,
        Message("assistant", "", tool_calls=(CALLED,)),
        Message("tool", "It rains.", tool_call_id="call_1"),
    )
    tokens = []
    for messages in (turns[:1], turns):
        wanted = request(messages=messages, tools=(WEATHER,), tool_choice="none", max_output_length=3)
        usage = finish_of(await collect(adapter, wanted)).usage
        assert usage is not None
        assert usage.input_tokens is not None
        tokens.append(usage.input_tokens)
    grown = tokens[1] - tokens[0]
    assert grown > len("It rains.") + len(CALLED.arguments) + len(CALLED.name), "one token per byte, mostly"


async def test_an_interrupt_ends_a_call_and_frees_the_engine(adapter: LlamaCpp) -> None:
    endless = {**LONG, "extra": {**LONG["extra"], "parallel_tool_calls": True}}
    wanted = request(tools=(WEATHER,), tool_choice="required", **endless)
    async with contextlib.aclosing(adapter.generate(wanted)) as events:  # type: ignore[type-var]  # it is one
        async for event in events:
            if isinstance(event, ToolCallPart):
                break
    assert len(await called(adapter, tools=(WEATHER,))) == 1


@pytest.mark.parametrize(
    "options", [{"transcript": True}, {}], ids=["a transcript", "a template without tools"]
)
async def test_where_the_model_is_not_told_of_tools_they_are_left_out_and_told(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    path = tmp_path / "toolless.gguf"
    make_tiny_gguf(path)
    async with engine(path, **options) as running:
        events = await collect(
            running, request(tools=(WEATHER,), tool_choice="required", max_output_length=5)
        )
        named = [warning.message.split()[0] for warning in finish_of(events).warnings]
        assert named == ["tools", "tool_choice"]
        with pytest.raises(AdapterError) as caught:
            await collect(running, request(messages=(Message("tool", "x", tool_call_id="a"),)))
        assert caught.value.code is Code.UNSUPPORTED


async def test_token_ids_as_stops_do_not_go_with_tools(adapter: LlamaCpp) -> None:
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, request(tools=(WEATHER,), stop_ids=(7,)))
    assert caught.value.code is Code.UNSUPPORTED

"""Replies: credit, what is shown and what is not, and why one is empty."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.workers.host_rig import Fake, body_of, running
from workers import wire
from workers.adapter import (
    Alive,
    Begun,
    Event,
    Finish,
    Message,
    Reasoning,
    Request,
    Text,
    ToolCallPart,
    Warn,
)
from workers.codes import Code
from workers.endings import Ending
from workers.reply import Reply


async def test_a_stop_string_ends_the_reply_and_closes_the_upstream() -> None:
    async with running() as rig:
        await rig.bind()
        rig.generate(5, "stop_here", stop=["STOP"])
        text, done = await rig.reply(5)
        assert (text, body_of(done)["finish_reason"]) == ("one ", "stop")
        assert Fake.made[0].upstream_closed.is_set()


async def test_thinking_keeps_the_clock_alive_and_its_emptiness_is_explained() -> None:
    async with running() as rig:
        await rig.bind()
        rig.generate(5, "thoughts")
        assert isinstance(await rig.receive(), wire.Alive)
        text, done = await rig.reply(5)
        assert text == ""
        ((name, sentence),) = body_of(done)["warnings"]
        assert (name, "reasoning" in sentence) == ("EMPTY_REPLY", True)


async def test_a_streamed_reply_waits_for_credit_and_its_upstream_with_it() -> None:
    async with running() as rig:
        await rig.bind()
        rig.generate(5, "flood")
        first = ""
        while len(first) < wire.CREDIT_CHARS:
            first += (await rig.until(wire.Chunk)).text
        await rig.nothing_more()
        assert len(first) == wire.CREDIT_CHARS
        assert Fake.made[0].yielded <= wire.CREDIT_CHARS // wire.CHUNK_MAX_CHARS + 1
        rig.send(wire.Credit(5, 10))
        assert (await rig.until(wire.Chunk)).text == "x" * 10
        await rig.nothing_more()
        rig.send(wire.Cancel(5))
        assert (await rig.reply(5))[1].code == Code.INTERRUPT


async def test_credit_for_a_request_that_is_over_means_nothing() -> None:
    async with running() as rig:
        rig.send(wire.Credit(77, 10))
        await rig.nothing_more()


async def test_an_unstreamed_reply_needs_no_credit() -> None:
    async with running() as rig:
        await rig.bind()
        rig.generate(5, "flood", stream=False)
        text, done = await rig.reply(5)
        assert (len(text), done.code) == (100 * wire.CHUNK_MAX_CHARS, Code.SUCCESS)


async def test_an_unstreamed_reply_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.reply.UNSTREAMED_MAX_CHARS", 1 << 20)
    async with running() as rig:
        await rig.bind()
        rig.generate(5, "endless", stream=False)
        text, done = await rig.reply(5)
        assert (len(text), done.code) == (1 << 20, Code.UPSTREAM_PROTOCOL)


async def relayed(events: list[Event], **changes: Any) -> Ending:
    """How a reply ends that needs no host."""

    async def stream() -> AsyncIterator[Event]:
        for event in events:
            yield event

    defaults: dict[str, Any] = {"model": "", "stream": True, "timeout_s": 60.0}
    request = Request(1, (Message("user", "x"),), **{**defaults, **changes})
    return await Reply(request, lambda frame: None).relay(stream())


@pytest.mark.parametrize(
    ("events", "because"),
    [
        pytest.param([Finish("stop")], "sent no text", id="nothing"),
        pytest.param([Text("\n "), Finish("stop")], "sent no text", id="white space"),
        pytest.param([Reasoning("hm"), Finish("stop")], "then said nothing", id="reasoning"),
        pytest.param([Reasoning("hm"), Finish("length")], "spent on reasoning", id="all reasoning"),
        pytest.param([Text("<think>hm"), Finish("length")], "spent on reasoning", id="all thinking"),
        pytest.param([Finish("length")], "max_output_length", id="length"),
        pytest.param([Finish("content_filter")], "filter", id="filter"),
        pytest.param([Text("STOP"), Finish("stop")], "began with a stop", id="stop"),
        pytest.param([Text("Mia: "), Finish("stop")], "character's name", id="name"),
        pytest.param(
            [Alive(), Finish("tool_calls")], "no call of one arrived", id="a call that is not there"
        ),
    ],
)
async def test_an_empty_reply_says_why(events: list[Event], because: str) -> None:
    ending = await relayed(events, stop=("STOP",), character_name="Mia")
    (warning,) = ending.warnings
    assert warning.name == "EMPTY_REPLY"
    assert because in warning.message


@pytest.mark.parametrize(
    "events",
    [
        [Text("x"), Finish("stop")],
        [ToolCallPart(0, "a", "look", "{}"), Finish("tool_calls")],
        [ToolCallPart(0, "a", "look"), Finish("stop")],
    ],
)
async def test_a_reply_that_is_not_empty_needs_no_excuse(events: list[Event]) -> None:
    assert (await relayed(events)).warnings == ()


async def test_the_warnings_of_the_adapter_come_first() -> None:
    ending = await relayed([Finish("stop", warnings=(Warn("X", "x"),))])
    assert [warning.name for warning in ending.warnings] == ["X", "EMPTY_REPLY"]


@pytest.mark.parametrize("end", [[], [Finish("length")]])
async def test_a_stop_that_might_have_been_another_counts_at_the_end(end: list[Event]) -> None:
    ending = await relayed([Text("xabc"), *end], stop=("abcd", "bc"))
    assert ending.finish_reason == "stop"


async def test_an_iterator_that_is_no_generator_is_fine() -> None:
    class Plain:
        def __init__(self) -> None:
            self.events: list[Event] = [Finish("stop"), Text("x")]

        def __aiter__(self) -> Plain:
            return self

        async def __anext__(self) -> Event:
            return self.events.pop()

    request = Request(1, (), model="", stream=True, timeout_s=60.0)
    assert (await Reply(request, lambda frame: None).relay(Plain())).code == Code.SUCCESS


@pytest.mark.parametrize("late", [Text("b"), Reasoning("b")])
async def test_what_comes_after_a_cancel_is_not_sent(late: Event) -> None:
    sent: list[bytes] = []
    reply = Reply(Request(1, (), model="", stream=True, timeout_s=60.0), sent.append)

    async def stream() -> AsyncIterator[Event]:
        yield Text("a")
        reply.cancel()
        yield late

    with pytest.raises(asyncio.CancelledError):
        await reply.relay(stream())
    assert sent == [wire.encode(wire.Chunk(1, "a"))]


async def test_a_reply_that_is_cut_here_keeps_its_model_warnings_and_retries() -> None:
    async def events() -> AsyncIterator[Event]:
        yield Begun((Warn("PARAMETER_LEFT_OUT", "top_k is left out."),), retries=1)
        yield Text("one. two")
        yield Finish("length")

    sent: list[bytes] = []
    request = Request(1, (Message("user", "hi"),), "m", stream=True, timeout_s=1, stop=(".",))
    ending = await Reply(request, sent.append).relay(events())
    assert (ending.finish_reason, ending.model, ending.retries) == ("stop", "m", 1)
    assert [warning.name for warning in ending.warnings] == ["PARAMETER_LEFT_OUT"]


# ---- calls of tools


def called(frames: list[wire.CallPart]) -> dict[int, tuple[str, str]]:
    """The names and arguments of the calls that came."""
    result: dict[int, tuple[str, str]] = {}
    for frame in frames:
        result[frame.index] = (frame.name, result.get(frame.index, ("", ""))[1] + frame.arguments)
    return result


@pytest.mark.parametrize("stream", [True, False])
async def test_calls_come_up_in_numbered_pieces_before_the_end(stream: bool) -> None:
    async with running() as rig:
        await rig.bind()
        rig.generate(5, "call", stream=stream)
        frames: list[wire.CallPart] = []
        assert await rig.receive() == wire.Chunk(5, "Let me see.")
        while not isinstance(frame := await rig.receive(), wire.Done):
            assert isinstance(frame, wire.CallPart)
            assert frame.id
            frames.append(frame)
        assert called(frames) == {0: ("look", '{"at": "cat"}'), 1: ("ping", "{}")}
        assert (body_of(frame)["finish_reason"], body_of(frame)["warnings"]) == ("tool_calls", [])


async def test_a_long_call_waits_for_credit_and_its_upstream_with_it() -> None:
    async with running() as rig:
        await rig.bind()
        rig.generate(5, "call_at_length")
        frames: list[wire.CallPart] = []
        while sum(len(frame.arguments) for frame in frames) < wire.CREDIT_CHARS:
            frames.append(await rig.until(wire.CallPart))
        await rig.nothing_more()
        assert sum(len(frame.arguments) for frame in frames) == wire.CREDIT_CHARS
        assert Fake.made[0].yielded < 8
        rig.send(wire.Credit(5, wire.CREDIT_CHARS + 2))
        while not isinstance(frame := await rig.receive(), wire.Done):
            frames.append(frame)
        ((name, arguments),) = called(frames).values()
        assert (name, len(arguments), frame.code) == ("write", 8 * wire.CHUNK_MAX_CHARS + 2, Code.SUCCESS)


async def test_a_call_without_end_is_cut_off() -> None:
    async with running() as rig:
        await rig.bind()
        rig.generate(5, "call_without_end", stream=False)
        assert (await rig.reply(5))[1].code == Code.UPSTREAM_PROTOCOL
        assert Fake.made[0].upstream_closed.is_set()


async def test_after_a_cancel_no_piece_of_a_call_leaves() -> None:
    async with running() as rig:
        await rig.bind()
        rig.generate(5, "call_and_hang")
        await rig.until(wire.CallPart)
        rig.send(wire.Cancel(5))
        frame = await rig.receive()
        assert isinstance(frame, wire.Done)
        assert frame.code == Code.INTERRUPT
        assert Fake.made[0].upstream_closed.is_set()


async def test_a_cancelled_reply_sends_no_piece_even_if_the_adapter_goes_on() -> None:
    sent: list[bytes] = []
    reply = Reply(Request(5, (Message("user", "x"),), "m", stream=True, timeout_s=60), sent.append)

    async def events() -> AsyncIterator[Event]:
        yield ToolCallPart(0, "a", "look", "{")
        reply.cancel()
        yield ToolCallPart(0, arguments="}")

    with pytest.raises(asyncio.CancelledError):
        await reply.relay(events())
    assert len(sent) == 1


async def test_a_call_that_is_no_json_is_told_with_the_warnings_of_the_host_before_it() -> None:
    sent: list[bytes] = []
    request = Request(5, (Message("user", "x"),), "m", stream=True, timeout_s=60)
    reply = Reply(request, sent.append, (Warn("FIRST", "x"),))

    async def events() -> AsyncIterator[Event]:
        yield ToolCallPart(0, "a", "look", '{"ha')
        yield Finish("length")

    ending = await reply.relay(events())
    assert ending.finish_reason == "length"
    assert [warning.name for warning in ending.warnings] == ["FIRST", "TOOL_CALL_BROKEN"]

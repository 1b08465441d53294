"""The scripted adapter: its built-in voice, scripts of others, and that it can be stopped at any point."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.worker_process import WAIT_S
from workers.adapter import (
    AdapterError,
    Binding,
    Event,
    Finish,
    Loaded,
    LoadRequest,
    Message,
    ProviderSpec,
    Reasoning,
    Request,
    Text,
    Usage,
)
from workers.adapters.scripted import ADAPTER, Scripted
from workers.codes import Code


def report(phase: str, message: str, fraction: float | None) -> None:
    raise AssertionError("there is nothing to report")


def made(options: dict[str, Any] | None = None, quirks: dict[str, Any] | None = None) -> Scripted:
    return Scripted(ProviderSpec("demo", "Demo", quirks=quirks or {}), Binding(1, options=options or {}))


async def loaded(*replies: dict[str, Any], **options: Any) -> Scripted:
    adapter = made({"replies": list(replies), **options} if replies else options)
    await adapter.load(LoadRequest(), report)
    return adapter


def asked(text: str = "hello", **changes: Any) -> Request:
    defaults: dict[str, Any] = {"model": "", "stream": True, "timeout_s": 60.0}
    return Request(1, (Message("system", "You are."), Message("user", text)), **{**defaults, **changes})


async def played(adapter: Scripted, request: Request) -> list[Event]:
    async def collect() -> list[Event]:
        return [event async for event in adapter.generate(request)]

    return await asyncio.wait_for(collect(), WAIT_S)


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


async def said(adapter: Scripted, text: str = "hello", **changes: Any) -> str:
    return text_of(await played(adapter, asked(text, **changes)))


def test_the_module_exports_its_adapter() -> None:
    assert ADAPTER is Scripted


# ---- the built-in script


@pytest.fixture
def unpaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in voice without its pauses."""
    sleep = asyncio.sleep
    monkeypatch.setattr("workers.adapters.scripted.asyncio.sleep", lambda _: sleep(0))


@pytest.mark.usefixtures("unpaced")
@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("Hello!", "Hello"),
        ("Tell me a STORY", "lighthouse"),
        ("a joke please", "buffering"),
        ("who are you?", "demo"),
        ("help", "interrupt"),
        ("count to ten", "seven"),
        ("こんにちは", "うれしい"),
        ("hallo", "Schön"),
        ("bonjour", "Ravie"),
        ("hola", "alegría"),
        ("I like trains", 'You said: "I like trains"'),
    ],
)
async def test_the_built_in_voice_answers(text: str, part: str) -> None:
    assert part in await said(await loaded(), text)


@pytest.mark.usefixtures("unpaced")
async def test_the_story_is_long_enough_to_be_interrupted_and_comes_in_words() -> None:
    events = await played(await loaded(), asked("a story"))
    pieces = [event.text for event in events if isinstance(event, Text)]
    assert len(pieces) >= 60
    assert all(len(piece.split()) == 1 for piece in pieces)


@pytest.mark.usefixtures("unpaced")
async def test_the_built_in_voice_has_more_than_one_answer() -> None:
    adapter = await loaded()
    assert len({await said(adapter, "I like trains") for _ in range(2)}) == 2


async def test_it_has_one_model_and_needs_no_key() -> None:
    assert await made().load(LoadRequest(), report) == Loaded(models=("demo",))


# ---- which script


async def test_replies_may_be_given_with_the_load() -> None:
    assert await said(await loaded({"text": "Mine."})) == "Mine."


async def test_an_option_that_means_nothing_is_a_warning() -> None:
    result = await made({"replies": [{}], "voice": "x"}).load(LoadRequest(), report)
    ((name, sentence),) = ((warning.name, warning.message) for warning in result.warnings)
    assert (name, "voice" in sentence) == ("UNKNOWN_OPTION", True)


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "scrípt 1.json"
    path.write_text("\ufeff" + json.dumps([{"text": "From a file."}]), encoding="utf-8")
    return str(path)


async def test_the_operator_may_name_a_file(script: str) -> None:
    adapter = made(quirks={"script": script})
    await adapter.load(LoadRequest(), report)
    assert await said(adapter) == "From a file."


async def test_a_client_may_name_a_file_only_where_the_operator_allows_it(script: str) -> None:
    with pytest.raises(AdapterError, match="allow_script_option") as caught:
        await made({"script": script}).load(LoadRequest(), report)
    assert caught.value.code == Code.INVALID_REQUEST
    adapter = made({"script": script}, {"allow_script_option": True})
    await adapter.load(LoadRequest(), report)
    assert await said(adapter) == "From a file."


async def test_replies_and_a_file_are_one_too_many(script: str) -> None:
    with pytest.raises(AdapterError, match="not both"):
        await made({"script": script, "replies": [{}]}).load(LoadRequest(), report)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(None, "cannot be read", id="no file"),
        pytest.param(b"\xff", "not UTF-8", id="not UTF-8"),
        pytest.param(b"{", "not JSON", id="not JSON"),
        pytest.param(b"x" * 100, "over 50 bytes", id="too long"),
    ],
)
async def test_a_file_that_is_no_script_is_refused_without_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, said: str
) -> None:
    monkeypatch.setattr("workers.adapters.scripted.SCRIPT_MAX_BYTES", 50)
    path = tmp_path / "canary.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AdapterError, match=said) as caught:
        await made(quirks={"script": str(path)}).load(LoadRequest(), report)
    assert caught.value.code == Code.INVALID_REQUEST
    assert "canary" not in caught.value.message


# ---- playing


async def test_a_match_comes_before_the_others_which_take_turns() -> None:
    adapter = await loaded({"text": "1"}, {"text": "2"}, {"match": ["Apple", "pear"], "text": "fruit"})
    assert [await said(adapter, text) for text in ("x", "an APPLE", "y", "a pear", "z")] == [
        "1",
        "fruit",
        "2",
        "fruit",
        "1",
    ]


async def test_a_script_in_which_nothing_matches_says_so() -> None:
    with pytest.raises(AdapterError) as caught:
        await said(await loaded({"match": "x", "text": "y"}))
    assert caught.value.code == Code.INVALID_PROMPT


async def test_chunks_come_as_they_are_and_end_with_finish() -> None:
    adapter = await loaded({"chunks": ["Hel", "lo ", "you"], "reasoning": "hm", "finish": "content_filter"})
    assert await played(adapter, asked("two words")) == [
        Reasoning("hm"),
        Text("Hel"),
        Text("lo "),
        Text("you"),
        Finish("content_filter", "demo", Usage(input_tokens=4, output_tokens=3)),
    ]


async def test_what_was_said_and_who_speaks_can_be_quoted() -> None:
    adapter = await loaded({"text": "{character} heard {message}."})
    assert await said(adapter, "two words", character_name="Mia") == "Mia heard two words."
    assert await said(await loaded({"text": "{character}{x}"})) == "{x}"


async def test_the_usage_of_a_script_is_what_it_says() -> None:
    adapter = await loaded({"text": "x", "usage": {"output_tokens": 77}})
    assert (await played(adapter, asked()))[-1] == Finish("stop", "demo", Usage(output_tokens=77))


@pytest.mark.parametrize(
    ("words", "text", "reason"),
    [
        (1, "one ", "length"),
        (3, "one two three", "length"),
        (4, "one two three four", "stop"),
        (9, "one two three four", "stop"),
    ],
)
async def test_a_word_is_a_token(words: int, text: str, reason: str) -> None:
    adapter = await loaded({"chunks": ["one ", "two three four"]})
    events = await played(adapter, asked(max_output_length=words))
    assert text_of(events) == text
    assert isinstance(events[-1], Finish)
    assert events[-1].reason == reason


async def test_an_error_comes_after_the_text() -> None:
    error = {"code": "RATE_LIMITED", "message": "Slow down.", "retry_after_ms": 9}
    adapter = await loaded({"text": "Hi", "error": error})
    stream = adapter.generate(asked())
    assert await anext(stream) == Text("Hi")
    with pytest.raises(AdapterError, match="Slow down") as caught:
        await anext(stream)
    assert (caught.value.code, caught.value.retry_after_ms) == (Code.RATE_LIMITED, 9)


async def test_a_stream_may_break_off() -> None:
    assert await played(await loaded({"text": "Hi", "finish": None}), asked()) == [Text("Hi")]


async def test_a_model_that_the_script_has_not_is_refused() -> None:
    adapter = await loaded({"text": "x"})
    with pytest.raises(AdapterError, match="demo") as caught:
        await said(adapter, model="gpt-x")
    assert caught.value.code == Code.INVALID_MODEL
    with pytest.raises(AdapterError):
        await made().load(LoadRequest(preload_model="gpt-x"), report)


async def test_a_script_may_have_models_of_its_own() -> None:
    adapter = made({"replies": {"models": ["gpt-x"], "replies": [{"text": "x"}]}})
    assert (await adapter.load(LoadRequest(preload_model="gpt-x"), report)).models == ("gpt-x",)
    assert (await played(adapter, asked(model="gpt-x")))[-1].model == "gpt-x"  # type: ignore[union-attr]  # a Finish


@pytest.mark.parametrize(
    ("reply", "heard"),
    [
        pytest.param({"text": "x", "first_delay_ms": 600_000}, 0, id="before the first piece"),
        pytest.param({"text": "x y", "delay_ms": 600_000}, 1, id="between two pieces"),
        pytest.param({"text": "x", "hang": True}, 1, id="after the last piece"),
        pytest.param({"text": "x", "repeat": 10_000_000}, 1000, id="in an unpaced stream"),
    ],
)
async def test_it_can_be_cancelled_at_any_point(reply: dict[str, Any], heard: int) -> None:
    adapter = await loaded(reply)
    events: list[Event] = []
    enough = asyncio.Event()

    async def listen() -> None:
        async for event in adapter.generate(asked(max_output_length=10**9)):
            events.append(event)
            if len(events) >= heard:
                enough.set()

    task = asyncio.create_task(listen())
    if heard:
        await asyncio.wait_for(enough.wait(), WAIT_S)
    else:
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=WAIT_S)
    assert done == {task}
    assert task.cancelled()


async def test_requests_of_one_adapter_do_not_disturb_each_other() -> None:
    adapter = await loaded({"match": "a", "text": "a " * 50}, {"match": "b", "text": "b " * 50})
    first, second = await asyncio.gather(said(adapter, "a"), said(adapter, "b"))
    assert (set(first.split()), set(second.split())) == ({"a"}, {"b"})

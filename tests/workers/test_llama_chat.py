"""What llama.cpp is given for a request, and what its answers and errors become; without an engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from tests.fakes.bound import finish_of, request, text_of
from workers.adapter import AdapterError, Alive, Event, Message, Text, ToolCallPart, Usage
from workers.codes import Code
from workers.llama_chat import Manner, body_of, events_of, refused
from workers.parameters import Body

TEMPLATED: Final = Manner(plain=False, may_think=False)
THINKER: Final = Manner(plain=False, may_think=True)
PLAIN: Final = Manner(plain=True, may_think=False)
CALLER: Final = Manner(plain=False, may_think=False, knows_tools=True)
LOOK: Final = {"type": "function", "function": {"name": "look"}}
PING: Final = {"type": "function", "function": {"name": "ping"}}
BODY: Final = Body({}, ())
USAGE: Final = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}


def fields(manner: Manner = TEMPLATED, **wanted: Any) -> dict[str, Any]:
    return dict(body_of(request(**wanted), "mia", manner).fields)


def piece(text: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text} if text is not None else {}, "finish_reason": finish}
    return json.dumps({"choices": [{**choice, **more}], "model": "mia"}).encode()


def last(**fields: Any) -> bytes:
    return json.dumps({"choices": [], "model": "mia", **fields}).encode()


async def events(*pieces: bytes, manner: Manner = TEMPLATED, body: Body = BODY, **wanted: Any) -> list[Event]:
    async def answer() -> AsyncIterator[bytes]:
        for item in pieces:
            yield item

    return [event async for event in events_of(answer(), request(**wanted), body, "mia", manner)]


def test_the_engine_is_asked_in_its_own_words() -> None:
    body = fields(
        max_output_length=7, temperature=0.5, stop=("END",), sampling={"repetition_penalty": 1.2, "seed": 3}
    )
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("mia", 7, 0.5)
    assert (body["stop"], body["repeat_penalty"], body["seed"]) == (["END"], 1.2, 3)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_a_client_cannot_choose_how_the_answer_is_read() -> None:
    body = fields(extra={"stream": False, "n": 3, "stream_options": None, "min_keep": 2})
    assert (body["stream"], body["n"], body["stream_options"]) == (True, 1, {"include_usage": True})
    assert body["min_keep"] == 2


def test_neighbours_of_one_role_are_one_message_with_names() -> None:
    messages = (Message("user", "Hi", name="Ann"), Message("user", "Hello", name="Bo"))
    assert fields(messages=messages)["messages"] == [{"role": "user", "content": "Ann: Hi\nBo: Hello"}]


def test_a_stop_string_cannot_fire_in_thinking() -> None:
    assert "stop" not in fields(THINKER, stop=("END",))


@pytest.mark.parametrize(("effort", "tokens"), [(None, 200), ("none", 200), ("low", 2248)])
def test_thinking_that_is_asked_for_has_tokens_of_its_own(effort: str | None, tokens: int) -> None:
    assert fields(THINKER, reasoning_effort=effort)["max_tokens"] == tokens


def test_a_transcript_ends_where_somebody_else_would_speak() -> None:
    body = fields(PLAIN, messages=(Message("user", "Hi", name="Ann"),), character_name="Mia", stop=("END",))
    assert body["messages"] == [{"role": "user", "content": "Ann: Hi"}]
    assert body["chat_template_kwargs"] == {"speaker": "Mia"}
    assert body["stop"] == ["\nUser:", "\nAnn:", "END"]


def test_tools_are_given_to_a_template_that_knows_them() -> None:
    body = fields(CALLER, tools=(LOOK, PING), tool_choice="auto", stop=("END",))
    assert (body["tools"], body["tool_choice"], "stop" in body) == ([LOOK, PING], "auto", False)
    for manner in (TEMPLATED, THINKER, PLAIN):
        made = body_of(request(tools=(LOOK,), tool_choice="auto"), "mia", manner)
        assert not {"tools", "tool_choice"} & set(made.fields)
        assert [warning.message.split()[0] for warning in made.warnings] == ["tools", "tool_choice"]


def test_a_tool_that_is_chosen_by_its_name_is_the_only_one_and_required() -> None:
    body = fields(CALLER, tools=(LOOK, PING), tool_choice=PING)
    assert (body["tools"], body["tool_choice"]) == ([PING], "required")


@pytest.mark.parametrize("choice", [{"type": "function", "function": {"name": "other"}}, {"type": "auto"}])
def test_a_choice_that_is_none_of_the_tools_is_refused(choice: dict[str, Any]) -> None:
    with pytest.raises(AdapterError) as caught:
        fields(CALLER, tools=(LOOK,), tool_choice=choice)
    assert caught.value.code is Code.INVALID_PROMPT


def test_token_ids_as_stops_do_not_go_with_tools() -> None:
    with pytest.raises(AdapterError) as caught:
        fields(CALLER, tools=(LOOK,), stop_ids=(7,))
    assert caught.value.code is Code.UNSUPPORTED


async def test_calls_are_read_from_pieces() -> None:
    first = {"index": 0, "id": "a", "function": {"name": "look", "arguments": "{"}}
    pieces = [{"tool_calls": [first]}, {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}]
    result = await events(*(piece(delta=delta) for delta in pieces), piece(finish="tool_calls"))
    assert result[:2] == [ToolCallPart(0, "a", "look", "{"), ToolCallPart(0, "", "", "}")]
    assert finish_of(result).reason == "tool_calls"


def test_token_ids_are_asked_for_only_where_they_are_needed() -> None:
    assert "logprobs" not in fields()
    assert fields(stop_ids=(7,))["logprobs"] is True


async def test_an_answer_is_text_an_end_and_usage() -> None:
    result = await events(piece(), piece("Hel"), piece("lo"), piece(finish="stop"), last(usage=USAGE))
    assert text_of(result) == "Hello"
    assert isinstance(result[0], Alive)
    finish = finish_of(result)
    assert (finish.reason, finish.model, finish.usage) == ("stop", "mia", Usage(9, 2, 4))


async def test_an_answer_without_an_end_has_none() -> None:
    assert await events(piece("Hel")) == [Text("Hel")]


async def test_a_token_id_ends_the_answer_before_its_text() -> None:
    def token(text: str, number: int) -> bytes:
        return piece(text, logprobs={"content": [{"id": number}]})

    result = await events(token("a", 5), token("b", 7), token("c", 9), stop_ids=(7,))
    assert text_of(result) == "a"
    assert finish_of(result).reason == "stop"


async def test_the_space_after_the_colon_is_no_part_of_the_reply() -> None:
    result = await events(piece(" "), piece("\n Hi"), piece(" you"), piece(finish="stop"), manner=PLAIN)
    assert [event for event in result if isinstance(event, Text)] == [Text("Hi"), Text(" you")]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (
            {"type": "exceed_context_size_error", "code": 400, "n_prompt_tokens": 700, "n_ctx": 512},
            Code.CONTEXT_TOO_LONG,
            "have 700 tokens and the context holds 512",
        ),
        ({"code": 400, "message": "failed to parse grammar"}, Code.INVALID_PROMPT, "failed to parse grammar"),
        ({"code": 500, "message": "something broke"}, Code.UPSTREAM_ERROR, "something broke"),
    ],
    ids=["context", "request", "engine"],
)
async def test_an_error_in_the_place_of_a_piece_is_raised(
    error: dict[str, Any], code: Code, words: str
) -> None:
    with pytest.raises(AdapterError, match=words) as caught:
        await events(json.dumps({"error": error}).encode())
    assert caught.value.code is code


async def test_a_reply_may_speak_of_an_error() -> None:
    assert text_of(await events(piece('{"error": {}}'), piece(finish="stop"))) == '{"error": {}}'


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (MemoryError(), Code.OUT_OF_MEMORY, "smaller options.context_length"),
        (ValueError("While executing …\nError: Jinja Exception: roles must alternate"), Code.INVALID_PROMPT,
         r"template refuses these messages \(it said: roles must alternate\)"),
        (RuntimeError("type must be number"), Code.INVALID_PROMPT, "type must be number"),
    ],
    ids=["memory", "template", "request"],
)  # fmt: skip
def test_an_exception_of_the_engine_is_a_sentence(error: Exception, code: Code, words: str) -> None:
    result = refused(error)
    assert result.code is code
    with pytest.raises(AdapterError, match=words):
        raise result

"""Messages that belong to tools, of today's form and of the one before it, in the one form of workers."""

from __future__ import annotations

import json
from typing import Any

from supervisor.messages import Called, ChatMessage, FunctionCall
from supervisor.old_calls import OldCalls


def fields(*messages: ChatMessage) -> list[Any]:
    pairs = OldCalls()
    return [pairs.fields(message) for message in messages]


def old(name: str, arguments: str | dict[str, Any] | None = "{}") -> ChatMessage:
    return ChatMessage("assistant", function_call=FunctionCall(name, arguments))


def test_a_message_that_belongs_to_no_tool_says_so() -> None:
    plain: dict[str, Any] = {"role": "user", "name": "Ann", "tool_calls": [], "tool_call_id": None}
    assert fields(ChatMessage("user", "Hi", "Ann", tool_call_id="stray")) == [plain]


def test_calls_and_answers_of_today_are_passed_on() -> None:
    call = Called("a1", FunctionCall("look", '{"at": 1}'))
    asked, answer = fields(
        ChatMessage("assistant", tool_calls=[call]), ChatMessage("tool", "A cat.", tool_call_id="a1")
    )
    assert asked["tool_calls"] == [{"id": "a1", "name": "look", "arguments": '{"at": 1}'}]
    assert (answer["role"], answer["tool_call_id"], answer["tool_calls"]) == ("tool", "a1", [])


def test_arguments_become_json_text() -> None:
    shown = [
        item["tool_calls"][0]["arguments"]
        for item in fields(old("f", {"x": "é"}), old("f", None), old("f", ""))
    ]
    assert json.loads(shown[0]) == {"x": "é"}
    assert shown[1:] == ["{}", "{}"]


def test_a_pair_of_old_becomes_a_call_with_an_id_and_its_answer() -> None:
    first, answer, second, other = fields(
        old("look"),
        ChatMessage("function", "A cat.", "look"),
        old("look"),
        ChatMessage("function", "A dog.", "look"),
    )
    ids = [first["tool_calls"][0]["id"], second["tool_calls"][0]["id"]]
    assert [answer["tool_call_id"], other["tool_call_id"]] == ids
    assert ids[0] != ids[1]
    assert all(len(made) == 9 and made.isalnum() for made in ids), "what Mistral's models want"
    assert {answer["role"], other["role"]} == {"tool"}


def test_answers_of_old_find_their_calls_by_name() -> None:
    one, two, to_two, to_one = fields(
        old("one"), old("two"), ChatMessage("function", "2", "two"), ChatMessage("function", "1", "one")
    )
    assert to_one["tool_call_id"] == one["tool_calls"][0]["id"]
    assert to_two["tool_call_id"] == two["tool_calls"][0]["id"]


def test_an_answer_of_old_to_nothing_has_no_fields() -> None:
    assert fields(ChatMessage("function", "x", "f")) == [None]
    assert fields(old("f"), ChatMessage("function", "x", "g"))[1] is None
    answer = ChatMessage("function", "x", "f")
    assert fields(old("f"), answer, answer)[2] is None

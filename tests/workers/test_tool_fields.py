"""Tools, calls and answers as fields of the OpenAI wire, and how providers differ in them."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.fakes.bound import request
from workers.adapter import AdapterError, Message, ToolCall
from workers.chat_body import build
from workers.codes import Code
from workers.parameters import Body
from workers.quirks import Quirks

TOOL: Final = {"type": "function", "function": {"name": "look", "strict": True, "parameters": {}}}
NAMED: Final = {"type": "function", "function": {"name": "look"}}
CALL: Final = ToolCall("call_1", "look", '{"x": 1}')
TURNS: Final = (
    Message("user", "Look."),
    Message("assistant", "", tool_calls=(CALL,)),
    Message("tool", "A cat.", tool_call_id="call_1"),
)


def body(quirks: Quirks | None = None, **fields: Any) -> Body:
    return build(request(**fields), quirks or Quirks())


def messages(quirks: Quirks | None = None, *turns: Message) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = body(quirks, messages=turns or TURNS).fields["messages"]
    return sent


def names(made: Body) -> list[str]:
    return [warning.message.split()[0] for warning in made.warnings]


@pytest.mark.parametrize("choice", ["auto", "none", "required", NAMED])
def test_tools_and_the_choice_are_sent_as_they_are(choice: Any) -> None:
    made = body(tools=(TOOL,), tool_choice=choice)
    assert (made.fields["tools"], made.fields["tool_choice"], made.warnings) == ([TOOL], choice, ())


def test_a_request_without_tools_says_nothing_of_them() -> None:
    assert not {"tools", "tool_choice"} & set(body().fields)


def test_where_tools_are_refused_they_are_left_out_and_told() -> None:
    made = body(Quirks(unsupported=("tools",)), tools=(TOOL,), tool_choice="auto")
    assert not {"tools", "tool_choice"} & set(made.fields)
    assert names(made) == ["tools", "tool_choice"]
    with pytest.raises(AdapterError) as caught:
        messages(Quirks(unsupported=("tools",)))
    assert caught.value.code is Code.UNSUPPORTED


def test_a_choice_that_is_refused_is_left_out_and_told() -> None:
    few = Quirks(tool_choices=("auto", "none"))
    assert names(body(few, tools=(TOOL,), tool_choice="required")) == ["tool_choice"]
    assert body(few, tools=(TOOL,), tool_choice=NAMED).fields["tool_choice"] == NAMED
    made = body(Quirks(unsupported=("tool_choice",)), tools=(TOOL,), tool_choice="auto")
    assert (names(made), "tools" in made.fields) == (["tool_choice"], True)


def test_a_call_and_its_answer_have_the_shape_of_the_wire() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}}
    assert messages()[1:] == [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "A cat.", "tool_call_id": "call_1"},
    ]


def test_what_was_said_beside_a_call_stays_beside_it() -> None:
    said = Message("assistant", "Let me see.", tool_calls=(CALL,))
    assert messages(None, TURNS[0], said, TURNS[2])[1]["content"] == "Let me see."


@pytest.mark.parametrize(("field", "content", "name"), [("native", None, "Mia"), ("prefix", None, None)])
def test_a_name_does_not_make_a_call_say_something(field: str, content: str | None, name: str | None) -> None:
    silent = Message("assistant", "", "Mia", tool_calls=(CALL,))
    sent = messages(Quirks(name_field=field), TURNS[0], silent, TURNS[2])[1]
    assert (sent["content"], sent.get("name")) == (content, name)


@pytest.mark.parametrize("field", ["native", "prefix"])
def test_what_a_tool_says_has_no_name_before_it(field: str) -> None:
    answer = Message("tool", "A cat.", "look", tool_call_id="call_1")
    assert messages(Quirks(name_field=field), *TURNS[:2], answer)[2] == {
        "role": "tool",
        "content": "A cat.",
        "tool_call_id": "call_1",
    }


def test_joined_roles_leave_calls_and_answers_apart() -> None:
    other = ToolCall("call_2", "look", "{}")
    turns = (
        Message("user", "One."),
        Message("user", "Two."),
        Message("assistant", "Let me see."),
        Message("assistant", "", tool_calls=(CALL, other)),
        Message("tool", "A cat.", tool_call_id="call_1"),
        Message("tool", "A dog.", tool_call_id="call_2"),
        Message("assistant", "", tool_calls=(CALL,)),
        Message("assistant", "", tool_calls=(other,)),
    )
    sent = messages(Quirks(merge_roles=True), *turns)
    assert [(item["role"], item["content"], len(item.get("tool_calls", ()))) for item in sent] == [
        ("user", "One.\nTwo.", 0),
        ("assistant", "Let me see.", 2),
        ("tool", "A cat.", 0),
        ("tool", "A dog.", 0),
        ("assistant", None, 1),
        ("assistant", None, 1),
    ]


def test_ids_of_another_provider_get_the_form_that_is_wanted_the_same_at_both_ends() -> None:
    sent = messages(Quirks(tool_call_id_chars=9))
    made = sent[1]["tool_calls"][0]["id"]
    assert made == sent[2]["tool_call_id"] != "call_1"
    assert len(made) == 9
    assert made.isalnum()
    own = ToolCall("Ab3dE6gH9", "look", "{}")
    kept = messages(Quirks(tool_call_id_chars=9), TURNS[0], Message("assistant", "", tool_calls=(own,)))
    assert kept[1]["tool_calls"][0]["id"] == "Ab3dE6gH9"


def test_a_call_says_which_one_it_is_where_that_is_wanted() -> None:
    both = Message("assistant", "", tool_calls=(CALL, CALL))
    sent = messages(Quirks(tool_call_index=True), TURNS[0], both)
    assert [call["index"] for call in sent[1]["tool_calls"]] == [0, 1]


def test_a_stop_string_cannot_fire_in_a_call() -> None:
    made = body(Quirks(stop_max=4), tools=(TOOL,), stop=("END",), stream=False)
    assert "stop" not in made.fields
    assert made.fields["stream"] is True
    assert "stop" not in body(Quirks(stop_max=4), extra={"tools": [TOOL]}, stop=("END",)).fields
    assert body(Quirks(stop_max=4), stop=("END",)).fields["stop"] == ["END"]

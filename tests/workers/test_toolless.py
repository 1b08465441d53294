"""What a wire without tools is given of a request that has some."""

from __future__ import annotations

import pytest

from tests.fakes.bound import request
from workers.adapter import AdapterError, Message, ToolCall
from workers.codes import Code
from workers.toolless import without_tools

TOOL = {"type": "function", "function": {"name": "look"}}
CALL = ToolCall("a", "look", "{}")


def test_a_request_without_tools_is_left_as_it_is() -> None:
    plain = request()
    assert without_tools(plain) == (plain, ())


def test_tools_are_left_out_and_told() -> None:
    made, warnings = without_tools(request(tools=(TOOL,), tool_choice="required"))
    assert (made.tools, made.tool_choice) == ((), None)
    assert [(warning.name, warning.message.split()[0]) for warning in warnings] == [
        ("PARAMETER_LEFT_OUT", "tools"),
        ("PARAMETER_LEFT_OUT", "tool_choice"),
    ]


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (Message("assistant", "", tool_calls=(CALL,)), "with tool_calls"),
        (Message("tool", "42", tool_call_id="a"), "'tool'"),
        (Message("function", "42", "look"), "'function'"),
    ],
)
def test_a_message_that_belongs_to_a_tool_is_refused_with_what_to_do(message: Message, named: str) -> None:
    with pytest.raises(AdapterError) as caught:
        without_tools(request(messages=(Message("user", "Hi"), message)))
    assert caught.value.code is Code.UNSUPPORTED
    assert named in caught.value.message
    assert "another provider" in caught.value.message

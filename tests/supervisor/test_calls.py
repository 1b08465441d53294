"""The calls of one reply, put together, and the message for a piece of one."""

from __future__ import annotations

import json

from supervisor.calls import Calls, piece_message
from supervisor.commands import CallPart
from supervisor.messages import Address, RequestId
from supervisor.replies import CalledFunction, CalledTool, encode


def test_pieces_of_calls_become_whole_ones_in_their_order() -> None:
    calls = Calls()
    for part in (
        CallPart(1, "b", "g", "[]"),
        CallPart(0, "a", "f", "{"),
        CallPart(0, "a", "f", "}"),
    ):
        calls.take(part)
    assert calls.whole() == [
        CalledTool("a", CalledFunction("f", "{}")),
        CalledTool("b", CalledFunction("g", "[]")),
    ]


def test_no_calls_are_none() -> None:
    assert Calls().whole() == []


def test_a_piece_has_the_id_as_it_came() -> None:
    message = piece_message(Address(RequestId(b"1e2", 100.0)), CallPart(2, "a", "f", "x"))
    assert b'"unique_request_id":1e2' in encode(message)
    assert json.loads(encode(piece_message(Address(), CallPart(2, "a", "f", "x")))) == {
        "type": "generate_tool_call_chunk",
        "index": 2,
        "id": "a",
        "name": "f",
        "arguments": "x",
    }

"""Calls on the OpenAI wire, as servers of all kinds send them: which piece belongs to which call."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workers.call_parts import CallParts


def piece(arguments: Any = None, name: str | None = None, **fields: Any) -> dict[str, Any]:
    """One item of `tool_calls`."""
    function = {"name": name, "arguments": arguments}
    return {**fields, "function": {key: value for key, value in function.items() if value is not None}}


def calls(*deltas: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """The calls of an answer: ids, names and arguments."""
    reader = CallParts()
    result: dict[int, list[str]] = {}
    for items in deltas:
        for part in reader.read({"tool_calls": items}):
            call = result.setdefault(part.index, ["", "", ""])
            call[0], call[1] = call[0] or part.id, call[1] or part.name
            call[2] += part.arguments
    return [(call[0], call[1], call[2]) for _, call in sorted(result.items())]


ONE = [("a", "f", '{"x":1}')]
TWO = [("a", "f", "{}"), ("b", "g", "[]")]


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        pytest.param(
            [
                [piece("", "f", index=0, id="a", type="function")],
                [piece('{"x"', index=0)],
                [piece(":1}", index=0)],
            ],
            ONE,
            id="by the book",
        ),
        pytest.param([[piece('{"x":1}', "f", index=0, id="a")]], ONE, id="whole"),
        pytest.param([[piece('{"x"', "f", id="a")], [piece(":1}")]], ONE, id="no index"),
        pytest.param(
            [[piece('{"x"', "f", index=0, id="a")], [piece(":1}", index=0, id="a")]], ONE, id="the id again"
        ),
        pytest.param(
            [[piece('{"x"', "f", index=0, id="a")], [piece(":1}", "f", index=0, id="a")]],
            ONE,
            id="the id and the name again",
        ),
        pytest.param(
            [[piece('{"x"', "f", id="a")], [piece(":1}", "f")]], ONE, id="the name again and no index"
        ),
        pytest.param(
            [[piece('{"x"', "f", index=0, id="a")], [piece(":1}", index=0, id="z")]],
            ONE,
            id="a new id for each piece",
        ),
        pytest.param(
            [[piece('{"x"', "f", id="a")], [piece(":1}", id="z")]], ONE, id="a new id each, and no index"
        ),
        pytest.param(
            [[piece("{}", "f", index=0, id="a"), piece("[]", "g", index=1, id="b")]], TWO, id="two at once"
        ),
        pytest.param(
            [[piece("{}", "f", id="a")], [piece("[]", "g", id="b")]], TWO, id="two after another, no index"
        ),
        pytest.param(
            [[piece("{}", "f", index=0, id="a")], [piece("[]", "g", index=0, id="b")]],
            TWO,
            id="one index for all",
        ),
        pytest.param(
            [[piece("{", "f", index=0, id="a")], [piece("[]", "g", index=1, id="b")], [piece("}", index=0)]],
            TWO,
            id="two at a time",
        ),
        pytest.param(
            [[piece("{}", "f", index=0, id="a"), piece("[]", "g", index=0, id="b")]],
            TWO,
            id="two at once, one index for all",
        ),
    ],
)
def test_pieces_find_their_calls(deltas: list[Any], expected: list[tuple[str, str, str]]) -> None:
    assert calls(*deltas) == expected


@pytest.mark.parametrize("index", [{}, {"index": 0}, {"index": None}])
@pytest.mark.parametrize("identifier", [{}, {"id": None}, {"id": ""}, {"id": "null"}])
def test_calls_of_one_name_without_ids_are_two_calls(
    index: dict[str, Any], identifier: dict[str, Any]
) -> None:
    both = [piece("{}", "f", **index, **identifier), piece("[]", "f", **index, **identifier)]
    assert calls(both) == [("", "f", "{}"), ("", "f", "[]")]


def test_whole_calls_of_one_name_after_another_are_two_calls() -> None:
    assert calls([piece('{"x":1}', "f")], [piece('{"x":2}', "f")]) == [
        ("", "f", '{"x":1}'),
        ("", "f", '{"x":2}'),
    ]


def test_arguments_may_be_an_object() -> None:
    ((_, _, arguments),) = calls([piece({"x": ["é"]}, "f", id="a")])
    assert json.loads(arguments) == {"x": ["é"]}
    assert "é" in arguments


def test_one_item_may_stand_for_the_list() -> None:
    (part,) = CallParts().read({"tool_calls": piece("{}", "f", index=0, id="a")})
    assert (part.id, part.name, part.arguments) == ("a", "f", "{}")


def test_the_one_call_of_old_is_read_in_pieces() -> None:
    reader = CallParts()
    parts = [
        *reader.read({"function_call": {"name": "f", "arguments": ""}}),
        *reader.read({"function_call": {"arguments": '{"x":1}'}}),
    ]
    assert {part.index for part in parts} == {0}
    assert (parts[0].name, "".join(part.arguments for part in parts)) == ("f", '{"x":1}')


@pytest.mark.parametrize(
    "part",
    [
        {},
        {"tool_calls": None},
        {"tool_calls": []},
        {"tool_calls": "x"},
        {"tool_calls": [None, 7, "x", {}, {"function": None}, {"type": "custom", "custom": {"name": "f"}}]},
        {"function_call": None},
        {"function_call": "f"},
    ],
)
def test_what_is_no_call_is_passed_over(part: dict[str, Any]) -> None:
    assert CallParts().read(part) == []


@pytest.mark.parametrize(
    "item",
    [
        {"index": True, "id": 7, "function": {"name": ["f"], "arguments": 7}},
        {"index": "0", "function": {}},
    ],
)
def test_fields_of_a_wrong_type_say_nothing(item: dict[str, Any]) -> None:
    (part,) = CallParts().read({"tool_calls": [item]})
    assert (part.id, part.name, part.arguments) == ("", "", "")

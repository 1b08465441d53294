"""Calls of tools, made whole from pieces: numbers, ids, arguments, bounds, and what is broken."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.adapter import AdapterError, ToolCallPart
from workers.codes import Code
from workers.tool_calls import ARGUMENTS_MAX_CHARS, CALLS_MAX, ToolCalls
from workers.wire import CALL_NAME_MAX_CHARS

Part = ToolCallPart


def told(*parts: ToolCallPart) -> tuple[list[ToolCallPart], list[str]]:
    """What a client is told of a whole reply, and what it is warned of."""
    calls = ToolCalls()
    shown = [piece for part in parts if (piece := calls.feed(part)) is not None]
    shown += calls.finish()
    return shown, [warning.message for warning in calls.warnings()]


def test_a_call_in_pieces_has_its_id_and_name_in_each() -> None:
    shown, warnings = told(Part(0, "a1", "look"), Part(0, arguments='{"x'), Part(0, arguments='":1}'))
    assert shown == [
        Part(0, "a1", "look", ""),
        Part(0, "a1", "look", '{"x'),
        Part(0, "a1", "look", '":1}'),
    ]
    assert warnings == []


def test_several_calls_are_numbered_as_their_names_come_whatever_the_adapter_calls_them() -> None:
    shown, _ = told(Part(7, "a", "one", "{"), Part(-3, "b", "two", "{}"), Part(7, arguments="}"))
    assert [(piece.index, piece.name, piece.arguments) for piece in shown] == [
        (0, "one", "{"),
        (1, "two", "{}"),
        (0, "one", "}"),
    ]


def test_nothing_of_a_call_is_told_before_its_name() -> None:
    calls = ToolCalls()
    assert calls.feed(Part(0, "a", "", "[")) is None
    assert not calls
    assert calls.feed(Part(0, "", "late", "]")) == Part(0, "a", "late", "[]")
    assert calls


def test_the_first_id_and_the_first_name_count() -> None:
    shown, _ = told(Part(0, "a", "look", "{"), Part(0, "b", "other", "}"))
    assert {(piece.id, piece.name) for piece in shown} == {("a", "look")}


def test_a_call_without_an_id_gets_one_that_every_provider_takes() -> None:
    (first, second), _ = told(Part(0, "", "one", "{}"), Part(1, "", "one", "{}"))
    assert first.id != second.id
    assert all(len(piece.id) == 9 and piece.id.isalnum() for piece in (first, second))


@pytest.mark.parametrize("nothing", ["", " \n"])
def test_no_arguments_are_an_empty_object(nothing: str) -> None:
    shown, warnings = told(Part(0, "a", "ping", nothing))
    assert json.loads("".join(piece.arguments for piece in shown)) == {}
    assert warnings == []


@pytest.mark.parametrize("arguments", ['{"x": ', "not json", "[" * 100_000])
def test_arguments_that_are_no_json_are_told_and_not_mended(arguments: str) -> None:
    shown, (warning,) = told(Part(0, "a", "look", arguments))
    assert shown[0].arguments == arguments
    assert warning.startswith("The arguments for the tool 'look' are no JSON")


def test_a_call_that_never_gets_a_name_is_left_out_and_told() -> None:
    shown, (warning,) = told(Part(0, "a", "", "{}"))
    assert shown == []
    assert "without the name" in warning


def test_halves_of_a_character_are_joined() -> None:
    high, low = "\ud83d", "\ude00"
    shown, _ = told(Part(0, "a", "say", f'"{high}'), Part(0, arguments=f'{low}"'))
    assert "".join(piece.arguments for piece in shown) == '"😀"'
    assert all(piece.arguments.isprintable() for piece in shown)
    shown, _ = told(Part(0, "a", "say", f'"{high}'))
    assert "".join(piece.arguments for piece in shown) == '"\ufffd'


@given(st.text(max_size=20), st.lists(st.integers(0, 20), max_size=4))
def test_arguments_are_told_character_for_character_however_they_are_cut(text: str, cuts: list[int]) -> None:
    whole = json.dumps(text, ensure_ascii=False)
    places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    pieces = [whole[start:end] for start, end in itertools.pairwise(places)]
    shown, warnings = told(Part(0, "a", "say"), *(Part(0, arguments=piece) for piece in pieces))
    assert "".join(piece.arguments for piece in shown) == whole
    assert warnings == []


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([Part(n, "a", "x") for n in range(CALLS_MAX + 1)], id="many"),
        pytest.param([Part(0, "a", "x", "y" * (ARGUMENTS_MAX_CHARS + 1))], id="long"),
        pytest.param([Part(0, "a", "x", "y" * (ARGUMENTS_MAX_CHARS // 2 + 1))] * 2, id="long together"),
        pytest.param([Part(0, "a", "x" * (CALL_NAME_MAX_CHARS + 1))], id="a long name"),
        pytest.param([Part(0, "a" * (CALL_NAME_MAX_CHARS + 1), "x")], id="a long id"),
    ],
)
def test_what_is_more_than_any_model_says_is_an_error(parts: list[ToolCallPart]) -> None:
    with pytest.raises(AdapterError) as caught:
        told(*parts)
    assert caught.value.code is Code.UPSTREAM_PROTOCOL

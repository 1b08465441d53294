"""What every wire decides alike about a request; bodies show the rest of it (test_chat_body.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from workers.adapter import Request, Warn
from workers.parameters import bounded, early_stops, is_streamed, not_taken, schema_of, without_options
from workers.quirks import Quirks


def wanted(**fields: Any) -> Request:
    return Request(**{"id": 1, "messages": (), "model": "m", "stream": False, "timeout_s": 60.0, **fields})


@pytest.mark.parametrize(
    ("stream", "stop", "sent", "streamed"),
    [
        (False, (), [], False),
        (True, (), [], True),
        (False, ("a", "a", "b"), ["a", "b"], False),
        (False, ("a", "b"), ["a"], True),
    ],
    ids=["whole", "as asked", "all stops go upstream", "one is cut here"],
)
def test_an_answer_is_streamed_also_where_the_host_must_be_able_to_end_it(
    stream: bool, stop: tuple[str, ...], sent: list[str], streamed: bool
) -> None:
    assert is_streamed(wanted(stream=stream, stop=stop), sent) is streamed


@pytest.mark.parametrize(
    ("stop", "name", "early"),
    [
        ("Mia:", "Mia", False),
        ("\nmia", "Mia", False),
        (": \n", "Mia", False),
        ("a： ", "Mia", False),
        ("\n", None, False),
        ("Mia:", None, True),
        ("\nAnn:", "Mia", True),
        ("Maria:", "Mia", True),
    ],
)
def test_a_stop_that_may_fire_before_anything_is_shown_is_the_hosts_to_cut_at(
    stop: str, name: str | None, early: bool
) -> None:
    found = early_stops(wanted(stop=(stop, "END", "END"), character_name=name))
    assert found == ([stop, "END"] if early else ["END"])


def test_what_only_thinking_does_not_take_is_left_out_only_then() -> None:
    quirks = Quirks(unsupported=("seed",), reasoning_unsupported=("stop",))
    assert not_taken(quirks, ("top_k",), thinks=False) == {"seed", "top_k"}
    assert not_taken(quirks, ("top_k",), thinks=True) == {"seed", "top_k", "stop"}


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [
        ({"type": "json_schema", "json_schema": {"schema": {"a": 1}}}, {"a": 1}),
        ({"type": "json_schema", "json_schema": {"schema": 7}}, None),
        ({"type": "json_schema", "json_schema": 7}, None),
        ({"type": "json_object"}, None),
    ],
)
def test_a_schema_is_found_where_there_is_one(
    response_format: Mapping[str, Any], schema: Mapping[str, Any] | None
) -> None:
    assert schema_of(response_format) == schema


@pytest.mark.parametrize(
    ("value", "kept", "told"),
    [
        (0.5, 0.5, []),
        (3.0, 1.0, [Warn("PARAMETER_CHANGED", "top_p 3 was sent as 1")]),
        (-1, 0.0, [Warn("PARAMETER_CHANGED", "top_p -1 was sent as 0")]),
    ],
)
def test_what_lies_outside_of_limits_is_moved_into_them_and_told(
    value: float, kept: float, told: list[Warn]
) -> None:
    warnings: list[Warn] = []
    assert (bounded("top_p", value, (0.0, 1.0), warnings), warnings) == (kept, told)


@pytest.mark.parametrize(
    ("asked", "left_out"),
    [
        ({}, []),
        ({"response_format": {"type": "text"}, "reasoning_effort": "none"}, []),
        (
            {"response_format": {"type": "json_object"}, "reasoning_effort": "low"},
            ["response_format", "reasoning_effort"],
        ),
    ],
)
def test_what_a_model_that_goes_on_with_a_text_does_not_have_is_told(
    asked: dict[str, Any], left_out: list[str]
) -> None:
    assert [warning.message.split()[0] for warning in without_options(wanted(**asked))] == left_out

"""The quirks of a provider: its table as a record, and the patterns of its models."""

from __future__ import annotations

from typing import Any

import pytest

from workers.adapter import AdapterError
from workers.quirks import Quirks, matches


@pytest.mark.parametrize(
    ("patterns", "model", "expected"),
    [
        (("o1*",), "O1-mini", True),
        (("o1*",), "gpt-o1", False),
        (("*", "!Meta/*"), "meta/x", False),
        (("*", "!meta/*"), "other", True),
        (("!x",), "y", False),
        ((), "y", False),
    ],
)
def test_patterns_name_models_and_take_them_away(
    patterns: tuple[str, ...], model: str, expected: bool
) -> None:
    assert matches(patterns, model) is expected


@pytest.mark.parametrize(
    "table",
    [
        {"stop_maximum": 4},
        {"stop_max": "4"},
        {"stop_max": True},
        {"temperature_max": "hot"},
        {"temperature_max": True},
        {"unsupported": "top_k"},
        {"unsupported": [1]},
        {"name_field": "sometimes"},
        {"extra_headers": []},
    ],
    ids=str,
)
def test_a_table_with_a_mistake_is_refused_by_its_name(table: dict[str, Any]) -> None:
    with pytest.raises(AdapterError) as caught:
        Quirks.parse("fake", table)
    assert caught.value.message.startswith(f"[provider.fake.quirks]: {next(iter(table))}") or (
        "unknown key" in caught.value.message
    )


def test_a_table_becomes_a_record() -> None:
    quirks = Quirks.parse("fake", {"stop_max": 4, "temperature_max": 1, "unsupported": ["top_k"]})
    assert (quirks.stop_max, quirks.temperature_max, quirks.unsupported) == (4, 1.0, ("top_k",))


def test_a_wire_has_values_of_its_own_where_a_table_says_nothing() -> None:
    usual = Quirks(chat_path="/messages", stop_max=3, extra_headers={"version": "1", "kind": "a"})
    quirks = Quirks.parse("x", {"stop_max": 5, "extra_headers": {"kind": "b"}}, over=usual)
    assert (quirks.chat_path, quirks.stop_max, quirks.models_path) == ("/messages", 5, "/models")
    assert quirks.extra_headers == {"version": "1", "kind": "b"}


def test_a_model_may_differ_and_of_several_patterns_the_last_wins() -> None:
    table = {
        "stop_max": 1,
        "by_model": {
            "big-* small-*": {"stop_max": 2, "merge_roles": True},
            "big-5* !big-5-old": {"stop_max": 3},
        },
    }
    quirks = Quirks.parse("x", table)
    found = {
        model: quirks.of(model).stop_max for model in ("other", "small-1", "big-4", "BIG-5", "big-5-old")
    }
    assert found == {"other": 1, "small-1": 2, "big-4": 2, "BIG-5": 3, "big-5-old": 2}
    assert quirks.of("big-5").merge_roles
    assert quirks.of("other") is quirks


@pytest.mark.parametrize(
    "differing", [7, {"stop_maximum": 4}, {"stop_max": "4"}, {"by_model": {"x": {}}}, {"name_field": "never"}]
)
def test_a_table_of_a_model_is_checked_with_its_provider(differing: Any) -> None:
    with pytest.raises(AdapterError) as caught:
        Quirks.parse("x", {"by_model": {"big-*": differing}})
    assert "big-*" in caught.value.message

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

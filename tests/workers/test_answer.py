"""What the readers of all wires count; all else of workers/answer.py is in test_contract.py."""

from __future__ import annotations

import pytest

from workers.answer import whole_input


@pytest.mark.parametrize(
    ("fresh", "cached", "written", "expected"),
    [
        (7, 100, 20, 127),
        (7, None, None, 7),
        (7, "many", -1, 7),
        (None, 100, 20, None),
    ],
)
def test_what_a_cache_gave_or_took_is_input_too(
    fresh: object, cached: object, written: object, expected: int | None
) -> None:
    assert whole_input(fresh, cached, written) == expected

"""Which failures are worth one more try, and when."""

from __future__ import annotations

import pytest

from workers.adapter import AdapterError
from workers.codes import Code
from workers.faults import Unreachable
from workers.retries import retry_pause_s


def status(number: int, code: Code, retry_after_ms: int | None = None) -> AdapterError:
    return AdapterError(code, "x", provider_status=number, retry_after_ms=retry_after_ms)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (status(429, Code.RATE_LIMITED), True),
        (status(502, Code.UPSTREAM_ERROR), True),
        (status(503, Code.UPSTREAM_ERROR), True),
        (status(529, Code.UPSTREAM_ERROR), True),
        (status(429, Code.QUOTA), False),
        (status(500, Code.UPSTREAM_ERROR), False),
        (status(401, Code.AUTHORIZATION), False),
        (Unreachable("x", transient=True), True),
        (Unreachable("x"), False),
        (AdapterError(Code.TRUNCATED, "x"), False),
    ],
)
def test_only_what_did_no_work_is_tried_again(error: AdapterError, again: bool) -> None:
    assert (retry_pause_s(error, 60.0) is not None) == again


@pytest.mark.parametrize(
    ("retry_after_ms", "left_s", "shortest_s"),
    [
        (None, 60.0, 0.25),
        (0, 60.0, 0.25),
        (2000, 60.0, 2.0),
        (2000, 1.0, None),
        (None, 0.1, None),
        (None, -1.0, None),
    ],
)
def test_a_pause_honours_the_providers_wait_and_the_time_that_is_left(
    retry_after_ms: int | None, left_s: float, shortest_s: float | None
) -> None:
    pause_s = retry_pause_s(status(429, Code.RATE_LIMITED, retry_after_ms), left_s)
    if shortest_s is None:
        assert pause_s is None
    else:
        assert pause_s is not None
        assert shortest_s <= pause_s <= max(shortest_s, 0.5)

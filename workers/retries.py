"""Whether a request may be sent once more, and when: the one rule for all wires. Pure.

Only a failure before anything of an answer arrived is ever asked about, and only one that certainly did no
work: nobody must hear, or pay for, a sentence twice.
"""

from __future__ import annotations

import random
from typing import Final

from workers.adapter import AdapterError
from workers.codes import Code
from workers.faults import Unreachable

__all__ = ["retry_pause_s"]

RETRY_STATUSES: Final = (429, 502, 503, 529)
RETRY_CODES: Final = (Code.RATE_LIMITED, Code.UPSTREAM_ERROR)
RETRY_JITTER_S: Final = (0.25, 0.5)
"""Long enough to pass a hiccup, short enough that a listener does not notice; spread, not in step."""


def retry_pause_s(error: AdapterError, left_s: float) -> float | None:
    """How long to wait before the retry, of the time that is left; None when there must be none."""
    transient = isinstance(error, Unreachable) and error.transient
    if not transient and not (error.provider_status in RETRY_STATUSES and error.code in RETRY_CODES):
        return None
    pause_s = random.uniform(*RETRY_JITTER_S)  # noqa: S311 - spreads retries, no secret
    if error.retry_after_ms is not None:
        pause_s = max(pause_s, error.retry_after_ms / 1000)
    return pause_s if pause_s < left_s else None

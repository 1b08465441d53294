"""What this module is held to: each target, what was measured of it, and whether it is met.

A ratio is taken in each round, between contenders that ran minutes apart at most, and the median counts.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.figures import Crowd, Figures, Life

__all__ = ["Target", "targets"]

READY_MS: Final = 150.0
READY_OLDEST_MS: Final = 200.0
"""On Python 3.10, whose start and imports are slower."""
LOAD_MS: Final = 350.0
SUPERVISOR_MB: Final = 30.0
WORKER_MB: Final = 36.0
TIMES: Final = "\u00d7"
FLAT: Final = 1.25
"""A stream of the largest crowd may cost so much more than one of the smallest: more is not flat."""


@dataclass(frozen=True, slots=True)
class Target:
    """One line: what, the bound, what was measured."""

    what: str
    bound: float
    measured: float
    unit: str
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the bound holds."""
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    @property
    def wanted(self) -> str:
        """The bound in words."""
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}{self.unit}"


def targets(rounds: Mapping[str, Sequence[Figures]], life: Life, crowds: Sequence[Crowd]) -> Iterator[Target]:
    """All targets whose peers were measured."""
    ours = rounds["ours"]
    if "openai" in rounds:
        yield from _against_sdk(ours, rounds["openai"])
    if "litellm" in rounds:
        yield from _against_proxy(ours, rounds["litellm"])
    above = statistics.median(
        us.streams_p99_ms - direct.streams_p99_ms for us, direct in zip(ours, rounds["aiohttp"], strict=True)
    )
    yield Target("chunk p99 of the paced streams above the direct client's", 1.5, above, " ms")
    ready_ms = READY_OLDEST_MS if sys.version_info < (3, 11) else READY_MS
    yield Target("ready, median of the starts", ready_ms, statistics.median(life.ready_ms), " ms")
    yield Target("load of an HTTP provider, median", LOAD_MS, statistics.median(life.load_ms), " ms")
    yield Target("memory of the supervisor", SUPERVISOR_MB, life.supervisor_mb, " MB")
    yield Target("memory of an HTTP worker", WORKER_MB, life.worker_mb, " MB")
    growth = crowds[-1].own_cpu_ms / max(crowds[0].own_cpu_ms, 1e-9)
    what = f"cost of a stream at {crowds[-1].streams} streams against {crowds[0].streams}"
    yield Target(what, FLAT, growth, TIMES)


def _against_sdk(ours: Sequence[Figures], sdk: Sequence[Figures]) -> Iterator[Target]:
    def ratio(of: Callable[[Figures], float]) -> float:
        return _ratio(of, ours, sdk)

    yield Target("first token against the openai SDK", 0.7, ratio(lambda f: f.first_p50_ms), TIMES)
    yield Target("chunks/s against the openai SDK", 7, ratio(lambda f: f.chunks_per_s), TIMES, at_least=True)
    yield Target(
        "requests/s against the openai SDK", 9, ratio(lambda f: f.requests_per_s), TIMES, at_least=True
    )


def _against_proxy(ours: Sequence[Figures], proxy: Sequence[Figures]) -> Iterator[Target]:
    def ratio(of: Callable[[Figures], float]) -> float:
        return _ratio(of, ours, proxy)

    yield Target("first token against the LiteLLM proxy", 0.1, ratio(lambda f: f.first_p50_ms), TIMES)
    yield Target(
        "requests/s against the LiteLLM proxy", 50, ratio(lambda f: f.requests_per_s), TIMES, at_least=True
    )


def _ratio(of: Callable[[Figures], float], ours: Sequence[Figures], theirs: Sequence[Figures]) -> float:
    return statistics.median(of(us) / of(them) for us, them in zip(ours, theirs, strict=True))

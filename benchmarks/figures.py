"""What a benchmark measures, as types, and the arithmetic on them: percentiles, medians over rounds."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["Crowd", "Figures", "Life", "median_of", "percentile"]

T = TypeVar("T", bound="Figures | Crowd")


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one contender in one round."""

    start_ms: float
    """Until it could take its first request: imports, its process, its connection."""
    whole_p50_ms: float
    whole_p99_ms: float
    first_p50_ms: float
    first_p99_ms: float
    chunks_per_s: float
    streams_p50_ms: float
    streams_p99_ms: float
    streams_cpu_percent: float
    """Of one core, the client included."""
    requests_per_s: float
    memory_mb: float
    """After some requests, of its own processes, or of the client's where it has none."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """Many paced streams of one contender at once."""

    streams: int
    p50_ms: float
    p99_ms: float
    own_cpu_ms: float
    """Of its own processes, for each second of each stream."""
    client_cpu_ms: float
    cpu_percent: float
    """Of one core, both together, as long as it took."""


@dataclass(frozen=True, slots=True)
class Life:
    """How this module starts, and what it weighs."""

    ready_ms: tuple[float, ...]
    load_ms: tuple[float, ...]
    supervisor_mb: float
    worker_mb: float
    proportional: bool


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def median_of(rounds: Sequence[T]) -> T:
    """The median of each figure on its own."""
    first = rounds[0]
    values: dict[str, Any] = {
        field.name: statistics.median(getattr(one, field.name) for one in rounds)
        for field in dataclasses.fields(first)
    }
    return dataclasses.replace(first, **values)

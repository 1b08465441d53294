"""What is asked of the upstream, what it answers, and how much of it a benchmark asks for: plain types.

An order travels as the words of the prompt, which every contender passes on as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

__all__ = [
    "FULL",
    "MODEL",
    "QUICK",
    "TOKENS_MAX",
    "Effort",
    "OnChunk",
    "Order",
    "expected_text",
    "read_order",
    "word",
]

MODEL: Final = "bench"
TOKENS_MAX: Final = 60_000
"""What every request allows, above the longest order."""

OnChunk = Callable[[str], None]
"""Takes the text of each chunk as it arrives."""

_ORDER: Final = re.compile(rb"order chunks=(\d+) every_us=(\d+)")


@dataclass(frozen=True, slots=True)
class Order:
    """One reply: so many chunks, this far apart; with no distance they are sent as fast as they are taken.

    A chunk of an unpaced reply is its number, so that a missing one is seen; a chunk of a paced reply is the
    moment at which it was sent, by the clock that all processes of a machine share.
    """

    chunks: int
    every_us: int = 0

    @property
    def prompt(self) -> str:
        """The order in words."""
        return f"order chunks={self.chunks} every_us={self.every_us}"


def read_order(body: bytes) -> Order | None:
    """The order in a request, or None."""
    match = _ORDER.search(body)
    return None if match is None else Order(int(match[1]), int(match[2]))


def word(number: int) -> str:
    """One chunk of an unpaced reply."""
    return f"w{number:05d} "


def expected_text(order: Order) -> str:
    """The whole text of an unpaced reply."""
    return "".join(map(word, range(order.chunks)))


@dataclass(frozen=True, slots=True)
class Effort:
    """How often everything is done; the same for every contender."""

    rounds: int
    warm_ups: int
    wholes: int
    """Unstreamed requests, one after the other."""
    firsts: int
    """Streams, one after the other, whose first chunk is waited for."""
    burst_chunks: int
    streams: int
    stream_chunks: int
    ways: int
    requests: int
    """Unstreamed requests, `ways` of them at any time."""
    starts: int
    loads: int
    crowds: tuple[int, ...]
    """Numbers of streams that are open at once."""
    crowd_chunks: int

    def as_json(self) -> str:
        """For a child's command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Effort:
        """The inverse of `as_json`."""
        values = json.loads(text)
        return cls(**{**values, "crowds": tuple(values["crowds"])})


FULL: Final = Effort(
    rounds=3,
    warm_ups=20,
    wholes=300,
    firsts=200,
    burst_chunks=20_000,
    streams=64,
    stream_chunks=250,
    ways=32,
    requests=1600,
    starts=20,
    loads=5,
    crowds=(100, 300, 1000),
    crowd_chunks=40,
)
QUICK: Final = Effort(
    rounds=1,
    warm_ups=1,
    wholes=3,
    firsts=3,
    burst_chunks=300,
    streams=4,
    stream_chunks=5,
    ways=4,
    requests=8,
    starts=1,
    loads=1,
    crowds=(4, 8),
    crowd_chunks=5,
)

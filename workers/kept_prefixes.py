"""What an engine has computed of conversations, kept for their next turns: found by how they begin. Pure.

What is kept is the engine's own record of some tokens, whatever that is. Some records can be cut to a
beginning of theirs, others are of use only whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["KeptPrefixes", "Record"]

R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False)
class Record(Generic[R]):
    """What was computed of these tokens."""

    tokens: list[int]
    value: R
    size_bytes: int
    cuttable: bool

    def serves(self, tokens: Sequence[int]) -> int:
        """How many of the first tokens need not be computed: never the last, with which a reply begins."""
        same = _common(self.tokens, tokens)
        if self.cuttable:
            return min(same, len(tokens) - 1)
        return same if same == len(self.tokens) < len(tokens) else 0


class KeptPrefixes(Generic[R]):
    """The records that were used last, as many as fit into their share of memory."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._records: list[Record[R]] = []
        """The one that was used last is the last."""

    def nearest(self, tokens: Sequence[int]) -> tuple[int, Record[R] | None]:
        """How many of the first tokens the best record serves, and that record."""
        served, best = 0, None
        for record in self._records:
            if (count := record.serves(tokens)) > served:
                served, best = count, record
        if best is not None:
            self._records.remove(best)
            self._records.append(best)
        return served, best

    def keep(self, record: Record[R]) -> None:
        """In the place of those that it goes on from; the oldest make room for it."""
        if record.size_bytes > self._most_bytes:
            return
        self._records = [old for old in self._records if not (old.cuttable and _goes_on(record, old))]
        self._records.append(record)
        while sum(old.size_bytes for old in self._records) > self._most_bytes:
            del self._records[0]


def _goes_on(new: Record[R], old: Record[R]) -> bool:
    return new.cuttable and new.tokens[: len(old.tokens)] == old.tokens


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens they have in common, from the first on."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))

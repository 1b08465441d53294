"""Which packages two environments cannot share, by what the wheels in them ask for; no index is asked.

A distribution is at odds where one environment wants at least a version that the other does not allow: then
no version suits both, whichever are published.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import Specifier
from packaging.utils import canonicalize_name
from packaging.version import Version

__all__ = ["AtOdds", "at_odds", "versions"]


@dataclass(frozen=True, slots=True)
class AtOdds:
    """What two environments ask of one distribution: each side's strictest."""

    name: str
    at_least: str
    below: str


def versions(site_packages: Path) -> dict[str, str]:
    """What an environment holds."""
    found = importlib.metadata.distributions(path=[str(site_packages)])
    return {canonicalize_name(each.metadata["Name"]): each.version for each in found}


def at_odds(one: Path, other: Path, extra: Iterable[str] = ()) -> list[AtOdds]:
    """The distributions that `one` wants newer than `other` allows; `extra` is what `one` was made for."""
    floors, ceilings = list(_wanted(one, extra)), list(_wanted(other))
    return [
        AtOdds(low.name, str(low.specifier), str(high.specifier))
        for low in floors
        for high in ceilings
        if canonicalize_name(low.name) == canonicalize_name(high.name) and _excludes(low, high)
    ]


def _wanted(site_packages: Path, extra: Iterable[str] = ()) -> Iterator[Requirement]:
    """What the distributions there ask for, on this machine."""
    yield from map(Requirement, extra)
    for each in importlib.metadata.distributions(path=[str(site_packages)]):
        for line in each.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                yield requirement


def _excludes(low: Requirement, high: Requirement) -> bool:
    """Whether the least that one allows is more than the most that the other does."""
    floors, ceilings = _bounds(low, (">=", ">", "==")), _bounds(high, ("<", "<=", "=="))
    return any(_is_above(floor, ceiling) for floor in floors for ceiling in ceilings)


def _is_above(floor: Specifier, ceiling: Specifier) -> bool:
    least, most = Version(floor.version), Version(ceiling.version)
    return least > most or (least == most and (floor.operator == ">" or ceiling.operator == "<"))


def _bounds(requirement: Requirement, operators: tuple[str, ...]) -> list[Specifier]:
    return [
        each
        for each in requirement.specifier
        if each.operator in operators and not each.version.endswith(".*")
    ]

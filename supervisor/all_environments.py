"""`install.py --llm all`: every environment that is not large, once each, and what each of them costs.

One that cannot be made does not stop the others; its row says why. Sizes are measured on the disk when all is
done, since making one compiles parts of the supervisor's own. What several environments share is in the size
of each, and once in the sum. Making one: provision.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from supervisor.environments import Environment, FileIdentity, disk_use
from supervisor.errors import ProvisionError
from supervisor.providers import Catalog, EnvSpec

__all__ = ["ALL", "Cost", "Served", "cost_of", "cost_table", "large", "light", "made_each"]

ALL: Final = "all"
"""In place of a provider's name; no provider can be reached by it."""
NAMED: Final = 3
"""Providers that are named while their environment is made; the rest is counted."""
Sizes: TypeAlias = Mapping[FileIdentity, int]
"""What an environment takes on the disk, file by file."""

HEAD: Final = ("environment", "providers", "MB", "seconds", "")


@dataclass(frozen=True, slots=True)
class Served:
    """An environment and the providers whose workers run in it."""

    spec: EnvSpec
    providers: tuple[str, ...]

    def __str__(self) -> str:
        shown = ", ".join(self.providers[:NAMED])
        more = len(self.providers) - NAMED
        return f"{self.spec.name}, for {shown}{f' and {more} more' if more > 0 else ''}"


@dataclass(frozen=True, slots=True)
class Cost:
    """What became of one environment."""

    name: str
    providers: int
    seconds: float
    """That making it took, whenever that was; or failing to."""
    note: str = ""
    environment: Environment | None = None
    """None: it could not be made."""


def light(catalog: Catalog) -> list[Served]:
    """What `all` means, in the order of the catalogue."""
    return [served for served in _served(catalog) if not served.spec.heavy]


def large(catalog: Catalog) -> list[Served]:
    """What is made by a provider's name alone."""
    return [served for served in _served(catalog) if served.spec.heavy]


def _served(catalog: Catalog) -> list[Served]:
    found: dict[str, list[str]] = {}
    for provider in catalog.providers.values():
        found.setdefault(provider.env, []).append(provider.id)
    return [Served(catalog.envs[name], tuple(providers)) for name, providers in found.items()]


def made_each(
    wanted: Sequence[Served],
    *,
    find: Callable[[EnvSpec], Environment | None],
    make: Callable[[EnvSpec], Environment],
    say: Callable[[str], None],
) -> Iterator[Cost]:
    """Makes what is not there, one after the other, telling which and how far it is; each with its cost."""
    began_s = time.monotonic()
    for number, served in enumerate(wanted, start=1):
        say(f"[{time.monotonic() - began_s:6.1f} s] {number} of {len(wanted)}: {served}")
        yield _made(served, find, make)


def _made(
    served: Served,
    find: Callable[[EnvSpec], Environment | None],
    make: Callable[[EnvSpec], Environment],
) -> Cost:
    name, count = served.spec.name, len(served.providers)
    began_s = time.monotonic()
    try:
        there = find(served.spec)
        environment = there or make(served.spec)
    except ProvisionError as exc:
        return Cost(name, count, time.monotonic() - began_s, exc.message)
    return cost_of(environment, count, there=there is not None)


def cost_of(environment: Environment, providers: int, *, there: bool) -> Cost:
    """The cost of an environment that stands; `there`: before anybody asked."""
    note = "was there" if there else ""
    return Cost(environment.name, providers, environment.seconds, note, environment)


def cost_table(costs: Sequence[Cost], measure: Callable[[Path], Sizes] = disk_use) -> list[str]:
    """A line for each, and the sum: there a file that several share is counted once."""
    sizes = [None if cost.environment is None else measure(cost.environment.directory) for cost in costs]
    whole = {identity: size for one in sizes if one is not None for identity, size in one.items()}
    seconds = sum(cost.seconds for cost in costs)
    served = sum(cost.providers for cost in costs if cost.environment is not None)
    together = ("together", str(served), _megabytes(whole), f"{seconds:.1f}", "")
    rows = [HEAD, *(_cells(cost, size) for cost, size in zip(costs, sizes, strict=True)), together]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD) - 1)]
    return [
        "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]


def _cells(cost: Cost, sizes: Sizes | None) -> tuple[str, ...]:
    return cost.name, str(cost.providers or "-"), _megabytes(sizes), f"{cost.seconds:.1f}", cost.note


def _megabytes(sizes: Sizes | None) -> str:
    return "-" if sizes is None else f"{sum(sizes.values()) / 1e6:.1f}"

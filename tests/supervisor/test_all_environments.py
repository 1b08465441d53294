"""All environments at once: which, in what order, told how; and what they cost, shared files counted once."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from supervisor.all_environments import Cost, Served, cost_of, cost_table, large, light, made_each
from supervisor.catalog import load_catalog
from supervisor.environments import Environment, disk_use
from supervisor.errors import ProvisionError
from supervisor.home import Home
from supervisor.providers import Catalog, EnvSpec, Provider
from tests.supervisor.places import mark
from tests.wheelhouse import CHECKOUT

SPECS: Final = {
    name: EnvSpec(name, (), (), heavy=name == "giant") for name in ("http", "giant", "base", "unused")
}
CATALOG: Final = Catalog(
    {
        name: Provider(name, name, "api", "x", env)
        for name, env in {
            "a": "base",
            "b": "http",
            "c": "giant",
            "d": "http",
            "e": "http",
            "f": "http",
        }.items()
    },
    SPECS,
)
SIZE: Final = 100_000


def nothing(spec: EnvSpec) -> Environment | None:
    """A HOME in which nothing stands."""
    return None


def named(home: Home, name: str) -> Environment:
    """An environment of that name, with a directory of its own."""
    return dataclasses.replace(mark(home, "base", key=f"{name:0>16}", seconds=2.0), name=name)


@pytest.fixture
def make(home: Home) -> Callable[[EnvSpec], Environment]:
    """Makes environments of one large file each, which all share, and one small file of their own."""

    def made(spec: EnvSpec) -> Environment:
        if spec.name == "base":
            raise ProvisionError("the environment 'base' cannot be made: the disk is full")
        environment = named(home, spec.name)
        shared = home.cache / "shared"
        shared.write_bytes(os.urandom(SIZE))
        os.link(shared, environment.directory / "shared")
        (environment.directory / "own").write_text(spec.name, encoding="utf-8")
        return environment

    return made


def test_each_environment_is_there_once_with_all_that_it_serves() -> None:
    assert light(CATALOG) == [Served(SPECS["base"], ("a",)), Served(SPECS["http"], ("b", "d", "e", "f"))]
    assert large(CATALOG) == [Served(SPECS["giant"], ("c",))]


def test_our_own_catalogue_is_all_of_it() -> None:
    ours = load_catalog(CHECKOUT / "venvs.toml")
    served = [*light(ours), *large(ours)]
    assert sorted(name for one in served for name in one.providers) == sorted(ours.providers)
    assert len({one.spec.name for one in served}) == len(served)


def test_which_one_of_how_many_for_whom_and_since_when_is_told(
    make: Callable[[EnvSpec], Environment],
) -> None:
    told: list[str] = []
    list(made_each(light(CATALOG), find=nothing, make=make, say=told.append))
    assert [line.partition(" s] ")[2] for line in told] == [
        "1 of 2: base, for a",
        "2 of 2: http, for b, d, e and 1 more",
    ]
    assert all(line.startswith("[") for line in told)


def test_one_that_fails_is_a_row_and_the_others_are_made(make: Callable[[EnvSpec], Environment]) -> None:
    failed, made = made_each(light(CATALOG), find=nothing, make=make, say=lambda text: None)
    assert (failed.name, failed.environment) == ("base", None)
    assert "the disk is full" in failed.note
    assert (made.name, made.providers, made.seconds, made.note) == ("http", 4, 2.0, "")
    assert made.environment is not None


def test_one_that_stands_is_not_made_again(home: Home) -> None:
    there = mark(home, "base", seconds=3.0)

    def fail(spec: EnvSpec) -> Environment:
        raise AssertionError("it is there")

    (cost,) = made_each(light(CATALOG)[:1], find=lambda spec: there, make=fail, say=lambda text: None)
    assert (cost.note, cost.seconds) == ("was there", 3.0)


def test_a_file_of_several_environments_is_in_each_size_and_once_in_the_sum(
    make: Callable[[EnvSpec], Environment], home: Home
) -> None:
    first = make(SPECS["http"])
    second = named(home, "second")
    os.link(first.directory / "shared", second.directory / "shared")
    os.link(first.directory / "shared", second.directory / "the same again")
    sizes = [sum(disk_use(environment.directory).values()) for environment in (first, second)]
    whole = {**disk_use(first.directory), **disk_use(second.directory)}
    assert all(SIZE <= size < 2 * SIZE for size in sizes)
    assert SIZE <= sum(whole.values()) < 2 * SIZE


@pytest.mark.skipif(sys.platform == "win32", reason="a link needs a right there")
def test_what_a_link_leads_to_is_not_counted(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(10 * SIZE))
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "python").symlink_to(tmp_path / "large")
    (tmp_path / "env" / "lib").symlink_to(tmp_path)
    assert sum(disk_use(tmp_path / "env").values()) < SIZE


def test_a_directory_that_is_gone_takes_nothing(tmp_path: Path) -> None:
    assert disk_use(tmp_path / "gone") == {}


def test_the_table_has_a_line_for_each_and_the_sum(home: Home) -> None:
    there = {name: named(home, name) for name in ("supervisor", "http", "cloud")}
    sizes: dict[str, dict[tuple[int, int], int]] = {
        "supervisor": {(1, 1): 17_000_000},
        "http": {(1, 2): 15_000_000, (1, 3): 2_000_000},
        "cloud": {(1, 3): 2_000_000, (1, 4): 40_000},
    }
    by_directory = {there[name].directory: size for name, size in sizes.items()}
    costs = [
        Cost("supervisor", 0, 4.0, "was there", there["supervisor"]),
        Cost("http", 12, 8.06, "", there["http"]),
        Cost("cloud", 2, 1.0, "", there["cloud"]),
        Cost("broken", 1, 0.5, "cannot be made: no wheel"),
    ]
    assert cost_table(costs, by_directory.__getitem__) == [
        "environment  providers  MB    seconds",
        "supervisor   -          17.0  4.0      was there",
        "http         12         17.0  8.1",
        "cloud        2          2.0   1.0",
        "broken       1          -     0.5      cannot be made: no wheel",
        "together     14         34.0  13.6",
    ]


def test_a_size_is_that_of_the_moment_at_which_the_table_is_made(home: Home) -> None:
    cost = cost_of(named(home, "http"), 3, there=True)
    before = float(cost_table([cost])[1].split()[2])
    assert cost.environment is not None
    (cost.environment.directory / "more").write_bytes(os.urandom(10 * SIZE))
    assert float(cost_table([cost])[1].split()[2]) >= before + 10 * SIZE / 1e6

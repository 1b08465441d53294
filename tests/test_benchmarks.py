"""The benchmark runs from end to end with tiny counts, and a missing chunk is noticed. No time is judged."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import pytest

from benchmarks import measures
from benchmarks.contenders import Contender
from benchmarks.figures import Crowd, Figures, Life, median_of, percentile
from benchmarks.orders import FULL, QUICK, Effort, OnChunk, Order, expected_text, read_order
from benchmarks.places import CHECKOUT, Places
from benchmarks.targets import Target, targets
from supervisor.environments import Environment, environment_key, find, lock_digest, write_marker
from supervisor.home import Home, find_home

PATIENCE_S: Final = 50.0
LOCKS: Final = ("locks/supervisor.txt", "locks/http.txt", "benchmarks/client.txt")


def stand_in(home: Home, lock_path: Path) -> None:
    """Lets the environment that runs the tests, which has all that is needed, count as that lock's."""
    lock = lock_path.read_bytes()
    key = environment_key(lock)
    directory = home.envs / f"{key}-test"
    directory.symlink_to(sys.prefix, target_is_directory=True)
    environment = Environment(
        key=key,
        name=lock_path.stem,
        lock_digest=lock_digest(lock),
        directory=directory,
        python=Path(sys.executable),
        site_packages=Path(sysconfig.get_path("purelib")),
        base_python=Path(os.path.realpath(sys.executable)),
        base_library=Path(os.__file__).parent,
        version=sys.version.split()[0],
        installer="none",
        size_bytes=0,
        seconds=0.0,
    )
    write_marker(home, environment)


@pytest.mark.skipif(sys.platform == "win32", reason="a link to a directory needs a privilege there")
def test_it_runs_and_writes_a_table_and_a_picture(tmp_path: Path) -> None:
    home = find_home(str(tmp_path / "home" / "cache" / "benchmarks"), {})
    for name in LOCKS:
        stand_in(home, CHECKOUT / name)
    argv = ["--quick", "--without", "openai", "--without", "litellm", "--home", str(tmp_path / "home")]
    done = subprocess.run(
        [sys.executable, str(CHECKOUT / "benchmarks" / "run.py"), *argv, "--out", str(tmp_path / "it.md")],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONUTF8": "1"},
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    text = (tmp_path / "it.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (floor|aiohttp|this module) \|", text, re.MULTILINE)
    assert rows == ["floor", "aiohttp", "this module"]
    assert len(re.findall(r" (met|MISSED) \|$", text, re.MULTILINE)) == 6
    assert ElementTree.parse(tmp_path / "it.svg").getroot().tag.endswith("svg")  # noqa: S314  # we wrote it


class Lossy(Contender):
    """Loses the last chunk of every reply."""

    name = "lossy"
    does = "loses"

    async def start(self) -> None:
        pass

    async def whole(self, order: Order) -> str:
        return expected_text(order)[:-1]

    async def stream(self, order: Order, on_chunk: OnChunk) -> None:
        for number in range(order.chunks - 1):
            on_chunk(f"{number} ")

    async def close(self) -> None:
        pass


@pytest.fixture
def lossy(places: Places) -> Lossy:
    return Lossy("", places)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    home = find_home(str(tmp_path / "home"), {})
    lock = CHECKOUT / LOCKS[0]
    stand_in(home, lock)
    environment = find(home, lock)
    assert environment is not None
    return Places(home, environment, environment, environment, None)


async def test_a_reply_that_lacks_anything_ends_the_benchmark(lossy: Lossy) -> None:
    with pytest.raises(measures.Incomplete):
        await measures.measure(lossy, QUICK)


async def test_a_paced_stream_that_lacks_a_chunk_ends_the_benchmark(lossy: Lossy) -> None:
    with pytest.raises(measures.Incomplete, match="4 of 5 chunks"):
        await measures.crowd(lossy, 1, Order(chunks=5, every_us=1), within_s=0)


@pytest.mark.parametrize("order", [Order(3), Order(250, 20_000)], ids=str)
def test_an_order_survives_as_words_of_a_prompt(order: Order) -> None:
    assert read_order(f'{{"content":"{order.prompt}"}}'.encode()) == order


@pytest.mark.parametrize("effort", [FULL, QUICK])
def test_an_effort_survives_a_command_line(effort: Effort) -> None:
    assert Effort.from_json(effort.as_json()) == effort


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, percent) for percent in (1, 50, 99, 100)] == [1, 50, 99, 100]
    assert percentile([7.0], 99) == 7


def figures(value: float) -> Figures:
    """The same number everywhere."""
    return Figures(**{field.name: value for field in dataclasses.fields(Figures)})


def test_the_median_is_taken_of_each_figure() -> None:
    rounds = [dataclasses.replace(figures(2), chunks_per_s=9), figures(1), figures(3)]
    assert median_of(rounds) == dataclasses.replace(figures(2), chunks_per_s=3)


def test_a_target_is_judged_by_the_median_of_the_ratios_of_each_round() -> None:
    rounds = {
        "aiohttp": [figures(1)] * 3,
        "openai": [figures(1), figures(10), figures(100)],
        "ours": [figures(8), figures(80), figures(80)],
    }
    life = Life((140, 160, 150), (351,), supervisor_mb=20, worker_mb=37, proportional=True)
    crowds = [Crowd(100, 1, 1, 2, 2, 5), Crowd(1000, 1, 1, 2.4, 2, 5)]
    found = {target.what: target for target in targets(rounds, life, crowds)}
    chunks = found["chunks/s against the openai SDK"]
    assert (chunks.measured, chunks.met) == (8, True)
    assert {what for what, target in found.items() if not target.met} == {
        "first token against the openai SDK",
        "requests/s against the openai SDK",
        "chunk p99 of the paced streams above the direct client's",
        "load of an HTTP provider, median",
        "memory of an HTTP worker",
    }


@pytest.mark.parametrize(("measured", "met"), [(1.0, True), (0.9, False)])
def test_a_bound_from_below_is_met_where_it_is_reached(measured: float, met: bool) -> None:
    assert Target("it", 1.0, measured, "", at_least=True).met is met

"""One benchmark from beginning to end: every contender in every round, then the module's own life and crowds.

upstream (one process, all the time)
round 1: floor, aiohttp, openai SDK, LiteLLM proxy, this module      each in a fresh client process
round 2: the same                                                    so that a slow minute hits all
round 3: the same
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

from benchmarks.figures import Crowd, Figures, Life
from benchmarks.orders import FULL, QUICK, Effort
from benchmarks.picture import picture
from benchmarks.processes import module_argv, other_work_percent, serving
from benchmarks.report import Results, markdown, plain_text

__all__ = ["main"]

ORDER: Final = ("floor", "aiohttp", "openai", "litellm", "ours")
CROWD_ORDER: Final = ("aiohttp", "ours")
STEP_TIMEOUT_S: Final = 600.0
"""For one client process: the slowest contender's round takes a minute and a half."""
LOOK_S: Final = 2.0
"""How long the machine is watched before anything is started."""
QUIET_PERCENT: Final = 5.0
"""More work of others than this shows in the figures: the module is three processes, its peers are one."""


def main(flags: argparse.Namespace) -> int:
    """Measures, prints, writes; 1 if anything failed or any chunk was missing."""
    effort = QUICK if flags.quick else FULL
    names = [name for name in ORDER if name not in flags.without]
    began = time.monotonic()
    try:
        with _upstream() as url:
            results = _Run(url, flags.home or "", effort, names).results()
    except _StepFailed as exc:
        sys.stderr.write(f"\nbenchmarks: {exc}\n")
        return 1
    _say(f"\n{plain_text(results)}\nmeasured in {time.monotonic() - began:.0f} s")
    drawing = flags.out.with_suffix(".svg")
    flags.out.write_text(markdown(results, drawing.name), encoding="utf-8")
    drawing.write_text(picture(results), encoding="utf-8")
    _say(f"written: {flags.out} and {drawing.name}")
    return 0


@contextlib.contextmanager
def _upstream() -> Iterator[str]:
    with serving(module_argv("benchmarks.upstream")) as child:
        assert child.stdout is not None  # noqa: S101  # it was asked for
        yield f"http://127.0.0.1:{int(child.stdout.readline())}/v1"


class _StepFailed(Exception):
    """A client process failed."""


class _Run:
    """Starts the client processes and collects what they print."""

    def __init__(self, upstream: str, home: str, effort: Effort, names: list[str]) -> None:
        self._upstream = upstream
        self._home = home
        self._effort = effort
        self._names = names

    def results(self) -> Results:
        """Everything, in order.

        Raises:
            _StepFailed: a client process failed.
        """
        others = other_work_percent(LOOK_S)
        if others > QUIET_PERCENT:
            _say(
                f"other work takes {others:.0f} % of this machine: the figures will be worse than they could"
            )
        rounds: dict[str, list[Figures]] = {name: [] for name in self._names}
        for number in range(self._effort.rounds):
            for name in self._names:
                _say(f"round {number + 1} of {self._effort.rounds}: {name}")
                rounds[name].append(Figures(**self._step("figures", name)))
        _say("ready, load, memory")
        life = Life(**self._step("life", "ours"))
        crowds = {}
        for name in CROWD_ORDER:
            _say(f"many streams: {name}")
            crowds[name] = [Crowd(**one) for one in self._step("crowd", name)]
        return Results(self._effort, rounds, life, crowds, others)

    def _step(self, what: str, name: str) -> Any:
        argv = [what, name, self._upstream, self._home, self._effort.as_json()]
        try:
            done = subprocess.run(
                [*module_argv("benchmarks.drive"), *argv],
                stdout=subprocess.PIPE,
                encoding="utf-8",
                timeout=STEP_TIMEOUT_S,
                check=True,
            )
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as exc:
            raise _StepFailed(f"{what} of {name} failed: {exc}") from exc
        return json.loads(done.stdout)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()

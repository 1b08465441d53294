"""Processes of engines that come and go leave nothing, and loads leave no object in the supervisor.

Two hundred models that come and go in one process: a row of tests/e2e/engines.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.e2e.client import Client
from tests.e2e.cycles import cycles, process_ends
from tests.e2e.figures import Figures
from tests.e2e.light_engines import ENGINES, Engine, loaded, running, say
from tests.e2e.module import Installation
from tests.wheelhouse import CHECKOUT

pytestmark = [pytest.mark.foreign, pytest.mark.install]

TITLE = "MiB of the supervisor and of all below it"
RESTARTS = 30
"""Cycles in which the process ends too; each takes a third of a second, most of it Python's start."""

INSIDE_S = 100.0
INSIDE = 60
"""Cycles in a supervisor that looks at its own objects, half of them before the first look."""
ONCE_EACH = 20
"""So many more of a kind would be left by each of the other half; some ten come once, for other reasons."""

engines = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.provider)


@engines
@pytest.mark.timeout(120)
async def test_processes_that_end_give_back_all_they_had(
    engines_place: Installation, engine: Engine, figures: Figures
) -> None:
    async def load(client: Client) -> None:
        await loaded(client, engine)
        assert (await say(client)).code == "SUCCESS"

    with running(engines_place, "--set", "pool.engine_idle_s=0.01") as module:
        growth = await cycles(module, load, process_ends, RESTARTS)
        figures.add(TITLE, engine.provider, f"{RESTARTS} processes", growth.row())
        growth.check()
        growth.check_given_back()
        assert {held.workers_bytes for held in growth.ended} == {0}
        stopped = [line for line in module.stderr().splitlines() if "worker stopped" in line]
        assert len(stopped) == RESTARTS
        assert all("reason=idle step=asked" in line for line in stopped)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("engine", "idle_s"),
    [
        pytest.param(ENGINES[0], 300.0, id="llama-cpp: models"),
        pytest.param(ENGINES[0], 0.0001, id="llama-cpp: processes"),
        pytest.param(ENGINES[1], 300.0, id="huggingface-local: models"),
    ],
)
def test_no_kind_of_object_is_left_once_for_each_load(
    engines_place: Installation, engine: Engine, idle_s: float
) -> None:
    argv = [sys.executable, str(CHECKOUT / "tests" / "e2e" / "inside_supervisor.py")]
    where = [str(engines_place.checkout), str(engines_place.home)]
    what = [engine.provider, "tiny", str(INSIDE), "--set", f"pool.engine_idle_s={idle_s}"]
    variables = {**os.environ, "HF_HUB_CACHE": str(engines_place.home / "no hub")}
    ran = subprocess.run(
        [*argv, *where, *what],
        env=variables,
        capture_output=True,
        encoding="utf-8",
        timeout=INSIDE_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert {kind: more for kind, more in found["more"].items() if more >= ONCE_EACH} == {}
    assert found["tasks"] == 0

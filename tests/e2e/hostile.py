"""A checkout with adapters that misbehave, a HOME whose tables name them, and flags for little patience."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

from supervisor.catalog import load_catalog
from supervisor.home import find_home
from supervisor.provision import Recipe, provision
from tests.e2e.client import Client
from tests.e2e.module import Installation
from tests.wheelhouse import CHECKOUT

__all__ = ["IMPATIENT", "REAL_PATIENCE", "make_hostile", "worker_of"]

SLUGGISH: Final = """
import ctypes, os
sleep = ctypes.PyDLL(None).sleep
os.write(2, b"importing\\n")
sleep(2)  # an import that holds the interpreter
from workers.adapters.hostile import ADAPTER
"""
STILLBORN: Final = "import os\nos.abort()\n"
LAME: Final = "import a_package_that_is_not_there\n"
TABLES: Final = """
[provider.hostile]
kind = "script"
adapter = "hostile"
env = "base"
default_model = "any"

[provider.neighbour]
kind = "script"
adapter = "hostile"
env = "base"
default_model = "any"

[provider.engine]
kind = "engine"
adapter = "hostile"
env = "base"
default_model = "any"

[provider.sluggish]
kind = "script"
adapter = "sluggish"
env = "base"
default_model = "any"

[provider.stillborn]
kind = "script"
adapter = "stillborn"
env = "base"

[provider.lame]
kind = "script"
adapter = "lame"
env = "base"
"""

IMPATIENT: Final = (
    *("--set", "worker.heartbeat_s=0.1"),
    *("--set", "worker.report_s=0.6"),
    *("--set", "worker.hung_s=1.5"),
    *("--set", "worker.engine_hung_s=60"),
)
"""The default figures by some twenty; what they mean stays the same."""
REAL_PATIENCE: Final = 20.0
"""What the default figures are of these, in round numbers."""


def make_hostile(place: Installation, home: Path) -> Installation:
    """The checkout of `place` with these adapters, and a HOME of its own."""
    adapters = place.checkout / "workers" / "adapters"
    shutil.copy(CHECKOUT / "tests" / "fakes" / "hostile_adapter.py", adapters / "hostile.py")
    for name, source in {"sluggish": SLUGGISH, "stillborn": STILLBORN, "lame": LAME}.items():
        (adapters / f"{name}.py").write_text(source, encoding="utf-8")
    made = find_home(str(home), {})
    made.local_catalog.write_text(TABLES, encoding="utf-8")
    spec = load_catalog(place.checkout / "venvs.toml").envs["base"]
    recipe = Recipe("base", place.checkout / "locks" / "base.txt", spec.imports)
    provision(made, recipe, wheelhouse=place.wheels)
    return Installation(place.checkout, home, place.wheels)


async def worker_of(client: Client, provider: str) -> dict[str, Any]:
    """What the module says of that provider's worker."""
    answer = await client.ask({"type": "status", "unique_request_id": client.new_id()}, "status_done")
    found: dict[str, Any] = next(worker for worker in answer["workers"] if worker["provider"] == provider)
    return found

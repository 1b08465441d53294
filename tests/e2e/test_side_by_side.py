"""Two providers whose packages cannot live in one environment answer side by side, each with its own.

The packages are made here, as small as can be; tests/heavy/test_side_by_side.py has a pair of real ones.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Final

import pytest

from supervisor.environments import find
from supervisor.home import find_home
from tests.at_odds import AtOdds, at_odds, versions
from tests.e2e.client import connect
from tests.e2e.hostile import worker_of
from tests.e2e.module import Installation, Module
from tests.wheelhouse import lock_text, make_wheel

pytestmark = pytest.mark.install

ADAPTER: Final = """
import os
from workers.adapter import Adapter, Finish, Text
import shared_words

class Telling(Adapter):
    async def generate(self, request):
        yield Text(f"{shared_words.VERSION} in {os.getpid()}")
        yield Finish("stop")

ADAPTER = Telling
"""
WANTS: Final = {"older": "shared-words<2", "newer": "shared-words>=2"}
"""What each provider's own package asks for."""
HAS: Final = {"older": "1.5", "newer": "2.0"}
BUILD_S: Final = 40.0
"""For an environment from wheels that lie here, on a busy machine."""


@pytest.fixture
def place(unprovisioned: Installation, tmp_path: Path) -> Installation:
    """A checkout with two providers more, each with an environment of its own; none is made yet."""
    checkout = tmp_path / "checkout"
    shutil.copytree(unprovisioned.checkout, checkout)
    (checkout / "workers" / "adapters" / "telling.py").write_text(ADAPTER, encoding="utf-8")
    wheels = tmp_path / "wheels"
    shutil.copytree(unprovisioned.wheels, wheels)
    base = (checkout / "locks" / "base.txt").read_text(encoding="utf-8")
    for name, requirement in WANTS.items():
        made = (
            make_wheel(wheels, "shared_words", HAS[name], {"shared_words.py": f"VERSION = '{HAS[name]}'\n"}),
            make_wheel(wheels, f"{name}_words", "1.0", {f"{name}_words.py": ""}, requires=[requirement]),
        )
        (checkout / "locks" / f"{name}.txt").write_text(base + lock_text(*made), encoding="utf-8")
        with (checkout / "venvs.toml").open("a", encoding="utf-8") as tables:
            tables.write(
                f'[env.{name}]\nrequirements = ["msgpack>=1.1,<2", "{name}-words==1.0"]\n'
                f'imports = ["msgpack", "{name}_words"]\n'
                f'[provider.{name}]\nkind = "script"\nadapter = "telling"\nenv = "{name}"\n'
                'default_model = "any"\n'
            )
    return Installation(checkout, tmp_path / "hôme", wheels)


async def test_two_providers_at_odds_are_loaded_by_one_client_and_answer_at_once(place: Installation) -> None:
    with Module(place, ("--wheelhouse", str(place.wheels))) as module:
        async with connect(module) as client:
            for name in WANTS:
                done = await client.load(name, timeout_s=BUILD_S)
                assert done["is_error"] is False, done
            requests = {name: await client.generate(provider=name) for name in WANTS}
            replies = await asyncio.gather(*map(client.end, requests.values()))
            pids = [(await worker_of(client, name))["pid"] for name in WANTS]
    assert [reply.text for reply in replies] == [
        f"{version} in {pid}" for version, pid in zip(HAS.values(), pids, strict=True)
    ]
    assert pids[0] != pids[1]
    older, newer = (_site_packages(place, name) for name in WANTS)
    assert (versions(older)["shared-words"], versions(newer)["shared-words"]) == ("1.5", "2.0")
    assert at_odds(newer, older) == [AtOdds("shared-words", ">=2", "<2")]
    assert at_odds(older, newer) == at_odds(older, older) == []


def _site_packages(place: Installation, name: str) -> Path:
    found = find(find_home(str(place.home), {}), place.checkout / "locks" / f"{name}.txt")
    assert found is not None
    return found.site_packages

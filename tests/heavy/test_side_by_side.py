"""Two engines whose packages cannot live in one environment, in one module: transformers and openvino.

    python install.py --llm transformers --variant cpu
    python install.py --llm openvino --variant cpu
    python install.py --test tests/heavy/test_side_by_side.py

OpenVINO's converter wants a transformers older than the one that the provider `transformers` was made for,
and an older huggingface-hub; no version suits both. tests/e2e/test_side_by_side.py shows the same in every
run of the tests, with packages made there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from supervisor.catalog import load_catalog
from supervisor.environments import Environment
from tests.at_odds import at_odds, versions
from tests.e2e.client import Client, connect
from tests.e2e.hostile import worker_of
from tests.e2e.module import Installation, Module
from tests.heavy.conftest import Lend
from tests.tiny_safetensors import make_tiny_safetensors
from tests.wheelhouse import CHECKOUT

pytestmark = [pytest.mark.foreign, pytest.mark.timeout(240)]

NAMES: Final = ("transformers", "openvino")
"""The providers, and their environments."""
LOAD_S: Final = 60.0
"""Each imports a gigabyte."""
LONG: Final[dict[str, Any]] = {"max_output_length": 1000, "extra": {"ignore_eos": True}}
OPTIONS: Final = {"threads": 1, "context_length": 2048}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for both."""
    return tmp_path_factory.mktemp("hôme with two engines")


@pytest.fixture(scope="module")
def lent(lend: Lend, home: Path) -> dict[str, Environment]:
    """Both environments."""
    return {name: lend(name, home) for name in NAMES}


@pytest.fixture(scope="module")
def module(home: Path, lent: dict[str, Environment]) -> Iterator[Module]:
    """A module that has both, and a model for both."""
    make_tiny_safetensors(home / "models" / "tiny")
    with Module(Installation(CHECKOUT, home, CHECKOUT)) as running:
        yield running


async def loaded(client: Client, provider: str) -> None:
    """Loads the model."""
    done = await client.load(provider, preload_model_id="tiny", options=OPTIONS, timeout_s=LOAD_S)
    assert done["is_error"] is False, done


async def test_both_are_loaded_by_one_client_and_answer_at_the_same_time(
    module: Module, lent: dict[str, Environment]
) -> None:
    async with connect(module) as client:
        for name in NAMES:
            await loaded(client, name)
        first, second = [await client.generate(provider=name, params=LONG) for name in NAMES]
        await client.chunk(first)
        before = len(client.received)
        await client.chunk(second)
        replies = await asyncio.gather(*(client.end(one, timeout_s=LOAD_S) for one in (first, second)))
        pids = [(await worker_of(client, name))["pid"] for name in NAMES]
        started = [psutil.Process(pid).cmdline()[0] for pid in pids]
    later = [m["unique_request_id"] for m in client.received[before:] if "chunk" in m]
    assert {first, second} <= set(later), "each said something after both had begun"
    assert [reply.code for reply in replies] == ["SUCCESS", "SUCCESS"]
    assert pids[0] != pids[1]
    assert started == [str(lent[name].python) for name in NAMES], "each in its own environment"
    held = {name: versions(lent[name].site_packages)["transformers"] for name in NAMES}
    assert held["transformers"] != held["openvino"]


def test_no_version_of_what_they_share_suits_both(lent: dict[str, Environment]) -> None:
    newer, older = (lent[name].site_packages for name in NAMES)
    ours = load_catalog(CHECKOUT / "venvs.toml").envs["transformers"].requirements
    names = {each.name for each in at_odds(newer, older, ours)}
    assert {"transformers", "huggingface-hub"} <= names, names
    have = versions(newer), versions(older)
    assert all(have[0][name] != have[1][name] for name in ("transformers", "huggingface-hub"))

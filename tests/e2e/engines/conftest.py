"""The stage of an engine: its environment, its models and a module, the same for all rows of a class."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from supervisor.catalog import load_catalog
from supervisor.home import find_home
from supervisor.lockfile import applies as suits
from supervisor.lockfile import marker_environment
from supervisor.provision import Recipe, provision
from tests.e2e.engines.engine import MODELS, Engine
from tests.e2e.engines.stage import Stage, Talk
from tests.e2e.module import Installation, Module
from tests.wheelhouse import CHECKOUT, repack_lock


def install(place: Installation, env: str) -> None:
    """Makes an environment from what the one that runs the tests has."""
    lock = place.checkout / "locks" / f"{env}.txt"
    lock.write_text(repack_lock(place.wheels, CHECKOUT / "locks" / f"{env}.txt"), encoding="utf-8")
    imports = load_catalog(place.checkout / "venvs.toml").envs[env].imports
    provision(find_home(str(place.home), {}), Recipe(env, lock, imports), wheelhouse=place.wheels)


@pytest.fixture(scope="class")
def engine(request: pytest.FixtureRequest) -> Engine:
    """The one whose rows these are."""
    found = getattr(request.cls, "engine", None)
    assert isinstance(found, Engine)
    return found


@pytest.fixture(autouse=True)
def row_applies(request: pytest.FixtureRequest) -> None:
    """Rows that an engine does not have are skipped, with its reason; what is no row is none of ours."""
    engine = getattr(request.cls, "engine", None)
    row = getattr(request.node, "originalname", "").removeprefix("test_")
    if isinstance(engine, Engine) and row in engine.absent:
        pytest.skip(engine.absent[row])


@pytest.fixture(scope="class")
def place(
    engine: Engine, unprovisioned: Installation, tmp_path_factory: pytest.TempPathFactory
) -> Installation:
    """An installation with the engine in an environment of its own."""
    env = engine.catalogued.env
    where = load_catalog(CHECKOUT / "venvs.toml").envs[env].where
    if not suits(where, marker_environment()):
        pytest.skip(f"{engine.provider} is not made for this system")
    home = tmp_path_factory.mktemp("hôme with an engine")
    made = Installation(unprovisioned.checkout, home, unprovisioned.wheels)
    install(made, env)
    return made


@pytest.fixture(scope="class")
def models(engine: Engine, place: Installation) -> Path:
    """HOME/models, with one of each kind."""
    folder = place.home / "models"
    folder.mkdir(exist_ok=True)
    for name, fields in MODELS.items():
        engine.make(engine.path(folder, name), **fields)
    return folder


@pytest.fixture(scope="class")
def stage(engine: Engine, place: Installation, models: Path) -> Iterator[Stage]:
    """A running module for all rows."""
    with Module(place, variables={"HF_HUB_CACHE": str(place.home / "no hub")}) as running:
        yield Stage(engine, place, models, running)


@pytest.fixture
async def talk(stage: Stage) -> AsyncIterator[Talk]:
    """A connection that has the model `tiny`."""
    async with stage.talk("tiny") as running:
        yield running

"""The large environments that are in HOME, lent to modules that run in a HOME of their own."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Final, Protocol

import pytest

from supervisor import environments, variants
from supervisor.catalog import load_catalog
from supervisor.environments import Environment, write_marker
from supervisor.home import find_home
from tests.e2e.engines.conftest import engine, models, row_applies, stage, talk
from tests.e2e.engines.engine import Engine
from tests.e2e.module import Installation
from tests.run_all import HOME_OF_ENGINES
from tests.wheelhouse import CHECKOUT

__all__ = ["engine", "models", "row_applies", "stage", "talk"]  # fixtures are used by their names

REAL_HOME: Final = os.environ.get(HOME_OF_ENGINES)
"""Read before any test hides it; None: the usual one."""


class Lend(Protocol):
    """Makes the environment of that name count in a new HOME, or in that one; its files stay in place."""

    def __call__(self, name: str, home: Path | None = None) -> Environment: ...


@pytest.fixture(scope="session")
def lend(tmp_path_factory: pytest.TempPathFactory) -> Lend:
    """As Lend says; skips where the environment was not made."""

    def lent(name: str, home: Path | None = None) -> Environment:
        catalog = load_catalog(CHECKOUT / "venvs.toml")
        spec = catalog.envs[name]
        real = find_home(REAL_HOME, os.environ)
        found = environments.find(real, variants.lock_of(real, CHECKOUT, spec))
        if found is None:
            provider = next(p.id for p in catalog.providers.values() if p.env == name)
            pytest.skip(f"not installed in {real.root}: python install.py --llm {provider} (--variant cpu)")
        home = home or tmp_path_factory.mktemp("hôme with a large engine")
        borrower = find_home(str(home), {})
        variants.choose(borrower, spec, variants.in_use(real, spec))
        return _linked(found, borrower.envs)

    return lent


def _linked(found: Environment, envs: Path) -> Environment:
    """The same environment, by a link in another HOME."""
    place = envs / found.directory.name
    place.symlink_to(found.directory, target_is_directory=True)
    here = dataclasses.replace(
        found,
        directory=place,
        python=place / found.python.relative_to(found.directory),
        site_packages=place / found.site_packages.relative_to(found.directory),
    )
    write_marker(find_home(str(envs.parent), {}), here)
    return here


@pytest.fixture(scope="session")
def transformers(lend: Lend) -> Environment:
    """The environment of the engine transformers, in whatever variant it was made."""
    return lend("transformers")


@pytest.fixture(scope="class")
def place(engine: Engine, lend: Lend) -> Installation:
    """An installation in which that engine's environment is the only one."""
    return Installation(CHECKOUT, lend(engine.catalogued.env).directory.parent.parent, CHECKOUT)

"""No engine of the catalogue is without its rows, and what it says not to apply is one of them."""

from __future__ import annotations

import importlib
from typing import Final

import pytest

from supervisor.catalog import load_catalog
from tests.e2e.engines.rows import Rows
from tests.wheelhouse import CHECKOUT

FOLDERS: Final = ("tests/e2e/engines", "tests/heavy")
NAMES: Final = [
    ".".join((*folder.split("/"), path.stem))
    for folder in FOLDERS
    for path in sorted((CHECKOUT / folder).glob("test_*.py"))
]


def held() -> dict[str, type[Rows]]:
    """Each engine's rows, by its provider."""
    for name in NAMES:
        importlib.import_module(name)
    return {rows.engine.provider: rows for rows in Rows.__subclasses__()}


def test_every_engine_of_the_catalogue_is_held_to_the_rows() -> None:
    providers = load_catalog(CHECKOUT / "venvs.toml").providers.values()
    assert {provider.id for provider in providers if provider.is_engine} == set(held())


@pytest.mark.parametrize("name", sorted(held()))
def test_what_does_not_apply_is_a_row_and_has_a_reason(name: str) -> None:
    rows = held()[name]
    for row, reason in rows.engine.absent.items():
        assert hasattr(rows, f"test_{row}"), row
        assert reason

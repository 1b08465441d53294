"""No test of this folder may write into the real user's data directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.home import VARIABLE, Home, find_home


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks for HOME finds one of the test's own."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "default home"))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A HOME with a space and letters that are not ASCII in its path."""
    return find_home(str(tmp_path / "hôme of 漢字"), {})

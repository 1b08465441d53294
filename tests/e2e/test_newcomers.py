"""Somebody without a key, an account or a model: a terminal, one question, and a model that talks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from supervisor.catalog import load_catalog
from supervisor.spawn import STAY_VARIABLE
from tests.e2e.engines.conftest import install
from tests.e2e.module import KEPT_VARIABLES, Installation
from tests.fakes.hub_server import hub_server
from tests.supervisor.test_chat import CONTROLLING_TERMINAL, Terminal
from tests.tiny_gguf import make_tiny_gguf
from tests.wheelhouse import CHECKOUT

pytestmark = [pytest.mark.foreign, pytest.mark.install]

MODEL: Final = next(iter(load_catalog(CHECKOUT / "venvs.toml").providers["llama-cpp"].quirks["suggested"]))
TABLE: Final = '[provider.llama-cpp.quirks]\nmodels_dir = "{models}"\nhub = "{hub}"\n'


@pytest.fixture(scope="module")
def place(unprovisioned: Installation, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """An installation with llama.cpp, and without a model."""
    home = tmp_path_factory.mktemp("hôme without a model")
    made = Installation(unprovisioned.checkout, home, unprovisioned.wheels)
    install(made, "llama-cpp")
    return made


@pytest.mark.parametrize(
    ("answer", "fetched"), [pytest.param(b"y\n", True, id="yes"), pytest.param(b"\n", False, id="no")]
)
def test_who_has_no_model_is_asked_whether_to_fetch_one(
    place: Installation,
    tmp_path: Path,
    answer: bytes,
    fetched: bool,
) -> None:
    pty: Any = pytest.importorskip("pty", reason="this system has no pseudo terminals")
    make_tiny_gguf(tmp_path / "small.gguf")
    tables = place.home / "venvs.local.toml"
    with hub_server({MODEL.split("/")[-1]: (tmp_path / "small.gguf").read_bytes()}) as hub:
        text = TABLE.format(models=(tmp_path / "none").as_posix(), hub=hub.endpoint)
        tables.write_text(text, encoding="utf-8")
        ours, its = pty.openpty()
        program = [
            str(place.checkout / "supervisor"),
            "chat",
            "--provider",
            "local",
            "--home",
            str(place.home),
        ]
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        with subprocess.Popen(
            [sys.executable, "-c", CONTROLLING_TERMINAL, *program],
            env={**kept, STAY_VARIABLE: "1", "HF_HUB_CACHE": str(tmp_path / "hub")},
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        ) as process:
            os.close(its)
            try:
                screen = Terminal(process, ours)
                screen.until(f"has {MODEL} (")
                screen.until("Fetch it? [y/N] ")
                screen.press(answer)
                if fetched:
                    screen.until("local is ready")
                screen.until("you> ")
                screen.press(b"Hello\n")
                before = screen.until("you> ")
                assert screen.leave() == 0
            finally:
                process.kill()
                os.close(ours)
                tables.unlink()
    assert ("no default model" in before) is not fetched
    assert bool(hub.asked) is fetched

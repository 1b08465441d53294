"""The fixtures of tests/conftest.py see what a test leaves behind: each small test here leaves something."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.wheelhouse import CHECKOUT

RUN_S: Final = 30.0
TESTS: Final = """
import asyncio, os, subprocess, sys
import tests.conftest
from tests.conftest import *

tests.conftest.PATIENCE_S = 0.1
kept = []

def start(code, **pipes):
    kept.append(subprocess.Popen([sys.executable, "-c", code], **pipes))
    return kept[-1]

def test_nothing():
    os.close(os.dup(1))

async def test_nothing_in_a_loop():
    await asyncio.create_task(asyncio.sleep(0))

def test_a_descriptor():
    kept.append(os.dup(1))

def test_a_child():
    start("input()", stdin=subprocess.PIPE)

def test_a_zombie():
    with start("", stdout=subprocess.PIPE).stdout as output:
        output.read()

async def test_a_task():
    kept.append(asyncio.create_task(asyncio.Event().wait()))
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest says of these tests."""
    folder = tmp_path_factory.mktemp("leaves")
    file = folder / "test_leaves.py"
    file.write_text(TESTS, encoding="utf-8")
    settings = ["-c", str(CHECKOUT / "pyproject.toml"), "--rootdir", str(folder), "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", *settings, str(file)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "COLUMNS": "200"},
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        timeout=RUN_S,
        check=False,
    )
    return ended.stdout.partition("short test summary info")[2]


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors and zombies are counted on Linux")
@pytest.mark.parametrize(
    ("test", "complaint"),
    [
        ("a_descriptor", "descriptors are left open"),
        ("a_child", "child processes are left"),
        ("a_zombie", "child processes are left"),
        ("a_task", "tasks are pending"),
    ],
)
def test_what_a_test_leaves_behind_fails_it(report: str, test: str, complaint: str) -> None:
    errors = [line for line in report.splitlines() if line.startswith("ERROR") and f"::test_{test} " in line]
    assert len(errors) == 1, report
    assert complaint in errors[0]


def test_who_leaves_nothing_passes(report: str) -> None:
    assert "test_nothing" in report
    assert not [line for line in report.splitlines() if line.startswith("ERROR") and "test_nothing" in line]


def test_no_key_and_no_home_of_the_developer_is_in_a_test_s_environment(tmp_path: Path) -> None:
    assert not [
        name for name in os.environ if name.endswith("_API_KEY") and name.startswith(("OPENAI", "GROQ"))
    ]
    assert os.environ["WAIFU_LLM_HOME"] == str(tmp_path / "default home")

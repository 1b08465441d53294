"""Environments that seem to be made: markers over the Python that runs the tests, so that they run."""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
import sysconfig
from pathlib import Path
from typing import Any

from supervisor.environments import Environment, environment_key, lock_digest, write_marker
from supervisor.home import Home
from tests.wheelhouse import BASE_PYTHON, CHECKOUT

__all__ = ["mark"]


def mark(home: Home, name: str, **changes: Any) -> Environment:
    """Marks the environment of locks/NAME.txt as made; `changes` replace fields of its marker."""
    lock = (CHECKOUT / "locks" / f"{name}.txt").read_bytes()
    key = changes.get("key", environment_key(lock))
    environment = Environment(
        key=key,
        name=name,
        lock_digest=lock_digest(lock),
        directory=home.envs / f"{key}-0000",
        python=Path(sys.executable),
        site_packages=Path(sysconfig.get_path("purelib")),
        base_python=Path(BASE_PYTHON),
        base_library=Path(os.__file__).parent,
        version=platform.python_version(),
        installer="pip",
        size_bytes=1_700_000,
        seconds=1.0,
    )
    made = dataclasses.replace(environment, **changes)
    made.directory.mkdir(exist_ok=True)
    write_marker(home, made)
    return made

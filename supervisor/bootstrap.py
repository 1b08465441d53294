"""The first half of install.py: from any Python to the supervisor's environment, with the stdlib alone."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from supervisor.environments import Environment
from supervisor.errors import ModuleError, ProvisionError
from supervisor.flags import install_parser
from supervisor.home import Home, find_home
from supervisor.provision import OnProgress, Recipe, provision
from supervisor.spawn import PYCACHE, hand_over
from supervisor.terminal import ProgressLine

__all__ = [
    "CHECKOUT",
    "EXIT_INTERRUPTED",
    "SUPERVISOR_IMPORTS",
    "fail",
    "main",
    "supervisor_environment",
    "supervisor_recipe",
]

CHECKOUT: Final = Path(__file__).resolve().parent.parent

SUPERVISOR_IMPORTS: Final = ("websockets", "msgpack", "virtualenv", "psutil", "tomli", "msgspec")
"""What pyproject.toml's dependencies are imported as."""

EXIT_SETTINGS: Final = 2
EXIT_PROVISION: Final = 4
EXIT_INTERRUPTED: Final = 130


def main(argv: list[str]) -> int:  # noqa: RET503  # hand_over does not return
    """Makes the supervisor's environment and goes on in it; returns an exit code only if that failed.

    Exit codes: 2 for bad arguments or a HOME that cannot be used, 4 for an environment that cannot be made,
    130 for an interrupt; all others are supervisor/cli.py's."""
    flags = install_parser().parse_args(argv)
    progress = ProgressLine(sys.stderr)
    try:
        home = find_home(flags.home, os.environ)
        environment = supervisor_environment(home, flags.installer, flags.wheelhouse, progress)
    except ModuleError as exc:
        return fail(exc, progress)
    except KeyboardInterrupt:
        progress.end()
        sys.stderr.write("install.py: interrupted; nothing half made is left\n")
        return EXIT_INTERRUPTED
    progress.end()
    argv = [str(environment.python), str(CHECKOUT / "supervisor"), "install", *argv]
    hand_over(argv, {**os.environ, PYCACHE: str(home.cache / "pycache")})


def fail(exc: ModuleError, progress: ProgressLine) -> int:
    """Says why it cannot go on; returns the exit code."""
    progress.end()
    sys.stderr.write(f"install.py: {exc.message}\n")
    return EXIT_PROVISION if isinstance(exc, ProvisionError) else EXIT_SETTINGS


def supervisor_recipe() -> Recipe:
    """What the supervisor's own environment is made from."""
    return Recipe("supervisor", CHECKOUT / "locks" / "supervisor.txt", SUPERVISOR_IMPORTS, bootstrap=True)


def supervisor_environment(
    home: Home, installer: str, wheelhouse: Path | None, on_progress: OnProgress
) -> Environment:
    """The supervisor's environment, found or made.

    Raises:
        ProvisionError: it cannot be made.
    """
    wheels = None if wheelhouse is None else wheelhouse.resolve()
    return provision(
        home, supervisor_recipe(), installer=installer, wheelhouse=wheels, on_progress=on_progress
    )

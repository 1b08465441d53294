"""What an application starts: HOME/spawn.json, and a launcher of fixed name in HOME/bin.

Both are written by install.py and name this checkout and its environment; any letters may be in those paths.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from supervisor.environments import Environment
from supervisor.home import Home, default_root
from supervisor.spawn import IS_WINDOWS
from supervisor.version import VERSION

__all__ = [
    "LAUNCHER_NAME",
    "batch_launcher",
    "program_argv",
    "shell_launcher",
    "spawn_argv",
    "write_launchers",
    "write_whole",
]

LAUNCHER_NAME: Final = "w-ai-fu-llm"
EXECUTABLE: Final = 0o755


def program_argv(environment: Environment, checkout: Path, home: Home) -> list[str]:
    """How our package starts, without arguments; what Python compiles goes to HOME, not into the checkout."""
    options = ["-X", f"pycache_prefix={home.cache / 'pycache'}"]
    return [str(environment.python), *options, str(checkout / "supervisor")]


def spawn_argv(environment: Environment, checkout: Path, home: Home) -> list[str]:
    """The argv that starts the module from anywhere; it names HOME where the default would miss it."""
    argv = program_argv(environment, checkout, home)
    return argv if _is_default(home) else [*argv, "--home", str(home.root)]


def write_launchers(environment: Environment, checkout: Path, home: Home) -> list[str]:
    """Writes spawn.json and the launcher, each in one step, and returns the argv that they start."""
    argv = spawn_argv(environment, checkout, home)
    record = {"argv": argv, "version": VERSION, "home": str(home.root), "checkout": str(checkout)}
    write_whole(home.spawn_json, json.dumps(record, ensure_ascii=False, indent=2) + "\n")
    files = batch_launcher(argv) if IS_WINDOWS else shell_launcher(argv)
    for name, text in files.items():
        write_whole(home.bin / name, text, mode=EXECUTABLE)
    return argv


def shell_launcher(argv: Sequence[str]) -> dict[str, str]:
    """The launcher's files, by name, for a POSIX shell."""
    words = " ".join("'" + word.replace("'", "'\"'\"'") + "'" for word in argv)
    return {LAUNCHER_NAME: f'#!/bin/sh\nexec {words} "$@"\n'}


def batch_launcher(argv: Sequence[str]) -> dict[str, str]:
    """The launcher's files, by name, for Windows.

    A .cmd is read in the console's code page, so it stays ASCII: the interpreter,
    HOME/envs/KEY/Scripts/python.exe, is named from HOME/bin, and the other paths stand in a Python file."""
    _, _, prefix, *words = argv
    _, _, key, scripts, python = argv[0].replace("\\", "/").rsplit("/", 4)
    batch = f'@"%~dp0..\\envs\\{key}\\{scripts}\\{python}" "%~dp0{LAUNCHER_NAME}.py" %*\r\n'
    script = (
        "import runpy\nimport sys\n\n"
        f"sys.pycache_prefix = {prefix.partition('=')[2]!r}\n"
        f"sys.argv[:] = {words!r} + sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    return {f"{LAUNCHER_NAME}.cmd": batch, f"{LAUNCHER_NAME}.py": script}


def write_whole(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Writes a file so that a reader, or a crash, finds the old or the new one and nothing between."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("x", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(mode)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _is_default(home: Home) -> bool:
    """Whether a start in an emptied environment finds this HOME by itself."""
    try:
        return home.root.samefile(default_root({}))
    except OSError:
        return False

"""Making an environment while the service runs: in a child process, since virtualenv has no business in this
one.

Both ends of the pipe between them stand here. The child, `python CHECKOUT/supervisor provision NAME`, prints
one JSON object a line: {"progress": …} any number of times, then {"environment": …} or {"error": "…"}. It
ends itself and its installers when its stdin ends, so it cannot outlive the service."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from supervisor.environments import Environment, find
from supervisor.errors import ModuleError, ProvisionError
from supervisor.home import Home, find_home
from supervisor.installers import builder_environment
from supervisor.provision import Progress, Recipe, provision
from supervisor.spawn import PYCACHE, STAY_VARIABLE
from supervisor.variants import made_by, own_build, own_lock

__all__ = ["main", "provision_child"]

CHECKOUT: Final = Path(__file__).resolve().parent.parent

LINE_BYTES: Final = 1024 * 1024
"""A line of the child: the last one names every package."""

END_S: Final = 5.0
"""For a child to be gone after its pipe ended, or after it was killed."""

END_POLL_S: Final = 0.02
"""Between two looks at its exit status; waiting for it could wait for whoever inherited its pipes."""


async def provision_child(
    home: Home,
    env_name: str,
    *,
    on_progress: Callable[[Progress], None],
    installer: str = "auto",
    wheelhouse: Path | None = None,
) -> Environment:
    """The environment of `[env.NAME]`: found, or made by a child process that reports to `on_progress`.

    Cancelling is safe: the child and its installers end, and nothing that they began counts.

    Raises:
        ProvisionError: it cannot be made; the message says what to do.
    """
    found = await asyncio.to_thread(find, home, _lock_path(home, env_name))
    if found is not None:
        return found
    argv = [sys.executable, str(CHECKOUT / "supervisor"), "provision", env_name, "--home", str(home.root)]
    argv += ["--installer", installer]
    if wheelhouse is not None:
        argv += ["--wheelhouse", str(wheelhouse)]
    child = await asyncio.create_subprocess_exec(
        *argv,
        env=_child_environment(os.environ),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_BYTES,
    )
    try:
        return await _result(child, env_name, on_progress)
    finally:
        await asyncio.shield(_end(child))


def _child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What installers need of ours: no provider's key reaches them or the packages that they import."""
    compiled = {PYCACHE: environ[PYCACHE]} if PYCACHE in environ else {}
    return {**builder_environment(environ), **compiled, STAY_VARIABLE: "1"}


async def _result(
    child: asyncio.subprocess.Process, env_name: str, on_progress: Callable[[Progress], None]
) -> Environment:
    """Reads the child's lines; each step of the child is bounded, so its last line comes."""
    async for line in cast(asyncio.StreamReader, child.stdout):  # it was given a pipe
        values = json.loads(line)
        if "progress" in values:
            on_progress(Progress.from_json(values["progress"]))
        elif "environment" in values:
            return Environment.from_json(values["environment"])
        else:
            raise ProvisionError(values["error"])
    raise ProvisionError(f"the process that makes the environment {env_name!r} died; the log says why")


async def _end(child: asyncio.subprocess.Process) -> None:
    """Ends the child, and with it, since they watch a pipe of its, its installers."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
    for _ in range(int(END_S / END_POLL_S)):
        if child.returncode is not None:
            return
        await asyncio.sleep(END_POLL_S)


def main(argv: list[str]) -> int:
    """The child: makes one environment and prints what happens; 0, or 4 if it cannot be made."""
    parser = argparse.ArgumentParser(prog="supervisor provision", allow_abbrev=False)
    parser.add_argument("name")
    parser.add_argument("--home")
    parser.add_argument("--installer", default="auto")
    parser.add_argument("--wheelhouse", type=Path)
    flags = parser.parse_args(argv)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        home = find_home(flags.home, os.environ)
        environment = provision(
            home,
            _recipe(home, flags.name),
            installer=flags.installer,
            wheelhouse=flags.wheelhouse,
            on_progress=lambda progress: _print({"progress": progress.as_json()}),
        )
    except ModuleError as exc:
        _print({"error": exc.message})
        return 4
    _print({"environment": environment.as_json()})
    return 0


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)  # at once: a build that is cut anywhere harms nothing


def _print(values: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(values).encode() + b"\n")
    sys.stdout.buffer.flush()


def _lock_path(home: Home, env_name: str) -> Path:
    own = own_lock(home, env_name)
    return own if own.is_file() else CHECKOUT / "locks" / f"{env_name}.txt"


def _recipe(home: Home, name: str) -> Recipe:
    from supervisor.catalog import load_catalog  # the service has its own; only the child reads it here

    catalog = load_catalog(CHECKOUT / "venvs.toml", home.local_catalog)
    spec = catalog.envs.get(name)
    if spec is None:
        raise ProvisionError(f"there is no table [env.{name}] in venvs.toml")
    provider = next((p.id for p in catalog.providers.values() if p.env == name), "NAME")
    if own_build(home, name) is not None:
        raise ProvisionError(
            f"the environment {name!r} was made of your own build, and has gone: "
            f"run `{made_by(home, name, provider)}`, or `python install.py --remove {provider}` to forget it"
        )
    if spec.heavy:
        raise ProvisionError(
            f"the environment {name!r} is large and never made in passing: "
            f"run `{made_by(home, name, provider)}`"
        )
    lock = _lock_path(home, name)
    return Recipe(name, lock, spec.imports, python=spec.python, where=spec.where)

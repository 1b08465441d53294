"""Making an environment: exactly one build at a time, in a directory of its own, and counted only when it
works.

The order is: finished already? take it. Else, under the lock of its key, look again; remove what earlier
tries left; create, install and import in a fresh directory; write the marker last. A build that fails or is
killed at any moment leaves nothing that looks finished, and the next one starts anew: nothing half made is
ever resumed.

install.py makes the supervisor's own environment with this file too, so the standard library alone is
imported. What an environment is and how one is found: environments.py. How packages get in: installers.py.
"""

from __future__ import annotations

import contextlib
import enum
import importlib.util
import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from supervisor import environments
from supervisor.environments import Environment, environment_key, lock_digest
from supervisor.errors import ProvisionError
from supervisor.home import Home
from supervisor.installers import Installer, clean_environment, find_installers, reason_of
from supervisor.lockfile import Pin, applies, local_build, marker_environment, python_fits, read_pins
from supervisor.spawn import environment_python, exclusive_lock, run_child

__all__ = ["OnProgress", "Phase", "Progress", "Recipe", "provision"]

WAIT_S: Final = 3600.0
"""For another process that builds the same environment: a gigabyte on a slow line takes most of an hour."""

CREATE_TIMEOUT_S: Final = 120.0
"""For an empty environment, 0.2 s by measure: what takes longer is a virus scanner, or hangs."""

INSTALL_TIMEOUT_S: Final = 3000.0
"""For all downloads together; below WAIT_S, so that who waits outlives who builds."""

VERIFY_TIMEOUT_S: Final = 300.0
"""For the first import, which also compiles: torch on a slow disk."""

OUTPUT_LINES: Final = 200
"""Of an installer that are kept to explain its failure."""

VERIFY: Final = """
import importlib, json, os, sys, sysconfig
for name in sys.argv[1:]:
    importlib.import_module(name)
print("verified " + json.dumps({
    "version": sys.version.split()[0],
    "site_packages": sysconfig.get_path("purelib"),
    "base_python": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "base_library": os.path.dirname(os.__file__),
}))
"""


class Phase(enum.Enum):
    """What a build is doing."""

    WAIT = "wait"
    """Another process builds the same environment."""
    CREATE = "venv"
    INSTALL = "install"
    VERIFY = "verify"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Progress:
    """One thing to tell whoever waits; `done` of `total` packages."""

    phase: Phase
    message: str
    done: int
    total: int
    elapsed_s: float

    def as_json(self) -> dict[str, Any]:
        """As a builder prints it for its parent."""
        return {
            "phase": self.phase.value,
            "message": self.message,
            "done": self.done,
            "total": self.total,
            "elapsed_s": round(self.elapsed_s, 3),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Progress:
        """The inverse of `as_json`."""
        phase = Phase(values["phase"])
        return cls(phase, values["message"], values["done"], values["total"], values["elapsed_s"])


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to make: a lock, and what must import before it counts."""

    name: str
    lock: Path
    imports: tuple[str, ...]
    bootstrap: bool = False
    """Made by a Python that has the standard library alone: with venv instead of virtualenv."""
    python: str = ">=3.10"
    where: str = ""
    """The marker of the machines for which there are files; empty: all."""


def provision(
    home: Home,
    recipe: Recipe,
    *,
    installer: str = "auto",
    wheelhouse: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Environment:
    """The finished environment of that recipe: found, or made while every other process that wants it waits.

    Raises:
        ProvisionError: it cannot be made; nothing of the try is left.
    """
    lock = environments.read_lock(recipe.lock)
    key = environment_key(lock)
    found = environments.find(home, recipe.lock)
    if found is not None:
        return found
    _check_python(recipe)
    _check_machine(recipe)
    report = _Report(recipe.name, on_progress)
    try:
        with exclusive_lock(home.locks / f"{key}.lock", timeout_s=WAIT_S, on_wait=report.waiting):
            found = environments.find(home, recipe.lock)
            if found is not None:
                return found
            environments.remove(home, key)
            return _Build(home, recipe, lock, key, report).run(installer, wheelhouse)
    except TimeoutError as exc:
        raise ProvisionError(
            f"another process has been making the environment {recipe.name!r} for over "
            f"{WAIT_S / 60:.0f} minutes: end it, then try again"
        ) from exc
    except OSError as exc:
        raise ProvisionError(
            f"the environment {recipe.name!r} cannot be made: {exc.strerror or exc}"
        ) from exc


class _Report:
    """Tells progress, and remembers how far it is for the ticks in between."""

    def __init__(self, name: str, on_progress: OnProgress | None) -> None:
        self.name = name
        self._on_progress = on_progress
        self._started = time.monotonic()
        self._last = Progress(Phase.WAIT, "", 0, 0, 0)
        self._waited_s = -1

    @property
    def elapsed_s(self) -> float:
        """Seconds since the caller asked."""
        return time.monotonic() - self._started

    def say(self, phase: Phase, message: str, done: int = 0, total: int = 0) -> None:
        """Tells that."""
        self._last = Progress(phase, message, done, total, self.elapsed_s)
        if self._on_progress is not None:
            self._on_progress(self._last)

    def tick(self) -> None:
        """Tells the last thing again, with the time that has passed."""
        last = self._last
        self.say(last.phase, last.message, last.done, last.total)

    def waiting(self, waited_s: float) -> None:
        """Tells of the wait for another process, at once and then every second."""
        if int(waited_s) > self._waited_s:
            self._waited_s = int(waited_s)
            self.say(Phase.WAIT, f"another process is making {self.name}")


class _Build:
    """One try, in a directory of its own; whoever makes it holds the key's lock."""

    def __init__(self, home: Home, recipe: Recipe, lock: bytes, key: str, report: _Report) -> None:
        self.home = home
        self.recipe = recipe
        self.lock = lock
        self.key = key
        self.report = report
        self.directory = home.envs / f"{key}-{secrets.token_hex(2)}"
        self.python = environment_python(self.directory)

    def run(self, installer: str, wheelhouse: Path | None) -> Environment:
        """Makes it, or removes what there is of it."""
        candidates = find_installers(installer)
        pins = self._pins()
        total = len(pins)
        try:
            self._create()
            used = self._install(candidates, wheelhouse, total, local_build(pins, marker_environment()))
            facts = self._verify(total)
            environment = self._describe(used, facts)
            environments.write_marker(self.home, environment)
        except BaseException:  # also an interrupt: whatever ends the try, nothing of it stays
            shutil.rmtree(self.directory, ignore_errors=True)
            raise
        self.report.say(Phase.DONE, f"{self.recipe.name} is ready", total, total)
        return environment

    def _pins(self) -> list[Pin]:
        """Those of the lock that are for this machine."""
        values = marker_environment()
        try:
            return [pin for pin in read_pins(self.lock.decode("utf-8")) if applies(pin.marker, values)]
        except ValueError as exc:  # UnicodeDecodeError is one
            raise ProvisionError(f"{self.recipe.lock.name} is damaged ({exc}): restore the checkout") from exc

    def _create(self) -> None:
        self.report.say(Phase.CREATE, f"creating {self.recipe.name}")
        if self.recipe.bootstrap:
            _need("venv")
            argv = [sys.executable, "-I", "-m", "venv", "--without-pip", str(self.directory)]
        else:
            _need("virtualenv")
            argv = [sys.executable, "-I", "-m", "virtualenv", "--no-seed", "--no-periodic-update"]
            argv += ["--python", sys.executable, "--app-data", str(self.home.cache / "virtualenv")]
            argv += [str(self.directory)]
        self._step(argv, clean_environment(os.environ), CREATE_TIMEOUT_S)

    def _install(
        self, candidates: list[Installer], wheelhouse: Path | None, total: int, build: str
    ) -> Installer:
        """Tries the installers in order; one that finds a wrong file is the last."""
        lock = self.directory / "lock.txt"  # a copy: what is installed is what the key was made from
        lock.write_bytes(self.lock)
        for number, installer in enumerate(candidates, start=1):
            try:
                self._install_with(installer, installer.argv(self.python, lock, wheelhouse, build), total)
            except _StepError as exc:
                if installer.refused_a_hash(exc.output):
                    raise
                if number == len(candidates):
                    raise _hinted(exc, build) from exc
                self.report.say(
                    Phase.INSTALL, f"{installer.name} failed, trying {candidates[number].name}", 0, total
                )
            else:
                return installer
        raise AssertionError("find_installers returns one at least")

    def _install_with(self, installer: Installer, argv: list[str], total: int) -> None:
        done: set[str] = set()

        def hear(line: str) -> None:
            package = installer.package_in(line)
            if package is not None:
                done.add(package)
                self.report.say(Phase.INSTALL, package, min(len(done), total), total)

        self.report.say(Phase.INSTALL, f"with {installer.name}", 0, total)
        self._step(argv, installer.environment(os.environ), INSTALL_TIMEOUT_S, hear)

    def _verify(self, total: int) -> dict[str, str]:
        self.report.say(Phase.VERIFY, "importing " + ", ".join(self.recipe.imports), total, total)
        argv = [str(self.python), "-I", "-X", "utf8"]
        if self.recipe.bootstrap:  # compiles for the first start, which looks for it there
            argv += ["-X", f"pycache_prefix={self.home.cache / 'pycache'}"]
        argv += ["-c", VERIFY, *self.recipe.imports]
        output = self._step(argv, clean_environment(os.environ), VERIFY_TIMEOUT_S)
        facts = next((line for line in reversed(output) if line.startswith("verified ")), None)
        if facts is None:
            raise self._failure("its Python said nothing", output)
        values: dict[str, str] = json.loads(facts.removeprefix("verified "))
        return values

    def _describe(self, installer: Installer, facts: dict[str, str]) -> Environment:
        site_packages = Path(facts["site_packages"])
        return Environment(
            key=self.key,
            name=self.recipe.name,
            lock_digest=lock_digest(self.lock),
            directory=self.directory,
            python=self.python,
            site_packages=site_packages,
            base_python=Path(facts["base_python"]),
            base_library=Path(facts["base_library"]),
            version=facts["version"],
            installer=installer.name,
            size_bytes=environments.directory_size(self.directory),
            seconds=round(self.report.elapsed_s, 3),
            packages=_packages(site_packages),
        )

    def _step(
        self,
        argv: list[str],
        environment: dict[str, str],
        timeout_s: float,
        hear: Callable[[str], None] | None = None,
    ) -> list[str]:
        """Runs one program of the build and returns what it printed."""
        output: list[str] = []

        def on_line(line: str) -> None:
            output.append(line)
            del output[:-OUTPUT_LINES]
            if hear is not None:
                hear(line)

        try:
            code = run_child(
                argv,
                environment=environment,
                cwd=self.home.envs,  # not the user's directory: uv would read its configuration there
                timeout_s=timeout_s,
                on_line=on_line,
                on_tick=self.report.tick,
            )
        except (TimeoutError, subprocess.TimeoutExpired) as exc:
            raise self._failure(str(exc), output) from exc
        if code != 0:
            raise self._failure(reason_of(output), output)
        return output

    def _failure(self, reason: str, output: list[str]) -> _StepError:
        return _StepError(f"the environment {self.recipe.name!r} cannot be made: {reason}", output)


class _StepError(ProvisionError):
    """A program of the build failed; knows what it printed."""

    def __init__(self, message: str, output: list[str]) -> None:
        super().__init__(message)
        self.output = output


def _hinted(error: _StepError, build: str) -> _StepError:
    """The same error, with what helps where packages stand on another index than the usual one."""
    if not build:
        return error
    hint = f"its +{build} packages are on torch's own index: install uv, which knows it, or name it to pip"
    return _StepError(f"{error.message}; {hint} (PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS)", error.output)


def _check_python(recipe: Recipe) -> None:
    running = platform.python_version()
    if not python_fits(recipe.python, running):
        raise ProvisionError(
            f"the environment {recipe.name!r} needs Python {recipe.python}, this is {running}: "
            "run install.py with such a one"
        )


def _check_machine(recipe: Recipe) -> None:
    if not applies(recipe.where, marker_environment()):
        raise ProvisionError(
            f"the environment {recipe.name!r} has no files for this machine and this Python "
            f"(it needs: {recipe.where}): take another provider, --list shows them"
        )


def _need(module: str) -> None:
    """Says what to install when this Python lacks a module that makes environments."""
    if importlib.util.find_spec(module) is None:
        raise ProvisionError(
            f"this Python has no module {module!r}: run `sudo apt install python3-venv` (Debian, Ubuntu) "
            "or install Python from python.org, then the same command again"
        )


def _packages(site_packages: Path) -> dict[str, str]:
    """Names and versions of what is installed, from the directories' names."""
    found = {}
    with contextlib.suppress(OSError):
        for path in sorted(site_packages.glob("*.dist-info")):
            name, _, version = path.name.removesuffix(".dist-info").partition("-")
            found[name] = version
    return found

"""Another build of an engine, from where the operator says: llama.cpp for his GPU, torch for his CUDA.

Such builds lie on indexes that this project names none of, so no lock of ours has their hashes. What the
operator's own index, folder or file holds is fetched once, pinned to the files that came, and installed from
them like any other lock. That lock stays in HOME/builds and says which environment counts; the files go.
What our own lock pins of the other packages holds for them too.

    HOME/builds/ENV.txt             the lock; its first line says where the build came from
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor.environments import read_lock
from supervisor.errors import ProvisionError, SettingsError
from supervisor.home import Home
from supervisor.installers import Pip, find_pip, reason_of, redacted
from supervisor.lockfile import Pin, applies, marker_environment, read_pins
from supervisor.providers import EnvSpec
from supervisor.spawn import exclusive_lock, run_child
from supervisor.variants import FROM, own_lock

__all__ = ["Fetched", "fetched", "keep", "sweep"]

FETCH_TIMEOUT_S: Final = 3000.0
"""For three gigabytes on a slow line."""
FOLDER: Final = "build-"
"""How the folders begin in which files wait to be installed; a killed install leaves one, which goes with the
next one or with --gc."""
HASH_BLOCK: Final = 1 << 20
_NAME: Final = re.compile(r"\A[A-Za-z0-9._-]+")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Fetched:
    """All files of an environment, and the lock that pins them; there until the `with` ends."""

    lock: Path
    files: Path


def keep(home: Home, spec: EnvSpec, lock: Path) -> None:
    """From now on the build of that lock is in use."""
    home.builds.mkdir(exist_ok=True)
    part = home.builds / f"{spec.name}.part"
    shutil.copyfile(lock, part)
    part.replace(own_lock(home, spec.name))


def sweep(home: Home) -> None:
    """Removes what a killed install left; leaves alone what one holds that runs."""
    try:
        with exclusive_lock(home.locks / "builds.lock", timeout_s=0):
            _sweep(home)
    except TimeoutError:
        return


@contextmanager
def fetched(
    home: Home, spec: EnvSpec, usual: Path, where: str, *, wheelhouse: Path | None, say: Say
) -> Iterator[Fetched]:
    """The files of that environment with the engine's build from `where`: a wheel, a folder, an index's URL.

    Raises:
        SettingsError: the environment has no package that comes in other builds, or `where` is nothing.
        ProvisionError: something cannot be fetched, or is not what our lock pins.
    """
    if not spec.builds:
        raise SettingsError(f"the environment {spec.name!r} has no package that comes in other builds")
    try:
        with exclusive_lock(home.locks / "builds.lock", timeout_s=0):
            _sweep(home)
            with tempfile.TemporaryDirectory(prefix=FOLDER, dir=home.cache) as folder:
                yield _Fetch(spec, usual, where, wheelhouse, Path(folder), say).run()
    except TimeoutError as exc:
        raise ProvisionError("another install.py fetches a build: wait until it has ended") from exc


def _sweep(home: Home) -> None:
    for left in home.cache.glob(f"{FOLDER}*"):
        shutil.rmtree(left, ignore_errors=True)


class _Fetch:
    """One environment's files on their way."""

    def __init__(
        self, spec: EnvSpec, usual: Path, where: str, wheelhouse: Path | None, folder: Path, say: Say
    ) -> None:
        program = find_pip()
        if program is None:
            raise ProvisionError("pip cannot be found, and uv cannot fetch files: install pip")
        self._pip = Pip(program)
        self._spec = spec
        self._pins = _pins(usual)
        self._wheelhouse = wheelhouse
        self._folder = folder
        self._say = say
        self._where = where
        self._index = re.match(r"https?://|file://", where) is not None
        self._path = Path(where).expanduser().absolute()
        if not self._index and not self._path.exists():
            raise SettingsError(f"{where} is no file, no folder and no URL of an index")

    def run(self) -> Fetched:
        """All files and their lock."""
        builds, files = self._folder / "builds", self._folder / "files"
        builds.mkdir()
        self._fetch_builds(builds)
        self._fetch_all(builds, files)
        lock = self._folder / f"{self._spec.name}.txt"
        lock.write_text(self._lock_text(files), encoding="utf-8", newline="\n")
        return Fetched(lock, files)

    def _fetch_builds(self, builds: Path) -> None:
        """The engine's own packages, from nowhere but `where`."""
        if self._path.suffix == ".whl" and not self._index:
            shutil.copy(self._path, builds)
        else:
            source = ["--index-url", self._where] if self._index else _folder_alone(self._path)
            wanted = [line for line in self._spec.requirements if _name(line) in self._builds]
            self._download(["--no-deps", *source, *wanted], builds)
        for wheel in builds.iterdir():
            if _name(wheel.name) not in self._builds:
                raise SettingsError(f"{wheel.name} is none of {', '.join(self._spec.builds)}")
            if any(_hash(wheel) in pin.hashes for pin in self._pins.values()):
                raise SettingsError(
                    f"{redacted(self._where)} has no other build of {wheel.name.partition('-')[0]} than the "
                    "usual one: leave out --builds"
                )

    def _fetch_all(self, builds: Path, files: Path) -> None:
        """The builds, and whatever else the environment needs, in the versions that our lock pins."""
        wanted, bounds = self._folder / "wanted.txt", self._folder / "bounds.txt"
        rest = [line for line in self._spec.requirements if _name(line) not in self._builds]
        own = [f"{_name(wheel.name)} @ {wheel.as_uri()}" for wheel in builds.iterdir()]
        wanted.write_text("\n".join([*rest, *own, ""]), encoding="utf-8")
        pinned = [
            f"{p.name}=={p.version}\n" for p in self._pins.values() if _name(p.name) not in self._builds
        ]
        bounds.write_text("".join(pinned), encoding="utf-8")
        sources: list[str] = []
        if self._wheelhouse is not None:
            sources = _folder_alone(self._wheelhouse)
        elif self._index:
            sources = ["--extra-index-url", self._where]
        if not self._index and self._path.is_dir():
            sources += ["--find-links", str(self._path)]
        self._download([*sources, "--constraint", str(bounds), "--requirement", str(wanted)], files)

    def _download(self, words: Sequence[str], target: Path) -> None:
        argv = [sys.executable, "-I", str(self._pip.program), "download", "--only-binary", ":all:"]
        argv += ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
        argv += [*words, "--dest", str(target)]
        output: list[str] = []

        def hear(line: str) -> None:
            output.append(line)
            if line.lstrip().startswith("Downloading "):
                self._say(redacted(line.strip()))

        code = run_child(
            argv,
            environment=self._pip.environment(os.environ),
            cwd=self._folder,
            timeout_s=FETCH_TIMEOUT_S,
            on_line=hear,
        )
        if code != 0:
            raise ProvisionError(
                f"the build of {self._spec.name} cannot be fetched from {redacted(self._where)}: "
                f"{reason_of(output)}"
            )

    @property
    def _builds(self) -> frozenset[str]:
        return frozenset(map(_name, self._spec.builds))

    def _lock_text(self, files: Path) -> str:
        lines = [f"{FROM}{redacted(self._where)}\n"]
        for wheel in sorted(files.iterdir()):
            distribution, version = wheel.name.split("-")[:2]
            pin = self._pins.get(_name(distribution))
            found = _hash(wheel)
            ours = pin is not None and pin.version == version and _name(distribution) not in self._builds
            if ours and pin is not None and found not in pin.hashes:
                raise ProvisionError(f"{wheel.name} is not the file that our lock pins (its hash differs)")
            lines.append(f"{_name(distribution)}=={version} \\\n    --hash={found}\n")
        return "".join(lines)


def _folder_alone(folder: Path) -> list[str]:
    return ["--no-index", "--find-links", str(folder)]


def _pins(usual: Path) -> dict[str, Pin]:
    """What our lock has for this machine, by name."""
    values = marker_environment()
    pins = read_pins(read_lock(usual).decode("utf-8"))
    return {_name(pin.name): pin for pin in pins if applies(pin.marker, values)}


def _name(text: str) -> str:
    """The name at the beginning of a requirement or of a wheel's file name, in its normal form."""
    match = _NAME.match(text.partition("-")[0] if text.endswith(".whl") else text)
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match is not None else ""


def _hash(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(HASH_BLOCK):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"

"""Wheels made on the spot, so that environments can be made in tests without any index.

Tiny ones are written file by file; the supervisor's own packages are packed again from the environment
that runs the tests. Either way the lock is made here too, with the true hashes of what was made.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from supervisor.installers import find_uv
from supervisor.lockfile import applies, marker_environment, read_pins

CHECKOUT: Final = Path(__file__).resolve().parent.parent

BASE_PYTHON: Final = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
"""The Python below the environment that runs the tests: it has the standard library alone, or nearly.
On 3.10 an environment names itself here; its link leads to the one below."""

POLL_S: Final = 0.02
"""Between two looks at what is waited for."""

PATIENCE_S: Final = 20.0
"""For what happens at once on an idle machine."""

INSTALLERS: Final = (
    "pip",
    pytest.param("uv", marks=pytest.mark.skipif(find_uv() is None, reason="uv is not on this machine")),
)


def make_wheel(
    directory: Path, name: str, version: str, files: Mapping[str, str], *, requires: Sequence[str] = ()
) -> Path:
    """A pure wheel with those files."""
    info = f"{name}-{version}.dist-info"
    wanted = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    contents = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{wanted}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*contents, f"{info}/RECORD"])
    wheel = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in {**contents, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)
    return wheel


def make_bulky_wheels(directory: Path, *, count: int = 5, files: int = 120) -> dict[str, Path]:
    """Wheels with so many files that a kill lands between two of them; each module imports all its parts."""
    wheels = {}
    for number in range(count):
        name = f"bulky{number}"
        parts = {f"{name}/part{i}.py": f"VALUE = {i}\n" for i in range(files)}
        parts[f"{name}/__init__.py"] = "".join(f"from . import part{i}\n" for i in range(files))
        wheels[name] = make_wheel(directory, name, "1.0", parts)
    return wheels


def lock_text(*wheels: Path) -> str:
    """A lock that pins exactly these files."""
    lines = []
    for wheel in wheels:
        name, version = wheel.name.split("-")[:2]
        lines.append(
            f"{name}=={version} \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
        )
    return "".join(lines)


def repack(directory: Path, name: str) -> Path:
    """The installed distribution of that name as a wheel again."""
    distribution = importlib.metadata.distribution(name)
    info = next(file for file in distribution.files or () if file.name == "WHEEL")
    tags = [line[5:].split("-") for line in info.read_text().splitlines() if line.startswith("Tag: ")]
    tag = "-".join(".".join(dict.fromkeys(part)) for part in zip(*tags, strict=True))
    plain = distribution.metadata["Name"].replace("-", "_").replace(".", "_")
    wheel = directory / f"{plain}-{distribution.version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in distribution.files or ():
            inside = ".." not in file.parts and "__pycache__" not in file.parts
            if inside and file.name not in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
                archive.write(str(file.locate()), file.as_posix())
        names = [*archive.namelist(), f"{info.parent.as_posix()}/RECORD"]
        record = zipfile.ZipInfo(names[-1])  # without the time: packed twice, the file has the same hash
        archive.writestr(record, "".join(f"{name},,\n" for name in names))
    return wheel


def repack_lock(directory: Path, lock: Path) -> str:
    """Packs what `lock` pins for this Python into `directory`; returns a lock of those files."""
    values = marker_environment()
    pins = [pin for pin in read_pins(lock.read_text(encoding="utf-8")) if applies(pin.marker, values)]
    return lock_text(*(repack(directory, pin.name) for pin in pins))


def copy_checkout(target: Path, wheels: Path) -> Path:
    """A checkout whose locks pin the wheels made here, and whose catalogue is the demo alone."""
    target.mkdir(parents=True)
    for name in ("supervisor", "workers"):
        shutil.copytree(CHECKOUT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("install.py", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, target / name)
    (target / "locks").mkdir()
    for name in ("supervisor", "base"):
        text = repack_lock(wheels, CHECKOUT / "locks" / f"{name}.txt")
        (target / "locks" / f"{name}.txt").write_text(text, encoding="utf-8")
    for name in ("large", "second"):
        (target / "locks" / f"{name}.txt").write_text(f"# {name}: another key\n{text}", encoding="utf-8")
    (target / "venvs.toml").write_text(CATALOG, encoding="utf-8")
    return target


@dataclass(frozen=True, slots=True)
class Site:
    """A copied checkout, the wheels that it needs, and a directory for whatever a test makes beside them."""

    root: Path
    checkout: Path
    wheels: Path

    def start(
        self, *arguments: str, home: Path, program: Sequence[str] = (), **variables: str
    ) -> subprocess.Popen[str]:
        """Runs install.py there, offline, from another directory and with no other variables."""
        kept = {key: os.environ[key] for key in ("PATH", "SYSTEMROOT", "TEMP", "TMP") if key in os.environ}
        script = program or (BASE_PYTHON, str(self.checkout / "install.py"))
        return subprocess.Popen(
            [*script, "--home", str(home), "--wheelhouse", str(self.wheels), *arguments],
            cwd=self.root,
            env={**kept, "HOME": str(self.root), "USERPROFILE": str(self.root), **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def run(
        self, *arguments: str, home: Path, program: Sequence[str] = (), **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """As `start`, to its end."""
        process = self.start(*arguments, home=home, program=program, **variables)
        try:
            out, err = process.communicate(timeout=PATIENCE_S * 2)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def make_site(root: Path) -> Site:
    """A site below a path with spaces and letters that are not ASCII."""
    wheels = root / "wheels of 漢字"
    wheels.mkdir()
    return Site(root, copy_checkout(root / "chéckout of 漢字", wheels), wheels)


CATALOG: Final = """
[env.base]
requirements = ["msgpack>=1.1,<2"]
imports = ["msgpack"]

[env.large]
requirements = ["msgpack>=1.1,<2"]
imports = ["msgpack"]
heavy = true

[provider.demo]
adapter = "scripted"
env = "base"

[provider.groq]
adapter = "openai_chat"
env = "base"
key = ["GROQ_API_KEY"]

[provider.giant]
adapter = "scripted"
env = "large"
"""


def wait_until(condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Waits, bounded, for something that another process does."""
    deadline = time.monotonic() + patience_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        pause.wait(POLL_S)


def python(code: str, *arguments: str, checkout: Path = CHECKOUT) -> subprocess.Popen[str]:
    """A Python that runs `code` with that checkout on its path, and prints JSON."""
    start = f"import sys; sys.path.insert(0, {str(checkout)!r})\n"
    return subprocess.Popen(
        [sys.executable, "-c", start + code, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def result_of(process: subprocess.Popen[str]) -> object:
    """What such a Python printed; fails with its complaint if it failed."""
    out, err = process.communicate(timeout=PATIENCE_S * 2)
    assert process.returncode == 0, err
    return json.loads(out)

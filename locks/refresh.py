"""Rewrites the lock files from venvs.toml and pyproject.toml; with --check, says whether they still agree.

    python locks/refresh.py             pins what is new, keeps what is pinned and still fits
    python locks/refresh.py --upgrade   takes the newest of everything
    python locks/refresh.py --check     offline: exit 1 if a lock does not hold what is asked for
    python locks/refresh.py --sizes     what each large environment downloads, for size_mb in venvs.toml
    python locks/refresh.py --matrix    asks the resolver whether wheels exist for every platform and Python

One universal file per dependency set, with hashes, and without the name of any host.
It runs in the development environment, which has uv and tomli.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

CHECKOUT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

import tomli  # noqa: E402  # as the two below: the checkout is on the path only now

from supervisor.installers import find_uv  # noqa: E402
from supervisor.lockfile import Pin, read_pins  # noqa: E402

LOCKS: Final = CHECKOUT / "locks"
OLDEST: Final = "3.10"
PYTHONS: Final = ("3.10", "3.11", "3.12", "3.13", "3.14")
PLATFORMS: Final = (
    "windows",
    "aarch64-apple-darwin",
    "x86_64-apple-darwin",
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
)
SYSTEMS: Final = {
    "linux": "x86_64-manylinux_2_35",
    "win32": "windows",
    "darwin": "aarch64-apple-darwin",
}
"""For sizes: a `sys.platform`, and the machine that most have of it."""
MACOS: Final = "14.0"
"""The oldest that torch has files for."""
RESOLVE_TIMEOUT_S: Final = 300
"""A resolution takes a second; a slow index many."""


def wanted() -> dict[str, list[str]]:
    """Lock name to the requirements that it must hold."""
    project = _toml("pyproject.toml")
    envs = dict(_of_environments())
    own = list(project["project"]["dependencies"])
    dev = [*own, *envs["http"], *project["dependency-groups"]["dev"]]
    return {"supervisor": own, **envs, "dev": dev}


def _of_environments() -> Iterator[tuple[str, list[str]]]:
    """Of each environment, and of each of its variants that has a lock of its own."""
    for name, table in _toml("venvs.toml")["env"].items():
        yield name, list(table["requirements"])
        for variant, other in table.get("variants", {}).items():
            if "lock" not in other:
                yield f"{name}-{variant}", list(other["requirements"])


def disagreements() -> list[str]:
    """What is wrong with the locks, one sentence each; nothing is asked of any index."""
    wrong = []
    for name, requirements in wanted().items():
        path = LOCKS / f"{name}.txt"
        if not path.is_file():
            wrong.append(f"{path.name} is missing")
            continue
        text = path.read_text(encoding="utf-8")
        if "://" in text:
            wrong.append(f"{path.name} names a host")
        try:
            pins = read_pins(text)
        except ValueError as exc:
            wrong.append(f"{path.name}: {exc}")
            continue
        wrong += [f"{path.name} does not hold {line}" for line in requirements if not _held(line, pins)]
    known = set(wanted())
    wrong += [f"{path.name} belongs to no table" for path in LOCKS.glob("*.txt") if path.stem not in known]
    return wrong


def _held(requirement: str, pins: list[Pin]) -> bool:
    """Whether some pin has the requirement's name, and every pin of that name its version."""
    match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*([^;]*)", requirement)
    if match is None:
        return False
    versions = [pin.version for pin in pins if _canonical(pin.name) == _canonical(match[1])]
    return bool(versions) and all(_fits(version, match[2]) for version in versions)


def _fits(version: str, specifiers: str) -> bool:
    return all(_fits_one(version, part.strip()) for part in specifiers.split(",") if part.strip())


def _fits_one(version: str, specifier: str) -> bool:
    match = re.match(r"(>=|<=|==|!=|<|>)\s*([\d.]+)(?:\+\w+)?\Z", specifier)
    if match is None:
        raise ValueError(f"{specifier!r}: only plain comparisons are used here")
    ours, other = _numbers(version), _numbers(match[2])
    results = {
        ">=": ours >= other,
        "<=": ours <= other,
        "==": ours == other,
        "!=": ours != other,
        "<": ours < other,
        ">": ours > other,
    }
    return results[match[1]]


def _numbers(version: str) -> tuple[int, ...]:
    numbers = re.findall(r"\d+", version.partition("+")[0])
    return tuple(([int(number) for number in numbers] + [0] * 5)[:5])


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _toml(name: str) -> dict[str, Any]:
    return tomli.loads((CHECKOUT / name).read_text(encoding="utf-8"))


def refresh(names: list[str], *, upgrade: bool, find_links: str | None) -> None:
    """Writes the locks of those names, or every one."""
    for name, requirements in wanted().items():
        if names and name not in names:
            continue
        text = _head(name) + _compiled(name, requirements, upgrade=upgrade, find_links=find_links)
        if "://" in text:
            raise SystemExit(f"{name}.txt would name a host; nothing was written")
        read_pins(text)
        (LOCKS / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")
        print(f"{name}.txt: {len(read_pins(text))} pins")


def _head(name: str) -> str:
    """A lock whose variant is not for every machine says so to its reader."""
    for env, table in _toml("venvs.toml")["env"].items():
        for variant, other in table.get("variants", {}).items():
            if f"{env}-{variant}" == name and "where" in other:
                return f"# Its files of torch are only those for: {other['where']}\n"
    return ""


def _compiled(name: str, requirements: list[str], *, upgrade: bool, find_links: str | None) -> str:
    part = LOCKS / f"{name}.part"
    old = LOCKS / f"{name}.txt"
    if old.is_file() and not upgrade:
        shutil.copyfile(old, part)  # uv keeps what its output file already pins
    words = ["pip", "compile", "-", "--output-file", str(part), "--quiet", "--universal", "--generate-hashes"]
    words += ["--no-header", "--no-annotate", "--only-binary", ":all:", "--python-version", OLDEST]
    words += _torch_words(requirements, find_links)
    try:
        _uv([*words, "--python", sys.executable], "\n".join(requirements))
        return part.read_text(encoding="utf-8")
    finally:
        part.unlink(missing_ok=True)


def _torch_words(requirements: list[str], find_links: str | None) -> list[str]:
    """Where a build of torch that is not on the usual index is found: uv knows, or a folder has it."""
    builds = re.findall(r"==[\d.]+\+(\w+)", "\n".join(requirements))
    if not builds:
        return []
    return ["--torch-backend", builds[0]] if find_links is None else ["--find-links", find_links]


def sizes(find_links: str | None) -> Iterator[str]:
    """What each large environment downloads on each system, for this Python; a system without files is left
    out."""
    heavy = [name for name, table in _toml("venvs.toml")["env"].items() if table.get("heavy")]
    for name, requirements in wanted().items():
        if not name.startswith(tuple(heavy)):
            continue
        found = {}
        for system, triple in SYSTEMS.items():
            with contextlib.suppress(SystemExit):
                found[system] = _size_mb(name, triple, _torch_words(requirements, find_links))
        shown = ", ".join(f"{system} = {size}" for system, size in found.items())
        yield f"{name}: size_mb = {{ {shown} }}"


def _size_mb(name: str, triple: str, more: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "pylock.toml"
        words = ["pip", "compile", str(LOCKS / f"{name}.txt"), "--no-deps", "--only-binary", ":all:", *more]
        words += ["--format", "pylock.toml", "--python-platform", triple, "--python", sys.executable]
        _uv([*words, "--output-file", str(target), "--quiet"], "")
        packages = tomli.loads(target.read_text(encoding="utf-8"))["packages"]
    wheels = [wheel for package in packages for wheel in package.get("wheels", [])[:1]]
    return round(sum(map(_wheel_bytes, wheels)) / 1e6)


def _wheel_bytes(wheel: dict[str, Any]) -> int:
    """As the index tells it; a file in a folder is looked at."""
    size: int = wheel.get("size") or Path(url2pathname(urlsplit(wheel["url"]).path)).stat().st_size
    return size


def holes() -> list[str]:
    """The cells of platform and Python for which a lock's pins have no wheels."""
    found = []
    for name in wanted():
        for platform in PLATFORMS:
            for python in PYTHONS:
                words = [
                    "pip",
                    "compile",
                    str(LOCKS / f"{name}.txt"),
                    "--quiet",
                    "--no-deps",
                    "--only-binary",
                    ":all:",
                ]
                words += [
                    "--python-platform",
                    platform,
                    "--python-version",
                    python,
                    "--python",
                    sys.executable,
                ]
                try:
                    _uv(words, "")
                except SystemExit as exc:
                    found.append(f"{name}, {platform}, {python}: {exc}")
    return found


def _uv(words: list[str], text: str) -> None:
    program = find_uv()
    if program is None:
        raise SystemExit("uv cannot be found: run this in the development environment")
    done = subprocess.run(
        [program, *words],
        input=text,
        capture_output=True,
        encoding="utf-8",
        cwd=LOCKS,
        env={"MACOSX_DEPLOYMENT_TARGET": MACOS, **os.environ},
        timeout=RESOLVE_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr.strip())


def main() -> int:
    """Does what the flags say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true")
    what.add_argument("--matrix", action="store_true")
    what.add_argument("--sizes", action="store_true")
    what.add_argument("--upgrade", action="store_true")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these locks")
    parser.add_argument(
        "--find-links", metavar="DIR", help="where builds of torch are that the usual index has not"
    )
    flags = parser.parse_args()
    if flags.sizes:
        print("\n".join(sizes(flags.find_links)))
        return 0
    if not (flags.check or flags.matrix):
        refresh(flags.names, upgrade=flags.upgrade, find_links=flags.find_links)
        return 0
    wrong = disagreements() if flags.check else holes()
    for sentence in wrong:
        print(sentence)
    print(f"{len(wrong)} found")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

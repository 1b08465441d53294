"""Rewrites the lock files from venvs.toml and pyproject.toml; with --check, says whether they still agree.

    python locks/refresh.py             pins what is new, keeps what is pinned and still fits
    python locks/refresh.py --upgrade   takes the newest of everything
    python locks/refresh.py --check     offline: exit 1 if a lock does not hold what is asked for
    python locks/refresh.py --matrix    asks the resolver whether wheels exist for every platform and Python

One universal file per dependency set, with hashes, and without the name of any host.
It runs in the development environment, which has uv and tomli.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

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
RESOLVE_TIMEOUT_S: Final = 300
"""A resolution takes a second; a slow index many."""


def wanted() -> dict[str, list[str]]:
    """Lock name to the requirements that it must hold."""
    project = _toml("pyproject.toml")
    envs = {name: list(table["requirements"]) for name, table in _toml("venvs.toml")["env"].items()}
    own = list(project["project"]["dependencies"])
    dev = [*own, *envs["http"], *project["dependency-groups"]["dev"]]
    return {"supervisor": own, **envs, "dev": dev}


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
    match = re.match(r"(>=|<=|==|!=|<|>)\s*([\d.]+)\Z", specifier)
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
    return tuple(([int(number) for number in re.findall(r"\d+", version)] + [0] * 5)[:5])


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _toml(name: str) -> dict[str, Any]:
    return tomli.loads((CHECKOUT / name).read_text(encoding="utf-8"))


def refresh(*, upgrade: bool) -> None:
    """Writes every lock."""
    for name, requirements in wanted().items():
        text = _compiled(name, requirements, upgrade=upgrade)
        if "://" in text:
            raise SystemExit(f"{name}.txt would name a host; nothing was written")
        read_pins(text)
        (LOCKS / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")
        print(f"{name}.txt: {len(read_pins(text))} pins")


def _compiled(name: str, requirements: list[str], *, upgrade: bool) -> str:
    part = LOCKS / f"{name}.part"
    old = LOCKS / f"{name}.txt"
    if old.is_file() and not upgrade:
        shutil.copyfile(old, part)  # uv keeps what its output file already pins
    words = ["pip", "compile", "-", "--output-file", str(part), "--quiet", "--universal", "--generate-hashes"]
    words += ["--no-header", "--no-annotate", "--only-binary", ":all:", "--python-version", OLDEST]
    try:
        _uv([*words, "--python", sys.executable], "\n".join(requirements))
        return part.read_text(encoding="utf-8")
    finally:
        part.unlink(missing_ok=True)


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
    what.add_argument("--upgrade", action="store_true")
    flags = parser.parse_args()
    if not (flags.check or flags.matrix):
        refresh(upgrade=flags.upgrade)
        return 0
    wrong = disagreements() if flags.check else holes()
    for sentence in wrong:
        print(sentence)
    print(f"{len(wrong)} found")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

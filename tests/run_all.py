"""Every check and test, each as a step with its time; install.py --test runs this in the development
environment.

    python install.py --test                  format, lint, types for three systems, all tests, and the
                                              pure and wire tests again on the oldest and on the newest
                                              Python that the machine has
    python install.py --test tests/x.py -x    pytest with these arguments, nothing else
    python install.py --test tests/heavy      engines that are large, and that --llm NAME has made before

The exit code is 0 only if every step passed, and pytest's closing line is printed last.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parent.parent
PLATFORMS: Final = ("linux", "win32", "darwin")
OLDEST: Final = (3, 10)
NEWEST_KNOWN: Final = 20
"""The minor version up to which a newer Python is looked for."""

SIDE_BY_SIDE: Final = 2
"""Processes that share the whole suite, file by file; with more, what waits for a moment waits too long."""

WARNING: Final = ("-X", "warn_default_encoding")

STEP_TIMEOUT_S: Final = 1500
"""For the longest step, the whole suite, on a slow machine."""

ASK_TIMEOUT_S: Final = 30
"""For a Python to tell its version."""

PORTABLE: Final = (
    "tests/workers/test_wire.py",
    "tests/workers/test_stdio.py",
    "tests/workers/test_sse.py",
    "tests/workers/test_stops.py",
    "tests/supervisor/test_session.py",
    "tests/supervisor/test_session_cases.py",
    "tests/supervisor/test_replies.py",
    "tests/supervisor/test_jobs.py",
    "tests/supervisor/test_errors.py",
    "tests/supervisor/test_messages.py",
    "tests/supervisor/test_catalog.py",
    "tests/supervisor/test_lockfile.py",
)
"""The pure and wire tests, which other Pythons run too; those that are there."""

HOME_OF_ENGINES: Final = "WAIFU_LLM_TEST_HOME"
"""Tells tests/heavy in which HOME to look for the environments of large engines."""

CLOSING_LINE: Final = re.compile(r"=+ .*\b(?:passed|failed|errors?|skipped|no tests ran)\b.* =+\s*\Z")


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one step."""

    name: str
    code: int
    seconds: float
    closing_line: str | None


def main() -> int:
    """Runs pytest with the arguments given, or everything."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--home", required=True)
    flags, arguments = parser.parse_known_args()
    if arguments:
        return _step("pytest", [*_pytest(), *arguments], flags.home).code
    results = [_step(name, argv, flags.home) for name, argv in _steps(flags.home)]
    _say("")
    for result in results:
        _say(f"{'ok    ' if result.code == 0 else 'FAILED'} {result.seconds:6.1f} s  {result.name}")
    suite = next(result for result in results if result.name == "tests")
    _say(suite.closing_line or "pytest printed no closing line")
    return 0 if all(result.code == 0 for result in results) else 1


def _steps(home: str) -> Iterator[tuple[str, list[str]]]:
    yield "format", [*_module("ruff"), "format", "--check", "."]
    yield "lint", [*_module("ruff"), "check", "."]
    for platform in PLATFORMS:
        yield f"types for {platform}", [*_module("mypy"), "--platform", platform]
    yield (
        "tests",
        [
            *_pytest(),
            "--dist",
            "loadfile",
            "--max-worker-restart",
            "0",
            "--tx",
            f"{SIDE_BY_SIDE}*popen//python={_python()}",
        ],
    )
    portable = [name for name in PORTABLE if (CHECKOUT / name).is_file()]
    for version, python in _other_pythons().items():
        words = [python, str(CHECKOUT / "install.py"), "--home", home, "--test", *portable]
        yield f"pure and wire tests on {'.'.join(map(str, version))}", words


def _module(name: str) -> list[str]:
    return [sys.executable, "-u", "-m", name]


def _pytest() -> list[str]:
    """With a warning, so an error, for every file that is opened without naming its encoding."""
    return [sys.executable, "-u", *WARNING, "-m", "pytest"]


def _python() -> str:
    """The same for the processes that share the work: they are told by a line, which is split at spaces."""
    return shlex.join([sys.executable, *WARNING])


def _step(name: str, argv: list[str], home: str) -> Result:
    """Runs one step, showing its output as it comes."""
    _say(f"\n--- {name}")
    started = time.monotonic()
    closing_line = None
    child = subprocess.Popen(
        argv,
        cwd=CHECKOUT,
        env={**_environment(), HOME_OF_ENGINES: home},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    try:
        for line in child.stdout or ():
            _say(line.rstrip("\n"))
            if CLOSING_LINE.search(line):
                closing_line = line.strip()
        code = child.wait(timeout=STEP_TIMEOUT_S)
    finally:
        child.kill()
    return Result(name, code, time.monotonic() - started, closing_line)


def _environment() -> dict[str, str]:
    """Ours, with this environment's programs first, so that install.py finds its uv for the other Pythons.

    PYTHONUNBUFFERED would hide from the tests a flush that a program of ours forgot."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return {**kept, "PATH": path}


def _other_pythons() -> dict[tuple[int, int], str]:
    """The oldest supported and the newest Python of this machine, unless we run on them."""
    found: dict[tuple[int, int], str] = {}
    for candidate in _candidates():
        version = _version(candidate)
        if version is not None and version >= OLDEST:
            found.setdefault(version, candidate)
    own = (sys.version_info.major, sys.version_info.minor)
    wanted = {OLDEST, max(found, default=own)} - {own}
    return {version: found[version] for version in sorted(wanted) if version in found}


def _candidates() -> Iterator[str]:
    """Pythons on PATH, and those installed beside the one that we run on."""
    for minor in range(OLDEST[1], NEWEST_KNOWN):
        on_path = shutil.which(f"python3.{minor}")
        if on_path:
            yield on_path
    for pattern in ("*/bin/python3", "*/python.exe"):
        yield from map(str, sorted(Path(sys.base_prefix).parent.glob(pattern)))


def _version(python: str) -> tuple[int, int] | None:
    """What that Python says it is; None for a shim without a Python behind it."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", "import sys; print(*sys.version_info[:2])"],
            capture_output=True,
            encoding="utf-8",
            timeout=ASK_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    major, minor = done.stdout.split()
    return int(major), int(minor)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

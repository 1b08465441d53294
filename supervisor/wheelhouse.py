"""The bundle for a machine without network: every wheel that `--wheelhouse DIR` needs there, fetched here.

pip fetches for another platform but judges markers for its own, so the pins are chosen here, by lockfile.py,
and pip gets a list without markers."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from supervisor.environments import read_lock
from supervisor.errors import ProvisionError, SettingsError
from supervisor.installers import Pip, find_pip, reason_of
from supervisor.lockfile import Pin, applies, marker_environment, read_pins
from supervisor.spawn import run_child

__all__ = ["TARGETS", "export_wheelhouse"]

DOWNLOAD_TIMEOUT_S: Final = 3000.0
"""For one Python's files, torch among them, on a slow line."""

_GLIBC: Final = (
    "manylinux_2_28",
    "manylinux_2_27",
    "manylinux_2_26",
    "manylinux_2_24",
    "manylinux_2_17",
    "manylinux2014",
)
_GLIBC_X64: Final = (*_GLIBC, "manylinux_2_12", "manylinux2010", "manylinux_2_5", "manylinux1", "linux")

TARGETS: Final[Mapping[str, tuple[tuple[str, ...], dict[str, str]]]] = {
    "windows": (
        ("win_amd64",),
        {"sys_platform": "win32", "platform_system": "Windows", "platform_machine": "AMD64", "os_name": "nt"},
    ),
    "macos": (
        ("macosx_14_0_arm64", "macosx_11_0_arm64", "macosx_11_0_universal2", "macosx_10_9_universal2"),
        {
            "sys_platform": "darwin",
            "platform_system": "Darwin",
            "platform_machine": "arm64",
            "os_name": "posix",
        },
    ),
    "macos-x64": (
        ("macosx_13_0_x86_64", "macosx_11_0_universal2", "macosx_10_9_universal2"),
        {
            "sys_platform": "darwin",
            "platform_system": "Darwin",
            "platform_machine": "x86_64",
            "os_name": "posix",
        },
    ),
    "linux": (
        tuple(f"{tag}_x86_64" for tag in _GLIBC_X64),
        {
            "sys_platform": "linux",
            "platform_system": "Linux",
            "platform_machine": "x86_64",
            "os_name": "posix",
        },
    ),
    "linux-arm64": (
        tuple(f"{tag}_aarch64" for tag in (*_GLIBC, "linux")),
        {
            "sys_platform": "linux",
            "platform_system": "Linux",
            "platform_machine": "aarch64",
            "os_name": "posix",
        },
    ),
}
"""What a name means to pip (platform tags, best first) and to markers."""


def export_wheelhouse(
    target: Path, locks: Sequence[Path], platform: str | None, pythons: Sequence[str] | None, scratch: Path
) -> tuple[int, int]:
    """Fetches the wheels of those locks into `target`; returns how many files it holds then, and their bytes.

    Raises:
        ProvisionError: a file cannot be fetched.
        SettingsError: `target` cannot be written, or a version of Python is none.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise SettingsError(f"{target} cannot be made ({exc.strerror})") from exc
    for python in pythons or [".".join(map(str, sys.version_info[:2]))]:
        if not (python.startswith("3.") and python[2:].isdecimal()):
            raise SettingsError(f"--python-version {python!r} is none: write it as 3.12")
        for lock in locks:
            _download(target, lock, platform, python, scratch)
    files = list(target.glob("*.whl"))
    return len(files), sum(file.stat().st_size for file in files)


def _download(target: Path, lock: Path, platform: str | None, python: str, scratch: Path) -> None:
    program = find_pip()
    if program is None:
        raise ProvisionError("pip cannot be found, and uv cannot fetch files: install pip")
    tags: tuple[str, ...] = ()
    values = marker_environment()
    if platform is not None:
        tags, known = TARGETS[platform]
        values.update(known)
    values.update(python_version=python, python_full_version=f"{python}.99")
    pins = [pin for pin in read_pins(read_lock(lock).decode("utf-8")) if applies(pin.marker, values)]
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        chosen = Path(folder, lock.name)
        chosen.write_text("".join(map(_line, pins)), encoding="utf-8")
        argv = _pip_download(program, chosen, target, python, tags)
        output: list[str] = []
        code = run_child(
            argv,
            environment=Pip(program).environment(os.environ),
            cwd=scratch,
            timeout_s=DOWNLOAD_TIMEOUT_S,
            on_line=output.append,
        )
    if code != 0:
        where = f"{platform or 'this platform'}, Python {python}"
        raise ProvisionError(f"the files of {lock.name} for {where} cannot be fetched: {reason_of(output)}")


def _pip_download(program: Path, chosen: Path, target: Path, python: str, tags: tuple[str, ...]) -> list[str]:
    words = [sys.executable, "-I", str(program), "download", "--require-hashes", "--no-deps"]
    words += ["-r", str(chosen), "--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
    words += ["--progress-bar", "off", "--python-version", python, "--implementation", "cp"]
    words += ["--dest", str(target)]
    for tag in tags:
        words += ["--platform", tag]
    return words


def _line(pin: Pin) -> str:
    return f"{pin.name}=={pin.version} " + " ".join(f"--hash={value}" for value in pin.hashes) + "\n"

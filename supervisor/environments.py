"""The environments on disk: their names, their markers, finding one, removing one, clearing away the rest.

An environment is named by what is in it: a key over the lock file's bytes and the ABI. `envs/KEY-xxxx/` holds
it, and `envs/KEY.json`, its marker, says which directory counts and what it was built from. Without a valid
marker nothing counts: a directory, a Python that runs, a package's metadata are all there in an environment
that was half made. Making one is provision.py's. The standard library alone is imported, and `find` starts no
process."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from supervisor.errors import ProvisionError
from supervisor.home import Home
from supervisor.spawn import abi, exclusive_lock

__all__ = [
    "Environment",
    "FileIdentity",
    "collect_garbage",
    "directory_size",
    "disk_use",
    "environment_key",
    "find",
    "find_any",
    "lock_digest",
    "read_lock",
    "read_marker",
    "remove",
    "write_marker",
]

SCHEMA: Final = 1
"""Of the marker and of how an environment is laid out; another one means another key."""

KEY_DIGITS: Final = 16
"""64 bits of the digest: no two locks meet, and a path stays short enough for Windows."""

MARKER_BYTES: Final = 1024 * 1024
"""No marker of ours is larger."""

BLOCK_BYTES: Final = 512
"""What POSIX counts a file's blocks in, whatever the file system's own are."""

FileIdentity: TypeAlias = "tuple[int, int]"
"""Device and inode: the same for every name of one file."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A finished environment, as its marker describes it."""

    key: str
    name: str
    """Of its lock: `http` for locks/http.txt."""
    lock_digest: str
    directory: Path
    python: Path
    site_packages: Path
    base_python: Path
    """The interpreter that it was made from, and needs to go on existing."""
    base_library: Path
    """That interpreter's standard library."""
    version: str
    """Of Python."""
    installer: str
    size_bytes: int
    seconds: float
    """That making it took."""
    packages: Mapping[str, str] = field(default_factory=dict)

    @property
    def landmarks(self) -> tuple[Path, ...]:
        """What must exist for it to work: its own Python, and the one below it.

        A patch release in the same place does no harm and strands no gigabyte; a moved or removed one shows
        here, and the standard library's directory carries the minor version."""
        return (self.python, self.site_packages, self.base_python, self.base_library / "os.py")

    def as_json(self) -> dict[str, Any]:
        """What the marker holds, and what a builder prints."""
        values = dataclasses.asdict(self)
        return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Environment:
        """The inverse of `as_json`.

        Raises:
            KeyError, TypeError: it is something else.
        """
        paths = {"directory", "python", "site_packages", "base_python", "base_library"}
        arguments: dict[str, Any] = {item.name: values[item.name] for item in dataclasses.fields(cls)}
        arguments.update({name: Path(arguments[name]) for name in paths})
        return cls(**arguments)


def lock_digest(lock: bytes) -> str:
    """Names the content of a lock file, however its lines end: a checkout may change that."""
    return hashlib.sha256(lock.replace(b"\r\n", b"\n")).hexdigest()


def environment_key(lock: bytes) -> str:
    """The name of the environment that this Python makes from that lock."""
    parts = (str(SCHEMA), lock_digest(lock), abi())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:KEY_DIGITS]


def find(home: Home, lock_path: Path) -> Environment | None:
    """The finished environment for that lock and this Python, or None. Costs one small file and a few stats.

    Raises:
        ProvisionError: the lock cannot be read.
    """
    return _valid(home, environment_key(read_lock(lock_path)))


def find_any(home: Home, lock_path: Path) -> Environment | None:
    """Like `find`; if there is none, the newest that another Python made from the same lock."""
    own = find(home, lock_path)
    if own is not None:
        return own
    digest = lock_digest(read_lock(lock_path))
    for marker in sorted(home.envs.glob("*.json"), key=_age_s):
        environment = _valid(home, marker.stem)
        if environment is not None and environment.lock_digest == digest:
            return environment
    return None


def read_lock(lock_path: Path) -> bytes:
    """The lock file's bytes.

    Raises:
        ProvisionError: they cannot be read.
    """
    try:
        return lock_path.read_bytes()
    except OSError as exc:
        raise ProvisionError(
            f"{lock_path.name}, which says what to install, cannot be read ({exc.strerror}): "
            "is the checkout complete?"
        ) from exc


def read_marker(home: Home, key: str) -> Environment | None:
    """What the key's marker says, whether or not it still holds; None if it says nothing that is ours."""
    try:
        with _marker(home, key).open(encoding="utf-8") as file:
            values = json.loads(file.read(MARKER_BYTES))
        environment = Environment.from_json(values)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if values.get("schema") != SCHEMA or environment.key != key or environment.directory.parent != home.envs:
        return None
    return environment


def write_marker(home: Home, environment: Environment) -> None:
    """Makes a built environment count, in one step and durably."""
    text = json.dumps({"schema": SCHEMA, **environment.as_json()}, ensure_ascii=False, indent=1)
    marker = _marker(home, environment.key)
    part = marker.with_suffix(f".{secrets.token_hex(2)}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(marker)


def remove(home: Home, key: str) -> bool:
    """Removes everything of that key; True if nothing of it is left. The caller holds its lock.

    The marker goes first, so that nothing half removed counts; on Windows a directory in use stays, and is
    left over."""
    import shutil  # not at the top: on the way to the ready line nobody removes anything

    _marker(home, key).unlink(missing_ok=True)
    for part in home.envs.glob(f"{key}.*"):
        part.unlink(missing_ok=True)
    for directory in home.envs.glob(f"{key}-*"):
        shutil.rmtree(directory, ignore_errors=True)
    return not any(home.envs.glob(f"{key}*"))


def collect_garbage(
    home: Home, keep: Iterable[bytes], *, in_use: Iterable[Path] = ()
) -> list[tuple[str, int]]:
    """Removes every environment that no lock in `keep` yields, and what unfinished builds left; returns
    (name, size).

    What a process is building is left alone, and so is a directory of `in_use`.
    """
    digests = {lock_digest(lock) for lock in keep}
    used = {directory.name.partition("-")[0] for directory in in_use}
    removed = []
    for key in sorted({path.name.partition(".")[0].partition("-")[0] for path in home.envs.iterdir()}):
        if key in used:
            continue
        try:
            with exclusive_lock(home.locks / f"{key}.lock", timeout_s=0):
                removed += _collect(home, key, digests)
        except TimeoutError:  # somebody is building it now
            continue
    return removed


def _collect(home: Home, key: str, digests: set[str]) -> list[tuple[str, int]]:
    environment = _valid(home, key)
    if environment is None:
        size = sum(directory_size(path) for path in home.envs.glob(f"{key}-*"))
        remove(home, key)
        return [(f"unfinished {key}", size)]
    if environment.lock_digest not in digests:
        remove(home, key)
        return [(f"{environment.name} {key}", environment.size_bytes)]
    removed = []
    for path in home.envs.glob(f"{key}-*"):
        if path != environment.directory:
            import shutil  # as in remove

            removed.append((f"unfinished {path.name}", directory_size(path)))
            shutil.rmtree(path, ignore_errors=True)
    return removed


def directory_size(directory: Path) -> int:
    """The bytes of all files below `directory`; links are not followed."""
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118  # twice as fast as Path here
    return total


def disk_use(directory: Path) -> dict[FileIdentity, int]:
    """The bytes that `directory` and all below it take on the disk, as du counts them: whole blocks where the
    system tells, and a file of several names once. uv gives environments files of its cache, and so of each
    other."""
    paths = [str(directory)]
    for folder, folders, files in os.walk(directory):
        paths += [os.path.join(folder, name) for name in (*folders, *files)]  # noqa: PTH118  # as above
    found = {}
    for path in paths:
        try:
            status = os.lstat(path)
        except FileNotFoundError:  # a worker that starts replaces what it compiles
            continue
        blocks = getattr(status, "st_blocks", None)  # Windows tells none
        found[status.st_dev, status.st_ino] = status.st_size if blocks is None else blocks * BLOCK_BYTES
    return found


def _marker(home: Home, key: str) -> Path:
    return home.envs / f"{key}.json"


def _age_s(path: Path) -> float:
    return -path.stat().st_mtime


def _valid(home: Home, key: str) -> Environment | None:
    """The environment that the key's marker names, if it still stands on what it was built from."""
    environment = read_marker(home, key)
    if environment is None or not all(landmark.exists() for landmark in environment.landmarks):
        return None
    return environment

"""Which variant of an environment a worker runs in: the one that the operator made last.

An environment that has variants (`[env.NAME.variants.X]`) is made by install.py alone, which notes here what
it made. Whoever wants an environment asks for its lock; without a note that is the usual variant's. A build
that the operator took from elsewhere (own_build.py) comes before all of them.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Final

from supervisor.errors import SettingsError
from supervisor.home import Home
from supervisor.providers import EnvSpec, Variant

__all__ = [
    "FROM",
    "check_machine",
    "choose",
    "download_bytes",
    "forget",
    "in_use",
    "lock_of",
    "made_by",
    "named",
    "own_build",
    "own_lock",
    "suits",
]

FROM: Final = "# from "
"""How the first line of such a lock begins."""
NOTE_BYTES: Final = 64 * 1024
"""No note of ours is larger."""
_MB: Final = 1_000_000


def in_use(home: Home, spec: EnvSpec) -> Variant:
    """The variant that was made last, or the usual one. Costs nothing where there is no other."""
    usual, *others = spec.variants
    return (spec.variant(_notes(home).get(spec.name, "")) if others else None) or usual


def lock_of(home: Home, checkout: Path, spec: EnvSpec) -> Path:
    """The lock that counts: of the operator's own build, else of the variant in use."""
    own = own_lock(home, spec.name)
    return own if own.is_file() else checkout / "locks" / f"{in_use(home, spec).lock}.txt"


def own_lock(home: Home, env_name: str) -> Path:
    """Where the lock of an operator's own build is, if there is one; own_build.py makes it."""
    return home.builds / f"{env_name}.txt"


def own_build(home: Home, env_name: str) -> str | None:
    """Where the build in use was taken from; None where it is one of ours."""
    lock = own_lock(home, env_name)
    if not lock.is_file():
        return None
    with lock.open(encoding="utf-8", errors="replace") as file:
        return file.readline().strip().removeprefix(FROM)


def named(spec: EnvSpec, name: str) -> Variant:
    """The variant that a person asked for.

    Raises:
        SettingsError: there is none of that name, or none of its files is for this machine.
    """
    variant = spec.variant(name)
    if variant is None:
        known = ", ".join(variant.name for variant in spec.variants)
        raise SettingsError(f"the environment {spec.name!r} has no variant {name!r}: it has {known}")
    check_machine(spec, variant)
    return variant


def check_machine(spec: EnvSpec, variant: Variant) -> None:
    """Nothing, if the variant's lock has files for this machine and this Python.

    Raises:
        SettingsError: it has none.
    """
    from supervisor.lockfile import applies, marker_environment  # a service that starts installs nothing

    if not applies(variant.where, marker_environment()):
        raise SettingsError(
            f"the variant {variant.name!r} of {spec.name!r} has no files for this machine and this Python "
            f"(it needs: {variant.where}): take another one, --list shows them"
        )


def suits(spec: EnvSpec) -> bool:
    """Whether the usual variant has files for this machine and this Python."""
    from supervisor.lockfile import applies, marker_environment  # as above

    return applies(spec.where, marker_environment())


def choose(home: Home, spec: EnvSpec, variant: Variant) -> None:
    """From now on this variant is in use."""
    own_lock(home, spec.name).unlink(missing_ok=True)
    if spec.others:
        _write(home, {**_notes(home), spec.name: variant.name})


def forget(home: Home, spec: EnvSpec) -> None:
    """From now on the usual variant is in use."""
    own_lock(home, spec.name).unlink(missing_ok=True)
    notes = _notes(home)
    if notes.pop(spec.name, None) is not None:
        _write(home, notes)


def made_by(home: Home, env_name: str, provider_id: str) -> str:
    """The command that makes the environment in use."""
    own = own_build(home, env_name)
    return f"python install.py --llm {provider_id}" + (f' --builds "{own}"' if own is not None else "")


def download_bytes(variant: Variant) -> int:
    """What making it downloads here; 0 where that is not known."""
    from supervisor.lockfile import marker_environment  # as in check_machine

    return variant.size_mb.get(marker_environment()["sys_platform"], 0) * _MB


def _notes(home: Home) -> dict[str, str]:
    """A note that cannot be read is none: the usual variant is always a right answer."""
    try:
        with home.variants.open(encoding="utf-8") as file:
            notes = json.loads(file.read(NOTE_BYTES))
    except (OSError, ValueError):
        return {}
    return {str(name): str(variant) for name, variant in notes.items()} if isinstance(notes, dict) else {}


def _write(home: Home, notes: dict[str, str]) -> None:
    part = home.variants.with_suffix(f".{secrets.token_hex(2)}.part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(notes, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    part.replace(home.variants)

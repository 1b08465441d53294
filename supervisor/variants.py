"""Which variant of an environment a worker runs in: the one that the operator made last.

An environment that has variants (`[env.NAME.variants.X]`) is made by install.py alone, which notes here what
it made. Whoever wants an environment asks for its lock; without a note that is the usual variant's. The
environments themselves: environments.py.
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

__all__ = ["check_machine", "choose", "download_bytes", "forget", "in_use", "lock_of", "named", "suits"]

NOTE_BYTES: Final = 64 * 1024
"""No note of ours is larger."""
_MB: Final = 1_000_000


def in_use(home: Home, spec: EnvSpec) -> Variant:
    """The variant that was made last, or the usual one. Costs nothing where there is no other."""
    usual, *others = spec.variants
    return (spec.variant(_notes(home).get(spec.name, "")) if others else None) or usual


def lock_of(home: Home, checkout: Path, spec: EnvSpec) -> Path:
    """The lock of the variant in use."""
    return checkout / "locks" / f"{in_use(home, spec).lock}.txt"


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
    if spec.others:
        _write(home, {**_notes(home), spec.name: variant.name})


def forget(home: Home, spec: EnvSpec) -> None:
    """From now on the usual variant is in use."""
    notes = _notes(home)
    if notes.pop(spec.name, None) is not None:
        _write(home, notes)


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

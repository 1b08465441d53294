"""A lock file read: its pins, and which of them apply to a given Python on a given platform.

A lock is universal, so one file serves every platform from 3.10 on, and lines that are not for all carry a
marker. The installers evaluate those themselves; we do it to count packages and to fetch for a machine that
is not this one, which pip cannot. Only the part of the marker language that our locks use is known here. No
I/O, standard library only."""

from __future__ import annotations

import ast
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["Pin", "applies", "local_build", "marker_environment", "python_fits", "read_pins"]

_PIN: Final = re.compile(r"\A([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)(?:\s*;\s*(.+))?\Z")
_HASH: Final = re.compile(r"--hash=(sha256:[0-9a-f]{64})")
_VERSION_NAMES: Final = frozenset(("python_version", "python_full_version"))


@dataclass(frozen=True, slots=True)
class Pin:
    """One line of a lock: this version of this package, under this condition, as one of these files."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]


def read_pins(text: str) -> list[Pin]:
    """The pins of a lock file.

    Raises:
        ValueError: a line is anything but an exact pin with hashes.
    """
    pins = []
    for line in text.replace("\\\r\n", " ").replace("\\\n", " ").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        hashes = tuple(_HASH.findall(line))
        match = _PIN.match(_HASH.sub("", line).strip())
        if match is None or not hashes:
            raise ValueError(f"not a pin with hashes: {line.strip()[:80]}")
        pins.append(Pin(match[1], match[2], (match[3] or "").strip(), hashes))
    return pins


def marker_environment() -> dict[str, str]:
    """The values that markers are compared with, of the Python that runs this."""
    return {
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "python_full_version": platform.python_version(),
        "sys_platform": sys.platform,
        "platform_system": platform.system(),
        "platform_machine": platform.machine(),
        "platform_python_implementation": platform.python_implementation(),
        "implementation_name": sys.implementation.name,
        "os_name": os.name,
    }


def applies(marker: str, values: Mapping[str, str]) -> bool:
    """Whether a line with that marker is for the environment that `values` describe.

    Raises:
        ValueError: the marker uses what is not known here.
    """
    if not marker:
        return True
    try:
        tree = ast.parse(marker, mode="eval")
    except SyntaxError as exc:
        raise ValueError(f"not a marker: {marker}") from exc
    return _holds(tree.body, values)


def local_build(pins: Iterable[Pin], values: Mapping[str, str]) -> str:
    """What stands behind the `+` of a version that applies there, `cpu` of `2.13.0+cpu`; empty without any.

    Raises:
        ValueError: a marker uses what is not known here.
    """
    builds = (pin.version.partition("+")[2] for pin in pins if applies(pin.marker, values))
    return next(filter(None, builds), "")


def python_fits(specifiers: str, version: str) -> bool:
    """Whether a Python of that version is within bounds like `>=3.10,<3.13`.

    Raises:
        ValueError: the bounds are of a kind not known here.
    """
    values = {"python_full_version": version}
    parts = [
        re.sub(r"\A\s*([<>=!]+)\s*(.*?)\s*\Z", r"python_full_version \1 '\2'", part)
        for part in specifiers.split(",")
    ]
    return all(applies(part, values) for part in parts)


def _holds(node: ast.expr, values: Mapping[str, str]) -> bool:
    if isinstance(node, ast.BoolOp):
        results = [_holds(part, values) for part in node.values]
        return all(results) if isinstance(node.op, ast.And) else any(results)
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        return _compares(node.left, node.ops[0], node.comparators[0], values)
    raise ValueError(f"not a marker: {ast.unparse(node)}")


def _compares(left: ast.expr, operator: ast.cmpop, right: ast.expr, values: Mapping[str, str]) -> bool:
    if not (isinstance(left, ast.Name) and isinstance(right, ast.Constant) and isinstance(right.value, str)):
        raise ValueError(f"not a marker: {ast.unparse(left)} with {ast.unparse(right)}")
    if left.id not in values:
        raise ValueError(f"unknown in a marker: {left.id}")
    return _ordered(operator, left.id, values[left.id], right.value)


def _ordered(operator: ast.cmpop, name: str, actual: str, wanted: str) -> bool:
    if isinstance(operator, ast.In):
        return actual in wanted
    if isinstance(operator, ast.NotIn):
        return actual not in wanted
    one: tuple[int, ...] | str = actual
    other: tuple[int, ...] | str = wanted
    if name in _VERSION_NAMES:
        if isinstance(operator, (ast.Eq, ast.NotEq)) and wanted.endswith(".*"):
            same = f"{actual}.".startswith(wanted[:-1])
            return same if isinstance(operator, ast.Eq) else not same
        one, other = _release(actual), _release(wanted)
    match operator:
        case ast.Eq():
            return one == other
        case ast.NotEq():
            return one != other
        case ast.Lt():
            return one < other  # type: ignore[operator]  # both are of the same type
        case ast.LtE():
            return one <= other  # type: ignore[operator]
        case ast.Gt():
            return one > other  # type: ignore[operator]
        case ast.GtE():
            return one >= other  # type: ignore[operator]
        case _:
            raise ValueError(f"unknown comparison in a marker: {name}")


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, padded, without what marks a pre-release or a local build."""
    numbers = [int(number) for number in re.match(r"\d+(?:\.\d+)*", version)[0].split(".")]  # type: ignore[index]  # markers and Pythons begin with a digit
    return tuple([*numbers, 0, 0, 0][:3])

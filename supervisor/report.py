"""`install.py --report`: one zip for a bug report, with what helps and nothing that is secret.

Files are not copied but shown: of settings.toml and venvs.local.toml only names that we know keep their
values, and every member passes redaction.py on its way into the archive. An `.env` is never a member.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import importlib.metadata
import json
import re
import socket
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import tomli

from supervisor.config import WORDS, Settings, dotenv_lines
from supervisor.doctor import closing_line, examine, shown
from supervisor.environments import read_marker
from supervisor.errors import SettingsError
from supervisor.probes import Place, catalog_of, dotenv_text, settings_of
from supervisor.providers import Provider
from supervisor.redaction import Redactor, secret_name, secrets_in
from supervisor.spawn import system_words
from supervisor.terminal import size_text
from supervisor.trials import TokenRefusedError, address_of, ask_status, probes_for
from supervisor.version import VERSION

__all__ = ["default_name", "members", "redactor_of", "write_report"]

LOG_BYTES: Final = 1 << 20
"""Of all log files together: several thousand lines, and the newest ones are what counts."""
FILE_BYTES: Final = 256 << 10
"""Of a file that a person or install.py wrote; none of them is a tenth of that."""
HIDDEN: Final = "***"

_WORD: Final = re.compile(r"[a-z][a-z_-]{0,40}")
"""A value such as `native` or `max_completion_tokens`: no key is made of lower-case letters alone."""
_VARIABLE: Final = re.compile(r"[A-Z][A-Z_]{0,60}")
_NAME: Final = re.compile(r"[A-Za-z][\w-]{0,40}", re.ASCII)
_TABLE_LINE: Final = re.compile(r"\s*\[{1,2}\s*([\w.-]+)\s*\]{1,2}\s*(?:#.*)?", re.ASCII)
_VALUE_LINE: Final = re.compile(r"\s*[\"']?([\w.-]+)[\"']?\s*=(.*)", re.ASCII)

Names: TypeAlias = "tuple[str, ...]"
"""They lead to a value in a file of tables."""
MayShow: TypeAlias = "Callable[[Names, object], bool]"
"""Whether a value at that place may be shown."""


def default_name() -> str:
    """Of a report made now."""
    return f"w-ai-fu-llm-report-{time.strftime('%Y%m%d-%H%M%S')}.zip"


def write_report(place: Place, target: Path) -> list[tuple[str, int]]:
    """Makes the archive, in one step and never over a file; returns what is in it, with sizes.

    Raises:
        SettingsError: it cannot be written there, or something is there already.
    """
    redactor = redactor_of(place)
    _refuse_if_there(target)
    texts = {name: redactor.clean(text) for name, text in members(place).items()}
    try:
        with zipfile.ZipFile(target, "x", zipfile.ZIP_DEFLATED) as archive:
            for name, text in texts.items():
                archive.writestr(name, text)
    except FileExistsError:
        _refuse_if_there(target)
    except OSError as exc:
        target.unlink(missing_ok=True)
        raise SettingsError(
            f"{target} cannot be written ({exc.strerror or exc}): name another file, --report FILE"
        ) from exc
    return [(name, len(text.encode("utf-8", "replace"))) for name, text in texts.items()]


def _refuse_if_there(target: Path) -> None:
    if target.exists():
        raise SettingsError(f"{target} is there already and stays as it is: name another file, --report FILE")


def members(place: Place) -> dict[str, str]:
    """The files of the archive, not redacted yet."""
    parts = {"report.txt": _report(place), "status.json": _status(place)}
    for path, may_show in _tables(place):
        text = _read(path)
        if text is not None:
            parts[path.name] = _shown_tables(text, may_show)
    spawn = _read(place.home.spawn_json)
    if spawn is not None:
        parts[place.home.spawn_json.name] = spawn
    return {**parts, **{f"logs/{name}": text for name, text in _logs(place.home.logs)}}


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES).decode("utf-8-sig", "replace")
    except OSError:
        return None


def _logs(folder: Path) -> Iterator[tuple[str, str]]:
    """The ends of the log files, newest file first, until the bound is reached."""
    left = LOG_BYTES
    for path in sorted(folder.glob("*.log*"), key=lambda path: path.stat().st_mtime, reverse=True):
        if left <= 0:
            return
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - left))
            data = file.read(left)
        left -= len(data)
        yield path.name, data.decode("utf-8", "replace").replace("\r\n", "\n")


# ---------------------------------------------------------------- report.txt


def _report(place: Place) -> str:
    findings = list(examine(probes_for(place)))
    sections = {
        "Versions": _versions(),
        "What the doctor found": [*map(shown, findings), closing_line(findings)],
        "Settings in force": _settings(settings_of(place)),
        "Environments": _environments(place),
        "Tables of providers changed here": _changed(place) or ["none"],
    }
    return "\n".join(f"{title}\n\n{_indented(lines)}\n" for title, lines in sections.items())


def _indented(lines: Iterable[str]) -> str:
    return "".join(f"    {line}\n" for text in lines for line in text.splitlines())


def _versions() -> list[str]:
    packages = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    return [
        f"module   {VERSION}",
        f"Python   {sys.version}",
        f"system   {system_words()}",
        f"made     {time.strftime('%Y-%m-%d %H:%M:%S %z')}",
        f"packages {', '.join(f'{name} {packages[name]}' for name in sorted(packages, key=str.lower))}",
    ]


def _settings(settings: Settings | None) -> list[str]:
    """All but the variables, which hold the keys, and the token, of which is said whether there is one."""
    if settings is None:
        return ["they cannot be read; the doctor says why"]
    lines = [f"{'a' if settings.access.token else 'no'} token is set"]
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if item.name == "access":
            lines += [f"allow_origin = {value.origins}", f"allow_host = {value.hosts}"]
        elif dataclasses.is_dataclass(value) and item.name != "home":
            lines += [f"{item.name}.{f.name} = {getattr(value, f.name)}" for f in dataclasses.fields(value)]
        elif item.name not in ("home", "variables"):
            lines.append(f"{item.name} = {value}")
    return lines


def _environments(place: Place) -> list[str]:
    lines = []
    for path in sorted(place.home.envs.glob("*.json")):
        found = read_marker(place.home, path.stem)
        if found is None:
            lines.append(f"{path.name}: its marker cannot be read")
            continue
        made = f"Python {found.version}, by {found.installer} in {found.seconds:.1f} s"
        lines.append(f"{found.name}: {found.directory.name}, {made}, {size_text(found.size_bytes)}")
        lines.append("  " + ", ".join(f"{name} {version}" for name, version in found.packages.items()))
    return lines or ["none"]


def _changed(place: Place) -> list[str]:
    """The names in venvs.local.toml; that file, as far as it is shown, is a member too."""
    text = _read(place.home.local_catalog)
    if text is None:
        return []
    try:
        paths = {path[:3] for path, _ in _walk(tomli.loads(text))}
    except ValueError:
        return ["venvs.local.toml cannot be read; the doctor says why"]
    return sorted(".".join(map(_shown_name, path)) for path in paths)


def _status(place: Place) -> str:
    """What a module on the port says of itself, if one answers."""
    try:
        status = ask_status(*address_of(settings_of(place)))
    except TokenRefusedError:
        status = None
    return (
        "no module answered\n" if status is None else json.dumps(status, indent=1, ensure_ascii=False) + "\n"
    )


# ---------------------------------------------------------------- files of tables


def _may_show_setting(path: Names, value: object) -> bool:
    """Numbers, and the settings that are known and no token. A URL is shown as redaction leaves it."""
    if not isinstance(value, str):
        return True
    return path[0] == "base_url" or (path[0] in WORDS and path[0] != "token")


def _may_show_table(path: Names, value: object) -> bool:
    """Numbers, what a table of ours may hold, names of variables; in quirks only plain words."""
    if not isinstance(value, str):
        return True
    field = path[2] if path[0] == "provider" and len(path) > 2 else ""
    if field == "key":
        return _VARIABLE.fullmatch(value) is not None
    if field == "base_url":
        return "://" in value
    known = field in Provider.__dataclass_fields__ or path[0] == "env"
    return known and _WORD.fullmatch(value) is not None


def _tables(place: Place) -> tuple[tuple[Path, MayShow], ...]:
    return (place.home.settings, _may_show_setting), (place.home.local_catalog, _may_show_table)


def _shown_tables(text: str, may_show: MayShow) -> str:
    """A line for each value, with its whole name; remarks are left out. What is no TOML keeps its names."""
    try:
        values = list(_walk(tomli.loads(text)))
    except ValueError:
        return "# not valid TOML; its names are\n" + "\n".join(_names_in(text)) + "\n"
    lines = []
    for path, value in values:
        written = json.dumps(value, ensure_ascii=False, default=str) if may_show(path, value) else HIDDEN
        lines.append(f"{'.'.join(map(_shown_name, path))} = {written}")
    return "\n".join(lines) + "\n"


def _walk(value: object, path: Names = ()) -> Iterator[tuple[Names, Any]]:
    """Every value that is no table and no list, with the names that lead to it."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _walk(child, (*path, name))
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item, path)
    else:
        yield path, value


def _shown_name(name: str) -> str:
    return name if _NAME.fullmatch(name) else HIDDEN


def _names_in(text: str) -> Iterator[str]:
    for line in text.splitlines():
        table, value = _TABLE_LINE.fullmatch(line), _VALUE_LINE.fullmatch(line)
        if table is not None:
            yield f"[{'.'.join(map(_shown_name, table[1].split('.')))}]"
        elif value is not None:
            yield f"{'.'.join(map(_shown_name, value[1].split('.')))} = {HIDDEN}"
        elif line.strip() and not line.lstrip().startswith("#"):
            yield "# a line that is neither a table nor a value"


# ---------------------------------------------------------------- what is secret here


def redactor_of(place: Place, *, to_send: bool = True) -> Redactor:
    """Knows every secret of this place; for others' eyes, also whose machine it is and how secrets look."""
    secrets = [*_from_variables(place), *_from_dotenv(place), *_from_tables(place)]
    if not to_send:
        return Redactor(secrets, by_looks=False)
    return Redactor(secrets, folders=_own_folders(place), names=_own_names())


def _from_variables(place: Place) -> Iterator[str]:
    """Of the environment: keys by the catalogue's names and by their looks, and passwords in URLs."""
    catalog = catalog_of(place)
    names = {name for p in catalog.providers.values() for name in p.secret_variables}
    for name, value in place.environ.items():
        if "://" in value:
            yield from secrets_in(value)
        elif (name in names or secret_name(name)) and not _is_path(value):
            yield value


def _is_path(value: str) -> bool:
    """SSH_AUTH_SOCK and its like name a file."""
    try:
        return Path(value).exists()
    except (OSError, ValueError):
        return False


def _from_dotenv(place: Place) -> Iterator[str]:
    """Of `.env`: everything, also what is on a line of its own: that is the rest of a key, most likely."""
    for path in (place.home.dotenv, place.checkout / ".env"):
        for name, value in dotenv_lines((dotenv_text(path) or "").splitlines()):
            if name or not value.startswith("#"):
                yield from secrets_in(value)


def _from_tables(place: Place) -> Iterator[str]:
    """Of settings.toml and venvs.local.toml: what is not shown there must not stand in a log either."""
    for path, may_show in _tables(place):
        text = _read(path) or ""
        try:
            values = list(_walk(tomli.loads(text)))
        except ValueError:
            yield from _from_broken(text)
            continue
        for names, value in values:
            if isinstance(value, str) and (_is_secret(names, value) or not may_show(names, value)):
                yield from secrets_in(value)


def _is_secret(names: Sequence[str], value: str) -> bool:
    """A URL is shown, and still may hold a password."""
    return "://" in value or secret_name(names[-1])


def _from_broken(text: str) -> Iterator[str]:
    """What is no TOML may hold a secret in every value, and in what is neither name nor value."""
    for line in text.splitlines():
        if _TABLE_LINE.fullmatch(line) is not None:
            continue
        value = _VALUE_LINE.fullmatch(line)
        rest, harmless = (line, False) if value is None else (value[2], value[1] in _HARMLESS)
        for word in re.split(r"[\s\"'\[\],{}=]+", rest):
            if not (harmless and _WORD.fullmatch(word)):
                yield from secrets_in(word)


_HARMLESS: Final = ({*WORDS, *Provider.__dataclass_fields__}) - {"token", "key", "base_url"}
"""Names beside which a plain word is one: it should not be taken out of every line of a log."""


def _own_folders(place: Place) -> list[Path]:
    """The user's home, as named and as it really is."""
    try:
        home = Path.home()
        return [home, home.resolve()]
    except (OSError, RuntimeError):  # a user without one
        return []


def _own_names() -> Mapping[str, str]:
    names = {socket.gethostname(): "HOST", socket.gethostname().partition(".")[0]: "HOST"}
    with contextlib.suppress(OSError, KeyError, ImportError):  # a user without a name
        names[getpass.getuser()] = "USER"
    return names

"""What the operator decided: flags, environment, `.env` and settings.toml, once, into frozen Settings.

A flag wins over a variable, a variable over settings.toml, and that over the default. Every number of the
module's policies is a setting: `--set worker.requests=16`, `WAIFU_LLM_WORKER_REQUESTS=16`, or

    [worker]
    requests = 16

in HOME/settings.toml. Variables that may hold keys are read from the environment, then HOME/.env, then the
`.env` beside venvs.toml; nothing prints them.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import tomli

from supervisor.access import LOOPBACK_NAMES, Access
from supervisor.errors import SettingsError
from supervisor.health import HealthLimits
from supervisor.home import Home, find_home
from supervisor.jobs import Limits
from supervisor.restarts import PoolLimits
from supervisor.server import ServerLimits
from supervisor.worker import WorkerLimits

__all__ = [
    "DEFAULT_HOSTS",
    "DEFAULT_PORT",
    "PREFIX",
    "WORDS",
    "Settings",
    "Variables",
    "dotenv_lines",
    "load_settings",
    "unknown_settings",
]

DEFAULT_PORT: Final = 7562
DEFAULT_HOSTS: Final = ("127.0.0.1", "::1")
PREFIX: Final = "WAIFU_LLM_"
LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")

WORDS: Final = (
    *("host", "port", "token", "allow_origin", "allow_host", "allow_base_url"),
    *("log_level", "log_format", "installer", "wheelhouse"),
)
"""The settings that are no numbers; each is a variable and a name in settings.toml."""

T = TypeVar("T")


class Variables:
    """Named values from the environment and from `.env` files, first come first served. Never printed."""

    def __init__(self, *sources: Mapping[str, str]) -> None:
        self._sources = sources

    def __repr__(self) -> str:
        return "Variables(***)"

    def get(self, name: str) -> str | None:
        """The value of `name`, or None when it is missing or empty everywhere."""
        for source in self._sources:
            value = source.get(name, "").strip()
            if value:
                return value
        return None


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that an operator can decide."""

    home: Home
    checkout: Path
    variables: Variables
    hosts: tuple[str, ...] = DEFAULT_HOSTS
    port: int = DEFAULT_PORT
    access: Access = field(default_factory=Access)
    base_urls: Mapping[str, str] = field(default_factory=dict)
    """Provider id → URL: flags and settings.toml; `GROQ_BASE_URL` is looked up in `variables`."""
    base_url_hosts: tuple[str, ...] = ()
    """Hosts besides loopback that a client may name in `base_url`."""
    refuse_remote_close: bool = False
    """Whether `close` is refused to clients that are not on this machine."""
    allow_download: bool = False
    """Whether a load may fetch a model that is not on this machine."""
    log_level: str = "INFO"
    log_json: bool = False
    exit_on_stdin_eof: bool = False
    parent_pid: int | None = None
    installer: str = "auto"
    wheelhouse: Path | None = None
    requests: Limits = field(default_factory=Limits)
    server: ServerLimits = field(default_factory=ServerLimits)
    worker: WorkerLimits = field(default_factory=WorkerLimits)
    pool: PoolLimits = field(default_factory=PoolLimits)
    health: HealthLimits = field(default_factory=HealthLimits)


_SECTIONS: Final[dict[str, type[Any]]] = {
    "requests": Limits,
    "server": ServerLimits,
    "worker": WorkerLimits,
    "pool": PoolLimits,
    "health": HealthLimits,
}


def load_settings(argv: Sequence[str], environ: Mapping[str, str], checkout: Path) -> Settings:
    """Settings of this start.

    Raises:
        SettingsError: one of them cannot be used; the message names it.
        SystemExit: `--help` and `--version`, and flags that argparse refuses (2).
    """
    flags = _parser().parse_args(argv)
    home = find_home(flags.home, environ)
    file = _settings_file(home.settings)
    look = _Lookup(flags, environ, file)
    variables = Variables(environ, _dotenv(home.dotenv), _dotenv(checkout / ".env"))
    host = look.text("host")
    return Settings(
        home=home,
        checkout=checkout,
        variables=variables,
        hosts=DEFAULT_HOSTS if host is None else (host,),
        port=_port(flags.port if flags.port is not None else look.text("port")),
        access=_access(look, host),
        base_urls=_base_urls(flags.base_url, file.get("base_url", {})),
        base_url_hosts=look.texts("allow_base_url"),
        log_level=_choice("log_level", (look.text("log_level") or "INFO").upper(), LEVELS),
        log_json=_choice("log_format", look.text("log_format") or "console", ("console", "json")) == "json",
        exit_on_stdin_eof=bool(flags.exit_on_stdin_eof),
        parent_pid=flags.parent_pid,
        refuse_remote_close=bool(flags.refuse_remote_close),
        allow_download=bool(flags.allow_download),
        installer=_choice("installer", look.text("installer") or "auto", ("auto", "uv", "pip")),
        wheelhouse=_path(look.text("wheelhouse")),
        **{name: _section(name, kind, look) for name, kind in _SECTIONS.items()},
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="supervisor",
        description="The LLM module: one WebSocket service for every LLM.",
        epilog="Other commands: supervisor status, chat, probe, install. README.md explains every setting.",
    )
    add = parser.add_argument
    add("port", nargs="?", type=int, help=f"port to listen on; 0 picks a free one (default {DEFAULT_PORT})")
    add("--host", help="address to bind instead of loopback; needs a token")
    add("--home", help="where environments, logs and settings live")
    add("--allow-origin", action="append", metavar="ORIGIN", help="admit browser pages of this origin")
    add("--allow-host", action="append", metavar="NAME", help="admit this Host besides loopback names")
    add("--allow-base-url", action="append", metavar="HOST", help="let clients name base URLs on this host")
    add("--base-url", action="append", metavar="PROVIDER=URL", help="where a provider is")
    add("--log-level", help=f"one of {', '.join(LEVELS)} (default INFO)")
    add("--log-format", help="console (default) or json")
    add("--installer", help="auto (default), uv or pip")
    add("--wheelhouse", metavar="DIR", help="install from this folder instead of the package index")
    add("--exit-on-stdin-eof", action="store_true", help="end when stdin ends")
    add("--parent-pid", type=int, metavar="PID", help="end when this process is gone")
    add("--allow-download", action="store_true", help="a load may fetch a model that is not there")
    add("--refuse-remote-close", action="store_true", help="only clients on this machine may send close")
    add("--set", action="append", metavar="SECTION.NAME=VALUE", help="any other setting")
    return parser


class _Lookup:
    """One name, looked up where it may stand: the flag, the variable, settings.toml."""

    def __init__(
        self, flags: argparse.Namespace, environ: Mapping[str, str], file: Mapping[str, Any]
    ) -> None:
        self._flags = vars(flags)
        self._environ = environ
        self._file = file
        self._set = dict(_pair("--set", item) for item in flags.set or ())
        for name in self._set:
            section, _, field_name = name.partition(".")
            if section not in _SECTIONS or field_name not in _SECTIONS[section].__dataclass_fields__:
                raise SettingsError(f"--set {name}: there is no such setting")

    def text(self, name: str) -> str | None:
        value = self._flags.get(name) or self._environ.get(PREFIX + name.upper()) or self._file.get(name)
        return None if value is None else str(value)

    def texts(self, name: str) -> tuple[str, ...]:
        value = (
            self._flags.get(name) or self._environ.get(PREFIX + name.upper()) or self._file.get(name) or ()
        )
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else tuple(map(str, value))

    def number(self, section: str, name: str) -> object:
        variable = f"{PREFIX}{section}_{name}".upper()
        table = self._file.get(section, {})
        in_file = table.get(name) if isinstance(table, dict) else None
        return self._set.get(f"{section}.{name}") or self._environ.get(variable) or in_file


def _section(section: str, kind: type[T], look: _Lookup) -> T:
    values: dict[str, Any] = {}
    for item in dataclasses.fields(kind):  # type: ignore[arg-type]  # _SECTIONS holds dataclasses only
        given = look.number(section, item.name)
        if given is not None:
            name = f"{section}.{item.name}"
            values[item.name] = _number(name, given, whole=item.type == "int", zero="zero" in item.metadata)
    return kind(**values)


def _number(name: str, given: object, *, whole: bool, zero: bool) -> int | float:
    try:
        value = int(str(given)) if whole else float(str(given))
    except ValueError:
        raise SettingsError(f"{name} must be a {'whole ' if whole else ''}number, not {given!r}") from None
    if not (0 < value < float("inf") or (zero and value == 0)):
        allowed = "zero or more" if zero else "above zero"
        raise SettingsError(f"{name} must be {allowed}, not {given!r}")
    return value


def _port(given: object) -> int:
    try:
        port = DEFAULT_PORT if given is None else int(str(given))
    except ValueError:
        port = -1
    if not 0 <= port <= 65535:
        raise SettingsError(f"the port must be from 0 to 65535, not {given!r}")
    return port


def _access(look: _Lookup, host: str | None) -> Access:
    """The token is no flag: other users of the machine can read a process's arguments."""
    token = look.text("token")
    if host is not None and host not in LOOPBACK_NAMES and token is None:
        raise SettingsError(f"binding {host} needs a token: set {PREFIX}TOKEN, or leave out --host")
    return Access(look.texts("allow_origin"), look.texts("allow_host"), token)


def _base_urls(flags: Sequence[str] | None, table: object) -> dict[str, str]:
    pairs = dict(_pair("--base-url", item) for item in flags or ())
    merged = {**(table if isinstance(table, dict) else {}), **pairs}
    for provider, url in merged.items():
        if urlsplit(str(url)).scheme not in ("http", "https"):
            raise SettingsError(f"the base URL of {provider} must begin with http:// or https://")
    return {provider: str(url) for provider, url in merged.items()}


def _pair(flag: str, item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals:
        raise SettingsError(f"{flag} needs NAME=VALUE, not {item!r}")
    return name.strip(), value.strip()


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise SettingsError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    return value


def _path(value: str | None) -> Path | None:
    return None if value is None else Path(value)


def unknown_settings(home: Home, environ: Mapping[str, str]) -> list[str]:
    """Names in settings.toml, and variables of our prefix, that nothing reads: spelled wrongly, most likely.

    Raises:
        SettingsError: settings.toml cannot be read.
    """
    numbers = {(name, item.name) for name, kind in _SECTIONS.items() for item in dataclasses.fields(kind)}
    unknown = []
    for name, value in _settings_file(home.settings).items():
        if name in _SECTIONS and isinstance(value, dict):
            unknown += [f"{name}.{key}" for key in value if (name, key) not in numbers]
        elif name not in (*WORDS, "base_url"):
            unknown.append(name)
    known = {f"{PREFIX}{name}".upper() for name in (*WORDS, "home", *map("_".join, numbers))}
    return unknown + [name for name in environ if name.startswith(PREFIX) and name not in known]


def _settings_file(path: Path) -> dict[str, Any]:
    try:
        return tomli.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:  # ValueError: not UTF-8, not TOML
        raise SettingsError(f"{path} cannot be read: {exc}") from exc


_DOTENV_LINE: Final = re.compile(r"\s*(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(.*?)\s*\Z")


_QUOTED: Final = re.compile(r"(['\"])(.*?)\1(?:\s+#.*)?\Z")


def _dotenv(path: Path) -> dict[str, str]:
    """`NAME=value` lines; quotes around a value, `export` and comments are allowed, nothing is expanded."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise SettingsError(f"{path} cannot be read: {type(exc).__name__}") from exc
    return {name: value for name, value in dotenv_lines(lines) if name}


def dotenv_lines(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each line's name and value; a line that is none of `NAME=value` has no name, and is its own value."""
    for line in lines:
        match = _DOTENV_LINE.match(line)
        yield ("", line.strip()) if match is None else (match[1], _unquoted(match[2]))


def _unquoted(value: str) -> str:
    quoted = _QUOTED.match(value)
    return quoted[2] if quoted is not None else re.sub(r"(\A|\s+)#.*\Z", "", value)

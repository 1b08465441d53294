"""venvs.toml as records: which providers there are, the wire each speaks and the environment it needs.

A bad table is a CatalogError that names the table and the key; a good one can be trusted afterwards.
HOME/venvs.local.toml adds an operator's own tables, or replaces single keys of ours; `{home}` in a quirk is
that HOME.
What the environments contain on disk is provision.py's; this file only reads.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import tomli

from supervisor.errors import SettingsError

__all__ = ["Catalog", "CatalogError", "EnvSpec", "Provider", "UnknownProviderError", "load_catalog"]

ID_PATTERN: Final = re.compile(r"\A[a-z][a-z0-9-]{0,31}\Z")
ENGINE: Final = "engine"
KINDS: Final = ("api", "local-server", ENGINE, "script")
SUGGESTIONS: Final = 3
HOME_MARK: Final = "{home}"


class CatalogError(SettingsError):
    """A table of venvs.toml that cannot be used."""


class UnknownProviderError(SettingsError):
    """A provider that is in no table."""


@dataclass(frozen=True, slots=True)
class EnvSpec:
    """One dependency set: `[env.NAME]`, pinned in locks/NAME.txt."""

    name: str
    requirements: tuple[str, ...]
    imports: tuple[str, ...]
    """Modules that must import before the environment counts as made."""
    heavy: bool = False
    """Too large to be made by a `load`: only `install.py --llm NAME` makes it."""
    python: str = ">=3.10"


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider: `[provider.ID]`."""

    id: str
    name: str
    kind: str
    adapter: str
    env: str
    base_url: str | None = None
    key: tuple[str, ...] = ()
    """Environment variables that may hold the key, best first."""
    key_required: bool = False
    default_model: str | None = None
    aliases: tuple[str, ...] = ()
    quirks: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    tried: str = "nobody yet"
    """Who tried it live, and when."""

    @property
    def is_engine(self) -> bool:
        """Whether the model itself runs in the worker."""
        return self.kind == ENGINE

    @property
    def base_url_variable(self) -> str:
        """The environment variable with which an operator overrides the base URL: `GROQ_BASE_URL`."""
        return self.id.upper().replace("-", "_") + "_BASE_URL"


class Catalog:
    """All providers and dependency sets; immutable once made."""

    def __init__(self, providers: Mapping[str, Provider], envs: Mapping[str, EnvSpec]) -> None:
        self.providers: Final = dict(providers)
        self.envs: Final = dict(envs)
        self._names: Final = {alias: p.id for p in self.providers.values() for alias in (*p.aliases, p.id)}

    def find(self, name: str) -> Provider | None:
        """The provider of that id or alias, whatever its case; None if there is none."""
        identifier = self._names.get(name) or self._names.get(name.strip().lower())
        return self.providers[identifier] if identifier is not None else None

    def named(self, name: str) -> Provider:
        """As `find`, for a name that a person wrote.

        Raises:
            UnknownProviderError: there is none of that name; the message names the nearest.
        """
        provider = self.find(name)
        if provider is None:
            near = self.nearest(name)
            hint = f"did you mean {' or '.join(near)}?" if near else "install.py --list shows all providers"
            raise UnknownProviderError(f"there is no provider {name!r}: {hint}")
        return provider

    def nearest(self, name: str) -> list[str]:
        """At most three provider ids that look like `name`, best first."""
        matches = difflib.get_close_matches(
            name.strip().lower()[:64], self._names, SUGGESTIONS * 2, cutoff=0.5
        )
        return list(dict.fromkeys(self._names[match] for match in matches))[:SUGGESTIONS]

    def env_of(self, provider: Provider) -> EnvSpec:
        """The dependency set that a provider's worker runs in."""
        return self.envs[provider.env]


def load_catalog(path: Path, local: Path | None = None) -> Catalog:
    """Reads venvs.toml, and the operator's own tables from `local` where that file exists.

    Raises:
        CatalogError: a file is not TOML, or a table breaks the rules above.
    """
    data = _read(path)
    if local is not None:
        data = _in_home(_merged(data, _read(local)) if local.is_file() else data, str(local.parent))
    envs = {name: _env(name, table) for name, table in _tables(data, "env").items()}
    providers = {name: _provider(name, table, envs) for name, table in _tables(data, "provider").items()}
    _check_names(providers)
    return Catalog(providers, envs)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomli.loads(path.read_text(encoding="utf-8"))
    except tomli.TOMLDecodeError as exc:
        raise CatalogError(f"{path.name} is not valid TOML: {exc}") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise CatalogError(f"{path.name} cannot be read: {exc}") from exc


def _merged(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """`extra` over `base`, table by table: a key that `extra` does not name stays as it was."""
    result = dict(base)
    for key, value in extra.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _in_home(data: dict[str, Any], home: str) -> dict[str, Any]:
    """The same with HOME's path in the quirks that ask for it."""
    for table in _tables(data, "provider").values():
        quirks = table.get("quirks")
        if isinstance(quirks, dict):
            table["quirks"] = {key: _filled(value, home) for key, value in quirks.items()}
    return data


def _filled(value: Any, home: str) -> Any:
    if isinstance(value, list):
        return [_filled(item, home) for item in value]
    return value.replace(HOME_MARK, home) if isinstance(value, str) else value


def _tables(data: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    tables = data.get(kind, {})
    if not isinstance(tables, dict):
        raise CatalogError(f"[{kind}] must be a table of tables")
    for name, table in tables.items():
        if not ID_PATTERN.match(name):
            raise CatalogError(f"[{kind}.{name}]: a name is a-z, 0-9 and -, at most 32 characters")
        if not isinstance(table, dict):
            raise CatalogError(f"[{kind}.{name}] must be a table")
    return tables


def _env(name: str, table: dict[str, Any]) -> EnvSpec:
    where = f"[env.{name}]"
    _known(where, table, {"requirements", "imports", "heavy", "python"})
    return EnvSpec(
        name=name,
        requirements=_strings(where, table, "requirements"),
        imports=_strings(where, table, "imports"),
        heavy=_value(where, table, "heavy", bool, False),
        python=_value(where, table, "python", str, ">=3.10"),
    )


def _provider(name: str, table: dict[str, Any], envs: Mapping[str, EnvSpec]) -> Provider:
    where = f"[provider.{name}]"
    _known(where, table, set(Provider.__dataclass_fields__) - {"id"})
    provider = Provider(
        id=name,
        name=_value(where, table, "name", str, name),
        kind=_value(where, table, "kind", str, "api"),
        adapter=_required(where, table, "adapter"),
        env=_required(where, table, "env"),
        base_url=_value(where, table, "base_url", str, None),
        key=_strings(where, table, "key"),
        key_required=_value(where, table, "key_required", bool, bool(table.get("key"))),
        default_model=_value(where, table, "default_model", str, None),
        aliases=_strings(where, table, "aliases"),
        quirks=_value(where, table, "quirks", dict, {}),
        source=_value(where, table, "source", str, ""),
        tried=_value(where, table, "tried", str, "nobody yet"),
    )
    _check(where, provider, envs)
    return provider


def _check(where: str, provider: Provider, envs: Mapping[str, EnvSpec]) -> None:
    if provider.env not in envs:
        raise CatalogError(f"{where}: env {provider.env!r} has no [env.{provider.env}] table")
    if provider.kind not in KINDS:
        raise CatalogError(f"{where}: kind {provider.kind!r} is none of {', '.join(KINDS)}")
    if not re.match(r"\A[a-z][a-z0-9_]*\Z", provider.adapter):
        raise CatalogError(f"{where}: adapter {provider.adapter!r} is not a module name")
    if provider.base_url is not None and not re.match(
        r"\Ahttps?://[^\s/?#@]+(/[^\s?#]*)?\Z", provider.base_url
    ):
        # Without the value: somebody may have written a password or a key into it.
        raise CatalogError(f"{where}: base_url must be http:// or https://, without user, query and fragment")
    if provider.key_required and not provider.key:
        raise CatalogError(f"{where}: key_required, but no variable is named in key")


def _check_names(providers: Mapping[str, Provider]) -> None:
    taken: dict[str, str] = {name: name for name in providers}
    for provider in providers.values():
        for alias in provider.aliases:
            other = taken.setdefault(alias, provider.id)
            if other != provider.id:
                raise CatalogError(f"[provider.{provider.id}]: alias {alias!r} belongs to {other!r}")


def _known(where: str, table: dict[str, Any], names: set[str]) -> None:
    for key in table:
        if key not in names:
            raise CatalogError(f"{where}: unknown key {key!r}")


def _value(where: str, table: dict[str, Any], key: str, kind: type, default: Any) -> Any:
    value = table.get(key, default)
    if value is not default and not isinstance(value, kind):
        raise CatalogError(f"{where}: {key} must be of type {kind.__name__}")
    return value


def _required(where: str, table: dict[str, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value:
        raise CatalogError(f"{where}: {key} is missing")
    return value


def _strings(where: str, table: dict[str, Any], key: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise CatalogError(f"{where}: {key} must be a list of strings")
    return tuple(value)

"""venvs.toml as records: which providers there are, the wire each speaks and the environment it needs.

A bad table is a CatalogError that names the table and the key; a good one can be trusted afterwards.
`[wire.ADAPTER]` is what holds for all providers of an adapter whose own table says nothing else.
HOME/venvs.local.toml adds an operator's own tables, replaces single keys of ours, or switches on what is
doubtful with `enabled = ["ID"]`; `{home}` in a quirk is that HOME.
What the environments contain on disk is provision.py's; this file only reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import tomli

from supervisor.errors import SettingsError
from supervisor.providers import (
    CONFIDENCES,
    KINDS,
    Catalog,
    EnvSpec,
    Provider,
    Setting,
    Variant,
    WireSpec,
    marks_in,
)

__all__ = ["CatalogError", "load_catalog"]

ID_PATTERN: Final = re.compile(r"\A[a-z0-9][a-z0-9-]{0,31}\Z")
MODULE_PATTERN: Final = re.compile(r"\A[a-z][a-z0-9_]{0,31}\Z")
HOME_MARK: Final = "{home}"


class CatalogError(SettingsError):
    """A table of venvs.toml that cannot be used."""


def load_catalog(path: Path, local: Path | None = None) -> Catalog:
    """Reads venvs.toml, and the operator's own tables from `local` where that file exists.

    Raises:
        CatalogError: a file is not TOML, or a table breaks the rules above.
    """
    data = _read(path)
    if local is not None:
        data = _in_home(_merged(data, _read(local)) if local.is_file() else data, str(local.parent))
    envs = {name: _env(name, table) for name, table in _tables(data, "env").items()}
    wires = {name: _wire(name, table, envs) for name, table in _tables(data, "wire", MODULE_PATTERN).items()}
    given = _tables(data, "provider")
    doubtful = _tables(data, "doubtful")
    for name in _strings("venvs.local.toml", data, "enabled"):
        if name not in doubtful and name not in given:
            raise CatalogError(f"enabled: there is no [doubtful.{name}] table")
        given = {**given, name: _merged(doubtful.pop(name, {}), given.get(name, {}))}
    providers = {name: _provider("provider", name, table, envs, wires) for name, table in given.items()}
    others = {name: _provider("doubtful", name, table, envs, wires) for name, table in doubtful.items()}
    _check_names({**others, **providers})
    return Catalog(providers, envs, wires, others)


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


def _tables(
    data: dict[str, Any], kind: str, names: re.Pattern[str] = ID_PATTERN
) -> dict[str, dict[str, Any]]:
    tables = data.get(kind, {})
    if not isinstance(tables, dict):
        raise CatalogError(f"[{kind}] must be a table of tables")
    for name, table in tables.items():
        if not names.match(name):
            joint = "-" if names is ID_PATTERN else "_"
            raise CatalogError(f"[{kind}.{name}]: a name is a-z, 0-9 and {joint}, at most 32 characters")
        if not isinstance(table, dict):
            raise CatalogError(f"[{kind}.{name}] must be a table")
    return tables


def _env(name: str, table: dict[str, Any]) -> EnvSpec:
    where = f"[env.{name}]"
    _known(where, table, {*EnvSpec.__dataclass_fields__, "variants"} - {"name", "others"})
    spec = EnvSpec(
        name=name,
        requirements=_strings(where, table, "requirements"),
        imports=_strings(where, table, "imports"),
        heavy=_value(where, table, "heavy", bool, False),
        python=_value(where, table, "python", str, ">=3.10"),
        others=tuple(_variant(name, *item) for item in _tables(table, "variants").items()),
        about=_value(where, table, "about", str, ""),
        where=_value(where, table, "where", str, ""),
        size_mb=_sizes(where, table),
        builds=_strings(where, table, "builds"),
    )
    if spec.others and not spec.heavy:  # a load would make the usual one, whatever the operator chose before
        raise CatalogError(f"{where}: an environment with variants must be heavy = true")
    return spec


def _variant(env: str, name: str, table: dict[str, Any]) -> Variant:
    where = f"[env.{env}.variants.{name}]"
    _known(where, table, {"requirements", "lock", "about", "where", "size_mb"})
    return Variant(
        name=name,
        lock=_value(where, table, "lock", str, f"{env}-{name}"),
        requirements=_strings(where, table, "requirements"),
        about=_required(where, table, "about"),
        where=_value(where, table, "where", str, ""),
        size_mb=_sizes(where, table),
    )


def _sizes(where: str, table: dict[str, Any]) -> dict[str, int]:
    sizes = _value(where, table, "size_mb", dict, {})
    if not all(type(size) is int for size in sizes.values()):
        raise CatalogError(f"{where}: size_mb must be a table of whole numbers")
    return dict(sizes)


def _wire(name: str, table: dict[str, Any], envs: Mapping[str, EnvSpec]) -> WireSpec:
    where = f"[wire.{name}]"
    _known(where, table, set(WireSpec.__dataclass_fields__))
    env = _value(where, table, "env", str, None)
    if env is not None and env not in envs:
        raise CatalogError(f"{where}: env {env!r} has no [env.{env}] table")
    return WireSpec(
        env=env,
        quirks=_value(where, table, "quirks", dict, {}),
        proof=_value(where, table, "proof", str, ""),
    )


def _provider(
    kind: str, name: str, table: dict[str, Any], envs: Mapping[str, EnvSpec], wires: Mapping[str, WireSpec]
) -> Provider:
    where = f"[{kind}.{name}]"
    _known(where, table, set(Provider.__dataclass_fields__) - {"id"})
    adapter = _required(where, table, "adapter")
    wire = wires.get(adapter, WireSpec())
    provider = Provider(
        id=name,
        name=_value(where, table, "name", str, name),
        kind=_value(where, table, "kind", str, "api"),
        adapter=adapter,
        env=_required(where, {"env": wire.env, **table}, "env"),
        base_url=_value(where, table, "base_url", str, None),
        key=_strings(where, table, "key"),
        key_required=_value(where, table, "key_required", bool, bool(table.get("key"))),
        default_model=_value(where, table, "default_model", str, None),
        aliases=_strings(where, table, "aliases"),
        quirks={**wire.quirks, **_value(where, table, "quirks", dict, {})},
        settings=_settings(where, _value(where, table, "settings", dict, {})),
        confidence=_value(where, table, "confidence", str, ""),
        source=_value(where, table, "source", str, ""),
        proof=_value(where, table, "proof", str, ""),
        tried=_value(where, table, "tried", str, "nobody yet"),
    )
    _check(where, provider, envs)
    return provider


def _settings(where: str, tables: dict[str, Any]) -> tuple[Setting, ...]:
    result = []
    for name, table in tables.items():
        place = f"{where}: settings.{name}"
        if not MODULE_PATTERN.match(name) or not isinstance(table, dict):
            raise CatalogError(f"{place} must be a table, and its name a-z, 0-9 and _")
        _known(place, table, set(Setting.__dataclass_fields__) - {"name"})
        default = _value(place, table, "default", str, None)
        required = _value(place, table, "required", bool, default is None)
        secret = _value(place, table, "secret", bool, False)
        result.append(Setting(name, _strings(place, table, "variables"), default, required, secret))
    return tuple(result)


def _check(where: str, provider: Provider, envs: Mapping[str, EnvSpec]) -> None:
    if provider.env not in envs:
        raise CatalogError(f"{where}: env {provider.env!r} has no [env.{provider.env}] table")
    if provider.kind not in KINDS:
        raise CatalogError(f"{where}: kind {provider.kind!r} is none of {', '.join(KINDS)}")
    if not MODULE_PATTERN.match(provider.adapter):
        raise CatalogError(f"{where}: adapter {provider.adapter!r} is not a module name")
    if provider.base_url is not None and not re.match(
        r"\Ahttps?://[^\s/?#@]+(/[^\s?#]*)?\Z", provider.base_url
    ):
        # Without the value: somebody may have written a password or a key into it.
        raise CatalogError(f"{where}: base_url must be http:// or https://, without user, query and fragment")
    if provider.confidence and provider.confidence not in CONFIDENCES:
        raise CatalogError(f"{where}: confidence is none of {', '.join(CONFIDENCES)}")
    for mark in marks_in(provider.base_url or ""):
        if mark not in (setting.name for setting in provider.settings):
            raise CatalogError(f"{where}: base_url names {{{mark}}}, which has no settings.{mark}")
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

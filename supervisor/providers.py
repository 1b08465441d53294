"""The registry as records: what a provider, a wire and a dependency set are. catalog.py reads them."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from supervisor.errors import SettingsError

__all__ = [
    "CONFIDENCES",
    "KINDS",
    "USUAL",
    "Catalog",
    "EnvSpec",
    "Provider",
    "Setting",
    "UnknownProviderError",
    "Variant",
    "WireSpec",
    "marks_in",
]

ENGINE: Final = "engine"
KINDS: Final = ("api", "local-server", ENGINE, "script")
CONFIDENCES: Final = ("certain", "likely", "doubtful")
"""How well a provider's address and key are known: by two sources that do not depend on each other, or by its
own documents or answer; by one source; or sources disagree. docs/providers.md."""
SUGGESTIONS: Final = 3
USUAL: Final = "default"
"""The variant that is made when nobody says which; every dependency set has it."""
FETCHING: Final = ("download", "pull")
"""Quirks that let a load fetch a model, into our own memory or into another program's."""
_MARK: Final = re.compile(r"\{([a-z_]+)\}")


class UnknownProviderError(SettingsError):
    """A provider that is in no table."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to fill a dependency set: its packages in other builds, pinned in a lock of its own."""

    name: str
    lock: str
    """The name of its file in locks/, without the ending."""
    requirements: tuple[str, ...] = ()
    about: str = ""
    """What it is for."""
    where: str = ""
    """The marker of the machines for which its lock has files; empty: all."""
    size_mb: Mapping[str, int] = field(default_factory=dict)
    """What is downloaded for it, by `sys.platform`."""


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
    others: tuple[Variant, ...] = ()
    """Its variants but for the usual one."""
    about: str = ""
    """What the usual variant is for."""
    where: str = ""
    """The marker of the machines for which that has files; empty: all."""
    size_mb: Mapping[str, int] = field(default_factory=dict)
    """What is downloaded for that, by `sys.platform`."""
    builds: tuple[str, ...] = ()
    """Its packages that come in other builds elsewhere, such as for a GPU: `install.py --builds`."""

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All, the usual one first."""
        usual = Variant(USUAL, self.name, self.requirements, self.about, self.where, self.size_mb)
        return (usual, *self.others)

    def variant(self, name: str) -> Variant | None:
        """The variant of that name."""
        return next((variant for variant in self.variants if variant.name == name), None)


@dataclass(frozen=True, slots=True)
class WireSpec:
    """What holds for all providers of one adapter: `[wire.ADAPTER]`."""

    env: str | None = None
    quirks: Mapping[str, Any] = field(default_factory=dict)
    proof: str = ""
    """What of somebody else's the adapter was held against."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a provider needs besides a key: a region, an account. In `options` of a load, or in a variable."""

    name: str
    variables: tuple[str, ...] = ()
    """Environment variables that may hold it, best first."""
    default: str | None = None
    required: bool = True
    secret: bool = False


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
    settings: tuple[Setting, ...] = ()
    confidence: str = ""
    """One of CONFIDENCES; empty for an operator's own table."""
    source: str = ""
    """Where the knowledge in its table comes from."""
    proof: str = ""
    """What it was held against, besides what holds for its wire."""
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

    @property
    def secret_variables(self) -> tuple[str, ...]:
        """The environment variables whose values nobody may see."""
        secrets = (setting for setting in self.settings if setting.secret)
        return (*self.key, *(variable for setting in secrets for variable in setting.variables))

    @property
    def variables(self) -> tuple[str, ...]:
        """Every environment variable that an operator may set for it."""
        of_settings = (variable for setting in self.settings for variable in setting.variables)
        return (*self.key, *of_settings, self.base_url_variable)


class Catalog:
    """All providers and dependency sets; immutable once made."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        envs: Mapping[str, EnvSpec],
        wires: Mapping[str, WireSpec] | None = None,
        doubtful: Mapping[str, Provider] | None = None,
    ) -> None:
        self.providers: Final = dict(providers)
        self.envs: Final = dict(envs)
        self.wires: Final = dict(wires or {})
        self.doubtful: Final = dict(doubtful or {})
        """Those that are known too badly to be offered; `enabled` in venvs.local.toml switches one on."""
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
        if provider is not None:
            return provider
        if name in self.doubtful:
            raise UnknownProviderError(
                f"{name} is doubtful, and not offered until HOME/venvs.local.toml says enabled = [{name!r}]"
            )
        near = self.nearest(name)
        hint = f"did you mean {' or '.join(near)}?" if near else "install.py --list shows all providers"
        raise UnknownProviderError(f"there is no provider {name!r}: {hint}")

    def nearest(self, name: str) -> list[str]:
        """At most three provider ids that look like `name`, best first."""
        matches = difflib.get_close_matches(
            name.strip().lower()[:64], self._names, SUGGESTIONS * 2, cutoff=0.5
        )
        return list(dict.fromkeys(self._names[match] for match in matches))[:SUGGESTIONS]

    def env_of(self, provider: Provider) -> EnvSpec:
        """The dependency set that a provider's worker runs in."""
        return self.envs[provider.env]

    def env_of_lock(self, lock: str) -> EnvSpec | None:
        """The dependency set that the lock of that name fills."""
        locks = ((variant.lock, spec) for spec in self.envs.values() for variant in spec.variants)
        return next((spec for name, spec in locks if name == lock), None)

    def fetching(self) -> Catalog:
        """The same, in which every provider that can fetch a model on a load may do so."""
        providers = {name: _fetching(provider) for name, provider in self.providers.items()}
        return Catalog(providers, self.envs, self.wires, self.doubtful)

    def proof_of(self, provider: Provider) -> str:
        """What of somebody else's a provider's requests and answers were held against; may be empty."""
        wire = self.wires.get(provider.adapter, WireSpec())
        return "; ".join(filter(None, (provider.proof, wire.proof)))


def _fetching(provider: Provider) -> Provider:
    allowed = {name: True for name in FETCHING if name in provider.quirks}
    return dataclasses.replace(provider, quirks={**provider.quirks, **allowed}) if allowed else provider


def marks_in(text: str) -> tuple[str, ...]:
    """The settings that a base URL or a path leaves open, `{region}` → `region`, in order."""
    return tuple(dict.fromkeys(_MARK.findall(text)))

"""What an engine is to the tests: how its models are made, and in what it differs from the others.

A test file says this once for an engine, and gives it to the rows:

    class LlamaCpp(Engine):
        provider = "llama-cpp"
        ...

    class TestLlamaCpp(Rows):
        engine = LlamaCpp()

An engine whose environment is made from wheels at hand has that file in this folder, a large one in
tests/heavy. All its models are the tiny one of tests/tiny_model.py, in the engine's own format.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from supervisor.catalog import load_catalog
from supervisor.providers import Provider
from tests.tiny_model import Shape
from tests.wheelhouse import CHECKOUT

__all__ = ["MODELS", "NAMED", "SPOKEN", "Damage", "Engine", "Wrong"]

SPOKEN: Final = "é€😀"
"""Letters of two, three and four tokens, which the model `speaker` says again and again."""
NAMED: Final = "Mia: Yo"
"""What the model `named` says, which is the echo of a character's name at first."""
_THINKING: Final = (
    "{%- for message in messages -%}{{ message.role }}: {{ message.content }}{%- endfor -%}assistant: "
    "{%- if enable_thinking is defined and not enable_thinking -%}<think>\n\n</think>\n\n{%- endif -%}"
)
_STRICT: Final = (
    "{%- if messages | length > 2 -%}{{ raise_exception('two messages at most') }}{%- endif -%}"
    "{%- for message in messages -%}{{ message.content }}{%- endfor -%}"
)
_EQUALS: Final = "{%- for message in messages -%}{{ message.content }}{%- endfor -%}="
MODELS: Final[Mapping[str, Mapping[str, Any]]] = {
    "tiny": {},
    "other": {"seed": 8},
    "base": {"template": None},
    "strict": {"template": _STRICT},
    "thinker": {"template": _THINKING},
    "speaker": {"says": SPOKEN},
    "named": {"says": NAMED, "template": _EQUALS, "after": "="},
}
"""The models in HOME/models, and what is said to who makes them."""
HUB_FILE: Final = "zephyr"
"""As none of those that are here."""
VAST: Final = Shape(context=1 << 30)
"""A model that allows a context which no machine can hold."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """Options that a load must refuse."""

    options: Mapping[str, Any]
    words: str
    """In the sentence that refuses them."""
    name: str = "INVALID_REQUEST"


@dataclass(frozen=True, slots=True)
class Damage:
    """How a model can be no model."""

    do: Callable[[Path], object]
    """Breaks the model at that path."""
    words: str
    """In the sentence that says so."""
    name: str = "INVALID_MODEL"


class Engine(abc.ABC):
    """One engine; a subclass says what follows, and nothing about how a module works."""

    provider: ClassVar[str]
    suffix: ClassVar[str] = ""
    """How the name of a model ends on the disk; nothing where a model is a folder."""
    options: ClassVar[Mapping[str, Any]] = {}
    """What every load says besides those of the rows."""
    wrong_options: ClassVar[Mapping[str, Wrong]] = {}
    """Beside those that are wrong everywhere."""
    damages: ClassVar[Mapping[str, Damage]]
    """Ways in which one of its models can be broken."""
    template_words: ClassVar[str] = "chat template"
    """In what is said of a template that cannot be read."""
    told: ClassVar[tuple[str, ...]] = ("reading other", "starting the engine with other")
    """How the news of a load begin."""
    refused: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Params of a generation that it cannot take."""
    left_out: ClassVar[Mapping[str, Any]] = {}
    """Params that have no place in it, by what the warning calls them."""
    at_once: ClassVar[int] = 2
    """How many replies of one model it makes at the same time, by itself."""
    no_options: ClassVar[tuple[str, ...]] = ()
    """Options of the others that it does not have."""
    pinned: ClassVar[Mapping[str, Any]] = {}
    """Options that name the version of a model that was fetched."""
    briefly: ClassVar[Mapping[str, Any]] = {}
    """Params that keep a model of noise from thinking for long."""
    loads_vast: ClassVar[bool] = True
    """Whether a model costs nothing for a context that it allows and is not loaded with."""
    reuse_slack: ClassVar[int] = 1
    """Of the first turn's tokens, how many are computed again in the second."""
    load_s: ClassVar[float] = 20.0
    """The patience for a load and a reply."""
    absent: ClassVar[Mapping[str, str]] = {}
    """Rows that do not apply → why."""

    @abc.abstractmethod
    def make(self, path: Path, **fields: Any) -> None:
        """Writes a tiny model: `seed`, `shape`, `template`, and `says` with `after` (tiny_model.speaks)."""

    def path(self, models: Path, name: str) -> Path:
        """Where the model of that name is."""
        return models / f"{name}{self.suffix}"

    @property
    def hub_name(self) -> str:
        """What a client calls the only model of the hub: a file of a repository, or a repository."""
        return f"org/repo/{HUB_FILE}{self.suffix}" if self.suffix else "org/repo"

    @property
    def catalogued(self) -> Provider:
        """What the catalogue says of it."""
        return load_catalog(CHECKOUT / "venvs.toml").providers[self.provider]

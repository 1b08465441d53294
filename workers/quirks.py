"""How one provider differs from the others of its wire: `[provider.ID.quirks]` as a record.

Each field is one key of that table, with the default that suits a server of the OpenAI wire that nobody
knows; another wire has its own (`usual` of its adapter).
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from workers.adapter import AdapterError
from workers.codes import Code

__all__ = ["DROPPABLE", "RENAMED", "Quirks", "matches"]

MATCHES_KEPT: Final = 256
"""Answers about a model that are remembered: a worker is asked about few, and for every request."""
NAME_FIELDS: Final = ("native", "user_only", "prefix")
DROPPABLE: Final = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "stream_options",
)
"""Parameters of sampling, and the wish for usage: a reply without them is another reply, and still the reply
to this request."""
RENAMED: Final = {"max_tokens": "max_completion_tokens"}
"""Fields that newer models know by another name, which their refusal tells."""


@dataclass(frozen=True, slots=True)
class Quirks:
    """One provider's table; see each field."""

    chat_path: str = "/chat/completions"
    models_path: str = "/models"
    """Where a GET lists the models; empty where there is no such list."""
    models_complete: bool = False
    """Whether a model that is not in that list does not exist."""
    models_open: bool = False
    """Whether that list is open to everybody, so that having it says nothing about a key."""
    pull: bool = False
    """Whether a load may make a server of one's own fetch a model that it does not have."""
    key_check_path: str = ""
    """What a GET answers only for a valid key, where the list of models is open to everybody."""
    key_header: str = "Authorization"
    key_prefix: str = "Bearer "
    extra_headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with every request, beside those of the wire."""

    max_tokens_field: str = "max_tokens"
    seed_field: str = "seed"
    repetition_penalty_field: str = "repetition_penalty"
    stop_ids_field: str = ""
    """Where token ids that end a reply are sent; empty where the provider takes none."""
    stop_max: int = 0
    """How many stop strings the provider takes; 0: they are only cut here."""
    stop_chars_max: int = 0
    """How long each may be; 0: as long as it likes."""
    unsupported: tuple[str, ...] = ()
    """Parameters that the provider refuses or does not have."""
    temperature_min: float = 0.0
    temperature_max: float = 2.0
    top_p_min: float = 0.0
    top_p_below_one: bool = False
    """Whether a `top_p` of 1, which changes nothing, is refused and so not sent."""
    efforts: tuple[str, ...] = ()
    """The values of `reasoning_effort` that the provider knows; empty where it takes all."""
    streams: bool = True
    """Whether an answer can be had as it is made, where a wire leaves that open."""
    stream_usage: bool = False
    """Whether usage must be asked for with `stream_options`, and may be."""
    json_grammar: bool = False
    """Whether a schema in `response_format` is a grammar, in the words of TGI."""
    json_unstreamed: bool = False
    """Whether `response_format` goes only with an answer that is not streamed."""

    tool_choices: tuple[str, ...] = ()
    """The words of `tool_choice` that the provider knows; empty where it takes all."""
    tool_call_id_chars: int = 0
    """How many letters and digits the id of a call has exactly; 0: as it likes."""
    tool_call_index: bool = False
    """Whether a call in a message says which one of it it is."""

    name_field: str = "prefix"
    """`native`: all roles have a name; `user_only`: only the user has; `prefix`: none has."""
    system_role: str = "system"
    system_after_assistant: str = "system"
    """The role for a system message right after a reply, where the provider refuses it there."""
    merge_roles: bool = False
    """Whether neighbours of one role are joined, since some chat templates refuse them."""

    reasoning_models: tuple[str, ...] = ()
    """Patterns of models that may think before they speak; `!` takes away what follows it."""
    reasoning_unsupported: tuple[str, ...] = ("stop",)
    """What those refuse; a stop string could fire in what nobody sees, so it is always among them."""
    reasoning_system_role: str = "system"
    reasoning_headroom: int = 0
    """Tokens added to the limit of those models, where their thinking counts towards it."""
    thinking_off: Mapping[str, Any] = field(default_factory=dict)
    """Merged into the body of a request that asks for no thinking: a voice cannot wait for it."""
    thinking_off_models: tuple[str, ...] = ("*",)
    thinking_on: Mapping[str, Any] = field(default_factory=dict)
    """Merged into the body of a request that asks for thinking, where that takes more than its effort."""

    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """Merged into every body, below what the client's `extra` says."""

    by_model: Mapping[str, Any] = field(default_factory=dict)
    """Patterns of models, with spaces between them → a table like this one, of what differs for those; of
    several that fit, later ones win."""

    @classmethod
    def parse(cls, provider: str, table: Mapping[str, Any], *, over: Quirks | None = None) -> Quirks:
        """The record of a table, with the values of `over` (else the defaults) where it says nothing.

        Raises:
            AdapterError: UNEXPECTED, the table has an unknown key or a value of a wrong type.
        """
        where = f"[provider.{provider}.quirks]"
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key not in _DEFAULTS:
                raise AdapterError(Code.UNEXPECTED, f"{where}: unknown key {key!r}")
            values[key] = _typed(f"{where}: {key}", value, _DEFAULTS[key])
        base = over or cls()
        if base.extra_headers and "extra_headers" in values:
            values["extra_headers"] = {**base.extra_headers, **values["extra_headers"]}
        quirks = dataclasses.replace(base, **values)
        for patterns, differing in quirks.by_model.items():
            if not isinstance(differing, Mapping) or "by_model" in differing:
                raise AdapterError(Code.UNEXPECTED, f"{where}: by_model {patterns!r} must be a plain table")
            cls.parse(f"{provider}.quirks.by_model.{patterns}", differing)
        if quirks.name_field not in NAME_FIELDS:
            raise AdapterError(Code.UNEXPECTED, f"{where}: name_field is none of {', '.join(NAME_FIELDS)}")
        return quirks

    def of(self, model: str) -> Quirks:
        """What holds for that model."""
        quirks = self
        for patterns, differing in self.by_model.items():
            if matches(tuple(patterns.split()), model):
                quirks = Quirks.parse("", differing, over=quirks)
        return quirks


@functools.lru_cache(maxsize=MATCHES_KEPT)
def matches(patterns: tuple[str, ...], model: str) -> bool:
    """Whether one of the patterns fits the model and none that begins with `!` does; case does not count."""
    model = model.lower()
    lowered = [pattern.lower() for pattern in patterns]
    wanted = [pattern for pattern in lowered if not pattern.startswith("!")]
    unwanted = [pattern[1:] for pattern in lowered if pattern.startswith("!")]
    return any(fnmatch.fnmatchcase(model, pattern) for pattern in wanted) and not any(
        fnmatch.fnmatchcase(model, pattern) for pattern in unwanted
    )


def _default(item: dataclasses.Field[Any]) -> Any:
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


_DEFAULTS: Final = {item.name: _default(item) for item in dataclasses.fields(Quirks)}


def _typed(where: str, value: Any, default: Any) -> Any:
    """`value` as a field with that default holds it."""
    if isinstance(default, tuple):
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif isinstance(default, float):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    elif type(value) is type(default):
        return value
    raise AdapterError(Code.UNEXPECTED, f"{where} must be of type {type(default).__name__}")

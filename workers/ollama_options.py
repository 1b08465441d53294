"""What a client may say in `options` of a load of Ollama: how models are loaded, and for how long. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from workers.adapter import AdapterError, Warn
from workers.codes import Code

__all__ = ["Given", "read_options"]

RUNNER: Final = {
    "context_length": "num_ctx",
    "num_ctx": "num_ctx",
    "num_batch": "num_batch",
    "num_gpu": "num_gpu",
    "num_thread": "num_thread",
}
"""Our word, and Ollama's, for what a model is loaded with → Ollama's."""
OTHERS: Final = ("keep_alive", "unload_on_close")
WHOLE_MAX: Final = 1 << 30
_DURATION: Final = re.compile(r"-?(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+")
"""As Ollama's language writes it: `5m`, `1h30m`; one that begins with `-` is forever."""
_SECONDS: Final = re.compile(r"-?\d+(\.\d+)?")


@dataclass(frozen=True, slots=True)
class Given:
    """What a client says; None where it does not."""

    runner: Mapping[str, int] = field(default_factory=dict)
    keep_alive: str | float | None = None
    """How long a model stays in memory after a request: a duration, or seconds; below 0: forever."""
    unload_on_close: bool = False
    """Whether the models leave the memory with the last connection that uses them."""


def read_options(options: Mapping[str, Any]) -> tuple[Given, tuple[Warn, ...]]:
    """The options of a `load`, and a warning about those that mean nothing here.

    Raises:
        AdapterError: INVALID_REQUEST, a value cannot be meant.
    """
    runner = {RUNNER[name]: _whole(name, options[name]) for name in RUNNER if options.get(name) is not None}
    unload = options.get("unload_on_close") or False
    if not isinstance(unload, bool):
        raise AdapterError(Code.INVALID_REQUEST, "options.unload_on_close must be true or false")
    unknown = ", ".join(sorted(set(options) - {*RUNNER, *OTHERS}))
    sentence = f"options without a meaning here: {unknown}; known are {', '.join((*RUNNER, *OTHERS))}"
    warnings = (Warn("UNKNOWN_OPTION", sentence),) if unknown else ()
    return Given(runner, _time(options.get("keep_alive")), unload), warnings


def _whole(name: str, value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is int and 0 <= value <= WHOLE_MAX:
        return value
    raise AdapterError(Code.INVALID_REQUEST, f"options.{name} must be a whole number up to {WHOLE_MAX}")


def _time(value: Any) -> str | float | None:
    if value is None or type(value) in (int, float):
        return value  # type: ignore[no-any-return]  # one of the three
    if isinstance(value, str):
        if _SECONDS.fullmatch(value):
            return float(value)  # as a text it would need a unit
        if _DURATION.fullmatch(value):
            return value
    raise AdapterError(
        Code.INVALID_REQUEST, 'options.keep_alive must be seconds, or a time like "5m"; -1 is forever'
    )

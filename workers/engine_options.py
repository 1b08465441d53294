"""How a model is to be loaded into an engine: what a client may say in `options`, and what it gets unsaid.

Also what that costs in memory, so that a model which cannot fit is refused in a sentence that says what
would, before an engine tries for a minute or the system ends the process. Pure.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from workers.adapter import AdapterError, Warn
from workers.codes import Code
from workers.gguf_header import GgufHeader

__all__ = [
    "CONTEXT",
    "GIB",
    "LIMITS",
    "QUANTIZED_BITS",
    "SLOTS",
    "Given",
    "Used",
    "check_memory",
    "fill",
    "outlasts_its_connection",
    "read_options",
    "suits",
]

CONTEXT: Final = 8192
"""Tokens of one conversation, unless the client says otherwise or the model has fewer."""
SLOTS: Final = 2
"""Requests at once; each has memory for a whole context of its own, so that none can crowd out another."""
GIB: Final = 1 << 30
KEEP_ALIVE: Final = "keep_alive"
"""The supervisor's to heed: it ends the process."""
LIMITS: Final = {
    "context_length": (256, 1 << 30),
    "slots": (1, 64),
    "gpu_layers": (0, 1 << 16),
    "threads": (1, 1024),
}
"""From and to."""
QUANTIZED_BITS: Final[Mapping[str, float]] = {"8bit": 9.0, "4bit": 5.0}
"""Of one number, with what a quantised block says of itself and the layers that stay whole."""
WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "isq": ("Q2K", "Q3K", "Q4K", "Q5K", "Q6K", "Q8_0"),
    "dtype": ("float32", "bfloat16", "float16"),
    "quantization": tuple(QUANTIZED_BITS),
}
"""One of these, in any case."""
TEXTS: Final[Mapping[str, tuple[re.Pattern[str], str]]] = {
    "device": (
        re.compile(r"cpu|mps|webgpu|(?:cuda|gpu)(?::\d{1,2})?"),
        "cpu, mps, webgpu, cuda, gpu (Intel's), or cuda:1 for the second one",
    ),
    "revision": (re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"), "a commit, a tag or a branch"),
}
"""A text of that form, and how it is said; all others are true or false."""

G = TypeVar("G")


@dataclass(frozen=True, slots=True)
class Given:
    """What a client says; None where it does not."""

    context_length: int | None = None
    """Tokens of one conversation."""
    slots: int | None = None
    """Requests at once."""
    gpu_layers: int | None = None
    """Layers in the GPU's memory; by itself the engine takes as many as fit."""
    threads: int | None = None
    """Of the processor, for computing."""
    transcript: bool | None = None
    """Plain text instead of the model's chat template."""


@dataclass(frozen=True, slots=True)
class Used:
    """What a model is loaded with."""

    context_length: int
    slots: int
    gpu_layers: int | None
    threads: int
    transcript: bool

    def will_do_for(self, given: Given) -> bool:
        """Whether a client that says `given` can use a model that was loaded so."""
        return suits(self, given)


def read_options(options: Mapping[str, Any], kind: type[G]) -> tuple[G, tuple[Warn, ...]]:
    """The options of a `load` as that record of what an engine knows, each None where nothing is said, and a
    warning about those that mean nothing here.

    Raises:
        AdapterError: INVALID_REQUEST, a value cannot be meant.
    """
    known = [item.name for item in dataclasses.fields(kind)]  # type: ignore[arg-type]  # a dataclass, always
    values = {name: _checked(name, options[name]) for name in known if options.get(name) is not None}
    unknown = ", ".join(sorted(set(options) - {*known, KEEP_ALIVE}))
    sentence = f"Options without a meaning here: {unknown}; known are {', '.join(known)}."
    return kind(**values), (Warn("UNKNOWN_OPTION", sentence),) if unknown else ()


def outlasts_its_connection(options: Mapping[str, Any]) -> bool:
    """Whether a client wants its model kept when it has gone, for whoever comes before the process ends."""
    keep_alive = options.get(KEEP_ALIVE)
    return isinstance(keep_alive, (int, float)) and keep_alive != 0


def suits(used: Any, given: Any) -> bool:
    """Whether everything that is given is what was used."""
    items = [(item.name, getattr(given, item.name)) for item in dataclasses.fields(given)]
    return all(value is None or value == getattr(used, name) for name, value in items)


def fill(given: Given, header: GgufHeader, processors: int) -> Used:
    """The options with what this model gets on this machine where none was given."""
    context = given.context_length or CONTEXT
    return Used(
        context_length=min(context, header.context_length or context),
        slots=given.slots or SLOTS,
        gpu_layers=given.gpu_layers,
        threads=given.threads or max(1, processors // 2),  # the others are for games and voices
        transcript=header.template is None if given.transcript is None else given.transcript,
    )


def check_memory(name: str, used: Used, header: GgufHeader, *, file_bytes: int, memory_bytes: int) -> None:
    """Nothing, if the model can fit into a machine of that memory.

    Raises:
        AdapterError: OUT_OF_MEMORY, with what would fit.
    """
    token_bytes = header.kv_bytes * used.slots
    need_bytes = file_bytes + token_bytes * used.context_length
    if need_bytes <= memory_bytes:
        return
    fitting = max((memory_bytes - file_bytes) // token_bytes, 0) if token_bytes else 0
    least, _ = LIMITS["context_length"]
    round_number = 1 << max(fitting.bit_length() - 1, 0)
    remedy = f"options.context_length of {round_number}" if round_number >= least else "a smaller file"
    raise AdapterError(
        Code.OUT_OF_MEMORY,
        f"{name!r} needs about {need_bytes / GIB:.1f} GiB with a context of {used.context_length} tokens for "
        f"each of {used.slots} requests, and this machine has {memory_bytes / GIB:.1f}: try {remedy}.",
    )


def _checked(name: str, value: Any) -> Any:
    if name in WORDS:
        return _word(name, value)
    if name in TEXTS:
        return _text(name, value)
    if name not in LIMITS:
        if isinstance(value, bool):
            return value
        raise AdapterError(Code.INVALID_REQUEST, f"options.{name} must be true or false.")
    least, most = LIMITS[name]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is int and least <= value <= most:
        return value
    raise AdapterError(Code.INVALID_REQUEST, f"options.{name} must be a whole number from {least} to {most}.")


def _text(name: str, value: Any) -> str:
    form, said = TEXTS[name]
    if isinstance(value, str) and form.fullmatch(value):
        return value
    raise AdapterError(Code.INVALID_REQUEST, f"options.{name} must be {said}.")


def _word(name: str, value: Any) -> str:
    known = {word.lower(): word for word in WORDS[name]}
    if isinstance(value, str) and value.lower() in known:
        return known[value.lower()]
    raise AdapterError(Code.INVALID_REQUEST, f"options.{name} must be one of {', '.join(WORDS[name])}.")

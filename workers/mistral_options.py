"""How a model is to be loaded into mistral.rs: what a client may say in `options`, what it gets unsaid, and
whether that fits into this machine. Pure.

The engine computes with 32-bit numbers on a processor, so a model takes twice the size of its files there;
`isq` quantises it while it is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from workers.adapter import AdapterError
from workers.codes import Code
from workers.engine_options import CONTEXT, GIB, LIMITS, SLOTS, suits

__all__ = ["Facts", "Given", "Used", "cache_bytes", "check_memory", "fill", "smaller", "weights_bytes"]

BITS: Final[Mapping[str, float]] = {
    "Q8_0": 8.5,
    "Q6K": 6.6,
    "Q5K": 5.5,
    "Q4K": 4.5,
    "Q3K": 3.5,
    "Q2K": 2.7,
}
"""Of one number, by the kind of quantisation; the largest first."""
PLAIN_BITS: Final = 32.0
SUGGESTED: Final = ("Q8_0", "Q4K")
"""What hardly hurts a model, and what hurts it little."""
CACHE_SHARE: Final = 8
"""The part of the machine's memory that conversations may keep, after which the engine starts anew."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a client says; None where it does not."""

    context_length: int | None = None
    """Tokens of one conversation."""
    slots: int | None = None
    """Requests at once."""
    threads: int | None = None
    """Of the processor, for computing; the first load of a process decides."""
    isq: str | None = None
    """Quantises the weights while they are loaded."""
    prefix_cache: bool | None = None
    """Whether the beginning of a conversation is kept for its next turn."""
    transcript: bool | None = None
    """Plain text instead of the model's chat template."""


@dataclass(frozen=True, slots=True)
class Used:
    """What a model is loaded with."""

    context_length: int
    slots: int
    threads: int
    isq: str | None
    prefix_cache: bool
    transcript: bool

    def will_do_for(self, given: Given) -> bool:
        """Whether a client that says `given` can use a model that was loaded so."""
        return suits(self, given)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a model and matters here, whatever its files are."""

    context_length: int
    template: str | None
    kv_bytes: int
    parameters: int
    """Numbers that are not quantised yet; 0 of a GGUF file."""
    file_bytes: int


def fill(given: Given, facts: Facts, threads: int) -> Used:
    """The options with what this model gets on this machine where none was given."""
    context = given.context_length or CONTEXT
    return Used(
        context_length=min(context, facts.context_length or context),
        slots=given.slots or SLOTS,
        threads=threads,
        isq=given.isq,
        prefix_cache=given.prefix_cache is not False,
        transcript=facts.template is None if given.transcript is None else given.transcript,
    )


def cache_bytes(memory_bytes: int) -> int:
    """How much of the machine's memory conversations may keep."""
    return memory_bytes // CACHE_SHARE


def check_memory(name: str, used: Used, facts: Facts, memory_bytes: int) -> None:
    """Nothing, if the model can fit into a machine of that memory.

    Raises:
        AdapterError: OUT_OF_MEMORY, with what would fit.
    """
    contexts = facts.kv_bytes * used.slots * used.context_length
    need_bytes = weights_bytes(facts, used.isq) + contexts
    if need_bytes <= memory_bytes:
        return
    raise AdapterError(
        Code.OUT_OF_MEMORY,
        f"{name!r} needs about {need_bytes / GIB:.1f} GiB with a context of {used.context_length} tokens for "
        f"each of {used.slots} requests, and this machine has {memory_bytes / GIB:.1f}: "
        f"try {_remedy(used, facts, memory_bytes)}.",
    )


def smaller(used: Used, facts: Facts) -> str:
    """The next smaller setting, for a sentence: the weights are what a load needs memory for."""
    now = weights_bytes(facts, used.isq)
    kinds = SUGGESTED if facts.parameters else ()
    less = next((kind for kind in kinds if weights_bytes(facts, kind) < now), None)
    return "a smaller model" if less is None else f"options.isq of {less!r}"


def _remedy(used: Used, facts: Facts, memory_bytes: int) -> str:
    contexts = facts.kv_bytes * used.slots * used.context_length
    if facts.parameters:
        before = weights_bytes(facts, used.isq)
        for kind in SUGGESTED:
            after = weights_bytes(facts, kind)
            if after < before and after + contexts <= memory_bytes:
                return f"options.isq of {kind!r}"
    token_bytes = facts.kv_bytes * used.slots
    left = memory_bytes - weights_bytes(facts, used.isq)
    fitting = max(left // token_bytes, 0) if token_bytes else 0
    round_number = 1 << max(fitting.bit_length() - 1, 0)
    least, _ = LIMITS["context_length"]
    return f"options.context_length of {round_number}" if round_number >= least else "a smaller model"


def weights_bytes(facts: Facts, isq: str | None) -> int:
    """The memory of the weights alone."""
    if not facts.parameters:
        return facts.file_bytes
    return int(facts.parameters * (BITS[isq] if isq else PLAIN_BITS) / 8)

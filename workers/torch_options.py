"""How a model is to be loaded into torch: what a client may say in `options`, what it gets unsaid, and
whether that fits into the memory that is free now. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from workers.adapter import AdapterError
from workers.codes import Code
from workers.engine_options import CONTEXT, GIB, LIMITS, QUANTIZED_BITS, SLOTS, suits
from workers.folder_model import KV_ITEM_BYTES, FolderModel

__all__ = ["CPU", "Given", "Machine", "Used", "check_memory", "fill", "smaller"]

CPU: Final = "cpu"
DTYPE_BYTES: Final[Mapping[str, int]] = {"float32": 4, "bfloat16": 2, "float16": 2}
SPARE: Final = 1.05
"""What computing needs besides the weights and the contexts."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a client says; None where it does not."""

    context_length: int | None = None
    """Tokens of one conversation."""
    slots: int | None = None
    """Requests at once."""
    threads: int | None = None
    """Of the processor, for computing."""
    device: str | None = None
    """`cpu`, `cuda`, `cuda:1`, `mps`."""
    dtype: str | None = None
    """What the weights are computed with."""
    quantization: str | None = None
    """Quantises the weights while they are loaded, where the environment has what that takes."""
    revision: str | None = None
    """A commit, a tag or a branch of a repository of the hub's."""
    prefix_cache: bool | None = None
    """Whether the beginning of a conversation is kept for its next turn."""
    transcript: bool | None = None
    """Plain text instead of the model's chat template."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to compute with."""

    device: str
    """That is taken when nobody says which."""
    dtype: str
    """That suits it."""
    free_bytes: int
    """Of its memory; 0 where it cannot be told."""
    processors: int
    quantizes: bool = False
    """Whether the environment has what quantising takes."""


@dataclass(frozen=True, slots=True)
class Used:
    """What a model is loaded with."""

    context_length: int
    slots: int
    threads: int
    device: str
    dtype: str
    quantization: str | None
    revision: str | None
    prefix_cache: bool
    transcript: bool

    def will_do_for(self, given: Given) -> bool:
        """Whether a client that says `given` can use a model that was loaded so."""
        return suits(self, given)


def fill(given: Given, model: FolderModel, machine: Machine) -> Used:
    """The options with what this model gets on this machine where none was given."""
    context = given.context_length or CONTEXT
    used = Used(
        context_length=min(context, model.context_length or context),
        slots=given.slots or SLOTS,
        threads=given.threads or max(1, machine.processors // 2),  # the others are for games and voices
        device=machine.device,
        dtype=given.dtype or machine.dtype,
        quantization=given.quantization,
        revision=given.revision,
        prefix_cache=given.prefix_cache is not False,
        transcript=model.template is None if given.transcript is None else given.transcript,
    )
    half = dataclasses.replace(used, dtype="bfloat16")
    fits_in_half = need_bytes(half, model) <= machine.free_bytes < need_bytes(used, model)
    return half if given.dtype is None and fits_in_half else used


def need_bytes(used: Used, model: FolderModel) -> int:
    """The memory that a model takes, loaded so."""
    bits = QUANTIZED_BITS[used.quantization] if used.quantization else DTYPE_BYTES[used.dtype] * 8
    return int(model.parameters * bits / 8 * SPARE) + _token_bytes(used, model) * used.context_length


def check_memory(name: str, used: Used, model: FolderModel, machine: Machine) -> None:
    """Nothing, if the model can fit into the memory that is free.

    Raises:
        AdapterError: OUT_OF_MEMORY, with what would fit.
    """
    need = need_bytes(used, model)
    if not machine.free_bytes or need <= machine.free_bytes:
        return
    fitting = (
        words
        for words, less in _smaller(used, model, machine)
        if need_bytes(less, model) <= machine.free_bytes
    )
    raise AdapterError(
        Code.OUT_OF_MEMORY,
        f"{name!r} needs about {need / GIB:.1f} GiB as {used.quantization or used.dtype} with a context of "
        f"{used.context_length} tokens for each of {used.slots} requests, and {machine.free_bytes / GIB:.1f} "
        f"are free on {used.device}: try {next(fitting, 'a smaller model')}.",
    )


def smaller(used: Used, model: FolderModel, machine: Machine) -> str:
    """The next smaller setting, for a sentence."""
    return next((words for words, _ in _smaller(used, model, machine)), "a smaller model")


def _smaller(used: Used, model: FolderModel, machine: Machine) -> Iterator[tuple[str, Used]]:
    """Settings that need less, the one that is missed least first."""
    if not used.quantization and DTYPE_BYTES[used.dtype] > DTYPE_BYTES["bfloat16"]:
        yield "options.dtype of 'bfloat16'", dataclasses.replace(used, dtype="bfloat16")
    if used.slots > 1:
        yield "options.slots of 1", dataclasses.replace(used, slots=1)
    for kind, bits in QUANTIZED_BITS.items() if machine.quantizes else ():
        if bits < (QUANTIZED_BITS[used.quantization] if used.quantization else 8 * DTYPE_BYTES[used.dtype]):
            yield f"options.quantization of {kind!r}", dataclasses.replace(used, quantization=kind)
    least, _ = LIMITS["context_length"]
    context = used.context_length // 2
    while context >= least:
        less = dataclasses.replace(used, slots=1, context_length=context)
        yield f"options.context_length of {context} and options.slots of 1", less
        context //= 2


def _token_bytes(used: Used, model: FolderModel) -> int:
    """Of one token of context, in all places."""
    return model.kv_bytes // KV_ITEM_BYTES * DTYPE_BYTES[used.dtype] * used.slots

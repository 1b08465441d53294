"""How a model is to be loaded into OpenVINO: what a client may say in `options`, what it gets unsaid, and
whether that fits into the memory that is free now. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from workers.adapter import AdapterError
from workers.codes import Code
from workers.engine_options import CONTEXT, GIB, LIMITS, QUANTIZED_BITS, suits
from workers.folder_model import FolderModel

__all__ = ["CPU", "GPU", "Given", "Machine", "Used", "check_memory", "device_of", "fill", "smaller"]

CPU: Final = "CPU"
GPU: Final = "GPU"
SPARE: Final = 1.05
"""What computing needs besides the weights and the context."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a client says; None where it does not."""

    context_length: int | None = None
    """Tokens of one conversation."""
    threads: int | None = None
    """Of the processor, for computing."""
    device: str | None = None
    """`cpu`, `gpu`, `gpu:1`."""
    quantization: str | None = None
    """Quantises the weights while they are converted."""
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
    """That is taken, as OpenVINO names it."""
    free_bytes: int
    """Of the memory that the device uses; 0 where it cannot be told."""
    processors: int


@dataclass(frozen=True, slots=True)
class Used:
    """What a model is loaded with."""

    context_length: int
    threads: int
    device: str
    """As OpenVINO names it."""
    quantization: str | None
    revision: str | None
    prefix_cache: bool
    transcript: bool

    def will_do_for(self, given: Given) -> bool:
        """Whether a client that says `given` can use a model that was loaded so."""
        device = None if given.device is None else device_of(given.device)
        return suits(self, dataclasses.replace(given, device=device))


def device_of(said: str) -> str:
    """`gpu:1` as OpenVINO has it: `GPU.1`. The first one is `GPU`, however many there are."""
    return said.upper().replace(":", ".").removesuffix(".0")


def fill(given: Given, model: FolderModel, machine: Machine) -> Used:
    """The options with what this model gets on this machine where none was given."""
    context = given.context_length or CONTEXT
    return Used(
        context_length=min(context, model.context_length or context),
        threads=given.threads or max(1, machine.processors // 2),  # the others are for games and voices
        device=machine.device,
        quantization=given.quantization,
        revision=given.revision,
        prefix_cache=given.prefix_cache is not False,
        transcript=model.template is None if given.transcript is None else given.transcript,
    )


def need_bytes(used: Used, model: FolderModel) -> int:
    """The memory that a model takes, loaded so."""
    weights: float = sum(model.files.values())
    if used.quantization:
        weights = model.parameters * QUANTIZED_BITS[used.quantization] / 8
    return int(weights * SPARE) + model.kv_bytes * used.context_length


def check_memory(name: str, used: Used, model: FolderModel, machine: Machine) -> None:
    """Nothing, if the model can fit into the memory that is free.

    Raises:
        AdapterError: OUT_OF_MEMORY, with what would fit.
    """
    need = need_bytes(used, model)
    if not machine.free_bytes or need <= machine.free_bytes:
        return
    fitting = (
        words for words, less in _smaller(used, model) if need_bytes(less, model) <= machine.free_bytes
    )
    raise AdapterError(
        Code.OUT_OF_MEMORY,
        f"{name!r} needs about {need / GIB:.1f} GiB with a context of {used.context_length} tokens, and "
        f"{machine.free_bytes / GIB:.1f} are free on {used.device}: try {next(fitting, 'a smaller model')}.",
    )


def smaller(used: Used, model: FolderModel) -> str:
    """The next smaller setting, for a sentence."""
    return next((words for words, _ in _smaller(used, model)), "a smaller model")


def _smaller(used: Used, model: FolderModel) -> Iterator[tuple[str, Used]]:
    """Settings that need less, the one that is missed least first."""
    if model.parameters:  # of others the weights stay as they were exported
        for kind in _fewer_bits(used.quantization):
            yield f"options.quantization of {kind!r}", dataclasses.replace(used, quantization=kind)
    least, _ = LIMITS["context_length"]
    context = used.context_length // 2
    while context >= least:
        yield f"options.context_length of {context}", dataclasses.replace(used, context_length=context)
        context //= 2


def _fewer_bits(kind: str | None) -> Iterator[str]:
    kinds: Mapping[str, float] = QUANTIZED_BITS
    yield from (other for other, bits in kinds.items() if kind is None or bits < kinds[kind])

"""How a model is to be loaded into ONNX Runtime GenAI: what a client may say in `options`, what it gets
unsaid, and whether that fits into this machine. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from workers.adapter import AdapterError
from workers.codes import Code
from workers.engine_options import CONTEXT, GIB, LIMITS, SLOTS, suits
from workers.genai_folder import GenaiModel

__all__ = ["CPU", "Given", "Used", "check_memory", "fill", "need_bytes", "smaller"]

CPU: Final = "cpu"
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
    """Of the processor, for computing one request."""
    device: str | None = None
    """`cpu`, `cuda`, `cuda:1`, `webgpu`: what the build of the engine has."""
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
    device: str
    prefix_cache: bool
    transcript: bool

    def will_do_for(self, given: Given) -> bool:
        """Whether a client that says `given` can use a model that was loaded so."""
        return suits(self, given)


def fill(given: Given, model: GenaiModel, device: str, processors: int) -> Used:
    """The options with what this model gets on this machine where none was given."""
    context = given.context_length or CONTEXT
    return Used(
        context_length=min(context, model.context_length or context),
        slots=given.slots or SLOTS,
        threads=given.threads or max(1, processors // 2),  # the others are for games and voices
        device=device,
        prefix_cache=given.prefix_cache is not False,
        transcript=model.template is None if given.transcript is None else given.transcript,
    )


def check_memory(name: str, used: Used, model: GenaiModel, memory_bytes: int) -> None:
    """Nothing, if the model can fit into a machine of that memory.

    Raises:
        AdapterError: OUT_OF_MEMORY, with what would fit.
    """
    need = need_bytes(used, model)
    if not memory_bytes or need <= memory_bytes:
        return
    fitting = (words for words, less in _smaller(used) if need_bytes(less, model) <= memory_bytes)
    raise AdapterError(
        Code.OUT_OF_MEMORY,
        f"{name!r} needs about {need / GIB:.1f} GiB with a context of {used.context_length} tokens for each "
        f"of {used.slots} requests, and this machine has {memory_bytes / GIB:.1f}: "
        f"try {next(fitting, 'a smaller model')}.",
    )


def smaller(used: Used) -> str:
    """The next smaller setting, for a sentence."""
    return next((words for words, _ in _smaller(used)), "a smaller model")


def need_bytes(used: Used, model: GenaiModel) -> int:
    """The memory that a model takes, loaded so."""
    contexts = model.kv_bytes * used.context_length * used.slots
    return int(sum(model.files.values()) * SPARE) + contexts


def _smaller(used: Used) -> Iterator[tuple[str, Used]]:
    """Settings that need less, the one that is missed least first."""
    if used.slots > 1:
        yield "options.slots of 1", dataclasses.replace(used, slots=1)
    least, _ = LIMITS["context_length"]
    context = used.context_length // 2
    while context >= least:
        less = dataclasses.replace(used, slots=1, context_length=context)
        yield f"options.context_length of {context} and options.slots of 1", less
        context //= 2

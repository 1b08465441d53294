"""How a model is to be loaded into MLX: what a client may say in `options`, what it gets unsaid, and whether
that fits into the memory that is free now. Pure.

The weights are computed with as they lie in their files, quantised or not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from workers.adapter import AdapterError
from workers.codes import Code
from workers.engine_options import CONTEXT, GIB, LIMITS, SLOTS, suits
from workers.folder_model import FolderModel

__all__ = ["Given", "Used", "check_memory", "contexts_bytes", "fill", "need_bytes", "smaller"]

SPARE: Final = 1.05
"""What computing needs besides the weights and the contexts."""
WIDE: Final = 2
"""A context of 32-bit numbers is so many times one of 16 bits."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a client says; None where it does not."""

    context_length: int | None = None
    """Tokens of one conversation."""
    slots: int | None = None
    """Requests at once."""
    revision: str | None = None
    """A commit, a tag or a branch of a repository of the hub's."""
    prefix_cache: bool | None = None
    """Whether the beginning of a conversation is kept for its next turn."""
    transcript: bool | None = None
    """Plain text instead of the model's chat template."""


@dataclass(frozen=True, slots=True)
class Used:
    """What a model is loaded with."""

    context_length: int
    slots: int
    revision: str | None
    prefix_cache: bool
    transcript: bool

    def will_do_for(self, given: Given) -> bool:
        """Whether a client that says `given` can use a model that was loaded so."""
        return suits(self, given)


def fill(given: Given, model: FolderModel) -> Used:
    """The options with what this model gets where none was given."""
    context = given.context_length or CONTEXT
    return Used(
        context_length=min(context, model.context_length or context),
        slots=given.slots or SLOTS,
        revision=given.revision,
        prefix_cache=given.prefix_cache is not False,
        transcript=model.template is None if given.transcript is None else given.transcript,
    )


def contexts_bytes(used: Used, model: FolderModel, *, wide: bool) -> int:
    """The memory of all places' contexts; `wide`: of 32-bit numbers."""
    return model.kv_bytes * (WIDE if wide else 1) * used.slots * used.context_length


def need_bytes(used: Used, model: FolderModel, *, wide: bool) -> int:
    """The memory that a model takes, loaded so: kept conversations may take as much as open ones."""
    contexts = contexts_bytes(used, model, wide=wide)
    return int(sum(model.files.values()) * SPARE) + contexts * (2 if used.prefix_cache else 1)


def check_memory(name: str, used: Used, model: FolderModel, *, wide: bool, free_bytes: int) -> None:
    """Nothing, if the model can fit into the memory that is free; 0 where that cannot be told.

    Raises:
        AdapterError: OUT_OF_MEMORY, with what would fit.
    """
    need = need_bytes(used, model, wide=wide)
    if not free_bytes or need <= free_bytes:
        return
    fitting = (words for words, less in _smaller(used) if need_bytes(less, model, wide=wide) <= free_bytes)
    raise AdapterError(
        Code.OUT_OF_MEMORY,
        f"{name!r} needs about {need / GIB:.1f} GiB with a context of {used.context_length} tokens for each "
        f"of {used.slots} requests, and {free_bytes / GIB:.1f} are free: "
        f"try {next(fitting, 'a smaller model, or one with more quantised weights')}.",
    )


def smaller(used: Used) -> str:
    """The next smaller setting, for a sentence."""
    return next((words for words, _ in _smaller(used)), "a smaller model")


def _smaller(used: Used) -> Iterator[tuple[str, Used]]:
    """Settings that need less, the one that is missed least first."""
    if used.prefix_cache:
        used = dataclasses.replace(used, prefix_cache=False)
        yield "options.prefix_cache of false", used
    if used.slots > 1:
        used = dataclasses.replace(used, slots=1)
        yield "options.slots of 1 and options.prefix_cache of false", used
    least, _ = LIMITS["context_length"]
    context = used.context_length // 2
    while context >= least:
        words = f"options.context_length of {context}, options.slots of 1 and options.prefix_cache of false"
        yield words, dataclasses.replace(used, context_length=context)
        context //= 2

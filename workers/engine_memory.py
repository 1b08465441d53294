"""Whether it was memory that kept an engine from going on, and which setting asks for less.

Engines seldom say it: one writes the reason to its log alone, another names the file that it could not map.
So besides their words the system is asked whether what the model needs could be had at all.
"""

from __future__ import annotations

from typing import Final

from workers.engine_options import LIMITS
from workers.machine import is_to_be_had

__all__ = ["smaller_context", "was_memory"]

WORDS: Final = (
    "out of memory",
    "allocate memory",
    "failed to allocate",
    "bad_alloc",
    "not enough memory",
    "os error 12",  # ENOMEM
    "os error 1455",  # Windows: the paging file is too small
)
ROOM_BYTES: Final = 64 << 20
"""What an engine takes besides weights and contexts: buffers for computing, stacks of threads. Of a small
model they were 30 MB."""
ROOM_SHARE: Final = 8
"""The same for a large one: so many times smaller than the rest."""


def was_memory(error: BaseException, need_bytes: int) -> bool:
    """Whether it was memory that was missing, of which the model needs about so much. Blocks a little."""
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in WORDS):
        return True
    return not is_to_be_had(_with_room(need_bytes))


def smaller_context(weights_bytes: int, token_bytes: int, context_length: int) -> str:
    """The next smaller setting that may do, for a sentence; `token_bytes` is what a token of all contexts
    costs. Blocks a little."""
    least, _ = LIMITS["context_length"]
    context = context_length // 2
    while context >= least:
        if is_to_be_had(_with_room(weights_bytes + token_bytes * context)):
            return f"options.context_length of {context}"
        context //= 2
    return "a smaller model"


def _with_room(need_bytes: int) -> int:
    return need_bytes + max(ROOM_BYTES, need_bytes // ROOM_SHARE)

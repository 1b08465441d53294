"""What MLX raises, as errors of ours: whose fault it is, and what helps."""

from __future__ import annotations

from typing import Final

from workers import engine_faults
from workers.adapter import AdapterError
from workers.codes import Code

__all__ = ["failed", "is_no_memory", "not_loaded"]

_NO_MEMORY: Final = (
    "unable to allocate",
    "attempting to allocate",
    "insufficient memory",
    "out of memory",
    "bad_alloc",
)
"""What MLX says in the one exception that it has: of its allocators, and of Metal."""


def not_loaded(error: Exception, name: str, architecture: str, remedy: str) -> AdapterError:
    """The error for what kept a model from being loaded; `remedy` is the next smaller setting."""
    return engine_faults.not_loaded(error, name, architecture, remedy=remedy, no_memory=is_no_memory(error))


def failed(error: BaseException) -> AdapterError:
    """The error for what ended a reply; the model is loaded anew for the next one."""
    return engine_faults.broke_off(error, no_memory=is_no_memory(error))


def is_no_memory(error: BaseException) -> bool:
    """Whether the memory ran out, which machine and GPU share."""
    if isinstance(error, AdapterError):
        return error.code is Code.OUT_OF_MEMORY
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in said for words in _NO_MEMORY)
    )

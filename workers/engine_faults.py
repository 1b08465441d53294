"""What a library of Python raises under an engine, as errors of ours: whose fault it is, and what helps."""

from __future__ import annotations

from typing import Final

from workers.adapter import AdapterError
from workers.codes import Code
from workers.redaction import redacted

__all__ = ["RAISED", "broke_off", "not_loaded"]

RAISED: Final = (
    *(OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError, MemoryError),
    *(ArithmeticError, AssertionError),
)
"""What a model that cannot be loaded, or cannot go on, makes a library raise."""


def not_loaded(
    error: Exception, name: str, architecture: str, *, remedy: str, no_memory: bool
) -> AdapterError:
    """The error for what kept a model from being loaded; `remedy` is the next smaller setting."""
    if no_memory:
        return AdapterError(
            Code.OUT_OF_MEMORY, f"The memory ran out while {name!r} was loaded: try {remedy}."
        )
    if isinstance(error, AdapterError):
        return error
    said = redacted(str(error))
    if isinstance(error, ImportError):
        sentence = f"{name!r} needs a package that this environment has not (it said: {said})."
        return AdapterError(Code.UNSUPPORTED, sentence)
    return AdapterError(
        Code.INVALID_MODEL,
        f"The engine cannot load {name!r} (architecture {architecture}); it said: {said}.",
    )


def broke_off(error: BaseException, *, no_memory: bool) -> AdapterError:
    """The error for what ended a reply; the model is loaded anew for the next one."""
    if no_memory:
        return AdapterError(
            Code.OUT_OF_MEMORY,
            "The engine ran out of memory: load with a smaller options.context_length, or fewer slots.",
        )
    return AdapterError(
        Code.UPSTREAM_ERROR,
        f"The engine failed in the middle of its answer (it said: {redacted(str(error))}); try again.",
    )

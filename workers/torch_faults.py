"""What torch and transformers raise, as errors of ours: whose fault it is, and what helps."""

from __future__ import annotations

from typing import Final

from safetensors import SafetensorError

from workers.adapter import AdapterError
from workers.codes import Code
from workers.hf_library import torch
from workers.redaction import redacted

__all__ = ["ERRORS", "TRUST", "failed", "is_no_memory", "not_loaded"]

TRUST: Final = "trust_remote_code"
"""The quirk with which an operator lets a model's own code run; the library's errors speak of it too."""
ERRORS: Final = (
    *(OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError, MemoryError),
    *(ArithmeticError, AssertionError, SafetensorError),
)
"""What a model that cannot be loaded, or cannot go on, makes them raise."""
_NO_MEMORY: Final = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory"),
    *("bad_alloc", "bad allocation", "out of gpu resources", "exceeded max size of memory"),
)
"""What torch says in the one exception that it has for all that goes wrong outside of CUDA, and OpenVINO in
the one that it has for everything."""


def not_loaded(error: Exception, name: str, architecture: str, remedy: str) -> AdapterError:
    """The error for what kept a model from being loaded; `remedy` is the next smaller setting."""
    if is_no_memory(error):
        return AdapterError(
            Code.OUT_OF_MEMORY, f"The memory ran out while {name!r} was loaded: try {remedy}."
        )
    if isinstance(error, AdapterError):
        return error
    said = redacted(str(error))
    if TRUST in str(error):
        sentence = (
            f"{name!r} brings code of its own, which is run only if the operator sets the quirk {TRUST}."
        )
        return AdapterError(Code.UNSUPPORTED, sentence)
    if isinstance(error, ImportError):
        sentence = f"{name!r} needs a package that this environment has not (it said: {said})."
        return AdapterError(Code.UNSUPPORTED, sentence)
    return AdapterError(
        Code.INVALID_MODEL,
        f"The engine cannot load {name!r} (architecture {architecture}); it said: {said}.",
    )


def failed(error: Exception) -> AdapterError:
    """The error for what ended a reply; the model is loaded anew for the next one."""
    if is_no_memory(error):
        return AdapterError(
            Code.OUT_OF_MEMORY,
            "The engine ran out of memory: load with a smaller options.context_length, or fewer slots.",
        )
    return AdapterError(
        Code.UPSTREAM_ERROR,
        f"The engine failed in the middle of its answer (it said: {redacted(str(error))}); try again.",
    )


def is_no_memory(error: BaseException) -> bool:
    """Whether the memory ran out, of the machine or of a GPU."""
    if isinstance(error, AdapterError):
        return error.code is Code.OUT_OF_MEMORY
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in _NO_MEMORY)

"""Whether an engine's failure was for want of memory, and what it is told to try instead."""

from __future__ import annotations

from typing import Final

import pytest

from workers.engine_memory import smaller_context, was_memory

LITTLE: Final = 1 << 20
NO_MACHINE: Final = 1 << 60


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("failed to allocate buffer for kv cache"),
        ValueError('DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")'),
        ValueError("mmap: Cannot allocate memory (os error 12)"),
        RuntimeError("std::bad_alloc"),
    ],
    ids=lambda error: str(error)[:20] or type(error).__name__,
)
def test_an_engine_that_says_it_is_believed(error: Exception) -> None:
    assert was_memory(error, LITTLE)


def test_one_that_does_not_say_it_is_measured_against_what_can_be_had() -> None:
    error = RuntimeError("Failed to init server, please check the input params.")
    assert not was_memory(error, LITTLE)
    assert was_memory(error, NO_MACHINE)


@pytest.mark.parametrize(
    ("weights", "token", "context", "remedy"),
    [
        pytest.param(LITTLE, 1, 8192, "options.context_length of 4096", id="half"),
        pytest.param(LITTLE, NO_MACHINE >> 10, 1 << 20, "a smaller model", id="no context is small enough"),
        pytest.param(NO_MACHINE, 1, 8192, "a smaller model", id="the weights alone are too much"),
        pytest.param(LITTLE, 1, 256, "a smaller model", id="the context is the smallest"),
    ],
)
def test_the_next_smaller_setting_is_one_that_can_be_had(
    weights: int, token: int, context: int, remedy: str
) -> None:
    assert smaller_context(weights, token, context) == remedy

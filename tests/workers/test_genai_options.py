"""How a model is loaded into ONNX Runtime GenAI: what a client says, what it gets unsaid, and what fits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

import pytest

from workers.adapter import AdapterError
from workers.codes import Code
from workers.engine_options import GIB, read_options
from workers.genai_folder import GenaiModel
from workers.genai_options import Given, Used, check_memory, fill, smaller

MODEL: Final = GenaiModel(
    kind="phi3",
    context_length=32768,
    template="{{ messages }}",
    words={},
    eos_ids=(2,),
    kv_bytes=1 << 17,
    devices=(),
    windowed=False,
    files={Path("model.onnx.data"): 2 * GIB},
)
"""With a context of 8192 tokens each of two requests needs 1 GiB."""


def used(**fields: Any) -> Used:
    return dataclasses.replace(fill(Given(), MODEL, "cpu", 8), **fields)


def test_a_model_gets_what_suits_it_and_the_machine() -> None:
    assert fill(Given(), MODEL, "cpu", 8) == Used(8192, 2, 4, "cpu", prefix_cache=True, transcript=False)
    short = dataclasses.replace(MODEL, context_length=2048, template=None)
    assert fill(Given(), short, "cuda", 1) == Used(2048, 2, 1, "cuda", prefix_cache=True, transcript=True)


def test_what_is_given_wins() -> None:
    given, warnings = read_options(
        {
            "context_length": 512,
            "slots": 4,
            "threads": 1,
            "device": "cuda:1",
            "prefix_cache": False,
            "transcript": True,
        },
        Given,
    )
    found = fill(given, MODEL, "cuda:1", 8)
    assert (found, warnings) == (
        Used(512, 4, 1, "cuda:1", prefix_cache=False, transcript=True),
        (),
    )
    assert found.will_do_for(given)
    assert not found.will_do_for(Given(context_length=1024))


@pytest.mark.parametrize(
    ("memory_gib", "remedy"),
    [
        (3.2, "options.slots of 1"),
        (2.7, "options.context_length of 4096 and options.slots of 1"),
        (1.0, "a smaller model"),
    ],
)
def test_a_model_that_cannot_fit_says_what_would(memory_gib: float, remedy: str) -> None:
    with pytest.raises(AdapterError) as caught:
        check_memory("big", used(), MODEL, int(memory_gib * GIB))
    assert caught.value.code is Code.OUT_OF_MEMORY
    assert (
        "'big' needs about 4.1 GiB with a context of 8192 tokens for each of 2 requests"
        in caught.value.message
    )
    assert f"try {remedy}." in caught.value.message


@pytest.mark.parametrize("memory_bytes", [0, 5 * GIB], ids=["nobody says how large", "large enough"])
def test_what_fits_is_not_refused(memory_bytes: int) -> None:
    check_memory("big", used(), MODEL, memory_bytes)


def test_the_next_smaller_setting_is_the_one_that_is_missed_least() -> None:
    assert smaller(used()) == "options.slots of 1"
    assert smaller(used(slots=1)) == "options.context_length of 4096 and options.slots of 1"
    assert smaller(used(slots=1, context_length=256)) == "a smaller model"

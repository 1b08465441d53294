"""How a model is loaded into torch: what a client says, what it gets unsaid, and what fits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

import pytest

from workers.adapter import AdapterError
from workers.codes import Code
from workers.engine_options import GIB, read_options
from workers.folder_model import FolderModel
from workers.torch_options import Given, Machine, Used, check_memory, fill, smaller

MODEL: Final = FolderModel(
    architecture="LlamaForCausalLM",
    context_length=32768,
    template="{{ messages }}",
    words={},
    eos_ids=(2,),
    kv_bytes=1 << 16,
    parameters=GIB,
    files={Path("model.safetensors"): 2 * GIB},
)
MACHINE: Final = Machine("cpu", "float32", 64 * GIB, processors=8)


def used(**fields: Any) -> Used:
    return dataclasses.replace(fill(Given(), MODEL, MACHINE), **fields)


def machine(free_gib: float, **fields: Any) -> Machine:
    return dataclasses.replace(MACHINE, free_bytes=int(free_gib * GIB), **fields)


def test_a_model_gets_what_suits_it_and_the_machine() -> None:
    assert fill(Given(), MODEL, MACHINE) == Used(
        8192, 2, 4, "cpu", "float32", None, None, prefix_cache=True, transcript=False
    )


def test_what_is_given_wins() -> None:
    given = Given(*(512, 4, 1, None, "float16", None, "v1"), prefix_cache=False, transcript=True)
    assert fill(given, MODEL, MACHINE) == Used(
        512, 4, 1, "cpu", "float16", None, "v1", prefix_cache=False, transcript=True
    )


def test_a_context_is_not_longer_than_the_model_was_trained_for() -> None:
    short = dataclasses.replace(MODEL, context_length=2048)
    assert fill(Given(context_length=4096), short, MACHINE).context_length == 2048


def test_a_model_without_a_template_gets_a_transcript() -> None:
    assert fill(Given(), dataclasses.replace(MODEL, template=None), MACHINE).transcript


def test_half_the_bits_are_taken_where_only_they_fit() -> None:
    assert fill(Given(), MODEL, machine(5)).dtype == "bfloat16"
    assert fill(Given(dtype="float32"), MODEL, machine(5)).dtype == "float32"
    assert fill(Given(), MODEL, machine(1)).dtype == "float32", "neither fits"


@pytest.mark.parametrize(
    ("given", "will_do"),
    [
        (Given(), True),
        (Given(device="cpu", slots=2), True),
        (Given(dtype="bfloat16"), False),
        (Given(revision="v1"), False),
    ],
)
def test_a_loaded_model_serves_whoever_asks_for_nothing_else(given: Given, will_do: bool) -> None:
    assert used().will_do_for(given) is will_do


def test_what_fits_is_not_spoken_of() -> None:
    check_memory("tiny", used(), MODEL, MACHINE)
    check_memory("tiny", used(), MODEL, machine(0))  # nobody knows how much there is


@pytest.mark.parametrize(
    ("fields", "free_gib", "more", "remedy"),
    [
        ({}, 5.0, {}, "options.dtype of 'bfloat16'"),
        ({"dtype": "bfloat16"}, 2.7, {}, "options.slots of 1"),
        ({"dtype": "bfloat16"}, 2.2, {"quantizes": True}, "options.quantization of '8bit'"),
        ({"quantization": "8bit", "dtype": "bfloat16"}, 2.0, {"quantizes": True}, "options.slots of 1"),
        ({"dtype": "bfloat16"}, 2.2, {}, "options.context_length of 1024 and options.slots of 1"),
        ({"dtype": "bfloat16"}, 0.1, {}, "a smaller model"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(
    fields: dict[str, Any], free_gib: float, more: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(AdapterError) as caught:
        check_memory("big", used(**fields), MODEL, machine(free_gib, **more))
    assert caught.value.code is Code.OUT_OF_MEMORY
    assert caught.value.message.endswith(f"try {remedy}.")


def test_the_next_smaller_setting_is_named_for_what_ran_out_later() -> None:
    assert smaller(used(), MODEL, MACHINE) == "options.dtype of 'bfloat16'"
    last = used(dtype="bfloat16", slots=1, context_length=256)
    assert smaller(last, MODEL, MACHINE) == "a smaller model"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "tpu"}, "options.device must be cpu, mps, webgpu, cuda"),
        ({"device": 0}, "options.device must be"),
        ({"dtype": "int4"}, "options.dtype must be one of float32"),
        ({"quantization": 4}, "options.quantization must be one of 8bit"),
        ({"revision": "../../x"}, "options.revision must be a commit"),
        ({"revision": "a/b"}, "options.revision must be a commit"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(AdapterError) as caught:
        read_options(options, Given)
    assert caught.value.code is Code.INVALID_REQUEST
    assert words in caught.value.message


def test_options_are_read_in_any_case() -> None:
    given, warnings = read_options({"dtype": "BFloat16", "device": "cuda:1", "quantization": "4BIT"}, Given)
    assert given == Given(dtype="bfloat16", device="cuda:1", quantization="4bit")
    assert warnings == ()

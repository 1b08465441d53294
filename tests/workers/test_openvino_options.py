"""How a model is loaded into OpenVINO: what a client says, what it gets unsaid, and what fits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

import pytest

from workers.adapter import AdapterError
from workers.codes import Code
from workers.engine_options import GIB, read_options
from workers.folder_model import FolderModel
from workers.openvino_options import Given, Machine, Used, check_memory, device_of, fill, smaller

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
EXPORTED: Final = dataclasses.replace(MODEL, parameters=0, files={Path("openvino_model.bin"): GIB})
MACHINE: Final = Machine("GPU", 64 * GIB, processors=8)


def used(**fields: Any) -> Used:
    return dataclasses.replace(fill(Given(), MODEL, MACHINE), **fields)


def machine(free_gib: float) -> Machine:
    return dataclasses.replace(MACHINE, free_bytes=int(free_gib * GIB))


def test_a_model_gets_what_suits_it_and_the_machine() -> None:
    assert fill(Given(), MODEL, MACHINE) == Used(
        8192, 4, "GPU", None, None, prefix_cache=True, transcript=False
    )


def test_what_is_given_wins() -> None:
    given = Given(512, 1, None, "4bit", "v1", prefix_cache=False, transcript=True)
    assert fill(given, MODEL, MACHINE) == Used(
        512, 1, "GPU", "4bit", "v1", prefix_cache=False, transcript=True
    )


def test_a_context_is_not_longer_than_the_model_was_trained_for() -> None:
    short = dataclasses.replace(MODEL, context_length=2048)
    assert fill(Given(context_length=4096), short, MACHINE).context_length == 2048


def test_a_model_without_a_template_gets_a_transcript() -> None:
    assert fill(Given(), dataclasses.replace(MODEL, template=None), MACHINE).transcript


@pytest.mark.parametrize(
    ("said", "named"),
    [("cpu", "CPU"), ("gpu", "GPU"), ("gpu:0", "GPU"), ("gpu:1", "GPU.1"), ("GPU.0", "GPU")],
)
def test_a_device_has_one_name(said: str, named: str) -> None:
    assert device_of(said) == named


@pytest.mark.parametrize(
    ("given", "will_do"),
    [
        (Given(), True),
        (Given(device="gpu", threads=4), True),
        (Given(device="gpu:0"), True),
        (Given(device="gpu:1"), False),
        (Given(quantization="8bit"), False),
        (Given(revision="v1"), False),
    ],
)
def test_a_loaded_model_serves_whoever_asks_for_nothing_else(given: Given, will_do: bool) -> None:
    assert used().will_do_for(given) is will_do


def test_what_fits_is_not_spoken_of() -> None:
    check_memory("tiny", used(), MODEL, MACHINE)
    check_memory("tiny", used(), MODEL, machine(0))  # nobody knows how much there is


@pytest.mark.parametrize(
    ("fields", "model", "free_gib", "remedy"),
    [
        ({}, MODEL, 2.5, "options.quantization of '8bit'"),
        ({}, MODEL, 1.5, "options.quantization of '4bit'"),
        ({"quantization": "8bit"}, MODEL, 1.5, "options.quantization of '4bit'"),
        ({"quantization": "4bit"}, MODEL, 1.0, "options.context_length of 4096"),
        ({}, EXPORTED, 1.2, "options.context_length of 2048"),
        ({}, EXPORTED, 0.5, "a smaller model"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(
    fields: dict[str, Any], model: FolderModel, free_gib: float, remedy: str
) -> None:
    with pytest.raises(AdapterError) as caught:
        check_memory("big", used(**fields), model, machine(free_gib))
    assert caught.value.code is Code.OUT_OF_MEMORY
    assert caught.value.message.endswith(f"try {remedy}.")


def test_the_next_smaller_setting_is_named_for_what_ran_out_later() -> None:
    assert smaller(used(), MODEL) == "options.quantization of '8bit'"
    assert smaller(used(), EXPORTED) == "options.context_length of 4096"
    assert smaller(used(context_length=256), EXPORTED) == "a smaller model"


def test_options_are_read_as_other_engines_read_them() -> None:
    given, warnings = read_options({"device": "gpu:1", "quantization": "4BIT", "slots": 2}, Given)
    assert given == Given(device="gpu:1", quantization="4bit")
    assert [warning.name for warning in warnings] == ["UNKNOWN_OPTION"]

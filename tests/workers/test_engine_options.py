"""Options of a load into an engine, what is used where none is given, and what cannot fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import pytest

from workers.adapter import AdapterError
from workers.codes import Code
from workers.engine_options import (
    CONTEXT,
    SLOTS,
    Given,
    check_memory,
    fill,
    outlasts_its_connection,
    read_options,
)
from workers.gguf_header import GgufHeader
from workers.mistral_options import Given as Mistral

HEADER: Final = GgufHeader("llama", context_length=32_768, template="{{ messages }}", kv_bytes=1 << 17)
GIB: Final = 1 << 30


def test_what_is_given_is_read_and_null_is_not_given() -> None:
    given, warnings = read_options(
        {"context_length": 4096.0, "threads": 4, "slots": None, "transcript": True}, Given
    )
    assert given == Given(context_length=4096, threads=4, transcript=True)
    assert warnings == ()


def test_what_means_nothing_is_a_warning_that_names_what_does() -> None:
    _, (warning,) = read_options({"n_ctx": 4096}, Given)
    assert "n_ctx" in warning.message
    assert "context_length" in warning.message


@pytest.mark.parametrize("value", ["4096", True, 4096.5, 0, 1 << 40, [4096]])
def test_a_context_must_be_a_number_that_can_be_meant(value: Any) -> None:
    with pytest.raises(AdapterError) as caught:
        read_options({"context_length": value}, Given)
    assert caught.value.code is Code.INVALID_REQUEST


def test_what_is_not_given_suits_the_model_and_leaves_processors_for_others() -> None:
    used = fill(Given(), HEADER, processors=8)
    assert (used.context_length, used.slots, used.gpu_layers, used.threads) == (CONTEXT, SLOTS, None, 4)
    assert not used.transcript
    assert fill(Given(), HEADER, processors=1).threads == 1


def test_a_context_is_not_longer_than_the_model_was_trained_for() -> None:
    assert fill(Given(context_length=100_000), HEADER, 1).context_length == 32_768
    assert fill(Given(context_length=100_000), replace(HEADER, context_length=0), 1).context_length == 100_000


def test_a_model_without_a_template_gets_a_transcript_unless_the_client_knows_better() -> None:
    bare = replace(HEADER, template=None)
    assert fill(Given(), bare, 1).transcript
    assert not fill(Given(transcript=False), bare, 1).transcript


def test_a_loaded_model_will_do_for_whoever_asks_for_nothing_else() -> None:
    used = fill(Given(context_length=4096), HEADER, 2)
    assert used.will_do_for(Given())
    assert used.will_do_for(Given(context_length=4096, slots=SLOTS))
    assert not used.will_do_for(Given(context_length=8192))


def test_a_model_that_fits_is_not_refused() -> None:
    used = fill(Given(), HEADER, 2)
    check_memory("mia", used, HEADER, file_bytes=GIB, memory_bytes=4 * GIB)
    check_memory("mia", used, replace(HEADER, kv_bytes=0), file_bytes=GIB, memory_bytes=GIB)


@pytest.mark.parametrize(
    ("memory_gib", "remedy"),
    [(3, "options.context_length of 8192"), (2.5, "options.context_length of 4096"), (1, "a smaller file")],
)
def test_a_model_that_cannot_fit_comes_with_a_remedy(memory_gib: float, remedy: str) -> None:
    used = fill(Given(context_length=16_384), HEADER, 2)
    with pytest.raises(AdapterError) as caught:
        check_memory("mia", used, HEADER, file_bytes=GIB, memory_bytes=int(memory_gib * GIB))
    assert caught.value.code is Code.OUT_OF_MEMORY
    assert remedy in caught.value.message
    assert "5.0 GiB" in caught.value.message


def test_a_word_is_one_of_few_in_any_case() -> None:
    given, _ = read_options({"isq": "q4k"}, Mistral)
    assert given.isq == "Q4K"
    for value in ("Q9", 4, True):
        with pytest.raises(AdapterError) as caught:
            read_options({"isq": value}, Mistral)
        assert "options.isq must be one of Q2K" in caught.value.message


@pytest.mark.parametrize(
    ("options", "stays"),
    [({}, False), ({"keep_alive": None}, False), ({"keep_alive": 0}, False), ({"keep_alive": 0.0}, False),
     ({"keep_alive": 30}, True), ({"keep_alive": -1}, True)],
)  # fmt: skip
def test_a_model_outlasts_the_connection_that_asks_for_it(options: dict[str, Any], stays: bool) -> None:
    assert outlasts_its_connection(options) is stays

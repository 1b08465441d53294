"""How a model is loaded into mistral.rs, and what cannot fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from workers.adapter import AdapterError
from workers.codes import Code
from workers.engine_options import CONTEXT, GIB, SLOTS
from workers.mistral_options import Facts, Given, cache_bytes, check_memory, fill, smaller

BILLION: Final = 1_000_000_000
FACTS: Final = Facts(
    32_768, "{{ messages }}", kv_bytes=1 << 15, parameters=8 * BILLION, file_bytes=16 * BILLION
)


def refusal(given: Given, facts: Facts, memory_bytes: int) -> str:
    with pytest.raises(AdapterError) as caught:
        check_memory("mia", fill(given, facts, 1), facts, memory_bytes)
    assert caught.value.code is Code.OUT_OF_MEMORY
    return caught.value.message


def test_what_is_not_given_suits_the_model() -> None:
    used = fill(Given(), FACTS, 4)
    assert (used.context_length, used.slots, used.threads, used.isq) == (CONTEXT, SLOTS, 4, None)
    assert (used.prefix_cache, used.transcript) == (True, False)
    assert fill(Given(context_length=100_000), FACTS, 1).context_length == 32_768
    assert fill(Given(), replace(FACTS, template=None), 1).transcript
    assert not fill(Given(prefix_cache=False), FACTS, 1).prefix_cache


def test_a_loaded_model_will_do_for_whoever_asks_for_nothing_else() -> None:
    used = fill(Given(isq="Q4K"), FACTS, 2)
    assert used.will_do_for(Given())
    assert used.will_do_for(Given(isq="Q4K", threads=2))
    assert not used.will_do_for(Given(isq="Q8_0"))


def test_weights_take_twice_their_files_unless_they_are_quantised() -> None:
    used = fill(Given(), FACTS, 1)
    check_memory("mia", used, FACTS, 33 * BILLION)
    assert "about 30.3 GiB" in refusal(Given(), FACTS, 32 * BILLION)
    check_memory("mia", replace(used, isq="Q4K"), FACTS, 6 * BILLION)


@pytest.mark.parametrize(
    ("given", "memory_bytes", "remedy"),
    [
        (Given(), 16 * GIB, "options.isq of 'Q8_0'"),
        (Given(), 8 * GIB, "options.isq of 'Q4K'"),
        (Given(isq="Q8_0"), 8 * GIB, "options.isq of 'Q4K'"),
        (Given(), 1 * GIB, "a smaller model"),
        (Given(isq="Q2K", context_length=32_768), 4 * GIB, "options.context_length of 16384"),
    ],
)
def test_what_cannot_fit_names_the_next_smaller_setting(given: Given, memory_bytes: int, remedy: str) -> None:
    assert f"try {remedy}." in refusal(given, FACTS, memory_bytes)


def test_a_gguf_file_takes_its_own_size() -> None:
    gguf = replace(FACTS, parameters=0, file_bytes=4 * GIB)
    check_memory("mia", fill(Given(), gguf, 1), gguf, 5 * GIB)
    assert "a smaller model" in refusal(Given(), gguf, 4 * GIB)


def test_conversations_keep_a_part_of_the_machine() -> None:
    assert cache_bytes(16 * GIB) == 2 * GIB


def test_what_cannot_be_loaded_is_told_the_next_smaller_kind_of_weights() -> None:
    said = [smaller(fill(Given(isq=isq), FACTS, 1), FACTS) for isq in (None, "Q8_0", "Q4K")]
    assert said == ["options.isq of 'Q8_0'", "options.isq of 'Q4K'", "a smaller model"]
    assert smaller(fill(Given(), FACTS, 1), replace(FACTS, parameters=0)) == "a smaller model"

"""What a client may say in `options` of a load of Ollama."""

from __future__ import annotations

from typing import Any

import pytest

from workers.adapter import AdapterError
from workers.codes import Code
from workers.ollama_options import Given, read_options


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Given()),
        ({"num_ctx": None, "keep_alive": None, "unload_on_close": None}, Given()),
        ({"num_ctx": 8192}, Given({"num_ctx": 8192})),
        ({"num_ctx": 8192.0}, Given({"num_ctx": 8192})),
        ({"context_length": 4096}, Given({"num_ctx": 4096})),
        ({"context_length": 4096, "num_ctx": 8192}, Given({"num_ctx": 8192})),
        ({"num_gpu": 0, "num_thread": 4, "num_batch": 128}, None),
        ({"keep_alive": "5m"}, Given(keep_alive="5m")),
        ({"keep_alive": "1h30m"}, Given(keep_alive="1h30m")),
        ({"keep_alive": "-1m"}, Given(keep_alive="-1m")),
        ({"keep_alive": -1}, Given(keep_alive=-1)),
        ({"keep_alive": 0}, Given(keep_alive=0)),
        ({"keep_alive": "300"}, Given(keep_alive=300.0)),
        ({"unload_on_close": True}, Given(unload_on_close=True)),
        ({"unload_on_close": False}, Given()),
    ],
)
def test_options_are_ollamas_own_and_our_word_for_the_context(
    options: dict[str, Any], expected: Given | None
) -> None:
    given, warnings = read_options(options)
    assert given == (expected or Given(options))
    assert warnings == ()


@pytest.mark.parametrize(
    "options",
    [
        {"num_ctx": "8192"},
        {"num_ctx": True},
        {"num_ctx": -1},
        {"num_ctx": 1.5},
        {"num_gpu": 1 << 40},
        {"keep_alive": "soon"},
        {"keep_alive": ""},
        {"keep_alive": True},
        {"keep_alive": []},
        {"unload_on_close": "yes"},
    ],
    ids=str,
)
def test_a_value_that_cannot_be_meant_is_told_with_its_name(options: dict[str, Any]) -> None:
    with pytest.raises(AdapterError) as caught:
        read_options(options)
    assert caught.value.code is Code.INVALID_REQUEST
    assert f"options.{next(iter(options))}" in caught.value.message


def test_an_option_without_a_meaning_is_a_warning() -> None:
    given, warnings = read_options({"num_ctxt": 8192, "region": "x"})
    assert given == Given()
    assert [warning.name for warning in warnings] == ["UNKNOWN_OPTION"]
    assert "num_ctxt, region" in warnings[0].message
    assert "num_ctx" in warnings[0].message

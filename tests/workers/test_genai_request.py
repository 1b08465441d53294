"""What a request says to ONNX Runtime GenAI beyond its messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fakes.bound import request
from workers.adapter import AdapterError
from workers.codes import Code
from workers.genai_request import check, grammar_of, search_of, unknown


@pytest.mark.parametrize("response_format", [None, {}, {"type": "text"}])
def test_plain_text_has_no_grammar(response_format: dict[str, Any] | None) -> None:
    assert grammar_of(request(response_format=response_format)) is None


def test_a_schema_becomes_a_grammar_without_white_space_unless_it_says_otherwise() -> None:
    found = grammar_of(request(response_format={"type": "json_object"}))
    assert found is not None
    tight = {"whitespace_flexible": False}
    assert (found[0], json.loads(found[1])) == ("json_schema", {"type": "object", "x-guidance": tight})
    schema = {"enum": ["yes"], "x-guidance": {"whitespace_flexible": True}}
    found = grammar_of(request(response_format={"type": "json_schema", "json_schema": {"schema": schema}}))
    assert found is not None
    assert json.loads(found[1]) == schema


@pytest.mark.parametrize(
    "response_format",
    [{"type": "poem"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"schema": "x"}}],
)
def test_what_is_no_grammar_is_an_invalid_prompt(response_format: dict[str, Any]) -> None:
    with pytest.raises(AdapterError) as caught:
        grammar_of(request(response_format=response_format))
    assert caught.value.code is Code.INVALID_PROMPT


@pytest.mark.parametrize(
    ("fields", "search"),
    [
        ({"temperature": 0.0}, {"do_sample": False, "top_k": 0}),
        ({"sampling": {"top_k": 1, "top_p": 0.5}}, {"do_sample": False, "top_k": 0}),
        (
            {"temperature": 0.7, "sampling": {"top_k": 5, "top_p": 0.5, "seed": 2**40 + 7}},
            {"do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.5, "random_seed": 7},
        ),
        (
            {"sampling": {"repetition_penalty": 1.1}},
            {"do_sample": True, "temperature": 1.0, "top_k": 0, "repetition_penalty": 1.1},
        ),
    ],
    ids=["cold", "likeliest", "drawn", "penalty"],
)
def test_where_a_grammar_leads_the_library_is_told_what_it_knows(
    fields: dict[str, Any], search: dict[str, float]
) -> None:
    assert search_of(request(**fields)) == search


def test_what_nothing_heeds_is_named() -> None:
    plain = unknown(request(extra={"ignore_eos": True, "n": 2}, sampling={"min_p": 0.1}))
    assert [warning.message.partition(" ")[0] for warning in plain] == ["extra.n"]
    led = unknown(request(response_format={"type": "json_object"}, sampling={"min_p": 0.1, "top_p": 0.5}))
    assert [warning.message.partition(" ")[0] for warning in led] == ["min_p"]


def test_a_penalty_of_nothing_cannot_be_meant() -> None:
    check(request(sampling={"repetition_penalty": 0.5}))
    with pytest.raises(AdapterError, match="above 0"):
        check(request(sampling={"repetition_penalty": 0.0}))

"""Scripts: what is accepted, and that a bad one is named by its place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.adapter import AdapterError, Usage
from workers.codes import Code
from workers.script import Failure, ScriptedReply, parse_script, parse_script_text, split_words


def test_a_list_of_replies_is_a_script() -> None:
    script = parse_script([{"text": "Hi there"}], "s")
    assert script.replies == (ScriptedReply(chunks=("Hi ", "there")),)
    assert script.models == ("demo",)


def test_an_object_may_name_models() -> None:
    script = parse_script({"models": ["a", "b"], "replies": [{}]}, "s")
    assert (script.models, script.replies) == (("a", "b"), (ScriptedReply(),))


def test_every_field() -> None:
    reply = {
        "match": "hi",
        "chunks": ["a", "b"],
        "reasoning": ["hm"],
        "first_delay_ms": 1500,
        "delay_ms": 0.5,
        "repeat": 3,
        "hang": True,
        "error": {"code": "RATE_LIMITED", "message": "Slow.", "retry_after_ms": 10},
        "finish": "length",
        "usage": {"input_tokens": 1, "reasoning_tokens": 2},
    }
    assert parse_script([reply], "s").replies == (
        ScriptedReply(
            match=("hi",),
            chunks=("a", "b"),
            reasoning=("hm",),
            first_delay_s=1.5,
            delay_s=0.0005,
            repeat=3,
            hang=True,
            failure=Failure(Code.RATE_LIMITED, "Slow.", 10),
            finish="length",
            usage=Usage(input_tokens=1, reasoning_tokens=2),
        ),
    )


def test_null_means_absent_but_for_finish() -> None:
    reply = dict.fromkeys(("match", "text", "chunks", "reasoning", "delay_ms", "repeat", "error", "usage"))
    assert parse_script([reply], "s").replies == (ScriptedReply(),)
    assert parse_script([{"finish": None}], "s").replies == (ScriptedReply(finish=None),)


@pytest.mark.parametrize(
    ("script", "place"),
    [
        pytest.param(None, "s must be a list", id="nothing"),
        pytest.param([], "s must be a list", id="empty"),
        pytest.param({}, "s.replies must be a list", id="no replies"),
        pytest.param({"reply": []}, "s.reply is not known", id="unknown key"),
        pytest.param({"models": 1, "replies": [{}]}, "s.models must", id="models"),
        pytest.param({"models": [], "replies": [{}]}, "s.models must", id="no models"),
        pytest.param(["x"], "s[0] must be an object", id="reply"),
        pytest.param([{}, {"txt": "x"}], "s[1].txt is not known", id="unknown field"),
        pytest.param([{"text": "x", "chunks": ["x"]}], "s[0] has both", id="both"),
        pytest.param([{"text": 1}], "s[0].text must", id="text"),
        pytest.param([{"chunks": ["a", 1]}], "s[0].chunks[1] must", id="chunk"),
        pytest.param([{"chunks": [""]}], "s[0].chunks[0] must", id="empty chunk"),
        pytest.param([{"match": {}}], "s[0].match must", id="match"),
        pytest.param([{"delay_ms": -1}], "s[0].delay_ms must", id="negative delay"),
        pytest.param([{"delay_ms": True}], "s[0].delay_ms must", id="delay that is true"),
        pytest.param([{"first_delay_ms": 1e9}], "s[0].first_delay_ms must", id="endless delay"),
        pytest.param([{"delay_ms": float("nan")}], "s[0].delay_ms must", id="no number"),
        pytest.param([{"repeat": 0}], "s[0].repeat must", id="repeat"),
        pytest.param([{"repeat": 1.5}], "s[0].repeat must", id="half a repeat"),
        pytest.param([{"hang": "yes"}], "s[0].hang must", id="hang"),
        pytest.param([{"finish": "done"}], "s[0].finish must", id="finish"),
        pytest.param([{"error": "x"}], "s[0].error must", id="error"),
        pytest.param([{"error": {}}], "s[0].error.code must", id="no code"),
        pytest.param([{"error": {"code": "SUCCESS"}}], "s[0].error.code must", id="no failure"),
        pytest.param([{"error": {"code": ["x"]}}], "s[0].error.code must", id="a list for a code"),
        pytest.param([{"error": {"code": "QUOTA", "message": 1}}], "s[0].error.message", id="message"),
        pytest.param([{"error": {"code": "QUOTA", "retry_after_ms": "x"}}], "s[0].error.retry", id="wait"),
        pytest.param([{"usage": 5}], "s[0].usage must", id="usage"),
        pytest.param([{"usage": {"tokens": 5}}], "s[0].usage.tokens is not", id="usage field"),
        pytest.param([{"usage": {"input_tokens": "x"}}], "s[0].usage.input_tokens must", id="usage number"),
    ],
)
def test_a_bad_script_is_named_by_its_place(script: Any, place: str) -> None:
    with pytest.raises(AdapterError) as caught:
        parse_script(script, "s")
    assert caught.value.code == Code.INVALID_REQUEST
    assert caught.value.message.startswith(place)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_a_file_that_is_no_json_is_named(text: str) -> None:
    with pytest.raises(AdapterError, match="the script is") as caught:
        parse_script_text(text, "the script")
    assert caught.value.code == Code.INVALID_REQUEST


def test_a_file_is_a_script() -> None:
    assert parse_script_text(json.dumps([{"text": "x"}]), "s") == parse_script([{"text": "x"}], "s")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["replies", "text", "error", "code", "usage"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON)
def test_no_json_breaks_the_parser(value: Any) -> None:
    try:
        parse_script(value, "s")
    except AdapterError as exc:
        assert exc.code == Code.INVALID_REQUEST


@given(st.text())
def test_words_add_up_to_the_text(text: str) -> None:
    assert "".join(split_words(text)) == text

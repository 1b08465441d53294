"""Requests as bodies: stops, what is left out and said so, and who has the last word."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fakes.bound import request as asked
from workers.adapter import AdapterError, Message, Request
from workers.chat_body import build
from workers.codes import Code
from workers.parameters import Body
from workers.quirks import Quirks


def body(quirks: Quirks | None = None, refused: tuple[str, ...] = (), **fields: Any) -> Body:
    values: dict[str, Any] = {
        "id": 1,
        "messages": (Message("user", "Hi"),),
        "model": "m",
        "stream": True,
        "timeout_s": 60.0,
    }
    return build(Request(**{**values, **fields}), quirks or Quirks(), refused=refused)


def names(made: Body) -> list[str]:
    return [warning.message.split()[0] for warning in made.warnings]


def test_a_plain_request_holds_what_every_server_knows_and_nothing_else() -> None:
    assert dict(body().fields) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 200,
        "temperature": 1.0,
        "stream": True,
    }
    assert "model" not in body(model="").fields


@pytest.mark.parametrize(
    ("stops", "sent"),
    [
        (("\n",), None),
        (("\n", " ", "\t\n", "END"), ["END"]),
        (("a", "b", "c", "d", "e"), ["a", "b", "c", "d"]),
        (("a", "a", "b"), ["a", "b"]),
        ((), None),
    ],
)
def test_stops_of_white_space_are_never_sent_and_others_only_so_many(
    stops: tuple[str, ...], sent: list[str] | None
) -> None:
    assert body(Quirks(stop_max=4), stop=stops).fields.get("stop") == sent


@pytest.mark.parametrize(
    ("quirks", "fields"),
    [
        (Quirks(), {}),
        (Quirks(stop_max=4, reasoning_models=("M*",)), {}),
        (Quirks(stop_max=4, unsupported=("stop",)), {}),
        (Quirks(stop_max=4), {"reasoning_effort": "low"}),
        (Quirks(stop_max=4), {"extra": {"thinking": {"type": "enabled"}}}),
    ],
)
def test_stops_are_not_sent_where_a_model_may_think(quirks: Quirks, fields: dict[str, Any]) -> None:
    assert "stop" not in body(quirks, stop=("a",), **fields).fields


@pytest.mark.parametrize(
    ("stops", "streamed"), [((), False), (("a",), False), (("a", "\n"), True), (("a", "a"), False)]
)
def test_an_unstreamed_request_is_streamed_where_the_worker_must_cut(
    stops: tuple[str, ...], streamed: bool
) -> None:
    fields = body(Quirks(stop_max=4, stream_usage=True), stop=stops, stream=False).fields
    assert ("stream" in fields, "stream_options" in fields) == (streamed, streamed)


def test_a_format_that_cannot_be_streamed_is_not() -> None:
    wanted: dict[str, Any] = {"response_format": {"type": "json_object"}, "stop": ("\n",)}
    assert "stream" not in body(Quirks(json_unstreamed=True), **wanted).fields
    assert body(Quirks(), **wanted).fields["stream"] is True


def test_what_is_left_out_or_changed_is_told() -> None:
    quirks = Quirks(unsupported=("top_k", "response_format"), temperature_max=1.5, top_p_min=0.001)
    made = body(
        quirks,
        refused=("seed",),
        temperature=1.9,
        sampling={"top_k": 4.0, "top_p": 0.0, "seed": 1.0, "presence_penalty": 0.5},
        response_format={"type": "json_object"},
    )
    assert names(made) == ["temperature", "top_k", "top_p", "seed", "response_format"]
    assert made.fields["temperature"] == 1.5
    assert made.fields["presence_penalty"] == 0.5
    assert not {"top_k", "seed", "response_format"} & set(made.fields)


def test_whole_numbers_are_sent_as_such_and_fields_have_the_providers_names() -> None:
    quirks = Quirks(seed_field="random_seed", repetition_penalty_field="repeat_penalty")
    fields = body(quirks, sampling={"seed": 5.0, "top_k": 40.0, "repetition_penalty": 1.0}).fields
    assert json.dumps([fields["random_seed"], fields["top_k"], fields["repeat_penalty"]]) == "[5, 40, 1.0]"


def test_a_neutral_temperature_is_left_out_in_silence() -> None:
    assert names(body(refused=("temperature",))) == []
    assert names(body(refused=("temperature",), temperature=0.5)) == ["temperature"]


def test_extra_has_the_last_word() -> None:
    fields = body(extra={"max_tokens": 5, "new": [1]}).fields
    assert (fields["max_tokens"], fields["new"]) == (5, [1])


def test_token_ids_are_sent_where_there_is_a_field_and_refused_elsewhere() -> None:
    assert body(Quirks(stop_ids_field="ids"), stop_ids=(1, 2)).fields["ids"] == [1, 2]
    with pytest.raises(AdapterError) as caught:
        body(stop_ids=(1,))
    assert caught.value.code is Code.UNSUPPORTED


def test_an_effort_of_none_turns_thinking_off_once() -> None:
    quirks = Quirks(thinking_off={"think": False}, reasoning_models=("m",), reasoning_headroom=100)
    fields = body(quirks, reasoning_effort="none").fields
    assert (fields["think"], fields["max_tokens"], "reasoning_effort" in fields) == (False, 200, False)
    assert body(quirks, reasoning_effort="low").fields["max_tokens"] == 300


@pytest.mark.parametrize(
    ("efforts", "wanted", "sent", "warned"),
    [
        ((), "minimal", "minimal", False),
        (("low", "medium", "high"), "medium", "medium", False),
        (("low", "medium", "high"), "minimal", "low", True),
        (("low", "medium", "high"), "xhigh", "high", True),
        (("low", "medium", "high"), "none", None, False),
        (("none", "high"), "low", "high", True),
        (("none", "high"), "none", "none", False),
        (("none", "default"), "low", "default", True),
        (("none",), "low", None, False),
    ],
)
def test_an_effort_is_the_nearest_that_the_provider_knows(
    efforts: tuple[str, ...], wanted: str, sent: str | None, warned: bool
) -> None:
    made = body(Quirks(efforts=efforts), reasoning_effort=wanted)
    assert made.fields.get("reasoning_effort") == sent
    assert [warning.name for warning in made.warnings] == ["PARAMETER_CHANGED"] * warned


def test_a_model_that_cannot_be_told_not_to_think_keeps_its_room() -> None:
    quirks = Quirks(efforts=("low",), reasoning_models=("m",), reasoning_headroom=100)
    assert body(quirks, reasoning_effort="none").fields["max_tokens"] == 300


@pytest.mark.parametrize(("top_p", "sent"), [(1.0, None), (0.99, 0.99), (0.0, 0.001)])
def test_a_top_p_that_changes_nothing_is_not_sent_where_it_is_refused(
    top_p: float, sent: float | None
) -> None:
    quirks = Quirks(top_p_min=0.001, top_p_below_one=True)
    assert body(quirks, sampling={"top_p": top_p}).fields.get("top_p") == sent
    assert body(sampling={"top_p": 1.0}).fields["top_p"] == 1.0


@pytest.mark.parametrize(
    ("wanted", "sent", "left_out"),
    [
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"a": 1}}},
            {"type": "json", "value": {"a": 1}},
            [],
        ),
        ({"type": "json_object"}, None, ["response_format"]),
        ({"type": "text"}, None, []),
    ],
)
def test_a_schema_is_a_grammar_for_tgi(
    wanted: dict[str, Any], sent: dict[str, Any] | None, left_out: list[str]
) -> None:
    made = body(Quirks(json_grammar=True), response_format=wanted)
    assert (made.fields.get("response_format"), names(made)) == (sent, left_out)


def test_a_field_that_is_known_by_another_name_is_sent_by_it() -> None:
    fields = body(refused=("max_tokens",), max_output_length=7).fields
    assert (fields["max_completion_tokens"], "max_tokens" in fields) == (7, False)


def test_half_a_character_can_be_sent() -> None:
    made = body(messages=(Message("user", "\ud83d é"),))
    assert json.loads(made.encoded())["messages"][0]["content"] == "\ud83d é"
    assert "é".encode() in body(messages=(Message("user", "é"),)).encoded()


def test_stops_that_are_too_long_for_the_provider_are_only_cut_here() -> None:
    quirks = Quirks(stop_max=2, stop_chars_max=3)
    assert body(quirks, stop=("four", "ab", "abc", "a")).fields["stop"] == ["ab", "abc"]


def test_what_a_provider_always_wants_is_sent_and_a_client_may_change_it() -> None:
    quirks = Quirks(extra_body={"safe": False, "tier": "fast"})
    fields = body(quirks, extra={"safe": True}).fields
    assert (fields["safe"], fields["tier"]) == (True, "fast")


def test_a_temperature_that_is_too_low_is_lifted_and_told() -> None:
    made = body(Quirks(temperature_min=0.01), temperature=0.0)
    assert made.fields["temperature"] == 0.01
    assert [warning.name for warning in made.warnings] == ["PARAMETER_CHANGED"]


@pytest.mark.parametrize(
    ("model", "off", "fields", "tokens"),
    [
        pytest.param("thinker", {}, {}, 300, id="a model that thinks"),
        pytest.param("other", {}, {}, 200, id="one that does not"),
        pytest.param("other", {}, {"reasoning_effort": "low"}, 300, id="one that is asked to"),
        pytest.param("thinker", {}, {"reasoning_effort": "none"}, 200, id="told not to by the client"),
        pytest.param("thinker", {"thinking": {"type": "disabled"}}, {}, 200, id="told not to"),
        pytest.param("thinker", {"enable_thinking": False}, {}, 200, id="told not to, otherwise"),
        pytest.param("thinker", {"reasoning_effort": "none"}, {}, 200, id="told not to, in a third way"),
        pytest.param("thinker", {"reasoning_effort": "low"}, {}, 300, id="told to think little"),
        pytest.param(
            *("thinker", {"enable_thinking": False}, {"extra": {"enable_thinking": True}}, 300),
            id="told to, by the client",
        ),
    ],
)
def test_there_is_room_for_thinking_where_there_is_thinking(
    model: str, off: dict[str, Any], fields: dict[str, Any], tokens: int
) -> None:
    quirks = Quirks(reasoning_models=("thinker",), reasoning_headroom=100, thinking_off=off)
    assert build(asked(model=model, max_output_length=200, **fields), quirks).fields["max_tokens"] == tokens

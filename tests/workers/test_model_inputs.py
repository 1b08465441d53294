"""The fields of a model that has a schema of its own."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.bound import request
from workers.adapter import AdapterError, Message, Warn
from workers.codes import Code
from workers.model_inputs import USUAL_FIELDS, Inputs, build, inputs_of, is_named, turn_ends
from workers.parameters import Body
from workers.quirks import Quirks

QUIRKS = Quirks(stop_max=4)
PROMPT = {"prompt": {"type": "string"}, "max_tokens": {"type": "integer"}}


def body_of(fields: dict[str, Any] | None = None, quirks: Quirks = QUIRKS, **wanted: Any) -> Body:
    """What is sent to a model with those fields."""
    values = {"model": "fake/small", **wanted}
    return build(request(**values), quirks, Inputs(fields or dict(USUAL_FIELDS)))


def given(made: Body) -> dict[str, Any]:
    """The input in a body."""
    found: dict[str, Any] = made.fields["input"]
    return found


def names(made: Body) -> list[str]:
    """What the warnings are about."""
    return [f"{warning.name} {warning.message.split()[0]}" for warning in made.warnings]


def said(*turns: tuple[str, ...]) -> tuple[Message, ...]:
    """Messages of a prompt."""
    return tuple(Message(*turn) for turn in turns)


# ---- schemas


def schema(properties: Any, **model: Any) -> dict[str, Any]:
    """A model's description."""
    inner = {"openapi_schema": {"components": {"schemas": {"Input": {"properties": properties}}}}}
    return {"latest_version": {"id": "9f2a", **inner}, **model}


def test_a_model_takes_what_its_schema_names() -> None:
    assert inputs_of(schema(PROMPT)) == Inputs(PROMPT)
    assert inputs_of(schema(PROMPT, is_official=True)) == Inputs(PROMPT)
    assert inputs_of(schema(PROMPT, is_official=False)) == Inputs(PROMPT, "9f2a")


@pytest.mark.parametrize(
    "model",
    [
        None,
        [],
        {},
        {"latest_version": None},
        {"latest_version": {"openapi_schema": {"components": []}}},
        schema(None),
        schema({}),
        schema("x"),
    ],
    ids=str,
)
def test_a_model_without_a_schema_takes_the_usual(model: object) -> None:
    assert inputs_of(model) == Inputs()


def test_a_version_that_is_no_text_is_none() -> None:
    odd = {"latest_version": {"id": 7}, "is_official": False}
    assert inputs_of(odd).version == ""


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ("meta/meta-llama-3-8b-instruct", True),
        ("openai/gpt-4.1", True),
        ("a_b/c.d", True),
        ("a/b:c", False),
        ("a", False),
        ("a/b/c", False),
        ("a/..", False),
        ("./b", False),
        ("/b", False),
        ("a/", False),
        ("a/b?x", False),
        ("ä/b", False),
        ("a/b\n", False),
    ],
)
def test_a_name_is_an_owner_and_a_name(model: str, named: bool) -> None:
    assert is_named(model) is named


# ---- names of fields


@pytest.mark.parametrize(
    "limit", ["max_tokens", "max_new_tokens", "max_completion_tokens", "max_output_tokens", "max_length"]
)
def test_the_limit_has_the_name_that_the_model_has_for_it(limit: str) -> None:
    made = body_of({"prompt": {}, limit: {}}, max_output_length=50)
    assert given(made) == {"prompt": "Hello", limit: 50}
    assert made.warnings == ()


def test_a_model_without_a_limit_is_told() -> None:
    made = body_of({"prompt": {}})
    assert (given(made), names(made)) == ({"prompt": "Hello"}, ["PARAMETER_LEFT_OUT max_output_length"])


@pytest.mark.parametrize(("wanted", "sent"), [(200, 1024), (2000, 2000), (9000, 8192)])
def test_a_limit_stays_within_the_models_own(wanted: int, sent: int) -> None:
    fields = {"prompt": {}, "max_tokens": {"minimum": 1024, "maximum": 8192}}
    made = body_of(fields, max_output_length=wanted)
    assert given(made)["max_tokens"] == sent
    assert names(made) == ([] if wanted == sent else ["PARAMETER_CHANGED max_output_length"])


@pytest.mark.parametrize("schema", [None, 7, {"minimum": "1", "type": 7}, {"maximum": None}], ids=str)
def test_a_schema_of_a_wrong_type_limits_nothing(schema: Any) -> None:
    assert given(body_of({"prompt": {}, "max_tokens": schema}))["max_tokens"] == 200


def test_sampling_is_sent_where_the_model_has_it_and_told_where_not() -> None:
    fields = {**PROMPT, "temperature": {"minimum": 0.01, "maximum": 5.0}, "seed": {}}
    made = body_of(fields, temperature=0.0, sampling={"seed": 7.0, "top_p": 0.9})
    assert given(made) == {"prompt": "Hello", "max_tokens": 200, "temperature": 0.01, "seed": 7}
    assert names(made) == ["PARAMETER_LEFT_OUT top_p", "PARAMETER_CHANGED temperature"]
    assert body_of(PROMPT).warnings == ()  # the temperature that everybody takes for none


def test_options_are_sent_where_the_model_has_them_and_told_where_not() -> None:
    wanted: dict[str, Any] = {"response_format": {"type": "json_object"}, "reasoning_effort": "low"}
    made = body_of({**PROMPT, "reasoning_effort": {"type": "string"}}, **wanted)
    assert given(made)["reasoning_effort"] == "low"
    assert made.warnings == (
        Warn("PARAMETER_LEFT_OUT", "response_format was left out: this provider or model does not take it"),
    )


# ---- stops


@pytest.mark.parametrize(
    ("field", "kind", "sent"),
    [
        ("stop_sequences", "string", "END,###"),
        ("stop_sequences", "array", ["END", "a,b", "\nUser:", "###"]),
        ("stop", "array", ["END", "a,b", "\nUser:", "###"]),
    ],
)
def test_stops_are_a_list_or_a_text_with_commas(field: str, kind: str, sent: Any) -> None:
    fields = {**PROMPT, field: {"type": kind}}
    stops = ("END", "a,b", "\nUser:", "###")
    made = body_of(fields, stop=stops, stream=False)
    assert given(made)[field] == sent
    assert made.streamed is (kind == "string")  # what cannot be sent must be cut here


def test_a_model_that_has_no_stops_is_sent_none() -> None:
    assert set(given(body_of(PROMPT, stop=("END",)))) == {"prompt", "max_tokens"}


def test_a_model_that_thinks_is_sent_no_stops_and_has_room_for_it() -> None:
    quirks = Quirks(stop_max=4, reasoning_models=("fake/*",), reasoning_headroom=1000)
    sent = given(body_of(quirks=quirks, stop=("END",)))
    assert "stop_sequences" not in sent
    assert sent["max_tokens"] == 1200


# ---- conversations


@pytest.mark.parametrize(
    ("messages", "system", "prompt"),
    [
        (said(("user", "Hi")), None, "Hi"),
        (said(("user", "Hi", "Ann")), None, "Ann: Hi"),
        (said(("system", "A"), ("developer", "B"), ("user", "Hi")), "A\nB", "Hi"),
        (
            said(("system", "A"), ("user", "1"), ("assistant", "2"), ("user", "3")),
            "A",
            "User: 1\nAssistant: 2\nUser: 3\nAssistant:",
        ),
        (said(("user", "1"), ("system", "It rains.")), None, "User: 1\nIt rains.\n\nAssistant:"),
        (said(("assistant", "1")), None, "Assistant: 1\nAssistant:"),
        (said(("system", "A")), "A", ""),
    ],
    ids=str,
)
def test_a_conversation_is_one_text_or_what_the_user_asks(
    messages: tuple[Message, ...], system: str | None, prompt: str
) -> None:
    sent = given(body_of(messages=messages))
    assert (sent.get("system_prompt"), sent["prompt"]) == (system, prompt)


def test_the_character_speaks_next() -> None:
    sent = given(body_of(messages=said(("user", "1"), ("assistant", "2")), character_name="Mia"))
    assert sent["prompt"] == "User: 1\nMia: 2\nMia:"


def test_a_system_prompt_has_the_models_name_for_it_or_stands_in_the_text() -> None:
    messages = said(("system", "A"), ("user", "1"))
    assert given(body_of({**PROMPT, "system_instruction": {}}, messages=messages)) == {
        "system_instruction": "A",
        "prompt": "1",
        "max_tokens": 200,
    }
    assert given(body_of(PROMPT, messages=messages))["prompt"] == "A\n\nUser: 1\nAssistant:"


def test_a_list_of_messages_needs_no_transcript_and_no_stops() -> None:
    inputs = Inputs({**PROMPT, "messages": {"type": "array"}})
    wanted = request(model="a/b", messages=said(("user", "1"), ("assistant", "2")))
    assert turn_ends(wanted, inputs) == ()
    assert "messages" in given(build(wanted, QUIRKS, inputs))
    text = Inputs({**PROMPT, "messages": {"type": "string"}})
    assert turn_ends(wanted, text) == ("\nUser:", "\nAssistant:")
    assert "prompt" in given(build(wanted, QUIRKS, text))
    assert turn_ends(request(), text) == ()


# ---- bodies


def test_extra_joins_the_input_and_the_body() -> None:
    made = body_of(extra={"input": {"max_tokens": 7, "top_k": 3}, "webhook": "x"})
    assert (given(made)["max_tokens"], given(made)["top_k"], made.fields["webhook"]) == (7, 3, "x")
    assert given(made)["prompt"] == "Hello"
    assert body_of(extra={"input": 7}).fields["input"] == 7


@pytest.mark.parametrize(
    ("model", "version", "expected"),
    [
        ("a/b", "", None),
        ("a/b", "9f2a", "9f2a"),
        ("a/b:77", "9f2a", "77"),
        ("a/b:77", "", "77"),
        ("77", "", "77"),
    ],
)
def test_a_version_is_named_in_the_body(model: str, version: str, expected: str | None) -> None:
    made = build(request(model=model), QUIRKS, Inputs(version=version))
    assert made.fields.get("version") == expected


@pytest.mark.parametrize(
    ("wanted", "fields", "code"),
    [
        ({"model": ""}, None, Code.INVALID_MODEL),
        ({"stop_ids": (1,)}, None, Code.UNSUPPORTED),
        ({}, {"image": {}}, Code.INVALID_MODEL),
        ({"messages": said(("tool", "42"))}, None, Code.UNSUPPORTED),
    ],
    ids=["no model", "token ids", "no text", "a tool"],
)
def test_what_a_model_cannot_take_is_told(wanted: Any, fields: Any, code: Code) -> None:
    with pytest.raises(AdapterError) as caught:
        body_of(fields, **wanted)
    assert caught.value.code is code

"""Bodies of the Converse wire, and what the vendor's own service model says to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from supervisor.catalog import load_catalog
from tests.fakes.bound import request
from workers.adapter import AdapterError, Message
from workers.adapters.bedrock import USUAL
from workers.codes import Code
from workers.converse_body import build
from workers.parameters import Body
from workers.prompt import OPENING
from workers.quirks import Quirks

CHECKOUT: Final = Path(__file__).parents[2]
PROVIDER: Final = load_catalog(CHECKOUT / "venvs.toml").providers["bedrock"]
QUIRKS: Final = Quirks.parse("bedrock", PROVIDER.quirks, over=USUAL)
NOVA: Final = "amazon.nova-lite-v1:0"
HAIKU: Final = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
OPUS: Final = "global.anthropic.claude-opus-5"
EXTRA: Final = "additionalModelRequestFields"
SCHEMA: Final = {"type": "object", "properties": {}}


def body_of(model: str = NOVA, **fields: Any) -> Body:
    """What is sent to Bedrock."""
    return build(request(model=model, **fields), QUIRKS.of(model))


def warned(body: Body) -> list[tuple[str, str]]:
    """The names of its warnings and what they are about."""
    return [(warning.name, warning.message.split()[0]) for warning in body.warnings]


def said(*messages: tuple[str, str]) -> tuple[Message, ...]:
    """Messages of a prompt."""
    return tuple(Message(role, text) for role, text in messages)


BODIES: Final = (
    body_of(),
    body_of(stop=tuple(f"stop {n}" for n in range(9)), temperature=2.0, sampling={"top_p": 0.5, "top_k": 9}),
    body_of(HAIKU, sampling={"top_k": 40}, temperature=0.5, reasoning_effort="high"),
    body_of(OPUS, response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}),
    body_of("mistral.mistral-7b-instruct-v0:2", messages=said(("system", "A"), ("user", "Hi"))),
    body_of(messages=said(("system", "A"), ("assistant", "B"), ("system", "C"), ("assistant", "D "))),
)


@pytest.mark.foreign
@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("operation", ["ConverseStream", "Converse"])
def test_the_vendors_service_model_takes_our_bodies(body: Body, operation: str) -> None:
    model = ServiceModel(Loader().load_service_model("bedrock-runtime", "service-2"))
    shape = model.operation_model(operation).input_shape
    report = ParamValidator().validate({"modelId": NOVA, **body.fields}, shape)
    assert not report.has_errors(), report.generate_report()
    assert set(body.fields) <= set(shape.members)
    assert set(body.fields["inferenceConfig"]) <= set(shape.members["inferenceConfig"].members)


# ---- prompts


def test_a_system_prompt_stands_apart_and_turns_alternate() -> None:
    fields = body_of(messages=said(("system", "A"), ("developer", "B"), ("assistant", "1"))).fields
    assert fields["system"] == [{"text": "A"}, {"text": "B"}]
    assert fields["messages"] == [
        {"role": "user", "content": [{"text": OPENING}]},
        {"role": "assistant", "content": [{"text": "1"}]},
    ]
    assert "system" not in body_of().fields


@pytest.mark.parametrize(
    "model",
    [
        "amazon.titan-text-express-v1",
        "mistral.mistral-7b-instruct-v0:2",
        "mistral.mixtral-8x7b-instruct-v0:1",
    ],
)
def test_a_user_says_the_system_prompt_where_the_model_takes_none(model: str) -> None:
    fields = body_of(model, messages=said(("system", "A"), ("user", "Hi"))).fields
    assert "system" not in fields
    assert fields["messages"] == [{"role": "user", "content": [{"text": "A"}, {"text": "Hi"}]}]


def test_token_ids_are_unsupported() -> None:
    with pytest.raises(AdapterError) as caught:
        body_of(stop_ids=(1,))
    assert caught.value.code is Code.UNSUPPORTED


# ---- parameters, by model


@pytest.mark.parametrize(
    ("model", "given", "inference", "extra", "told"),
    [
        (NOVA, {"top_p": 0.9}, {"temperature": 0.5, "topP": 0.9}, None, []),
        (NOVA, {"top_k": 9}, {"temperature": 0.5}, None, [("PARAMETER_LEFT_OUT", "top_k")]),
        (HAIKU, {"top_p": 0.9}, {"temperature": 0.5}, None, [("PARAMETER_LEFT_OUT", "top_p")]),
        (HAIKU, {"top_k": 9}, {"temperature": 0.5}, {"top_k": 9}, []),
        (
            OPUS,
            {"top_p": 0.9},
            {},
            {"thinking": {"type": "disabled"}},
            [("PARAMETER_LEFT_OUT", "temperature"), ("PARAMETER_LEFT_OUT", "top_p")],
        ),
    ],
)
def test_sampling_is_what_the_model_takes(
    model: str,
    given: dict[str, float],
    inference: dict[str, float],
    extra: dict[str, Any] | None,
    told: list[tuple[str, str]],
) -> None:
    made = body_of(model, temperature=0.5, sampling=given)
    assert made.fields["inferenceConfig"] == {"maxTokens": 200, **inference}
    assert (made.fields.get(EXTRA), warned(made)) == (extra, told)


def test_a_neutral_temperature_is_sent_to_all_but_those_whose_own_it_is() -> None:
    assert body_of().fields["inferenceConfig"]["temperature"] == 1.0
    made = body_of(HAIKU, sampling={"top_p": 0.9})
    assert made.fields["inferenceConfig"] == {"maxTokens": 200, "topP": 0.9}
    assert made.warnings == ()


def test_what_a_refusal_may_name_is_known_by_its_name_on_the_wire() -> None:
    made = body_of(HAIKU, stop=("END",), temperature=0.5, sampling={"top_k": 9})
    assert made.called == {"temperature": "temperature", "top_k": "top_k", "stop": "stopSequences"}
    assert body_of(sampling={"top_p": 0.5}).called == {"temperature": "temperature", "top_p": "topP"}


@pytest.mark.parametrize(
    ("model", "thinking", "room"),
    [
        (NOVA, None, 0),
        (HAIKU, None, 0),
        ("eu.anthropic.claude-opus-4-5-20251101-v1:0", None, 0),
        ("anthropic.claude-3-5-sonnet-20241022-v2:0", None, 0),
        ("anthropic.claude-opus-4-8", None, 0),
        (OPUS, {"thinking": {"type": "disabled"}}, 0),
        ("jp.anthropic.claude-sonnet-5-20260601-v1:0", {"thinking": {"type": "disabled"}}, 0),
        ("anthropic.claude-sonnet-5-5", {"thinking": {"type": "between_tools"}}, 0),
        ("anthropic.claude-opus-5-5", {"output_config": {"effort": "low"}}, 2048),
        ("us.deepseek.r1-v1:0", None, 2048),
        ("openai.gpt-oss-120b-1:0", None, 2048),
    ],
)
def test_a_model_is_kept_from_thinking_as_far_as_it_can_be(
    model: str, thinking: dict[str, Any] | None, room: int
) -> None:
    made = body_of(model, stop=("END",))
    assert (made.fields.get(EXTRA), made.fields["inferenceConfig"]["maxTokens"]) == (thinking, 200 + room)
    assert ("stopSequences" in made.fields["inferenceConfig"]) is (room == 0)


@pytest.mark.parametrize(
    ("model", "thinking", "told"),
    [
        (HAIKU, {"thinking": {"type": "enabled", "budget_tokens": 1536}}, "PARAMETER_CHANGED"),
        (OPUS, {"thinking": {"type": "adaptive"}}, "PARAMETER_CHANGED"),
        (NOVA, None, "PARAMETER_LEFT_OUT"),
    ],
)
def test_thinking_that_is_asked_for_has_room_where_there_is_any(
    model: str, thinking: dict[str, Any] | None, told: str
) -> None:
    made = body_of(model, reasoning_effort="high")
    assert (made.fields.get(EXTRA), warned(made)) == (thinking, [(told, "reasoning_effort")])
    assert made.fields["inferenceConfig"]["maxTokens"] == (200 if thinking is None else 2248)


def test_a_client_that_says_itself_how_to_think_is_left_alone_and_the_rest_is_kept() -> None:
    thinking = {"type": "enabled", "budget_tokens": 5000}
    made = body_of(OPUS, extra={EXTRA: {"thinking": thinking}}, stop=("END",))
    assert made.fields[EXTRA] == {"thinking": thinking}
    assert "stopSequences" not in made.fields["inferenceConfig"]
    made = body_of(HAIKU, extra={EXTRA: {"a": 1}}, sampling={"top_k": 9})
    assert made.fields[EXTRA] == {"a": 1, "top_k": 9}


def test_models_that_refuse_stops_get_none_and_are_streamed_instead() -> None:
    made = body_of("qwen.qwen3-235b-a22b-2507-v1:0", stop=("END",), stream=False)
    assert ("stopSequences" in made.fields["inferenceConfig"], made.streamed) == (False, True)


def test_a_schema_is_sent_as_a_text_and_json_of_any_shape_is_left_out() -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    shape = {"schema": '{"type": "object", "properties": {}}'}
    expected = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": shape}}}
    assert body_of(response_format=wanted).fields["outputConfig"] == expected
    assert body_of(response_format={"type": "text"}).warnings == ()
    assert warned(body_of(response_format={"type": "json_object"})) == [
        ("PARAMETER_LEFT_OUT", "response_format")
    ]

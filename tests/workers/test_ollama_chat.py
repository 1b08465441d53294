"""A request as Ollama's own wire has it, by what is known of a model, and the reading of odd answers."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from tests.fakes.bound import request
from workers.adapter import AdapterError, Alive, Event, Message, Reasoning, Text, Usage
from workers.adapters.ollama import USUAL
from workers.codes import Code
from workers.ollama_chat import LEVELS, THINK, OllamaReply, build
from workers.ollama_options import Given
from workers.parameters import Body
from workers.quirks import Quirks
from workers.refusals import Who

ALWAYS: Final = Quirks.parse("x", {"reasoning_models": ["gpt-oss*"]}, over=USUAL)


def body_of(
    given: Given | None = None,
    *,
    thinks: bool | None = None,
    refused: tuple[str, ...] = (),
    quirks: Quirks = USUAL,
    **fields: Any,
) -> Body:
    return build(request(**fields), quirks, given or Given(), thinks=thinks, refused=refused)


# ---- thinking


@pytest.mark.parametrize(
    ("thinks", "effort", "refused", "think", "warned"),
    [
        (None, None, (), False, []),
        (None, "none", (), False, []),
        (None, "high", (), "high", []),
        (True, None, (), False, []),
        (True, "minimal", (), "low", []),
        (True, "xhigh", (), "high", []),
        (True, "high", (LEVELS,), True, ["PARAMETER_CHANGED"]),
        (False, None, (), None, []),
        (False, "high", (), None, ["PARAMETER_LEFT_OUT"]),
        (None, None, (THINK,), None, []),
        (None, "high", (THINK,), None, ["PARAMETER_LEFT_OUT"]),
    ],
)
def test_a_model_is_kept_from_thinking_where_it_could(
    thinks: bool | None, effort: str | None, refused: tuple[str, ...], think: object, warned: list[str]
) -> None:
    made = body_of(thinks=thinks, refused=refused, reasoning_effort=effort)
    assert made.fields.get("think") == think
    assert [warning.name for warning in made.warnings] == warned


@pytest.mark.parametrize(
    ("thinks", "fields", "tokens", "stops"),
    [
        (False, {}, 200, ["END"]),
        (False, {"reasoning_effort": "high"}, 200, ["END"]),
        (True, {}, 200, None),
        (None, {}, 200, None),
        (None, {"reasoning_effort": "high"}, 200 + 2048, None),
        (True, {"extra": {"think": True}}, 200 + 2048, None),
        (False, {"model": "gpt-oss:20b"}, 200 + 2048, None),
    ],
)
def test_thinking_has_room_and_no_stops(
    thinks: bool | None, fields: dict[str, Any], tokens: int, stops: list[str] | None
) -> None:
    made = body_of(thinks=thinks, quirks=ALWAYS, stop=("END",), **fields)
    options = made.fields["options"]
    assert (options["num_predict"], options.get("stop")) == (tokens, stops)


def test_a_client_that_says_itself_how_to_think_is_left_alone() -> None:
    assert body_of(extra={"think": "max"}).fields["think"] == "max"


# ---- what else is sent


def test_what_a_binding_says_of_its_models_goes_with_each_request() -> None:
    fields = body_of(Given({"num_ctx": 8192, "num_gpu": 0}, keep_alive=-1)).fields
    assert (fields["options"]["num_ctx"], fields["options"]["num_gpu"], fields["keep_alive"]) == (8192, 0, -1)
    assert "keep_alive" not in body_of().fields


def test_options_of_extra_join_those_of_the_request_and_win() -> None:
    made = body_of(
        Given({"num_ctx": 8192}),
        temperature=0.5,
        extra={"options": {"mirostat": 2, "temperature": 0.1}, "truncate": False},
    )
    options = made.fields["options"]
    expected = {"num_ctx": 8192, "num_predict": 200, "temperature": 0.1, "mirostat": 2}
    assert (options, made.fields["truncate"]) == (expected, False)


def test_sampling_has_ollamas_names() -> None:
    sampling = {
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.25,
        "min_p": 0.05,
        "top_k": 40.0,
        "seed": 7.0,
    }
    options = body_of(sampling=sampling).fields["options"]
    assert (options["repeat_penalty"], options["top_k"], options["seed"]) == (1.1, 40, 7)
    assert "repetition_penalty" not in options


@pytest.mark.parametrize(
    ("wanted", "shape", "warned"),
    [
        ({"type": "text"}, None, []),
        ({"type": "json_object"}, "json", []),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}, {"type": "object"}, []),
        ({"type": "json_schema"}, None, ["PARAMETER_LEFT_OUT"]),
        ({"type": "json_schema", "json_schema": {"schema": 7}}, None, ["PARAMETER_LEFT_OUT"]),
        ({"type": "grammar"}, None, ["PARAMETER_LEFT_OUT"]),
    ],
)
def test_a_format_is_json_or_its_schema(wanted: dict[str, Any], shape: object, warned: list[str]) -> None:
    made = body_of(response_format=wanted)
    assert made.fields.get("format") == shape
    assert [warning.name for warning in made.warnings] == warned


@pytest.mark.parametrize(
    ("stream", "stop", "streamed"),
    [(True, (), True), (False, (), False), (False, ("END",), False), (False, ("END", "\n"), True)],
)
def test_an_answer_is_streamed_where_the_host_must_be_able_to_end_it(
    stream: bool, stop: tuple[str, ...], streamed: bool
) -> None:
    made = body_of(thinks=False, stream=stream, stop=stop)
    assert (made.fields["stream"], made.streamed) == (streamed, streamed)


def test_names_begin_the_text_and_token_ids_are_unsupported() -> None:
    fields = body_of(messages=(Message("user", "Hi", "Ann B."),)).fields
    assert fields["messages"] == [{"role": "user", "content": "Ann B.: Hi"}]
    with pytest.raises(AdapterError) as caught:
        body_of(stop_ids=(1,))
    assert caught.value.code is Code.UNSUPPORTED


# ---- answers


def reply() -> OllamaReply:
    return OllamaReply(Who("Fake"), model="m", max_output_length=200)


def read(*values: object) -> tuple[OllamaReply, list[Event]]:
    """An answer after those lines."""
    answer = reply()
    return answer, [event for value in values for event in answer.piece(json.dumps(value).encode())]


@pytest.mark.parametrize(
    "odd",
    [
        {"message": None},
        {"message": "Hi"},
        {"message": {"content": None, "thinking": 7}},
        {"message": {"content": ["Hi"]}},
        {"done": "yes"},
        {"model": 7},
        {},
    ],
    ids=str,
)
def test_fields_of_a_wrong_type_are_passed_over(odd: object) -> None:
    answer, events = read(
        odd, {"message": {"content": "Hi"}, "done": True, "done_reason": 7, "eval_count": "x"}
    )
    assert events == [Alive(), Text("Hi")]
    assert (answer.reason, answer.complete, answer.usage) == ("stop", True, Usage(None, None))


def test_a_line_may_think_and_speak() -> None:
    _, events = read({"message": {"thinking": "hm", "content": "Hi"}})
    assert events == [Reasoning("hm"), Text("Hi")]


def test_a_call_of_a_tool_is_an_end_of_its_own() -> None:
    call = {"function": {"name": "look", "arguments": {}}}
    answer, _ = read(
        {"message": {"content": "", "tool_calls": [call]}}, {"done": True, "done_reason": "stop"}
    )
    assert answer.reason == "tool_calls"


def test_an_answer_that_does_not_say_that_it_ended_has_ended_when_it_is_whole() -> None:
    answer = reply()
    assert answer.whole(b'{"message": {"content": "Hi"}, "done": false}') == [Text("Hi")]
    assert answer.reason == "stop"

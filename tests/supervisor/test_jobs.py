"""A generate request becomes a worker's work: defaults, bounds, flat text; or a failure that says why not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from supervisor.errors import Failure
from supervisor.jobs import Job, Limits, make_job, unsupported
from supervisor.messages import Generate, Incoming, parse
from workers.codes import Code

USER: dict[str, Any] = {"role": "user", "content": "Hello"}
LIMITS = Limits(timeout_ms=60_000, timeout_ceiling_ms=600_000)


def request(**fields: Any) -> Generate:
    parsed = parse(json.dumps({"type": "generate", "messages": [USER], **fields}).encode())
    assert isinstance(parsed, Incoming), parsed
    assert isinstance(parsed.body, Generate)
    return parsed.body


def job(limits: Limits = LIMITS, **fields: Any) -> Job:
    asked = request(**fields)
    assert unsupported(asked) is None
    made = make_job(asked, "the-model", limits)
    assert isinstance(made, Job)
    return made


def test_a_bare_request_gets_the_defaults_of_the_published_client() -> None:
    made = job()
    assert (made.stream, made.timeout_s, made.first_token_timeout_s) == (False, 60.0, None)
    assert made.body == {
        "messages": [
            {"role": "user", "content": "Hello", "name": None, "tool_calls": [], "tool_call_id": None}
        ],
        "model": "the-model",
        "stream": False,
        "timeout_ms": 60_000,
        "character_name": None,
        "temperature": 1.0,
        "max_output_length": 200,
        "stop": [],
        "stop_ids": [],
        "sampling": {},
        "response_format": None,
        "reasoning_effort": None,
        "tools": [],
        "tool_choice": None,
        "extra": {},
    }


def test_what_was_asked_for_is_passed_on() -> None:
    asked = {
        "character_name": "Mia",
        "temperature": 0,
        "max_output_length": 7,
        "top_p": 0.0,
        "top_k": 5,
        "min_p": 0.1,
        "presence_penalty": -1,
        "frequency_penalty": 1,
        "repetition_penalty": 1.1,
        "seed": 0,
        "response_format": {"type": "json_object"},
        "reasoning_effort": "low",
        "tools": [{"type": "function", "function": {"name": "look"}}],
        "tool_choice": "required",
        "extra": {"a": [1]},
    }
    made = job(stream=True, params=asked)
    sampling = {name: asked.pop(name) for name in list(asked) if name in made.body["sampling"]}
    assert len(sampling) == 7
    assert made.body["sampling"] == sampling
    assert {name: made.body[name] for name in asked} == asked
    assert (made.stream, made.body["stream"]) == (True, True)


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_name_is_none(empty: str | None) -> None:
    made = job(messages=[{**USER, "name": empty}], params={"character_name": empty})
    assert made.body["messages"][0]["name"] is None
    assert made.body["character_name"] is None


@pytest.mark.parametrize(
    ("asked", "stop", "stop_ids"),
    [
        pytest.param(None, [], [], id="none"),
        pytest.param(["\n", "", "User:"], ["\n", "User:"], [], id="an empty one is no stop"),
        pytest.param(["5", 5.0, 7], ["5"], [5, 7], id="strings and token ids"),
    ],
)
def test_stop_strings_and_stop_ids_are_kept_apart(
    asked: list[Any] | None, stop: list[str], stop_ids: list[int]
) -> None:
    body = job(params={"stop_tokens": asked}).body
    assert (body["stop"], body["stop_ids"]) == (stop, stop_ids)


@pytest.mark.parametrize(
    ("params", "limits", "timeout_s"),
    [
        pytest.param({}, LIMITS, 60, id="missing"),
        pytest.param({"timeout_ms": None}, LIMITS, 600, id="null is the ceiling"),
        pytest.param({"timeout_ms": 1}, LIMITS, 0.001, id="the shortest"),
        pytest.param({"timeout_ms": 500.0}, LIMITS, 0.5, id="given"),
        pytest.param({"timeout_ms": 10**12}, LIMITS, 600, id="above the ceiling"),
        pytest.param(
            {}, Limits(timeout_ms=60_000, timeout_ceiling_ms=1000), 1, id="the default above the ceiling"
        ),
    ],
)
def test_the_timeout_is_the_requests_within_the_operators_ceiling(
    params: dict[str, Any], limits: Limits, timeout_s: float
) -> None:
    made = job(limits, params=params)
    assert made.timeout_s == timeout_s
    assert made.body["timeout_ms"] == timeout_s * 1000


@pytest.mark.parametrize(("asked", "expected"), [(None, None), (1500, 1.5), (10**12, 600)])
def test_the_first_token_has_a_clock_only_if_asked(asked: int | None, expected: float | None) -> None:
    assert job(params={"first_token_timeout_ms": asked}).first_token_timeout_s == expected


@pytest.mark.parametrize(
    ("message", "text"),
    [
        pytest.param({"role": "system", "content": ""}, "", id="empty"),
        pytest.param({"role": "assistant", "content": None}, "", id="an assistant who said nothing"),
        pytest.param({"role": "assistant"}, "", id="an assistant without content"),
        pytest.param({"role": "user", "content": []}, "", id="no parts"),
        pytest.param(
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            "a\nb",
            id="parts",
        ),
        pytest.param({"role": "user", "content": [{"type": "text"}]}, "", id="a part without text"),
    ],
)
def test_content_becomes_text(message: dict[str, Any], text: str) -> None:
    assert job(messages=[message]).body["messages"][0]["content"] == text


@pytest.mark.parametrize("role", ["system", "developer", "user"])
def test_missing_content_is_named(role: str) -> None:
    made = make_job(request(messages=[USER, {"role": role}]), "m", LIMITS)
    assert made == Failure(Code.INVALID_REQUEST, "messages[1].content is missing.")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        pytest.param({"sentences": True}, "sentences", id="sentences"),
        pytest.param({"reasoning": True}, "reasoning", id="reasoning"),
        pytest.param({"fallback": ["a"]}, "fallback", id="fallback"),
        pytest.param(
            {"messages": [USER, {"role": "user", "content": [{"type": "text"}, {"type": "image_url"}]}]},
            "messages[1] has a part of type 'image_url'",
            id="an image",
        ),
    ],
)
def test_what_this_version_cannot_do_is_refused_and_named(fields: dict[str, Any], named: str) -> None:
    failure = unsupported(request(**fields))
    assert failure is not None
    assert failure.code is Code.UNSUPPORTED
    assert failure.message.startswith(named)


@pytest.mark.parametrize(
    "fields",
    [
        {"sentences": False, "reasoning": None, "tool_deltas": True, "fallback": [], "chunks": False},
        {"params": {"tools": [{}], "tool_choice": "auto"}},
        {"messages": [{**USER, "tool_calls": []}]},
    ],
)
def test_what_is_not_asked_for_is_not_refused(fields: dict[str, Any]) -> None:
    assert unsupported(request(**fields)) is None


def test_a_made_up_part_type_is_shown_shortened() -> None:
    failure = unsupported(request(messages=[{"role": "user", "content": [{"type": "x" * 5000}]}]))
    assert failure is not None
    assert len(failure.message) < 200


def test_a_job_never_shows_its_prompt() -> None:
    assert "Hello" not in repr(job())


def test_an_answer_of_old_that_answers_nothing_is_named() -> None:
    made = make_job(request(messages=[USER, {"role": "function", "name": "f", "content": "x"}]), "m", LIMITS)
    sentence = "messages[1] of role function answers no function_call before it."
    assert made == Failure(Code.INVALID_REQUEST, sentence)


def test_what_a_tool_says_must_be_there_and_may_be_in_parts() -> None:
    answer = {"role": "tool", "tool_call_id": "a"}
    made = make_job(request(messages=[USER, answer]), "m", LIMITS)
    assert made == Failure(Code.INVALID_REQUEST, "messages[1].content is missing.")
    parts = [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]
    sent = job(messages=[{**answer, "content": parts}]).body["messages"][0]
    assert (sent["role"], sent["content"], sent["tool_call_id"]) == ("tool", "A\nB", "a")

"""Requests as mistral.rs takes them: one text, the fields beside it, and what no client reaches."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.fakes.bound import request
from workers.adapter import AdapterError, Message
from workers.codes import Code
from workers.mistral_chat import STOPS_MAX, THINKING_HEADROOM, Manner, ask


def joined(messages: list[dict[str, str]], think: bool) -> str:
    return "|".join(f"{message['role']}={message['content']}" for message in messages) + f"|{think}"


CHAT: Final = Manner(joined, may_think=False)
THINKER: Final = Manner(joined, may_think=True)
PLAIN: Final = Manner(None, may_think=False)


def test_messages_become_one_text_with_names_in_it_and_neighbours_joined() -> None:
    messages = (
        Message("developer", "Be brief."),
        Message("user", "Hi", name="Ann"),
        Message("user", "So?", name="Bob"),
        Message("assistant", "Well."),
    )
    asked = ask(request(messages=messages), CHAT)
    assert asked.prompt == "system=Be brief.|user=Ann: Hi\nBob: So?|assistant=Well.|False"
    assert not asked.plain


def test_a_message_of_a_tool_is_refused() -> None:
    with pytest.raises(AdapterError) as caught:
        ask(request(messages=(Message("tool", "4"),)), CHAT)
    assert caught.value.code is Code.UNSUPPORTED


def test_a_transcript_ends_where_somebody_else_would_speak() -> None:
    messages = (Message("user", "Hi", name="Ann"),)
    asked = ask(request(messages=messages, character_name="Mia", stop=("!",)), PLAIN)
    assert asked.prompt == "Ann: Hi\nMia:"
    assert asked.stops == ("\nUser:", "\nAnn:", "!")
    assert asked.plain


def test_parameters_go_by_their_own_names() -> None:
    sampling = {"top_p": 0.9, "top_k": 40.0, "min_p": 0.1, "presence_penalty": 0.2, "repetition_penalty": 1.1}
    asked = ask(request(sampling=sampling, temperature=0.7), CHAT)
    assert asked.fields == {**sampling, "temperature": 0.7}
    assert type(asked.fields["top_k"]) is int
    assert not asked.seeded


def test_a_seed_matters_only_where_anything_is_drawn() -> None:
    assert ask(request(sampling={"seed": 1}), CHAT).seeded
    assert not ask(request(sampling={"seed": 1}, temperature=0.0), CHAT).seeded


def test_a_grammar_and_a_seed_do_not_go_together_and_that_is_said() -> None:
    wanted = request(sampling={"seed": 1}, response_format={"type": "json_object"})
    asked = ask(wanted, CHAT)
    assert not asked.seeded
    assert [warning.name for warning in asked.warnings] == ["PARAMETER_LEFT_OUT"]


@pytest.mark.parametrize(
    ("response_format", "grammar"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, '{"type":"object"}'),
        ({"type": "json_schema", "json_schema": {"schema": {"enum": ["a"]}}}, '{"enum": ["a"]}'),
    ],
)
def test_a_response_format_becomes_a_schema(response_format: Any, grammar: str | None) -> None:
    asked = ask(request(response_format=response_format), CHAT)
    assert asked.fields.get("grammar") == grammar
    assert asked.fields.get("grammar_type") == (grammar and "json_schema")


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "poem"}},
        {"extra": {"ignore_eos": 1}},
        {"extra": {"logit_bias": {"a": 1}}},
        {"extra": {"logit_bias": {"1": "a"}}},
    ],
)
def test_what_cannot_be_meant_is_an_invalid_prompt(fields: dict[str, Any]) -> None:
    with pytest.raises(AdapterError) as caught:
        ask(request(**fields), CHAT)
    assert caught.value.code is Code.INVALID_PROMPT


def test_of_extra_only_what_is_known_is_passed_on() -> None:
    extra = {
        "ignore_eos": True,
        "logit_bias": {"5": 1},
        "enable_code_execution": True,
        "enable_shell": True,
        "tool_dispatch_url": "http://127.0.0.1/",
        "web_search_options": {},
    }
    asked = ask(request(extra=extra), CHAT)
    assert asked.fields == {"temperature": 1.0, "ignore_eos": True, "logit_bias": {5: 1.0}}
    assert len(asked.warnings) == 4


def test_stops_are_sent_but_none_of_white_space_alone_and_not_too_many() -> None:
    stops = tuple(f"stop{i}" for i in range(30))
    assert ask(request(stop=("\n", "a", "a")), CHAT).stops == ("a",)
    assert len(ask(request(stop=stops), CHAT).stops) == STOPS_MAX


def test_a_model_that_may_think_gets_no_stops_and_room_only_where_it_thinks() -> None:
    quick = ask(request(stop=("a",), max_output_length=10), THINKER)
    asked = ask(request(reasoning_effort="low", max_output_length=10), THINKER)
    assert (quick.stops, quick.max_tokens) == ((), 10)
    assert asked.max_tokens == 10 + THINKING_HEADROOM
    assert quick.prompt.endswith("False")
    assert asked.prompt.endswith("True")
    assert not asked.thinks_from_the_start


def test_a_template_may_open_the_thinking_itself() -> None:
    opening = Manner(lambda messages, think: "assistant: <think>\n", may_think=True)
    asked = ask(request(max_output_length=10), opening)
    assert asked.thinks_from_the_start
    assert asked.max_tokens == 10 + THINKING_HEADROOM

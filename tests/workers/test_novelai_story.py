"""What a story model of NovelAI is sent, and where its reply is over. How it is asked and read beside foreign
clients and the schema is in tests/workers/adapters/test_novelai.py.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

import pytest

from tests.fakes.bound import request
from workers.adapter import AdapterError, Message, Request, Text
from workers.adapters.novelai import STORY_MODELS, USUAL
from workers.codes import Code
from workers.novelai_story import StoryReply, build, ends
from workers.parameters import Body
from workers.refusals import Who

ERATO, KAYRA = STORY_MODELS
OPENING: Final = "<|startoftext|><|reserved_special_token81|>"
TALK: Final = (
    Message("system", "You are Mia."),
    Message("user", "Hi", "Ann"),
    Message("assistant", "Yes?"),
    Message("user", "Go on. 😀", "Ann"),
)


def body_of(wanted: Request, tier: str = "") -> Body:
    """What is sent for that request."""
    return build(wanted, USUAL.of(wanted.model), tier)


def parameters_of(model: str, **fields: Any) -> dict[str, Any]:
    """The parameters of what is sent."""
    parameters: dict[str, Any] = body_of(request(model=model, **fields)).fields["parameters"]
    return parameters


@pytest.mark.parametrize(("model", "opening"), [(KAYRA, ""), (ERATO, OPENING)])
def test_a_prompt_is_a_transcript_that_the_character_goes_on_with(model: str, opening: str) -> None:
    wanted = request(model=model, messages=TALK, character_name="Mia")
    expected = f"{opening}You are Mia.\n\nAnn: Hi\nMia: Yes?\nAnn: Go on. 😀\nMia:"
    assert body_of(wanted).fields["input"] == expected


def test_a_reply_is_over_where_the_next_turn_begins_whoever_takes_it() -> None:
    wanted = request(messages=TALK, character_name="Mia", stop=("END",))
    assert ends(wanted) == ("\nUser:", "\nAnn:", "\nMia:", "\n***")


def test_a_stop_string_counts_from_the_first_word_and_ends_the_reply_at_once() -> None:
    answer = StoryReply(Who("Fake"), request(stop=("\n",)), length=200)
    pieces = [{"token": "\n"}, {"token": " Hi"}, {"token": ".\n"}]
    events = [event for piece in pieces for event in answer.piece(json.dumps(piece).encode())]
    assert [event.text for event in events if isinstance(event, Text)] == ["Hi", "."]
    assert (answer.reason, answer.unfinished) == ("stop", True)


@pytest.mark.parametrize(
    ("model", "tier", "wanted", "sent"),
    [
        (KAYRA, "", 100, 100),
        (KAYRA, "", 200, 150),
        (KAYRA, "Opus", 300, 250),
        (KAYRA, "scroll", 300, 150),
        (ERATO, "", 300, 250),
        ("clio-v1", "", 9999, 2048),
    ],
)
def test_a_story_is_no_longer_than_the_subscription_allows(
    model: str, tier: str, wanted: int, sent: int
) -> None:
    body = body_of(request(model=model, max_output_length=wanted), tier)
    assert body.fields["parameters"]["max_length"] == sent
    assert [warning.name for warning in body.warnings] == ([] if sent == wanted else ["PARAMETER_CHANGED"])


def test_a_tier_that_there_is_not_is_told() -> None:
    with pytest.raises(AdapterError) as caught:
        body_of(request(model=KAYRA), "platinum")
    assert caught.value.code is Code.INVALID_REQUEST
    assert "tablet, scroll, opus" in caught.value.message


def test_what_a_client_asks_for_goes_on_top_of_the_preset() -> None:
    plain = parameters_of(ERATO)
    assert ("temperature" in plain, plain["order"], "stop_sequences" in plain) == (False, [9, 2], False)
    asked = parameters_of(
        ERATO,
        temperature=0.7,
        sampling={"min_p": 0.1, "top_p": 0.5, "frequency_penalty": 0.3},
        stop_ids=(198,),
        extra={"parameters": {"phrase_rep_pen": "off"}},
    )
    assert (asked["temperature"], asked["min_p"], asked["top_p"]) == (0.7, 0.1, 0.5)
    assert (asked["order"], asked["repetition_penalty_frequency"]) == ([9, 2, 0, 10], 0.3)
    assert (asked["stop_sequences"], asked["phrase_rep_pen"]) == ([[198]], "off")
    assert parameters_of(KAYRA)["temperature"] == 1.35
    assert parameters_of(KAYRA, temperature=0.7)["temperature"] == 0.7


def test_what_a_story_cannot_have_is_told() -> None:
    wanted = request(
        model=KAYRA, max_output_length=50, response_format={"type": "json_object"}, reasoning_effort="low"
    )
    warnings = body_of(wanted).warnings
    assert [warning.message.split()[0] for warning in warnings] == [
        "response_format",
        "reasoning_effort",
    ]
    quiet = replace(wanted, response_format={"type": "text"}, reasoning_effort="none")
    assert body_of(quiet).warnings == ()

"""A request as KoboldCpp takes it: its prompt in both forms, its parameters; and how odd answers are read."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from tests.fakes.bound import request
from workers.adapter import AdapterError, Alive, Event, Message, Text, Usage
from workers.adapters.kobold import USUAL
from workers.codes import Code
from workers.kobold_chat import KoboldReply, Manner, Tags, build, cuts_of, read_manner
from workers.parameters import Body
from workers.quirks import Quirks
from workers.refusals import Who

UNITED: Final = Quirks.parse("x", {"streams": False, "temperature_min": 0.01}, over=USUAL)
THINKING: Final = Quirks.parse("x", {"reasoning_models": ["*r1*"]}, over=USUAL)
CHATML: Final = read_manner({"instruct": "chatml"})
CHAT: Final = (
    Message("system", "You are Mia."),
    Message("user", "Hi", "Ann"),
    Message("assistant", "Yes?"),
    Message("system", "It rains."),
    Message("user", "Go on."),
)


def body_of(manner: Manner | None = None, quirks: Quirks = USUAL, **fields: Any) -> Body:
    wanted = request(**{"messages": CHAT, "character_name": "Mia", **fields})
    return build(wanted, quirks, manner or Manner(), "KEY")


# ---- prompts


def test_a_transcript_has_its_system_prompt_in_memory_and_stops_at_the_others() -> None:
    fields = body_of(stop=("END",)).fields
    assert fields["memory"] == "You are Mia.\n\n"
    assert fields["prompt"] == "Ann: Hi\nMia: Yes?\nIt rains.\n\nUser: Go on.\nMia:"
    assert fields["stop_sequence"] == ["\nUser:", "\nAnn:", "END"]
    assert (fields["trim_stop"], fields["genkey"], fields["quiet"]) == (False, "KEY", True)


def test_turns_have_the_marks_of_the_model() -> None:
    fields = body_of(CHATML).fields
    assert fields["memory"] == "<|im_start|>system\nYou are Mia.<|im_end|>\n"
    assert fields["prompt"] == (
        "<|im_start|>user\nAnn: Hi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n"
        "<|im_start|>system\nIt rains.<|im_end|>\n<|im_start|>user\nGo on.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert fields["stop_sequence"] == [
        *("<|im_start|>user", "<|im_start|>assistant", "<|im_start|>system", "<|im_end|>")
    ]


def test_marks_may_be_a_clients_own() -> None:
    manner = read_manner({"instruct": {"user_start": "<u>", "assistant_start": "<a>"}})
    assert manner.tags == Tags(user_start="<u>", assistant_start="<a>")
    assert body_of(manner).fields["prompt"] == "<u>Ann: Hi<a>Yes?It rains.<u>Go on.<a>"


def test_koboldai_itself_gets_one_text_and_nothing_that_it_does_not_know() -> None:
    made = body_of(quirks=UNITED, temperature=0.0, stop=("\n",))
    assert set(made.fields) == {"quiet", "prompt", "max_length", "temperature", "stop_sequence"}
    assert made.fields["prompt"].startswith("You are Mia.\n\nAnn: Hi\n")
    assert (made.fields["temperature"], made.streamed) == (0.01, False)


# ---- parameters


def test_sampling_has_kobolds_names() -> None:
    sampling = {
        "repetition_penalty": 1.1,
        "seed": 7.0,
        "top_k": 40.0,
        "min_p": 0.05,
        "frequency_penalty": 0.5,
    }
    made = body_of(sampling=sampling, max_output_length=50)
    fields = made.fields
    assert (fields["rep_pen"], fields["sampler_seed"], fields["top_k"], fields["min_p"]) == (1.1, 7, 40, 0.05)
    assert fields["max_length"] == 50
    assert [warning.message.split()[0] for warning in made.warnings] == ["frequency_penalty"]


def test_what_the_wire_lacks_is_left_out_and_told() -> None:
    made = body_of(response_format={"type": "json_object"}, reasoning_effort="high")
    assert [warning.message.split()[0] for warning in made.warnings] == [
        "response_format",
        "reasoning_effort",
    ]
    assert body_of(response_format={"type": "text"}, reasoning_effort="none").warnings == ()
    with pytest.raises(AdapterError) as caught:
        body_of(stop_ids=(1,))
    assert caught.value.code is Code.UNSUPPORTED


def test_extra_comes_last_and_wins() -> None:
    fields = body_of(extra={"mirostat": 2, "max_length": 7}).fields
    assert (fields["mirostat"], fields["max_length"]) == (2, 7)


def test_a_model_that_thinks_in_its_text_has_room_and_no_stops() -> None:
    made = body_of(quirks=THINKING, model="koboldcpp/deepseek-r1", stop=("END",), stream=False)
    assert "stop_sequence" not in made.fields
    assert (made.fields["max_length"], made.streamed) == (200 + 2048, True)
    wanted = request(messages=CHAT, stop=("END",), model="koboldcpp/deepseek-r1")
    assert "END" not in cuts_of(wanted, THINKING, Manner())
    assert "END" in cuts_of(wanted, USUAL, Manner())


@pytest.mark.parametrize(
    ("stream", "stop", "streamed"),
    [(True, (), True), (False, (), False), (False, ("END",), False), (False, ("\n",), True)],
)
def test_an_answer_is_streamed_where_it_must_be_ended_early(
    stream: bool, stop: tuple[str, ...], streamed: bool
) -> None:
    assert body_of(stream=stream, stop=stop).streamed is streamed


# ---- options


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Manner()),
        ({"instruct": None, "context_length": None}, Manner()),
        ({"instruct": ""}, Manner()),
        ({"context_length": 4096.0}, Manner(context_length=4096)),
    ],
)
def test_options_may_be_left_out(options: dict[str, Any], expected: Manner) -> None:
    assert read_manner(options) == expected


def test_a_context_is_told_to_the_server_only_where_a_client_says_one() -> None:
    assert body_of(Manner(context_length=4096)).fields["max_context_length"] == 4096
    assert "max_context_length" not in body_of().fields


@pytest.mark.parametrize(
    "options",
    [
        {"instruct": "klingon"},
        {"instruct": 7},
        {"instruct": {}},
        {"instruct": {"user": "x"}},
        {"instruct": {"user_start": 7}},
        {"instruct": {"user_start": "x" * 1000}},
        {"context_length": 0},
        {"context_length": "4096"},
        {"context_length": True},
        {"context_length": 1.5},
    ],
    ids=str,
)
def test_an_option_that_cannot_be_meant_is_told(options: dict[str, Any]) -> None:
    with pytest.raises(AdapterError) as caught:
        read_manner(options)
    assert caught.value.code is Code.INVALID_REQUEST
    assert f"options.{next(iter(options))}" in caught.value.message


# ---- answers


def reply(*stops: str) -> KoboldReply:
    return KoboldReply(Who("Fake"), model="m", max_output_length=200, stops=stops, answered_by="m")


def read(answer: KoboldReply, *values: object) -> list[Event]:
    """The events of those pieces, without mere signs of life."""
    events = [event for value in values for event in answer.piece(json.dumps(value).encode())]
    return [event for event in events if not isinstance(event, Alive)]


def token(text: object, reason: object = "null") -> dict[str, object]:
    return {"token": text, "finish_reason": reason}


def test_a_reply_is_cut_where_somebody_else_would_speak_and_that_is_no_length() -> None:
    answer = reply("\nAnn:")
    assert read(answer, token(" Hi"), token("!\nAn")) == [Text("Hi"), Text("!")]
    assert (answer.reason, answer.ended) == (None, False)
    assert read(answer, token("n: Hey"), token("never")) == []
    assert (answer.reason, answer.ended) == ("stop", False)
    assert read(answer, token("", "length")) == []
    assert (answer.reason, answer.ended) == ("stop", True)


def test_a_reply_is_not_cut_while_the_model_thinks_of_what_somebody_else_may_say() -> None:
    answer = reply("\nUser:", "END")
    thought = "<think>hm\nUser: no\nEND</think>"
    said = (f"\n{thought[:9]}", thought[9:], "\n\nHi.", "\nUser: Hey")
    assert "".join(event.text for event in read(answer, *map(token, said)) if isinstance(event, Text)) == (
        f"\n{thought}Hi."
    )
    assert (answer.reason, answer.ended) == ("stop", False)


def test_what_was_held_back_and_is_no_stop_comes_at_the_end() -> None:
    answer = reply("\nAnn:")
    assert read(answer, token("Hi\nAn", "length")) == [Text("Hi"), Text("\nAn")]
    assert (answer.reason, answer.ended) == ("length", True)


def test_a_stop_that_could_have_become_a_longer_one_counts_at_the_end() -> None:
    answer = reply("END", "ENDING")
    assert read(answer, token("Hi END", "length")) == [Text("Hi ")]
    assert answer.reason == "stop"


@pytest.mark.parametrize(
    "odd", [token(None), token(7), token(["x"]), token("", None), token("", 7), {}], ids=str
)
def test_fields_of_a_wrong_type_are_passed_over(odd: object) -> None:
    answer = reply()
    assert read(answer, odd, token("Hi"), token("", "stop")) == [Text("Hi")]
    assert (answer.reason, answer.complete) == ("stop", True)


@pytest.mark.parametrize(
    ("result", "reason", "usage"),
    [
        ({"text": "Hi"}, "stop", None),
        ({"text": "Hi", "finish_reason": "length"}, "length", None),
        (
            {"text": "Hi", "finish_reason": None, "prompt_tokens": 7, "completion_tokens": 3},
            "stop",
            Usage(7, 3),
        ),
        ({"text": "Hi", "prompt_tokens": "many"}, "stop", Usage()),
    ],
)
def test_a_whole_answer_may_tell_little(result: dict[str, Any], reason: str, usage: Usage | None) -> None:
    answer = reply()
    assert answer.whole(json.dumps({"results": [result]}).encode()) == [Alive(), Text("Hi")]
    assert (answer.reason, answer.usage, answer.ended) == (reason, usage, True)

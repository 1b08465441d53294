"""What a job of the AI Horde is made of. How it is asked and read beside the horde's own package is in
tests/workers/adapters/test_ai_horde.py, whose fixture has the schema that is held here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fakes.bound import request
from workers.adapter import AdapterError, Message, Text
from workers.adapters.ai_horde import USUAL
from workers.codes import Code
from workers.horde_job import HordeReply, build
from workers.parameters import Body
from workers.refusals import Who

SCHEMA: Final = json.loads(
    (Path(__file__).parent / "adapters" / "captured" / "ai_horde.json").read_text(encoding="utf-8")
)["schema"]
TYPES: Final[dict[str, tuple[type, ...]]] = {
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "array": (list,),
}


def body_of(text: str = "Hello", **fields: Any) -> Body:
    """What is sent for that request."""
    return build(request(text, **fields), USUAL)


def params_of(text: str = "Hello", **fields: Any) -> dict[str, Any]:
    """Its parameters."""
    params: dict[str, Any] = body_of(text, **fields).fields["params"]
    return params


def warned(body: Body) -> list[tuple[str, str]]:
    """Each warning, and the first word of its sentence."""
    return [(warning.name, warning.message.split()[0]) for warning in body.warnings]


@pytest.mark.foreign
@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1000.0])
@pytest.mark.parametrize("length", [1, 200, 100_000])
def test_every_field_is_in_the_schema_and_within_its_bounds(factor: float, length: int) -> None:
    sampling = dict.fromkeys(
        ("top_p", "top_k", "min_p", "presence_penalty", "repetition_penalty", "seed"), factor
    )
    stops = tuple(f"stop {number}" for number in range(500))
    body = body_of("x" * length, temperature=factor, max_output_length=length, sampling=sampling, stop=stops)
    assert body.fields.keys() <= set(SCHEMA["GenerationInputKobold"])
    params = body.fields["params"]
    for name, value in params.items():
        kind, low, high = SCHEMA["params"][name]
        assert isinstance(value, TYPES[kind]), name
        assert low is None or low <= value <= high, name
    assert params["max_length"] <= params["max_context_length"]
    assert len(params["stop_sequence"]) <= SCHEMA["stops_max"]
    assert sum(map(len, params["stop_sequence"])) <= SCHEMA["stops_max_chars"]


@pytest.mark.parametrize(("wanted", "sent"), [(5, 16), (16, 16), (200, 200), (1024, 1024), (5000, 1024)])
def test_a_length_that_cannot_be_asked_for_is_told(wanted: int, sent: int) -> None:
    body = body_of(max_output_length=wanted)
    assert body.fields["params"]["max_length"] == sent
    expected = [] if sent == wanted else [("PARAMETER_CHANGED", "max_output_length")]
    assert warned(body) == expected


@pytest.mark.parametrize(
    ("text", "context"),
    [("x", 2048), ("x" * 6000, 4096), ("日" * 6000, 8192), ("x" * 40_000, 16384), ("x" * 900_000, 32000)],
)
def test_a_context_is_asked_for_that_holds_the_prompt_and_the_reply(text: str, context: int) -> None:
    assert params_of(text)["max_context_length"] == context


def test_values_beyond_the_bounds_are_told() -> None:
    body = body_of(sampling={"repetition_penalty": 0.5, "top_k": 500, "top_p": 0.0})
    params = body.fields["params"]
    assert (params["rep_pen"], params["top_k"], params["top_p"]) == (1.0, 100, 0.001)
    assert warned(body) == [
        ("PARAMETER_CHANGED", "top_p"),
        ("PARAMETER_CHANGED", "rep_pen"),
        ("PARAMETER_CHANGED", "top_k"),
    ]


def test_a_model_that_thinks_is_sent_no_stops_which_could_end_its_thinking() -> None:
    assert "stop_sequence" not in params_of(model="koboldcpp/DeepSeek-R1-8B", stop=("END",))
    assert params_of(model="koboldcpp/Fimbulvetr", stop=("END", "\n"))["stop_sequence"] == [
        "\nUser:",
        "\nAssistant:",
        "END",
    ]


def test_what_a_job_cannot_have_is_told() -> None:
    body = body_of(response_format={"type": "json_object"}, reasoning_effort="low")
    assert [name for _, name in warned(body)] == ["response_format", "reasoning_effort"]
    assert body_of(response_format={"type": "text"}, reasoning_effort="none").warnings == ()
    with pytest.raises(AdapterError) as caught:
        body_of(stop_ids=(1,))
    assert caught.value.code is Code.UNSUPPORTED


def test_a_client_may_say_more_of_the_job_and_of_its_params() -> None:
    extra = {"trusted_workers": True, "params": {"smoothing_factor": 0.3, "max_context_length": 4096}}
    body = body_of(extra=extra).fields
    assert body["trusted_workers"] is True
    assert (body["params"]["smoothing_factor"], body["params"]["max_context_length"]) == (0.3, 4096)
    assert body["params"]["max_length"] == 200


THOUGHT: Final = "<think>What will the user say?\nUser: no\nEND</think>"


@pytest.mark.parametrize(
    ("text", "passed_on"),
    [
        (f"{THOUGHT}\n\nHi.\nUser: Hey", f"{THOUGHT}Hi."),
        ("\nHi.\nIt rains.\nUser: Hey", "Hi.\nIt rains."),
        (" Hi END of it.", "Hi END of it."),
    ],
    ids=["thinking", "a line end first", "a stop string"],
)
def test_a_text_is_cut_at_the_next_turn_and_the_clients_stops_are_the_hosts(
    text: str, passed_on: str
) -> None:
    answer = HordeReply(Who("Fake"), request(stop=("\n", "END")))
    job = {"done": True, "generations": [{"text": text, "state": "ok"}]}
    assert answer.looked(job) == [Text(passed_on)]
    assert answer.reason == "stop"


def test_a_prompt_is_a_transcript() -> None:
    messages = (Message("system", "You are Mia."), Message("user", "Hi", "Ann"))
    body = build(request(messages=messages, character_name="Mia", model=""), USUAL).fields
    assert body["prompt"] == "You are Mia.\n\nAnn: Hi\nMia:"
    assert "models" not in body

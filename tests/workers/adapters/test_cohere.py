"""What Cohere's wire has of its own; what it shares with all others is in test_contract.py.

captured/cohere.json holds what the vendor's own package sends, and answers that others recorded.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from supervisor.catalog import load_catalog
from tests.fakes.bound import CANARY, bound, collect, finish_of, load_only, reasoning_of, request, text_of
from tests.fakes.http_server import FakeServer
from tests.fakes.wire import SSE, Behaviour
from tests.fakes.wires.cohere import DONE, CohereWire, content, ended, typed
from workers.adapter import Adapter, AdapterError, Message, Text, Usage
from workers.adapters.cohere import USUAL, Cohere, build
from workers.codes import Code
from workers.parameters import Body
from workers.prompt import OPENING
from workers.quirks import Quirks

CHECKOUT: Final = Path(__file__).parents[3]
CAPTURED: Final = json.loads((Path(__file__).parent / "captured" / "cohere.json").read_text(encoding="utf-8"))
PROVIDER: Final = load_catalog(CHECKOUT / "venvs.toml").providers["cohere"]
QUIRKS: Final = Quirks.parse("cohere", PROVIDER.quirks, over=USUAL)
ANSWERS: Final = {answer["name"]: answer for answer in CAPTURED["answers"]}
SCHEMA: Final = {"type": "object", "properties": {}}


@pytest.fixture
async def cohere_server() -> AsyncIterator[FakeServer]:
    """A server that speaks this wire."""
    async with FakeServer(CohereWire()) as running:
        yield running


@pytest.fixture
async def adapter(cohere_server: FakeServer) -> AsyncIterator[Adapter]:
    """The adapter with the quirks of Cohere itself, loaded."""
    made = bound(cohere_server.base_url, PROVIDER.quirks, adapter=Cohere)
    await load_only(made)
    yield made
    await made.close()


def body_of(model: str = "command-r7b-12-2024", **fields: Any) -> Body:
    """What is sent to Cohere."""
    return build(request(model=model, **fields), QUIRKS.of(model))


def warned(body: Body) -> list[tuple[str, str]]:
    """The names of its warnings and what they are about."""
    return [(warning.name, warning.message.split()[0]) for warning in body.warnings]


def said(*messages: tuple[str, str]) -> tuple[Message, ...]:
    """Messages of a prompt."""
    return tuple(Message(role, text) for role, text in messages)


# ---- beside the vendor's own package


def captured_prompt(*, stream: bool) -> dict[str, Any]:
    """The prompt of the capture, as a request of ours."""
    prompt = CAPTURED["prompt"]
    return {
        "model": prompt["model"],
        "max_output_length": prompt["max_tokens"],
        "messages": (Message("system", prompt["system"]), *said(*map(tuple, prompt["messages"]))),
        "stop": tuple(prompt["stop"]),
        "temperature": prompt["temperature"],
        "sampling": {name: prompt[name] for name in ("top_p", "top_k", "seed")},
        "stream": stream,
    }


@pytest.mark.foreign
@pytest.mark.parametrize(("index", "stream"), [(0, True), (1, False)], ids=["streamed", "whole"])
async def test_what_is_sent_is_what_the_vendors_package_sends(
    cohere_server: FakeServer, adapter: Adapter, index: int, stream: bool
) -> None:
    await collect(adapter, request(**captured_prompt(stream=stream)))
    ours, theirs = cohere_server.requests[0], CAPTURED["sent"][index]
    assert (ours.method, ours.path, ours.body) == (theirs["method"], theirs["path"], theirs["body"])
    assert ours.headers["content-type"] == theirs["headers"]["content-type"]
    assert ours.headers["authorization"] == f"Bearer {CANARY}"
    assert theirs["headers"]["authorization"].startswith("Bearer ")


@pytest.mark.foreign
async def test_the_models_are_asked_for_page_by_page_as_the_vendors_package_does(
    cohere_server: FakeServer,
) -> None:
    cohere_server.model_names = tuple(f"m{number}" for number in range(1500))
    made = bound(cohere_server.base_url, adapter=Cohere)
    assert (await load_only(made)).models == cohere_server.model_names
    await made.close()
    ours = [received.path for received in cohere_server.lists]
    assert [_queried(path) for path in ours] == [_queried(path) for path in CAPTURED["lists"]]


def _queried(path: str) -> tuple[str, set[str]]:
    """A path and its query, whose order says nothing."""
    path, _, query = path.partition("?")
    return path, set(query.split("&"))


@pytest.mark.foreign
@pytest.mark.parametrize("name", ANSWERS)
async def test_a_recorded_answer_is_read_as_the_vendors_package_reads_it(
    cohere_server: FakeServer, adapter: Adapter, name: str
) -> None:
    answer, read = ANSWERS[name], ANSWERS[name]["read"]
    if "stream" in answer:
        events = (f"data: {line}\n\n".encode() for line in answer["stream"])
        cohere_server.behaviour = Behaviour(events=(*events, DONE), headers={"Content-Type": SSE})
    else:
        cohere_server.behaviour = Behaviour(body=json.dumps(answer["whole"]).encode())
    got = await collect(adapter, request(stream="stream" in answer))
    finish, tokens = finish_of(got), read["usage"]
    assert (text_of(got), reasoning_of(got)) == (read["text"], read["thinking"])
    assert finish.reason == CohereWire.reasons[read["finish_reason"]]
    assert finish.usage == Usage(tokens["input_tokens"], tokens["output_tokens"], tokens["cached_tokens"])


# ---- prompts


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([("user", "Hi")], [("user", "Hi")]),
        (
            [("system", "A"), ("developer", "B"), ("user", "1"), ("user", "2"), ("system", "C")],
            [("system", "A"), ("system", "B"), ("user", "1"), ("user", "2"), ("system", "C")],
        ),
        ([("user", "1"), ("assistant", "2")], [("user", "1"), ("assistant", "2")]),
        ([("system", "A"), ("assistant", "2")], [("system", "A"), ("user", OPENING), ("assistant", "2")]),
        ([("system", "A")], [("system", "A"), ("user", OPENING)]),
        ([("system", " "), ("user", "1"), ("assistant", "\n")], [("user", "1")]),
    ],
)
def test_a_prompt_keeps_its_order_and_has_a_user(
    messages: list[tuple[str, str]], expected: list[tuple[str, str]]
) -> None:
    sent = body_of(messages=said(*messages)).fields["messages"]
    assert [(message["role"], message["content"]) for message in sent] == expected


def test_a_prompt_of_nothing_is_refused_here() -> None:
    with pytest.raises(AdapterError) as caught:
        body_of(messages=said(("system", ""), ("user", " \n")))
    assert caught.value.code is Code.INVALID_PROMPT


def test_token_ids_are_unsupported() -> None:
    with pytest.raises(AdapterError) as caught:
        body_of(stop_ids=(1,))
    assert caught.value.code is Code.UNSUPPORTED


# ---- parameters


@pytest.mark.parametrize(
    ("sampling", "expected", "told"),
    [
        ({"top_p": 0.9, "top_k": 40.0}, {"p": 0.9, "k": 40}, []),
        ({"top_p": 1.0}, {"p": 0.99}, [("PARAMETER_CHANGED", "top_p")]),
        ({"top_k": 900}, {"k": 500}, [("PARAMETER_CHANGED", "top_k")]),
        ({"presence_penalty": -2.0}, {"presence_penalty": 0.0}, [("PARAMETER_CHANGED", "presence_penalty")]),
        (
            {"presence_penalty": 0.5, "frequency_penalty": 0.7},
            {"frequency_penalty": 0.7},
            [("PARAMETER_LEFT_OUT", "presence_penalty")],
        ),
        (
            {"presence_penalty": 0.5, "frequency_penalty": 0.0},
            {"presence_penalty": 0.5, "frequency_penalty": 0.0},
            [],
        ),
        ({"min_p": 0.1}, {}, [("PARAMETER_LEFT_OUT", "min_p")]),
    ],
    ids=str,
)
def test_sampling_has_this_wires_names_and_limits(
    sampling: dict[str, float], expected: dict[str, float], told: list[tuple[str, str]]
) -> None:
    made = body_of(sampling=sampling)
    names = ("p", "k", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty")
    assert {name: made.fields[name] for name in names if name in made.fields} == expected
    assert warned(made) == told


def test_a_penalty_that_the_model_refuses_takes_no_other_with_it() -> None:
    sampling = {"presence_penalty": 0.5, "frequency_penalty": 0.7}
    made = build(request(sampling=sampling), QUIRKS, refused=("frequency_penalty",))
    assert (made.fields["presence_penalty"], "frequency_penalty" in made.fields) == (0.5, False)


THINKER: Final = "command-a-plus-05-2026"


@pytest.mark.parametrize(
    ("model", "effort", "thinking", "room", "told"),
    [
        ("command-r7b-12-2024", None, None, 0, []),
        ("command-a-03-2025", "none", None, 0, []),
        ("command-a-reasoning-08-2025", None, {"type": "disabled"}, 0, []),
        (THINKER, "none", {"type": "disabled"}, 0, []),
        (
            THINKER,
            "low",
            {"type": "enabled", "token_budget": 2048},
            2048,
            [("PARAMETER_CHANGED", "reasoning_effort")],
        ),
        ("command-r7b-12-2024", "high", None, 0, [("PARAMETER_LEFT_OUT", "reasoning_effort")]),
    ],
)
def test_a_model_thinks_only_where_it_is_asked_to(
    model: str,
    effort: str | None,
    thinking: dict[str, Any] | None,
    room: int,
    told: list[tuple[str, str]],
) -> None:
    made = body_of(model, reasoning_effort=effort, stop=("END",))
    assert (made.fields.get("thinking"), made.fields["max_tokens"]) == (thinking, 200 + room)
    assert ("stop_sequences" in made.fields) is (room == 0)
    assert warned(made) == told


def test_a_client_that_says_itself_how_to_think_is_left_alone() -> None:
    thinking = {"type": "enabled", "token_budget": 9}
    assert body_of(THINKER, extra={"thinking": thinking}).fields["thinking"] == thinking


@pytest.mark.parametrize(
    ("wanted", "sent"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
            {"type": "json_object", "json_schema": SCHEMA},
        ),
    ],
)
def test_json_is_one_kind_with_or_without_a_schema(
    wanted: dict[str, Any], sent: dict[str, Any] | None
) -> None:
    assert body_of(response_format=wanted).fields.get("response_format") == sent


# ---- answers


async def test_the_bill_is_told_where_the_tokens_are_not(cohere_server: FakeServer, adapter: Adapter) -> None:
    bill = {"billed_units": {"input_tokens": 5, "output_tokens": 2}}
    cohere_server.behaviour = Behaviour(usage=bill)
    assert finish_of(await collect(adapter, request())).usage == Usage(5, 2)


@pytest.mark.parametrize(
    "odd",
    [
        typed("content-delta", index=0, delta=None),
        typed("content-delta", index=0, delta={"message": None}),
        typed("content-delta", index=0, delta={"message": {"content": "x"}}),
        content("content-delta", text=7),
        content("content-delta", thinking=[]),
        content("content-start", type="image_url", image_url={"url": "x"}),
        typed("message-start", delta=7),
        b'data: {"no": "type"}\n\n',
    ],
    ids=str,
)
async def test_fields_of_a_wrong_type_are_passed_over(
    cohere_server: FakeServer, adapter: Adapter, odd: bytes
) -> None:
    first, *rest = CohereWire().events(Behaviour(texts=("Hi",)))
    cohere_server.behaviour = Behaviour(events=(first, odd, *rest))
    events = await collect(adapter, request())
    assert [event for event in events if isinstance(event, Text)] == [Text("Hi")]
    assert finish_of(events).reason == "stop"


@pytest.mark.parametrize("delta", [{}, {"finish_reason": 7, "usage": 7}, {"usage": {"tokens": [1]}}])
async def test_an_end_that_says_nothing_is_an_end(
    cohere_server: FakeServer, adapter: Adapter, delta: dict[str, Any]
) -> None:
    events = CohereWire().said("Hi")
    cohere_server.behaviour = Behaviour(events=(*events, ended(**delta), DONE))
    finish = finish_of(await collect(adapter, request()))
    assert (finish.reason, finish.usage) == ("stop", None)


async def test_a_list_of_models_without_an_end_is_left_after_some_pages(cohere_server: FakeServer) -> None:
    page = {"models": [{"name": "m"}], "next_page_token": "x&y=1"}
    cohere_server.models = Behaviour(body=json.dumps(page).encode())
    made = bound(cohere_server.base_url, adapter=Cohere)
    assert (await load_only(made)).models == ("m",)
    await made.close()
    assert len(cohere_server.lists) == 4
    assert cohere_server.lists[1].path.endswith("&page_token=x%26y%3D1")


def test_the_adapter_and_the_catalogue_know_each_other() -> None:
    assert PROVIDER.adapter == "cohere"
    assert QUIRKS.of(PROVIDER.default_model or "").stop_max == 5

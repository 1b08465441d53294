"""What the Anthropic wire has of its own; what it shares with all others is in test_contract.py.

captured/anthropic_messages.json holds what the vendor's own package sends and reads, so that this wire rests
on more than a fake and an adapter of one hand.
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
from tests.fakes.wire import Behaviour
from tests.fakes.wires.anthropic_messages import AnthropicWire, delta, named
from workers.adapter import Adapter, AdapterError, Message, Text, Usage
from workers.adapters.anthropic_messages import AnthropicMessages
from workers.claude_models import USUAL
from workers.codes import Code
from workers.messages_body import build
from workers.parameters import Body
from workers.prompt import OPENING
from workers.quirks import Quirks

CHECKOUT: Final = Path(__file__).parents[3]
CAPTURED: Final = json.loads(
    (Path(__file__).parent / "captured" / "anthropic_messages.json").read_text(encoding="utf-8")
)
PROVIDER: Final = load_catalog(CHECKOUT / "venvs.toml").providers["anthropic"]
QUIRKS: Final = Quirks.parse("anthropic", PROVIDER.quirks, over=USUAL)
ANSWERS: Final = {answer["name"]: answer for answer in CAPTURED["answers"]}


@pytest.fixture
async def messages_server() -> AsyncIterator[FakeServer]:
    """A server that speaks this wire."""
    async with FakeServer(AnthropicWire()) as running:
        yield running


@pytest.fixture
async def adapter(messages_server: FakeServer) -> AsyncIterator[Adapter]:
    """The adapter with the quirks of Anthropic itself, loaded."""
    made = bound(messages_server.base_url, PROVIDER.quirks, adapter=AnthropicMessages)
    await load_only(made)
    yield made
    await made.close()


def body_of(model: str = "claude-haiku-4-5", **fields: Any) -> Body:
    """What is sent to Anthropic."""
    return build(request(model=model, **fields), QUIRKS.of(model))


def said(*messages: tuple[str, str]) -> tuple[Message, ...]:
    """Messages of a prompt."""
    return tuple(Message(role, content) for role, content in messages)


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
        "stream": stream,
    }


@pytest.mark.foreign
@pytest.mark.parametrize("version", ["1.17.0", "2.13.0"])
@pytest.mark.parametrize(("index", "stream"), [(0, True), (1, False)], ids=["streamed", "whole"])
async def test_what_is_sent_is_what_the_vendors_package_sends(
    messages_server: FakeServer, adapter: Adapter, version: str, index: int, stream: bool
) -> None:
    await collect(adapter, request(**captured_prompt(stream=stream)))
    ours, theirs = messages_server.requests[0], CAPTURED[f"sent_by_{version}"][index]
    assert (ours.method, ours.path, ours.body) == (theirs["method"], theirs["path"], theirs["body"])
    assert ours.headers["content-type"] == theirs["headers"]["content-type"]
    assert ours.headers["x-api-key"] == CANARY
    if version == "1.17.0":  # of 2.0 on it asks for a version without sampling, and sends a bearer key
        assert ours.headers["anthropic-version"] == theirs["headers"]["anthropic-version"]
        assert theirs["headers"]["x-api-key"]


@pytest.mark.foreign
async def test_the_models_are_asked_for_page_by_page_as_the_vendors_package_does(
    messages_server: FakeServer,
) -> None:
    messages_server.model_names = tuple(f"m{number}" for number in range(1500))
    made = bound(messages_server.base_url, adapter=AnthropicMessages)
    assert (await load_only(made)).models == messages_server.model_names
    await made.close()
    theirs = [sent["path"] for sent in CAPTURED["sent_by_1.17.0"] if sent["method"] == "GET"]
    assert [received.path for received in messages_server.lists] == theirs


@pytest.mark.foreign
@pytest.mark.parametrize("how", ["stream", "whole"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_is_read_as_the_vendors_package_reads_it(
    messages_server: FakeServer, adapter: Adapter, name: str, how: str
) -> None:
    answer = ANSWERS[name]
    if how == "stream":
        messages_server.behaviour = Behaviour(events=("\n".join(answer["stream"]).encode(),))
    else:
        messages_server.behaviour = Behaviour(body=json.dumps(answer["whole"]).encode())
    events = await collect(adapter, request(stream=how == "stream"))
    read = answer["read_by_both"][how]
    finish = finish_of(events)
    assert (text_of(events), reasoning_of(events)) == (read["text"], read["thinking"])
    assert (finish.model, finish.reason) == (read["model"], AnthropicWire.reasons[read["stop_reason"]])
    assert finish.usage == usage_of(**read["usage"])


def usage_of(
    *,
    input_tokens: int,
    output_tokens: int,
    cache_read_input_tokens: int | None,
    cache_creation_input_tokens: int | None,
    thinking_tokens: int | None,
) -> Usage:
    """As we count: what came from a cache or went into one is input too."""
    total = input_tokens + (cache_read_input_tokens or 0) + (cache_creation_input_tokens or 0)
    return Usage(total, output_tokens, cache_read_input_tokens, thinking_tokens)


@pytest.mark.foreign
def test_the_answers_of_the_capture_are_those_of_our_fake() -> None:
    wire = AnthropicWire()
    plain = ANSWERS["plain"]
    assert "\n".join(plain["stream"]).encode() == b"".join(wire.events(Behaviour()))
    assert plain["whole"] == json.loads(wire.whole(Behaviour()))


# ---- prompts


@pytest.mark.parametrize(
    ("messages", "system", "turns"),
    [
        ([("user", "Hi")], None, [("user", "Hi")]),
        ([("system", "A"), ("developer", "B"), ("user", "Hi")], "A\nB", [("user", "Hi")]),
        (
            [("user", "1"), ("user", "2"), ("assistant", "3"), ("assistant", "4"), ("user", "5")],
            None,
            [("user", "1\n2"), ("assistant", "3\n4"), ("user", "5")],
        ),
        (
            [("user", "1"), ("assistant", "2"), ("system", "It rains."), ("user", "3")],
            None,
            [("user", "1"), ("assistant", "2"), ("user", "It rains.\n3")],
        ),
        ([("assistant", "Hi"), ("user", "1")], None, [("user", OPENING), ("assistant", "Hi"), ("user", "1")]),
        ([("system", "A")], "A", [("user", OPENING)]),
        ([("user", "1"), ("assistant", "So \n")], None, [("user", "1"), ("assistant", "So")]),
        ([("system", " "), ("user", "1"), ("assistant", "\n"), ("user", "")], None, [("user", "1")]),
    ],
)
def test_a_prompt_is_a_system_prompt_and_turns_that_alternate(
    messages: list[tuple[str, str]], system: str | None, turns: list[tuple[str, str]]
) -> None:
    fields = body_of(messages=said(*messages)).fields
    assert fields.get("system") == system
    assert [(turn["role"], turn["content"]) for turn in fields["messages"]] == turns


def test_a_prompt_of_nothing_is_refused_here() -> None:
    with pytest.raises(AdapterError) as caught:
        body_of(messages=said(("system", ""), ("user", " \n")))
    assert caught.value.code is Code.INVALID_PROMPT


def test_token_ids_are_unsupported() -> None:
    with pytest.raises(AdapterError) as caught:
        body_of(stop_ids=(1,))
    assert caught.value.code is Code.UNSUPPORTED


# ---- parameters, by model


@pytest.mark.parametrize(
    ("model", "thinking", "headroom", "samples"),
    [
        ("claude-haiku-4-5", None, 0, True),
        ("claude-haiku-4-5-20251001", None, 0, True),
        ("claude-sonnet-4-6", None, 0, True),
        ("claude-opus-4-8", None, 0, False),
        ("claude-opus-5", {"thinking": {"type": "disabled"}}, 0, False),
        ("claude-haiku-5-5", {"thinking": {"type": "disabled"}}, 0, False),
        ("claude-sonnet-5-5", {"thinking": {"type": "between_tools"}}, 0, False),
        ("claude-opus-5-5", {"output_config": {"effort": "low"}}, 2048, False),
        ("claude-fable-5-1", {"output_config": {"effort": "low"}}, 2048, False),
    ],
)
def test_a_model_is_kept_from_thinking_as_far_as_it_can_be(
    model: str, thinking: dict[str, Any] | None, headroom: int, samples: bool
) -> None:
    made = body_of(model, temperature=0.5, stop=("END",))
    shown = {name: made.fields[name] for name in ("thinking", "output_config") if name in made.fields}
    assert shown == (thinking or {})
    assert made.fields["max_tokens"] == 200 + headroom
    assert ("temperature" in made.fields) is samples
    assert [warning.name for warning in made.warnings] == ([] if samples else ["PARAMETER_LEFT_OUT"])
    assert ("stop_sequences" in made.fields) is (headroom == 0)


@pytest.mark.parametrize(
    ("model", "effort", "expected", "warned"),
    [
        (
            "claude-opus-4-8",
            "high",
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
            [],
        ),
        (
            "claude-opus-5-5",
            "minimal",
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
            [],
        ),
        (
            "claude-haiku-4-5",
            "high",
            {"thinking": {"type": "enabled", "budget_tokens": 1536}},
            ["PARAMETER_CHANGED"],
        ),
        ("claude-opus-5", "none", {"thinking": {"type": "disabled"}}, []),
    ],
)
def test_thinking_that_is_asked_for_has_room_and_no_stops(
    model: str, effort: str, expected: dict[str, Any], warned: list[str]
) -> None:
    made = body_of(model, reasoning_effort=effort, stop=("END",))
    assert {name: made.fields[name] for name in expected} == expected
    assert [warning.name for warning in made.warnings] == warned
    asked = effort != "none"
    assert made.fields["max_tokens"] == (200 + 2048 if asked else 200)
    assert ("stop_sequences" in made.fields) is not asked


def test_a_client_that_says_itself_how_to_think_is_left_alone() -> None:
    thinking = {"type": "enabled", "budget_tokens": 5000}
    fields = body_of("claude-opus-5", extra={"thinking": thinking, "max_tokens": 9000}).fields
    assert (fields["thinking"], fields["max_tokens"]) == (thinking, 9000)


def test_temperature_and_top_p_are_never_sent_together() -> None:
    both = body_of(temperature=0.5, sampling={"top_p": 0.9, "top_k": 40})
    assert (both.fields["temperature"], both.fields["top_k"]) == (0.5, 40)
    assert "top_p" not in both.fields
    assert [warning.message.split()[0] for warning in both.warnings] == ["top_p"]
    alone = body_of(sampling={"top_p": 0.9})
    assert (alone.fields["top_p"], "temperature" in alone.fields, alone.warnings) == (0.9, False, ())


def test_a_schema_is_sent_and_json_of_any_shape_is_left_out() -> None:
    schema = {"type": "object", "properties": {}}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    made = body_of("claude-opus-5-5", response_format=wanted)
    shape = {"type": "json_schema", "schema": schema}
    assert made.fields["output_config"] == {"effort": "low", "format": shape}
    made = body_of(response_format={"type": "json_object"})
    assert "output_config" not in made.fields
    assert [warning.name for warning in made.warnings] == ["PARAMETER_LEFT_OUT"]
    assert body_of(response_format={"type": "text"}).warnings == ()


async def test_a_model_that_refuses_a_parameter_is_asked_again_without_it(
    messages_server: FakeServer, adapter: Adapter
) -> None:
    error = {"type": "invalid_request_error", "message": "`temperature` is deprecated for this model."}
    body = json.dumps({"type": "error", "error": error}).encode()
    messages_server.script = [Behaviour(status=400, body=body)]
    finish = finish_of(await collect(adapter, request(model="claude-new", temperature=0.5)))
    assert (finish.retries, [warning.name for warning in finish.warnings]) == (1, ["PARAMETER_LEFT_OUT"])
    assert ["temperature" in received.body for received in messages_server.requests] == [True, False]


# ---- answers


async def test_models_that_are_retired_are_not_listed(messages_server: FakeServer) -> None:
    data = [{"id": "old", "lifecycle": "retired"}, {"id": "new", "lifecycle": "active"}, {"id": "compatible"}]
    messages_server.models = Behaviour(body=json.dumps({"data": data, "has_more": False}).encode())
    made = bound(messages_server.base_url, adapter=AnthropicMessages)
    assert (await load_only(made)).models == ("new", "compatible")
    await made.close()


async def test_a_list_of_models_without_an_end_is_left_after_some_pages(messages_server: FakeServer) -> None:
    page = {"data": [{"id": "m"}], "has_more": True, "last_id": "m&x=1"}
    messages_server.models = Behaviour(body=json.dumps(page).encode())
    made = bound(messages_server.base_url, adapter=AnthropicMessages)
    assert (await load_only(made)).models == ("m",)
    await made.close()
    assert len(messages_server.lists) == 4
    assert messages_server.lists[1].path.endswith("&after_id=m%26x%3D1")


@pytest.mark.parametrize(
    "odd",
    [
        named("content_block_delta", index=0, delta=None),
        named("content_block_delta", index=0, delta={"type": "text_delta", "text": 7}),
        named("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": []}),
        named("content_block_start", index=0, content_block="x"),
        named("message_start", message=None),
        named("message_start", message={"usage": 7, "model": 7}),
        named("message_delta", delta=None),
        named("message_delta", delta={"stop_reason": None}, usage=None),
        named("message_delta", delta={"stop_reason": 7}, usage={"output_tokens": "many"}),
        b'data: {"no": "type"}\n\n',
        delta("compaction_delta", content="a summary"),
    ],
    ids=str,
)
async def test_fields_of_a_wrong_type_are_passed_over(
    messages_server: FakeServer, adapter: Adapter, odd: bytes
) -> None:
    first, *rest = AnthropicWire().events(Behaviour(texts=("Hi",)))
    messages_server.behaviour = Behaviour(events=(first, odd, *rest))
    events = await collect(adapter, request())
    assert [event for event in events if isinstance(event, Text)] == [Text("Hi")]
    assert finish_of(events).reason == "stop"


async def test_the_mark_of_the_end_is_an_end_without_any_reason(
    messages_server: FakeServer, adapter: Adapter
) -> None:
    messages_server.behaviour = Behaviour(finish_reason=None)
    finish = finish_of(await collect(adapter, request()))
    assert finish.reason == "stop"


async def test_what_a_cache_gave_and_took_is_input(messages_server: FakeServer, adapter: Adapter) -> None:
    usage = {"input_tokens": 6, "cache_read_input_tokens": 64, "cache_creation_input_tokens": 30}
    messages_server.behaviour = Behaviour(usage={**usage, "output_tokens": 3})
    finish = finish_of(await collect(adapter, request(stream=False)))
    assert finish.usage == Usage(100, 3, 64, None)


def test_the_adapter_and_the_catalogue_know_each_other() -> None:
    assert PROVIDER.adapter == "anthropic_messages"
    assert QUIRKS.of("claude-sonnet-5-5").thinking_off == {"thinking": {"type": "between_tools"}}
    assert QUIRKS.of(PROVIDER.default_model or "").temperature_max == 1.0


def test_what_claudes_models_differ_in_is_known_to_every_provider_of_this_wire() -> None:
    """The provider's table says it once more; where they differ, one of the two is out of date."""
    assert Quirks.parse("x", {"models_complete": True, "stop_max": QUIRKS.stop_max}, over=USUAL) == QUIRKS

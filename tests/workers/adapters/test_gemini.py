"""What the Gemini wire has of its own; what it shares with all others is in test_contract.py.

captured/gemini.json holds what the vendor's own package sends and reads, so that this wire rests on more than
a fake and an adapter of one hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from supervisor.catalog import load_catalog
from tests.fakes.bound import (
    CANARY,
    bound,
    clean,
    collect,
    finish_of,
    load_only,
    reasoning_of,
    request,
    text_of,
)
from tests.fakes.http_server import FakeServer
from tests.fakes.wire import Behaviour, event
from tests.fakes.wires.gemini import GeminiWire, chunk, failed, part
from workers.adapter import Adapter, AdapterError, LoadRequest, Message, Text, Usage
from workers.adapters.gemini import Gemini
from workers.codes import Code
from workers.gemini_body import build
from workers.gemini_models import USUAL
from workers.parameters import Body
from workers.prompt import OPENING
from workers.quirks import Quirks

CHECKOUT: Final = Path(__file__).parents[3]
CAPTURED: Final = json.loads((Path(__file__).parent / "captured" / "gemini.json").read_text(encoding="utf-8"))
PROVIDER: Final = load_catalog(CHECKOUT / "venvs.toml").providers["gemini"]
QUIRKS: Final = Quirks.parse("gemini", PROVIDER.quirks, over=USUAL)
ANSWERS: Final = {answer["name"]: answer for answer in CAPTURED["answers"]}
RETRY: Final = "type.googleapis.com/google.rpc.RetryInfo"


@pytest.fixture
async def gemini_server() -> AsyncIterator[FakeServer]:
    """A server that speaks this wire."""
    async with FakeServer(GeminiWire()) as running:
        yield running


@pytest.fixture
async def adapter(gemini_server: FakeServer) -> AsyncIterator[Adapter]:
    """The adapter with the quirks of Google itself, loaded."""
    made = bound(gemini_server.base_url, PROVIDER.quirks, adapter=Gemini)
    await load_only(made)
    yield made
    await made.close()


def body_of(model: str = "gemini-2.5-flash-lite", **fields: Any) -> Body:
    """What is sent to Google."""
    return build(request(model=model, **fields), QUIRKS.of(model))


def config_of(model: str = "gemini-2.5-flash-lite", **fields: Any) -> dict[str, Any]:
    """All of it that shapes a reply."""
    config = body_of(model, **fields).fields["generationConfig"]
    assert isinstance(config, dict)
    return config


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
        "sampling": prompt["sampling"],
        "stream": stream,
    }


def camel(value: Any) -> Any:
    """The same with the names of fields as the reference spells them."""
    if isinstance(value, list):
        return [camel(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {re.sub("_([a-z])", lambda m: m[1].upper(), key): camel(item) for key, item in value.items()}


@pytest.mark.foreign
@pytest.mark.parametrize(("index", "stream"), [(0, True), (1, False)], ids=["streamed", "whole"])
async def test_what_is_sent_is_what_the_vendors_package_sends(
    gemini_server: FakeServer, adapter: Adapter, index: int, stream: bool
) -> None:
    await collect(adapter, request(**captured_prompt(stream=stream)))
    ours, theirs = gemini_server.requests[0], CAPTURED["sent"][index]
    assert (ours.method, ours.path, ours.body) == (theirs["method"], theirs["path"], camel(theirs["body"]))
    assert ours.headers["content-type"] == theirs["headers"]["content-type"]
    assert theirs["headers"]["x-goog-api-key"]
    assert ours.headers["x-goog-api-key"] == CANARY


@pytest.mark.foreign
async def test_thinking_and_a_schema_are_asked_for_as_the_vendors_package_does(
    gemini_server: FakeServer, adapter: Adapter
) -> None:
    schema = {"type": "object", "properties": {}}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    asked = request("Hi", model="gemini-3.5-flash", max_output_length=50, reasoning_effort="high")
    await collect(adapter, request(**{**vars_of(asked), "response_format": wanted}))
    ours, theirs = gemini_server.requests[0], CAPTURED["sent"][2]
    assert (ours.path, ours.body) == (theirs["path"], camel(theirs["body"]))


def vars_of(wanted: Any) -> dict[str, Any]:
    """The fields of a request."""
    return {name: getattr(wanted, name) for name in wanted.__dataclass_fields__}


@pytest.mark.foreign
async def test_the_models_are_asked_for_page_by_page_as_the_vendors_package_does(
    gemini_server: FakeServer,
) -> None:
    gemini_server.model_names = tuple(f"m{number}" for number in range(1500))
    made = bound(gemini_server.base_url, adapter=Gemini)
    assert (await load_only(made)).models == gemini_server.model_names
    await made.close()
    theirs = [sent["path"] for sent in CAPTURED["sent"] if sent["method"] == "GET"]
    assert [received.path for received in gemini_server.lists] == theirs


@pytest.mark.foreign
@pytest.mark.parametrize("how", ["stream", "whole"])
@pytest.mark.parametrize("name", [name for name in ANSWERS if name != "prompt refused"])
async def test_an_answer_is_read_as_the_vendors_package_reads_it(
    gemini_server: FakeServer, adapter: Adapter, name: str, how: str
) -> None:
    answer = ANSWERS[name]
    gemini_server.behaviour = behaviour_of(answer, how)
    events = await collect(adapter, request(stream=how == "stream"))
    read = answer["read"][how]
    finish = finish_of(events)
    assert (text_of(events), reasoning_of(events)) == (read["text"], read["thought"])
    assert (finish.model, finish.reason) == (read["model"], GeminiWire.reasons[read["finish_reason"]])
    assert finish.usage == (read["usage"] and usage_of(**read["usage"]))


def behaviour_of(answer: dict[str, Any], how: str) -> Behaviour:
    """A captured answer, streamed or whole."""
    if how == "stream":
        return Behaviour(events=("\r\n".join(answer["stream"]).encode(),))
    return Behaviour(body=json.dumps(answer["whole"]).encode())


def usage_of(
    *,
    prompt_token_count: int,
    candidates_token_count: int | None,
    thoughts_token_count: int | None,
    cached_content_token_count: int | None,
) -> Usage:
    """As we count: thoughts are output too."""
    output = (candidates_token_count or 0) + (thoughts_token_count or 0)
    return Usage(prompt_token_count, output, cached_content_token_count, thoughts_token_count)


@pytest.mark.foreign
@pytest.mark.parametrize("how", ["stream", "whole"])
async def test_a_prompt_that_was_refused_is_content_filtered(
    gemini_server: FakeServer, adapter: Adapter, how: str
) -> None:
    answer = ANSWERS["prompt refused"]
    assert answer["read"][how]["block_reason"]
    gemini_server.behaviour = behaviour_of(answer, how)
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, request(stream=how == "stream"))
    assert caught.value.code is Code.CONTENT_FILTERED


@pytest.mark.foreign
def test_the_answers_of_the_capture_are_those_of_our_fake() -> None:
    wire = GeminiWire()
    plain = ANSWERS["plain"]
    assert "\r\n".join(plain["stream"]).encode() == b"".join(wire.events(Behaviour()))
    assert plain["whole"] == json.loads(wire.whole(Behaviour()))


# ---- prompts


@pytest.mark.parametrize(
    ("messages", "system", "turns"),
    [
        ([("system", "A"), ("developer", "B"), ("user", "Hi")], "A\nB", [("user", "Hi")]),
        ([("assistant", "Hi"), ("user", "1")], None, [("user", OPENING), ("model", "Hi"), ("user", "1")]),
        (
            [("user", "1"), ("assistant", "2"), ("system", "It rains."), ("user", "3")],
            None,
            [("user", "1"), ("model", "2"), ("user", "It rains.\n3")],
        ),
        ([("system", "A")], "A", [("user", OPENING)]),
    ],
)
def test_a_prompt_is_a_system_prompt_and_turns_that_alternate(
    messages: list[tuple[str, str]], system: str | None, turns: list[tuple[str, str]]
) -> None:
    fields = body_of(messages=said(*messages)).fields
    instruction = fields.get("systemInstruction")
    assert (instruction and instruction["parts"]) == (system and [{"text": system}])
    assert [(turn["role"], turn["parts"][0]["text"]) for turn in fields["contents"]] == turns


def test_a_model_without_a_system_prompt_is_told_by_the_user() -> None:
    fields = body_of("gemma-3-27b-it", messages=said(("system", "A"), ("user", "Hi"))).fields
    assert "systemInstruction" not in fields
    assert fields["contents"] == [{"role": "user", "parts": [{"text": "A\nHi"}]}]


def test_token_ids_are_unsupported() -> None:
    with pytest.raises(AdapterError) as caught:
        body_of(stop_ids=(1,))
    assert caught.value.code is Code.UNSUPPORTED


async def test_a_model_may_be_given_as_it_is_listed(gemini_server: FakeServer, adapter: Adapter) -> None:
    await collect(adapter, request(model="models/gemini-2.5-pro"))
    sent = gemini_server.requests[0]
    assert sent.path == "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse"
    assert sent.body["generationConfig"]["thinkingConfig"] == {"thinkingBudget": 128}


async def test_a_model_that_is_to_be_there_may_be_named_so_too(gemini_server: FakeServer) -> None:
    made = bound(gemini_server.base_url, PROVIDER.quirks, adapter=Gemini)
    assert (await load_only(made, LoadRequest(preload_model="models/fake-large"))).warnings == ()
    await made.close()


# ---- parameters, by model


@pytest.mark.parametrize(
    ("model", "thinking", "headroom"),
    [
        ("gemini-2.0-flash", None, 0),
        ("gemini-2.5-flash", {"thinkingBudget": 0}, 0),
        ("gemini-2.5-flash-lite", {"thinkingBudget": 0}, 0),
        ("gemini-2.5-pro", {"thinkingBudget": 128}, 2048),
        ("gemini-3-flash-preview", {"thinkingLevel": "MINIMAL"}, 2048),
        ("gemini-3.1-flash-lite", {"thinkingLevel": "MINIMAL"}, 2048),
        ("gemini-3.1-pro-preview", {"thinkingLevel": "LOW"}, 2048),
        ("gemini-3.7-flash", {"thinkingLevel": "LOW"}, 2048),
        ("gemini-4-argon", {"thinkingLevel": "LOW"}, 2048),
        ("gemini-flash-latest", {"thinkingLevel": "LOW"}, 2048),
        ("gemma-3-27b-it", None, 0),
        ("gemma-4-31b-it", None, 0),
    ],
)
def test_a_model_is_kept_from_thinking_as_far_as_it_can_be(
    model: str, thinking: dict[str, Any] | None, headroom: int
) -> None:
    config = config_of(model, stop=("END",))
    assert config.get("thinkingConfig") == thinking
    assert config["maxOutputTokens"] == 200 + headroom
    assert ("stopSequences" in config) is (headroom == 0)


@pytest.mark.parametrize(
    ("model", "effort", "thinking", "warned"),
    [
        ("gemini-3.5-flash", "medium", {"includeThoughts": True, "thinkingLevel": "MEDIUM"}, []),
        (
            "gemini-2.5-flash",
            "high",
            {"includeThoughts": True, "thinkingBudget": 1536},
            ["PARAMETER_CHANGED"],
        ),
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}, []),
        ("gemini-2.0-flash", "high", None, ["PARAMETER_LEFT_OUT"]),
    ],
)
def test_thinking_that_is_asked_for_has_room_and_no_stops(
    model: str, effort: str, thinking: dict[str, Any] | None, warned: list[str]
) -> None:
    made = body_of(model, reasoning_effort=effort, stop=("END",))
    config = made.fields["generationConfig"]
    assert config.get("thinkingConfig") == thinking
    assert [warning.name for warning in made.warnings] == warned
    asked = effort != "none"
    assert config["maxOutputTokens"] == (200 + 2048 if asked else 200)
    assert ("stopSequences" in config) is not asked


def test_a_client_that_says_itself_how_to_think_is_left_alone() -> None:
    extra = {"generationConfig": {"thinkingConfig": {"thinkingBudget": 5000}, "maxOutputTokens": 9000}}
    config = config_of("gemini-2.5-flash", extra=extra, temperature=0.5)
    assert config == {
        "maxOutputTokens": 9000,
        "temperature": 0.5,
        "thinkingConfig": {"thinkingBudget": 5000},
    }


def test_filters_are_off_unless_a_client_says_otherwise() -> None:
    assert {item["threshold"] for item in body_of().fields["safetySettings"]} == {"OFF"}
    assert body_of(extra={"safetySettings": []}).fields["safetySettings"] == []


def test_only_stop_strings_that_the_wire_takes_are_sent() -> None:
    stops = ("a stop string of far too many characters", *(f"stop {number}" for number in range(9)))
    made = body_of(stop=stops, stream=False)
    assert made.fields["generationConfig"]["stopSequences"] == [f"stop {number}" for number in range(5)]
    assert made.streamed


def test_json_of_any_shape_has_a_type_and_no_schema() -> None:
    assert config_of(response_format={"type": "json_object"})["responseMimeType"] == "application/json"
    assert "responseMimeType" not in config_of(response_format={"type": "text"})
    made = body_of("gemma-3-27b-it", response_format={"type": "json_object"})
    assert "responseMimeType" not in made.fields["generationConfig"]
    assert [warning.name for warning in made.warnings] == ["PARAMETER_LEFT_OUT"]


@pytest.mark.parametrize(
    ("message", "left"),
    [
        ("Penalty is not enabled for models/gemini-new", {"presencePenalty"}),
        ("Unable to submit request because it has a topK value of 64 but the supported range is", {"topK"}),
        ("it has a stopSequences value of 6 but the supported range is from 1 to 5", {"stopSequences"}),
    ],
    ids=["penalty", "topK", "stops"],
)
async def test_a_model_that_refuses_a_parameter_is_asked_again_without_it(
    gemini_server: FakeServer, message: str, left: set[str]
) -> None:
    made = bound(gemini_server.base_url, adapter=Gemini)
    await load_only(made)
    gemini_server.script = [Behaviour(status=400, body=failed(400, message))]
    sampling = {"presence_penalty": 0.5, "top_k": 64}
    wanted = request(model="gemini-2.0-new", sampling=sampling, stop=("END",))
    finish = finish_of(await collect(made, wanted))
    await made.close()
    first, second = (set(received.body["generationConfig"]) for received in gemini_server.requests)
    assert first - second == left
    assert finish.retries == 1


# ---- answers


async def test_models_that_do_not_answer_are_not_listed(gemini_server: FakeServer) -> None:
    models = [
        {"name": "models/embed", "supportedGenerationMethods": ["embedContent"]},
        {"name": "models/new", "supportedGenerationMethods": ["generateContent"]},
        {"name": "models/odd", "supportedGenerationMethods": None},
        {"name": 7, "supportedGenerationMethods": ["generateContent"]},
        None,
    ]
    gemini_server.models = Behaviour(body=json.dumps({"models": models, "nextPageToken": 7}).encode())
    made = bound(gemini_server.base_url, adapter=Gemini)
    assert (await load_only(made)).models == ("new",)
    await made.close()


@pytest.mark.parametrize(
    ("delay", "expected_ms"),
    [("34.5s", 34_500), ("0s", 0), ("soon", None), ([], None)],
    ids=["34.5s", "0s", "soon", "list"],
)
async def test_a_body_may_tell_when_to_come_back(
    gemini_server: FakeServer,
    adapter: Adapter,
    monkeypatch: pytest.MonkeyPatch,
    delay: object,
    expected_ms: int | None,
) -> None:
    async def pause(seconds: float) -> None:
        return

    monkeypatch.setattr("workers.upstream.Upstream.pause", staticmethod(pause))
    body = failed(429, "You exceeded your current quota.", {"@type": RETRY, "retryDelay": delay})
    gemini_server.behaviour = Behaviour(status=429, body=body)
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, request(timeout_s=20.0))
    assert (caught.value.code, caught.value.retry_after_ms) == (Code.RATE_LIMITED, expected_ms)
    clean(caught.value)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("word", ["OTHER", "MALFORMED_RESPONSE", "MALFORMED_FUNCTION_CALL"])
async def test_an_end_that_is_a_fault_is_one_where_nothing_was_said(
    gemini_server: FakeServer, adapter: Adapter, word: str, stream: bool
) -> None:
    gemini_server.behaviour = Behaviour(texts=(), finish_reason=word)
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, request(stream=stream))
    assert caught.value.code is Code.UPSTREAM_ERROR
    assert word in caught.value.message


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"usageMetadata": {"promptTokenCount": 7}, "modelVersion": "m"}, Code.UPSTREAM_ERROR),
        ({"candidates": [], "promptFeedback": {"blockReasonMessage": "Because."}}, Code.CONTENT_FILTERED),
        ({"candidates": [], "promptFeedback": {"safetyRatings": []}}, Code.UPSTREAM_PROTOCOL),
    ],
    ids=["no reply", "only a sentence", "nothing"],
)
async def test_an_answer_without_a_candidate_is_a_failure(
    gemini_server: FakeServer, adapter: Adapter, body: dict[str, Any], code: Code
) -> None:
    gemini_server.behaviour = Behaviour(body=json.dumps(body).encode())
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, request(stream=False))
    assert caught.value.code is code


async def test_a_candidate_without_a_reason_is_an_end(gemini_server: FakeServer, adapter: Adapter) -> None:
    gemini_server.behaviour = Behaviour(finish_reason=None)
    assert finish_of(await collect(adapter, request(stream=False))).reason == "stop"


COUNTS: Final = {"usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 3}}


def old_pieces(**fields: Any) -> tuple[bytes, ...]:
    """What an old model streams: it says with every piece that it stopped."""
    return tuple(event(chunk(part(text), reason="STOP", **fields)) for text in ("Hello", " there", "."))


@pytest.mark.parametrize("fields", [{}, COUNTS], ids=["no usage", "usage each"])
async def test_an_end_with_every_piece_is_none_before_the_streams_own(
    gemini_server: FakeServer, adapter: Adapter, fields: dict[str, Any]
) -> None:
    gemini_server.behaviour = Behaviour(events=old_pieces(**fields), gate_after=1)
    replies = adapter.generate(request())
    events = [await anext(replies)]
    gemini_server.gate.set()  # only now are there more pieces
    events += [item async for item in replies]
    finish = finish_of(events)
    assert (text_of(events), finish.reason) == ("Hello there.", "stop")
    assert finish.usage == (Usage(7, 3) if fields else None)


async def test_an_end_with_every_piece_makes_no_success_of_a_cut(
    gemini_server: FakeServer, adapter: Adapter
) -> None:
    gemini_server.behaviour = Behaviour(events=old_pieces(**COUNTS), cut_after=2)
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, request())
    assert caught.value.code is Code.TRUNCATED


@pytest.mark.parametrize("end", [b"", b"\r\n", b"\n\n"], ids=["no end", "a line end", "a blank line"])
async def test_an_error_is_found_between_the_pieces_however_it_ends(
    gemini_server: FakeServer, adapter: Adapter, end: bytes
) -> None:
    error = failed(503, "The model is overloaded.")
    gemini_server.behaviour = Behaviour(events=(*GeminiWire().said("Hi"), error + end))
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, request())
    assert (caught.value.code, caught.value.provider_status) == (Code.UPSTREAM_ERROR, 503)


@pytest.mark.parametrize(
    "odd",
    [
        {"candidates": [7]},
        {"candidates": [{"content": 7}]},
        {"candidates": [{"content": {"parts": 7}}]},
        {"candidates": [{"content": {"parts": [7, {"text": 7}, {"text": None, "thought": True}]}}]},
        {"candidates": [{"finishReason": 7}]},
        {"usageMetadata": 7, "modelVersion": 7},
        {"usageMetadata": {"promptTokenCount": "many"}},
        {"promptFeedback": 7},
    ],
    ids=str,
)
async def test_fields_of_a_wrong_type_are_passed_over(
    gemini_server: FakeServer, adapter: Adapter, odd: dict[str, Any]
) -> None:
    end = chunk(part("Hi"), reason="STOP", usageMetadata={"promptTokenCount": 7, "candidatesTokenCount": 1})
    gemini_server.behaviour = Behaviour(events=(event(odd), event(end)))
    events = await collect(adapter, request())
    assert [item for item in events if isinstance(item, Text)] == [Text("Hi")]
    assert finish_of(events).usage == Usage(7, 1)


def test_the_adapter_and_the_catalogue_know_each_other() -> None:
    assert PROVIDER.adapter == "gemini"
    assert QUIRKS.of(PROVIDER.default_model or "").temperature_max == 2.0

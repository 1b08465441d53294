"""What NovelAI's two wires have of their own; what they share with all others is in test_contract.py.

captured/novelai.json holds what foreign clients send and read, and the fields of NovelAI's own OpenAPI.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from supervisor.catalog import load_catalog
from tests.fakes.bound import bound, cancelled, clean, collect, finish_of, load_only, request, text_of
from tests.fakes.http_server import WAIT_S, FakeServer
from tests.fakes.served import serving
from tests.fakes.wire import Behaviour
from tests.fakes.wires.novelai import LOCKED, NovelAIStoryWire, NovelAIWire, error, token
from workers import novelai_story
from workers.adapter import Adapter, AdapterError, Begun, Binding, Message, ProviderSpec, Request, Text, Usage
from workers.adapters.novelai import (
    LOCKED_JITTER,
    LOCKED_WAITS_S,
    STORY_MODELS,
    STORY_PATH,
    THINKING_HEADROOM,
    USUAL,
    NovelAI,
)
from workers.codes import Code
from workers.quirks import Quirks

CHECKOUT: Final = Path(__file__).parents[3]
CAPTURED: Final = json.loads(
    (Path(__file__).parent / "captured" / "novelai.json").read_text(encoding="utf-8")
)
PROVIDER: Final = load_catalog(CHECKOUT / "venvs.toml").providers["novelai"]
QUIRKS: Final = Quirks.parse("novelai", PROVIDER.quirks, over=USUAL)
SCHEMA: Final = CAPTURED["schema"]
ERATO, KAYRA = STORY_MODELS
TYPES: Final[dict[str, tuple[type, ...]]] = {
    "number": (int, float),
    "integer": (int,),
    "string": (str,),
    "boolean": (bool,),
    "array": (list,),
}
SAMPLING: Final = {
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.1,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "repetition_penalty": 1.1,
    "seed": 7,
}
LOCK: Final = Behaviour(status=429, body=LOCKED)


@pytest.fixture
async def chat_server() -> AsyncIterator[FakeServer]:
    """A server that speaks the dialect."""
    async with FakeServer(NovelAIWire()) as running:
        yield running


@pytest.fixture
async def story_server() -> AsyncIterator[FakeServer]:
    """A server that speaks the wire of the story models."""
    async with FakeServer(NovelAIStoryWire()) as running:
        yield running


@pytest.fixture
async def chat(chat_server: FakeServer) -> AsyncIterator[Adapter]:
    """The adapter with the quirks of NovelAI itself, loaded, before the dialect."""
    async for made in loaded(chat_server):
        yield made


@pytest.fixture
async def story(story_server: FakeServer) -> AsyncIterator[Adapter]:
    """The same before the other wire."""
    async for made in loaded(story_server):
        yield made


async def loaded(server: FakeServer, key: str = "sk-test-key") -> AsyncIterator[Adapter]:
    made = bound(server.base_url, PROVIDER.quirks, key=key, adapter=NovelAI)
    await load_only(made)
    yield made
    await made.close()


def told(model: str = "glm-4-6", **fields: Any) -> Request:
    """A request for a model of NovelAI."""
    return request(model=model, **fields)


def captured_prompt(model: str, **fields: Any) -> Request:
    """The prompt of the capture, as a request of ours."""
    prompt = CAPTURED["prompt"]
    return told(
        model,
        messages=tuple(Message(*message) for message in prompt["messages"]),
        character_name=prompt["character_name"],
        max_output_length=prompt["max_tokens"],
        **fields,
    )


# ---- beside foreign clients and NovelAI's own schema


@pytest.mark.foreign
async def test_the_dialect_is_asked_as_openais_package_asks_it(
    chat_server: FakeServer, chat: Adapter
) -> None:
    prompt = CAPTURED["prompt"]
    wanted = captured_prompt("glm-4-6", temperature=prompt["temperature"], stop=tuple(prompt["stop"]))
    await collect(chat, replace(wanted, stream=False))  # a whole reply is asked for as a stream too
    theirs, listed = CAPTURED["sent_by_openai"]
    ours = chat_server.requests[0]
    assert (ours.method, ours.path, ours.body) == (theirs["method"], theirs["path"], theirs["body"])
    assert {name: ours.headers[name] for name in theirs["headers"]} == theirs["headers"]
    asked = chat_server.lists[0]
    assert (asked.method, asked.path, asked.headers["authorization"]) == (
        listed["method"],
        listed["path"],
        listed["headers"]["authorization"],
    )


@pytest.mark.foreign
@pytest.mark.parametrize("index", [0, 1], ids=["erato", "kayra"])
async def test_a_story_model_is_asked_as_foreign_clients_ask_it(
    story_server: FakeServer, story: Adapter, index: int
) -> None:
    theirs = CAPTURED["sent_by_novelai-api"][index]
    await collect(story, captured_prompt(theirs["body"]["model"]))
    ours = story_server.requests[0]
    assert (ours.method, ours.path) == (theirs["method"], theirs["path"])
    assert {name: ours.headers[name] for name in theirs["headers"]} == theirs["headers"]
    assert ours.body.keys() == theirs["body"].keys()
    sent, expected = (dict(body["parameters"]) for body in (ours.body, theirs["body"]))
    for parameters in (sent, expected):
        parameters["repetition_penalty_whitelist"] = sorted(parameters["repetition_penalty_whitelist"])
    differing = {name for name, value in sent.items() if expected.get(name) != value}
    ancestors = CAPTURED["sent_by_ancestor"]["body"]["parameters"]
    assert differing == {"generate_until_sentence"} | (
        {"math1_temp", "math1_quad_entropy_scale"} if index == 0 else set()
    )
    assert all(sent[name] == ancestors[name] for name in differing)


@pytest.mark.foreign
@pytest.mark.parametrize("model", [ERATO, KAYRA, "clio-v1"])
@pytest.mark.parametrize("stop_ids", [(), (198, 271)], ids=["strings", "ids"])
async def test_every_field_of_a_story_is_in_the_schema_and_within_its_bounds(
    story_server: FakeServer, model: str, stop_ids: tuple[int, ...]
) -> None:
    wanted = told(model, temperature=0.0, max_output_length=9999, stop_ids=stop_ids, sampling=SAMPLING)
    body = novelai_story.build(wanted, QUIRKS.of(model), "").fields
    assert body.keys() <= set(SCHEMA["LMGenerateRequest"])
    for name, value in body["parameters"].items():
        kind, low, high = SCHEMA["RequestParameters"][name]
        assert isinstance(value, TYPES[kind]), name
        assert low is None or value >= low, name
        assert high is None or value <= high, name
    assert body["parameters"].get("phrase_rep_pen", "off") in SCHEMA["phrase_rep_pen"]


@pytest.mark.foreign
async def test_every_field_of_the_dialect_is_in_the_schema(chat_server: FakeServer, chat: Adapter) -> None:
    wanted = captured_prompt("xialong-v1", sampling=SAMPLING, stop=("END",), reasoning_effort="none")
    finish = finish_of(await collect(chat, replace(wanted, response_format={"type": "json_object"})))
    body = chat_server.requests[0].body
    assert body.keys() <= set(SCHEMA["OAIChatGenerateRequest"])
    assert all(message.keys() <= set(SCHEMA["OAIChatMessage"]) for message in body["messages"])
    missing = [warning.message.split()[0] for warning in finish.warnings]
    assert sorted(missing) == ["reasoning_effort", "repetition_penalty", "response_format"]


@pytest.mark.foreign
async def test_a_story_is_read_as_novelai_api_reads_it(story_server: FakeServer, story: Adapter) -> None:
    answer = CAPTURED["answers"]["story"]
    story_server.behaviour = Behaviour(events=("\n".join(answer["stream"]).encode(),))
    events = await collect(story, told(KAYRA))
    read = "".join(event["token"] for event in answer["read_by_novelai-api"])
    assert text_of(events) == read.lstrip()
    assert finish_of(events).reason == "stop"


@pytest.mark.foreign
async def test_a_chat_is_read_as_openais_package_reads_it(chat_server: FakeServer, chat: Adapter) -> None:
    answer = CAPTURED["answers"]["dialect"]
    chat_server.behaviour = Behaviour(events=("\n".join(answer["stream"]).encode(),))
    events = await collect(chat, told())
    read, finish = answer["read_by_openai"], finish_of(events)
    assert (text_of(events), finish.reason, finish.model) == (
        read["text"],
        read["finish_reason"],
        read["model"],
    )
    assert finish.usage == Usage(read["usage"]["prompt_tokens"], read["usage"]["completion_tokens"])


@pytest.mark.foreign
def test_the_answers_of_the_capture_are_those_of_our_fakes() -> None:
    stories = Behaviour(texts=(" Hi", ",", " Ann", "! 😀"))
    chats = Behaviour(texts=("Hi", ", Ann", "! 😀"))
    answers = CAPTURED["answers"]
    assert "\n".join(answers["story"]["stream"]).encode() == b"".join(NovelAIStoryWire().events(stories))
    assert "\n".join(answers["dialect"]["stream"]).encode() == b"".join(NovelAIWire().events(chats))
    for failed in answers["errors"]:
        assert json.loads(error(*failed["read_by_novelai-api"])) == failed["body"]


@pytest.mark.foreign
async def test_an_event_of_the_real_server_is_text(story_server: FakeServer, story: Adapter) -> None:
    real = "\n".join([*CAPTURED["real_event"], "", ""]).encode()
    story_server.behaviour = Behaviour(events=(token("In"), real, token("", final=True)))
    assert text_of(await collect(story, told(ERATO))) == "In the"


# ---- which wire, and what is sent on it


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("glm-4-6", "/oa/v1/chat/completions"),
        ("xialong-v1", "/oa/v1/chat/completions"),
        ("a-model-of-tomorrow", "/oa/v1/chat/completions"),
        ("llama-3-erato-v1", STORY_PATH),
        ("kayra-v1", STORY_PATH),
        ("clio-v1", STORY_PATH),
    ],
)
def test_a_model_chooses_the_wire(model: str, path: str) -> None:
    assert QUIRKS.of(model).chat_path == path


async def test_the_story_models_are_listed_though_novelai_does_not(chat_server: FakeServer) -> None:
    chat_server.model_names = ("glm-4-6", "kayra-v1")
    made = bound(chat_server.base_url, adapter=NovelAI)
    assert (await load_only(made)).models == ("glm-4-6", "kayra-v1", "llama-3-erato-v1")
    await made.close()
    assert [received.path for received in chat_server.lists] == ["/oa/v1/models"]
    assert chat_server.requests == []


async def test_thinking_that_is_asked_for_has_room_and_no_stops() -> None:
    adapter = NovelAI(ProviderSpec("novelai", "NovelAI"), Binding(1))
    wanted = told(reasoning_effort="high", stop=("END",))
    body = adapter.body(wanted, QUIRKS.of(wanted.model), ())
    assert body.fields["max_tokens"] == 200 + THINKING_HEADROOM
    assert not {"enable_thinking", "reasoning_effort", "stop"} & body.fields.keys()


async def test_a_client_cannot_ask_for_a_whole_answer_which_has_no_text(
    chat_server: FakeServer, chat: Adapter
) -> None:
    await collect(chat, told(extra={"stream": False}))
    assert chat_server.requests[0].body["stream"] is True


async def test_stop_strings_that_are_refused_are_left_out_and_hold_all_the_same() -> None:
    message = "Key: 'OAIChatGenerateRequest.Stop' Error:Field validation for 'Stop' failed on the 'max' tag"
    async with serving(NovelAIWire()) as served:
        served.server.script = [Behaviour(status=400, body=error(400, message))]
        served.server.behaviour = Behaviour(texts=("one END two",))
        outcome = await served.ask(stop=["END"])
        assert (outcome.text, outcome.body["retries"]) == ("one ", 1)
        assert ["stop" in received.body for received in served.server.requests] == [True, False]


# ---- how a story ends


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        ((" Hi there.", "\nAn", "n:", " me"), "Hi there."),
        ((" Hi.", "\nAnnie", " left."), "Hi.\nAnnie left."),
        (("\n", "\n Hi", "!\nUser: x"), "Hi!"),
        ((" Hi!\n", "Mia: again"), "Hi!"),
        ((" Hi!\n***\nLater",), "Hi!"),
        ((" one END two",), "one "),
        (("\nAnn: I say",), ""),
        ((" Hi\nAn",), "Hi\nAn"),
    ],
    ids=[
        "next speaker",
        "not quite",
        "white space",
        "own turn",
        "scene",
        "asked for",
        "at once",
        "held back",
    ],
)
async def test_a_story_ends_where_somebody_else_would_speak(
    story_server: FakeServer, story: Adapter, texts: tuple[str, ...], shown: str
) -> None:
    story_server.behaviour = Behaviour(texts=texts)
    events = await collect(story, replace(captured_prompt(KAYRA), stop=("END",)))
    assert text_of(events) == shown
    assert finish_of(events).reason == "stop"


async def test_a_story_that_is_cut_ends_upstream_at_once(story_server: FakeServer, story: Adapter) -> None:
    story_server.behaviour = Behaviour(texts=(" Hi.\nAnn: ", "never"), gate_after=1)
    events = await collect(story, captured_prompt(KAYRA))
    assert text_of(events) == "Hi."
    await story_server.closed(0)


@pytest.mark.parametrize(("length", "reason"), [(3, "length"), (4, "stop")])
async def test_a_story_of_all_its_tokens_has_ended_at_their_limit(
    story_server: FakeServer, story: Adapter, length: int, reason: str
) -> None:
    story_server.behaviour = Behaviour(texts=(" a", " b", " c"))
    events = await collect(story, told(KAYRA, max_output_length=length))
    assert (text_of(events), finish_of(events).reason) == ("a b c", reason)


# ---- one at a time


async def test_requests_of_one_key_are_made_one_after_the_other(chat_server: FakeServer) -> None:
    chat_server.script = [Behaviour(gate_after=1)]
    async for first in loaded(chat_server):
        async for second in loaded(chat_server):  # another connection's, with the same key
            going = asyncio.ensure_future(collect(first, told()))
            await chat_server.received(1)
            waiting = asyncio.ensure_future(collect(second, told()))
            assert not await has_sent(chat_server, 2)
            chat_server.gate.set()
            assert text_of(await going) == text_of(await waiting) == "Hello there."
    begun, after = chat_server.requests
    assert begun.connection != after.connection


async def test_requests_of_two_keys_are_made_at_once(chat_server: FakeServer) -> None:
    chat_server.behaviour = Behaviour(gate_before_head=True)
    async for first in loaded(chat_server, "sk-one"):
        async for second in loaded(chat_server, "sk-two"):
            both = [asyncio.ensure_future(collect(adapter, told())) for adapter in (first, second)]
            await chat_server.received(2)
            chat_server.gate.set()
            assert [text_of(events) for events in await asyncio.gather(*both)] == ["Hello there."] * 2


async def test_one_that_waits_for_its_turn_is_interrupted_at_once_and_sends_nothing(
    chat_server: FakeServer, chat: Adapter
) -> None:
    chat_server.script = [Behaviour(gate_after=1)]
    going = asyncio.ensure_future(collect(chat, told()))
    await chat_server.received(1)
    waiting = asyncio.ensure_future(collect(chat, told()))
    assert not await has_sent(chat_server, 2)
    await asyncio.wait_for(cancelled(waiting), WAIT_S)
    chat_server.gate.set()
    assert text_of(await going) == "Hello there."
    assert text_of(await collect(chat, told())) == "Hello there."  # and the turn is free
    assert len(chat_server.requests) == 2


async def test_the_turn_is_given_on_when_the_connection_of_the_one_before_is_closed(
    chat_server: FakeServer, chat: Adapter
) -> None:
    chat_server.script = [Behaviour(gate_after=1)]
    going = asyncio.ensure_future(collect(chat, told()))
    await chat_server.received(1)
    waiting = asyncio.ensure_future(collect(chat, told()))
    await cancelled(going)
    assert text_of(await waiting) == "Hello there."
    first, second = chat_server.requests
    assert first.closed_ns is not None
    assert first.closed_ns < second.arrived_ns


async def has_sent(server: FakeServer, count: int) -> bool:
    """Whether so many requests arrive while nothing else can happen."""
    for _ in range(100):
        if len(server.requests) >= count:
            return True
        await asyncio.sleep(0)
    return False


# ---- when somebody else has the turn


def waits_of(pauses: list[float]) -> bool:
    """Whether these are the documented ones, each a little longer than the rule."""
    rule = [*LOCKED_WAITS_S, *[LOCKED_WAITS_S[-1]] * len(pauses)]
    return all(base <= pause <= base * (1 + LOCKED_JITTER) for base, pause in zip(rule, pauses, strict=False))


@pytest.mark.parametrize("status", [429, 409])
async def test_a_lock_is_waited_out_and_told(
    chat_server: FakeServer, chat: Adapter, pauses: list[float], status: int
) -> None:
    chat_server.script = [replace(LOCK, status=status)] * 5
    events = await collect(chat, told())
    assert (text_of(events), finish_of(events).retries) == ("Hello there.", 5)
    assert events[0] == Begun(retries=5)
    assert len(pauses) == 5
    assert waits_of(pauses)


async def test_a_lock_on_the_other_wire_is_waited_out_too(
    story_server: FakeServer, story: Adapter, pauses: list[float]
) -> None:
    story_server.script = [LOCK]
    assert finish_of(await collect(story, told(KAYRA))).retries == 1
    assert waits_of(pauses)


async def test_a_lock_outlasts_the_timeout_and_says_what_to_do(
    chat_server: FakeServer, chat: Adapter, pauses: list[float]
) -> None:
    chat_server.behaviour = LOCK
    with pytest.raises(AdapterError) as caught:
        await collect(chat, told(timeout_s=2.0))  # a wait takes two seconds and more
    assert (caught.value.code, caught.value.provider_status) == (Code.RATE_LIMITED, 429)
    assert "one reply at a time" in caught.value.message
    assert (len(chat_server.requests), pauses) == (1, [])
    clean(caught.value)


async def test_a_lock_that_says_when_to_come_back_is_waited_for_as_long(
    chat_server: FakeServer, chat: Adapter, pauses: list[float]
) -> None:
    chat_server.script = [replace(LOCK, headers={"Retry-After": "20"})]
    await collect(chat, told())
    assert 20 <= pauses[0] <= 20 * (1 + LOCKED_JITTER)


async def test_after_a_lock_one_other_failure_may_be_tried_again(
    chat_server: FakeServer, chat: Adapter, pauses: list[float]
) -> None:
    chat_server.script = [LOCK, Behaviour(status=503, body=b""), LOCK]
    assert finish_of(await collect(chat, told())).retries == 3
    chat_server.script = [Behaviour(status=503, body=b""), LOCK, Behaviour(status=503, body=b"")]
    with pytest.raises(AdapterError) as caught:
        await collect(chat, told())
    assert caught.value.code is Code.UPSTREAM_ERROR


async def test_an_interrupt_while_a_lock_is_waited_out_gives_the_turn_back(
    chat_server: FakeServer, chat: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = asyncio.Event()

    async def pause(seconds: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("workers.upstream.Upstream.pause", staticmethod(pause))
    chat_server.script = [LOCK]
    task = asyncio.ensure_future(collect(chat, told()))
    await asyncio.wait_for(waiting.wait(), WAIT_S)
    await asyncio.wait_for(cancelled(task), WAIT_S)
    assert text_of(await collect(chat, told())) == "Hello there."
    assert len(chat_server.requests) == 2


async def test_a_reply_that_the_host_has_enough_of_gives_the_turn_back(
    chat_server: FakeServer, chat: Adapter
) -> None:
    chat_server.script = [Behaviour(gate_after=1)]
    events = chat.generate(told())
    assert await anext(events) == Text("Hello")
    assert isinstance(events, AsyncIterator)
    await events.aclose()  # type: ignore[attr-defined]  # the host closes what can be closed
    await chat_server.closed(0)
    assert text_of(await collect(chat, told())) == "Hello there."


# ---- refusals


async def refused(
    server: FakeServer, adapter: Adapter, status: int, message: str, model: str
) -> AdapterError:
    """The error of a request that is refused so."""
    server.behaviour = Behaviour(status=status, body=error(status, message))
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, told(model))
    clean(caught.value)
    return caught.value


@pytest.mark.parametrize("status", [402, 403])
async def test_a_listed_model_that_is_refused_is_a_matter_of_the_subscription(
    chat_server: FakeServer, chat: Adapter, status: int
) -> None:
    chat_server.model_names = ("glm-4-6",)
    caught = await refused(chat_server, chat, status, "Not eligible for this model", "fake-small")
    assert (caught.code, caught.provider_status) == (Code.AUTHORIZATION, status)
    for words in ("subscription", "Not eligible for this model", "fake-small", "FAKE_API_KEY"):
        assert words in caught.message


@pytest.mark.parametrize("status", [402, 403])
async def test_one_that_is_not_listed_is_no_model_at_all(
    chat_server: FakeServer, chat: Adapter, status: int
) -> None:
    caught = await refused(chat_server, chat, status, "no", "kayra-1")
    assert (caught.code, caught.provider_status) == (Code.INVALID_MODEL, status)
    assert "near ones: kayra-v1" in caught.message


# ---- the catalogue


def test_the_adapter_and_the_catalogue_know_each_other() -> None:
    catalog = load_catalog(CHECKOUT / "venvs.toml")
    assert all(catalog.find(name) is catalog.providers["novelai"] for name in ("NovelAI", "nai", "novel-ai"))
    assert (PROVIDER.adapter, PROVIDER.base_url) == ("novelai", "https://text.novelai.net")
    usual = QUIRKS.of(PROVIDER.default_model or "")
    assert (usual.chat_path, usual.thinking_off) == ("/oa/v1/chat/completions", {"enable_thinking": False})

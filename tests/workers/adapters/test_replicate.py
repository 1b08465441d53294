"""What the Replicate wire has of its own: predictions that are made, followed, polled and cancelled.

What it shares with all others is in test_contract.py; captured/replicate.json holds what the vendor's own
package sends and reads, and answers of the real API that its tests recorded.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from supervisor.catalog import load_catalog
from tests.fakes.bound import (
    CANARY,
    bound,
    cancelled,
    clean,
    collect,
    finish_of,
    load_only,
    loaded,
    request,
    text_of,
)
from tests.fakes.http_server import WAIT_S, Exchange, FakeServer, Step
from tests.fakes.wire import JSON, SSE, Behaviour
from tests.fakes.wires.replicate import INPUTS, Quick, ReplicateWire, described, prediction, told
from workers import afterwards
from workers.adapter import Adapter, AdapterError, LoadRequest, Message, Text, Usage
from workers.adapters import replicate
from workers.adapters.replicate import Replicate, _is_theirs
from workers.codes import Code
from workers.upstream import Upstream

CHECKOUT: Final = Path(__file__).parents[3]
CAPTURED: Final = json.loads(
    (Path(__file__).parent / "captured" / "replicate.json").read_text(encoding="utf-8")
)
PROVIDER: Final = load_catalog(CHECKOUT / "venvs.toml").providers["replicate"]
RECORDED: Final = CAPTURED["recorded"]
MADE: Final = RECORDED["predictions-stream.yaml"]
SMALL: Final = "fake/small"
VENDORS: Final = "https://api.replicate.com/v1"
HERE: Final = "http://127.0.0.1:8000/v1"


@pytest.fixture
async def cloud() -> AsyncIterator[FakeServer]:
    """A server that speaks this wire."""
    async with FakeServer(ReplicateWire()) as running:
        yield running


@pytest.fixture
async def adapter(cloud: FakeServer) -> AsyncIterator[Adapter]:
    """The adapter with the quirks of Replicate itself, loaded."""
    async with loaded(cloud.base_url, PROVIDER.quirks, adapter=Quick) as made:
        yield made


def asked(text: str = "Hello", **fields: Any) -> Any:
    """A request to a model of this wire."""
    return request(text, **{"model": SMALL, **fields})


async def failed(adapter: Adapter, wanted: Any) -> AdapterError:
    """The error that a request ends with."""
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, wanted)
    clean(caught.value)
    return caught.value


# ---- beside the vendor's own package


def captured_prompt(**fields: Any) -> Any:
    """The prompt of the capture, as a request of ours."""
    prompt = CAPTURED["prompt"]
    messages = [Message("system", prompt["system"]), *(Message(*turn) for turn in prompt["messages"])]
    return request(
        model=prompt["model"],
        max_output_length=prompt["max_tokens"],
        messages=tuple(messages),
        stop=tuple(prompt["stop"]),
        temperature=prompt["temperature"],
        **fields,
    )


def same(ours: Any, name: str) -> None:
    """A request of ours is what the vendor's package sends, the key apart."""
    theirs = CAPTURED["sent"][name]
    assert (ours.method, ours.path) == (theirs["method"], theirs["path"])
    assert ours.body == theirs["body"]
    assert ours.headers["authorization"] == f"Bearer {CANARY}"
    assert theirs["headers"]["authorization"].startswith("Bearer ")
    for header in ("content-type", "cache-control", "accept"):
        if header in theirs["headers"] and theirs["headers"][header] != "*/*":
            assert ours.headers[header] == theirs["headers"][header]


@pytest.mark.foreign
async def test_what_is_sent_is_what_the_vendors_package_sends(cloud: FakeServer, adapter: Adapter) -> None:
    await collect(adapter, captured_prompt())
    await collect(adapter, captured_prompt(stream=False))
    await collect(adapter, request("Hi", model=CAPTURED["sent"]["version"]["body"]["version"]))
    same(cloud.requests[0], "stream")
    same(cloud.follows[0], "follow")
    same(cloud.requests[1], "whole")
    assert cloud.follows[1].path == CAPTURED["sent"]["poll"]["path"].replace("p0", "p1")
    version = cloud.requests[2]
    assert (version.path, version.body["version"]) == (
        CAPTURED["sent"]["version"]["path"],
        CAPTURED["sent"]["version"]["body"]["version"],
    )
    same(cloud.lists[0], "account")
    same(cloud.lists[1], "models")
    same(cloud.lists[2], "model")


@pytest.mark.foreign
async def test_a_prediction_is_cancelled_as_the_vendors_package_does(
    cloud: FakeServer, adapter: Adapter
) -> None:
    cloud.behaviour = Behaviour(gate_after=1)
    task = asyncio.ensure_future(collect(adapter, asked()))
    await cloud.awaited(1)
    await cancelled(task)
    await cloud.cancelled(0)
    same(cloud.cancels[0], "cancel")
    assert "content-type" not in cloud.cancels[0].headers
    recorded = RECORDED["predictions-cancel.yaml"]
    assert cloud.cancels[0].path == recorded["sent"]["path"].replace(recorded["body"]["id"], "p0")
    assert cloud.cancels[0].headers["content-length"] == recorded["sent"]["content-length"]


@pytest.mark.foreign
async def test_a_stream_is_read_as_the_vendors_package_reads_it(cloud: FakeServer, adapter: Adapter) -> None:
    cloud.behaviour = Behaviour(events=("\n".join(CAPTURED["answers"]["stream"]).encode(),))
    events = await collect(adapter, asked())
    read = [data for name, data in CAPTURED["answers"]["read_stream"] if name == "output"]
    assert [event.text for event in events if isinstance(event, Text)] == [text for text in read if text]
    assert (finish_of(events).reason, finish_of(events).usage) == ("stop", None)


@pytest.mark.foreign
async def test_a_whole_answer_is_read_as_the_vendors_package_reads_it(
    cloud: FakeServer, adapter: Adapter
) -> None:
    cloud.behaviour = Behaviour(body=json.dumps(CAPTURED["answers"]["whole"]).encode())
    events = await collect(adapter, asked(stream=False))
    status, output, metrics = CAPTURED["answers"]["read_whole"]
    assert (status, text_of(events)) == ("succeeded", "".join(output))
    usage = finish_of(events).usage
    assert usage == Usage(metrics["input_token_count"], metrics["output_token_count"])


@pytest.mark.foreign
def test_the_address_of_a_recorded_stream_is_the_vendors() -> None:
    assert _is_theirs(MADE["body"]["urls"]["stream"], VENDORS)


@pytest.mark.foreign
async def test_what_was_recorded_is_sent_alike_and_read(cloud: FakeServer, adapter: Adapter) -> None:
    for name in ("predictions-stream.yaml", "models-predictions-create.yaml"):
        recorded = RECORDED[name]
        cloud.behaviour = Behaviour(body=_finished(recorded["body"]), status=recorded["status"])
        sent = recorded["sent"]
        model = sent["body"].get("version") or "meta/llama-2-70b-chat"
        stream = "stream" in sent["body"]
        finish = finish_of(await collect(adapter, request("x", model=model, stream=stream)))
        assert finish.model == recorded["body"].get("model")
        ours = cloud.requests[-1]
        assert (ours.path, set(ours.body)) == (sent["path"], set(sent["body"]))
    whole = RECORDED["predictions-stream.yaml, a finished prediction"]["body"]
    cloud.behaviour = Behaviour(body=json.dumps(whole).encode())
    assert text_of(await collect(adapter, asked())) == "".join(whole["output"])


def _finished(body: dict[str, Any]) -> bytes:
    """A recorded prediction, which has ended meanwhile."""
    return json.dumps({**body, "status": "succeeded", "output": ["Yes."]}).encode()


@pytest.mark.foreign
async def test_a_recorded_refusal_of_the_key_is_authorization(cloud: FakeServer) -> None:
    recorded = RECORDED["run__invalid-token.yaml"]
    headers = {"Content-Type": recorded["content_type"]}
    cloud.models = Behaviour(
        status=recorded["status"], body=json.dumps(recorded["body"]).encode(), headers=headers
    )
    with pytest.raises(AdapterError) as caught:
        await load_only(bound(cloud.base_url, adapter=Replicate))
    assert caught.value.code is Code.AUTHORIZATION


@pytest.mark.foreign
async def test_the_fields_of_a_recorded_model_are_its_own(cloud: FakeServer) -> None:
    model = RECORDED["predictions-stream.yaml, its model"]["body"]
    listed = json.dumps({"models": [model]}).encode()
    cloud.models = Behaviour(body=listed)
    async with loaded(cloud.base_url, PROVIDER.quirks, adapter=Quick) as made:
        finish = finish_of(
            await collect(
                made, request("Hi", model="meta/llama-2-70b-chat", temperature=0.0, stop=("a", "b"))
            )
        )
    given = cloud.requests[0].body["input"]
    assert given == {"prompt": "Hi", "max_new_tokens": 200, "temperature": 0.01, "stop_sequences": "a,b"}
    assert [warning.name for warning in finish.warnings] == ["PARAMETER_CHANGED"]


# ---- where the key goes


@pytest.mark.parametrize(
    ("url", "base_url", "theirs"),
    [
        ("https://stream.replicate.com/v1/files/x", VENDORS, True),
        ("https://replicate.com/x", VENDORS, True),
        ("https://stream.replicate.com:443/x", VENDORS, True),
        ("https://a.b.replicate.net/x", VENDORS, True),
        ("https://stream.replicate.com/x", "https://proxy.example/v1", True),
        ("http://stream.replicate.com/x", VENDORS, False),
        ("https://stream.replicate.com:8443/x", VENDORS, False),
        ("https://stream.replicate.com.evil.example/x", VENDORS, False),
        ("https://evilreplicate.com/x", VENDORS, False),
        ("https://user@stream.replicate.com/x", VENDORS, False),
        ("https://stream.replicate.com@evil.example/x", VENDORS, False),
        ("https://evil.example/stream.replicate.com", VENDORS, False),
        ("http://127.0.0.1:1/x", VENDORS, False),
        ("file:///etc/passwd", VENDORS, False),
        ("https://[::1", VENDORS, False),
        ("", VENDORS, False),
        ("http://127.0.0.1:9/x", HERE, True),
        ("http://localhost:9/x", HERE, True),
        ("https://stream.replicate.com/x", HERE, False),
        ("ftp://127.0.0.1/x", HERE, False),
    ],
)
def test_a_stream_is_only_asked_for_at_an_address_of_the_vendors(
    url: str, base_url: str, theirs: bool
) -> None:
    assert _is_theirs(url, base_url) is theirs


async def test_an_address_of_somebody_else_never_sees_the_key_and_the_prediction_is_cancelled(
    cloud: FakeServer, adapter: Adapter
) -> None:
    urls = {"stream": "https://stream.replicate.com.evil.example/v1/files/p0"}
    cloud.behaviour = Behaviour(status=201, body=prediction("starting", urls=urls))
    error = await failed(adapter, asked())
    assert error.code is Code.UPSTREAM_PROTOCOL
    assert "evil" not in error.message
    await cloud.cancelled(0)


async def test_a_stream_on_another_host_gets_the_key_and_is_read(cloud: FakeServer, adapter: Adapter) -> None:
    async with FakeServer(ReplicateWire()) as other:
        urls = {"stream": f"{other.base_url}/files/p0"}
        cloud.behaviour = Behaviour(status=201, body=prediction("starting", urls=urls))
        for _ in range(2):
            assert text_of(await collect(adapter, asked())) == "Hello there."
        assert [received.key for received in other.follows] == [CANARY, CANARY]
        assert other.connections == 1  # warm, as the other one
        await adapter.close()
    assert cloud.cancels == []


async def test_first_requests_at_once_to_another_host_open_it_once(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Upstream] = []
    is_open = Upstream.open

    async def counted(self: Upstream) -> None:
        await is_open(self)  # in a thread: the other requests come to it meanwhile
        opened.append(self)

    monkeypatch.setattr(Upstream, "open", counted)
    assert isinstance(adapter, Replicate)
    url = "http://127.0.0.1:9/v1/files/p0"
    found = await asyncio.gather(*(adapter._at(adapter.opened(), url) for _ in range(4)))
    assert found == [(opened[0], "/v1/files/p0")] * 4
    assert len(opened) == 1


async def test_ever_new_hosts_are_not_followed(
    cloud: FakeServer, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicate, "STREAM_HOSTS_MAX", 0)
    urls = {"stream": "http://127.0.0.1:9/v1/files/p0"}
    cloud.behaviour = Behaviour(status=201, body=prediction("starting", urls=urls))
    assert (await failed(adapter, asked())).code is Code.UPSTREAM_PROTOCOL


# ---- the end of a prediction


async def test_a_prediction_that_ended_by_itself_is_not_cancelled(
    cloud: FakeServer, adapter: Adapter
) -> None:
    await collect(adapter, asked())
    await collect(adapter, asked(stream=False))
    cloud.behaviour = Behaviour(finish_reason="content_filter")
    await failed(adapter, asked())
    cloud.behaviour = Behaviour(body=prediction("failed", error="x"), status=201)
    await failed(adapter, asked())
    await adapter.close()
    assert cloud.cancels == []


@pytest.mark.parametrize(
    "behaviour",
    [Behaviour(cut_after=1), Behaviour(events=(told("output", "\xa7").replace(b"\xc2", b""),))],
    ids=["cut", "garbage"],
)
async def test_a_prediction_whose_stream_broke_is_cancelled(
    cloud: FakeServer, adapter: Adapter, behaviour: Behaviour
) -> None:
    cloud.behaviour = behaviour
    await failed(adapter, asked())
    await cloud.cancelled(0)


async def test_a_reply_that_is_left_in_the_middle_is_cancelled(cloud: FakeServer, adapter: Adapter) -> None:
    cloud.behaviour = Behaviour(gate_after=1)
    replies = adapter.generate(asked())
    assert isinstance(await anext(replies), Text)
    await replies.aclose()  # type: ignore[attr-defined]  # what the host does at a stop string
    await cloud.cancelled(0)


async def test_an_interrupt_before_the_prediction_has_an_id_cancels_it_once_it_has(
    cloud: FakeServer, adapter: Adapter
) -> None:
    asked_for = asyncio.Event()

    async def late(exchange: Exchange) -> None:
        asked_for.set()
        await exchange.server.gate.wait()
        body = prediction("starting")
        await exchange.head(201, {"Content-Type": JSON}, length=len(body))
        await exchange.send(body)

    cloud.begins = late
    task = asyncio.ensure_future(collect(adapter, asked()))
    await asyncio.wait_for(asked_for.wait(), WAIT_S)
    task.cancel()
    cloud.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await cloud.cancelled(0)
    assert cloud.follows == []


@pytest.mark.parametrize("answer", [b"{nonsense", b"[]", b'{"id": null}'], ids=repr)
async def test_an_interrupt_before_an_id_that_never_comes_cancels_nothing(
    cloud: FakeServer, adapter: Adapter, answer: bytes
) -> None:
    cloud.behaviour = Behaviour(body=answer, gate_before_head=True)
    task = asyncio.ensure_future(collect(adapter, asked()))
    await cloud.received(1)
    task.cancel()
    cloud.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await adapter.close()
    assert cloud.cancels == []


async def test_a_server_that_never_says_an_id_is_left(
    cloud: FakeServer, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicate, "BEGIN_GRACE_S", 0.0)
    cloud.behaviour = Behaviour(body=b"{}", gate_before_head=True)
    task = asyncio.ensure_future(collect(adapter, asked()))
    await cloud.received(1)
    await cancelled(task)
    await cloud.closed(0)
    assert cloud.cancels == []


async def test_a_cancellation_that_is_refused_is_a_line_in_the_log(
    cloud: FakeServer, adapter: Adapter, caplog: pytest.LogCaptureFixture
) -> None:
    cloud.cancelling = Behaviour(status=500, body=b"{}")
    cloud.behaviour = Behaviour(cut_after=1)
    assert (await failed(adapter, asked())).code is Code.TRUNCATED
    await adapter.close()
    assert [record.levelno for record in caplog.records if "not cancelled" in record.message] == [
        logging.WARNING
    ]
    assert CANARY[:8] not in caplog.text


async def test_a_cancellation_that_hangs_holds_nothing_up(
    cloud: FakeServer, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(afterwards, "WAIT_S", 0.0)
    monkeypatch.setattr(afterwards, "CLOSE_S", 0.0)
    cloud.cancelling = Behaviour(body=b"{}", gate_before_head=True)
    cloud.behaviour = Behaviour(cut_after=1)
    assert (await failed(adapter, asked())).code is Code.TRUNCATED
    await cloud.cancelled(0)
    await adapter.close()


# ---- polling


def states(*bodies: bytes) -> list[Step]:
    """Answers to one question for a prediction after the other."""
    return [Behaviour(body=body) for body in bodies]


async def test_what_has_no_stream_is_asked_for_again_and_again(cloud: FakeServer, adapter: Adapter) -> None:
    cloud.behaviour = Behaviour(status=201, body=prediction("starting", urls={}))
    cloud.following = states(
        prediction("starting"),
        prediction("processing", output=["Hel"]),
        prediction("processing", output=["Hel"]),
        prediction("processing", output=["Hel", "lo", " th"]),
        prediction(
            "succeeded", output=["Hel", "lo", " th", "ere"], metrics={"input_token_count": 7, "x": []}
        ),
    )
    events = await collect(adapter, asked())
    assert events[:-1] == [Text("Hel"), Text("lo"), Text(" th"), Text("ere")]
    assert (finish_of(events).usage, finish_of(events).model) == (Usage(7), SMALL)
    assert {received.path for received in cloud.follows} == {"/v1/predictions/p0"}


@pytest.mark.parametrize(
    ("output", "expected"),
    [("Hello", "Hello"), (["Hel", "lo"], "Hello"), (None, ""), ([], ""), ("", "")],
    ids=repr,
)
async def test_an_output_is_text_or_a_list_of_it(
    cloud: FakeServer, adapter: Adapter, output: Any, expected: str
) -> None:
    cloud.behaviour = Behaviour(status=201, body=prediction("succeeded", output=output))
    assert text_of(await collect(adapter, asked())) == expected


@pytest.mark.parametrize("output", [{"image": "x"}, [1], 7, [["x"]]], ids=repr)
async def test_an_output_that_is_no_text_is_unsupported(
    cloud: FakeServer, adapter: Adapter, output: Any
) -> None:
    cloud.behaviour = Behaviour(status=201, body=prediction("succeeded", output=output))
    assert (await failed(adapter, asked())).code is Code.UNSUPPORTED


@pytest.mark.foreign
async def test_a_recorded_state_of_a_cancelled_prediction_is_a_failure(
    cloud: FakeServer, adapter: Adapter
) -> None:
    body = json.dumps(RECORDED["predictions-cancel.yaml"]["body"]).encode()
    cloud.following = states(body)
    assert (await failed(adapter, asked(stream=False))).code is Code.UPSTREAM_ERROR


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (prediction("failed", error="Prompt exceeds maximum input length"), Code.CONTEXT_TOO_LONG),
        (prediction("failed", error=None), Code.UPSTREAM_ERROR),
        (prediction("canceled"), Code.UPSTREAM_ERROR),
        (prediction("aborted"), Code.UPSTREAM_ERROR),
        (b'{"detail": "oops"}', Code.UPSTREAM_ERROR),
        (b"{}", Code.UPSTREAM_PROTOCOL),
    ],
    ids=str,
)
async def test_a_prediction_that_fails_while_it_is_asked_for_is_told(
    cloud: FakeServer, adapter: Adapter, state: bytes, code: Code
) -> None:
    cloud.following = states(prediction("processing"), state)
    assert (await failed(adapter, asked(stream=False))).code is code


async def test_a_question_that_is_refused_is_told_and_the_prediction_cancelled(
    cloud: FakeServer, adapter: Adapter
) -> None:
    cloud.following = [Behaviour(status=404, body=b"{}")]
    assert (await failed(adapter, asked(stream=False))).provider_status == 404
    await cloud.cancelled(0)


async def test_usage_is_told_of_what_was_not_streamed_and_of_nothing_else(
    cloud: FakeServer, adapter: Adapter
) -> None:
    assert finish_of(await collect(adapter, asked(stream=False))).usage == Usage(7, 3)
    assert finish_of(await collect(adapter, asked())).usage is None


async def test_a_second_try_of_a_stream_is_the_only_one(
    cloud: FakeServer, adapter: Adapter, pauses: list[float]
) -> None:
    cloud.script = [Behaviour(status=503, body=b"{}")]
    cloud.following = [Behaviour(status=503, body=b"{}")]
    assert (await failed(adapter, asked())).code is Code.UPSTREAM_ERROR
    assert (len(cloud.requests), len(cloud.follows), len(pauses)) == (2, 1, 1)


async def test_a_stream_that_is_json_is_an_answer_all_the_same(cloud: FakeServer, adapter: Adapter) -> None:
    cloud.following = states(prediction("succeeded", output="Hi"))
    assert text_of(await collect(adapter, asked())) == "Hi"


async def test_a_stream_that_is_the_json_of_a_prediction_which_runs_is_no_end(
    cloud: FakeServer, adapter: Adapter
) -> None:
    cloud.following = states(
        prediction("processing", output=["Hel"]), prediction("succeeded", output=["Hel", "lo"])
    )
    assert text_of(await collect(adapter, asked())) == "Hello"
    assert [received.path for received in cloud.follows] == ["/v1/files/p0", "/v1/predictions/p0"]
    assert cloud.cancels == []


@pytest.mark.parametrize("data", ["", " ", "{}"], ids=repr)
async def test_an_end_may_say_nothing(cloud: FakeServer, adapter: Adapter, data: str) -> None:
    cloud.behaviour = Behaviour(events=(told("output", "Hi"), told("done", data)))
    assert finish_of(await collect(adapter, asked())).reason == "stop"


# ---- a transcript


def dialogue(*turns: tuple[str, str]) -> tuple[Message, ...]:
    """Messages without names."""
    return tuple(Message(*turn) for turn in turns)


async def test_a_reply_ends_where_somebody_else_would_speak(cloud: FakeServer, adapter: Adapter) -> None:
    cloud.behaviour = Behaviour(texts=(" Well", ".\nUs", "er: And", " then?"), gate_after=3)
    wanted = asked(messages=dialogue(("user", "Hi"), ("assistant", "Yes?"), ("user", "Go on.")))
    events = await collect(adapter, wanted)
    assert (text_of(events), finish_of(events).reason) == ("Well.", "stop")
    await cloud.cancelled(0)


async def test_what_only_began_like_somebody_else_is_part_of_the_reply(
    cloud: FakeServer, adapter: Adapter
) -> None:
    cloud.behaviour = Behaviour(texts=("Well.", "\nUser"))
    wanted = asked(messages=dialogue(("user", "Hi"), ("assistant", "Yes?"), ("user", "Go on.")))
    for stream in (True, False):
        wanted = asked(messages=wanted.messages, stream=stream)
        assert text_of(await collect(adapter, wanted)) == "Well.\nUser"


# ---- models


async def test_a_model_that_is_not_listed_is_asked_about_once(cloud: FakeServer, adapter: Adapter) -> None:
    before = len(cloud.lists)
    for _ in range(2):
        await collect(adapter, asked(model="acme/large"))
    assert [received.path for received in cloud.lists[before:]] == ["/v1/models/acme/large"]


async def test_a_load_asks_about_the_model_that_the_next_reply_is_of(cloud: FakeServer) -> None:
    made = bound(cloud.base_url, adapter=Quick)
    await load_only(made, LoadRequest(preload_model="acme/large"))
    before = len(cloud.lists)
    assert cloud.lists[-1].path == "/v1/models/acme/large"
    await collect(made, asked(model="acme/large"))
    await made.close()
    assert len(cloud.lists) == before


async def test_a_model_that_nobody_can_tell_about_gets_the_usual_fields_and_is_asked_about_again(
    cloud: FakeServer, adapter: Adapter
) -> None:
    cloud.models = Behaviour(status=500, body=b"{}")
    for _ in range(2):
        assert text_of(await collect(adapter, asked(model="acme/large"))) == "Hello there."
    assert [received.path for received in cloud.lists[-2:]] == ["/v1/models/acme/large"] * 2


@pytest.mark.parametrize("model", ["a/..", "../x", "a/b/c", "5c7d5dc6", "a/b?x=1", "a/b#x", "a b/c"])
async def test_what_is_no_name_of_a_model_is_never_part_of_an_address(
    cloud: FakeServer, adapter: Adapter, model: str
) -> None:
    await collect(adapter, asked(model=model))
    sent = cloud.requests[0]
    assert (sent.path, sent.body["version"]) == ("/v1/predictions", model)


async def test_a_model_that_is_not_official_runs_by_its_version(cloud: FakeServer) -> None:
    listed = {
        "models": [described("acme/own", is_official=False), described("acme/official", is_official=True)]
    }
    cloud.models = Behaviour(body=json.dumps(listed).encode())
    async with loaded(cloud.base_url, adapter=Quick) as made:
        for model in ("acme/own", "acme/official", "acme/own:9f2a"):
            await collect(made, asked(model=model))
    assert [(received.path, received.body.get("version")) for received in cloud.requests] == [
        ("/v1/predictions", "5c7d5dc6"),
        ("/v1/models/acme/official/predictions", None),
        ("/v1/predictions", "9f2a"),
    ]


async def test_messages_go_as_they_are_where_a_model_takes_them(cloud: FakeServer) -> None:
    inputs = {**INPUTS, "messages": {"type": "array", "default": []}}
    cloud.models = Behaviour(body=json.dumps({"models": [described(SMALL, inputs)]}).encode())
    messages = (
        Message("system", "You are Mia."),
        Message("user", "Hi", "Ann"),
        Message("assistant", "\nUser:"),
    )
    cloud.behaviour = Behaviour(texts=("Yes.\nUser: no",))
    async with loaded(cloud.base_url, adapter=Quick) as made:
        events = await collect(made, asked(messages=messages))
    given = cloud.requests[0].body["input"]
    assert given["messages"] == [
        {"role": "system", "content": "You are Mia."},
        {"role": "user", "content": "Ann: Hi"},
        {"role": "assistant", "content": "\nUser:"},
    ]
    assert "prompt" not in given
    assert text_of(events) == "Yes.\nUser: no"


async def test_models_beyond_the_bound_are_forgotten(
    cloud: FakeServer, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicate, "KNOWN_MODELS_MAX", 2)
    before = len(cloud.lists)
    for model in ("acme/a", SMALL):
        await collect(adapter, asked(model=model))
    assert len(cloud.lists) == before + 2


@pytest.mark.parametrize("model", [{"owner": 7, "name": "x"}, {"name": "x"}, "x", None], ids=repr)
async def test_what_is_no_model_in_a_list_is_passed_over(cloud: FakeServer, model: Any) -> None:
    cloud.models = Behaviour(body=json.dumps({"models": [model, described(SMALL)]}).encode())
    made = bound(cloud.base_url, adapter=Replicate)
    assert (await load_only(made)).models == (SMALL,)
    await made.close()


def test_the_adapter_and_the_catalogue_know_each_other() -> None:
    assert (PROVIDER.adapter, Replicate.poll_s > 0) == ("replicate", True)
    assert SSE in Replicate.stream_types

"""What NLP Cloud's chatbot has of its own: pairs of what was said, and answers that are always whole.

What it shares with all others is in test_contract.py; captured/nlp_cloud.json holds what the vendor's own
package sends and reads.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from supervisor.catalog import load_catalog
from tests.fakes.bound import CANARY, bound, clean, collect, finish_of, load_only, request, text_of
from tests.fakes.http_server import FakeServer
from tests.fakes.wire import SSE, Behaviour
from tests.fakes.wires.nlp_cloud import NlpCloudWire
from workers.adapter import Adapter, AdapterError, Message
from workers.adapters.nlp_cloud import GOING_ON, USUAL, NlpCloud, build
from workers.codes import Code
from workers.prompt import OPENING

CHECKOUT: Final = Path(__file__).parents[3]
CAPTURED: Final = json.loads(
    (Path(__file__).parent / "captured" / "nlp_cloud.json").read_text(encoding="utf-8")
)
PROVIDER: Final = load_catalog(CHECKOUT / "venvs.toml").providers["nlp-cloud"]
both: Final = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])


@pytest.fixture
async def cloud() -> AsyncIterator[FakeServer]:
    """A server that speaks this wire."""
    async with FakeServer(NlpCloudWire()) as running:
        yield running


@pytest.fixture
async def adapter(cloud: FakeServer) -> AsyncIterator[Adapter]:
    """The adapter, loaded."""
    made = bound(cloud.base_url, PROVIDER.quirks, adapter=NlpCloud)
    await load_only(made)
    yield made
    await made.close()


def said(*turns: tuple[str, ...]) -> tuple[Message, ...]:
    """Messages of a prompt."""
    return tuple(Message(*turn) for turn in turns)


@pytest.mark.foreign
async def test_what_is_sent_is_what_the_vendors_package_sends(cloud: FakeServer, adapter: Adapter) -> None:
    prompt = CAPTURED["prompt"]
    turns = said(("system", prompt["system"]), *map(tuple, prompt["messages"]))
    await collect(adapter, request(model=prompt["model"], messages=turns))
    await collect(adapter, request("Hi", model=prompt["model"]))
    for ours, theirs in zip(cloud.requests, CAPTURED["sent"], strict=True):
        assert (ours.method, ours.path, ours.body) == (theirs["method"], theirs["path"], theirs["body"])
        assert ours.headers["content-type"] == theirs["headers"]["content-type"]
        assert theirs["headers"]["authorization"].startswith("Token ")
        assert ours.headers["authorization"] == f"Token {CANARY}"


@pytest.mark.foreign
@both
async def test_an_answer_is_read_as_the_vendors_package_reads_it(
    cloud: FakeServer, adapter: Adapter, stream: bool
) -> None:
    cloud.behaviour = Behaviour(body=json.dumps(CAPTURED["answer"]).encode())
    events = await collect(adapter, request(stream=stream))
    assert text_of(events) == CAPTURED["read"]["text"]


@both
async def test_a_reply_is_its_text_the_model_that_was_asked_and_an_end(
    cloud: FakeServer, adapter: Adapter, stream: bool
) -> None:
    events = await collect(adapter, request(stream=stream))
    finish = finish_of(events)
    assert (text_of(events), finish.reason, finish.model, finish.usage) == (
        "Hello there.",
        "stop",
        "fake-small",
        None,
    )
    assert cloud.asked().key == CANARY


async def test_an_empty_reply_is_a_reply(cloud: FakeServer, adapter: Adapter) -> None:
    cloud.behaviour = Behaviour(texts=())
    assert text_of(await collect(adapter, request())) == ""


async def test_a_stream_is_no_answer_of_this_wire(cloud: FakeServer, adapter: Adapter) -> None:
    cloud.behaviour = Behaviour(body=b"Hello[DONE]", headers={"Content-Type": SSE})
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, request())
    assert caught.value.code is Code.UPSTREAM_PROTOCOL
    reader = NlpCloud(adapter.provider, adapter.binding).reader(
        adapter.opened().who,  # type: ignore[attr-defined]  # of HttpChat
        request(),
    )
    with pytest.raises(AdapterError):
        reader.piece(b"{}")


async def test_a_load_says_that_the_key_shows_itself_only_in_a_reply(cloud: FakeServer) -> None:
    made = bound(cloud.base_url, PROVIDER.quirks, adapter=NlpCloud)
    loaded = await load_only(made)
    await made.close()
    assert ([warning.name for warning in loaded.warnings], loaded.models) == (["KEY_NOT_CHECKED"], ())
    assert cloud.connections == 0


async def test_a_refused_key_is_told_by_the_first_reply(cloud: FakeServer, adapter: Adapter) -> None:
    cloud.behaviour = Behaviour(status=401, body=json.dumps({"detail": f"Invalid token {CANARY}"}).encode())
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, request())
    assert caught.value.code is Code.AUTHORIZATION
    clean(caught.value)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (said(("user", "Hi")), {"input": "Hi", "context": None, "history": None}),
        (
            said(("system", "A"), ("developer", "B"), ("user", "Hi", "Ann")),
            {"input": "Ann: Hi", "context": "A\nB", "history": None},
        ),
        (
            said(("user", "1"), ("user", "2"), ("assistant", "3"), ("assistant", "4"), ("user", "5")),
            {"input": "5", "context": None, "history": [{"input": "1\n2", "response": "3\n4"}]},
        ),
        (
            said(("user", "1"), ("assistant", "2"), ("system", "It rains."), ("user", "3")),
            {"input": "It rains.\n3", "context": None, "history": [{"input": "1", "response": "2"}]},
        ),
        (
            said(("assistant", "1"), ("user", "2")),
            {"input": "2", "context": None, "history": [{"input": OPENING, "response": "1"}]},
        ),
        (
            said(("user", "1"), ("assistant", "2")),
            {"input": GOING_ON, "context": None, "history": [{"input": "1", "response": "2"}]},
        ),
        (said(("system", "A")), {"input": OPENING, "context": "A", "history": None}),
    ],
    ids=str,
)
def test_a_prompt_is_pairs_of_what_was_said(messages: tuple[Message, ...], expected: dict[str, Any]) -> None:
    assert build(request(messages=messages), USUAL).fields == expected


def test_what_the_wire_lacks_is_told() -> None:
    wanted: dict[str, Any] = {
        "temperature": 0.5,
        "sampling": {"top_p": 0.9},
        "response_format": {"type": "json_object"},
        "reasoning_effort": "low",
    }
    made = build(request(**wanted), USUAL)
    assert [warning.message.split()[0] for warning in made.warnings] == [
        "temperature",
        "top_p",
        "response_format",
        "reasoning_effort",
        "max_output_length",
    ]
    assert not made.streamed


@pytest.mark.parametrize(
    ("fields", "code"),
    [({"model": ""}, Code.INVALID_MODEL), ({"stop_ids": (1,)}, Code.UNSUPPORTED)],
    ids=["no model", "token ids"],
)
def test_what_cannot_be_sent_is_told(fields: dict[str, Any], code: Code) -> None:
    with pytest.raises(AdapterError) as caught:
        build(request(**fields), USUAL)
    assert caught.value.code is code


def test_the_adapter_and_the_catalogue_know_each_other() -> None:
    assert PROVIDER.adapter == "nlp_cloud"

"""What KoboldCpp's wire has of its own: an end that is asked for, a password, one model; and KoboldAI's lack.

What it shares with all others is in test_contract.py. captured/kobold.json holds what a real KoboldCpp was
sent and answered, what its page documents, and what another client's package sends and reads.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from supervisor.catalog import load_catalog
from tests.fakes.bound import CANARY, bound, cancelled, collect, finish_of, load_only, request, text_of
from tests.fakes.http_server import FakeServer, Step
from tests.fakes.wire import Behaviour, Part, Received
from tests.fakes.wires.kobold import KoboldWire, token
from workers import afterwards
from workers.adapter import Adapter, AdapterError, LoadRequest, Message, Text
from workers.adapters.kobold import USUAL, Kobold
from workers.codes import Code
from workers.quirks import Quirks

CHECKOUT: Final = Path(__file__).parents[3]
CAPTURED: Final = json.loads((Path(__file__).parent / "captured" / "kobold.json").read_text(encoding="utf-8"))
EXCHANGES: Final = {exchange["name"]: exchange for exchange in CAPTURED["exchanges"]}
QUESTIONS: Final = CAPTURED["others_questions"]
CATALOG: Final = load_catalog(CHECKOUT / "venvs.toml").providers
KOBOLDCPP: Final = CATALOG["koboldcpp"]
KOBOLDAI: Final = CATALOG["koboldai"]
CHECK: Final = "/api/extra/generate/check"
KINDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "integer": int,
    "number": (int, float),
    "string": str,
    "boolean": bool,
    "array": list,
}


class KoboldServer(FakeServer):
    """A KoboldCpp; see tests/fakes/http_server.py."""

    def __init__(self) -> None:
        super().__init__(KoboldWire())
        self.check: Step = Behaviour(body=b'{"results": [{"text": ""}]}')
        """How a key is checked."""
        self.aborting: Step = Behaviour(body=b'{"success": "true", "done": "true"}')

    def step_for(self, request: Received) -> Step:
        if self.wire.part(request) is Part.CANCEL:
            return self.aborting
        return self.check if request.path == CHECK else super().step_for(request)


@pytest.fixture
async def kobold() -> AsyncIterator[KoboldServer]:
    """A KoboldCpp."""
    async with KoboldServer() as running:
        yield running


def of(kobold: FakeServer, *, door: str = "", key: str | None = CANARY, **options: Any) -> Adapter:
    """An adapter for KoboldCpp that is not loaded."""
    return bound(kobold.base_url + door, KOBOLDCPP.quirks, key=key, adapter=Kobold, options=options)


@pytest.fixture
async def adapter(kobold: KoboldServer) -> AsyncIterator[Adapter]:
    """The adapter, loaded."""
    made = of(kobold)
    await load_only(made)
    yield made
    await made.close()


async def refused(made: Adapter, **load: Any) -> AdapterError:
    """The error of a load."""
    with pytest.raises(AdapterError) as caught:
        await load_only(made, LoadRequest(**load))
    await made.close()
    return caught.value


# ---- beside a real one, its page, and another client


def captured_prompt(exchange: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt of the capture, as a request of ours."""
    prompt = CAPTURED["prompt"]
    sent = exchange["sent"]
    own = [stop for stop in sent["stop_sequence"] if not stop.startswith("\n")]
    return {
        **{name: prompt[name] for name in ("character_name", "temperature", "sampling")},
        "messages": tuple(Message(role, text, name) for role, text, name in prompt["messages"]),
        "stop": tuple(own),
        "max_output_length": sent["max_length"],
        "model": "",
        "stream": exchange["path"].endswith("stream"),
    }


def said_in(answer: Any) -> str:
    """The text of a captured answer, which is lines where it was streamed."""
    if isinstance(answer, dict):
        return str(answer["results"][0]["text"])
    return "".join(json.loads(line[6:])["token"] for line in answer if line.startswith("data: "))


@pytest.mark.foreign
@pytest.mark.parametrize("name", EXCHANGES)
async def test_what_is_sent_is_what_a_real_one_answered_and_its_answer_is_read(
    kobold: KoboldServer, adapter: Adapter, name: str
) -> None:
    exchange = EXCHANGES[name]
    answer, headers = exchange["answer"], {"Content-Type": exchange["content_type"]}
    kobold.behaviour = (
        Behaviour(events=("\n".join(answer).encode(),), headers=headers)
        if isinstance(answer, list)
        else Behaviour(body=json.dumps(answer).encode(), headers=headers)
    )
    events = await collect(adapter, request(**captured_prompt(exchange)))
    received = kobold.requests[0]
    assert {**received.body, "genkey": "KEY"} == exchange["sent"]
    assert received.path == exchange["path"]
    said = said_in(answer)
    finish = finish_of(events)
    if name == "stopped":  # the server says length, and the stop string is in its text
        assert said.endswith(exchange["sent"]["stop_sequence"][-1])
        assert (text_of(events), finish.reason) == (said[:-2], "stop")
    else:
        assert (text_of(events), finish.reason) == (said, "length")


@pytest.mark.foreign
def test_every_field_that_is_sent_is_documented_with_that_type() -> None:
    beyond = {"presence_penalty", "quiet"}  # its server reads them all the same
    for exchange in EXCHANGES.values():
        for name, value in exchange["sent"].items():
            assert name in beyond or isinstance(value, KINDS[CAPTURED["documented"][name]]), name


@pytest.mark.foreign
def test_a_real_one_ended_a_reply_that_it_was_asked_to_end() -> None:
    status, _, answer = QUESTIONS["an end of a reply"]
    assert (status, answer) == (200, {"success": "true", "done": "true"})
    assert CAPTURED["ended"]["said_characters"] < CAPTURED["ended"]["asked_for_tokens"] / 2
    assert QUESTIONS["an end of nothing"][2]["success"] == "false"


@pytest.mark.foreign
async def test_a_real_ones_password_is_understood(kobold: KoboldServer) -> None:
    status, _, answer = QUESTIONS["checked with a wrong password"]
    kobold.check = Behaviour(status=status, body=json.dumps(answer).encode())
    assert (await refused(of(kobold))).code is Code.AUTHORIZATION
    status, _, answer = QUESTIONS["model without the password"]
    kobold.models = Behaviour(status=status, body=json.dumps(answer).encode())
    error = await refused(of(kobold, key=None))
    assert (error.code, "api_key" in error.message) == (Code.AUTHORIZATION, True)
    status, _, answer = QUESTIONS["model"]
    kobold.models = Behaviour(status=status, body=json.dumps(answer).encode())
    made = of(kobold, key=None)
    assert (await load_only(made)).models == (answer["result"],)
    status, _, answer = QUESTIONS["a wrong password"]
    kobold.behaviour = Behaviour(status=status, body=json.dumps(answer).encode())
    with pytest.raises(AdapterError) as caught:
        await collect(made, request(model=""))
    assert caught.value.code is Code.AUTHORIZATION
    await made.close()


@pytest.mark.foreign
async def test_another_clients_package_speaks_and_reads_the_same(
    kobold: KoboldServer, adapter: Adapter
) -> None:
    theirs = CAPTURED["others"]
    for name, answer in theirs["answers"].items():
        kobold.behaviour = Behaviour(events=(answer["stream"].encode(),))
        streamed = await collect(adapter, request(model=""))
        kobold.behaviour = Behaviour(body=json.dumps(answer["whole"]).encode())
        whole = await collect(adapter, request(model="", stream=False))
        texts = [event.text for event in streamed if isinstance(event, Text)]
        assert (texts, text_of(whole)) == (theirs["read"][name]["tokens"], theirs["read"][name]["whole"])
    sent = theirs["sent"]
    assert [kobold.requests[0].path, kobold.requests[1].path] == [
        sent["streamed"]["path"],
        sent["whole"]["path"],
    ]
    assert kobold.lists[-1].path == sent["model"]["path"]
    known = {"prompt", "max_length", "genkey", "top_k", "top_p", "rep_pen", "min_p", "stop_sequence"}
    assert known <= {*sent["streamed"]["body"], *sent["whole"]["body"]}
    assert known - {"top_k", "top_p", "rep_pen", "min_p"} <= set(kobold.requests[0].body)
    plain = theirs["answers"]["plain"]
    assert plain["stream"].encode() == b"".join(KoboldWire().events(Behaviour()))


# ---- an end that is asked for


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_an_interrupt_asks_for_the_end_of_that_reply_alone(
    kobold: KoboldServer, adapter: Adapter, stream: bool
) -> None:
    kobold.behaviour = Behaviour(gate_before_head=True)
    first = asyncio.ensure_future(collect(adapter, request(model="", id=1, stream=stream)))
    await kobold.received(1)
    second = asyncio.ensure_future(collect(adapter, request(model="", id=2, stream=stream)))
    await kobold.received(2)
    await cancelled(second)
    await kobold.cancelled(1)
    theirs = CAPTURED["others"]["sent"]["abort"]
    assert [received.path for received in kobold.cancels] == [theirs["path"]]
    assert set(kobold.cancels[0].body) == set(theirs["body"])
    assert kobold.cancels[0].key == CANARY
    kobold.gate.set()
    assert text_of(await first) == "Hello there."
    assert len(kobold.cancels) == 1


async def test_a_reply_that_ended_is_not_ended_again(kobold: KoboldServer, adapter: Adapter) -> None:
    for stream in (True, False):
        await collect(adapter, request(model="", stream=stream))
    kobold.behaviour = Behaviour(status=401, body=b"{}")
    with pytest.raises(AdapterError):
        await collect(adapter, request(model=""))
    assert kobold.cancels == []


async def test_a_reply_that_is_cut_here_is_ended_there(kobold: KoboldServer, adapter: Adapter) -> None:
    kobold.behaviour = Behaviour(events=(token("Hi\nUser: Hey"), token(" you")), gate_after=1)
    events = await collect(adapter, request(model=""))
    assert (text_of(events), finish_of(events).reason) == ("Hi", "stop")
    await kobold.cancelled(0)


async def test_an_end_that_hangs_or_is_refused_holds_nothing_up(
    kobold: KoboldServer, adapter: Adapter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(afterwards, "WAIT_S", 0.01)
    kobold.behaviour = Behaviour(gate_before_head=True)
    kobold.aborting = Behaviour(gate_before_head=True)
    task = asyncio.ensure_future(collect(adapter, request(model="")))
    await kobold.received(1)
    await cancelled(task)
    monkeypatch.setattr(afterwards, "WAIT_S", 5.0)
    kobold.aborting = Behaviour(status=404, body=b"")
    task = asyncio.ensure_future(collect(adapter, request(model="")))
    await kobold.received(2)
    with caplog.at_level(logging.WARNING):
        await cancelled(task)
    assert [record.levelno for record in caplog.records if "not ended" in record.message] == [logging.WARNING]
    assert CANARY not in caplog.text
    monkeypatch.setattr(afterwards, "CLOSE_S", 0.01)


# ---- one model, one server


@pytest.mark.parametrize("model", ["", "koboldcpp/tiny", "tiny", "Tiny", "KOBOLDCPP/TINY"])
async def test_the_model_may_be_named_by_its_file_or_not_at_all(kobold: KoboldServer, model: str) -> None:
    kobold.model_names = ("koboldcpp/tiny",)
    made = of(kobold)
    await load_only(made, LoadRequest(preload_model=model or None))
    assert finish_of(await collect(made, request(model=model))).model == "koboldcpp/tiny"
    await made.close()


async def test_another_model_is_refused_and_nothing_is_sent(kobold: KoboldServer, adapter: Adapter) -> None:
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, request(model="gpt-4o-mini"))
    assert (caught.value.code, "fake-small" in caught.value.message) == (Code.INVALID_MODEL, True)
    assert kobold.requests == []


@pytest.mark.parametrize("door", ["/api", "/api/", "/api/v1", "/v1", "/"])
async def test_the_address_of_any_of_its_doors_is_understood(kobold: KoboldServer, door: str) -> None:
    made = of(kobold, door=door)
    await load_only(made)
    assert text_of(await collect(made, request(model=""))) == "Hello there."
    await made.close()


async def test_how_the_model_wants_to_be_spoken_to_is_an_option(kobold: KoboldServer) -> None:
    made = of(kobold, instruct="chatml", context_length=2048)
    await load_only(made)
    await collect(made, request(model=""))
    await made.close()
    body = kobold.requests[0].body
    assert body["prompt"] == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert body["max_context_length"] == 2048
    assert (await refused(of(kobold, instruct="klingon"))).code is Code.INVALID_REQUEST


async def test_a_server_that_is_busy_is_asked_once_more(
    kobold: KoboldServer, adapter: Adapter, pauses: list[float]
) -> None:
    kobold.script = [
        Behaviour(status=503, body=KoboldWire().error(503, "Server is busy; please try again later."))
    ]
    assert finish_of(await collect(adapter, request(model=""))).retries == 1


# ---- KoboldAI itself


async def test_koboldai_answers_whole_and_is_neither_streamed_nor_ended(kobold: KoboldServer) -> None:
    made = bound(kobold.base_url, KOBOLDAI.quirks, key=None, adapter=Kobold)
    await load_only(made)
    kobold.behaviour = Behaviour(body=b'{"results": [{"text": " Hello.\\nUser: Hey"}]}')
    events = await collect(made, request(model="", temperature=0.0, stop=("\n\n",)))
    assert (text_of(events), finish_of(events).reason) == ("Hello.", "stop")
    kobold.behaviour = Behaviour(gate_before_head=True)
    task = asyncio.ensure_future(collect(made, request(model="")))
    await kobold.received(2)
    await cancelled(task)
    await kobold.closed(1)
    await made.close()
    assert [received.path for received in kobold.requests] == ["/api/v1/generate"] * 2
    assert (kobold.cancels, [received.path for received in kobold.lists]) == ([], ["/api/v1/model"])
    assert kobold.requests[0].body["temperature"] > 0


def test_the_adapter_and_the_catalogue_know_each_other() -> None:
    for provider in (KOBOLDCPP, KOBOLDAI):
        assert provider.adapter == "kobold"
        Quirks.parse(provider.id, provider.quirks, over=USUAL)
    assert not Quirks.parse("koboldai", KOBOLDAI.quirks, over=USUAL).streams

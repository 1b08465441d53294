"""What the AI Horde has of its own: a queue to wait in and to be taken out of. What it shares with all others
is in test_contract.py.

captured/ai_horde.json holds what the horde's own package sends and reads, and what its schema allows.
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
from tests.fakes.bound import CANARY, bound, cancelled, clean, collect, finish_of, load_only, request, text_of
from tests.fakes.http_server import WAIT_S, Exchange, FakeServer
from tests.fakes.served import serving
from tests.fakes.wire import JSON, Behaviour
from tests.fakes.wires.ai_horde import STATUS, HordeWire, error, job_of, state, status_of
from workers.adapter import Adapter, AdapterError, Alive, Begun, LoadRequest, Message, Request
from workers.adapters import ai_horde
from workers.adapters.ai_horde import ANONYMOUS, CLIENT_AGENT, LOOKS_FAILED_MAX, AIHorde
from workers.codes import Code
from workers.horde_job import LOOK_EVERY_MAX_S, LOOK_EVERY_S

CHECKOUT: Final = Path(__file__).parents[3]
CAPTURED: Final = json.loads(
    (Path(__file__).parent / "captured" / "ai_horde.json").read_text(encoding="utf-8")
)
PROVIDER: Final = load_catalog(CHECKOUT / "venvs.toml").providers["ai-horde"]
WAITING: Final = Behaviour(body=state())
LOST: Final = Behaviour(status=500, body=b"")


@pytest.fixture
async def horde() -> AsyncIterator[FakeServer]:
    """A horde."""
    async with FakeServer(HordeWire()) as running:
        yield running


@pytest.fixture
async def adapter(horde: FakeServer) -> AsyncIterator[Adapter]:
    """The adapter with the quirks of the catalogue, loaded."""
    made = bound(horde.base_url, PROVIDER.quirks, adapter=AIHorde)
    await load_only(made)
    yield made
    await made.close()


def captured_prompt() -> Request:
    """The prompt of the capture, as a request of ours."""
    prompt = CAPTURED["prompt"]
    return request(
        model=prompt["model"],
        messages=tuple(Message(*message) for message in prompt["messages"]),
        character_name=prompt["character_name"],
        max_output_length=prompt["max_tokens"],
        temperature=prompt["temperature"],
        stop=tuple(prompt["stop"]),
    )


def says(**answer: Any) -> Behaviour:
    """That answer, as JSON."""
    return Behaviour(body=json.dumps(answer).encode())


async def refused(adapter: Adapter, wanted: Request | None = None) -> AdapterError:
    """The error of a request; no part of the key is in it."""
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, wanted or request())
    clean(caught.value)
    return caught.value


def methods(horde: FakeServer) -> list[str]:
    """What was done with jobs after they were asked for."""
    return [received.method for received in horde.follows]


# ---- beside the horde's own package


@pytest.mark.foreign
async def test_a_job_is_asked_for_looked_at_and_taken_out_as_the_hordes_package_does(
    horde: FakeServer, adapter: Adapter
) -> None:
    sent, job = CAPTURED["sent"], CAPTURED["answers"]["job"]
    horde.behaviour, horde.follow = says(**job), WAITING
    task = asyncio.ensure_future(collect(adapter, captured_prompt()))
    await horde.arrived(horde.follows, 1)
    await cancelled(task)
    for ours, theirs in zip(
        (horde.requests[0], *horde.follows), (sent["queue"], sent["look"], sent["take_out"]), strict=True
    ):
        assert (ours.method, ours.path, ours.body) == (theirs["method"], theirs["path"], theirs["body"])
    assert horde.requests[0].headers["content-type"] == sent["queue"]["headers"]["content-type"]
    assert horde.requests[0].headers["apikey"] == CANARY
    assert sent["queue"]["headers"]["apikey"]


@pytest.mark.foreign
async def test_a_text_is_read_as_the_hordes_package_reads_it_and_cut(
    horde: FakeServer, adapter: Adapter, pauses: list[float]
) -> None:
    answers = CAPTURED["answers"]
    horde.behaviour, horde.follow = says(**answers["job"]), says(**answers["done"])
    horde.following = [says(**answers["waiting"])]
    events = await collect(adapter, captured_prompt())
    read, finish = answers["read"], finish_of(events)
    assert f" {text_of(events)}\nAnn:" == read["text"]  # without what the model says for somebody else
    assert (finish.model, HordeWire.reasons[read["state"]]) == (read["model"], finish.reason)


@pytest.mark.foreign
async def test_a_refusal_is_read_as_the_hordes_package_reads_it(horde: FakeServer, adapter: Adapter) -> None:
    told = CAPTURED["answers"]["refusal"]
    horde.behaviour = replace(says(**told["body"]), status=told["status"])
    assert told["read"].endswith(told["body"]["message"])
    assert (await refused(adapter)).code is Code.QUOTA


@pytest.mark.foreign
async def test_the_examples_of_the_hordes_package_are_read(
    horde: FakeServer, adapter: Adapter, pauses: list[float]
) -> None:
    horde.behaviour = says(**CAPTURED["examples"]["job"])
    horde.following = [says(**CAPTURED["examples"]["state"])]
    horde.follow = Behaviour(body=status_of(job_of(text="Hi")))
    assert text_of(await collect(adapter, request())) == "Hi"
    assert methods(horde) == ["GET", "GET"]


@pytest.mark.foreign
def test_the_answers_of_the_capture_are_those_of_our_fake() -> None:
    answers = CAPTURED["answers"]
    assert json.loads(state()) == answers["waiting"]
    assert json.loads(status_of(job_of(text=answers["read"]["text"]))) == answers["done"]
    refusal = answers["refusal"]["body"]
    assert json.loads(error(refusal["rc"], refusal["message"])) == refusal


@pytest.mark.foreign
def test_every_status_of_our_refusals_is_the_hordes() -> None:
    codes = CAPTURED["schema"]["codes"]
    told = [(refusal.status, json.loads(refusal.body)) for refusal in HordeWire().refusals().values()]
    assert not [(status, body) for status, body in told if codes.get(body.get("rc"), status) != status]


# ---- load


async def test_without_a_key_the_horde_is_asked_as_everybody(horde: FakeServer) -> None:
    made = bound(horde.base_url, key=None, adapter=AIHorde)
    await load_only(made)
    await collect(made, request())
    await made.close()
    assert [received.path for received in horde.lists] == ["/api/v2/status/models?type=text"]
    asked = {(received.headers["apikey"], received.headers["client-agent"]) for received in horde.requests}
    assert asked == {(ANONYMOUS, CLIENT_AGENT)}


async def test_a_key_that_belongs_to_nobody_is_told_before_anything_is_asked(horde: FakeServer) -> None:
    horde.models = Behaviour(
        status=404, body=error("UserNotFound", f"User with api_key '{CANARY}' not found.")
    )
    made = bound(horde.base_url, adapter=AIHorde)
    with pytest.raises(AdapterError) as caught:
        await load_only(made)
    assert caught.value.code is Code.AUTHORIZATION
    clean(caught.value)
    made = bound(horde.base_url, adapter=AIHorde)
    assert [w.name for w in (await load_only(made, LoadRequest(verify=False))).warnings] == ["NOT_CHECKED"]
    await made.close()


# ---- the wait


async def test_a_job_is_looked_at_until_it_is_done_with_pauses_within_bounds(
    horde: FakeServer, adapter: Adapter, pauses: list[float]
) -> None:
    waits = (100, 100, 12, 5, 0, "soon", None)
    horde.following = [Behaviour(body=state(wait_time=wait)) for wait in waits]
    events = await collect(adapter, request())
    assert text_of(events) == "Hello there."
    assert pauses == [LOOK_EVERY_MAX_S, LOOK_EVERY_MAX_S, 3.0, 1.25, LOOK_EVERY_S, LOOK_EVERY_S, LOOK_EVERY_S]
    assert methods(horde) == ["GET"] * 8


async def test_a_look_that_shows_that_it_goes_on_is_life_and_another_is_none(
    horde: FakeServer, adapter: Adapter, pauses: list[float]
) -> None:
    seen = (
        *(state(), state(), state(queue_position=2), state(wait_time=6, queue_position=2)),
        *(state(wait_time=6, queue_position=2), state(wait_time=6, queue_position=0, processing=1)),
    )
    horde.following = [Behaviour(body=body) for body in seen]
    events = await collect(adapter, request())
    assert events.count(Alive()) == 4


async def test_looks_that_fail_are_repeated_and_the_job_goes_on(
    horde: FakeServer, adapter: Adapter, pauses: list[float]
) -> None:
    slow = Behaviour(status=429, body=b"{}", headers={"Retry-After": "7"})
    hopeless = Behaviour(status=429, body=b"{}", headers={"Retry-After": "3600"})
    horde.following = [LOST, slow, WAITING, hopeless, Behaviour(body=b"<html>")]
    assert text_of(await collect(adapter, request())) == "Hello there."
    assert pauses == [LOOK_EVERY_S, 7.0, 1.75, ai_horde.LOOK_S, LOOK_EVERY_S]
    assert len(horde.requests) == 1


async def test_looks_that_keep_failing_end_the_request_and_take_the_job_out(
    horde: FakeServer, adapter: Adapter, pauses: list[float]
) -> None:
    horde.following = [LOST] * LOOKS_FAILED_MAX
    assert (await refused(adapter)).code is Code.UPSTREAM_ERROR
    assert methods(horde) == ["GET"] * LOOKS_FAILED_MAX + ["DELETE"]


async def test_a_job_that_the_horde_has_forgotten_is_not_looked_for_again(
    horde: FakeServer, adapter: Adapter, pauses: list[float]
) -> None:
    horde.follow = Behaviour(status=404, body=error("RequestNotFound", "not found"))
    assert (await refused(adapter)).code is Code.UPSTREAM_ERROR
    assert (methods(horde), pauses) == (["GET", "DELETE"], [])


async def test_a_job_that_failed_is_told(horde: FakeServer, adapter: Adapter) -> None:
    horde.following = [Behaviour(body=state(faulted=True))]
    caught = await refused(adapter)
    assert (caught.code, "lost the job" in caught.message) == (Code.UPSTREAM_ERROR, True)


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [("fake-smal", Code.INVALID_MODEL, "near ones: fake-small"), ("", Code.UPSTREAM_ERROR, "no volunteer")],
)
async def test_a_job_that_nobody_can_do_is_given_up_and_taken_out(
    horde: FakeServer, adapter: Adapter, pauses: list[float], model: str, code: Code, words: str
) -> None:
    impossible = Behaviour(body=state(is_possible=False))
    horde.following = [impossible, impossible, WAITING, impossible, impossible, impossible]
    caught = await refused(adapter, request(model=model))
    assert caught.code is code
    assert words in caught.message
    assert methods(horde) == ["GET"] * 6 + ["DELETE"]
    assert ("models" in horde.requests[0].body) is bool(model)


@pytest.mark.parametrize(
    "odd",
    [
        b"null",
        b"[]",
        b"{}",
        b'{"done": true}',
        b'{"done": true, "generations": []}',
        b'{"done": true, "generations": [7]}',
        b'{"done": true, "generations": [{"text": null}]}',
    ],
)
async def test_what_is_no_state_of_a_job_is_a_protocol_error(
    horde: FakeServer, adapter: Adapter, odd: bytes
) -> None:
    horde.following = [Behaviour(body=odd)]
    assert (await refused(adapter)).code is Code.UPSTREAM_PROTOCOL


@pytest.mark.parametrize(("text", "shown"), [("They say", "They say"), ("", None)])
async def test_what_a_filter_left_is_shown_as_such(
    horde: FakeServer, adapter: Adapter, text: str, shown: str | None
) -> None:
    horde.follow = Behaviour(body=status_of(job_of(text=text, state="censored")))
    if shown is None:
        assert (await refused(adapter)).code is Code.CONTENT_FILTERED
        return
    events = await collect(adapter, request())
    assert (text_of(events), finish_of(events).reason) == (shown, "content_filter")


async def test_what_must_not_be_shown_is_not(horde: FakeServer, adapter: Adapter) -> None:
    horde.follow = Behaviour(body=status_of(job_of(text="no", state="csam")))
    assert (await refused(adapter)).code is Code.CONTENT_FILTERED


# ---- interrupts


async def test_an_interrupt_in_the_queue_takes_the_job_out_of_it() -> None:
    async with serving(HordeWire()) as served:
        served.server.following = [WAITING]
        request_id = served.start()
        await served.server.arrived(served.server.follows, 1)
        served.cancel(request_id)
        outcome = await served.outcome(request_id)
        assert (outcome.code, outcome.body["finish_reason"]) == (Code.INTERRUPT, "interrupt")
        assert outcome.body["upstream_closed_ms"] is not None
        looked, taken_out = served.server.follows  # before its end was told
        assert (taken_out.method, taken_out.path) == ("DELETE", looked.path)
        assert taken_out.path.startswith(STATUS)


async def test_an_interrupt_of_one_leaves_the_job_of_another_in_the_queue(
    horde: FakeServer, adapter: Adapter
) -> None:
    horde.following = [WAITING]
    first = asyncio.ensure_future(collect(adapter, request()))
    await horde.arrived(horde.follows, 1)
    assert text_of(await collect(adapter, request())) == "Hello there."
    await cancelled(first)
    assert methods(horde) == ["GET", "GET", "DELETE"]


async def test_an_interrupt_amid_a_look_takes_the_job_out(horde: FakeServer, adapter: Adapter) -> None:
    horde.following = [Behaviour(gate_before_head=True)]
    task = asyncio.ensure_future(collect(adapter, request()))
    await horde.arrived(horde.follows, 1)
    await cancelled(task)
    assert methods(horde) == ["GET", "DELETE"]
    await asyncio.wait_for(horde.follows[0].gone.wait(), WAIT_S)


async def test_an_interrupt_while_a_job_is_being_put_in_takes_it_out_when_it_is(
    horde: FakeServer, adapter: Adapter
) -> None:
    horde.script = [Behaviour(gate_before_head=True)]
    task = asyncio.ensure_future(collect(adapter, request()))
    await horde.received(1)
    task.cancel()
    horde.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert methods(horde) == ["DELETE"]


async def test_an_interrupt_does_not_wait_for_ever_for_a_horde_that_hangs(
    horde: FakeServer, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ai_horde, "LET_GO_S", 0.01)
    horde.script = [Behaviour(gate_before_head=True)]
    task = asyncio.ensure_future(collect(adapter, request()))
    await horde.received(1)
    await asyncio.wait_for(cancelled(task), WAIT_S)
    await horde.closed(0)
    assert methods(horde) == []


async def test_a_second_cancellation_does_not_keep_the_job_from_being_taken_out(
    horde: FakeServer, adapter: Adapter
) -> None:
    horde.following = [WAITING, Behaviour(body=state(), gate_before_head=True)]
    task = asyncio.ensure_future(collect(adapter, request()))
    await horde.arrived(horde.follows, 1)
    task.cancel()
    await horde.arrived(horde.follows, 2)
    await cancelled(task)
    horde.gate.set()
    await adapter.close()  # it waits for what is being taken out
    assert methods(horde) == ["GET", "DELETE"]


async def test_a_reply_that_nobody_reads_any_more_is_taken_out(horde: FakeServer, adapter: Adapter) -> None:
    horde.following = [WAITING]
    events = adapter.generate(request())
    assert await anext(events) == Alive()
    assert isinstance(events, AsyncIterator)
    await events.aclose()  # type: ignore[attr-defined]  # the host closes what can be closed
    assert methods(horde) == ["GET", "DELETE"]


async def test_a_job_that_is_done_is_not_taken_out(horde: FakeServer, adapter: Adapter) -> None:
    await collect(adapter, request())
    assert methods(horde) == ["GET"]


async def test_a_warning_is_told_before_the_wait(
    horde: FakeServer, adapter: Adapter, pauses: list[float]
) -> None:
    horde.script = [Behaviour(status=503, body=b"")]
    first, *_ = await collect(adapter, request(sampling={"seed": 7}))
    assert isinstance(first, Begun)
    assert (first.retries, [warning.name for warning in first.warnings]) == (1, ["PARAMETER_LEFT_OUT"])


async def test_before_its_load_nothing_is_asked() -> None:
    made = bound("http://127.0.0.1:9", adapter=AIHorde)
    assert (await refused(made)).code is Code.NOT_LOADED


async def test_a_text_that_comes_in_pieces_of_the_network_is_one(horde: FakeServer, adapter: Adapter) -> None:
    body = status_of(job_of(text="é日😀"))

    async def dripping(exchange: Exchange) -> None:
        await exchange.head(200, {"Content-Type": JSON}, length=len(body))
        for byte in body:
            await exchange.send(bytes([byte]))
            await asyncio.sleep(0)

    horde.follow = dripping
    assert text_of(await collect(adapter, request())) == "é日😀"


# ---- the catalogue


def test_the_adapter_and_the_catalogue_know_each_other() -> None:
    catalog = load_catalog(CHECKOUT / "venvs.toml")
    ours = catalog.providers["ai-horde"]
    assert all(catalog.find(name) is ours for name in ("aihorde", "horde", "AI-Horde"))
    assert (ours.adapter, ours.base_url, ours.key_required) == (
        "ai_horde",
        "https://aihorde.net/api/v2",
        False,
    )

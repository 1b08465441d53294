"""What IBM watsonx.ai has of its own: a token that is bought with the key, and who pays.

What it shares with all others is in test_contract.py; captured/watsonx.json holds what the vendor's own
package sends and reads.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest

from supervisor.catalog import load_catalog
from tests.fakes.bound import CANARY, bound, clean, collect, finish_of, load_only, request, text_of
from tests.fakes.http_server import WAIT_S, Exchange, FakeServer
from tests.fakes.wire import JSON, Behaviour
from tests.fakes.wires.watsonx import PROJECT, AtHome, WatsonxWire, piece, token_of
from workers.adapter import Adapter, AdapterError, LoadRequest, Message, Usage
from workers.adapters import watsonx
from workers.adapters.watsonx import IAM_URL, TOKEN_S, VERSION, Watsonx
from workers.codes import Code
from workers.upstream import Upstream

CHECKOUT: Final = Path(__file__).parents[3]
CAPTURED: Final = json.loads(
    (Path(__file__).parent / "captured" / "watsonx.json").read_text(encoding="utf-8")
)
PROVIDER: Final = load_catalog(CHECKOUT / "venvs.toml").providers["watsonx"]
OPTIONS: Final = {"project_id": PROJECT}
AT_ONCE: Final = 8
LONG: Final = watsonx.EARLY_S * 2


@pytest.fixture
async def cloud() -> AsyncIterator[FakeServer]:
    """A server that speaks this wire, and sells tokens."""
    async with FakeServer(WatsonxWire()) as running:
        yield running


@pytest.fixture
async def adapter(cloud: FakeServer) -> AsyncIterator[Adapter]:
    """The adapter with the quirks of IBM itself, loaded."""
    made = bound(cloud.base_url, PROVIDER.quirks, adapter=AtHome, options=OPTIONS)
    await load_only(made)
    yield made
    await made.close()


def sold(**fields: Any) -> Behaviour:
    """What the identity service answers."""
    return Behaviour(body=json.dumps({"access_token": "t1", "expires_in": 3600, **fields}).encode())


async def failed(adapter: Adapter) -> AdapterError:
    """The error that a request ends with."""
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, request())
    clean(caught.value)
    return caught.value


# ---- beside the vendor's own package


def captured_prompt(*, stream: bool) -> Any:
    """The prompt of the capture, as a request of ours."""
    prompt = CAPTURED["prompt"]
    turns = [Message("system", prompt["system"]), *(Message(*turn) for turn in prompt["messages"])]
    return request(
        model=prompt["model"],
        max_output_length=prompt["max_tokens"],
        messages=tuple(turns),
        stop=tuple(prompt["stop"]),
        temperature=prompt["temperature"],
        stream=stream,
    )


def address(url: str) -> tuple[str, dict[str, list[str]]]:
    """The path of an address and its query, without the date of the API."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    assert query.pop("version")
    return parts.path, query


@pytest.mark.foreign
@pytest.mark.parametrize("name", ["stream", "whole"])
async def test_what_is_sent_is_what_the_vendors_package_sends(
    cloud: FakeServer, adapter: Adapter, name: str
) -> None:
    assert CAPTURED["prompt"]["project_id"] == PROJECT
    await collect(adapter, captured_prompt(stream=name == "stream"))
    ours, theirs = cloud.requests[0], CAPTURED["sent"][name]
    assert (ours.method, *address(ours.path)) == (theirs["method"], *address(theirs["url"]))
    assert ours.body == theirs["body"]
    assert ours.headers["content-type"] == theirs["headers"]["content-type"]
    assert theirs["headers"]["authorization"].startswith("Bearer ")
    assert ours.headers["authorization"] == f"Bearer {token_of(CANARY)}"


@pytest.mark.foreign
async def test_a_token_is_bought_as_the_vendors_package_does(cloud: FakeServer, adapter: Adapter) -> None:
    ours, theirs = cloud.tokens[0], CAPTURED["sent"]["token"]
    assert ours.headers["content-type"] == theirs["headers"]["content-type"]
    assert ours.method == theirs["method"]
    assert theirs["url"] == IAM_URL + ours.path.removeprefix("/ml/v1")
    form = dict(item.split("=", 1) for item in theirs["body"].split("&"))
    assert set(ours.body) == set(form)
    assert ours.body["grant_type"] == parse_qs(theirs["body"])["grant_type"][0]
    assert ours.body["apikey"] == CANARY


@pytest.mark.foreign
async def test_the_models_are_asked_for_as_the_vendors_package_does(
    cloud: FakeServer, adapter: Adapter
) -> None:
    path, query = address(cloud.lists[0].path)
    theirs, wanted = address(CAPTURED["sent"]["models"]["url"])
    assert wanted.pop("project_id")
    assert (path, query) == (theirs, wanted)


@pytest.mark.foreign
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_an_answer_is_read_as_the_vendors_package_reads_it(
    cloud: FakeServer, adapter: Adapter, stream: bool
) -> None:
    answers = CAPTURED["answers"]
    if stream:
        cloud.behaviour = Behaviour(events=("\n".join(answers["stream"]).encode(),))
        choices = [chunk["choices"] for chunk in answers["read_stream"]]
        text = "".join(choice[0]["delta"]["content"] for choice in choices if choice)
        told = answers["read_stream"][-1]["usage"]
    else:
        cloud.behaviour = Behaviour(body=json.dumps(answers["whole"]).encode())
        text = answers["read_whole"]["choices"][0]["message"]["content"]
        told = answers["read_whole"]["usage"]
    events = await collect(adapter, request(stream=stream))
    finish = finish_of(events)
    assert (text_of(events), finish.reason, finish.model) == (text, "stop", "ibm/granite-4-h-small")
    assert finish.usage == Usage(told["prompt_tokens"], told["completion_tokens"])


@pytest.mark.foreign
async def test_a_recorded_stream_is_read(cloud: FakeServer, adapter: Adapter) -> None:
    recorded = CAPTURED["recorded"]
    cloud.behaviour = Behaviour(events=("\n".join(recorded["stream"]).encode(),))
    events = await collect(adapter, request())
    finish, read = finish_of(events), recorded["read"]
    assert (text_of(events), finish.reason, finish.model) == (
        read["text"],
        read["finish_reason"],
        read["model"],
    )
    assert finish.usage == Usage(*read["usage"])


# ---- tokens


async def test_one_token_serves_load_and_all_requests(cloud: FakeServer, adapter: Adapter) -> None:
    for _ in range(3):
        await collect(adapter, request())
    assert len(cloud.tokens) == 1


async def test_requests_at_once_buy_one_token(cloud: FakeServer) -> None:
    cloud.selling = sold(expires_in=1)
    made = bound(cloud.base_url, adapter=AtHome, options=OPTIONS)
    await load_only(made)
    made._token = None  # type: ignore[attr-defined]  # as if an hour had passed
    cloud.selling = sold()
    before = len(cloud.tokens)
    await asyncio.gather(*(collect(made, request()) for _ in range(AT_ONCE)))
    await made.close()
    assert (len(cloud.requests), len(cloud.tokens)) == (AT_ONCE, before + 1)


@pytest.mark.parametrize(
    ("lasts_s", "good_s"),
    [
        (3600, 3300.0),
        (LONG, watsonx.EARLY_S),
        (60, 30.0),
        (0, 0.0),
        (-5, 0.0),
        (None, 0.0),
        ("3600", 0.0),
        (True, 0.0),
        (1.5, 0.0),
    ],
    ids=str,
)
async def test_a_token_is_replaced_before_it_ends(cloud: FakeServer, lasts_s: Any, good_s: float) -> None:
    cloud.selling = sold(expires_in=int(lasts_s) if lasts_s == LONG else lasts_s)
    made = bound(cloud.base_url, adapter=AtHome, options=OPTIONS)
    assert isinstance(made, Watsonx)
    before = asyncio.get_running_loop().time()
    await load_only(made)
    after = asyncio.get_running_loop().time()
    assert made._token is not None
    assert before + good_s <= made._token.until <= after + good_s
    await made.close()


async def test_a_token_that_ended_is_replaced_by_the_next_request(cloud: FakeServer) -> None:
    cloud.selling = sold(expires_in=0)
    made = bound(cloud.base_url, adapter=AtHome, options=OPTIONS)
    await load_only(made)
    cloud.selling = sold(access_token="t2")
    await collect(made, request())
    await made.close()
    assert cloud.requests[0].key == "t2"


async def test_a_token_that_was_taken_back_is_replaced_by_the_next_request(
    cloud: FakeServer, adapter: Adapter
) -> None:
    refused = WatsonxWire().refusals()["expired"]
    cloud.script = [Behaviour(status=refused.status, body=refused.body)]
    assert (await failed(adapter)).code is Code.AUTHORIZATION
    cloud.selling = sold(access_token="t2")
    await collect(adapter, request())
    assert [received.key for received in cloud.requests] == [token_of(CANARY), "t2"]


async def test_any_other_refusal_keeps_the_token(cloud: FakeServer, adapter: Adapter) -> None:
    cloud.script = [Behaviour(status=403, body=b"{}")]
    await failed(adapter)
    await collect(adapter, request())
    assert len(cloud.tokens) == 1


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_key_that_the_identity_service_refuses_is_authorization(
    cloud: FakeServer, status: int
) -> None:
    told = {"errorCode": "BXNIM0415E", "errorMessage": f"Provided API key {CANARY} could not be found."}
    cloud.selling = Behaviour(status=status, body=json.dumps(told).encode())
    with pytest.raises(AdapterError) as caught:
        await load_only(bound(cloud.base_url, adapter=AtHome, options=OPTIONS))
    assert caught.value.code is Code.AUTHORIZATION
    assert "FAKE_API_KEY" in caught.value.message
    clean(caught.value)


@pytest.mark.parametrize(
    ("selling", "code"),
    [
        (Behaviour(status=429, body=b"{}"), Code.RATE_LIMITED),
        (Behaviour(status=500, body=b""), Code.UPSTREAM_ERROR),
        (Behaviour(body=b"<html>"), Code.UPSTREAM_PROTOCOL),
        (Behaviour(body=b"[]"), Code.UPSTREAM_PROTOCOL),
        (Behaviour(body=b"{}"), Code.UPSTREAM_PROTOCOL),
        (sold(access_token=7), Code.UPSTREAM_PROTOCOL),
        (sold(access_token="a\nb"), Code.UPSTREAM_PROTOCOL),
        (sold(access_token="é"), Code.UPSTREAM_PROTOCOL),
    ],
    ids=["429", "500", "html", "list", "none", "number", "two lines", "no ascii"],
)
async def test_a_token_that_is_not_to_be_had_is_told(
    cloud: FakeServer, pauses: list[float], selling: Behaviour, code: Code
) -> None:
    cloud.selling = selling
    made = bound(cloud.base_url, adapter=AtHome, options=OPTIONS)
    assert [warning.name for warning in (await load_only(made)).warnings] == ["NOT_CHECKED"]
    assert (await failed(made)).code is code
    await made.close()
    assert cloud.requests == []


async def test_an_interrupt_while_a_token_is_bought_leaves_the_next_request_whole(cloud: FakeServer) -> None:
    asked = asyncio.Event()

    async def hang(exchange: Exchange) -> None:
        asked.set()
        await exchange.server.gate.wait()

    made = bound(cloud.base_url, adapter=AtHome, options=OPTIONS)
    cloud.selling = sold(expires_in=0)
    await load_only(made)
    cloud.selling = hang
    task = asyncio.ensure_future(collect(made, request()))
    await asyncio.wait_for(asked.wait(), WAIT_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    cloud.selling = sold()
    assert text_of(await collect(made, request())) == "Hello there."
    await made.close()


async def test_a_load_waits_no_longer_for_a_token_than_for_a_list(
    cloud: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    ask = Upstream.ask

    async def noted(self: Upstream, *args: Any, timeout_s: float, **fields: Any) -> Any:
        waits.append(timeout_s)
        return await ask(self, *args, timeout_s=timeout_s, **fields)

    monkeypatch.setattr(Upstream, "ask", noted)
    made = bound(cloud.base_url, adapter=AtHome, options=OPTIONS)
    await load_only(made, LoadRequest(verify=False))
    await made.close()
    token_s, list_s = waits
    assert list_s <= token_s < TOKEN_S


# ---- who pays, and where the key goes


@pytest.mark.parametrize(
    ("options", "scope"),
    [
        ({"project_id": "p"}, {"project_id": "p"}),
        ({"space_id": "s"}, {"space_id": "s"}),
        ({"project_id": "p", "space_id": "s"}, {"project_id": "p"}),
        ({"project_id": "", "space_id": "s"}, {"space_id": "s"}),
    ],
    ids=str,
)
async def test_a_request_says_who_pays(
    cloud: FakeServer, options: dict[str, str], scope: dict[str, str]
) -> None:
    made = bound(cloud.base_url, adapter=AtHome, options=options)
    await load_only(made)
    await collect(made, request())
    await made.close()
    body = cloud.requests[0].body
    assert {name: body[name] for name in ("project_id", "space_id") if name in body} == scope


async def test_a_load_without_anybody_who_pays_is_refused_before_anything_is_sent(cloud: FakeServer) -> None:
    with pytest.raises(AdapterError) as caught:
        await load_only(bound(cloud.base_url, adapter=AtHome))
    assert caught.value.code is Code.INVALID_REQUEST
    assert "WATSONX_PROJECT_ID" in caught.value.message
    assert cloud.connections == 0


async def test_the_key_goes_to_no_address_that_a_load_names(
    cloud: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeServer(WatsonxWire()) as ibm:
        monkeypatch.setattr(Watsonx, "iam_url", ibm.base_url)
        made = bound(cloud.base_url, adapter=Watsonx, options=OPTIONS)
        await load_only(made)
        await made.close()
        assert CANARY in str(ibm.tokens[0].body)
    assert cloud.tokens == []


async def test_the_key_goes_to_the_identity_service_of_the_vendor_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, str]] = []

    async def noted(self: Upstream, method: str, path: str, *args: Any, **fields: Any) -> Any:
        assert CANARY not in f"{self._headers} {path} {fields.get('headers')}"
        asked.append((self._base, path))
        return {"access_token": "t1", "expires_in": 3600} if path == "/identity/token" else {"resources": []}

    monkeypatch.setattr(Upstream, "ask", noted)
    for region in ("us-south", "eu-de"):
        made = bound(f"https://{region}.ml.cloud.ibm.com/ml/v1", adapter=Watsonx, options=OPTIONS)
        await load_only(made)
        await made.close()
        assert [place for place, _ in asked] == [IAM_URL, f"https://{region}.ml.cloud.ibm.com/ml/v1"]
        asked.clear()


# ---- answers


@pytest.mark.parametrize("listed", [{"resources": 7}, {"resources": [7, {}, {"model_id": 7}]}], ids=str)
async def test_a_list_of_models_of_a_wrong_type_is_empty(cloud: FakeServer, listed: Any) -> None:
    cloud.models = Behaviour(body=json.dumps(listed).encode())
    made = bound(cloud.base_url, adapter=AtHome, options=OPTIONS)
    assert (await load_only(made)).models == ()
    await made.close()


async def test_an_older_answer_has_the_model_in_one_field_alone(cloud: FakeServer, adapter: Adapter) -> None:
    chunk = {"model_id": "ibm/old", "choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]}
    cloud.behaviour = Behaviour(events=(f"data: {json.dumps(chunk)}\n\n".encode(),))
    assert finish_of(await collect(adapter, request())).model == "ibm/old"


@pytest.mark.parametrize("reason", [7, ["x"], {}], ids=str)
async def test_a_reason_of_a_wrong_type_is_an_end_or_none(
    cloud: FakeServer, adapter: Adapter, reason: Any
) -> None:
    data = json.loads(piece({"content": "Hi"}, "stop").split(b"data: ")[1])
    data["choices"][0]["finish_reason"] = reason
    last = piece({"content": ""}, "stop")
    cloud.behaviour = Behaviour(events=(f"data: {json.dumps(data)}\n\n".encode(), last))
    assert finish_of(await collect(adapter, request())).reason == "stop"


async def test_an_unknown_project_is_told_in_the_providers_words(cloud: FakeServer, adapter: Adapter) -> None:
    refused = WatsonxWire().refusals()["project"]
    cloud.behaviour = Behaviour(status=refused.status, body=refused.body, headers={"Content-Type": JSON})
    error = await failed(adapter)
    assert (error.code, "project_id" in error.message) == (Code.INVALID_PROMPT, True)


def test_the_adapter_and_the_catalogue_know_each_other() -> None:
    assert PROVIDER.adapter == "watsonx"
    settings = {setting.name: setting for setting in PROVIDER.settings}
    assert settings["region"].default == "us-south"
    assert not settings["project_id"].required
    assert VERSION in watsonx.LIST

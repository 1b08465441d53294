"""What Bedrock's wire has of its own; what it shares with all others is in test_contract.py.

captured/bedrock.json holds what the vendor's own client sends and reads, and streams that others recorded.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from supervisor.catalog import load_catalog
from tests.fakes.bound import CANARY, clean, collect, finish_of, load_only, reasoning_of, request, text_of
from tests.fakes.http_server import Exchange, FakeServer
from tests.fakes.wire import JSON, Behaviour
from tests.fakes.wires.bedrock import BedrockWire, delta, summary, told
from workers.adapter import (
    Adapter,
    AdapterError,
    Binding,
    LoadRequest,
    Message,
    ProviderSpec,
    Text,
    Usage,
)
from workers.adapters import bedrock as module
from workers.adapters.bedrock import Bedrock
from workers.amazon import Identity
from workers.codes import Code

CHECKOUT: Final = Path(__file__).parents[3]
CAPTURED: Final = json.loads(
    (Path(__file__).parent / "captured" / "bedrock.json").read_text(encoding="utf-8")
)
PROVIDER: Final = load_catalog(CHECKOUT / "venvs.toml").providers["bedrock"]
ANSWERS: Final = {answer["name"]: answer for answer in CAPTURED["answers"]}
NOON: Final = datetime(2026, 11, 25, 12)
KEYS: Final = {
    "access_key_id": "AKIDEXAMPLE",
    "secret_access_key": CANARY,
    "session_token": f"token-{CANARY}",
}
"""Options that sign; the canary is looked for wherever a key must not be."""


@pytest.fixture
async def converse_server() -> AsyncIterator[FakeServer]:
    """A server that speaks this wire."""
    async with FakeServer(BedrockWire()) as running:
        yield running


def made(base_url: str, *, key: str | None = CANARY, options: Mapping[str, Any] | None = None) -> Adapter:
    """The adapter with the quirks of Bedrock itself, not loaded yet."""
    spec = ProviderSpec("bedrock", "Bedrock", base_url, key_variables=PROVIDER.key, quirks=PROVIDER.quirks)
    return Bedrock(spec, Binding(1, key=key, options=options or {}))


@pytest.fixture
async def adapter(converse_server: FakeServer) -> AsyncIterator[Adapter]:
    """That adapter, loaded with a key."""
    loaded = made(converse_server.base_url)
    await load_only(loaded)
    yield loaded
    await loaded.close()


@pytest.fixture
async def signer(converse_server: FakeServer) -> AsyncIterator[Adapter]:
    """That adapter, loaded with options that sign."""
    loaded = made(converse_server.base_url, key=None, options=KEYS)
    await load_only(loaded)
    yield loaded
    await loaded.close()


# ---- beside the vendor's own client


@pytest.mark.foreign
@pytest.mark.parametrize(
    ("index", "stream", "model"),
    [
        (0, True, None),
        (1, False, None),
        (2, True, "arn:aws:bedrock:us-east-1:123456789012:inference-profile/"),
    ],
    ids=["streamed", "whole", "by its ARN"],
)
async def test_what_is_sent_is_what_the_vendors_client_sends(
    converse_server: FakeServer, signer: Adapter, index: int, stream: bool, model: str | None
) -> None:
    prompt = CAPTURED["prompt"]
    asked = request(
        model=f"{model or ''}{prompt['model']}",
        max_output_length=prompt["max_tokens"],
        messages=(
            Message("system", prompt["system"]),
            *(Message(role, text) for role, text in prompt["messages"]),
        ),
        stop=tuple(prompt["stop"]),
        temperature=prompt["temperature"],
        stream=stream,
    )
    await collect(signer, asked)
    ours, theirs = converse_server.requests[0], CAPTURED["sent"][index]
    assert (ours.method, ours.path, ours.body) == (theirs["method"], theirs["path"], theirs["body"])
    assert ours.headers["content-type"] == theirs["headers"]["content-type"]
    assert _signed(ours.headers["authorization"]) == _signed(theirs["headers"]["authorization"])


def _signed(authorization: str) -> str:
    """Which headers a signature covers."""
    return authorization.partition("SignedHeaders=")[2].partition(",")[0]


@pytest.mark.foreign
async def test_the_models_are_asked_for_as_the_vendors_client_does(
    converse_server: FakeServer, signer: Adapter
) -> None:
    ours = [received.path for received in converse_server.lists]
    assert ours == [sent["path"] for sent in CAPTURED["sent"] if sent["method"] == "GET"]


@pytest.mark.foreign
@pytest.mark.parametrize("name", ANSWERS)
async def test_a_recorded_answer_is_read_as_the_vendors_client_reads_it(
    converse_server: FakeServer, adapter: Adapter, name: str
) -> None:
    answer, read = ANSWERS[name], ANSWERS[name]["read"]
    if "stream" in answer:
        converse_server.behaviour = Behaviour(events=(base64.b64decode(answer["stream"]),))
    else:
        converse_server.behaviour = Behaviour(body=json.dumps(answer["whole"]).encode())
    asked = request(stream="stream" in answer)
    if "error" in read:
        with pytest.raises(AdapterError) as caught:
            await collect(adapter, asked)
        assert (caught.value.code, caught.value.provider_status) == (Code.UPSTREAM_ERROR, 424)
        return
    got = await collect(adapter, asked)
    finish, tokens = finish_of(got), read["usage"]
    assert (text_of(got), reasoning_of(got)) == (read["text"], read["thinking"])
    assert finish.reason == BedrockWire.reasons[read["stopReason"]]
    assert finish.usage == Usage(
        tokens["inputTokens"], tokens["outputTokens"], tokens["cacheReadInputTokens"]
    )


# ---- who asks


@pytest.mark.parametrize("model", ["fake-small", "a:b/c d", "arn:aws:bedrock:us-east-1:1:prompt/P%2F:1", "é"])
async def test_what_is_signed_is_what_was_received(
    converse_server: FakeServer, signer: Adapter, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda **_: NOON)
    await collect(signer, request(model=model))
    received = converse_server.requests[0]
    assert converse_server.asked().model == model
    who = Identity(**KEYS)
    url = f"http://{received.headers['host']}{received.path}"
    expected = who.signature(received.method, url, received.raw, service="bedrock", region="us-east-1")
    assert {name: received.headers[name.lower()] for name in expected} == dict(expected)


async def test_a_signature_is_of_the_region_that_is_named(converse_server: FakeServer) -> None:
    signing = made(converse_server.base_url, key=None, options={**KEYS, "region": "eu-north-1"})
    await load_only(signing)
    await signing.close()
    assert "/eu-north-1/bedrock/aws4_request" in converse_server.lists[0].headers["authorization"]


async def test_a_key_goes_before_a_signature(converse_server: FakeServer) -> None:
    both = made(converse_server.base_url, options=KEYS)
    await load_only(both)
    await collect(both, request())
    await both.close()
    received = (*converse_server.lists, *converse_server.requests)
    assert {one.headers["authorization"] for one in received} == {f"Bearer {CANARY}"}
    assert not any("x-amz-date" in one.headers for one in received)


@pytest.mark.parametrize("name", ["access_key_id", "session_token", "region"])
async def test_an_option_that_no_header_can_hold_is_told_without_a_word_of_it(
    converse_server: FakeServer, name: str
) -> None:
    odd = made(converse_server.base_url, key=None, options={**KEYS, name: f"a\r\n{CANARY}"})
    with pytest.raises(AdapterError) as caught:
        await load_only(odd)
    await odd.close()
    assert (caught.value.code, converse_server.lists) == (Code.INVALID_REQUEST, [])
    assert name in caught.value.message
    clean(caught.value)


@pytest.mark.parametrize("options", [{}, {"access_key_id": "AKIDEXAMPLE"}, {"secret_access_key": CANARY}])
async def test_nobody_who_has_neither_key_nor_secret_gets_in(
    converse_server: FakeServer, options: dict[str, str]
) -> None:
    nobody = made(converse_server.base_url, key=None, options=options)
    with pytest.raises(AdapterError) as caught:
        await load_only(nobody)
    assert (caught.value.code, converse_server.connections) == (Code.AUTHORIZATION, 0)
    assert "access_key_id" in caught.value.message
    clean(caught.value)


async def test_a_retry_is_signed_anew(
    converse_server: FakeServer, signer: Adapter, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = _hours()
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda **_: next(times))
    converse_server.script = [Behaviour(status=503, body=b"{}")]
    assert finish_of(await collect(signer, request())).retries == 1
    dates = [received.headers["x-amz-date"] for received in converse_server.requests]
    assert dates == ["20261125T120000Z", "20261125T130000Z"]


def _hours() -> Iterator[datetime]:
    """A clock that goes an hour for each look at it."""
    now = NOON
    while True:
        yield now
        now += timedelta(hours=1)


async def test_no_secret_is_repeated_from_an_answer(
    converse_server: FakeServer, signer: Adapter, caplog: pytest.LogCaptureFixture
) -> None:
    message = f"bad {CANARY} and token-{CANARY} in this input"
    converse_server.behaviour = Behaviour(status=400, body=json.dumps({"message": message}).encode())
    with pytest.raises(AdapterError) as caught:
        await collect(signer, request())
    assert caught.value.code is Code.INVALID_PROMPT
    clean(caught.value)
    assert CANARY[:8] not in f"{caplog.text}{signer!r}{signer.binding!r}"


# ---- models


def listing(*models: dict[str, Any], profiles: object = None, status: int = 200) -> Any:
    """How both lists are answered."""

    async def answer(exchange: Exchange) -> None:
        of_profiles = exchange.request.path.startswith("/inference-profiles")
        value = {"inferenceProfileSummaries": profiles} if of_profiles else {"modelSummaries": models}
        body = json.dumps(value).encode()
        await exchange.head(status if of_profiles else 200, {"Content-Type": JSON}, length=len(body))
        await exchange.send(body)

    return answer


def profile(name: str, *models: str) -> dict[str, Any]:
    """A profile as it is listed."""
    arns = [{"modelArn": f"arn:aws:bedrock:us-west-2::foundation-model/{model}"} for model in models]
    return {"inferenceProfileId": name, "models": arns}


async def test_models_are_those_that_stream_by_the_names_that_can_be_asked(
    converse_server: FakeServer,
) -> None:
    converse_server.models = listing(
        summary("plain"),
        summary("mute", streams=False),
        summary("far", kinds=["INFERENCE_PROFILE"]),
        summary("bought", kinds=["PROVISIONED"]),
        profiles=[profile("us.far", "far"), profile("us.mute", "mute"), profile("us.none")],
    )
    asking = made(converse_server.base_url)
    assert (await load_only(asking)).models == ("plain", "us.far")
    await asking.close()


@pytest.mark.parametrize("profiles", [None, 7, [7, {}, {"inferenceProfileId": "x", "models": 7}]])
@pytest.mark.parametrize("status", [200, 403, 500])
async def test_models_are_known_without_their_profiles(
    converse_server: FakeServer, profiles: object, status: int
) -> None:
    converse_server.models = listing(summary("plain"), profiles=profiles, status=status)
    asking = made(converse_server.base_url)
    done = await load_only(asking)
    assert (done.models, done.warnings) == (("plain",), ())
    await asking.close()


async def test_who_may_not_list_may_still_ask(converse_server: FakeServer) -> None:
    message = "User: x is not authorized to perform: bedrock:ListFoundationModels because no policy allows it"
    body = json.dumps({"Message": message}).encode()
    converse_server.models = Behaviour(status=403, body=body)
    asking = made(converse_server.base_url)
    assert [warning.name for warning in (await load_only(asking)).warnings] == ["NOT_CHECKED"]
    assert text_of(await collect(asking, request())) == "Hello there."
    await asking.close()


async def test_models_are_listed_by_another_host_and_the_one_that_answers_is_warm(
    converse_server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeServer(BedrockWire()) as control:
        monkeypatch.setattr(module, "control_plane", lambda base_url: control.base_url)
        converse_server.models = Behaviour(status=404, body=b"{}")
        asking = made(converse_server.base_url, key=None, options=KEYS)
        assert (await load_only(asking)).models == control.model_names
        await collect(asking, request())
        await asking.close()
        assert len(control.lists) == 2
        assert "host" in control.lists[0].headers["authorization"]
    assert [received.path for received in converse_server.lists] == ["/ping"]
    assert "authorization" not in converse_server.lists[0].headers
    assert converse_server.connections == 1


async def test_a_host_that_answers_and_cannot_be_reached_is_told(
    converse_server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "control_plane", lambda base_url: converse_server.base_url)
    async with FakeServer(BedrockWire()) as gone:
        base_url = gone.base_url
    asking = made(base_url)
    with pytest.raises(AdapterError) as caught:
        await asking.load(LoadRequest(), lambda phase, message, fraction: None)
    assert caught.value.code is Code.UNREACHABLE


# ---- refusals


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, "ServiceQuotaExceededException", Code.QUOTA),
        (400, "ValidationException:http://internal.amazon.com/coral/", Code.INVALID_PROMPT),
        (404, "ResourceNotFoundException:http://internal.amazon.com/coral/", Code.INVALID_MODEL),
        (404, "UnknownOperationException", Code.UPSTREAM_PROTOCOL),
        (403, "ExpiredTokenException", Code.AUTHORIZATION),
        (429, "ThrottlingException", Code.RATE_LIMITED),
        (429, "ModelNotReadyException", Code.RATE_LIMITED),
        (424, "ModelErrorException", Code.UPSTREAM_ERROR),
    ],
)
async def test_a_refusal_is_named_by_a_header(
    converse_server: FakeServer, adapter: Adapter, pauses: list[float], status: int, kind: str, code: Code
) -> None:
    body = b'{"message": "words"}'
    converse_server.behaviour = Behaviour(status=status, body=body, headers={"x-amzn-ErrorType": kind})
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, request())
    assert (caught.value.code, caught.value.provider_status) == (code, status)


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        (
            "This model doesn't support the stopSequences field. Remove stopSequences and try again.",
            {"temperature", "topP"},
        ),
        (
            "This model doesn't support the temperature field. Remove temperature and try again.",
            {"topP", "stopSequences"},
        ),
        (
            "This model doesn't support the topP field. Remove topP and try again.",
            {"temperature", "stopSequences"},
        ),
        (
            "The model returned the following errors: `top_p` is deprecated for this model.",
            {"temperature", "stopSequences"},
        ),
    ],
)
async def test_a_model_that_refuses_a_parameter_is_asked_again_without_it(
    converse_server: FakeServer, adapter: Adapter, message: str, kept: set[str]
) -> None:
    converse_server.script = [Behaviour(status=400, body=json.dumps({"message": message}).encode())]
    asked = request(model="new", temperature=0.5, sampling={"top_p": 0.9}, stop=("END",), stream=False)
    assert finish_of(await collect(adapter, asked)).retries == 1
    sent = converse_server.requests[-1]
    assert set(sent.body["inferenceConfig"]) - {"maxTokens"} == kept
    assert sent.path.endswith("/converse" if "stopSequences" in kept else "/converse-stream")


# ---- answers


@pytest.mark.parametrize(
    "odd",
    [
        told("contentBlockDelta", delta=None),
        delta(text=7),
        delta(reasoningContent=7),
        delta(reasoningContent={"text": []}),
        delta(reasoningContent={"reasoningText": 7}),
        told("metadata", usage=7),
        told("messageStart"),
    ],
)
async def test_fields_of_a_wrong_type_are_passed_over(
    converse_server: FakeServer, adapter: Adapter, odd: bytes
) -> None:
    first, *rest = BedrockWire().events(Behaviour(texts=("Hi",)))
    converse_server.behaviour = Behaviour(events=(first, odd, *rest))
    events = await collect(adapter, request())
    assert [event for event in events if isinstance(event, Text)] == [Text("Hi")]
    assert finish_of(events).reason == "stop"


async def test_what_a_cache_gave_and_took_is_input(converse_server: FakeServer, adapter: Adapter) -> None:
    usage = {"inputTokens": 6, "cacheReadInputTokens": 64, "cacheWriteInputTokens": 30, "outputTokens": 3}
    converse_server.behaviour = Behaviour(usage=usage)
    assert finish_of(await collect(adapter, request())).usage == Usage(100, 3, 64)


def test_the_adapter_and_the_catalogue_know_each_other() -> None:
    assert (PROVIDER.adapter, PROVIDER.env, PROVIDER.key_required) == ("bedrock", "bedrock", False)

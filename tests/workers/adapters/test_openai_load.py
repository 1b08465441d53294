"""Loading a provider of the OpenAI wire: the key, the models, and what is no reason to fail."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.bound import (
    CANARY,
    bound,
    cancelled,
    clean,
    collect,
    load_only,
    loaded,
    refusal,
    request,
    text_of,
)
from tests.fakes.openai_server import WAIT_S, Behaviour, Exchange, OpenAIServer
from workers.adapter import AdapterError, LoadRequest
from workers.codes import Code

HTML = {"Content-Type": "text/html; charset=utf-8"}
DONE = b"data: [DONE]\n\n"


# ---- load


async def test_load_learns_the_models_with_the_key_and_pays_nothing(server: OpenAIServer) -> None:
    adapter = bound(server.base_url)
    result = await load_only(adapter)
    await adapter.close()
    assert (result.models, result.warnings) == (("fake-small", "fake-large"), ())
    assert (server.lists[0].key, server.requests) == (CANARY, [])


@pytest.mark.parametrize(
    "listed",
    [
        b'[{"id": "a"}, {"id": "b"}]',
        b'{"models": [{"name": "a"}, "b", 7, {}]}',
        b'{"data": [{"id": "a"}, {"id": "b"}, {"id": "a"}]}',
    ],
)
async def test_load_reads_a_list_of_models_in_every_shape(server: OpenAIServer, listed: bytes) -> None:
    server.models = Behaviour(body=listed)
    adapter = bound(server.base_url)
    assert (await load_only(adapter)).models == ("a", "b")
    await adapter.close()


@pytest.mark.parametrize("status", [401, 403])
async def test_load_with_a_refused_key_is_authorization(server: OpenAIServer, status: int) -> None:
    server.models = refusal(status, f"bad key {CANARY}")
    with pytest.raises(AdapterError) as caught:
        await load_only(bound(server.base_url))
    assert caught.value.code is Code.AUTHORIZATION
    clean(caught.value)


async def test_load_without_verify_takes_a_refused_key(server: OpenAIServer) -> None:
    server.models = refusal(401, "no")
    adapter = bound(server.base_url)
    result = await load_only(adapter, LoadRequest(verify=False))
    await adapter.close()
    assert [warning.name for warning in result.warnings] == ["NOT_CHECKED"]


@pytest.mark.parametrize(
    "models",
    [
        Behaviour(status=404, body=b"{}"),
        Behaviour(status=500, body=b""),
        Behaviour(body=b"<html>", headers=HTML),
    ],
)
async def test_load_takes_anything_else_as_a_success_with_a_warning(
    server: OpenAIServer, models: Behaviour
) -> None:
    server.models = models
    adapter = bound(server.base_url)
    result = await load_only(adapter)
    assert (result.models, [warning.name for warning in result.warnings]) == ((), ["NOT_CHECKED"])
    assert text_of(await collect(adapter, request())) == "Hello there."
    await adapter.close()


async def test_load_without_a_server_is_unreachable_and_says_where() -> None:
    async with OpenAIServer() as server:
        base_url, port = server.base_url, server.port
    with pytest.raises(AdapterError) as caught:
        await load_only(bound(base_url))
    assert caught.value.code is Code.UNREACHABLE
    assert f"127.0.0.1:{port}" in caught.value.message
    assert "refused" in caught.value.message


async def test_load_checks_a_key_apart_where_the_list_is_open(server: OpenAIServer) -> None:
    server.key_check = refusal(401, "no")
    with pytest.raises(AdapterError) as caught:
        await load_only(bound(server.base_url, {"key_check_path": "/key"}))
    assert caught.value.code is Code.AUTHORIZATION
    assert [received.path for received in server.lists] == ["/v1/key"]


async def test_load_of_a_model_that_is_not_listed_is_refused_where_the_list_is_complete(
    server: OpenAIServer,
) -> None:
    with pytest.raises(AdapterError) as caught:
        await load_only(
            bound(server.base_url, {"models_complete": True}), LoadRequest(preload_model="fake-smal")
        )
    assert caught.value.code is Code.INVALID_MODEL
    assert "fake-small" in caught.value.message


@pytest.mark.parametrize(
    ("model", "names"), [("other", ["MODEL_NOT_LISTED"]), ("fake-small", []), ("tiny", [])]
)
async def test_load_of_a_model_that_is_not_listed_is_a_warning_elsewhere(
    server: OpenAIServer, model: str, names: list[str]
) -> None:
    server.model_names = ("fake-small", "tiny:latest")
    adapter = bound(server.base_url)
    result = await load_only(adapter, LoadRequest(preload_model=model))
    await adapter.close()
    assert [warning.name for warning in result.warnings] == names


async def test_load_that_is_cancelled_leaves_nothing(server: OpenAIServer) -> None:
    asked = asyncio.Event()

    async def hang(exchange: Exchange) -> None:
        asked.set()
        await exchange.server.gate.wait()

    server.models = hang
    task = asyncio.ensure_future(load_only(bound(server.base_url)))
    await asyncio.wait_for(asked.wait(), WAIT_S)
    await cancelled(task)
    await asyncio.wait_for(server.lists[0].gone.wait(), WAIT_S)


@pytest.mark.parametrize(
    ("key", "code"), [("sk\nbad", Code.AUTHORIZATION), ("schlüssel", Code.AUTHORIZATION)]
)
async def test_load_with_a_key_that_no_header_can_hold_says_so(
    server: OpenAIServer, key: str, code: Code
) -> None:
    with pytest.raises(AdapterError) as caught:
        await load_only(bound(server.base_url, key=key))
    assert caught.value.code is code
    assert key not in caught.value.message


async def test_a_key_goes_where_the_quirks_say_and_no_key_sends_none(server: OpenAIServer) -> None:
    async with loaded(
        server.base_url, {"key_header": "api-key", "key_prefix": ""}, key=f" {CANARY}\n"
    ) as adapter:
        await collect(adapter, request())
    assert server.requests[0].headers["api-key"] == CANARY
    async with loaded(server.base_url, key=None) as adapter:
        await collect(adapter, request())
    assert "authorization" not in server.requests[1].headers


async def test_a_provider_without_an_address_asks_for_one() -> None:
    adapter = bound("")
    with pytest.raises(AdapterError) as caught:
        await load_only(adapter)
    assert caught.value.code is Code.INVALID_REQUEST
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, request())
    assert caught.value.code is Code.NOT_LOADED
    await adapter.close()

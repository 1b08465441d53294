"""Loading a provider of the OpenAI wire: lists of models, key checks and headers of its own."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.bound import (
    CANARY,
    bound,
    cancelled,
    collect,
    load_only,
    loaded,
    refusal,
    request,
)
from tests.fakes.openai_server import WAIT_S, Behaviour, Exchange, OpenAIServer
from workers.adapter import AdapterError, LoadRequest
from workers.codes import Code


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


async def test_load_checks_a_key_apart_where_the_list_is_open(server: OpenAIServer) -> None:
    server.key_check = refusal(401, "no")
    with pytest.raises(AdapterError) as caught:
        await load_only(bound(server.base_url, {"key_check_path": "/key"}))
    assert caught.value.code is Code.AUTHORIZATION
    assert [received.path for received in server.lists] == ["/v1/key"]


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


async def test_a_key_goes_where_the_quirks_say_and_no_key_sends_none(server: OpenAIServer) -> None:
    async with loaded(
        server.base_url, {"key_header": "api-key", "key_prefix": ""}, key=f" {CANARY}\n"
    ) as adapter:
        await collect(adapter, request())
    assert server.requests[0].headers["api-key"] == CANARY
    async with loaded(server.base_url, key=None) as adapter:
        await collect(adapter, request())
    assert "authorization" not in server.requests[1].headers


async def test_an_adapter_that_is_not_loaded_says_so() -> None:
    adapter = bound("")
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, request())
    assert caught.value.code is Code.NOT_LOADED
    await adapter.close()

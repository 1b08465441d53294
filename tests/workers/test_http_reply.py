"""The body of an answer: how much is read, how long it is waited for, and what is left of the connection."""

from __future__ import annotations

import pytest

from tests.fakes.openai_server import Behaviour, Exchange, OpenAIServer
from tests.fakes.upstreams import failure, later, opened
from workers import http_reply as module
from workers.adapter import AdapterError
from workers.codes import Code


async def test_a_body_that_does_not_come_in_time_is_a_timeout(server: OpenAIServer) -> None:
    async def hang(exchange: Exchange) -> None:
        await exchange.head(200, {}, length=10)
        await exchange.server.gate.wait()

    server.models = hang
    upstream = await opened(server.base_url)
    with pytest.raises(AdapterError) as caught:
        await upstream.get_json("/models", timeout_s=0.1)
    assert caught.value.code is Code.TIMEOUT
    await upstream.close()


async def test_an_answer_over_the_cap_is_refused(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WHOLE_BODY_MAX_BYTES", 1000)
    server.behaviour = Behaviour(body=b"x" * 2000)
    assert (await failure(server.base_url)).code is Code.UPSTREAM_PROTOCOL


async def test_a_stream_over_the_cap_is_refused(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STREAM_MAX_BYTES", 1000)
    server.behaviour = Behaviour(body=b"x" * 2000)
    upstream = await opened(server.base_url)
    with pytest.raises(AdapterError, match="does not end") as caught:
        async with upstream.post("/x", b"{}", deadline=later()) as reply:
            async for _ in reply.chunks():
                pass
    assert caught.value.code is Code.UPSTREAM_PROTOCOL
    await upstream.close()


async def test_an_error_body_is_read_only_so_far(server: OpenAIServer) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.head(400, {"Content-Type": "application/json"}, chunked=True)
        while True:
            await exchange.send(b"x" * 4096)

    server.behaviour = endless
    error = await failure(server.base_url)
    assert (error.code, error.provider_status) == (Code.INVALID_PROMPT, 400)
    await server.closed(0)


async def test_an_error_body_is_waited_for_only_so_long(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ERROR_BODY_S", 0.05)

    async def hang(exchange: Exchange) -> None:
        await exchange.head(500, {}, length=10)
        await exchange.server.gate.wait()

    server.behaviour = hang
    assert (await failure(server.base_url)).code is Code.UPSTREAM_ERROR


async def test_the_end_of_an_answer_that_does_not_come_closes_the_connection(server: OpenAIServer) -> None:
    async def open_ended(exchange: Exchange) -> None:
        await exchange.head(200, {}, chunked=True)
        await exchange.send(b"all")
        await exchange.server.gate.wait()

    server.behaviour = open_ended
    upstream = await opened(server.base_url)
    async with upstream.post("/x", b"{}", deadline=later()) as reply:
        assert await anext(reply.chunks()) == b"all"
        await reply.drain()
    await server.closed(0)
    await upstream.close()
    await upstream.close()

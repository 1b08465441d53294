"""The OpenAI wire when the provider or the network fails: statuses, silence, interrupts, cut connections."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.fakes.bound import (
    CANARY,
    cancelled,
    collect,
    failure,
    finish_of,
    loaded,
    partly,
    refusal,
    request,
    text_of,
)
from tests.fakes.openai_server import WAIT_S, Behaviour, Exchange, OpenAIServer, piece
from workers.adapter import AdapterError, Text
from workers.codes import Code

SSE = {"Content-Type": "text/event-stream"}
DONE = b"data: [DONE]\n\n"


# ---- D1 to D4: statuses


@pytest.mark.parametrize("status", [401, 403])
async def test_d1_a_refused_key_is_authorization_without_retry_or_echo(
    server: OpenAIServer, pauses: list[float], status: int
) -> None:
    server.behaviour = refusal(
        status, {"message": f"Incorrect API key provided: {CANARY}.", "code": "invalid_api_key"}
    )
    error = await failure(server)
    assert (error.code, error.provider_status, len(server.requests)) == (Code.AUTHORIZATION, status, 1)
    assert "FAKE_API_KEY" in error.message
    assert pauses == []


REFUSALS: dict[str, tuple[int, dict[str, Any] | str, Code]] = {
    "400 of a parameter": (
        400,
        {"message": "messages: expected a list", "param": "messages"},
        Code.INVALID_PROMPT,
    ),
    "422": (422, {"message": "temperature must be below 2"}, Code.INVALID_PROMPT),
    "400 too long, by code": (
        400,
        {"message": "x", "code": "context_length_exceeded"},
        Code.CONTEXT_TOO_LONG,
    ),
    "400 too long, by type": (
        400,
        {"message": "x", "type": "exceed_context_size_error"},
        Code.CONTEXT_TOO_LONG,
    ),
    "400 too long, by words": (400, "This model's maximum context length is 8 tokens", Code.CONTEXT_TOO_LONG),
    "413": (413, {"message": "payload"}, Code.CONTEXT_TOO_LONG),
    "400 filter": (400, {"message": "x", "code": "content_filter"}, Code.CONTENT_FILTERED),
    "400 filter, by words": (400, {"message": "Content Exists Risk"}, Code.CONTENT_FILTERED),
    "404 model": (
        404,
        {"message": "The model `x` does not exist", "code": "model_not_found"},
        Code.INVALID_MODEL,
    ),
    "404 model, by words": (404, 'model "x" not found, try pulling it first', Code.INVALID_MODEL),
    "400 model": (400, {"message": "x is not a valid model ID"}, Code.INVALID_MODEL),
    "400 key": (400, {"message": f"Incorrect API key provided: {CANARY}"}, Code.AUTHORIZATION),
    "404 path": (404, {"message": "File Not Found"}, Code.UPSTREAM_PROTOCOL),
    "405": (405, "no", Code.UPSTREAM_PROTOCOL),
    "402": (402, {"message": "Insufficient Balance"}, Code.QUOTA),
    "403 out of credit": (403, {"message": "x", "code": "insufficient_quota"}, Code.QUOTA),
    "429 out of credit": (429, {"message": "x", "code": "insufficient_quota"}, Code.QUOTA),
    "451": (451, {"message": "x"}, Code.CONTENT_FILTERED),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_d2_a_refusal_has_the_code_of_its_status_first(
    server: OpenAIServer, pauses: list[float], name: str
) -> None:
    status, body, code = REFUSALS[name]
    server.behaviour = refusal(status, body)
    error = await failure(server)
    assert (error.code, error.provider_status, len(server.requests)) == (code, status, 1)
    assert pauses == []


@pytest.mark.parametrize(
    ("header", "expected_ms", "hits"),
    [
        ("1", 1000, 2),
        ("0", 0, 2),
        ("3600", 3_600_000, 1),
        ("soon", None, 2),
        (None, None, 2),
        ("-5", None, 2),
    ],
)
async def test_d3_too_many_requests_tell_when_to_come_back_and_retry_once_if_it_fits(
    server: OpenAIServer, pauses: list[float], header: str | None, expected_ms: int | None, hits: int
) -> None:
    headers = {} if header is None else {"Retry-After": header}
    server.behaviour = refusal(429, {"message": "slow down"}, **headers)
    error = await failure(server)
    assert (error.code, error.retry_after_ms, len(server.requests)) == (Code.RATE_LIMITED, expected_ms, hits)
    assert len(pauses) == hits - 1
    assert all(pause >= (expected_ms or 0) / 1000 for pause in pauses)


async def test_d3_no_retry_that_does_not_fit_the_timeout(server: OpenAIServer, pauses: list[float]) -> None:
    server.behaviour = Behaviour(status=503, body=b"{}")
    await failure(server, request(timeout_s=0.1))
    assert (len(server.requests), pauses) == (1, [])


@pytest.mark.parametrize(("status", "hits"), [(500, 1), (502, 2), (503, 2), (504, 1), (529, 2)])
async def test_d4_a_failing_provider_is_tried_at_most_twice(
    server: OpenAIServer, pauses: list[float], status: int, hits: int
) -> None:
    server.behaviour = Behaviour(
        status=status, body=b"<html>oops</html>", headers={"Content-Type": "text/html"}
    )
    error = await failure(server)
    assert (error.code, error.provider_status, len(server.requests)) == (Code.UPSTREAM_ERROR, status, hits)


async def test_d4_a_retry_that_helps_is_told(server: OpenAIServer, pauses: list[float]) -> None:
    server.script = [Behaviour(status=503, body=b"")]
    async with loaded(server.base_url) as adapter:
        events = await collect(adapter, request())
    assert (text_of(events), finish_of(events).retries) == ("Hello there.", 1)
    assert all(0.25 <= pause <= 0.5 for pause in pauses)


async def test_d4_nothing_is_tried_again_once_something_arrived(
    server: OpenAIServer, pauses: list[float]
) -> None:
    server.behaviour = Behaviour(cut_after=1)
    error = await failure(server)
    assert (error.code, len(server.requests)) == (Code.TRUNCATED, 1)


# ---- D5 and D6: silence; the clock is the host's


async def test_d5_cancelling_before_the_head_closes_the_socket(server: OpenAIServer) -> None:
    server.behaviour = Behaviour(gate_before_head=True)
    async with loaded(server.base_url) as adapter:
        task = asyncio.ensure_future(collect(adapter, request()))
        await server.received(1)
        await cancelled(task)
        await server.closed(0)


async def test_d5_cancelling_an_unstreamed_body_closes_the_socket(server: OpenAIServer) -> None:
    begun = asyncio.Event()

    async def half_a_body(exchange: Exchange) -> None:
        await exchange.head(200, {"Content-Type": "application/json"}, length=1000)
        await exchange.send(b'{"choices": [')
        begun.set()
        await exchange.server.gate.wait()

    server.behaviour = half_a_body
    async with loaded(server.base_url) as adapter:
        task = asyncio.ensure_future(collect(adapter, request(stream=False)))
        await asyncio.wait_for(begun.wait(), WAIT_S)
        await cancelled(task)
        await server.closed(0)


async def test_d5_cancelling_in_the_middle_of_a_stream_closes_the_socket_and_no_other(
    server: OpenAIServer,
) -> None:
    server.behaviour = Behaviour(gate_after=1)
    async with loaded(server.base_url) as adapter:
        neighbour = adapter.generate(request("neighbour"))
        await anext(neighbour)
        events = adapter.generate(request())
        assert await anext(events) == Text("Hello")
        task = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        await cancelled(task)
        await server.closed(1)
        server.gate.set()
        assert text_of([item async for item in neighbour]) == " there."


async def test_d5_closing_the_iteration_closes_the_socket(server: OpenAIServer) -> None:
    server.behaviour = Behaviour(gate_after=1)
    async with loaded(server.base_url) as adapter:
        events = adapter.generate(request())
        await anext(events)
        await events.aclose()  # type: ignore[attr-defined]  # the contract's iterator is a generator
        await server.closed(0)


async def test_d5_cancelling_while_connecting_leaves_nothing(server: OpenAIServer) -> None:
    async with loaded(server.base_url) as adapter:
        server.behaviour = Behaviour(gate_before_head=True)
        task = asyncio.ensure_future(collect(adapter, request()))
        await asyncio.sleep(0)
        await cancelled(task)


async def test_d6_comments_are_no_life(server: OpenAIServer) -> None:
    server.behaviour = Behaviour(
        events=(b": PROCESSING\n\n" * 3, b": x\n\n", piece({"content": "Hi"}, "stop"), DONE)
    )
    async with loaded(server.base_url) as adapter:
        assert (await collect(adapter, request()))[0] == Text("Hi")


async def test_d6_bytes_that_are_no_event_yet_are_no_life(server: OpenAIServer) -> None:
    async def drip(exchange: Exchange) -> None:
        await exchange.head(200, SSE, chunked=True)
        for byte in piece({"content": "Hi"}, "stop") + DONE:
            await exchange.send(bytes([byte]))
        await exchange.end()

    server.behaviour = drip
    async with loaded(server.base_url) as adapter:
        events = await collect(adapter, request())
    assert events[0] == Text("Hi")
    assert len(events) == 2


# ---- D8: cut connections


@pytest.mark.parametrize("cut", ["fin", "rst"])
@pytest.mark.parametrize("chunked", [True, False])
async def test_d8_a_cut_stream_is_truncated_and_never_a_success(
    server: OpenAIServer, cut: str, chunked: bool
) -> None:
    async def cut_off(exchange: Exchange) -> None:
        await exchange.head(200, SSE, chunked=chunked)
        for text in ("1", "2", "3"):
            await exchange.send(piece({"content": text}))
        await exchange.server.gate.wait()
        exchange.fin() if cut == "fin" else exchange.reset()

    server.behaviour = cut_off
    async with loaded(server.base_url) as adapter:
        events = adapter.generate(request())
        assert [await anext(events) for _ in range(3)] == [Text("1"), Text("2"), Text("3")]
        server.gate.set()
        with pytest.raises(AdapterError) as caught:
            await anext(events)
        assert caught.value.code is Code.TRUNCATED


async def test_d8_an_unstreamed_answer_that_is_cut_is_truncated(server: OpenAIServer) -> None:
    async def cut_off(exchange: Exchange) -> None:
        await exchange.head(200, {"Content-Type": "application/json"}, length=1000)
        await exchange.send(b'{"choices"')
        exchange.fin()

    server.behaviour = cut_off
    assert (await failure(server, request(stream=False))).code is Code.TRUNCATED


async def test_d8_a_stream_cut_inside_an_event_is_truncated(server: OpenAIServer) -> None:
    server.behaviour = Behaviour(events=(piece({"content": "Hi"}), b'data: {"choi'))
    async with loaded(server.base_url) as adapter:
        await partly(adapter, [Text("Hi")], Code.TRUNCATED)


async def test_d8_a_cut_after_the_model_said_that_it_ended_is_a_success(server: OpenAIServer) -> None:
    server.behaviour = Behaviour(usage=None, done=False, cut_after=4)
    async with loaded(server.base_url) as adapter:
        assert finish_of(await collect(adapter, request())).reason == "stop"


async def test_d8_a_server_that_hangs_up_without_an_answer_is_unreachable(
    server: OpenAIServer, pauses: list[float]
) -> None:
    async def hang_up(exchange: Exchange) -> None:
        exchange.fin()

    async with loaded(server.base_url) as adapter:
        server.behaviour = hang_up
        with pytest.raises(AdapterError) as caught:
            await collect(adapter, request())
    assert caught.value.code is Code.UNREACHABLE


async def test_d8_a_warm_connection_that_the_server_has_closed_costs_one_retry(
    server: OpenAIServer, pauses: list[float]
) -> None:
    async def hang_up(exchange: Exchange) -> None:
        exchange.fin()

    server.script = [hang_up]
    async with loaded(server.base_url) as adapter:
        events = await collect(adapter, request())
    assert (text_of(events), finish_of(events).retries) == ("Hello there.", 1)

"""The OpenAI wire against a server that speaks it badly: each fault is one error, or harmless."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from tests.fakes.bound import (
    CANARY,
    clean,
    collect,
    failure,
    finish_of,
    loaded,
    partly,
    request,
    text_of,
)
from tests.fakes.openai_server import Behaviour, Exchange, OpenAIServer, event, piece
from workers.adapter import AdapterError, Event, Text
from workers.codes import Code

SSE = {"Content-Type": "text/event-stream"}
HTML = {"Content-Type": "text/html; charset=utf-8"}
DONE = b"data: [DONE]\n\n"


# ---- D7: garbage


async def test_d7_every_form_of_an_event_stream_is_read_at_every_split(server: OpenAIServer) -> None:
    stream = (
        b"\xef\xbb\xbf: hi\r\nid: 1\r\nevent: message\r\n"
        + 'data: {"choices":[{"delta":{"content":"é日😀"}}]}\r\n\r\n'.encode()
        + b'data:{"choices":[{"delta":\ndata: {"content":"!"}}]}\n\n'
        + b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\r\rdata: [DONE]\n\n'
    )
    async with loaded(server.base_url) as adapter:
        for cut in range(0, len(stream), 3):
            server.behaviour = Behaviour(events=tuple(part for part in (stream[:cut], stream[cut:]) if part))
            assert text_of(await collect(adapter, request())) == "é日😀!"


@pytest.mark.parametrize(
    "garbage",
    [
        b"data: {nonsense\n\n",
        b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n',
        b"data: null\n\n",
        b"data: [1]\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
    ],
)
async def test_d7_what_is_not_json_is_one_protocol_error_after_the_text_so_far(
    server: OpenAIServer, garbage: bytes
) -> None:
    server.behaviour = Behaviour(events=(piece({"content": "Hi"}) + garbage, piece({"content": "never"})))
    async with loaded(server.base_url) as adapter:
        await partly(adapter, [Text("Hi")], Code.UPSTREAM_PROTOCOL)


# ---- D9: errors inside a stream


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (event({"error": {"message": "x", "code": "rate_limit_exceeded"}}), Code.RATE_LIMITED),
        (event({"error": {"message": "x", "code": 502}}), Code.UPSTREAM_ERROR),
        (event({"error": {"message": "x", "code": "429"}}), Code.RATE_LIMITED),
        (event({"error": {"message": "context length exceeded"}}), Code.CONTEXT_TOO_LONG),
        (event({"error": {"message": CANARY}}), Code.UPSTREAM_ERROR),
        (event({"error": "overloaded", "choices": []}), Code.UPSTREAM_ERROR),
        (event({"object": "error", "message": "x", "code": 400}), Code.INVALID_PROMPT),
        (b'event: error\ndata: {"message": "x", "code": 503}\n\n', Code.UPSTREAM_ERROR),
        (b"event: error\ndata: oops\n\n", Code.UPSTREAM_ERROR),
        (piece({}, "error"), Code.UPSTREAM_ERROR),
    ],
)
@pytest.mark.parametrize("before", [[], [Text("Hi")]])
async def test_d9_an_error_inside_a_stream_is_mapped(
    server: OpenAIServer, pauses: list[float], data: bytes, code: Code, before: list[Event]
) -> None:
    begun = (piece({"content": "Hi"}),) if before else ()
    server.behaviour = Behaviour(events=(*begun, data, piece({"content": "never"})))
    async with loaded(server.base_url) as adapter:
        clean(await partly(adapter, before, code))
    assert len(server.requests) == 1


async def test_d9_an_error_in_place_of_an_answer_is_mapped(server: OpenAIServer) -> None:
    server.behaviour = Behaviour(body=b'{"error": {"message": "x", "code": "insufficient_quota"}}')
    assert (await failure(server, request(stream=False))).code is Code.QUOTA


# ---- D10 and D16: too much


async def test_d10_a_giant_event_is_refused(server: OpenAIServer) -> None:
    server.behaviour = Behaviour(events=(piece({"content": "Hi"}), b"data: " + b"x" * (8 << 20) + b"\n\n"))
    async with loaded(server.base_url) as adapter:
        await partly(adapter, [Text("Hi")], Code.UPSTREAM_PROTOCOL)


async def test_d10_an_endless_stream_is_ended_and_told(server: OpenAIServer) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.head(200, SSE, chunked=True)
        while True:
            await exchange.send(piece({"content": "x" * 100}))

    server.behaviour = endless
    async with loaded(server.base_url) as adapter:
        events = await collect(adapter, request(max_output_length=10))
        finish = finish_of(events)
        assert (finish.reason, [warning.name for warning in finish.warnings]) == ("length", ["OUTPUT_CUT"])
        assert len(text_of(events)) < 5000
        await server.closed(0)


async def test_d16_a_compressed_bomb_is_cut_at_the_cap(server: OpenAIServer) -> None:
    bomb = gzip.compress(b"x" * (64 << 20), 9)
    server.behaviour = Behaviour(body=bomb, headers={"Content-Encoding": "gzip"})
    error = await failure(server, request(stream=False))
    assert error.code is Code.UPSTREAM_PROTOCOL


async def test_d16_a_compressed_answer_is_read_and_a_broken_one_is_a_protocol_error(
    server: OpenAIServer,
) -> None:
    whole = json.dumps({"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}).encode()
    async with loaded(server.base_url) as adapter:
        server.behaviour = Behaviour(body=gzip.compress(whole), headers={"Content-Encoding": "gzip"})
        assert text_of(await collect(adapter, request(stream=False))) == "Hi"
        server.behaviour = Behaviour(body=b"not gzip at all", headers={"Content-Encoding": "gzip"})
        with pytest.raises(AdapterError) as caught:
            await collect(adapter, request(stream=False))
    assert caught.value.code is Code.UPSTREAM_PROTOCOL
    assert server.requests[0].headers["accept-encoding"] == "identity"


# ---- D11: answers that are none


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "answer",
    [
        Behaviour(body=b"<html>Hello</html>", headers=HTML),
        Behaviour(body=b""),
        Behaviour(body=b"", headers=SSE),
        Behaviour(status=204, body=b""),
        Behaviour(body=b"null"),
        Behaviour(body=b"[]"),
        Behaviour(body=b"{}"),
        Behaviour(body=b'{"choices": []}'),
        Behaviour(body=b'{"choices": [null]}'),
        Behaviour(body=b'{"choices": [{"message": "Hi"}]}'),
        Behaviour(body=b"{nonsense"),
    ],
    ids=lambda answer: f"{answer.status}-{answer.body!r}",
)
async def test_d11_what_is_no_answer_is_a_protocol_error(
    server: OpenAIServer, answer: Behaviour, stream: bool
) -> None:
    server.behaviour = answer
    assert (await failure(server, request(stream=stream))).code is Code.UPSTREAM_PROTOCOL


@pytest.mark.parametrize(
    ("message", "reason", "expected"),
    [
        ({"content": None}, "stop", "stop"),
        ({"content": ""}, "length", "length"),
        ({"content": None, "tool_calls": [{"id": "1", "type": "function"}]}, "tool_calls", "tool_calls"),
        ({"content": None, "tool_calls": [{"id": "1", "type": "function"}]}, None, "tool_calls"),
    ],
)
async def test_d11_an_answer_without_text_is_a_success_where_that_is_legal(
    server: OpenAIServer, message: dict[str, Any], reason: str | None, expected: str
) -> None:
    async with loaded(server.base_url) as adapter:
        whole = {"choices": [{"message": message, "finish_reason": reason}]}
        server.behaviour = Behaviour(body=json.dumps(whole).encode())
        events = await collect(adapter, request(stream=False))
        assert (text_of(events), finish_of(events).reason) == ("", expected)
        if reason:
            server.behaviour = Behaviour(events=(piece(message), piece({}, reason), DONE))
            events = await collect(adapter, request())
            assert (text_of(events), finish_of(events).reason) == ("", expected)


@pytest.mark.parametrize("delta", [{}, {"refusal": "I cannot help with that"}])
@pytest.mark.parametrize("stream", [True, False])
async def test_d11_an_answer_that_a_filter_took_is_content_filtered(
    server: OpenAIServer, delta: dict[str, Any], stream: bool
) -> None:
    reason = "stop" if delta else "content_filter"
    if stream:
        server.behaviour = Behaviour(events=(piece(delta), piece({}, reason), DONE))
    else:
        whole = {"choices": [{"message": {"content": None, **delta}, "finish_reason": reason}]}
        server.behaviour = Behaviour(body=json.dumps(whole).encode())
    assert (await failure(server, request(stream=stream))).code is Code.CONTENT_FILTERED


@pytest.mark.parametrize(
    "odd",
    [
        {"choices": None},
        {"choices": [7]},
        {"choices": [{"delta": None}]},
        {"choices": [{"delta": {"content": 7, "reasoning": {"a": 1}, "refusal": None}}]},
        {"choices": [{}]},
        {"usage": 7, "model": 7},
        {"error": None, "choices": []},
    ],
    ids=str,
)
async def test_d11_fields_of_a_wrong_type_are_passed_over(server: OpenAIServer, odd: dict[str, Any]) -> None:
    server.behaviour = Behaviour(events=(event(odd), piece({"content": "Hi"}, "stop"), DONE))
    async with loaded(server.base_url) as adapter:
        assert text_of(await collect(adapter, request())) == "Hi"


# ---- D13: redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_d13_a_redirect_is_never_followed(server: OpenAIServer, status: int) -> None:
    async with OpenAIServer() as other:
        for target in (
            f"{other.base_url}/chat/completions?key=1",
            "/v1/elsewhere",
            f"http://{CANARY}.example/",
        ):
            server.behaviour = Behaviour(status=status, body=b"", headers={"Location": target})
            error = await failure(server)
            assert (error.code, error.provider_status) == (Code.UPSTREAM_PROTOCOL, status)
            assert "redirect" in error.message
        assert (other.requests, other.connections) == ([], 0)


# ---- D17: ends


@pytest.mark.parametrize(
    "ends",
    [
        (piece({}, "stop"), piece({}, "stop"), DONE),
        (piece({}, "stop"), DONE, DONE, piece({"content": "never"}), b"data: {nonsense\n\n"),
        (
            piece({}, "stop"),
            event({"choices": [], "usage": {"prompt_tokens": 1}}),
            piece({"content": "never"}),
        ),
        (piece({}, "stop"),),
        (DONE,),
        (b"data: [DONE]",),
        (piece({}, "stop"), b"data: [DONE]\n"),
    ],
    ids=[
        "duplicate",
        "after done",
        "after usage",
        "no done",
        "no reason",
        "no blank line",
        "no blank line, reason",
    ],
)
async def test_d17_there_is_one_end_whatever_follows_it(
    server: OpenAIServer, ends: tuple[bytes, ...]
) -> None:
    server.behaviour = Behaviour(events=(piece({"content": "Hi"}), *ends))
    async with loaded(server.base_url) as adapter:
        events = await collect(adapter, request())
        assert (text_of(events), finish_of(events).reason) == ("Hi", "stop")
        server.behaviour = Behaviour()
        assert text_of(await collect(adapter, request())) == "Hello there."

"""What a bad server of the OpenAI wire does that no other wire has; the rest is in test_contract.py."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from tests.fakes.bound import (
    collect,
    failure,
    finish_of,
    loaded,
    request,
    text_of,
)
from tests.fakes.openai_server import Behaviour, OpenAIServer, event, piece
from workers.adapter import AdapterError
from workers.codes import Code

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


# ---- D16: compression


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

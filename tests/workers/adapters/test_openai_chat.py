"""What the OpenAI wire has of its own in answers and refusals; the rest is in test_contract.py."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.fakes.bound import (
    cancelled,
    collect,
    failure,
    finish_of,
    loaded,
    partly,
    reasoning_of,
    refusal,
    request,
    text_of,
)
from tests.fakes.openai_server import Behaviour, Exchange, OpenAIServer, event, piece
from workers.adapter import Finish, Text, Usage
from workers.codes import Code

SSE = {"Content-Type": "text/event-stream"}
DONE = b"data: [DONE]\n\n"


# ---- answers


async def test_a_connection_stays_warm_for_a_host_that_takes_nothing_after_the_end(
    server: OpenAIServer,
) -> None:
    async def late(exchange: Exchange) -> None:
        await exchange.head(200, SSE, chunked=True)
        await exchange.send(piece({"content": "Hi"}, "stop") + DONE)
        for _ in range(5):  # the end of the body comes in a packet of its own
            await asyncio.sleep(0)
        await exchange.end()

    server.behaviour = late
    async with loaded(server.base_url) as adapter:
        for _ in range(3):
            events = adapter.generate(request())
            while not isinstance(await anext(events), Finish):
                pass
            await events.aclose()  # type: ignore[attr-defined]  # the contract's iterator is a generator
    assert server.connections == 1


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("stream", [True, False])
async def test_thinking_is_kept_apart(server: OpenAIServer, name: str, stream: bool) -> None:
    said = {"content": "Hi", name: "hm"}
    if stream:
        server.behaviour = Behaviour(events=(piece(said), piece({}, "stop"), DONE))
    else:
        server.behaviour = Behaviour(body=json.dumps({"choices": [{"message": said}]}).encode())
    async with loaded(server.base_url) as adapter:
        events = await collect(adapter, request(stream=stream))
    assert (reasoning_of(events), text_of(events)) == ("hm", "Hi")


async def test_a_content_that_is_a_list_is_text_and_thinking(server: OpenAIServer) -> None:
    content = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}, {"type": "other"}, 7]},
        {"type": "text", "text": "Hi"},
        {"type": "reference", "reference_ids": [1]},
        "garbage",
    ]
    server.behaviour = Behaviour(events=(piece({"content": content}), piece({}, "stop"), DONE))
    async with loaded(server.base_url) as adapter:
        events = await collect(adapter, request())
    assert (reasoning_of(events), text_of(events)) == ("hm", "Hi")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {
                "prompt_tokens": 1,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": 3},
                "completion_tokens_details": {"reasoning_tokens": 4},
            },
            Usage(1, 2, 3, 4),
        ),
        ({"prompt_tokens": 1, "prompt_cache_hit_tokens": 5}, Usage(1, None, 5, None)),
        ({"prompt_tokens": 1, "completion_tokens": 2, "cached_tokens": 5}, Usage(1, 2, 5, None)),
        (
            {
                "prompt_tokens": 1,
                "completion_tokens": 2,
                "total_tokens": 7,
                "completion_tokens_details": {"reasoning_tokens": 4},
            },
            Usage(1, 6, None, 4),
        ),
        ({"prompt_tokens": "many", "completion_tokens": -1, "prompt_tokens_details": None}, Usage()),
    ],
)
async def test_usage_is_what_the_provider_reported(
    server: OpenAIServer, usage: dict[str, Any], expected: Usage
) -> None:
    server.behaviour = Behaviour(usage=usage)
    async with loaded(server.base_url) as adapter:
        assert finish_of(await collect(adapter, request())).usage == expected


async def test_a_stream_that_groq_ended_early_is_its_error(server: OpenAIServer) -> None:
    early = piece({}, None, x_groq={"id": "req_1", "error": "over capacity"})
    server.behaviour = Behaviour(events=(piece({"content": "Hi"}), early, DONE))
    async with loaded(server.base_url) as adapter:
        assert (await partly(adapter, [Text("Hi")], Code.UPSTREAM_ERROR)).provider_status is None


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_of_the_choice_alone_is_an_error(server: OpenAIServer, stream: bool) -> None:
    error = {"code": 429, "message": "x"}
    choice = {"index": 0, "error": error, "finish_reason": "error", "delta": {}, "message": {"content": ""}}
    server.behaviour = (
        Behaviour(events=(event({"choices": [choice]}), DONE))
        if stream
        else Behaviour(body=json.dumps({"choices": [choice]}).encode())
    )
    assert (await failure(server, request(stream=stream))).code is Code.RATE_LIMITED


async def test_an_error_after_the_end_is_none_of_the_answer(server: OpenAIServer) -> None:
    late = event({"error": {"code": 400, "message": "Token limit reached"}, "choices": [{"delta": {}}]})
    server.behaviour = Behaviour(events=(piece({"content": "Hi"}, "length"), late, DONE))
    async with loaded(server.base_url) as adapter:
        events = await collect(adapter, request())
    assert (text_of(events), finish_of(events).reason) == ("Hi", "length")


async def test_a_first_piece_without_a_model_does_not_name_it(server: OpenAIServer) -> None:
    first = event({"choices": [], "model": "", "prompt_filter_results": []})
    server.behaviour = Behaviour(events=(first, piece({"content": "Hi"}, "stop"), DONE))
    async with loaded(server.base_url) as adapter:
        assert finish_of(await collect(adapter, request())).model == "fake-small"


async def test_usage_in_the_last_piece_of_groq_is_read(server: OpenAIServer) -> None:
    last = piece({}, "stop", x_groq={"usage": {"prompt_tokens": 4, "completion_tokens": 5}})
    server.behaviour = Behaviour(events=(piece({"content": "Hi"}), last, DONE))
    async with loaded(server.base_url) as adapter:
        assert finish_of(await collect(adapter, request())).usage == Usage(4, 5)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("model_length", "length"),
        ("eos", "stop"),
        ("end_turn", "stop"),
    ],
)
async def test_the_reason_of_the_end_is_one_of_ours(server: OpenAIServer, reason: str, expected: str) -> None:
    server.behaviour = Behaviour(finish_reason=reason)
    async with loaded(server.base_url) as adapter:
        assert finish_of(await collect(adapter, request())).reason == expected


async def test_half_characters_pass_as_they_are(server: OpenAIServer) -> None:
    halves = (
        rb'data: {"choices":[{"delta":{"content":"\ud83d"}}]}',
        rb'data: {"choices":[{"delta":{"content":"\ude00"}}]}',
    )
    server.behaviour = Behaviour(events=(*(half + b"\n\n" for half in halves), piece({}, "stop"), DONE))
    async with loaded(server.base_url) as adapter:
        events = await collect(adapter, request())
    assert text_of(events).encode("utf-16", "surrogatepass").decode("utf-16") == "😀"


# ---- parameters that a model refuses


@pytest.mark.parametrize(
    "error",
    [
        {"message": "Unsupported value: 'temperature' does not support 0.5.", "param": "temperature"},
        {"message": "`temperature` is not supported with this model"},
    ],
)
async def test_a_refused_parameter_is_left_out_once_and_told(
    server: OpenAIServer, error: dict[str, Any]
) -> None:
    server.script = [refusal(400, error)]
    async with loaded(server.base_url) as adapter:
        finish = finish_of(await collect(adapter, request(temperature=0.5)))
        assert (finish.retries, [warning.name for warning in finish.warnings]) == (1, ["PARAMETER_LEFT_OUT"])
        finish = finish_of(await collect(adapter, request(temperature=0.5)))
        assert (finish.retries, len(finish.warnings)) == (0, 1)
    assert ["temperature" in received.body for received in server.requests] == [True, False, False]


async def test_a_limit_that_a_model_wants_by_another_name_is_sent_by_it(server: OpenAIServer) -> None:
    message = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. "
        "Use 'max_completion_tokens' instead."
    )
    error = {"message": message, "param": "max_tokens", "code": "unsupported_parameter"}
    server.script = [refusal(400, error)]
    async with loaded(server.base_url) as adapter:
        finish = finish_of(await collect(adapter, request(max_output_length=7)))
        assert (finish.retries, finish.warnings) == (1, ())
        assert finish_of(await collect(adapter, request())).retries == 0
    sent = [received.body for received in server.requests]
    assert [body.get("max_tokens") for body in sent] == [7, None, None]
    assert [body.get("max_completion_tokens") for body in sent] == [None, 7, 200]


@pytest.mark.parametrize(
    "error",
    [
        {"message": "max_tokens is not supported", "param": "max_tokens"},
        {"message": "messages are not supported in this shape", "param": "messages"},
        {"message": "temperature is a nice thing"},
    ],
)
async def test_no_other_refusal_is_tried_again(server: OpenAIServer, error: dict[str, Any]) -> None:
    server.behaviour = refusal(400, error)
    assert (await failure(server, request(temperature=0.5))).code is Code.INVALID_PROMPT
    assert len(server.requests) == 1


async def test_a_parameter_that_stays_refused_ends_in_its_error(server: OpenAIServer) -> None:
    server.behaviour = refusal(400, {"message": "temperature is not supported", "param": "temperature"})
    assert (await failure(server, request(temperature=0.5))).code is Code.INVALID_PROMPT
    assert len(server.requests) == 2


# ---- the connection


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

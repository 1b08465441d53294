"""What goes wrong upstream reaches the client as one terminal message with the right code."""

from __future__ import annotations

import json
from typing import Final

import pytest

from tests.e2e.client import Client
from tests.e2e.upstream import Upstream
from tests.fakes.openai_server import Behaviour

NO_RETRY: Final = {"Retry-After": "30"}
"""A wait that no request has the time for, so that the first refusal is the answer."""


def refusal(status: int, message: str = "no", **headers: str) -> Behaviour:
    """An error as the wire has it."""
    return Behaviour(
        status=status, body=json.dumps({"error": {"message": message}}).encode(), headers=headers
    )


FAULTS: Final = {
    "401": (refusal(401), "AUTHORIZATION", "AUTHORIZATION", 401),
    "429": (refusal(429, **NO_RETRY), "RATE_LIMITED", "UNEXPECTED", 429),
    "500": (refusal(500), "UPSTREAM_ERROR", "UNEXPECTED", 500),
    "garbage": (
        Behaviour(body=b"<html>", headers={"Content-Type": "text/html"}),
        "UPSTREAM_PROTOCOL",
        "UNEXPECTED",
        0,
    ),
}


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "unstreamed"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_refusal_has_its_code(openai: Client, upstream: Upstream, fault: str, stream: bool) -> None:
    upstream.behaviour, name, sdk_name, provider_status = FAULTS[fault]
    reply = await openai.say(stream=stream, params={"timeout_ms": 5000})
    assert (reply.code, reply.end["error"], reply.end["is_error"]) == (name, sdk_name, True)
    assert reply.text == ""
    assert (reply.end["provider_status"] or 0) in (provider_status, 200)


async def test_a_wait_that_the_provider_asks_for_is_passed_on(openai: Client, upstream: Upstream) -> None:
    upstream.behaviour = refusal(429, **NO_RETRY)
    reply = await openai.say(params={"timeout_ms": 5000})
    assert (reply.end["retry_after_ms"], reply.end["retryable"]) == (30_000, True)


async def test_a_refusal_that_a_second_try_cures_is_a_success_with_a_count(
    openai: Client, upstream: Upstream
) -> None:
    upstream.script = [refusal(503)]
    reply = await openai.say()
    assert (reply.code, reply.text, reply.end["retries"]) == ("SUCCESS", "Hello there.", 1)


@pytest.mark.parametrize("cut", ["fin", "rst"])
async def test_a_stream_that_breaks_off_is_truncated_and_never_a_success(
    openai: Client, upstream: Upstream, cut: str
) -> None:
    upstream.behaviour = Behaviour(cut_after=2, cut=cut)
    reply = await openai.say()
    assert reply.code == "TRUNCATED"
    assert len(upstream.requests) == 1


async def test_an_upstream_that_is_not_there_is_unreachable(openai: Client, upstream: Upstream) -> None:
    done = await openai.load("openai", base_url="http://127.0.0.1:9/v1")
    assert (done["error_name"], done["error"]) == ("UNREACHABLE", "UNEXPECTED")


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "unstreamed"])
async def test_a_silent_upstream_is_a_timeout_and_is_closed(
    openai: Client, upstream: Upstream, stream: bool
) -> None:
    upstream.behaviour = Behaviour(gate_before_head=True)
    reply = await openai.say(stream=stream, params={"timeout_ms": 200})
    await upstream.closed(0)
    assert (reply.code, reply.end["error"], reply.end["finish_reason"]) == ("TIMEOUT", "TIMEOUT", "timeout")


async def test_a_stream_that_stalls_is_a_timeout_and_is_closed(openai: Client, upstream: Upstream) -> None:
    upstream.behaviour = Behaviour(gate_after=1)
    reply = await openai.say(params={"timeout_ms": 200})
    await upstream.closed(0)
    assert (reply.code, reply.chunks) == ("TIMEOUT", ["Hello"])


async def test_errors_are_numbers_in_the_seed_s_dialect(seed_openai: Client, upstream: Upstream) -> None:
    upstream.behaviour = refusal(401)
    reply = await seed_openai.say(stream=False)
    assert (reply.end["error"], reply.end["response"]) == (2, None)

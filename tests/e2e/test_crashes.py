"""A worker that dies ends each of its requests once, and the next request finds a new worker."""

from __future__ import annotations

from typing import Any, Final

import psutil

from tests.e2e.client import START_S, Client, connect
from tests.e2e.module import Module
from tests.e2e.upstream import Upstream
from tests.fakes.openai_server import Behaviour

STREAMS: Final = 20


async def worker_of(client: Client, provider: str) -> dict[str, Any]:
    """What the module says of that provider's worker."""
    answer = await client.ask({"type": "status", "unique_request_id": client.new_id()}, "status_done")
    found: dict[str, Any] = next(worker for worker in answer["workers"] if worker["provider"] == provider)
    return found


async def test_a_killed_worker_ends_every_open_stream_once_and_the_next_request_works(
    openai: Client, upstream: Upstream
) -> None:
    upstream.behaviour = Behaviour(gate_after=1)
    requests = [await openai.generate() for _ in range(STREAMS)]
    for request in requests:
        await openai.chunk(request)
    before = await worker_of(openai, "openai")
    assert before["open_requests"] == STREAMS
    psutil.Process(before["pid"]).kill()
    ends = [await openai.end(request) for request in requests]
    assert {(end.code, end.end["error"]) for end in ends} == {("WORKER_CRASHED", "UNEXPECTED")}
    assert [end.chunks for end in ends] == [["Hello"]] * STREAMS
    upstream.behaviour = Behaviour()
    assert (await openai.say(timeout_s=START_S)).text == "Hello there."
    after = await worker_of(openai, "openai")
    assert (after["pid"] != before["pid"], after["restarts"] - before["restarts"]) == (True, 1)
    assert len(upstream.requests) == STREAMS + 1
    assert len({request.key for request in upstream.requests}) == 1


async def test_the_death_of_one_worker_leaves_the_others_alone(
    module: Module, openai: Client, upstream: Upstream
) -> None:
    async with connect(module) as other:
        await other.load("demo", options={"replies": [{"chunks": ["a ", "b"], "hang": True}]})
        theirs = await other.generate()
        await other.chunk(theirs, 2)
        upstream.script = [Behaviour(gate_after=1)]
        ours = await openai.generate()
        await openai.chunk(ours)
        psutil.Process((await worker_of(openai, "openai"))["pid"]).kill()
        assert (await openai.end(ours)).code == "WORKER_CRASHED"
        assert (await openai.say(timeout_s=START_S)).text == "Hello there."
        await other.interrupt()
        assert (await other.end(theirs)).chunks == ["a ", "b"]


async def test_a_worker_that_dies_under_a_load_ends_the_load(openai: Client, upstream: Upstream) -> None:
    upstream.models = Behaviour(gate_before_head=True)
    client, key = openai, openai.module.new_key()
    await client.send({"type": "load", "provider": "openai", "unique_request_id": "l", "api_key": key})
    await client.wait(lambda m: m["type"] == "load_ack" and m["unique_request_id"] == "l")
    psutil.Process((await worker_of(client, "openai"))["pid"]).kill()
    done = await client.wait(lambda m: m["type"] == "load_done" and m["unique_request_id"] == "l")
    assert (done["error_name"], done["error"]) == ("WORKER_CRASHED", "UNEXPECTED")
    upstream.models = Behaviour(body=b'{"data": []}')
    assert (await client.load("openai", api_key=key))["error"] == "SUCCESS"
    assert (await client.say()).text == "Hello there."

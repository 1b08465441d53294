"""Keys and prompts stay between a client and its provider, also when things fail and the log tells all."""

from __future__ import annotations

import json

import psutil
import pytest

from tests.e2e.client import START_S, connect
from tests.e2e.module import Installation, Module
from tests.e2e.upstream import Upstream
from tests.fakes.openai_server import Behaviour


@pytest.mark.parametrize("status", [200, 400, 401, 500])
async def test_a_prompt_is_in_no_log_and_in_no_error_even_if_the_provider_repeats_it(
    installation: Installation, upstream: Upstream, status: int
) -> None:
    variables = {"OPENAI_BASE_URL": upstream.base_url}
    with Module(installation, ("--log-level", "DEBUG"), variables) as module:
        secret = module.new_key()
        if status != 200:
            body = json.dumps({"error": {"message": f"I will not answer {secret}"}}).encode()
            upstream.behaviour = Behaviour(status=status, body=body, headers={"Retry-After": "60"})
        async with connect(module) as client:
            await client.load("openai", api_key=module.new_key())
            for stream in (True, False):
                reply = await client.say(secret, stream=stream, params={"timeout_ms": 5000})
                assert (reply.code == "SUCCESS") is (status == 200)
    assert {request.body["messages"][-1]["content"] for request in upstream.requests} == {secret}


async def test_a_key_is_in_no_log_however_much_it_tells(
    installation: Installation, upstream: Upstream
) -> None:
    variables = {"OPENAI_BASE_URL": upstream.base_url}
    with Module(installation, ("--log-level", "DEBUG", "--log-format", "json"), variables) as module:
        async with connect(module) as client:
            key = module.new_key()
            await client.load("openai", api_key=key)
            upstream.behaviour = Behaviour(gate_after=1)
            request = await client.generate()
            await client.chunk(request)
            module.check_keys()
            psutil.Process(module.workers()[0].pid).kill()
            assert (await client.end(request)).code == "WORKER_CRASHED"
            upstream.behaviour = Behaviour()
            assert (await client.say(timeout_s=START_S)).text == "Hello there."
            module.check_keys()
        lines = [json.loads(line) for line in module.stderr().splitlines()]
    assert any("worker" in line["msg"] for line in lines)
    assert [request.key for request in upstream.requests] == [key, key]


async def test_a_key_that_breaks_its_message_is_not_repeated(module: Module) -> None:
    async with connect(module) as client:
        done = await client.load("openai", api_key=module.new_key(), preload_model_id=5)
        assert done["error_name"] == "INVALID_REQUEST"
        done = await client.load("opnai", api_key=module.new_key())
        assert done["error_name"] == "INVALID_PROVIDER"
        await client.send_raw('{"type": "load", "api_key": "' + module.new_key())
        await client.wait(lambda m: m["type"] == "error")
    module.check_keys()


@pytest.mark.parametrize("key", ["two\nlines-0123456789", "naïve-ключ-0123456789"])
async def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(
    module: Module, upstream: Upstream, key: str
) -> None:
    async with connect(module) as client:
        done = await client.load("openai", api_key=key)
        reply = await client.say()
        assert (done["is_error"], reply.end["is_error"]) == (True, True)
        assert key not in json.dumps(client.received, ensure_ascii=False)
    assert upstream.requests == []


async def test_white_space_around_a_key_is_not_sent(module: Module, upstream: Upstream) -> None:
    async with connect(module) as client:
        key = module.new_key()
        assert (await client.load("openai", api_key=f" {key}\r\n"))["error"] == "SUCCESS"
        await client.say()
    assert [request.key for request in upstream.requests] == [key]


async def test_a_base_url_elsewhere_is_refused_before_the_key_goes_anywhere(module: Module) -> None:
    async with connect(module) as client:
        url = "http://somewhere.example/v1"
        done = await client.load("openai", api_key=module.new_key(), base_url=url)
    assert (done["error_name"], "somewhere.example" in done["message"]) == ("INVALID_REQUEST", True)

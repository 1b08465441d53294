"""Whose key goes where: a connection's key belongs to that connection alone, and is never shown."""

from __future__ import annotations

import json

import pytest

from tests.e2e.client import Client, connect
from tests.e2e.module import Installation, Module
from tests.e2e.upstream import Upstream
from tests.fakes.openai_server import Behaviour


async def test_two_clients_of_one_provider_use_their_own_keys(module: Module, upstream: Upstream) -> None:
    keys = [module.new_key(), module.new_key()]
    async with connect(module) as first, connect(module) as second:
        await first.load("openai", api_key=keys[0])
        await second.load("openai", api_key=keys[1])
        for client in (first, second, first):
            await client.say()
        assert len([w for w in await status(first) if w["provider"] == "openai"]) == 1
    assert [request.key for request in upstream.requests] == [keys[0], keys[1], keys[0]]
    assert [request.key for request in upstream.lists] == keys
    assert upstream.requests[0].connection != upstream.requests[1].connection


async def status(client: Client) -> list[dict[str, object]]:
    """The workers as the module sees them."""
    answer = await client.ask({"type": "status", "unique_request_id": client.new_id()}, "status_done")
    workers: list[dict[str, object]] = answer["workers"]
    return workers


async def test_a_load_with_another_key_changes_it(openai: Client, upstream: Upstream) -> None:
    await openai.say()
    changed = openai.module.new_key()
    await openai.load("openai", api_key=changed)
    await openai.say()
    assert upstream.requests[0].key != changed
    assert upstream.requests[1].key == changed


async def test_a_refused_key_is_an_authorization_error_and_leaves_no_provider(
    openai: Client, upstream: Upstream
) -> None:
    key = openai.module.new_key()
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {key}"}}).encode()
    upstream.models = Behaviour(status=401, body=body)
    done = await openai.load("openai", api_key=key)
    assert (done["error"], done["error_code"], done["provider_status"]) == ("AUTHORIZATION", 2, 401)
    assert (await openai.say()).code == "NOT_LOADED"
    assert upstream.requests == []


async def test_a_missing_key_names_the_variables_that_were_looked_for(client: Client) -> None:
    done = await client.load("openai")
    assert done["error"] == "AUTHORIZATION"
    assert "OPENAI_API_KEY" in done["message"]


async def test_a_refused_key_does_not_disturb_another_client(
    module: Module, openai: Client, upstream: Upstream
) -> None:
    upstream.models = Behaviour(status=403, body=b"{}")
    async with connect(module) as other:
        assert (await other.load("openai", api_key=module.new_key()))["error"] == "AUTHORIZATION"
    assert (await openai.say()).text == "Hello there."


@pytest.mark.parametrize("place", ["environment", ".env"])
async def test_the_operator_s_key_is_used_and_reaches_no_worker_s_environment(
    installation: Installation, upstream: Upstream, place: str
) -> None:
    variables = {"OPENAI_BASE_URL": upstream.base_url}
    operator_key = f"canary{place}0123456789abcdef"
    dotenv = installation.home / ".env"
    if place == "environment":
        variables["OPENAI_API_KEY"] = operator_key
    else:
        dotenv.write_text(f"OPENAI_API_KEY={operator_key}\n", encoding="utf-8")
    try:
        with Module(installation, variables=variables) as module:
            async with connect(module) as client:
                await client.load("openai")
                await client.say()
                shown = [repr(worker.environ()) + repr(worker.cmdline()) for worker in module.workers()]
            if place == ".env":
                module.keys.append(operator_key)
                module.check_keys()
            written = module.log() + module.stderr() + "".join(client.texts)
    finally:
        dotenv.unlink(missing_ok=True)
    assert upstream.requests[0].key == operator_key
    assert len(shown) == 1
    assert operator_key not in "".join(shown) + written

"""A provider that was never provisioned: the first load makes its environment, once, and it talks."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Final

import pytest

from supervisor.spawn import STAY_VARIABLE
from tests.e2e.client import FAST_S, Client, connect
from tests.e2e.module import Installation, Module
from tests.e2e.upstream import Upstream

pytestmark = pytest.mark.install

BUILD_S: Final = 40.0
"""For an environment from wheels that lie here, on a busy machine."""
LOAD: Final = {"type": "load", "provider": "demo", "unique_request_id": "l", "progress": True}


def environments(place: Installation) -> list[str]:
    """The directories in which environments were made."""
    return sorted(path.name for path in (place.home / "envs").iterdir() if path.is_dir())


def markers(place: Installation) -> list[str]:
    """The environments that count."""
    return sorted(path.name for path in (place.home / "envs").glob("*.json"))


@pytest.mark.parametrize("setting", ["flag", "variable"])
async def test_a_first_load_makes_the_environment_shows_its_progress_and_then_talks(
    own_home: Installation, setting: str
) -> None:
    flags = ("--wheelhouse", str(own_home.wheels)) if setting == "flag" else ()
    variables = {} if flags else {"WAIFU_LLM_WHEELHOUSE": str(own_home.wheels)}
    with Module(own_home, flags, variables) as module:
        async with connect(module) as client:
            done = await client.load("demo", progress=True, timeout_s=BUILD_S)
            progress = [m for m in client.received if m["type"] == "load_progress"]
            reply = await client.say()
            again = await client.load("demo")
        log = [line for line in module.stderr().splitlines() if "worker provision" in line]
    assert ["provisioning" in line for line in log] == [True, False]
    assert "worker provisioned provider=demo env=base installer=" in log[1]
    assert done["error"] == "SUCCESS"
    assert done["timings_ms"]["provision"] > 0
    assert again["timings_ms"]["provision"] == 0
    assert progress[0]["phase"] == "provision"
    assert {m["provider"] for m in progress} == {"demo"}
    assert all(m["fraction"] is None or 0 <= m["fraction"] <= 1 for m in progress)
    assert reply.text
    assert (len(environments(own_home)), len(markers(own_home))) == (1, 1)


async def test_a_load_that_did_not_ask_for_progress_gets_none(own_home: Installation) -> None:
    with Module(own_home, ("--wheelhouse", str(own_home.wheels))) as module:
        async with connect(module) as client:
            done = await client.load("demo", timeout_s=BUILD_S)
    assert done["error"] == "SUCCESS"
    assert [m["type"] for m in client.received] == ["load_ack", "load_done"]


async def test_questions_are_answered_while_an_environment_is_made(own_home: Installation) -> None:
    with Module(own_home, ("--wheelhouse", str(own_home.wheels))) as module:
        async with connect(module) as client, connect(module) as other:
            await client.send(
                {"type": "load", "provider": "demo", "unique_request_id": "l", "progress": True}
            )
            await client.wait(lambda m: m["type"] == "load_progress")
            answer = {"type": "get_models", "unique_request_id": "m"}
            for asking in (client, other):
                assert (await asking.ask(answer, "get_models_done", timeout_s=FAST_S))["models"] == []
            await client.wait(lambda m: m["type"] == "load_done", timeout_s=BUILD_S)


@contextmanager
def provisioner(place: Installation, environment: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that makes that environment, as install.py does, and prints what it is doing."""
    argv = [sys.executable, str(place.checkout / "supervisor"), "provision", environment]
    argv += ["--home", str(place.home), "--wheelhouse", str(place.wheels)]
    with subprocess.Popen(
        argv,
        env={**os.environ, STAY_VARIABLE: "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("first", ["loads", "provisioner"])
async def test_three_loads_and_another_process_at_once_make_one_environment(
    own_home: Installation, upstream: Upstream, first: str
) -> None:
    flags = ("--wheelhouse", str(own_home.wheels))
    with Module(own_home, flags, {"OPENAI_BASE_URL": upstream.base_url}) as module:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connect(module)) for _ in range(3)]
            keys = [module.new_key() for _ in clients]
            if first == "loads":
                await start_loads(clients, keys)
                await clients[0].wait(lambda m: m["type"] == "load_progress" and m["fraction"] is not None)
            other = stack.enter_context(provisioner(own_home, "http"))
            assert other.stdout is not None
            said = await asyncio.to_thread(other.stdout.readline)
            if first == "provisioner":
                await start_loads(clients, keys)
            done = [await client.wait(is_loaded, timeout_s=BUILD_S) for client in clients]
            rest, _ = await asyncio.to_thread(other.communicate, timeout=BUILD_S)
            replies = [await client.say() for client in clients]
            assert len(module.workers()) == 1
    assert json.loads(said)["progress"]["phase"] == ("wait" if first == "loads" else "venv")
    assert "environment" in json.loads(rest.splitlines()[-1])
    assert [load["error"] for load in done] == ["SUCCESS"] * 3
    assert [reply.text for reply in replies] == ["Hello there."] * 3
    assert [request.key for request in upstream.requests] == keys
    assert (len(environments(own_home)), len(markers(own_home))) == (1, 1)


async def start_loads(clients: list[Client], keys: list[str]) -> None:
    """Sends a load on each connection, and waits for none."""
    for client, key in zip(clients, keys, strict=True):
        load = {"type": "load", "provider": "openai", "unique_request_id": "l", "api_key": key}
        await client.send({**load, "progress": True})


def is_loaded(message: dict[str, Any]) -> bool:
    """Whether that is the end of a load."""
    return bool(message["type"] == "load_done")


async def test_a_client_that_leaves_while_an_environment_is_made_leaves_nothing_half_made(
    own_home: Installation,
) -> None:
    with Module(own_home, ("--wheelhouse", str(own_home.wheels))) as module:
        async with connect(module) as client:
            await client.send(
                {"type": "load", "provider": "demo", "unique_request_id": "l", "progress": True}
            )
            await client.wait(lambda m: m["type"] == "load_progress")
            await client.vanish()
        async with connect(module) as client:
            assert (await client.load("demo", timeout_s=BUILD_S))["error"] == "SUCCESS"
    assert (len(environments(own_home)), len(markers(own_home))) == (1, 1)


async def test_an_environment_that_cannot_be_made_says_so_and_the_module_lives(
    own_home: Installation,
) -> None:
    empty = own_home.home.parent / "no wheels"
    empty.mkdir()
    with Module(own_home, ("--wheelhouse", str(empty))) as module:
        async with connect(module) as client:
            done = await client.load("demo", timeout_s=BUILD_S)
            assert (await client.say()).code == "NOT_LOADED"
    assert (done["error"], done["error_name"]) == ("UNEXPECTED", "PROVISION_FAILED")
    assert (environments(own_home), markers(own_home)) == ([], [])


@pytest.mark.parametrize("how", ["close", "kill"])
async def test_a_module_that_ends_while_it_makes_an_environment_leaves_nothing_that_counts(
    own_home: Installation, how: str
) -> None:
    flags = ("--wheelhouse", str(own_home.wheels))
    with Module(own_home, flags) as module:
        async with connect(module) as client:
            await client.send(
                {"type": "load", "provider": "demo", "unique_request_id": "l", "progress": True}
            )
            await client.wait(lambda m: m["type"] == "load_progress" and m["fraction"] is not None)
            assert len(module.family()) > 1
            if how == "close":
                await client.ask({"type": "close"}, "close_ack")
                done = await client.wait(lambda m: m["type"] == "load_done")
                assert done["error_name"] == "INTERRUPT"
            else:
                client.leaves_early = True
                module.process.kill()
        await asyncio.to_thread(module.wait)
    assert markers(own_home) == []
    with Module(own_home, flags) as module:
        async with connect(module) as client:
            assert (await client.load("demo", timeout_s=BUILD_S))["error"] == "SUCCESS"
    assert (len(environments(own_home)), len(markers(own_home))) == (1, 1)

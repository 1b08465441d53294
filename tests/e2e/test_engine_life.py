"""How long a model and its process stay: with its connection, with `keep_alive`, beside other models."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from tests.e2e.client import Client, connect
from tests.e2e.figures import Figures
from tests.e2e.hostile import worker_of
from tests.e2e.light_engines import ENGINES, LARGER, TALK_S, Engine, loaded, make_model, running, say
from tests.e2e.module import Installation, Module
from tests.wheelhouse import wait_until

pytestmark = [pytest.mark.foreign, pytest.mark.install]

TITLE: Final = "first token, ms"
SOON: Final = ("--set", "pool.engine_idle_s=0.05")
LEAST_S: Final = 1.0
"""The shortest keep_alive there is."""
LONG: Final[dict[str, Any]] = {"max_output_length": 6000, "extra": {"ignore_eos": True}}
"""A reply that takes longer than that, of a model whose tokens take milliseconds."""

engines = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.provider)


def events(module: Module, what: str) -> list[str]:
    """The lines of the log that tell of such an event."""
    return [line for line in module.stderr().splitlines() if f" {what} provider=" in line]


async def until(module: Module, what: str, count: int = 1) -> None:
    """Waits until the log tells of so many such events."""
    await asyncio.to_thread(wait_until, lambda: len(events(module, what)) >= count, what, TALK_S)


@contextmanager
def operators_table(place: Installation, engine: Engine, line: str) -> Iterator[None]:
    """What an operator says of that engine, in HOME/venvs.local.toml."""
    tables = place.home / "venvs.local.toml"
    tables.write_text(f"[provider.{engine.provider}.quirks]\n{line}\n", encoding="utf-8")
    try:
        yield
    finally:
        tables.unlink()


async def pid_of(client: Client, engine: Engine) -> int:
    pid: int = (await worker_of(client, engine.provider))["pid"]
    return pid


@engines
async def test_the_log_and_the_status_tell_what_a_model_costs(
    engines_place: Installation, engine: Engine
) -> None:
    with running(engines_place, *SOON, "--set", "health.interval_s=0.2") as module:
        async with connect(module) as client:
            await loaded(client, engine)
            worker = await worker_of(client, engine.provider)
            assert worker["models"] == ["tiny"]
            assert worker["memory_before_bytes"] < worker["memory_bytes"]
            await asyncio.to_thread(wait_until, lambda: " models=1 " in module.stderr(), "a health line")
        await until(module, "worker stopped")
        (came,), (gone,) = events(module, "model loaded"), events(module, "model gone")
        (stopped,) = events(module, "worker stopped")
    for line in (came, gone, stopped):
        assert f"provider={engine.provider} pid={worker['pid']} " in line
    assert " model='tiny' " in came
    assert " model='tiny' " in gone
    before, after = (int(came.partition(f" {name}=")[2].split()[0]) for name in ("before_mb", "memory_mb"))
    assert 0 < before < after
    assert "memory_mb=None" not in stopped


@engines
async def test_a_load_includes_all_loading(
    engines_place: Installation, engine: Engine, figures: Figures
) -> None:
    with running(engines_place) as module:
        async with connect(module) as client:
            await loaded(client, engine)
            for name in ("first", "second", "third"):
                reply = await say(client, f"The {name} of several questions.")
                assert reply.code == "SUCCESS"
                figures.add(TITLE, engine.provider, name, reply.end["timings_ms"]["first_token"])
        assert len(events(module, "model loaded")) == 1


@engines
async def test_a_pinned_model_outlives_its_connection_and_serves_the_next_one(
    engines_place: Installation, engine: Engine
) -> None:
    with running(engines_place, *SOON) as module:
        async with connect(module) as client:
            await loaded(client, engine, keep_alive=-1)
            pid = await pid_of(client, engine)
        async with connect(module) as client:
            await loaded(client, engine)
            assert (await say(client)).code == "SUCCESS"
            assert await pid_of(client, engine) == pid
            assert (len(events(module, "model loaded")), events(module, "model gone")) == (1, [])
        await until(module, "model gone")  # this one did not ask for it
        await until(module, "worker stopped")
        assert module.workers() == []


@engines
async def test_a_process_that_ended_by_keep_alive_is_back_with_its_model_for_the_next_request(
    engines_place: Installation, engine: Engine, figures: Figures
) -> None:
    with running(engines_place) as module:
        async with connect(module) as client:
            await loaded(client, engine, keep_alive=0)
            assert (await say(client)).code == "SUCCESS"
            await until(module, "worker stopped")
            assert (await worker_of(client, engine.provider))["state"] == "idle"
            assert module.workers() == []
            reply = await say(client)
            assert (reply.code, reply.end["model"]) == ("SUCCESS", "tiny")
            figures.add(TITLE, engine.provider, "after keep_alive", reply.end["timings_ms"]["first_token"])
            assert len(events(module, "model loaded")) == 2


@engines
async def test_the_most_patient_connection_decides_and_a_second_load_changes_its_mind(
    engines_place: Installation, engine: Engine
) -> None:
    with running(engines_place) as module:
        async with connect(module) as hasty, connect(module) as patient:
            await loaded(patient, engine, keep_alive=-1)
            await loaded(hasty, engine, keep_alive=0)
            pid = await pid_of(hasty, engine)
            await asyncio.sleep(LEAST_S * 1.5)  # no event tells of what does not happen
            assert await pid_of(hasty, engine) == pid
            await loaded(patient, engine, keep_alive=0)
            await until(module, "worker stopped")
            for client in (hasty, patient):
                assert (await say(client)).code == "SUCCESS"


@engines
async def test_a_reply_that_is_longer_than_keep_alive_is_not_cut(
    engines_place: Installation, engine: Engine
) -> None:
    make_model(engines_place.home, engine, "slow", shape=LARGER)
    with running(engines_place) as module:
        async with connect(module) as client:
            await loaded(client, engine, "slow", keep_alive=0, context_length=8192)
            reply = await client.generate(params=LONG)
            await client.chunk(reply)
            await asyncio.sleep(LEAST_S * 1.5)  # no event tells of what does not happen
            await client.chunk(reply, len(client.received) + 1)
            await client.interrupt(reply)
            assert (await client.end(reply)).code == "INTERRUPT", "it went on for longer than it may be idle"
            assert len(events(module, "model loaded")) == 1
            await until(module, "worker stopped")


@engines
async def test_of_two_models_in_memory_the_one_unused_for_longest_goes_for_a_third(
    engines_place: Installation, engine: Engine
) -> None:
    with operators_table(engines_place, engine, "models_in_memory = 2"), running(engines_place) as module:
        async with connect(module) as client:
            await loaded(client, engine, "tiny")
            await loaded(client, engine, "other")
            assert (await say(client, model_id="tiny")).end["model"] == "tiny"
            await loaded(client, engine, "third")
            assert (await worker_of(client, engine.provider))["models"] == ["tiny", "third"]
            (gone,) = events(module, "model gone")
            assert "model='other'" in gone
            assert (await say(client, model_id="tiny")).code == "SUCCESS"
            assert len(events(module, "model loaded")) == 3

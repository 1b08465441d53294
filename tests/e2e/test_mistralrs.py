"""The main job on mistral.rs inside a worker, through the real module: provider `huggingface-local`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import psutil
import pytest

from supervisor.catalog import load_catalog
from supervisor.home import find_home
from supervisor.provision import Recipe, provision
from tests.e2e.client import Client, Reply, connect
from tests.e2e.module import Installation, Module
from tests.tiny_safetensors import make_tiny_safetensors
from tests.wheelhouse import CHECKOUT, repack_lock, wait_until

pytestmark = [pytest.mark.foreign, pytest.mark.install]

ENV: Final = "mistralrs"
SAME_WORDS: Final[dict[str, Any]] = {"max_output_length": 40, "seed": 3}
LONG: Final[dict[str, Any]] = {"max_output_length": 4000, "extra": {"ignore_eos": True}}
"""Some seconds of talk, so that whatever happens to it happens in its middle."""
OPTIONS: Final = {"threads": 1, "context_length": 2048}
TALK_S: Final = 20.0


@pytest.fixture(scope="module")
def place(unprovisioned: Installation, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """An installation with the engine in an environment of its own, and a model in HOME/models."""
    home = tmp_path_factory.mktemp("hôme with a model")
    lock = unprovisioned.checkout / "locks" / f"{ENV}.txt"
    lock.write_text(repack_lock(unprovisioned.wheels, CHECKOUT / "locks" / f"{ENV}.txt"), encoding="utf-8")
    imports = load_catalog(unprovisioned.checkout / "venvs.toml").envs[ENV].imports
    provision(find_home(str(home), {}), Recipe(ENV, lock, imports), wheelhouse=unprovisioned.wheels)
    make_tiny_safetensors(home / "models" / "tiny")
    return Installation(unprovisioned.checkout, home, unprovisioned.wheels)


@pytest.fixture(scope="module")
def module(place: Installation) -> Iterator[Module]:
    with Module(place, variables={"HF_HUB_CACHE": str(place.home / "no hub")}) as running:
        yield running


@pytest.fixture
async def local(module: Module) -> AsyncIterator[Client]:
    """A connection that has the model."""
    async with connect(module) as client:
        await loaded(client)
        yield client


async def loaded(client: Client, **fields: Any) -> dict[str, Any]:
    done = await client.load(
        "huggingface-local",
        **{"preload_model_id": "tiny", "options": OPTIONS, "timeout_s": TALK_S, **fields},
    )
    assert done["is_error"] is False, done
    return done


async def say(client: Client, text: str = "Hello", **params: Any) -> Reply:
    return await client.say(text, params=params, timeout_s=TALK_S)


async def test_a_load_says_what_is_there_and_what_it_took(module: Module) -> None:
    async with connect(module, seed=True) as client:
        done = await loaded(client)
        assert done["models_count"] == 1
        assert done["timings_ms"]["model"] is not None
        assert (await client.ask({"type": "get_models"}, "get_models_done"))["models"] == ["tiny"]


async def test_a_reply_is_streamed_and_one_seed_says_the_same(local: Client) -> None:
    reply = await say(local, **SAME_WORDS)
    assert len(reply.chunks) > 1
    assert (reply.end["finish_reason"], reply.end["model"]) == ("length", "tiny")
    assert reply.end["usage"]["output_tokens"] == 40
    whole = await local.say(params=SAME_WORDS, stream=False, timeout_s=TALK_S)
    assert whole.end["response"] == reply.text


async def test_a_stop_string_is_not_in_the_reply(local: Client) -> None:
    whole = (await say(local, **SAME_WORDS)).text
    reply = await say(local, **SAME_WORDS, stop_tokens=[whole[20:22]])
    assert (reply.text, reply.end["finish_reason"]) == (whole[: whole.index(whole[20:22])], "stop")


async def test_an_interrupt_ends_a_reply_and_frees_the_engine(local: Client) -> None:
    request = await local.generate(params=LONG)
    await local.chunk(request)
    await local.interrupt()
    reply = await local.end(request)
    assert reply.code == "INTERRUPT"
    assert "upstream_closed_ms" in reply.end
    assert (await say(local, **SAME_WORDS)).code == "SUCCESS"


async def test_two_clients_are_served_at_once(local: Client, module: Module) -> None:
    async with connect(module) as other:
        await loaded(other)
        requests = [(client, await client.generate(params=LONG)) for client in (local, other)]
        for client, request in requests:
            await client.chunk(request)
        for client, request in requests:
            await client.interrupt()
            assert (await client.end(request)).code == "INTERRUPT"


async def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(local: Client) -> None:
    reply = await say(local, "word " * 600)
    assert reply.code == "CONTEXT_TOO_LONG"
    assert "3019 tokens" in reply.end["message"]
    assert "2048" in reply.end["message"]


async def test_a_second_turn_reuses_the_first(local: Client) -> None:
    history = [{"role": "user", "content": "Tell me a story about a lighthouse, please."}]
    first = await local.say(messages=history, params={"max_output_length": 20}, timeout_s=TALK_S)
    history += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "Go on."}]
    second = await local.say(messages=history, params={"max_output_length": 5}, timeout_s=TALK_S)
    usage = second.end["usage"]
    assert usage["cached_input_tokens"] >= first.end["usage"]["input_tokens"] - 1


async def test_a_missing_model_is_an_invalid_model(module: Module) -> None:
    async with connect(module) as client:
        done = await client.load("huggingface-local", preload_model_id="tinny")
    assert done["error_name"] == "INVALID_MODEL"
    assert "near ones: tiny" in done["message"]


async def test_a_killed_worker_comes_back_with_the_model(local: Client, module: Module) -> None:
    request = await local.generate(params=LONG)
    await local.chunk(request)
    (worker,) = module.workers()
    worker.kill()
    reply = await local.end(request, timeout_s=TALK_S)
    assert reply.code in ("WORKER_CRASHED", "OUT_OF_MEMORY")
    assert (await say(local, **SAME_WORDS)).code == "SUCCESS"
    assert psutil.pid_exists(module.workers()[0].pid)


async def test_a_connection_that_goes_takes_its_reply_and_the_model_along(module: Module) -> None:
    async with connect(module) as client:
        await loaded(client)
        request = await client.generate(params=LONG)
        await client.chunk(request)
        (worker,) = module.workers()
        with_model = worker.num_threads()
        await client.vanish()
    await asyncio.to_thread(wait_until, lambda: worker.num_threads() < with_model, "the end of the engine")

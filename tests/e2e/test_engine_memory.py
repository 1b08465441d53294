"""Memory that runs out, for real: by the operator's limit, and by one that the system sets to the process."""

from __future__ import annotations

import sys
from typing import Any, Final

import psutil
import pytest

from tests.e2e.client import Client, connect
from tests.e2e.hostile import worker_of
from tests.e2e.light_engines import ENGINES, LARGER, TALK_S, Engine, load, loaded, make_model, running, say
from tests.e2e.module import Installation, Module
from tests.e2e.test_engine_life import operators_table

pytestmark = [pytest.mark.foreign, pytest.mark.install]

LIMIT_MB: Final = 200
"""The tiny model's worker has half of it, the larger one's passes it."""
LONG: Final[dict[str, Any]] = {"max_output_length": 6000, "extra": {"ignore_eos": True}}
SMALLER: Final = "options."
"""The next smaller setting begins so."""

engines = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.provider)


@pytest.fixture(scope="module")
def place(engines_place: Installation) -> Installation:
    """The same with a model that needs some memory."""
    for engine in ENGINES:
        make_model(engines_place.home, engine, "larger", shape=LARGER)
    return engines_place


@engines
async def test_a_worker_over_the_operators_limit_is_replaced_and_everybody_is_told(
    place: Installation, engine: Engine
) -> None:
    flags = ("--set", f"worker.engine_memory_mb={LIMIT_MB}")
    with operators_table(place, engine, "models_in_memory = 2"), running(place, *flags) as module:
        async with connect(module) as talking, connect(module) as other:
            await loaded(talking, engine, "tiny", context_length=8192)
            before = await worker_of(talking, engine.provider)
            talk = await talking.generate(params=LONG)
            await talking.chunk(talk)
            failed = await passed(other, engine)
            assert failed["error_name"] == "OUT_OF_MEMORY"
            assert f"over the limit of {LIMIT_MB} MB (worker.engine_memory_mb)" in failed["message"]
            assert SMALLER in failed["message"]
            assert (await talking.end(talk, timeout_s=TALK_S)).code == "OUT_OF_MEMORY"
            assert (await say(talking)).code == "SUCCESS"
            after = await worker_of(talking, engine.provider)
            assert (after["pid"] != before["pid"], after["models"]) == (True, ["tiny"])
            assert after["deaths"] in (1, 2)  # a reply that was asked for after the first one is tried once
            await loaded(other, engine, "tiny", context_length=8192)
            assert (await say(other)).code == "SUCCESS"


async def passed(client: Client, engine: Engine) -> dict[str, Any]:
    """The end of the load that passes the limit, or of the reply after it: the sample comes when it comes."""
    done = await load(client, engine, "larger", context_length=8192)
    if done["is_error"]:
        return done
    return (await client.say("word " * 1000, params=LONG, timeout_s=TALK_S)).end


@engines
async def test_a_model_that_cannot_fit_is_refused_before_it_is_loaded(
    place: Installation, engine: Engine
) -> None:
    with running(place) as module:
        async with connect(module) as client:
            done = await load(client, engine, "larger", context_length=1 << 17, slots=64)
            assert done["error_name"] == "OUT_OF_MEMORY"
            assert "needs about " in done["message"]
            assert "try options." in done["message"]
            assert "model loaded" not in module.stderr()
            await loaded(client, engine, "tiny")
            assert (await say(client)).code == "SUCCESS"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems set no such limit to a running process")
@pytest.mark.parametrize(
    ("engine", "room_mb"),
    [
        pytest.param(ENGINES[0], 20, id="llama.cpp maps no file"),
        pytest.param(ENGINES[0], 200, id="llama.cpp has no room for the context"),
        pytest.param(ENGINES[1], 20, id="mistral.rs maps no file"),
        pytest.param(ENGINES[1], 100, id="mistral.rs aborts"),
    ],
)
async def test_an_engine_that_gets_no_memory_says_so_and_the_next_load_works(
    place: Installation, engine: Engine, room_mb: int
) -> None:
    with running(place) as module:
        async with connect(module) as client, connect(module) as other:
            await loaded(client, engine, "tiny")
            await loaded(other, engine, "tiny")
            limit(module, room_mb)
            done = await load(client, engine, "larger", context_length=8192)
            assert done["error_name"] == "OUT_OF_MEMORY", done["message"]
            assert SMALLER in done["message"] or "a smaller model" in done["message"]
            assert (await say(other)).code == "SUCCESS"
            await loaded(client, engine, "tiny")
            assert (await say(client)).code == "SUCCESS"


def limit(module: Module, room_mb: int) -> None:
    """Lets the worker have so much more address space than it has now."""
    if sys.platform == "linux":
        import resource  # Windows has none

        (worker,) = module.workers()
        size = psutil.Process(worker.pid).memory_info().vms + (room_mb << 20)
        resource.prlimit(worker.pid, resource.RLIMIT_AS, (size, size))

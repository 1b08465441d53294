"""The main job in both dialects on llama.cpp's server, which nobody here wrote: `openai-compatible`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import pytest

from tests.e2e.client import Client, connect
from tests.e2e.module import Module
from tests.fakes.llama_server import llama_server

pytestmark = pytest.mark.foreign

PROVIDER: Final = "openai-compatible"
SAME_WORDS: Final[dict[str, Any]] = {"model_id": "tiny", "max_output_length": 30, "seed": 3, "temperature": 1}
LONG: Final[dict[str, Any]] = {"model_id": "tiny", "max_output_length": 7000, "extra": {"ignore_eos": True}}
"""Some seconds of talk, so that an interrupt comes long before its end."""
TALK_S: Final = 20.0


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with llama_server(tmp_path_factory.mktemp("llama")) as url:
        yield url


@pytest.fixture(params=[True, False], ids=["seed", "sdk"])
async def llama(request: pytest.FixtureRequest, module: Module, base_url: str) -> AsyncIterator[Client]:
    """A connection that has loaded it, in each dialect."""
    async with connect(module, seed=request.param) as client:
        done = await client.load(PROVIDER, base_url=base_url, preload_model_id="tiny")
        assert (done["is_error"], done["models_count"]) == (False, 1), done
        yield client


async def test_load_learns_its_models(module: Module, base_url: str) -> None:
    async with connect(module) as client:
        await client.load(PROVIDER, base_url=base_url)
        answer = await client.ask({"type": "get_models", "unique_request_id": "m"}, "get_models_done")
    assert answer["models"] == ["tiny"]


async def test_streamed_and_unstreamed_say_the_same(llama: Client) -> None:
    streamed = await llama.say(params=SAME_WORDS, timeout_s=TALK_S)
    whole = await llama.say(params=SAME_WORDS, stream=False, timeout_s=TALK_S)
    assert len(streamed.chunks) > 1
    assert streamed.text == whole.end["response"] != ""
    assert (whole.end["finish_reason"], whole.end["model"]) == ("length", "tiny")


async def test_a_stop_string_ends_the_reply_and_is_not_in_it(llama: Client) -> None:
    whole = (await llama.say(params=SAME_WORDS, timeout_s=TALK_S)).text
    visible = whole.lstrip()
    stop = visible[len(visible) // 2]
    expected = whole[: whole.index(stop, len(whole) - len(visible) + 1)]
    params = {**SAME_WORDS, "stop_tokens": [stop, "\x01never"]}
    for stream in (True, False):
        reply = await llama.say(params=params, stream=stream, timeout_s=TALK_S)
        assert (reply.text, reply.end["finish_reason"]) == (expected, "stop")


async def test_an_interrupt_ends_a_long_reply(llama: Client) -> None:
    request = await llama.generate(params=LONG)
    await llama.chunk(request)
    await llama.interrupt()
    reply = await llama.end(request)
    assert reply.code == "INTERRUPT"
    assert "upstream_closed_ms" in reply.end
    assert (await llama.say(params=SAME_WORDS, timeout_s=TALK_S)).code == "SUCCESS"

"""Wires that llama.cpp's own server speaks: what is sent to it is understood, and what it sends is read."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import pytest

from tests.fakes.bound import bound, collect, finish_of, load_only, loaded, request, text_of
from tests.fakes.llama_server import llama_server
from workers.adapter import Adapter, AdapterError, LoadRequest, Message, Text
from workers.adapters.anthropic_messages import AnthropicMessages
from workers.adapters.openai_chat import OpenAIChat
from workers.codes import Code

pytestmark = pytest.mark.foreign

QUIRKS: Final[dict[str, Any]] = {
    "merge_roles": True,
    "stream_usage": True,
    "repetition_penalty_field": "repeat_penalty",
}
WIRES: Final[dict[str, tuple[type[Adapter], dict[str, Any]]]] = {
    "openai_chat": (OpenAIChat, QUIRKS),
    "anthropic_messages": (AnthropicMessages, {"stop_max": 4}),
}
LONG: Final = 7000
"""Tokens; some seconds of talk, so that an interrupt comes long before its end."""
POLLS: Final = 2000


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with llama_server(tmp_path_factory.mktemp("llama")) as url:
        yield url


every_wire = pytest.mark.parametrize("wire", WIRES)


def speaking(base_url: str, wire: str) -> AbstractAsyncContextManager[Adapter]:
    """An adapter of that wire, loaded."""
    adapter, quirks = WIRES[wire]
    return loaded(base_url, quirks, adapter=adapter)


@every_wire
async def test_load_learns_its_model(base_url: str, wire: str) -> None:
    adapter, quirks = WIRES[wire]
    made = bound(base_url, quirks, adapter=adapter)
    result = await load_only(made, LoadRequest(preload_model="tiny"))
    await made.close()
    assert (result.models, result.warnings) == (("tiny",), ())


@every_wire
@pytest.mark.parametrize("stream", [True, False])
async def test_a_reply_has_text_an_end_and_usage(base_url: str, wire: str, stream: bool) -> None:
    async with speaking(base_url, wire) as adapter:
        events = await collect(adapter, request(model="tiny", stream=stream, max_output_length=20))
    finish = finish_of(events)
    assert 0 < len(text_of(events)) <= 20
    assert (finish.reason, finish.model, finish.warnings) == ("length", "tiny", ())
    assert finish.usage is not None
    assert finish.usage.output_tokens == 20


async def test_streamed_and_unstreamed_say_the_same_with_one_seed(base_url: str) -> None:
    async with loaded(base_url, QUIRKS) as adapter:
        wanted: dict[str, Any] = {
            "model": "tiny",
            "max_output_length": 30,
            "sampling": {"seed": 3, "top_k": 5},
        }
        streamed = await collect(adapter, request(stream=True, **wanted))
        whole = await collect(adapter, request(stream=False, **wanted))
    assert text_of(streamed) == text_of(whole)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
async def test_every_parameter_of_the_anthropic_wire_is_understood(base_url: str, temperature: float) -> None:
    sampling = {"top_k": 40} if temperature != 1.0 else {"top_p": 0.9}
    messages = (Message("assistant", "Yes?", "Mia"), Message("user", "Hi", "Ann"), Message("user", "😀"))
    wanted = request(
        model="tiny", messages=messages, sampling=sampling, stop=("\n", "zz"), temperature=temperature
    )
    async with speaking(base_url, "anthropic_messages") as adapter:
        assert finish_of(await collect(adapter, wanted)).warnings == ()


async def test_every_parameter_is_understood(base_url: str) -> None:
    sampling = {
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.1,
        "repetition_penalty": 1.1,
        "seed": 1,
    }
    messages = (
        Message("system", "Be brief."),
        Message("user", "Hi", "Ann"),
        Message("user", "Hello", "初音"),
        Message("assistant", "Yes?", "Mia"),
        Message("user", "Go on. 😀"),
    )
    wanted = request(
        model="",
        messages=messages,
        sampling=sampling,
        stop=("\n", "zz"),
        max_output_length=5,
        temperature=0.7,
    )
    async with loaded(base_url, QUIRKS) as adapter:
        assert finish_of(await collect(adapter, wanted)).warnings == ()


@every_wire
@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_an_interrupt_ends_its_work(base_url: str, wire: str, how: str) -> None:
    async with speaking(base_url, wire) as adapter:
        events = adapter.generate(request(model="tiny", max_output_length=LONG, extra={"ignore_eos": True}))
        while not isinstance(await anext(events), Text):
            pass
        if how == "close":
            await events.aclose()  # type: ignore[attr-defined]  # the contract's iterator is a generator
        else:
            task = asyncio.ensure_future(_rest(events))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await _decoded_when_idle(base_url) < LONG / 2


@every_wire
async def test_a_prompt_that_is_too_long_is_named_so(base_url: str, wire: str) -> None:
    async with speaking(base_url, wire) as adapter:
        with pytest.raises(AdapterError) as caught:
            await collect(adapter, request("word " * 9000, model="tiny"))
    assert caught.value.code is Code.CONTEXT_TOO_LONG
    assert caught.value.provider_status == 400


async def _rest(events: Any) -> list[Any]:
    return [item async for item in events]


async def _decoded_when_idle(base_url: str) -> int:
    """How many tokens the last request had made when the server stopped working on it."""
    for _ in range(POLLS):
        slot = (await asyncio.to_thread(_slots, base_url))[0]
        if not slot["is_processing"]:
            return int(slot["next_token"][0]["n_decoded"])
    raise AssertionError("the server works on")


def _slots(base_url: str) -> Any:
    url = base_url.removesuffix("/v1") + "/slots"
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - an address of this machine
        return json.loads(answer.read())

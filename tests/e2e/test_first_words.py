"""From load to words, with a provider that needs nothing and with one that speaks HTTP, in both dialects."""

from __future__ import annotations

import json
from typing import Final

from tests.e2e.client import Client, connect
from tests.e2e.module import Module
from tests.e2e.upstream import Upstream
from tests.fakes.openai_server import Behaviour

SEED_EXAMPLE: Final = """
{
    "type": "generate",
    "unique_request_id": "1",
    "messages": [
        {"role": "system", "content": "You are Mia.", "name": "System"},
        {"role": "user", "content": "Hello!", "name": "Ann"}
    ],
    "params": {
        "model_id": "fake-small",
        "character_name": "Mia",
        "temperature": 1.0,
        "max_output_length": 200,
        "stop_tokens": ["\\n"],
        "timeout_ms": null
    },
    "stream": false
}
"""


async def test_the_demo_talks_in_the_seed_s_dialect(module: Module) -> None:
    async with connect(module, seed=True) as client:
        done = await client.load("demo")
        assert (done["llm"], done["is_error"], done["error"]) == ("demo", False, 0)
        assert "unique_request_id" not in done
        reply = await client.say("Hi", stream=False)
    assert reply.text
    assert (reply.end["is_error"], reply.end["error"]) == (False, 0)


async def test_the_demo_talks_in_the_sdk_s_dialect(client: Client) -> None:
    done = await client.load("demo", unique_request_id="1b4e28ba-2fa1-11d2-883f-0016d3cca427")
    assert done["unique_request_id"] == "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
    assert (done["provider"], done["is_error"], done["error"]) == ("demo", False, "SUCCESS")
    reply = await client.say("Hi")
    assert len(reply.chunks) > 1
    assert reply.end["error"] == "SUCCESS"


async def test_load_learns_the_models(client: Client, upstream: Upstream) -> None:
    upstream.model_names = ("model-a", "model-b")
    done = await client.load("openai", api_key=client.module.new_key())
    assert done["models_count"] == 2
    models = await client.ask({"type": "get_models", "unique_request_id": "m"}, "get_models_done")
    assert models["models"] == ["model-a", "model-b"]


async def test_a_stream_comes_in_the_provider_s_pieces(openai: Client, upstream: Upstream) -> None:
    reply = await openai.say("Hello")
    assert reply.chunks == ["Hello", " there", "."]
    assert upstream.requests[0].body["stream"] is True


async def test_an_unstreamed_reply_comes_whole(openai: Client, upstream: Upstream) -> None:
    reply = await openai.say("Hello", stream=False)
    assert reply.end["response"] == "Hello there."
    assert reply.chunks == []


async def test_the_seed_s_example_is_understood_word_for_word(module: Module, upstream: Upstream) -> None:
    upstream.behaviour = Behaviour(texts=("\n", "Hello", " Ann.", "\n", "Ann: "))
    async with connect(module, seed=True) as client:
        await client.load("openai", api_key=module.new_key())
        await client.send_raw(SEED_EXAMPLE, meant=json.loads(SEED_EXAMPLE))
        reply = await client.end("1")
        await client.send({"type": "interrupt"})
        await client.wait(lambda m: m["type"] == "interrupt_ack")
    assert (reply.end["response"].strip(), reply.end["error"]) == ("Hello Ann.", 0)
    assert [m["type"] for m in client.received] == [
        *("load_ack", "load_done"),
        *("generate_ack", "generate_done"),
        "interrupt_ack",
    ]
    assert not [m for m in client.received[:2] if "unique_request_id" in m]

"""The rules of the published TypeScript client, and of others that have no patience or odd numbers."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from tests.e2e.client import FAST_S, Client, connect, prompt
from tests.e2e.module import Module
from tests.e2e.upstream import Upstream
from tests.fakes.openai_server import Behaviour

NULLS: dict[str, Any] = {
    "model_id": "fake-small",
    "character_name": "Mia",
    "temperature": 1,
    "max_output_length": 200,
    "stop_tokens": None,
    "timeout_ms": None,
}


async def test_questions_are_answered_while_a_slow_load_runs(client: Client, upstream: Upstream) -> None:
    upstream.models = Behaviour(gate_before_head=True)
    key = client.module.new_key()
    await client.send({"type": "load", "provider": "openai", "unique_request_id": "slow", "api_key": key})
    await client.wait(lambda m: m["type"] == "load_ack", timeout_s=FAST_S)
    providers = await client.ask({"type": "get_providers", "unique_request_id": "p"}, "get_providers_done")
    models = await client.ask({"type": "get_models", "unique_request_id": "m"}, "get_models_done")
    assert {"demo", "openai", "groq"} <= set(providers["providers"])
    assert models["models"] == []
    assert not [m for m in client.received if m["type"] == "load_done"]
    upstream.gate.set()
    await client.wait(lambda m: m["type"] == "load_done")


async def test_the_questions_of_an_unloaded_client_fix_the_sdk_s_dialect(client: Client) -> None:
    await client.ask({"type": "get_providers", "unique_request_id": "p"}, "get_providers_done")
    reply = await client.say()
    assert (reply.code, reply.end["error"]) == ("NOT_LOADED", "INVALID_PROVIDER")


async def test_its_whole_conversation_works(client: Client, upstream: Upstream) -> None:
    ids = [str(uuid.uuid4()) for _ in range(5)]
    await client.ask({"type": "get_providers", "unique_request_id": ids[0]}, "get_providers_done")
    done = await client.load(
        "openai", unique_request_id=ids[1], api_key=client.module.new_key(), preload_model_id="fake-small"
    )
    models = await client.ask({"type": "get_models", "unique_request_id": ids[2]}, "get_models_done")
    streamed = await client.say(unique_request_id=ids[3], params=NULLS)
    whole = await client.say(unique_request_id=ids[4], params=NULLS, stream=False)
    assert (done["unique_request_id"], done["error"]) == (ids[1], "SUCCESS")
    assert models["models"] == ["fake-small", "fake-large"]
    assert (streamed.text, whole.text) == ("Hello there.", "Hello there.")
    assert {m["unique_request_id"] for m in client.received} == set(ids)


async def test_an_acknowledgement_comes_before_the_work(client: Client, upstream: Upstream) -> None:
    await client.load("openai", api_key=client.module.new_key())
    upstream.behaviour = Behaviour(gate_before_head=True)
    for stream in (True, False):
        request = {
            "type": "generate",
            "unique_request_id": client.new_id(),
            "messages": prompt("Hi"),
            "params": NULLS,
            "stream": stream,
        }
        await client.ask(request, "generate_ack")
    upstream.gate.set()
    for number in (2, 3):
        assert (await client.end(f"r{number}")).code == "SUCCESS"


async def test_a_client_that_asks_for_nothing_is_told_nothing_more(
    openai: Client, upstream: Upstream
) -> None:
    upstream.behaviour = Behaviour(texts=("<think>hm</think>", "Hello."), reasoning=("Hm.",))
    assert (await openai.say()).text == "Hello."
    assert {m["type"] for m in openai.received} == {
        *("load_ack", "load_done"),
        *("generate_ack", "generate_stream_chunk", "generate_stream_done"),
    }


async def test_numbers_of_godot_are_integers_where_integers_are_meant(
    openai: Client, upstream: Upstream
) -> None:
    reply = await openai.say(
        unique_request_id=7.0, params={"max_output_length": 50.0, "timeout_ms": 5000.0, "top_k": 3.0}
    )
    assert reply.text == "Hello there."
    assert upstream.requests[0].body["max_completion_tokens"] == 50
    assert '"unique_request_id":7.0' in openai.texts[-1]


async def test_an_id_comes_back_byte_for_byte(openai: Client, upstream: Upstream) -> None:
    fields = {"type": "generate", "messages": prompt("Hi"), "stream": False}
    text = json.dumps(fields)[:-1] + ', "unique_request_id": 1e2}'
    await openai.send_raw(text, meant={**fields, "unique_request_id": 100.0})
    await openai.end(100.0)
    assert '"unique_request_id":1e2' in openai.texts[-1]


async def test_half_an_emoji_becomes_a_replacement_and_the_message_lives(
    openai: Client, upstream: Upstream
) -> None:
    reply = await openai.say("half \ud83d of it")
    assert reply.text == "Hello there."
    assert upstream.requests[0].body["messages"][-1]["content"] == "half \ufffd of it"


async def test_a_binary_frame_of_json_is_a_message(client: Client) -> None:
    request = {"type": "get_providers", "unique_request_id": "b"}
    await client.send_raw(json.dumps(request).encode(), meant=request)
    await client.wait(lambda m: m["type"] == "get_providers_done")


HOSTILE: dict[str, str | bytes] = {
    "not JSON": "{",
    "empty": "",
    "a list": "[]",
    "null": "null",
    "no type": "{}",
    "an unknown type": '{"type": "generat"}',
    "a type that is no string": '{"type": 1}',
    "NaN": '{"type": NaN}',
    "deep": '{"type": ' + "[" * 20_000,
    "not UTF-8": b'{"type": "\xff"}',
    "zeros": "\x00" * 100,
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_message_that_is_none_is_answered_and_disturbs_nobody(
    module: Module, openai: Client, upstream: Upstream, name: str
) -> None:
    upstream.behaviour = Behaviour(gate_after=1)
    ours = await openai.generate()
    await openai.chunk(ours)
    async with connect(module) as hostile:
        await hostile.send_raw(HOSTILE[name])
        error = await hostile.wait(lambda m: m["type"] == "error")
        assert (error["error_name"], error["is_error"]) == ("INVALID_REQUEST", True)
        await hostile.ask({"type": "get_providers", "unique_request_id": "p"}, "get_providers_done")
    upstream.gate.set()
    assert (await openai.end(ours)).text == "Hello there."


BROKEN: dict[str, dict[str, Any]] = {
    "no messages": {"messages": []},
    "messages that are none": {"messages": "Hello"},
    "a role that is none": {"messages": [{"role": "cat", "content": "meow"}]},
    "a temperature that is none": {"params": {"temperature": "hot"}},
    "a timeout of nothing": {"params": {"timeout_ms": 0}},
}


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "unstreamed"])
@pytest.mark.parametrize("name", BROKEN)
async def test_a_request_that_breaks_the_protocol_fails_with_its_own_end(
    openai: Client, name: str, stream: bool
) -> None:
    reply = await openai.say(stream=stream, **BROKEN[name])
    assert (reply.code, reply.end["error"]) == ("INVALID_REQUEST", "INVALID_PROMPT")
    assert (await openai.say()).text == "Hello there."


async def test_an_id_in_use_is_an_error_and_the_first_request_lives(
    openai: Client, upstream: Upstream
) -> None:
    upstream.behaviour = Behaviour(gate_after=1)
    request = await openai.generate(unique_request_id="twice")
    await openai.chunk(request)
    await openai.send_raw(
        json.dumps(
            {"type": "generate", "unique_request_id": "twice", "messages": prompt("Hi"), "stream": True}
        )
    )
    error = await openai.wait(lambda m: m["type"] == "error")
    assert (error["unique_request_id"], error["error_name"]) == ("twice", "DUPLICATE_ID")
    upstream.gate.set()
    assert (await openai.end(request)).text == "Hello there."


async def test_an_unknown_provider_fails_with_its_own_end_and_a_hint(client: Client) -> None:
    done = await client.load("opnai")
    assert (done["error"], done["error_code"]) == ("INVALID_PROVIDER", 4)
    assert "openai" in done["message"]


async def test_a_client_that_sends_no_json_for_long_and_then_vanishes_does_no_harm(
    module: Module, openai: Client
) -> None:
    async with connect(module) as hostile:
        for _ in range(200):
            await hostile.send_raw("x" * 1000)
        await hostile.vanish()
    assert (await openai.say()).text == "Hello there."

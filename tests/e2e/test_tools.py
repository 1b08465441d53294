"""Calls of tools through the real module: to a provider and back, and on llama.cpp, which makes them real."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import jsonschema
import pytest

from supervisor.catalog import load_catalog
from supervisor.home import find_home
from supervisor.provision import Recipe, provision
from tests.e2e.client import Client, Reply, connect
from tests.e2e.module import Installation, Module
from tests.e2e.upstream import Upstream
from tests.fakes.openai_server import Behaviour
from tests.fakes.wire import Call
from tests.wheelhouse import CHECKOUT, repack_lock

ENV: Final = "llama-cpp"
TALK_S: Final = 20.0
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city", "days"],
}
TOOL: Final = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
CALLS: Final = (
    Call("call_1", "weather", ('{"city": "Oslo"', ', "days": 1}')),
    Call("call_2", "weather", ('{"city": "Rome", "days": 2, "é": "😀"}',)),
)
WHOLE: Final = [
    {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": "".join(call.arguments)},
    }
    for call in CALLS
]
ASKS: Final[dict[str, Any]] = {"params": {"tools": [TOOL], "tool_choice": "auto"}}
LONG_CHARS: Final = 400_000
"""Of arguments: more than a frame of text has, and than a request may send before a client has taken any."""


@pytest.fixture(params=[True, False], ids=["seed", "sdk"])
def talker(request: pytest.FixtureRequest, module: Module, upstream: Upstream) -> Any:
    """A connection that has loaded openai, in each dialect; `module` is named so that it is there before."""
    return request.getfixturevalue("seed_openai" if request.param else "openai")


def pieces(client: Client) -> list[dict[str, Any]]:
    """What came of calls piece by piece."""
    return [message for message in client.received if message["type"] == "generate_tool_call_chunk"]


def calling(**fields: Any) -> Behaviour:
    return Behaviour(**{"texts": ("Let me see.",), "calls": CALLS, "finish_reason": "tool_calls", **fields})


@pytest.mark.parametrize("deltas", [True, False], ids=["pieces", "no pieces"])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "unstreamed"])
async def test_calls_are_on_the_end_and_their_pieces_are_for_who_asked(
    talker: Client, upstream: Upstream, stream: bool, deltas: bool
) -> None:
    upstream.behaviour = calling()
    fields: dict[str, Any] = {"tool_deltas": True} if deltas else {}
    reply = await talker.say(stream=stream, **ASKS, **fields)
    assert (reply.code, reply.text) == ("SUCCESS", "Let me see.")
    assert (reply.end["finish_reason"], reply.end["tool_calls"]) == ("tool_calls", WHOLE)
    assert "warnings" not in reply.end
    told = pieces(talker)
    assert bool(told) is (stream and deltas)
    if told:
        for number, call in enumerate(WHOLE):
            of_it = [piece for piece in told if piece["index"] == number]
            assert {(piece["id"], piece["name"]) for piece in of_it} == {(call["id"], "weather")}
            arguments = "".join(piece["arguments"] for piece in of_it)
            assert arguments == call["function"]["arguments"]  # type: ignore[index]  # JSON


async def test_calls_go_back_as_they_came_and_with_what_the_tools_said(
    openai: Client, upstream: Upstream
) -> None:
    upstream.behaviour = calling(texts=())
    history: list[dict[str, Any]] = [{"role": "user", "content": "Where does it rain?"}]
    first = await openai.say(messages=history, **ASKS)
    history.append({"role": "assistant", "content": first.text, "tool_calls": first.end["tool_calls"]})
    ids = [call["id"] for call in first.end["tool_calls"]]
    history += [{"role": "tool", "tool_call_id": one, "content": f"Rain for {one}."} for one in ids]
    upstream.behaviour = Behaviour()
    assert (await openai.say(messages=history, **ASKS)).text == "Hello there."
    sent = upstream.requests[1].body
    assert (sent["tools"], sent["tool_choice"]) == ([TOOL], "auto")
    assert sent["messages"][1] == {"role": "assistant", "content": None, "tool_calls": WHOLE}
    assert [message["content"] for message in sent["messages"][2:]] == [
        "Rain for call_1.",
        "Rain for call_2.",
    ]


async def test_a_conversation_of_old_goes_upstream_as_one_of_today(
    openai: Client, upstream: Upstream
) -> None:
    history = [
        {"role": "user", "content": "Where does it rain?"},
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
        {"role": "function", "name": "weather", "content": "In Oslo."},
    ]
    assert (await openai.say(messages=history)).code == "SUCCESS"
    call, answer = upstream.requests[0].body["messages"][1:]
    assert answer == {"role": "tool", "content": "In Oslo.", "tool_call_id": call["tool_calls"][0]["id"]}


async def test_an_interrupt_amid_a_call_ends_it_and_half_a_call_is_not_told(
    openai: Client, upstream: Upstream
) -> None:
    upstream.behaviour = calling(texts=(), gate_after=2)
    request = await openai.generate(tool_deltas=True, **ASKS)
    await openai.wait(lambda message: message.get("arguments") == CALLS[0].arguments[0])
    await openai.interrupt()
    reply = await openai.end(request)
    assert (reply.code, "tool_calls" in reply.end) == ("INTERRUPT", False)
    await upstream.closed(0)


@pytest.mark.parametrize("deltas", [True, False], ids=["pieces", "no pieces"])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "unstreamed"])
async def test_long_arguments_arrive_whole(
    openai: Client, upstream: Upstream, stream: bool, deltas: bool
) -> None:
    long = ("[", *("0," * 2000 for _ in range(LONG_CHARS // 4000)), "0]")
    upstream.behaviour = calling(texts=(), calls=(Call("call_1", "write", long),))
    params = {**ASKS["params"], "max_output_length": LONG_CHARS}
    fields: dict[str, Any] = {"tool_deltas": True} if deltas else {}
    reply = await openai.say(stream=stream, params=params, timeout_s=TALK_S, **fields)
    ((call),) = reply.end["tool_calls"]
    assert call["function"]["arguments"] == "".join(long)
    assert "".join(piece["arguments"] for piece in pieces(openai)) == (
        "".join(long) if stream and deltas else ""
    )


async def test_a_call_of_a_seeds_client_needs_no_words(talker: Client, upstream: Upstream) -> None:
    upstream.behaviour = calling(texts=())
    reply = await talker.say(stream=False, **ASKS)
    assert (reply.code, reply.end["response"]) == ("SUCCESS", "")
    assert "warnings" not in reply.end


async def test_a_provider_without_tools_leaves_them_out_and_refuses_their_messages(client: Client) -> None:
    await client.load("demo", options={"replies": [{"text": "From the script."}]})
    reply = await client.say(tool_deltas=True, **ASKS)
    assert reply.text == "From the script."
    assert [warning["message"].split()[0] for warning in reply.end["warnings"]] == ["tools", "tool_choice"]
    refused = await client.say(messages=[{"role": "tool", "tool_call_id": "a", "content": "x"}])
    assert (refused.code, refused.end["error"]) == ("UNSUPPORTED", "INVALID_PROMPT")


async def test_an_answer_that_names_no_call_breaks_the_protocol(openai: Client, upstream: Upstream) -> None:
    reply = await openai.say(messages=[{"role": "tool", "content": "x"}])
    assert reply.code == "INVALID_REQUEST"
    assert "tool_call_id" in reply.end["message"]
    assert upstream.requests == []


# ---- llama.cpp


@pytest.fixture(scope="module")
def local_module(unprovisioned: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Module]:
    """A module with the engine in an environment of its own, and a model that calls tools in HOME/models."""
    from tests.fakes.tool_model import make_calling_model  # here: it imports what a run without engines lacks

    home = tmp_path_factory.mktemp("hôme with a caller")
    lock = unprovisioned.checkout / "locks" / f"{ENV}.txt"
    lock.write_text(repack_lock(unprovisioned.wheels, CHECKOUT / "locks" / f"{ENV}.txt"), encoding="utf-8")
    imports = load_catalog(unprovisioned.checkout / "venvs.toml").envs[ENV].imports
    provision(find_home(str(home), {}), Recipe(ENV, lock, imports), wheelhouse=unprovisioned.wheels)
    (home / "models").mkdir()
    make_calling_model(home / "models" / "caller.gguf")
    place = Installation(unprovisioned.checkout, home, unprovisioned.wheels)
    with Module(place, variables={"HF_HUB_CACHE": str(home / "no hub")}) as running:
        yield running


@pytest.fixture
async def local(local_module: Module) -> AsyncIterator[Client]:
    """A connection that has the model."""
    async with connect(local_module) as client:
        options = {"threads": 1, "context_length": 2048}
        done = await client.load("local", preload_model_id="caller", options=options, timeout_s=TALK_S)
        assert done["is_error"] is False, done
        yield client


async def ask_for_weather(client: Client, **fields: Any) -> Reply:
    extra = {"logit_bias": [[2, 100]]}  # ENDS_WHEN_IT_MAY of tests.fakes.tool_model
    params = {"tools": [TOOL], "tool_choice": "required", "max_output_length": 500, "extra": extra}
    return await client.say(params=params, timeout_s=TALK_S, **fields)


@pytest.mark.foreign
@pytest.mark.install
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "unstreamed"])
async def test_llama_cpp_calls_a_tool_with_arguments_of_its_schema(local: Client, stream: bool) -> None:
    reply = await ask_for_weather(local, stream=stream, tool_deltas=True)
    (call,) = reply.end["tool_calls"]
    assert (reply.code, reply.end["finish_reason"]) == ("SUCCESS", "tool_calls")
    jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMA)
    told = "".join(piece["arguments"] for piece in pieces(local))
    assert told == (call["function"]["arguments"] if stream else "")


@pytest.mark.foreign
@pytest.mark.install
async def test_llama_cpp_goes_on_with_what_the_tool_said(local: Client) -> None:
    history: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
    first = await ask_for_weather(local)
    history.append({"role": "assistant", "tool_calls": first.end["tool_calls"]})
    called = first.end["tool_calls"][0]["id"]
    history.append({"role": "tool", "tool_call_id": called, "content": "It rains."})
    params = {"tools": [TOOL], "tool_choice": "none", "max_output_length": 5}
    second = await local.say(messages=history, params=params, timeout_s=TALK_S)
    assert second.code == "SUCCESS"
    assert second.end["usage"]["input_tokens"] > first.end["usage"]["input_tokens"] + len("It rains.")

"""What a client asked for reaches the provider, and what it did not ask for is kept out of the words."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.client import Client
from tests.e2e.upstream import Upstream
from tests.fakes.openai_server import Behaviour

STREAMED = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "unstreamed"])


@STREAMED
async def test_usage_is_passed_on(openai: Client, upstream: Upstream, stream: bool) -> None:
    reply = await openai.say(stream=stream)
    usage = reply.end["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (7, 3)
    assert reply.end["finish_reason"] == "stop"
    assert reply.end["timings_ms"]["total"] >= 0


@STREAMED
async def test_stop_strings_cut_the_words_wherever_they_are_split(
    openai: Client, upstream: Upstream, stream: bool
) -> None:
    upstream.behaviour = Behaviour(texts=("One. ", "US", "ER", ": two"))
    stops = ["USER:", "\nA", "\nB", "\nC", "\nD", "\nE"]
    reply = await openai.say(stream=stream, params={"stop_tokens": stops})
    assert reply.text == "One. "
    assert reply.end["finish_reason"] == "stop"


async def test_names_reach_the_provider_and_an_echo_of_the_character_s_is_removed(
    openai: Client, upstream: Upstream
) -> None:
    upstream.behaviour = Behaviour(texts=("Mi", "a: ", "Hello, Mia: you."))
    messages = [
        {"role": "system", "content": "Be Mia."},
        {"role": "user", "content": "Hi", "name": "Ann Lee"},
        {"role": "assistant", "content": "Yes?", "name": "Mia"},
        {"role": "user", "content": "Go on.", "name": "Ann Lee"},
    ]
    reply = await openai.say(messages=messages, params={"character_name": "Mia"})
    assert reply.text == "Hello, Mia: you."
    sent = upstream.requests[0].body["messages"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "user"]
    assert "Ann" in sent[1].get("name", "") + sent[1]["content"]


@STREAMED
async def test_thinking_is_no_part_of_the_words(openai: Client, upstream: Upstream, stream: bool) -> None:
    upstream.behaviour = Behaviour(texts=("<th", "ink>secret</th", "ink>Hello."), reasoning=("also secret",))
    reply = await openai.say(stream=stream)
    assert reply.text.strip() == "Hello."
    assert "secret" not in "".join(openai.texts)


async def test_every_letter_survives_the_way(openai: Client, upstream: Upstream) -> None:
    upstream.behaviour = Behaviour(texts=("初音ミク ", "😀", "👩‍👩‍👧 ", "\u0000\u2028", "é"))
    reply = await openai.say("初音 😀 é \u2028")
    assert reply.text == "初音ミク 😀👩‍👩‍👧 \u0000\u2028é"
    assert upstream.requests[0].body["messages"][-1]["content"] == "初音 😀 é \u2028"


async def test_parameters_reach_the_provider_and_what_it_lacks_is_a_warning(
    openai: Client, upstream: Upstream
) -> None:
    params = {
        "model_id": "fake-large",
        "temperature": 0.5,
        "max_output_length": 33,
        "top_p": 0.9,
        "top_k": 5,
        "seed": 4,
    }
    reply = await openai.say(params=params)
    body = upstream.requests[0].body
    assert (body["model"], body["temperature"], body["max_completion_tokens"]) == ("fake-large", 0.5, 33)
    assert (body["top_p"], body["seed"], "top_k" in body) == (0.9, 4, False)
    assert any("top_k" in warning["message"] for warning in reply.end["warnings"])


@STREAMED
async def test_an_answer_of_nothing_is_a_success_with_a_warning(
    openai: Client, upstream: Upstream, stream: bool
) -> None:
    upstream.behaviour = Behaviour(texts=(), reasoning=("Hm.",), finish_reason="length")
    reply = await openai.say(stream=stream)
    assert (reply.code, reply.text) == ("SUCCESS", "")
    assert "EMPTY_REPLY" in [warning["name"] for warning in reply.end["warnings"]]


async def test_another_loaded_provider_can_be_named_for_one_request(
    openai: Client, upstream: Upstream
) -> None:
    await openai.load("demo", options={"replies": [{"text": "From the script."}]})
    assert (await openai.say(provider="openai")).text == "Hello there."
    assert (await openai.say()).text == "From the script."
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("asked", ["sentences", "reasoning"])
async def test_what_has_no_code_yet_is_unsupported_and_costs_nothing(
    openai: Client, upstream: Upstream, asked: str
) -> None:
    fields: dict[str, Any] = {asked: True}
    reply = await openai.say(**fields)
    assert (reply.code, reply.end["error"]) == ("UNSUPPORTED", "INVALID_PROMPT")
    assert upstream.requests == []


async def test_a_long_reply_arrives_whole_and_in_order(openai: Client, upstream: Upstream) -> None:
    pieces = tuple(f"{number:05d} " + "x" * 500 + "\n" for number in range(1000))
    upstream.behaviour = Behaviour(texts=pieces)
    assert (await openai.say(params={"max_output_length": 1_000_000}, timeout_s=20)).text == "".join(pieces)

"""What Ollama's wire has of its own: models that are loaded, fetched, unloaded, and thinking that is refused.

What it shares with all others is in test_contract.py. captured/ollama.json holds what Ollama's own package
sends and reads, and what a real Ollama once answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest

from supervisor.catalog import load_catalog
from tests.fakes.bound import (
    CANARY,
    bound,
    cancelled,
    collect,
    finish_of,
    load_only,
    reasoning_of,
    request,
    text_of,
)
from tests.fakes.http_server import Exchange
from tests.fakes.ollama_server import PULLED, OllamaServer, loading
from tests.fakes.wire import Behaviour, Received
from tests.fakes.wires.ollama import OllamaWire, line, listing
from workers import ollama_pull
from workers.adapter import Adapter, AdapterError, Loaded, LoadRequest, Message, Usage
from workers.adapters import ollama as adapters_ollama
from workers.adapters.ollama import USUAL, Ollama
from workers.codes import Code
from workers.quirks import Quirks

CHECKOUT: Final = Path(__file__).parents[3]
SPEC: Final = CHECKOUT.parent / "shared" / "specs" / "ollama.json"
"""An excerpt of docs/openapi.yaml; optional, the tests that need it say so when it is missing."""
CAPTURED: Final = json.loads((Path(__file__).parent / "captured" / "ollama.json").read_text(encoding="utf-8"))
ANSWERS: Final = {answer["name"]: answer for answer in CAPTURED["answers"]}
PROMPT: Final = CAPTURED["prompt"]
PROVIDER: Final = load_catalog(CHECKOUT / "venvs.toml").providers["ollama"]
REFUSED: Final = b'{"error":"\\"fake-small\\" does not support thinking"}'
LEVEL_REFUSED: Final = b'{"error":"think value \\"high\\" is not supported for this model"}'


@pytest.fixture
async def ollama() -> AsyncIterator[OllamaServer]:
    """An Ollama."""
    async with OllamaServer() as running:
        yield running


@pytest.fixture
async def adapter(ollama: OllamaServer) -> AsyncIterator[Adapter]:
    """The adapter as the catalogue has it, loaded."""
    made = of(ollama)
    await load_only(made)
    yield made
    await made.close()


def of(ollama: OllamaServer, *, pull: bool = False, door: str = "", **options: Any) -> Adapter:
    """An adapter that is not loaded."""
    quirks = {**PROVIDER.quirks, "pull": pull}
    return bound(ollama.base_url + door, quirks, adapter=Ollama, options=options)


async def preloaded(made: Adapter, model: str = "fake-small") -> Loaded:
    """Loads with a model."""
    return await load_only(made, LoadRequest(preload_model=model))


async def refusal(made: Adapter, model: str = "nonesuch") -> AdapterError:
    """The error of a load with a model."""
    with pytest.raises(AdapterError) as caught:
        await preloaded(made, model)
    await made.close()
    return caught.value


def sent(ollama: OllamaServer, path: str = "/api/chat") -> list[Mapping[str, Any]]:
    """The bodies of what was posted there."""
    return [received.body for received in ollama.requests if received.path == path]


# ---- beside Ollama's own package, its schema, and a real one


def captured_prompt(*, stream: bool) -> dict[str, Any]:
    """The prompt of the capture, as a request of ours."""
    messages = [("system", PROMPT["system"]), *map(tuple, PROMPT["messages"])]
    return {
        "model": PROMPT["model"],
        "max_output_length": PROMPT["max_tokens"],
        "messages": tuple(Message(role, content) for role, content in messages),
        "stop": tuple(PROMPT["stop"]),
        "temperature": PROMPT["temperature"],
        "sampling": PROMPT["sampling"],
        "stream": stream,
    }


def same(ours: Received, theirs: Mapping[str, Any], *without: str) -> None:
    """It is the same request; `without` are fields that only ours has."""
    body = {name: value for name, value in (ours.body or {}).items() if name not in without} or None
    assert (ours.method, ours.path, body) == (theirs["method"], theirs["path"], theirs["body"])
    if body:
        assert ours.headers["content-type"] == theirs["headers"]["content-type"]
    assert ours.headers["authorization"].startswith("Bearer ")
    assert theirs["headers"]["authorization"].startswith("Bearer ")


@pytest.mark.foreign
@pytest.mark.parametrize(("name", "stream"), [("streamed", True), ("whole", False)])
async def test_what_is_sent_is_what_ollamas_package_sends(
    ollama: OllamaServer, name: str, stream: bool
) -> None:
    made = of(ollama, **PROMPT["options"])
    await load_only(made)
    await collect(made, request(**captured_prompt(stream=stream)))
    await made.close()
    same(ollama.requests[0], CAPTURED["sent"][name])
    same(ollama.lists[0], CAPTURED["sent"]["list"])


@pytest.mark.foreign
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("not thinking", {}),
        ("thinking", {"reasoning_effort": "high"}),
        ("json", {"response_format": {"type": "json_object"}}),
        (
            "schema",
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {"type": "object", "properties": {}}},
                }
            },
        ),
    ],
)
async def test_thinking_and_formats_are_said_as_ollamas_package_says_them(
    ollama: OllamaServer, name: str, fields: dict[str, Any]
) -> None:
    ollama.models = Behaviour(body=listing("fake-small", capabilities=["completion", "thinking"]))
    made = of(ollama)
    await load_only(made)
    await collect(made, request(**{**captured_prompt(stream=False), "stop": (), **fields}))
    await made.close()
    same(ollama.requests[0], CAPTURED["sent"][name], "options", *(() if "think" in name else ("think",)))


@pytest.mark.foreign
async def test_a_model_is_fetched_loaded_and_unloaded_as_ollamas_package_does(ollama: OllamaServer) -> None:
    ollama.model_names = ()
    made = of(ollama, pull=True, unload_on_close=True, **PROMPT["options"])
    ollama.loading = not_yet_there(ollama)
    await preloaded(made)
    await made.close()
    first, pulled, loaded, unloaded = ollama.requests
    same(first, CAPTURED["sent"]["load"])
    assert pulled.body == {"model": "fake-small", "stream": True}
    assert CAPTURED["sent"]["pull"]["body"] == {**pulled.body, "insecure": False}
    same(loaded, CAPTURED["sent"]["load"])
    assert {**unloaded.body, "model": "fake-small"} == CAPTURED["sent"]["unload"]["body"]


@pytest.mark.foreign
@pytest.mark.parametrize("how", ["stream", "whole"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_is_read_as_ollamas_package_reads_it(
    ollama: OllamaServer, adapter: Adapter, name: str, how: str
) -> None:
    answer = ANSWERS[name]
    if how == "stream":
        ollama.behaviour = Behaviour(events=tuple(line(json.loads(text)) for text in answer["stream"]))
    else:
        ollama.behaviour = Behaviour(body=json.dumps(answer["whole"]).encode())
    events = await collect(adapter, request(stream=how == "stream"))
    read, finish = answer["read"][how], finish_of(events)
    assert (text_of(events), reasoning_of(events)) == (read["text"], read["thinking"])
    assert (finish.model, finish.reason) == (read["model"], read["done_reason"] or "stop")
    counts = (read["prompt_eval_count"], read["eval_count"])
    assert finish.usage == (None if counts == (None, None) else Usage(*counts))


@pytest.mark.foreign
async def test_what_a_real_ollama_answered_is_read(ollama: OllamaServer, adapter: Adapter) -> None:
    recorded = CAPTURED["recorded"]
    ollama.behaviour = Behaviour(
        events=("\n".join(recorded["stream"]).encode() + b"\n",),
        headers={"Content-Type": recorded["content_type"]},
    )
    events = await collect(adapter, request())
    read, finish = recorded["read"], finish_of(events)
    assert (text_of(events), finish.reason, finish.model) == (read["text"], read["reason"], read["model"])
    assert finish.usage == Usage(read["input_tokens"], read["output_tokens"])


@pytest.mark.foreign
def test_the_answers_of_the_capture_are_those_of_our_fake() -> None:
    wire = OllamaWire()
    plain = ANSWERS["plain"]
    assert [json.loads(text) for text in plain["stream"]] == list(map(json.loads, wire.events(Behaviour())))
    assert plain["whole"] == json.loads(wire.whole(Behaviour()))
    assert CAPTURED["tags"] == json.loads(listing(*CAPTURED["tags_read"]))
    assert [read[0] for read in CAPTURED["pull"]["read"]][-1] == json.loads(PULLED[-1])["status"]


def valid(schema: str, value: object) -> None:
    """It is what Ollama publishes."""
    document = json.loads(SPEC.read_text(encoding="utf-8"))
    reference = {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}
    jsonschema.Draft202012Validator(reference).validate(value)


@pytest.mark.foreign
async def test_requests_and_answers_are_what_ollama_publishes(ollama: OllamaServer) -> None:
    if not SPEC.is_file():
        pytest.skip(f"{SPEC.name} is not here: requests and answers are not validated")
    made = of(ollama, pull=True, unload_on_close=True, **PROMPT["options"])
    ollama.model_names = ("other",)
    await preloaded(made)
    for stream in (True, False):
        for fields in ({}, {"reasoning_effort": "minimal"}, {"response_format": {"type": "json_object"}}):
            await collect(made, request(**{**captured_prompt(stream=stream), **fields}))
    await made.close()
    for body in sent(ollama):
        valid("ChatRequest", body)
    for body in sent(ollama, "/api/pull"):
        valid("PullRequest", body)
    wire = OllamaWire()
    for behaviour in (Behaviour(), Behaviour(reasoning=("hm",), finish_reason="length", usage=None)):
        valid("ChatResponse", json.loads(wire.whole(behaviour)))
        for event in (*wire.events(behaviour), *wire.quiet()):
            valid("ChatStreamEvent", json.loads(event))
    for told in PULLED:
        valid("StatusEvent", json.loads(told))
    valid("ListResponse", json.loads(listing("a", "b")))
    valid("ErrorResponse", json.loads(wire.error(400, "no")))


# ---- a load with a model


def not_yet_there(ollama: OllamaServer) -> Any:
    """A server that does not know the model until it was fetched."""

    async def answer(exchange: Exchange) -> None:
        there = any(received.path == "/api/pull" for received in ollama.requests)
        body = loading().body if there else b'{"error":"model \'fake-small\' not found"}'
        assert body is not None
        status = 200 if there else 404
        await exchange.head(status, {"Content-Type": "application/json"}, length=len(body))
        await exchange.send(body)

    return answer


async def test_a_model_that_is_there_is_loaded_with_its_options(ollama: OllamaServer) -> None:
    made = of(ollama, num_ctx=8192, keep_alive="1h")
    result = await preloaded(made)
    assert result.model_ms is not None
    await collect(made, request())
    await made.close()
    loaded, asked = sent(ollama)
    assert loaded["messages"] == []
    for body in (loaded, asked):  # another size of the context would load it anew
        assert (body["options"]["num_ctx"], body["keep_alive"]) == (8192, "1h")


async def test_a_load_without_a_model_loads_none(ollama: OllamaServer) -> None:
    made = of(ollama)
    assert (await load_only(made)).model_ms is None
    await made.close()
    assert ollama.requests == []


@pytest.mark.parametrize("model", ["fake-small", "FAKE-SMALL", "fake-small:latest", "Fake-Small:Latest"])
async def test_a_name_is_known_whatever_its_case_and_without_its_tag(
    ollama: OllamaServer, model: str
) -> None:
    ollama.model_names = ("fake-small:latest", "hf.co/a/b:q4")
    made = of(ollama)
    await preloaded(made, model)
    await made.close()
    assert sent(ollama)[0]["model"] == model


async def test_a_model_that_runs_elsewhere_is_neither_listed_nor_loaded(ollama: OllamaServer) -> None:
    made = of(ollama)
    await preloaded(made, "gpt-oss:120b-cloud")
    await made.close()
    assert ollama.requests == []


async def test_a_model_that_is_missing_is_told_with_the_nearest_and_how_to_get_it(
    ollama: OllamaServer,
) -> None:
    error = await refusal(of(ollama), "fake-smal")
    assert error.code is Code.INVALID_MODEL
    assert "fake-small" in error.message
    assert "`ollama pull fake-smal`" in error.message
    assert ollama.requests == []  # nothing is fetched unless the operator allows it


async def test_a_model_that_a_server_without_a_list_lacks_is_told(ollama: OllamaServer) -> None:
    ollama.model_names = ()
    ollama.loading = not_yet_there(ollama)
    error = await refusal(of(ollama), "fake-small")
    assert (error.code, "`ollama pull fake-small`" in error.message) == (Code.INVALID_MODEL, True)


async def test_a_model_that_is_missing_is_fetched_where_the_operator_allows_it(ollama: OllamaServer) -> None:
    async def fetched(exchange: Exchange) -> None:
        ollama.model_names = (*ollama.model_names, "new:latest")
        await exchange.head(200, {"Content-Type": "application/x-ndjson"}, chunked=True)
        for told in PULLED:
            await exchange.send(told)
        await exchange.end()

    ollama.pull = fetched
    told: list[float | None] = []
    made = of(ollama, pull=True)
    loaded = await made.load(LoadRequest(preload_model="new"), lambda phase, words, done: told.append(done))
    await made.close()
    assert "new:latest" in loaded.models
    assert loaded.model_ms is not None
    assert 0.25 in told
    assert [received.path for received in ollama.requests] == ["/api/pull", "/api/chat"]


async def test_a_model_that_nobody_has_is_told(ollama: OllamaServer) -> None:
    ollama.pull = Behaviour(events=(line({"error": "pull model manifest: file does not exist"}),))
    error = await refusal(of(ollama, pull=True))
    assert (error.code, "'nonesuch'" in error.message) == (Code.INVALID_MODEL, True)


async def test_an_interrupt_stops_the_download(ollama: OllamaServer) -> None:
    ollama.pull = Behaviour(events=PULLED, gate_after=3)
    made = of(ollama, pull=True)
    task = asyncio.ensure_future(preloaded(made, "new"))
    await ollama.received(1)
    await cancelled(task)
    await ollama.closed(0)


async def test_loading_is_told_again_and_again_and_an_interrupt_ends_it(
    ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ollama_pull, "BEAT_S", 0.001)
    ollama.loading = Behaviour(gate_before_head=True)
    enough = asyncio.Event()
    told: list[str] = []

    def report(phase: str, message: str, fraction: float | None) -> None:
        told.append(phase)
        if told.count("model") == 3:
            enough.set()

    made = of(ollama)
    task = asyncio.ensure_future(made.load(LoadRequest(preload_model="fake-small"), report))
    await asyncio.wait_for(enough.wait(), 5)
    await cancelled(task)
    await ollama.closed(0)


async def test_a_model_that_does_not_fit_is_out_of_memory(ollama: OllamaServer) -> None:
    words = "model requires more system memory (39.4 GiB) than is available (11.2 GiB)"
    ollama.loading = Behaviour(status=500, body=json.dumps({"error": words}).encode())
    error = await refusal(of(ollama), "fake-large")
    assert (error.code, error.provider_status) == (Code.OUT_OF_MEMORY, 500)
    assert "smaller" in error.message


async def test_a_model_that_cannot_be_loaded_fails_the_load(ollama: OllamaServer) -> None:
    ollama.loading = Behaviour(status=500, body=b'{"error": "llama runner process has terminated"}')
    assert (await refusal(of(ollama), "fake-small")).code is Code.UPSTREAM_ERROR
    ollama.loading = Behaviour(status=400, body=b'{"error": "\\"fake-small\\" does not support chat"}')
    error = await refusal(of(ollama), "fake-small")
    assert (error.code, "does not support chat" in error.message) == (Code.INVALID_PROMPT, True)


async def test_a_load_that_never_ends_is_ended(ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters_ollama, "WARM_MAX_S", 0.05)
    ollama.loading = Behaviour(gate_before_head=True)
    assert (await refusal(of(ollama), "fake-small")).code is Code.TIMEOUT
    await ollama.closed(0)


async def test_a_server_that_does_not_run_is_to_be_started() -> None:
    async with OllamaServer() as gone:
        made = of(gone)
    error = await refusal(made)
    assert error.code is Code.UNREACHABLE
    assert "start Ollama" in error.message


@pytest.mark.parametrize("door", ["/v1", "/v1/", "/"])
async def test_an_address_of_its_openai_door_is_understood(ollama: OllamaServer, door: str) -> None:
    made = of(ollama, door=door)
    await load_only(made)
    await collect(made, request())
    await made.close()
    assert [received.path for received in (*ollama.lists, *ollama.requests)] == ["/api/tags", "/api/chat"]


async def test_an_option_that_cannot_be_meant_is_refused_before_anything_is_sent(
    ollama: OllamaServer,
) -> None:
    with pytest.raises(AdapterError) as caught:
        await load_only(of(ollama, num_ctx="many"))
    assert caught.value.code is Code.INVALID_REQUEST
    assert ollama.connections == 0


async def test_an_option_without_a_meaning_is_a_warning(ollama: OllamaServer) -> None:
    made = of(ollama, region="x")
    assert [warning.name for warning in (await load_only(made)).warnings] == ["UNKNOWN_OPTION"]
    await made.close()


# ---- which model


async def test_without_a_name_the_only_model_answers(ollama: OllamaServer) -> None:
    ollama.model_names = ("only:7b",)
    made = of(ollama)
    await load_only(made)
    await collect(made, request(model=""))
    await made.close()
    assert sent(ollama)[0]["model"] == "only:7b"


@pytest.mark.parametrize(("names", "hint"), [(("a", "b"), "get_models"), ((), "ollama pull")])
async def test_without_a_name_and_without_an_only_one_nothing_is_asked(
    ollama: OllamaServer, names: tuple[str, ...], hint: str
) -> None:
    ollama.model_names = names
    made = of(ollama)
    await load_only(made)
    with pytest.raises(AdapterError) as caught:
        await collect(made, request(model=""))
    await made.close()
    assert (caught.value.code, hint in caught.value.message) == (Code.INVALID_MODEL, True)
    assert ollama.requests == []


async def test_a_binding_that_is_not_loaded_says_so(ollama: OllamaServer) -> None:
    with pytest.raises(AdapterError) as caught:
        await collect(of(ollama), request())
    assert caught.value.code is Code.NOT_LOADED


# ---- thinking, as the server tells it or refuses it


@pytest.mark.parametrize(
    ("capabilities", "think", "stops"),
    [(["completion"], None, ["END"]), (["completion", "thinking"], False, None), (None, False, None)],
    ids=["does not think", "thinks", "not told"],
)
async def test_what_the_server_says_of_its_models_decides(
    ollama: OllamaServer, capabilities: list[str] | None, think: object, stops: list[str] | None
) -> None:
    ollama.models = Behaviour(body=listing("fake-small:latest", capabilities=capabilities))
    made = of(ollama)
    await load_only(made)
    await collect(made, request(stop=("END",)))
    await made.close()
    body = sent(ollama)[0]
    assert (body.get("think"), body["options"].get("stop")) == (think, stops)


async def test_a_model_that_refuses_think_is_asked_again_without_it_and_then_at_once(
    ollama: OllamaServer,
) -> None:
    ollama.models = Behaviour(body=listing("fake-small", capabilities=None))
    made = of(ollama)
    await load_only(made)
    ollama.script = [Behaviour(status=400, body=REFUSED)]
    finish = finish_of(await collect(made, request()))
    assert (finish.retries, finish.warnings) == (1, ())
    finish = finish_of(await collect(made, request(reasoning_effort="high")))
    assert [warning.name for warning in finish.warnings] == ["PARAMETER_LEFT_OUT"]
    await made.close()
    assert [body.get("think") for body in sent(ollama)] == [False, None, None]


async def test_a_model_without_levels_is_asked_again_to_think_at_all(ollama: OllamaServer) -> None:
    ollama.models = Behaviour(body=listing("fake-small", capabilities=None))
    made = of(ollama)
    await load_only(made)
    ollama.script = [Behaviour(status=400, body=LEVEL_REFUSED)]
    finish = finish_of(await collect(made, request(reasoning_effort="high")))
    assert [warning.name for warning in finish.warnings] == ["PARAMETER_CHANGED"]
    await made.close()
    assert [body.get("think") for body in sent(ollama)] == ["high", True]


async def test_a_model_that_only_knows_levels_gets_the_least(ollama: OllamaServer, adapter: Adapter) -> None:
    await collect(adapter, request(model="gpt-oss:20b", stop=("END",)))
    body = sent(ollama)[0]
    assert (body["think"], body["options"]["num_predict"]) == ("low", 200 + 2048)
    assert "stop" not in body["options"]


async def test_the_last_line_may_lack_its_end(ollama: OllamaServer, adapter: Adapter) -> None:
    lines = b"".join(OllamaWire().events(Behaviour()))
    ollama.behaviour = Behaviour(events=(lines[:-1],))
    finish = finish_of(await collect(adapter, request()))
    assert finish.usage == Usage(7, 3)
    ollama.behaviour = Behaviour(events=(b'{"error": "out of luck"}',))
    with pytest.raises(AdapterError) as caught:
        await collect(adapter, request())
    assert caught.value.code is Code.UPSTREAM_ERROR


# ---- unloading


def unloads(ollama: OllamaServer) -> list[str]:
    """The models that were unloaded."""
    return [body["model"] for body in sent(ollama) if body.get("keep_alive") == 0]


async def test_models_stay_where_nobody_asked_otherwise(ollama: OllamaServer) -> None:
    made = of(ollama)
    await preloaded(made)
    await made.close()
    assert unloads(ollama) == []


async def test_a_client_that_asks_for_it_leaves_the_memory_empty(ollama: OllamaServer) -> None:
    made = of(ollama, unload_on_close=True)
    await preloaded(made)
    await collect(made, request(model="fake-large:7b"))
    await made.close()
    await made.close()
    assert sorted(unloads(ollama)) == ["fake-large:7b", "fake-small:latest"]


async def test_a_model_that_another_connection_uses_stays(ollama: OllamaServer) -> None:
    first, second = of(ollama, unload_on_close=True), of(ollama, unload_on_close=True)
    await preloaded(first)
    await load_only(second)
    await collect(second, request(model="FAKE-SMALL:latest"))
    await first.close()
    assert unloads(ollama) == []
    await second.close()
    assert unloads(ollama) == ["fake-small:latest"]


@pytest.mark.parametrize("how", [Behaviour(gate_before_head=True), Behaviour(status=500, body=b"{}")])
async def test_a_server_that_does_not_unload_holds_up_no_close(
    ollama: OllamaServer, how: Behaviour, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(adapters_ollama, "UNLOAD_S", 0.05)
    made = of(ollama, unload_on_close=True)
    await preloaded(made)
    ollama.loading = how
    with caplog.at_level(logging.WARNING):
        await made.close()
    assert "fake-small" in caplog.text
    assert CANARY not in caplog.text


def test_the_adapter_and_the_catalogue_know_each_other() -> None:
    assert (PROVIDER.adapter, PROVIDER.quirks["pull"]) == ("ollama", False)
    quirks = Quirks.parse("ollama", PROVIDER.quirks, over=USUAL)
    assert quirks.of("gpt-oss:20b").thinking_off == {"think": "low"}
    assert quirks.of("llama3.2").thinking_off == {"think": False}

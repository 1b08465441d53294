"""The OpenAI wire beside what others hold it to be: packages and schemas of vendors, recorded answers.

captured/NAME.json holds, for each provider, the request that its own package really sends for one prompt,
answers that other projects recorded of the real thing with what the package reads in them, and an excerpt of
the schema that the provider publishes. What differs from ours is named here, with its reason.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from supervisor.catalog import load_catalog
from tests.fakes.bound import CANARY, collect, finish_of, load_only, reasoning_of, request, text_of
from tests.fakes.openai_server import Behaviour, OpenAIServer, event
from tests.workers.adapters.test_openai_requests import CASES, wanted
from workers.adapter import Adapter, Binding, Message, ProviderSpec, Usage
from workers.adapters.openai_chat import OpenAIChat
from workers.chat_body import build
from workers.quirks import Quirks

CHECKOUT: Final = Path(__file__).parents[3]
PROVIDERS: Final = load_catalog(CHECKOUT / "venvs.toml").providers
CAPTURED: Final[dict[str, Any]] = {
    name.replace("_", "-"): json.loads(
        (Path(__file__).parent / "captured" / f"{name}.json").read_text(encoding="utf-8")
    )
    for name in (
        *("openai", "azure_openai", "groq", "deepseek", "mistral"),
        *("xai", "together", "huggingface", "openrouter"),
    )
}
API_VERSION: Final = "2024-10-21"
DONE: Final = b"data: [DONE]\n\n"
DEFAULTS_SAID: Final[Mapping[str, Mapping[str, object]]] = {
    "mistral": {"stream": False, "prefix": False},
    "huggingface": {"stream": False},
}
"""Fields that a package sends though they say what holds without them."""


@pytest.fixture
async def captured_server() -> AsyncIterator[OpenAIServer]:
    """A server that notes what it is sent."""
    async with OpenAIServer() as running:
        yield running


@asynccontextmanager
async def of(provider_id: str, server: OpenAIServer) -> AsyncIterator[Adapter]:
    """The adapter as that provider's, with its base URL's path, before the server."""
    provider = PROVIDERS[provider_id]
    path = urlsplit(provider.base_url or "").path
    spec = ProviderSpec(
        provider.id, provider.name, f"http://127.0.0.1:{server.port}{path}", quirks=provider.quirks
    )
    made = OpenAIChat(spec, Binding(1, key=CANARY, options={"api_version": API_VERSION}))
    await load_only(made)
    yield made
    await made.close()


def prompt_of(provider_id: str, *, stream: bool) -> Any:
    """The prompt of the capture, as a request of ours."""
    prompt = CAPTURED[provider_id]["prompt"]
    return request(
        model=prompt["model"],
        messages=tuple(Message(role, content) for role, content in prompt["messages"]),
        max_output_length=prompt["max_tokens"],
        stop=tuple(prompt["stop"]),
        temperature=prompt["temperature"],
        sampling=prompt["sampling"],
        stream=stream,
    )


def without(fields: Mapping[str, Any], said: Mapping[str, object]) -> dict[str, Any]:
    """A request without what says no more than its absence does."""
    kept = {name: value for name, value in fields.items() if said.get(name, ...) != value}
    if "messages" in kept:
        kept["messages"] = [without(message, said) for message in kept["messages"]]
    return kept


SENT: Final = [name for name, captured in CAPTURED.items() if "sent" in captured]


@pytest.mark.foreign
@pytest.mark.parametrize(("index", "stream"), [(0, True), (1, False)], ids=["streamed", "whole"])
@pytest.mark.parametrize("provider_id", SENT)
async def test_what_is_sent_is_what_the_vendors_package_sends(
    captured_server: OpenAIServer, provider_id: str, index: int, stream: bool
) -> None:
    async with of(provider_id, captured_server) as adapter:
        await collect(adapter, prompt_of(provider_id, stream=stream))
    ours, theirs = captured_server.requests[0], CAPTURED[provider_id]["sent"][index]
    assert (ours.method, ours.path) == (theirs["method"], theirs["path"])
    assert ours.body == without(theirs["body"], DEFAULTS_SAID.get(provider_id, {}))
    assert ours.headers["content-type"] == theirs["headers"]["content-type"]
    (key_header,) = {"authorization", "api-key"} & set(theirs["headers"])
    assert ours.headers[key_header] == theirs["headers"][key_header].replace("sk-test-key", CANARY)


@pytest.mark.foreign
@pytest.mark.parametrize("provider_id", SENT)
async def test_the_models_are_asked_for_as_the_vendors_package_does(
    captured_server: OpenAIServer, provider_id: str
) -> None:
    theirs = [sent["path"] for sent in CAPTURED[provider_id]["sent"] if sent["method"] == "GET"]
    async with of(provider_id, captured_server):
        asked = [received.path for received in captured_server.lists]
    if theirs:  # together's wants a project first, huggingface_hub has none
        assert asked == theirs
    assert len(asked) == 1


# ---- answers

ANSWERS: Final = [
    pytest.param(provider_id, answer, id=f"{provider_id}: {answer['name']}")
    for provider_id, captured in CAPTURED.items()
    for answer in captured["answers"]
]


@pytest.mark.foreign
@pytest.mark.parametrize(("provider_id", "answer"), ANSWERS)
async def test_a_recorded_answer_is_read_as_the_vendors_package_reads_it(
    captured_server: OpenAIServer, provider_id: str, answer: dict[str, Any]
) -> None:
    stream = "stream" in answer
    if stream:
        pieces = (*(event(piece) for piece in answer["stream"]), DONE)
        captured_server.behaviour = Behaviour(events=pieces)
    else:
        captured_server.behaviour = Behaviour(body=json.dumps(answer["whole"]).encode())
    async with of(provider_id, captured_server) as adapter:
        events = await collect(adapter, request(stream=stream, max_output_length=2000))
    finish = finish_of(events)
    if (
        provider_id == "openrouter"
    ):  # the package fails on an error that came after the end; the text is whole
        assert answer["read"] == {"error": "APIError"}
        assert (finish.reason, reasoning_of(events)) == (
            "length",
            "We need to respond to a greeting. The user",
        )
        return
    read = answer["read"]
    assert (text_of(events), reasoning_of(events)) == (read["text"], read["thinking"])
    assert (finish.model, finish.reason) == (read["model"], read["finish_reason"])
    assert finish.usage is not None
    assert finish.usage.input_tokens == read["usage"]["prompt_tokens"]
    if provider_id != "xai":  # which counts thinking beside what is said
        assert finish.usage.output_tokens == read["usage"]["completion_tokens"]


@pytest.mark.parametrize(
    ("provider_id", "name", "expected"),
    [
        ("openai", "text", Usage(16, 300, 0, 0)),
        ("azure-openai", "filter results first", Usage(15, 78, 0, 64)),
        ("groq", "text", Usage(45, 662)),
        ("groq", "reasoning", Usage(17, 1107, None, 963)),
        ("deepseek", "reasoning", Usage(18, 219, 0, 205)),
        ("mistral", "thinking", Usage(10, 46)),
        ("mistral", "cached whole", Usage(4, 36, 0)),
        ("xai", "reasoning", Usage(12, 1 + 290, 11, 290)),
        ("huggingface", "router, by Together, whole", Usage(4, 197, 0)),
        ("huggingface", "TGI", Usage(39, 3)),
    ],
)
async def test_usage_means_the_same_whoever_counted_it(
    captured_server: OpenAIServer, provider_id: str, name: str, expected: Usage
) -> None:
    (answer,) = [answer for answer in CAPTURED[provider_id]["answers"] if answer["name"] == name]
    captured_server.behaviour = (
        Behaviour(events=(*(event(piece) for piece in answer["stream"]), DONE))
        if "stream" in answer
        else Behaviour(body=json.dumps(answer["whole"]).encode())
    )
    async with of(provider_id, captured_server) as adapter:
        events = await collect(adapter, request(stream="stream" in answer, max_output_length=2000))
    assert finish_of(events).usage == expected


# ---- schemas

SCHEMAS: Final = {
    **{name: CAPTURED[name]["schema"] for name in ("openai", "mistral", "together", "huggingface")},
    "tgi": CAPTURED["huggingface"]["schema"],
    "azure-openai": CAPTURED["openai"]["schema"],
}
BESIDE_SCHEMA: Final = {"huggingface": ["reasoning_effort is unknown"]}
"""What the router documents beyond TGI's schema, which is the one that there is."""
TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
BROAD: Final[Mapping[str, dict[str, Any]]] = {
    **CASES,
    "a neutral top_p": {"sampling": {"top_p": 1.0}},
    "cold": {"temperature": 0.0, "max_output_length": 1},
    **{
        f"effort {word}": {"reasoning_effort": word} for word in ("none", "minimal", "low", "medium", "xhigh")
    },
}


def misfits(body: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    """What a schema's excerpt does not know, or not so."""
    found = [f"{name} is unknown" for name in body if name not in schema["fields"]]
    for name, limits in schema["limits"].items():
        if name in body:
            found += [f"{name}: {said}" for said in _beyond(body[name], limits)]
    for message in body["messages"]:
        known = schema["messages"].get(message["role"], schema["messages"]["system"])
        found += [f"{name} of a message is unknown" for name in message if name not in known]
    return found


def _beyond(value: Any, limits: Mapping[str, Any]) -> list[str]:
    kinds = limits.get("type", [])
    types = [kind for name in ([kinds] if isinstance(kinds, str) else kinds) for kind in TYPES[name]]
    found = [] if not types or type(value) in types else [f"is {type(value).__name__}"]
    if "enum" in limits and value not in limits["enum"]:
        found.append(f"is {value!r}")
    if isinstance(value, list) and not limits.get("minItems", 0) <= len(value) <= limits.get("maxItems", 99):
        found.append(f"has {len(value)} items")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and not limits.get("minimum", value) <= value <= limits.get("maximum", value):
        found.append(f"is {value}")
    return found


@pytest.mark.foreign
@pytest.mark.parametrize("case", BROAD)
@pytest.mark.parametrize("provider_id", SCHEMAS)
def test_a_request_is_within_the_published_schema(provider_id: str, case: str) -> None:
    quirks = Quirks.parse(provider_id, PROVIDERS[provider_id].quirks)
    for model in (
        PROVIDERS[provider_id].default_model or "some-model",
        "gpt-5-mini",
        "magistral-medium-2507",
    ):
        body = build(wanted(model, **BROAD[case]), quirks.of(model)).fields
        found = misfits(json.loads(json.dumps(body)), SCHEMAS[provider_id])
        assert [said for said in found if said not in BESIDE_SCHEMA.get(provider_id, ())] == []


def test_the_check_of_schemas_does_find_what_is_wrong() -> None:
    message = {"role": "user", "content": "Hi", "name": "Ann"}
    body = {"messages": [message], "temperature": 2.0, "stop": 7, "seed": 1, "reasoning_effort": "low"}
    assert misfits(body, SCHEMAS["mistral"]) == [
        *("seed is unknown", "temperature: is 2.0", "stop: is int", "reasoning_effort: is 'low'"),
        "name of a message is unknown",
    ]

"""Tools on the OpenAI wire beside what vendors' own packages send and read, and what vendors publish.

captured/NAME_tools.json holds a conversation with calls of tools as the vendor's package sends it, and what
the package reads in answers of the fake server, so that the fake is not judged by us alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from supervisor.catalog import load_catalog
from supervisor.jobs import Limits, make_job
from supervisor.messages import Incoming, parse
from tests.fakes.served import serving
from tests.fakes.wire import Behaviour
from tests.fakes.wires.openai_chat import OpenAIWire
from tests.workers.adapters.test_openai_requests import (
    DEFAULT_SCHEMA,
    PROVIDERS,
    SCHEMAS,
    SPECS,
    validator_of,
    wanted,
)
from workers import wire
from workers.adapter import Message, ToolCall
from workers.bodies import read_request
from workers.chat_body import build
from workers.parameters import Body
from workers.quirks import Quirks

CHECKOUT: Final = Path(__file__).parents[3]
CATALOG: Final = load_catalog(CHECKOUT / "venvs.toml")
CAPTURED: Final[dict[str, Any]] = {
    name: json.loads((Path(__file__).parent / "captured" / f"{name}_tools.json").read_text(encoding="utf-8"))
    for name in ("openai", "mistral")
}
DEFAULTS: Final = ({"stream": False}, {"prefix": False}, {"index": 0})
"""What Mistral's package says though it holds without."""
PARAMETERS: Final = {"type": "object", "properties": {"x": {"type": "integer"}}}
TOOL: Final = {
    "type": "function",
    "function": {"name": "look", "description": "L.", "parameters": PARAMETERS},
}
TURNS: Final = (
    Message("system", "You are Mia."),
    Message("user", "Look.", "Ann"),
    Message("assistant", "", "Mia", tool_calls=(ToolCall("A1b2C3d4E", "look", "{}"),)),
    Message("tool", "A cat.", tool_call_id="A1b2C3d4E"),
    Message("assistant", "Hm.", tool_calls=(ToolCall("call_2", "look", '{"x": 1}'),)),
    Message("tool", "", tool_call_id="call_2"),
)
CASES: Final[dict[str, dict[str, Any]]] = {
    "auto": {"tool_choice": "auto"},
    "required": {"tool_choice": "required", "stream": False},
    "none": {"tool_choice": "none"},
    "unsaid": {"stop": ("END",)},
}
ANSWERS: Final = [
    pytest.param(answer, id=f"{name}: {answer['name']}")
    for name, captured in CAPTURED.items()
    for answer in captured["answers"]
]


def sent_for(name: str, *, stream: bool) -> Body:
    """The captured conversation as a client of ours would have it, on its whole way to a body."""
    prompt = CAPTURED[name]["prompt"]
    params = {
        **{key: prompt[key] for key in ("tools", "tool_choice", "temperature")},
        "max_output_length": prompt["max_tokens"],
    }
    said = {"type": "generate", "messages": prompt["messages"], "params": params, "stream": stream}
    parsed = parse(json.dumps(said))
    assert isinstance(parsed, Incoming)
    job = make_job(parsed.body, prompt["model"], Limits())
    asked = read_request(1, wire.pack_body(dict(job.body)))  # type: ignore[union-attr]  # it is no Failure
    quirks = Quirks.parse(name, CATALOG.providers[name].quirks)
    return build(asked, quirks.of(prompt["model"]))


def plain(value: Any) -> Any:
    """A body without what says no more than its absence does."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: plain(item) for key, item in value.items() if {key: item} not in DEFAULTS}


@pytest.mark.foreign
@pytest.mark.parametrize(("index", "stream"), [(0, True), (1, False)], ids=["streamed", "whole"])
@pytest.mark.parametrize("name", CAPTURED)
def test_a_conversation_with_tools_is_what_the_vendors_package_sends(
    name: str, index: int, stream: bool
) -> None:
    ours = json.loads(sent_for(name, stream=stream).encoded())
    theirs = CAPTURED[name]["sent"][index]["body"]
    assert plain(ours) == (plain(theirs) if name == "mistral" else theirs)


@pytest.mark.foreign
@pytest.mark.parametrize("answer", ANSWERS)
async def test_calls_are_read_as_the_vendors_package_reads_them(answer: dict[str, Any]) -> None:
    async with serving(OpenAIWire()) as served:
        if "stream" in answer:
            pieces = tuple(f"{piece}\n\n".encode() for piece in answer["stream"].split("\n\n") if piece)
            served.server.behaviour = Behaviour(events=pieces)
        else:
            served.server.behaviour = Behaviour(body=answer["whole"].encode())
        outcome = await served.ask(stream="stream" in answer, tools=[TOOL])
    assert outcome.text == answer["text"]
    assert [list(call) for _, call in sorted(outcome.calls.items())] == answer["calls"]
    assert outcome.body["finish_reason"] == answer["finish_reason"]


# ---- what providers publish


def as_published(provider: str, body: dict[str, Any]) -> dict[str, Any]:
    """The body in the words of a schema that has others for the same."""
    if provider == "deepseek":  # takes 16 stops; the schema here is OpenAI's, which takes 4
        body["stop"] = body.get("stop", ["a"])[:4]
    if body.get("reasoning_effort") == "default":  # a word of Groq's own
        body["reasoning_effort"] = "medium"
    if provider == "mistral":  # the excerpt has lost the property with that name, which the package sends
        for tool in body["tools"]:
            tool["function"].pop("description")
    if provider == "together":  # `nullable` is a word of an older OpenAPI
        body["messages"] = [
            {key: value for key, value in message.items() if value is not None}
            for message in body["messages"]
        ]
    if provider == "tgi":  # its router reads `parameters` under that name too, and content beside calls
        for tool in body["tools"]:
            tool["function"]["arguments"] = tool["function"].pop("parameters")
        for message in body["messages"]:
            if message.get("tool_calls"):
                message.pop("content")
    return body


@pytest.mark.foreign
@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.id)
def test_a_request_with_tools_is_what_the_provider_publishes(provider: Any) -> None:
    name, schema = SCHEMAS.get(provider.id, DEFAULT_SCHEMA)
    file = SPECS / name
    if not file.is_file():
        pytest.skip(f"{name} is not here: the requests for {provider.id} are not validated")
    validator = validator_of(file, schema)
    model = provider.default_model or "some-model"
    quirks = Quirks.parse(provider.id, provider.quirks).of(model)
    refuses = "tools" in quirks.unsupported
    turns = TURNS[:2] if refuses else TURNS
    for fields in CASES.values():
        made = build(wanted(model, messages=turns, tools=(TOOL,), **fields), quirks)
        body = json.loads(made.encoded())
        assert ("tools" in body) is not refuses
        validator.validate(body if refuses else as_published(provider.id, body))


def body_of(provider_id: str, **fields: Any) -> Body:
    provider = CATALOG.providers[provider_id]
    quirks = Quirks.parse("x", provider.quirks)
    return build(
        wanted(provider.default_model or "m", **{"messages": TURNS, "tools": (TOOL,), **fields}), quirks
    )


def test_mistral_gets_ids_of_its_own_form() -> None:
    messages = body_of("mistral").fields["messages"]
    ids = [call["id"] for message in messages for call in message.get("tool_calls", ())]
    assert ids == [message["tool_call_id"] for message in messages if message["role"] == "tool"]
    assert ids[0] == "A1b2C3d4E"
    assert all(len(made) == 9 and made.isalnum() for made in ids)


def test_together_is_told_which_call_it_is() -> None:
    calls = [
        call for message in body_of("together").fields["messages"] for call in message.get("tool_calls", ())
    ]
    assert [call["index"] for call in calls] == [0, 0]


@pytest.mark.parametrize("provider", ["moonshot", "moonshot-cn"])
def test_moonshot_is_not_asked_for_a_choice_that_it_does_not_know(provider: str) -> None:
    made = body_of(provider, tool_choice="required")
    assert "tool_choice" not in made.fields
    assert any("tool_choice" in warning.message for warning in made.warnings)
    assert body_of(provider, tool_choice="auto").fields["tool_choice"] == "auto"


def test_perplexity_gets_no_tools() -> None:
    made = body_of("perplexity", messages=TURNS[:2], tool_choice="auto")
    assert not {"tools", "tool_choice"} & set(made.fields)
    assert len(made.warnings) >= 2

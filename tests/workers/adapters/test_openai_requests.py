"""What is sent to each provider, validated against the schemas that providers publish, where they are."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest

from supervisor.catalog import load_catalog
from supervisor.providers import Provider
from workers.adapter import Message, Request
from workers.chat_body import build
from workers.quirks import Quirks

CHECKOUT: Final = Path(__file__).parents[3]
SPECS: Final = CHECKOUT.parent / "shared" / "specs"
"""OpenAPI excerpts of the chat APIs; optional, the tests that need one say so when it is missing."""
CATALOG: Final = load_catalog(CHECKOUT / "venvs.toml")
PROVIDERS: Final = [item for item in CATALOG.providers.values() if item.adapter == "openai_chat"]
SCHEMAS: Final = {
    "mistral": ("mistral_chat.json", "ChatCompletionRequest"),
    "together": ("together_chat.json", "ChatCompletionRequest"),
    "tgi": ("hf_tgi_chat.json", "ChatRequest"),
}
DEFAULT_SCHEMA: Final = ("openai_chat.json", "CreateChatCompletionRequest")
CHAT: Final = (
    Message("system", "You are Mia."),
    Message("developer", "Be brief.", "Boss"),
    Message("user", "Hi", "Ann B."),
    Message("user", "Hello", "初音"),
    Message("assistant", "Yes?", "Mia"),
    Message("system", "It rains."),
    Message("user", "Go on. 😀"),
)
SAMPLING: Final = {
    "top_p": 0.0,
    "top_k": 40,
    "min_p": 0.05,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "repetition_penalty": 1.1,
    "seed": 7,
}
SCHEMA_FORMAT: Final = {
    "type": "json_schema",
    "json_schema": {"name": "answer", "schema": {"type": "object", "properties": {}}, "strict": False},
}


def wanted(model: str, **fields: Any) -> Request:
    values: dict[str, Any] = {"id": 1, "messages": CHAT, "model": model, "stream": True, "timeout_s": 60.0}
    return Request(**{**values, **fields})


CASES: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "unstreamed": {"stream": False},
    "stops": {"stop": ("\n", "Ann B.:", "a", "b", "c", "d", "\n\n"), "character_name": "Mia"},
    "all sampling": {"sampling": SAMPLING, "temperature": 2.0},
    "json": {"response_format": {"type": "json_object"}},
    "json schema": {"response_format": SCHEMA_FORMAT, "stream": False},
    "effort": {"reasoning_effort": "high"},
}
MODELS: Final = {
    "openai": ("gpt-5-mini", "o3"),
    "xai": ("grok-4",),
    "groq": ("openai/gpt-oss-20b", "qwen/qwen3-32b"),
}


def models_of(provider: Provider) -> list[str]:
    return [provider.default_model or "some-model", *MODELS.get(provider.id, ())]


@functools.cache
def validator_of(file: Path, schema: str) -> jsonschema.Draft202012Validator:
    document = json.loads(file.read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(
        {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}
    )


@pytest.mark.foreign
@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.id)
def test_a_request_is_what_the_provider_publishes(provider: Provider) -> None:
    name, schema = SCHEMAS.get(provider.id, DEFAULT_SCHEMA)
    file = SPECS / name
    if not file.is_file():
        pytest.skip(f"{name} is not here: the requests for {provider.id} are not validated")
    validator = validator_of(file, schema)
    quirks = Quirks.parse(provider.id, provider.quirks)
    for model, case in itertools.product(models_of(provider), CASES):
        body = json.loads(build(wanted(model, **CASES[case]), quirks.of(model)).encoded())
        if provider.id == "deepseek":  # takes 16 stops; the schema here is OpenAI's, which takes 4
            body["stop"] = body.get("stop", ["a"])[:4]
        if body.get("reasoning_effort") == "default":  # a word of Groq's own
            body["reasoning_effort"] = "medium"
        validator.validate(body)


@pytest.mark.foreign
def test_the_schemas_do_refuse_what_is_wrong() -> None:
    file = SPECS / "mistral_chat.json"
    if not file.is_file():
        pytest.skip("mistral_chat.json is not here")
    with pytest.raises(jsonschema.ValidationError):
        validator_of(file, "ChatCompletionRequest").validate({"model": "m", "messages": [], "seed": 7})


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.id)
def test_a_providers_table_says_where_it_is_from_and_who_tried_it(provider: Provider) -> None:
    Quirks.parse(provider.id, provider.quirks)
    assert provider.env == "http"
    assert provider.source
    assert provider.tried
    assert provider.key
    assert provider.kind == "api" or not provider.key_required
    local = provider.kind == "local-server"
    assert provider.base_url is None or provider.base_url.startswith("http://127.0.0.1:") == local


def body_of(provider_id: str, model: str = "", **fields: Any) -> dict[str, Any]:
    provider = CATALOG.providers[provider_id]
    model = model or provider.default_model or "m"
    quirks = Quirks.parse("x", provider.quirks).of(model)
    return dict(build(wanted(model, **fields), quirks).fields)


def test_openai_gets_names_and_its_own_field_for_tokens() -> None:
    body = body_of("openai", max_output_length=50)
    assert body["max_completion_tokens"] == 50
    assert "max_tokens" not in body
    assert body["messages"][1:5] == [
        {"role": "system", "content": "Be brief.", "name": "Boss"},
        {"role": "user", "content": "Hi", "name": "Ann_B"},
        {"role": "user", "content": "初音: Hello"},
        {"role": "assistant", "content": "Yes?", "name": "Mia"},
    ]
    assert body["stream_options"] == {"include_usage": True}


def test_a_reasoning_model_of_openai_gets_no_sampling_and_room_to_think() -> None:
    body = body_of(
        "openai", "gpt-5-mini", stop=("a",), sampling={"top_p": 0.5, "seed": 1}, max_output_length=50
    )
    assert not {"temperature", "top_p", "stop"} & set(body)
    assert (body["seed"], body["max_completion_tokens"]) == (1, 50 + 2048)
    assert {message["role"] for message in body["messages"]} == {"developer", "user", "assistant"}


def test_xai_gets_names_of_users_only() -> None:
    messages = body_of("xai")["messages"]
    assert [message.get("name") for message in messages] == [None, None, "Ann_B", None, None, None, None]
    assert messages[4]["content"] == "Mia: Yes?"
    assert "stop" in body_of("xai", stop=("a",))
    assert "stop" not in body_of("xai", "grok-4", stop=("a",))


def test_mistral_gets_its_own_words() -> None:
    body = body_of("mistral", temperature=2.0, sampling={"seed": 7})
    assert (body["random_seed"], body["temperature"]) == (7, 1.5)
    assert [message["role"] for message in body["messages"]][-2:] == ["user", "user"]
    assert all("name" not in message for message in body["messages"])


def test_deepseek_does_not_think_unless_asked() -> None:
    assert body_of("deepseek")["thinking"] == {"type": "disabled"}
    assert "thinking" not in body_of("deepseek", reasoning_effort="high")
    assert body_of("deepseek", extra={"thinking": {"type": "enabled"}})["thinking"] == {"type": "enabled"}
    assert "thinking" not in body_of("deepseek", "deepseek-reasoner")
    assert body_of("deepseek", sampling={"top_p": 0.0})["top_p"] > 0
    assert len(body_of("deepseek", stop=tuple("abcdefghijklmnopqrst"))["stop"]) == 16
    assert "stop" not in body_of("deepseek", stop=("a",), reasoning_effort="high")


@pytest.mark.parametrize(
    ("model", "asked", "sent"),
    [
        ("llama-3.3-70b-versatile", None, None),
        ("openai/gpt-oss-20b", None, "low"),
        ("openai/gpt-oss-20b", "high", "high"),
        ("openai/gpt-oss-20b", "none", "low"),
        ("qwen/qwen3-32b", None, "none"),
        ("qwen/qwen3-32b", "low", "default"),
    ],
)
def test_groq_is_kept_from_thinking_as_far_as_a_model_can_be(
    model: str, asked: str | None, sent: str | None
) -> None:
    assert body_of("groq", model, reasoning_effort=asked).get("reasoning_effort") == sent


def test_mistral_and_together_get_the_efforts_that_they_know() -> None:
    assert body_of("mistral", reasoning_effort="low")["reasoning_effort"] == "high"
    assert body_of("together", reasoning_effort="minimal")["reasoning_effort"] == "low"


def test_tgi_gets_what_its_router_does_not_refuse() -> None:
    body = body_of("tgi", sampling={**SAMPLING, "top_p": 1.0}, response_format=SCHEMA_FORMAT)
    assert not {"top_p", "presence_penalty", "repetition_penalty"} & set(body)
    assert body["response_format"] == {"type": "json", "value": {"type": "object", "properties": {}}}


def test_a_deployment_of_azure_is_its_model_and_takes_the_older_limit() -> None:
    body = body_of("azure-openai", "my-chat-bot", max_output_length=50)
    assert (body["model"], body["max_tokens"]) == ("my-chat-bot", 50)
    assert body_of("azure-openai", "gpt-5-mini", max_output_length=50)["max_completion_tokens"] == 50 + 2048


def test_a_local_server_gets_one_message_per_turn_and_no_stops() -> None:
    body = body_of("lmstudio", stop=("a",))
    assert body["messages"] == [
        {"role": "system", "content": "You are Mia.\nBoss: Be brief."},
        {"role": "user", "content": "Ann B.: Hi\n初音: Hello"},
        {"role": "assistant", "content": "Mia: Yes?"},
        {"role": "system", "content": "It rains."},
        {"role": "user", "content": "Go on. 😀"},
    ]
    assert "stop" not in body
    assert body_of("vllm", stop_ids=(1, 2))["stop_token_ids"] == [1, 2]
    assert body_of("llama-server", sampling={"repetition_penalty": 1.1})["repeat_penalty"] == 1.1

"""Adding a provider by a table alone: no code, no test of its own, and the module serves it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.e2e.client import Client, connect
from tests.e2e.module import Installation, Module
from tests.e2e.upstream import Upstream

TABLES = """
enabled = ["lambda"]

[provider.my-cloud]
name = "My Cloud"
adapter = "openai_chat"
base_url = "http://127.0.0.1:{port}/{account}"
key = ["MY_CLOUD_API_KEY"]
default_model = "fake-small"
aliases = ["mine"]
settings.account = { variables = ["MY_CLOUD_ACCOUNT"] }
settings.version = { default = "2024-10-21" }
[provider.my-cloud.quirks]
chat_path = "/deployments/{model}/chat/completions?api-version={version}"
max_tokens_field = "max_completion_tokens"
key_header = "api-key"
key_prefix = ""
"""


@pytest.fixture(scope="module")
def module(installation: Installation, listening: socket.socket) -> Iterator[Module]:
    """A module whose operator has written a table."""
    tables = installation.home / "venvs.local.toml"
    text = TABLES.replace("{port}", str(listening.getsockname()[1]))
    tables.write_text(text, encoding="utf-8")
    try:
        with Module(installation, variables={"MY_CLOUD_ACCOUNT": "acc-7"}) as running:
            yield running
    finally:
        tables.unlink()


@pytest.fixture
async def client(module: Module) -> AsyncIterator[Client]:
    """A connection to it."""
    async with connect(module) as connected:
        yield connected


async def test_a_provider_of_a_table_alone_is_loaded_and_answers(client: Client, upstream: Upstream) -> None:
    key = client.module.new_key()
    done = await client.load("mine", api_key=key)
    assert (done["is_error"], done["models_count"]) == (False, 2)
    reply = await client.say()
    assert reply.text == "Hello there."
    (request,) = upstream.requests
    assert request.path == "/acc-7/deployments/fake-small/chat/completions?api-version=2024-10-21"
    assert request.headers["api-key"] == key
    assert "authorization" not in request.headers
    assert request.body["max_completion_tokens"] == 200
    assert [asked.path for asked in upstream.lists] == ["/acc-7/models"]


async def test_an_option_of_the_load_goes_before_the_operators_variable(
    client: Client, upstream: Upstream
) -> None:
    options = {"account": "acc-8", "version": "2030-01-01"}
    await client.load("my-cloud", api_key=client.module.new_key(), options=options)
    await client.say(params={"model_id": "org/my model"})
    (request,) = upstream.requests
    assert request.path == "/acc-8/deployments/org%2Fmy%20model/chat/completions?api-version=2030-01-01"


async def test_it_is_listed_with_what_its_claim_rests_on(client: Client) -> None:
    asked = {"type": "get_providers", "unique_request_id": client.new_id(), "detail": True}
    answer = await client.ask(asked, "get_providers_done")
    mine, lent, groq = (answer["details"][name] for name in ("my-cloud", "lambda", "groq"))
    assert (mine["confidence"], mine["tried"]) == ("", "nobody yet")
    assert lent["confidence"] == "doubtful"
    assert groq["confidence"] == "certain"
    assert groq["source"]
    assert groq["proof"]
    assert "morph" not in answer["providers"]

"""What Claude on Vertex AI has of its own; test_anthropic_messages.py and test_vertex.py have the rest.

captured/vertex_anthropic.json holds what the vendor's own package sends and reads.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from supervisor.catalog import load_catalog
from tests.fakes.bound import CANARY, collect, finish_of, load_only, request, text_of
from tests.fakes.google_tokens import PROJECT, service_account, tokens
from tests.fakes.http_server import FakeServer
from tests.fakes.wire import Behaviour
from tests.fakes.wires.vertex_anthropic import VertexAnthropicWire
from tests.workers.adapters.test_anthropic_messages import ANSWERS, captured_prompt
from workers.adapter import AdapterError, Binding, ProviderSpec, Usage
from workers.adapters.vertex_anthropic import VertexAnthropic
from workers.codes import Code

CHECKOUT: Final = Path(__file__).parents[3]
CAPTURED: Final = json.loads(
    (Path(__file__).parent / "captured" / "vertex_anthropic.json").read_text(encoding="utf-8")
)
PROVIDER: Final = load_catalog(CHECKOUT / "venvs.toml").providers["vertex-anthropic"]


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    """A server that speaks this wire, beside one that gives tokens."""
    async with tokens(VertexAnthropicWire()), FakeServer(VertexAnthropicWire()) as running:
        yield running


def made(base_url: str, key: object, **options: Any) -> VertexAnthropic:
    """An adapter that is not loaded yet; a key that is no text is a file."""
    spec = ProviderSpec("vertex-anthropic", "Claude", key_variables=PROVIDER.key, quirks=PROVIDER.quirks)
    given = key if isinstance(key, str) else json.dumps(key)
    return VertexAnthropic(spec, Binding(1, key=given, base_url=base_url, options=options))


@pytest.fixture
async def adapter(server: FakeServer) -> AsyncIterator[VertexAnthropic]:
    """The adapter, loaded where the capture was."""
    loaded = made(server.base_url, service_account(), location="europe-west1")
    await load_only(loaded)
    yield loaded
    await loaded.close()


@pytest.mark.foreign
@pytest.mark.parametrize(("index", "stream"), [(0, True), (1, False)], ids=["streamed", "whole"])
async def test_what_is_sent_is_what_the_vendors_package_sends(
    server: FakeServer, adapter: VertexAnthropic, index: int, stream: bool
) -> None:
    server.behaviour = Behaviour(body=json.dumps(ANSWERS["plain"]["whole"]).encode())
    wanted = {**captured_prompt(stream=stream), "model": CAPTURED["model"]}
    await collect(adapter, request(**wanted))
    ours, theirs = server.requests[0], CAPTURED["sent_by_1.17.0"][index]
    assert (ours.method, ours.path, ours.body) == (theirs["method"], theirs["path"], theirs["body"])
    assert ours.headers["authorization"] == f"Bearer {CANARY}"
    assert "anthropic-version" not in (*theirs["headers"], *ours.headers)
    newest = CAPTURED["sent_by_2.13.0"][index]  # of a version in which no model takes any sampling
    assert (ours.path, set(ours.body)) == (newest["path"], set(newest["body"]))


@pytest.mark.foreign
@pytest.mark.parametrize("how", ["stream", "whole"])
async def test_an_answer_is_read_as_the_vendors_package_reads_it(
    server: FakeServer, adapter: VertexAnthropic, how: str
) -> None:
    answer, read = ANSWERS["plain"], CAPTURED["read_by_both"][how]
    if how == "stream":
        server.behaviour = Behaviour(events=("\n".join(answer["stream"]).encode(),))
    else:
        server.behaviour = Behaviour(body=json.dumps(answer["whole"]).encode())
    events = await collect(adapter, request(model=CAPTURED["model"], stream=how == "stream"))
    finish = finish_of(events)
    assert (text_of(events), finish.model) == (read["text"], read["model"])
    assert finish.usage == Usage(read["input_tokens"], read["output_tokens"])


@pytest.mark.foreign
@pytest.mark.parametrize("location", CAPTURED["hosts"])
async def test_each_location_has_the_host_that_the_vendors_package_goes_to(
    server: FakeServer, location: str
) -> None:
    adapter = made(server.base_url, service_account(), location=location)
    await load_only(adapter)
    await adapter.close()
    adapter.binding = Binding(1, base_url=PROVIDER.base_url, options={"location": location})
    assert f"{adapter.base_url}/v1" == CAPTURED["hosts"][location]


@pytest.mark.parametrize(
    ("model", "thinking"),
    [
        ("claude-opus-5@20270101", {"type": "disabled"}),
        ("claude-sonnet-5-5@20270101", {"type": "between_tools"}),
        ("claude-haiku-4-5@20251001", None),
    ],
)
async def test_a_model_with_a_date_is_that_model(
    server: FakeServer, adapter: VertexAnthropic, model: str, thinking: dict[str, str] | None
) -> None:
    await collect(adapter, request(model=model))
    sent = server.requests[0]
    assert sent.body.get("thinking") == thinking
    assert f"/models/{model}:streamRawPredict" in sent.path


async def test_an_api_key_is_nobody_here(server: FakeServer) -> None:
    with pytest.raises(AdapterError) as caught:
        await load_only(made(server.base_url, "AIzaTest"))
    assert caught.value.code is Code.AUTHORIZATION
    assert server.connections == 0


async def test_a_load_checks_the_login_and_says_no_more_of_the_key(server: FakeServer) -> None:
    adapter = made(server.base_url, service_account())
    assert (await load_only(adapter)).warnings == ()
    await adapter.close()
    with pytest.raises(AdapterError) as caught:
        await load_only(made(server.base_url, service_account(client_email=f"{PROJECT}@example")))
    assert caught.value.code is Code.AUTHORIZATION


def test_the_adapter_and_the_catalogue_know_each_other() -> None:
    assert PROVIDER.adapter == "vertex_anthropic"
    assert {setting.name for setting in PROVIDER.settings} == {"project", "location"}

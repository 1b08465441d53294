"""What Vertex AI has of its own: places, projects, who asks, API keys of the express mode.

Its wire is test_gemini.py's, its tokens are test_google_login.py's; captured/vertex.json holds what the
vendor's own packages send.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from supervisor.catalog import load_catalog
from tests.fakes.bound import CANARY, collect, finish_of, load_only, request, text_of
from tests.fakes.google_tokens import PERSON, PROJECT, service_account, tokens
from tests.fakes.http_server import FakeServer
from tests.fakes.wire import Behaviour
from tests.fakes.wires.vertex import VertexWire
from tests.workers.adapters.test_gemini import CAPTURED as GEMINI
from tests.workers.adapters.test_gemini import camel, captured_prompt
from workers.adapter import AdapterError, Binding, LoadRequest, ProviderSpec
from workers.adapters.vertex import Vertex
from workers.codes import Code
from workers.google_login import Login
from workers.vertex_chat import HOST, is_at

CHECKOUT: Final = Path(__file__).parents[3]
CAPTURED: Final = json.loads((Path(__file__).parent / "captured" / "vertex.json").read_text(encoding="utf-8"))
PROVIDER: Final = load_catalog(CHECKOUT / "venvs.toml").providers["vertex"]
EUROPE: Final = {"location": "europe-west4"}


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    """A server that speaks this wire, beside one that gives tokens."""
    async with tokens(VertexWire()), FakeServer(VertexWire()) as running:
        yield running


def made(base_url: str | None, key: object = None, **options: Any) -> Vertex:
    """An adapter that is not loaded yet; a key that is no text is a file."""
    spec = ProviderSpec(
        "vertex", "Vertex AI", base_url=PROVIDER.base_url, key_variables=PROVIDER.key, quirks=PROVIDER.quirks
    )
    given = key if key is None or isinstance(key, str) else json.dumps(key)
    return Vertex(spec, Binding(1, key=given, base_url=base_url, options=options))


async def asked(adapter: Vertex, **fields: Any) -> str:
    """Loads it and asks once; the text of the reply."""
    await load_only(adapter)
    events = await collect(adapter, request(**fields))
    await adapter.close()
    finish_of(events)
    return text_of(events)


# ---- beside the vendor's own packages


@pytest.mark.foreign
@pytest.mark.parametrize(("index", "stream"), [(0, True), (1, False)], ids=["streamed", "whole"])
async def test_what_is_sent_is_what_the_vendors_package_sends(
    server: FakeServer, index: int, stream: bool
) -> None:
    adapter = made(server.base_url, PERSON, project=PROJECT, **EUROPE)
    await asked(adapter, **captured_prompt(stream=stream))
    ours, theirs = server.requests[0], CAPTURED["sent"][index]
    assert (ours.method, ours.path, ours.body) == (theirs["method"], theirs["path"], camel(theirs["body"]))
    assert ours.headers["authorization"] == f"Bearer {CANARY}"
    assert theirs["headers"]["authorization"].startswith("Bearer ")
    assert ours.headers["x-goog-user-project"] == theirs["headers"]["x-goog-user-project"]
    assert "x-goog-api-key" not in ours.headers


@pytest.mark.foreign
async def test_an_api_key_is_sent_as_the_vendors_package_does(server: FakeServer) -> None:
    await asked(made(server.base_url, "AIzaTest", **EUROPE), **captured_prompt(stream=False))
    ours, theirs = server.requests[0], CAPTURED["sent"][-1]
    assert (ours.path, ours.body) == (theirs["path"], camel(theirs["body"]))
    assert ours.headers["x-goog-api-key"] == theirs["headers"]["x-goog-api-key"]
    assert "authorization" not in ours.headers


@pytest.mark.foreign
async def test_the_models_are_asked_for_page_by_page_as_the_vendors_package_does(server: FakeServer) -> None:
    server.model_names = tuple(f"m{number}" for number in range(150))
    adapter = made(server.base_url, service_account())
    assert (await load_only(adapter)).models == server.model_names
    await adapter.close()
    theirs = [sent["path"] for sent in CAPTURED["sent"] if sent["method"] == "GET"]
    assert [received.path for received in server.lists] == theirs


@pytest.mark.foreign
@pytest.mark.parametrize("how", ["stream", "whole"])
async def test_an_answer_is_read_as_the_vendors_package_reads_it(server: FakeServer, how: str) -> None:
    answer = next(item for item in GEMINI["answers"] if item["name"] == "as Vertex answers")
    if how == "stream":
        server.behaviour = Behaviour(events=("\r\n".join(answer["stream"]).encode(),))
    else:
        server.behaviour = Behaviour(body=json.dumps(answer["whole"]).encode())
    text = await asked(made(server.base_url, service_account()), stream=how == "stream")
    assert text == answer["read"][how]["text"]


@pytest.mark.foreign
@pytest.mark.parametrize("location", CAPTURED["hosts"])
async def test_each_location_has_the_host_that_the_vendors_package_goes_to(
    server: FakeServer, location: str
) -> None:
    adapter = made(server.base_url, service_account(), location=location)
    await load_only(adapter)
    await adapter.close()
    adapter.binding = Binding(1, base_url=HOST, options={"location": location})
    assert adapter.base_url == CAPTURED["hosts"][location]


# ---- places and projects


async def test_an_operators_own_address_is_used_as_it_is(server: FakeServer) -> None:
    assert await asked(made(server.base_url, service_account(), **EUROPE)) == "Hello there."
    assert "/locations/europe-west4/" in server.requests[0].path


@pytest.mark.parametrize("location", ["a.example/", "x@y", "é", "eu.rep", "-", 7])
async def test_a_location_cannot_lead_elsewhere(server: FakeServer, location: object) -> None:
    adapter = made(None, service_account(), location=location)
    with pytest.raises(AdapterError) as caught:
        await load_only(adapter)
    assert caught.value.code is Code.INVALID_REQUEST


async def test_a_project_that_is_given_wins(server: FakeServer) -> None:
    await asked(made(server.base_url, service_account(), project="another"))
    assert "/projects/another/locations/global/" in server.requests[0].path


async def test_a_project_must_come_from_somewhere(server: FakeServer) -> None:
    with pytest.raises(AdapterError) as caught:
        await load_only(made(server.base_url, service_account(project_id="")))
    assert caught.value.code is Code.INVALID_REQUEST
    assert server.connections == 0


# ---- who asks


async def test_a_login_that_is_refused_fails_the_load(server: FakeServer) -> None:
    with pytest.raises(AdapterError) as caught:
        await load_only(made(server.base_url, {**PERSON, "refresh_token": "1//of-nobody"}))
    assert caught.value.code is Code.AUTHORIZATION
    assert PROVIDER.key[0] in caught.value.message
    assert server.lists == []


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The operator is logged in on this machine; where that stands."""
    file = tmp_path / "operator.json"
    file.write_text(json.dumps(PERSON), encoding="utf-8")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    return str(file)


@pytest.mark.parametrize("named", [True, False], ids=["its file as the key", "no key"])
async def test_an_operator_is_never_spoken_for_at_an_address_of_somebody_else(
    server: FakeServer, operator: str, named: bool
) -> None:
    with pytest.raises(AdapterError) as caught:
        await load_only(made(server.base_url, operator if named else None))
    assert caught.value.code is Code.AUTHORIZATION
    assert "service account" in caught.value.message
    assert server.connections == 0


async def test_a_machine_is_not_spoken_for_there_either(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setattr(Login, "machine_uri", server.base_url)
    with pytest.raises(AdapterError) as caught:
        await load_only(made(server.base_url))
    assert caught.value.code is Code.AUTHORIZATION
    assert server.connections == 0


class AtHome(Vertex):
    """Google is on this machine."""

    googles = re.compile(r"http://127\.0\.0\.1:[0-9]+")


async def test_an_operator_is_spoken_for_at_googles(server: FakeServer, operator: str) -> None:
    adapter = made(server.base_url, project=PROJECT)
    assert await asked(AtHome(adapter.provider, adapter.binding)) == "Hello there."
    assert server.requests[0].headers["authorization"] == f"Bearer {CANARY}"


@pytest.mark.parametrize(
    ("base_url", "googles"),
    [
        (HOST, True),
        (f"{HOST}/", True),
        (f"{HOST}:443", True),
        ("https://europe-west4-aiplatform.googleapis.com", True),
        ("https://aiplatform.eu.rep.googleapis.com", True),
        ("http://aiplatform.googleapis.com", False),
        ("https://aiplatform.googleapis.com:8443", False),
        ("https://aiplatform.googleapis.com.evil.example", False),
        ("https://evil.example/aiplatform.googleapis.com", False),
        ("https://aiplatform.googleapis.com@evil.example", False),
        ("https://user@aiplatform.googleapis.com", False),
        ("https://evil.example#-aiplatform.googleapis.com", False),
        ("https://storage.googleapis.com", False),
        ("http://127.0.0.1:9", False),
        ("https://[::1", False),
        ("", False),
    ],
)
def test_googles_addresses_are_known(base_url: str, googles: bool) -> None:
    assert is_at(base_url, Vertex.googles) is googles


@pytest.mark.foreign
@pytest.mark.parametrize("location", CAPTURED["hosts"])
def test_every_host_of_a_location_is_googles(location: str) -> None:
    assert is_at(CAPTURED["hosts"][location], Vertex.googles)


async def test_nobody_knows_whether_an_api_key_is_good_before_it_is_used(server: FakeServer) -> None:
    adapter = made(server.base_url, "AIzaTest")
    loaded = await load_only(adapter)
    await adapter.close()
    assert [warning.name for warning in loaded.warnings] == ["KEY_NOT_CHECKED"]
    assert [received.path for received in server.lists] == ["/ping"]  # for a warm connection alone


async def test_without_a_list_a_load_finds_out_whether_anybody_is_there(server: FakeServer) -> None:
    async with FakeServer(VertexWire()) as gone:
        base_url = gone.base_url
    with pytest.raises(AdapterError) as caught:
        await load_only(made(base_url, "AIzaTest"))
    assert caught.value.code is Code.UNREACHABLE
    adapter = made(base_url, "AIzaTest")
    loaded = await load_only(adapter, LoadRequest(verify=False))
    await adapter.close()
    assert [warning.name for warning in loaded.warnings] == ["NOT_CHECKED"]


async def test_models_of_an_odd_shape_are_passed_over(server: FakeServer) -> None:
    listed = {"publisherModels": [7, {"name": 7}, {"name": "publishers/google/models/new"}]}
    server.models = Behaviour(body=json.dumps(listed).encode())
    adapter = made(server.base_url, service_account())
    assert (await load_only(adapter)).models == ("new",)
    await adapter.close()


def test_the_adapter_and_the_catalogue_know_each_other() -> None:
    assert (PROVIDER.adapter, PROVIDER.base_url) == ("vertex", HOST)
    assert {setting.name for setting in PROVIDER.settings} == {"project", "location"}

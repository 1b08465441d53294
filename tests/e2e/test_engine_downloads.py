"""A model that is fetched from the hub through the module: cut off, gone on with after a restart, refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.client import Client, connect
from tests.e2e.light_engines import TALK_S, say
from tests.e2e.module import Installation, Module
from tests.fakes.hub_server import FakeHub, hub_server
from tests.tiny_gguf import make_tiny_gguf

pytestmark = [pytest.mark.foreign, pytest.mark.install]

MODEL: Final = "org/small/small.gguf"
CUT_BYTES: Final = 100_000
"""About a third of the file."""
TABLE: Final = '[provider.llama-cpp.quirks]\nhub = "{hub}"\ndownload = true\n'


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    make_tiny_gguf(tmp_path / "small.gguf")
    with hub_server({"small.gguf": (tmp_path / "small.gguf").read_bytes()}) as running:
        yield running


@contextmanager
def module_of(place: Installation, hub: FakeHub, folder: Path) -> Iterator[Module]:
    """A module that may fetch from that hub, into a cache in the folder."""
    tables = place.home / "venvs.local.toml"
    tables.write_text(TABLE.format(hub=hub.endpoint), encoding="utf-8")
    try:
        with Module(place, variables={"HF_HUB_CACHE": str(folder / "hub")}) as module:
            yield module
    finally:
        tables.unlink()


async def load(client: Client, model: str = MODEL, **fields: Any) -> dict[str, Any]:
    """The load_done of a load."""
    options = {"threads": 1, "context_length": 512}
    return await client.load("local", timeout_s=TALK_S, preload_model_id=model, options=options, **fields)


async def test_a_download_that_was_cut_goes_on_after_a_restart_of_the_module(
    engines_place: Installation, hub: FakeHub, tmp_path: Path
) -> None:
    hub.cut_after = CUT_BYTES
    with module_of(engines_place, hub, tmp_path) as module:
        async with connect(module) as client:
            done = await load(client)
            assert done["error_name"] == "UNREACHABLE"
            assert "it goes on from there" in done["message"]
    hub.cut_after = None
    hub.asked.clear()
    with module_of(engines_place, hub, tmp_path) as module:
        async with connect(module) as client:
            done = await load(client)
            assert done["is_error"] is False, done
            assert (await say(client)).code == "SUCCESS"
    ranges = [wanted for method, path, _, wanted in hub.asked if method == "GET" and "signed" in path]
    assert ranges == [f"bytes={CUT_BYTES}-"]


@pytest.mark.parametrize(
    ("key", "status", "code", "words"),
    [
        pytest.param("hf_of_somebody", None, "AUTHORIZATION", "api_key", id="401 gated"),
        pytest.param(None, 403, "AUTHORIZATION", "api_key", id="403 forbidden"),
        pytest.param(None, 404, "INVALID_MODEL", "org/small", id="404 missing"),
        pytest.param(None, 503, "UPSTREAM_ERROR", "503", id="503 down"),
    ],
)
async def test_a_hub_that_refuses_is_a_clear_error_and_the_next_load_works(
    engines_place: Installation,
    hub: FakeHub,
    tmp_path: Path,
    key: str | None,
    status: int | None,
    code: str,
    words: str,
) -> None:
    hub.key, hub.status = key, status
    with module_of(engines_place, hub, tmp_path) as module:
        async with connect(module) as client:
            done = await load(client)
            assert (done["error_name"], words in done["message"]) == (code, True), done["message"]
            assert (await load(client, "tiny"))["is_error"] is False
            assert (await say(client)).code == "SUCCESS"


async def test_a_file_that_the_repository_has_not_is_an_invalid_model(
    engines_place: Installation, hub: FakeHub, tmp_path: Path
) -> None:
    with module_of(engines_place, hub, tmp_path) as module:
        async with connect(module) as client:
            done = await load(client, "org/small/large.gguf")
    assert (done["error_name"], "no such file in it" in done["message"]) == ("INVALID_MODEL", True)

"""Downloads from the hub: into its cache, resumed, checked, and with the key for the hub alone."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.fakes.bound import CANARY, collect, finish_of, load_only
from tests.fakes.hub_server import COMMIT, FakeHub, hub_server
from tests.fakes.local_model import request
from tests.tiny_gguf import make_tiny_gguf
from workers import hub_download
from workers.adapter import AdapterError, Binding, LoadRequest, ProviderSpec
from workers.adapters.llama_cpp import LlamaCpp
from workers.codes import Code
from workers.hub_download import Hub, files_of_model
from workers.model_files import ModelFiles

REPO: Final = "org/repo"
FILE: Final = "mia-q4.gguf"
DATA: Final = bytes(range(256)) * 64


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with hub_server({FILE: DATA}) as running:
        yield running


def fetch(hub: FakeHub, cache: Path, file: str = FILE, *, key: str | None = None) -> str:
    told: list[float | None] = []
    name = Hub(hub.endpoint, cache, key).fetch(
        REPO, file, lambda phase, message, fraction: told.append(fraction), threading.Event()
    )
    assert told == sorted(told, key=lambda fraction: fraction or 0)
    return name


def refusal(hub: FakeHub, cache: Path, file: str = FILE, *, key: str | None = None) -> AdapterError:
    with pytest.raises(AdapterError) as caught:
        fetch(hub, cache, file, key=key)
    return caught.value


def found(cache: Path, name: str = f"{REPO}/{FILE}") -> bytes:
    return ModelFiles((), cache).find(name).read_bytes()


def test_a_file_comes_into_the_hubs_own_cache(hub: FakeHub, tmp_path: Path) -> None:
    assert fetch(hub, tmp_path) == FILE
    assert found(tmp_path) == DATA
    named = tmp_path / "models--org--repo" / "snapshots" / COMMIT / FILE
    assert named.is_file()
    assert named.resolve().parent.name == "blobs"
    assert (tmp_path / "models--org--repo" / "refs" / "main").read_text(encoding="utf-8") == COMMIT


def test_what_is_there_is_not_fetched_again(hub: FakeHub, tmp_path: Path) -> None:
    fetch(hub, tmp_path)
    fetch(hub, tmp_path)
    assert sum("signed" in path for _, path, *_ in hub.asked) == 1


def test_a_download_that_was_cut_goes_on_where_it_ended(hub: FakeHub, tmp_path: Path) -> None:
    hub.cut_after = 5000
    assert refusal(hub, tmp_path).code is Code.UNREACHABLE
    hub.cut_after = None
    fetch(hub, tmp_path)
    assert hub.asked[-1][3] == "bytes=5000-"
    assert found(tmp_path) == DATA


def test_a_server_without_ranges_begins_anew(hub: FakeHub, tmp_path: Path) -> None:
    hub.cut_after = 5000
    refusal(hub, tmp_path)
    hub.cut_after, hub.ranges = None, False
    fetch(hub, tmp_path)
    assert found(tmp_path) == DATA


def test_what_is_not_the_file_is_thrown_away(hub: FakeHub, tmp_path: Path) -> None:
    hub.spoiled = True
    assert refusal(hub, tmp_path).code is Code.UPSTREAM_PROTOCOL
    assert not list((tmp_path / "models--org--repo" / "blobs").iterdir())
    hub.spoiled = False
    fetch(hub, tmp_path)
    assert found(tmp_path) == DATA


def test_the_key_goes_to_the_hub_and_never_along_a_redirect(hub: FakeHub, tmp_path: Path) -> None:
    hub.key = CANARY
    assert refusal(hub, tmp_path).code is Code.AUTHORIZATION
    fetch(hub, tmp_path, key=CANARY)
    sent = {method: authorization for method, _, authorization, _ in hub.asked}
    assert sent == {"HEAD": f"Bearer {CANARY}", "GET": None}


def test_a_file_that_does_not_exist_is_an_invalid_model(hub: FakeHub, tmp_path: Path) -> None:
    assert refusal(hub, tmp_path, "nothing.gguf").code is Code.INVALID_MODEL


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, Code.AUTHORIZATION), (429, Code.RATE_LIMITED), (503, Code.UPSTREAM_ERROR)],
)
def test_a_hub_that_refuses_says_what_to_do(hub: FakeHub, tmp_path: Path, status: int, code: Code) -> None:
    hub.status = status
    error = refusal(hub, tmp_path)
    assert (error.code, error.provider_status) == (code, status)


@pytest.mark.parametrize("file", ["", FILE])
def test_what_is_no_hub_is_not_believed(hub: FakeHub, tmp_path: Path, file: str) -> None:
    hub.noise = True
    assert "is not the Hugging Face hub" in refusal(hub, tmp_path, file).message


def test_a_repository_that_was_renamed_is_followed_but_not_elsewhere(hub: FakeHub, tmp_path: Path) -> None:
    hub.moved_to = "/org/new-name"
    fetch(hub, tmp_path)
    assert found(tmp_path) == DATA
    hub.moved_to = f"{hub.storage}/org/new-name"
    assert "is not the Hugging Face hub" in refusal(hub, tmp_path).message


def test_of_several_files_the_usual_one_is_taken(hub: FakeHub, tmp_path: Path) -> None:
    hub.files = {"mia-Q8_0.gguf": DATA, "mia-Q4_K_M.gguf": DATA, "mmproj-mia.gguf": DATA, "README.md": b""}
    assert fetch(hub, tmp_path, "") == "mia-Q4_K_M.gguf"
    hub.files = {"a.gguf": DATA, "b.gguf": DATA}
    assert "name one" in refusal(hub, tmp_path, "").message
    hub.files = {"README.md": b""}
    assert "no GGUF files" in refusal(hub, tmp_path, "").message


def test_a_hub_cannot_lead_out_of_its_cache(hub: FakeHub, tmp_path: Path) -> None:
    hub.files = {"../../../evil.gguf": DATA}
    assert refusal(hub, tmp_path / "a" / "cache", "").code is Code.UPSTREAM_PROTOCOL
    assert not list(tmp_path.rglob("evil*"))


def test_all_parts_of_a_model_come(hub: FakeHub, tmp_path: Path) -> None:
    hub.files = {f"big-0000{i}-of-00002.gguf": DATA + bytes([i]) for i in (1, 2)}
    fetch(hub, tmp_path, "big-00001-of-00002.gguf")
    assert found(tmp_path, f"{REPO}/big-00001-of-00002") == DATA + b"\x01"
    folder = tmp_path / "models--org--repo" / "snapshots" / COMMIT
    assert (folder / "big-00002-of-00002.gguf").read_bytes() == DATA + b"\x02"


def test_a_full_disk_is_said_before(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_download, "SPARE_BYTES", shutil.disk_usage(tmp_path).total)
    assert "make room" in refusal(hub, tmp_path).message


def test_a_hub_that_is_not_there_is_unreachable(hub: FakeHub, tmp_path: Path) -> None:
    hub.endpoint = "http://127.0.0.1:9"
    assert refusal(hub, tmp_path).code is Code.UNREACHABLE


def test_a_download_that_is_given_up_ends_and_keeps_what_came(hub: FakeHub, tmp_path: Path) -> None:
    given_up = threading.Event()
    given_up.set()
    with pytest.raises(AdapterError) as caught:
        Hub(hub.endpoint, tmp_path).fetch(REPO, FILE, lambda *_: None, given_up)
    assert caught.value.code is Code.INTERRUPT


def test_links_that_cannot_be_made_are_done_without(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("a privilege is not held")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    fetch(hub, tmp_path)
    assert found(tmp_path) == DATA


async def test_a_load_fetches_only_what_the_operator_allows(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny_gguf(tmp_path / "tiny.gguf")
    hub.files = {FILE: (tmp_path / "tiny.gguf").read_bytes()}
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    load = LoadRequest(preload_model=REPO)
    forbidden = LlamaCpp(ProviderSpec("x", "X", quirks={"hub": hub.endpoint}), Binding(1))
    with pytest.raises(AdapterError, match="allow downloads"):
        await load_only(forbidden, load)
    await forbidden.close()
    assert hub.asked == []
    allowed = LlamaCpp(ProviderSpec("x", "X", quirks={"hub": hub.endpoint, "download": True}), Binding(1))
    await load_only(allowed, load)
    assert finish_of(await collect(allowed, request(max_output_length=2))).model == REPO
    await allowed.close()


# ---- repositories of safetensors

MODEL: Final = {
    "config.json": b"{}",
    "tokenizer.json": b"{ }",
    "model-00001-of-00002.safetensors": DATA,
    "model-00002-of-00002.safetensors": DATA + b"2",
    "model.safetensors.index.json": b"{  }",
}
OTHERS: Final = {
    "modeling_mia.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickled",
    "consolidated.safetensors": DATA + b"3",
    "onnx/model.onnx": b"x",
    "sub/model.safetensors": b"y",
    "README.md": b"z",
}


def fetch_all(hub: FakeHub, cache: Path) -> list[float | None]:
    told: list[float | None] = []
    Hub(hub.endpoint, cache).fetch_repository(
        REPO, lambda phase, message, fraction: told.append(fraction), threading.Event()
    )
    return told


def snapshot(cache: Path) -> dict[str, bytes]:
    folder = cache / "models--org--repo" / "snapshots" / COMMIT
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def test_of_a_repository_comes_what_makes_a_model_and_nothing_that_runs(hub: FakeHub, tmp_path: Path) -> None:
    hub.files = {**OTHERS, **MODEL}
    told = fetch_all(hub, tmp_path)
    assert snapshot(tmp_path) == MODEL
    assert told == sorted(told, key=lambda fraction: fraction or 0)
    assert told[-1] == 1.0


def test_a_repository_goes_on_where_its_download_was_cut(hub: FakeHub, tmp_path: Path) -> None:
    hub.files, hub.cut_after = MODEL, 5000
    with pytest.raises(AdapterError) as caught:
        fetch_all(hub, tmp_path)
    assert caught.value.code is Code.UNREACHABLE
    assert "config.json" not in snapshot(tmp_path), "a half is no model"
    hub.cut_after = None
    fetch_all(hub, tmp_path)
    assert snapshot(tmp_path) == MODEL
    assert "bytes=5000-" in [bytes_asked for *_, bytes_asked in hub.asked]
    before = len(hub.asked)
    fetch_all(hub, tmp_path)
    assert not [path for _, path, *_ in hub.asked[before:] if path.startswith("/bytes/")]


def test_weights_in_an_engines_own_form_come_instead_where_all_of_them_are_there() -> None:
    own = ("own.xml", "own.bin")
    names = [*OTHERS, *MODEL]
    assert files_of_model(REPO, names, own) == files_of_model(REPO, [*names, "own.xml"], own)
    assert files_of_model(REPO, [*names, *own], own) == [
        "tokenizer.json",
        "own.bin",
        "own.xml",
        "config.json",
    ]
    with pytest.raises(AdapterError):
        files_of_model(REPO, ["tokenizer.json", *own], own)


def test_a_repository_without_safetensors_says_so(hub: FakeHub, tmp_path: Path) -> None:
    for files in ({"README.md": b"z"}, {"config.json": b"{}"}, {"model.safetensors": DATA}):
        hub.files = files
        with pytest.raises(AdapterError) as caught:
            fetch_all(hub, tmp_path)
        assert caught.value.code is Code.INVALID_MODEL


def test_a_revision_is_fetched_as_what_it_is(hub: FakeHub, tmp_path: Path) -> None:
    Hub(hub.endpoint, tmp_path, revision="v2").fetch(REPO, FILE, lambda *news: None, threading.Event())
    assert {path for method, path, *_ in hub.asked if method == "HEAD"} == {f"/{REPO}/resolve/v2/{FILE}"}
    refs = tmp_path / "models--org--repo" / "refs"
    assert {path.name: path.read_text(encoding="utf-8") for path in refs.iterdir()} == {"v2": COMMIT}


def test_a_commit_needs_no_name(hub: FakeHub, tmp_path: Path) -> None:
    Hub(hub.endpoint, tmp_path, revision=COMMIT).fetch(REPO, FILE, lambda *news: None, threading.Event())
    assert list((tmp_path / "models--org--repo" / "refs").iterdir()) == []

"""Names of models: a path, a file in the operator's folders, a file in the hub's cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from workers.adapter import AdapterError
from workers.codes import Code
from workers.model_files import ModelFiles, parts_of

ORG: Final = "models--org--repo"


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"GGUF")
    return path


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    return ModelFiles((tmp_path / "models", tmp_path / "more"), tmp_path / "hub")


def refusal(files: ModelFiles, name: str) -> str:
    with pytest.raises(AdapterError) as caught:
        files.find(name)
    assert caught.value.code is Code.INVALID_MODEL
    return caught.value.message


@pytest.mark.parametrize("name", ["mia", "mia.gguf", "MIA", " mia "])
def test_a_file_in_a_folder_has_the_name_of_the_file(files: ModelFiles, name: str) -> None:
    path = touch(files.folders[0] / "mia.gguf")
    assert files.find(name) == path
    assert files.names() == ("mia",)


def test_a_file_below_a_folder_is_named_with_its_way(files: ModelFiles) -> None:
    path = touch(files.folders[1] / "small" / "mia.GGUF")
    assert files.find("small/mia") == path


def test_nothing_is_found_by_climbing_out_of_a_folder(files: ModelFiles, tmp_path: Path) -> None:
    touch(tmp_path / "secret.gguf")
    touch(files.folders[0] / "mia.gguf")
    assert "There is no model" in refusal(files, "../secret")


def test_an_absolute_path_is_itself(files: ModelFiles, tmp_path: Path) -> None:
    path = touch(tmp_path / "elsewhere" / "mia.gguf")
    assert files.find(str(path)) == path
    assert "no file" in refusal(files, str(tmp_path / "nothing.gguf"))


def test_a_path_may_begin_at_home(files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    path = touch(tmp_path / "mia.gguf")
    assert files.find("~/mia.gguf") == path


def test_another_machines_files_are_never_touched(files: ModelFiles) -> None:
    assert "another machine" in refusal(files, "//host/share/mia.gguf")


def test_a_path_of_another_kind_is_no_model(files: ModelFiles, tmp_path: Path) -> None:
    assert "There is no model" in refusal(files, str(touch(tmp_path / "passwords.txt")))


def test_a_near_name_is_offered(files: ModelFiles) -> None:
    touch(files.folders[0] / "qwen3-4b-q4.gguf")
    assert "near ones: qwen3-4b-q4" in refusal(files, "qwen3-4b")
    assert str(files.folders[0]) in refusal(files, "something else")


def test_a_repository_of_the_hub_is_named_with_or_without_its_file(files: ModelFiles) -> None:
    path = touch(files.hub / ORG / "snapshots" / "c1" / "mia-q4.gguf")
    touch(files.hub / ORG / "snapshots" / "c1" / "mmproj-mia.gguf")
    assert files.find("org/repo") == files.find("org/repo/mia-q4.gguf") == path
    assert files.find("Org/Repo/mia-q4") == path
    assert files.names() == ("org/repo/mia-q4.gguf",)


def test_a_repository_of_several_files_wants_one_to_be_named(files: ModelFiles) -> None:
    for name in ("q4.gguf", "q8.gguf"):
        touch(files.hub / ORG / "snapshots" / "c1" / name)
    assert "name one: org/repo/q4.gguf, org/repo/q8.gguf" in refusal(files, "org/repo")


def test_the_snapshot_that_main_names_counts_else_the_newest(files: ModelFiles) -> None:
    old = touch(files.hub / ORG / "snapshots" / "c1" / "mia.gguf")
    new = touch(files.hub / ORG / "snapshots" / "c2" / "mia.gguf")
    os.utime(old.parent, (1, 1))
    assert files.find("org/repo") == new
    (files.hub / ORG / "refs").mkdir()
    (files.hub / ORG / "refs" / "main").write_text("c1", encoding="utf-8")
    assert files.find("org/repo") == old


def test_a_repository_that_was_not_fetched_is_unknown(files: ModelFiles) -> None:
    (files.hub / ORG / "snapshots").mkdir(parents=True)
    assert "There is no model" in refusal(files, "org/repo")


def test_a_model_in_parts_goes_by_its_first_one(files: ModelFiles) -> None:
    parts = [touch(files.folders[0] / f"big-0000{i}-of-00003.gguf") for i in (1, 2, 3)]
    assert files.names() == ("big-00001-of-00003",)
    assert parts_of(files.find("big-00001-of-00003")) == parts
    parts[1].unlink()
    with pytest.raises(AdapterError, match="big-00002-of-00003"):
        parts_of(parts[0])


def test_a_model_in_one_file_is_its_only_part(tmp_path: Path) -> None:
    assert parts_of(tmp_path / "mia.gguf") == [tmp_path / "mia.gguf"]


@pytest.mark.parametrize(
    ("environ", "hub"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/a"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
    ],
)
def test_the_hubs_cache_is_where_its_own_library_keeps_it(environ: dict[str, str], hub: str) -> None:
    assert ModelFiles.of({}, environ).hub == Path(hub)


def test_without_variables_the_cache_is_at_home() -> None:
    assert ModelFiles.of({}, {}).hub.parts[-3:] == (".cache", "huggingface", "hub")


def test_folders_are_one_path_or_several() -> None:
    assert ModelFiles.of({"models_dir": "/a"}, {}).folders == (Path("/a"),)
    assert ModelFiles.of({"models_dir": ["/a", "/b"]}, {}).folders == (Path("/a"), Path("/b"))
    with pytest.raises(AdapterError, match="models_dir"):
        ModelFiles.of({"models_dir": 7}, {})

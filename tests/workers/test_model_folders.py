"""Names of models that are folders: paths, the operator's folders, the hub's cache, and GGUF files."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.adapter import AdapterError
from workers.codes import Code
from workers.model_files import ModelFiles
from workers.model_folders import find_folder, find_model, folder_names, is_model_folder, model_names


def make(folder: Path) -> Path:
    """What looks like a model from outside."""
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).touch()
    return folder


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    make(tmp_path / "models" / "tiny")
    make(tmp_path / "models" / "sub" / "Other")
    (tmp_path / "models" / "empty").mkdir()
    (tmp_path / "models" / "small.gguf").touch()
    make(tmp_path / "hub" / "models--org--repo" / "snapshots" / "abc")
    (tmp_path / "hub" / "models--org--code" / "snapshots" / "abc").mkdir(parents=True)
    return ModelFiles((tmp_path / "models",), tmp_path / "hub")


def test_folders_come_first_and_gguf_files_after_them(files: ModelFiles) -> None:
    assert model_names(files) == ("sub/Other", "tiny", "org/repo", "small")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("tiny", "models/tiny"),
        ("SUB/other", "models/sub/Other"),
        ("org/repo", "hub/models--org--repo/snapshots/abc"),
        ("small", "models/small.gguf"),
        ("small.gguf", "models/small.gguf"),
    ],
)
def test_a_name_is_found_whatever_its_case(files: ModelFiles, tmp_path: Path, name: str, found: str) -> None:
    assert find_model(files, name) == tmp_path / found


def test_a_path_is_taken_as_it_is(files: ModelFiles, tmp_path: Path) -> None:
    assert find_model(files, str(tmp_path / "models" / "tiny")) == tmp_path / "models" / "tiny"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tinny", "near ones: tiny"),
        ("nothing at all", "There is no model"),
        ("org/other", "near ones: org/repo"),
        ("someone/else", "allow downloads"),
        ("{}/nowhere", "There is no folder"),
        ("{}/empty", "is no model: it needs config.json"),
        ("//host/share", "not read from another machine"),
    ],
)
def test_what_cannot_be_found_says_why(files: ModelFiles, name: str, words: str) -> None:
    with pytest.raises(AdapterError) as caught:
        find_model(files, name.format(files.folders[0]))
    assert caught.value.code is Code.INVALID_MODEL
    assert words in caught.value.message


def test_a_folder_without_a_config_is_none(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    assert not is_model_folder(tmp_path)


def test_folders_alone_are_named_and_found_where_gguf_files_are_no_use(
    files: ModelFiles, tmp_path: Path
) -> None:
    assert folder_names(files) == ("sub/Other", "tiny", "org/repo")
    assert find_folder(files, "TINY") == tmp_path / "models" / "tiny"
    assert find_folder(files, str(tmp_path / "models" / "tiny")) == tmp_path / "models" / "tiny"


def test_weights_in_an_engines_own_form_make_a_folder_a_model_for_that_engine_alone(
    files: ModelFiles, tmp_path: Path
) -> None:
    own = ("own.xml", "own.bin")
    folder = tmp_path / "models" / "exported"
    folder.mkdir()
    for name in ("config.json", *own[:1]):
        (folder / name).touch()
    assert "exported" not in folder_names(files, exported=own), "half of it is none"
    (folder / own[1]).touch()
    assert folder_names(files, exported=own) == ("exported", "sub/Other", "tiny", "org/repo")
    assert find_folder(files, "exported", exported=own) == find_folder(files, str(folder), exported=own)
    assert "exported" not in folder_names(files)
    with pytest.raises(AdapterError):
        find_folder(files, str(folder))


def test_a_revision_is_a_commit_or_what_names_one(files: ModelFiles, tmp_path: Path) -> None:
    repo = tmp_path / "hub" / "models--org--repo"
    make(repo / "snapshots" / "def")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc", encoding="utf-8")
    (repo / "refs" / "v2").write_text("def\n", encoding="utf-8")
    assert find_folder(files, "org/repo").name == "abc"
    assert find_folder(files, "org/repo", "v2").name == find_folder(files, "org/repo", "def").name == "def"
    with pytest.raises(AdapterError) as caught:
        find_folder(files, "org/repo", "v3")
    assert "at revision 'v3'" in caught.value.message
    assert "org/repo" not in folder_names(files, "v3")


@pytest.mark.parametrize(
    ("name", "words"),
    [("tinny", "near ones: tiny"), ("zz/zzz", "download it first"), ("zzzzz", "it needs config.json")],
)
def test_a_folder_that_is_not_there_says_what_to_do(files: ModelFiles, name: str, words: str) -> None:
    with pytest.raises(AdapterError) as caught:
        find_folder(files, name)
    assert caught.value.code is Code.INVALID_MODEL
    assert words in caught.value.message

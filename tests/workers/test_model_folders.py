"""Names of models that are folders: paths, the operator's folders, the hub's cache, and GGUF files."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.adapter import AdapterError
from workers.codes import Code
from workers.model_files import ModelFiles
from workers.model_folders import find_model, is_model_folder, model_names


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

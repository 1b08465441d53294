"""Names of models of ONNX Runtime GenAI: paths, the operator's folders, folders in repositories."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from workers.adapter import AdapterError
from workers.codes import Code
from workers.genai_names import files_of_model, find_genai, genai_names, split_hub_name
from workers.model_files import ModelFiles

CONFIG: Final = "genai_config.json"
OFFERED: Final = (
    *("README.md", "cpu/a/genai_config.json", "cpu/a/model.onnx", "cpu/a/model.onnx.data", "cpu/a/run.py"),
    *(
        "cpu/a/tokenizer.json",
        "cpu/a/chat_template.jinja",
        "cpu/a/deep/model.onnx",
        "cpu/b/genai_config.json",
    ),
    *("cpu/b/model.onnx", "gpu/genai_config.json", "gpu/model.onnx"),
)
"""The files of a repository."""


def make(folder: Path) -> Path:
    """What looks like a model from outside."""
    folder.mkdir(parents=True)
    for name in (CONFIG, "model.onnx"):
        (folder / name).touch()
    return folder


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    make(tmp_path / "models" / "tiny")
    make(tmp_path / "models" / "sub" / "Other")
    (tmp_path / "models" / "empty").mkdir()
    make(tmp_path / "hub" / "models--org--one" / "snapshots" / "abc" / "cpu" / "int4")
    make(tmp_path / "hub" / "models--org--flat" / "snapshots" / "abc")
    for place in ("cpu", "cuda"):
        make(tmp_path / "hub" / "models--org--two" / "snapshots" / "abc" / place)
    return ModelFiles((tmp_path / "models",), tmp_path / "hub")


def test_the_operators_come_first_and_folders_of_repositories_after_them(files: ModelFiles) -> None:
    assert genai_names(files) == (
        *("sub/Other", "tiny"),
        *("org/flat", "org/one/cpu/int4", "org/two/cpu", "org/two/cuda"),
    )


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("tiny", "models/tiny"),
        ("SUB/other", "models/sub/Other"),
        ("org/flat", "hub/models--org--flat/snapshots/abc"),
        ("org/one", "hub/models--org--one/snapshots/abc/cpu/int4"),
        ("org/two/cuda", "hub/models--org--two/snapshots/abc/cuda"),
    ],
)
def test_a_name_is_found_whatever_its_case(files: ModelFiles, tmp_path: Path, name: str, found: str) -> None:
    assert find_genai(files, name) == tmp_path / found


def test_a_path_is_taken_as_it_is(files: ModelFiles, tmp_path: Path) -> None:
    assert find_genai(files, str(tmp_path / "models" / "tiny")) == tmp_path / "models" / "tiny"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tinny", "near ones: tiny"),
        ("nothing at all", "There is no model 'nothing at all'"),
        ("qqq/zzz", "allow downloads"),
        ("org/two", "several models; name one: org/two/cpu, org/two/cuda"),
        ("{}/nowhere", "check the path"),
        ("{}/empty", "it needs genai_config.json and an .onnx file"),
        ("{}", "several models; name one:"),
        ("//host/share", "There is no model" if Path("//host").anchor == "" else "another machine"),
    ],
)
def test_a_name_of_nothing_says_what_would_be_something(
    files: ModelFiles, tmp_path: Path, name: str, words: str
) -> None:
    with pytest.raises(AdapterError) as caught:
        find_genai(files, name.format(tmp_path / "models"))
    assert caught.value.code is Code.INVALID_MODEL
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("org/repo", ("org/repo", "")),
        ("org/repo/cpu/int4-rtn", ("org/repo", "cpu/int4-rtn")),
        ("tiny", None),
        ("/org/repo", None),
        ("org/repo/../other", None),
        ("org/repo/.hidden", None),
    ],
)
def test_a_name_of_the_hubs_is_a_repository_and_a_folder(name: str, split: tuple[str, str] | None) -> None:
    assert split_hub_name(name) == split


def test_of_a_repository_one_folder_is_wanted_its_config_last_and_nothing_that_runs() -> None:
    assert files_of_model("org/repo", "cpu/a", OFFERED) == [
        *("cpu/a/chat_template.jinja", "cpu/a/model.onnx", "cpu/a/model.onnx.data", "cpu/a/tokenizer.json"),
        "cpu/a/genai_config.json",
    ]
    assert files_of_model("org/repo", "gpu", OFFERED) == ["gpu/model.onnx", "gpu/genai_config.json"]
    assert files_of_model("org/repo", "", ["a.onnx", CONFIG]) == ["a.onnx", CONFIG]


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("cpu", "org/repo/cpu/a, org/repo/cpu/b"),
        ("", "org/repo/cpu/a, org/repo/cpu/b, org/repo/gpu"),
        ("cp", "org/repo/cp has no genai_config.json"),
    ],
)
def test_what_is_no_folder_of_one_model_says_which_are(folder: str, words: str) -> None:
    with pytest.raises(AdapterError) as caught:
        files_of_model("org/repo", folder, OFFERED)
    assert caught.value.code is Code.INVALID_MODEL
    assert words in caught.value.message

"""What a folder of safetensors says of its model, and what is said of one that is none."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import CONTEXT, END, SPECIALS, STOP, TEMPLATE
from tests.tiny_safetensors import make_tiny_safetensors
from workers.folder_model import BadFolder, read_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_tiny_safetensors(tmp_path / "tiny")
    return tmp_path / "tiny"


def change(folder: Path, name: str, **changes: Any) -> None:
    """Other values in one of the JSON files; None takes one away."""
    path = folder / name
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    new = {key: value for key, value in {**old, **changes}.items() if value is not None}
    path.write_text(json.dumps(new), encoding="utf-8")


def test_a_folder_says_what_its_model_is(folder: Path) -> None:
    model = read_folder(folder)
    assert (model.architecture, model.context_length, model.template) == (
        "LlamaForCausalLM",
        CONTEXT,
        TEMPLATE,
    )
    assert (model.words["bos_token"], model.words["eos_token"]) == (SPECIALS[END], SPECIALS[STOP])
    assert model.eos_ids == (STOP,)
    assert model.kv_bytes == 2 * 2 * 16 * 2 * 2
    assert list(model.files) == [folder / "model.safetensors"]
    header = 8 + struct.unpack("<Q", (folder / "model.safetensors").read_bytes()[:8])[0]
    assert model.parameters * 4 == sum(model.files.values()) - header


def test_weights_in_several_files_are_all_counted_and_all_needed(folder: Path, tmp_path: Path) -> None:
    make_tiny_safetensors(tmp_path / "parts", files=3)
    parts = read_folder(tmp_path / "parts")
    assert (len(parts.files), parts.parameters) == (3, read_folder(folder).parameters)
    (tmp_path / "parts" / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(BadFolder, match=r"model-00002-of-00003\.safetensors is missing"):
        read_folder(tmp_path / "parts")


def test_of_weights_in_an_engines_own_form_the_size_is_told(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "own.bin").write_bytes(b"12345")
    model = read_folder(folder, "own.bin")
    assert (model.files, model.parameters) == ({folder / "own.bin": 5}, 0)
    assert model.architecture == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("{{ x }}", "{{ x }}"),
        ([{"name": "rag", "template": "a"}, {"name": "default", "template": "b"}], "b"),
        ([{"name": "rag", "template": "a"}], None),
        ("  ", None),
        (7, None),
    ],
)
def test_a_template_stands_in_the_tokenizers_config(folder: Path, given: Any, found: str | None) -> None:
    change(folder, "tokenizer_config.json", chat_template=given)
    assert read_folder(folder).template == found


def test_a_template_in_a_file_of_its_own_wins(folder: Path) -> None:
    change(folder, "chat_template.json", chat_template="second")
    assert read_folder(folder).template == "second"
    (folder / "chat_template.jinja").write_text("first", encoding="utf-8")
    assert read_folder(folder).template == "first"


def test_special_tokens_may_be_records_and_ends_may_be_many(folder: Path) -> None:
    change(folder, "tokenizer_config.json", bos_token={"content": "<s>"}, eos_token=None)
    change(folder, "special_tokens_map.json", eos_token="</s>", additional=["x"])
    change(folder, "generation_config.json", eos_token_id=[2, 5, "x"])
    model = read_folder(folder)
    assert (model.words["bos_token"], model.words["eos_token"], model.eos_ids) == ("<s>", "</s>", (2, 5))


def test_the_numbers_of_a_model_of_several_kinds_are_those_of_its_text(folder: Path) -> None:
    inner = {"max_position_embeddings": 99, "num_hidden_layers": 1, "head_dim": 8}
    change(folder, "config.json", text_config=inner)
    model = read_folder(folder)
    assert (model.context_length, model.kv_bytes) == (99, 1 * 2 * 8 * 2 * 2)


def test_what_is_not_said_is_not_known(folder: Path) -> None:
    change(folder, "config.json", num_attention_heads=None, max_position_embeddings=None)
    model = read_folder(folder)
    assert (model.context_length, model.kv_bytes) == (0, 0)


def _weights(data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.safetensors").write_bytes(data)


def _headed(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "config.json").write_bytes(b"[]"), "config.json that is none"),
        (lambda folder: (folder / "config.json").write_bytes(b"{"), "config.json that is no JSON"),
        (lambda folder: change(folder, "config.json", architectures=[]), "of what architecture"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (_weights(b""), "is no safetensors file"),
        (_weights(b"\xff" * 16), "is no safetensors file"),
        (_weights(_headed(b"{")), "header cannot be read"),
        (_weights(_headed(b'{"a": 1}')), "header cannot be read"),
        (_weights(_headed(b'{"a": {"data_offsets": [0], "shape": [1]}}')), "header cannot be read"),
        (_weights(_headed(b'{"a": {"data_offsets": [0, 4], "shape": [1]}}')), "is cut off"),
        (lambda folder: change(folder, "model.safetensors.index.json", weight_map={}), "is missing"),
    ],
)
def test_what_is_no_model_says_what_is_wrong(
    folder: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(folder)
    with pytest.raises(BadFolder, match=words):
        read_folder(folder)


def test_a_file_that_is_far_too_large_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.folder_model.TEXT_MAX_BYTES", 10)
    with pytest.raises(BadFolder, match="far too large"):
        read_folder(folder)

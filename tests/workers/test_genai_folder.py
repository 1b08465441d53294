"""What a folder of ONNX Runtime GenAI says of its model, and why it is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workers.folder_model import BadFolder
from workers.genai_folder import is_genai_folder, read_genai_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    (tmp_path / "model.onnx.data").write_bytes(b"weights")
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "{{ messages }}", "eos_token": {"content": "<e>"}}), encoding="utf-8"
    )
    configure(tmp_path)
    return tmp_path


def configure(folder: Path, session: dict[str, Any] | None = None, **decoder: Any) -> None:
    """Writes the config."""
    shape = {"num_hidden_layers": 2, "num_key_value_heads": 4, "head_size": 8, "filename": "model.onnx"}
    model = {
        "type": "llama",
        "context_length": 4096,
        "eos_token_id": [2, 3],
        "decoder": {**shape, "session_options": session or {}, **decoder},
    }
    (folder / "genai_config.json").write_text(json.dumps({"model": model}), encoding="utf-8")


def test_a_folder_tells_what_matters(folder: Path) -> None:
    assert is_genai_folder(folder)
    model = read_genai_folder(folder)
    assert (model.kind, model.context_length, model.eos_ids) == ("llama", 4096, (2, 3))
    assert (model.template, model.words) == ("{{ messages }}", {"eos_token": "<e>"})
    assert (model.devices, model.windowed) == ((), False)
    assert model.kv_bytes == 2 * 4 * 8 * 2 * 4
    assert {path.name: size for path, size in model.files.items()} == {"model.onnx": 5, "model.onnx.data": 7}


def test_what_it_does_not_tell_is_not_made_up(folder: Path) -> None:
    (folder / "genai_config.json").write_text(
        '{"model": {"decoder": {"filename": "model.onnx"}}}', encoding="utf-8"
    )
    model = read_genai_folder(folder)
    assert (model.kind, model.context_length, model.eos_ids, model.kv_bytes) == ("", 0, (), 0)


@pytest.mark.parametrize(
    ("options", "devices"),
    [
        ([{"cuda": {"enable_cuda_graph": "0"}}], ("cuda",)),
        ([{"DML": {}}, {"cpu": {}}], ("dml",)),
        ([], ()),
        ("cuda", ()),
        (["cuda"], ()),
    ],
)
def test_a_folder_tells_for_which_device_it_was_made(
    folder: Path, options: object, devices: tuple[str, ...]
) -> None:
    configure(folder, {"provider_options": options})
    assert read_genai_folder(folder).devices == devices


def test_a_model_that_forgets_says_so(folder: Path) -> None:
    configure(folder, sliding_window={"window_size": 128})
    assert read_genai_folder(folder).windowed


@pytest.mark.parametrize(
    ("session", "decoder", "words"),
    [
        ({}, {"filename": "other.onnx"}, "is not whole: other.onnx is missing"),
        ({}, {"filename": ""}, "the name of its graph is missing"),
        ({"custom_ops_library": "evil.so"}, {}, "asks for custom_ops_library"),
        ({"enable_profiling": "trace"}, {}, "asks for enable_profiling"),
        ({"ep.context_file_path": "x.onnx"}, {}, "asks for ep.context_file_path"),
        ({"provider_options": [{"QNN": {"backend_path": "x.dll"}}]}, {}, "asks for backend_path"),
    ],
)
def test_a_folder_that_is_no_model_or_asks_for_too_much_is_refused(
    folder: Path, session: dict[str, Any], decoder: dict[str, Any], words: str
) -> None:
    configure(folder, session, **decoder)
    with pytest.raises(BadFolder, match=words):
        read_genai_folder(folder)


def test_a_setting_that_stands_there_twice_is_seen_twice(folder: Path) -> None:
    text = (folder / "genai_config.json").read_text(encoding="utf-8")
    hidden = r'"session_options": {"\u0063ustom_ops_library": "x.so"}, "session_options": {}'
    (folder / "genai_config.json").write_text(text.replace('"session_options": {}', hidden), encoding="utf-8")
    with pytest.raises(BadFolder, match="asks for custom_ops_library"):
        read_genai_folder(folder)


def test_a_folder_without_its_tokenizer_says_so(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BadFolder, match=r"has no tokenizer\.json"):
        read_genai_folder(folder)

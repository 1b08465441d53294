"""The contract of an engine, held by ONNX Runtime GenAI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.e2e.engines.engine import Damage, Engine, Wrong
from tests.e2e.engines.rows import Rows
from tests.tiny_onnx import DATA, GRAPH, make_tiny_onnx


def _for_a_gpu(folder: Path) -> None:
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    config["model"]["decoder"]["session_options"]["provider_options"] = [{"cuda": {}}]
    (folder / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")


class Onnx(Engine):
    """Its models are folders with a graph."""

    provider = "onnx"
    wrong_options = {
        "device": Wrong({"device": "toaster"}, "options.device must be cpu"),
        "another device": Wrong({"device": "cuda:1"}, "there is cpu", "UNSUPPORTED"),
        "prefix_cache": Wrong({"prefix_cache": "yes"}, "options.prefix_cache must be true or false"),
    }
    damages = {
        "no weights": Damage(lambda folder: (folder / DATA).unlink(), "it said:"),
        "another format": Damage(lambda folder: (folder / GRAPH).write_bytes(b"PK\x03\x04"), "it said:"),
        "no graph": Damage(lambda folder: (folder / GRAPH).unlink(), "an .onnx file"),
        "config": Damage(
            lambda folder: (folder / "genai_config.json").write_bytes(b"{"),
            "genai_config.json that is no JSON",
        ),
        "no tokenizer": Damage(lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json"),
        "tokenizer": Damage(lambda folder: (folder / "tokenizer.json").write_bytes(b"{"), "it said:"),
        "for a GPU": Damage(_for_a_gpu, "was made for cuda"),
    }
    refused = {
        "schema": {
            "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}
        },
        "value": {"repetition_penalty": 0.0},
    }
    left_out = {
        "extra.n": {"extra": {"n": 2}},
        "min_p": {"response_format": {"type": "json_object"}, "min_p": 0.1},
    }

    def make(self, path: Path, **fields: Any) -> None:
        """As Engine wants it."""
        make_tiny_onnx(path, **fields)


class TestOnnx(Rows):
    engine = Onnx()

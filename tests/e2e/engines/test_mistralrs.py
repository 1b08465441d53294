"""The contract of an engine, held by mistral.rs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e.engines.engine import Damage, Engine, Wrong
from tests.e2e.engines.rows import Rows
from tests.tiny_safetensors import make_tiny_safetensors


def _cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _config(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")

    return damage


class MistralRs(Engine):
    """Its models are folders."""

    provider = "huggingface-local"
    wrong_options = {
        "isq": Wrong({"isq": "Q9"}, "options.isq must be one of Q2K"),
        "prefix_cache": Wrong({"prefix_cache": "yes"}, "options.prefix_cache must be true or false"),
    }
    damages = {
        "cut": Damage(_cut, "is cut off"),
        "another format": Damage(
            lambda folder: (folder / "model.safetensors").write_bytes(b"PK\x03\x04"),
            "is no safetensors file",
        ),
        "config": Damage(
            lambda folder: (folder / "config.json").write_bytes(b"{"), "config.json that is no JSON"
        ),
        "no tokenizer": Damage(lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json"),
        "tokenizer": Damage(lambda folder: (folder / "tokenizer.json").write_bytes(b"{"), "it said:"),
        "architecture": Damage(_config(architectures=["XForCausalLM"]), "XForCausalLM"),
        "a layer is missing": Damage(_config(num_hidden_layers=3), "layers.2"),
    }
    refused = {
        "schema": {
            "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}
        },
        "grammar": {"extra": {"grammar": "[", "grammar_type": "regex"}},
        "kind of grammar": {"extra": {"grammar": "x", "grammar_type": "poem"}},
        "type": {"extra": {"logit_bias": {"a": 1}}},
        "value": {"repetition_penalty": 0.0},
    }
    loads_vast = False  # its tables of angles are as long as that context
    left_out = {"extra.n": {"extra": {"n": 2}}}

    def make(self, path: Path, **fields: Any) -> None:
        """As Engine wants it."""
        make_tiny_safetensors(path, **fields)


class TestMistralRs(Rows):
    engine = MistralRs()

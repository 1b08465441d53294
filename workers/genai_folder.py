"""What a folder of ONNX Runtime GenAI says of its model, read before the engine is asked to load it.

Its genai_config.json names the graph, the device that it was made for, the tokens that end a reply and how
long its context may be; the chat template stands in the tokenizer's files, as in a folder of safetensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from workers.folder_model import BadFolder, ids, read_json, speech_of, whole

__all__ = ["CONFIG", "GenaiModel", "is_genai_folder", "read_genai_folder"]

CONFIG: Final = "genai_config.json"
GRAPHS: Final = "*.onnx"
WEIGHTS: Final = "*.onnx*"
"""The graph, and the files beside it that hold its weights: model.onnx.data, model.onnx_data."""
FORBIDDEN: Final = re.compile(r"library|path|profil", re.IGNORECASE)
"""In the name of a setting: it would let a model that came from anybody load a program or write a file."""
KV_ITEM_BYTES: Final = 4
"""Graphs for a processor keep keys and values as 32-bit numbers; others half of that."""


@dataclass(frozen=True, slots=True)
class GenaiModel:
    """What the files of one folder say."""

    kind: str
    """The architecture, as the engine calls it: `llama`, `phi3` …"""
    context_length: int
    """0 where the files do not say."""
    template: str | None
    """The chat template."""
    words: Mapping[str, str]
    """What a template may speak of: `bos_token`, `eos_token` …"""
    eos_ids: tuple[int, ...]
    """The tokens that end a reply."""
    kv_bytes: int
    """Memory for one token of context, at most; 0 where it cannot be told."""
    devices: tuple[str, ...]
    """What the graph was made for besides a processor, in small letters: `cuda`, `dml` …"""
    windowed: bool
    """It keeps only the last tokens of a conversation, so that nothing can be taken back."""
    files: Mapping[Path, int]
    """The graphs and weights, and how many bytes each has."""


def is_genai_folder(folder: Path) -> bool:
    """Whether there are a config and a graph in it."""
    return (folder / CONFIG).is_file() and any(folder.glob(GRAPHS))


def read_genai_folder(folder: Path) -> GenaiModel:
    """Reads all but the graph and the weights. Blocks.

    Raises:
        BadFolder: it is no model, or not whole.
        OSError: a file cannot be read.
    """
    _check_harmless(folder / CONFIG)
    model = _table(read_json(folder / CONFIG).get("model"))
    decoder = _table(model.get("decoder"))
    if not (folder / "tokenizer.json").is_file():
        raise BadFolder("has no tokenizer.json")
    graph = str(decoder.get("filename", ""))
    if not graph or not (folder / graph).is_file():
        raise BadFolder(f"is not whole: {graph or 'the name of its graph'} is missing")
    template, words = speech_of(folder)
    return GenaiModel(
        kind=str(model.get("type", "")),
        context_length=whole(model.get("context_length")),
        template=template,
        words=words,
        eos_ids=ids(model.get("eos_token_id")),
        kv_bytes=_kv_bytes(decoder),
        devices=_devices(decoder),
        windowed=bool(decoder.get("sliding_window")),
        files={path: path.stat().st_size for path in sorted(folder.glob(WEIGHTS))},
    )


def _check_harmless(config: Path) -> None:
    """Nothing, if the config asks for nothing that a model may not have. A setting that stands there twice is
    seen twice: the engine might heed the one that a dictionary forgets."""

    def look(pairs: Sequence[tuple[str, object]]) -> None:
        for name, value in pairs:
            if FORBIDDEN.search(name) and value not in ("", None):
                raise BadFolder(f"asks for {name} in its {CONFIG}, which no model may")

    read_json(config)  # it is JSON, and not too large
    json.loads(config.read_bytes(), object_pairs_hook=look)


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _kv_bytes(decoder: Mapping[str, Any]) -> int:
    """Keys and values of one token in all layers."""
    names = ("num_hidden_layers", "num_key_value_heads", "head_size")
    layers, heads, side = (whole(decoder.get(name)) for name in names)
    return layers * heads * side * 2 * KV_ITEM_BYTES


def _devices(decoder: Mapping[str, Any]) -> tuple[str, ...]:
    given = _table(decoder.get("session_options")).get("provider_options")
    tables = [table for table in given if isinstance(table, dict)] if isinstance(given, list) else []
    names = [str(name).lower() for table in tables for name in table]
    return tuple(name for name in names if name != "cpu")

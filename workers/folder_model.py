"""What a folder of safetensors says of its model, read before an engine is asked to load it.

Whether all of it is there, how long its context may be, its chat template and the tokens that it speaks of,
and how much memory the model takes. An engine says only that it could not load something; from here comes
why. Nothing is trusted: every length is bounded before memory is taken for it.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = [
    "KV_ITEM_BYTES",
    "BadFolder",
    "FolderModel",
    "ids",
    "read_folder",
    "read_json",
    "speech_of",
    "whole",
]

TEXT_MAX_BYTES: Final = 64 << 20
"""Of one of the JSON files; the largest tokenizers have some tens of megabytes."""
HEADER_MAX_BYTES: Final = 100_000_000
"""Of one file of weights, as the format's own library bounds it."""
KV_ITEM_BYTES: Final = 2
"""The engine keeps keys and values as 16-bit numbers."""
CONFIG: Final = "config.json"
INDEX: Final = "model.safetensors.index.json"
WEIGHTS: Final = "*.safetensors"


class BadFolder(Exception):
    """It is no model, or not whole; the text says which, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class FolderModel:
    """What the files of one folder say."""

    architecture: str
    context_length: int
    """For how many tokens the model was trained; 0 where the files do not say."""
    template: str | None
    """The chat template."""
    words: Mapping[str, str]
    """What a template may speak of: `bos_token`, `eos_token` …"""
    eos_ids: tuple[int, ...]
    """The tokens that end a reply, by their numbers."""
    kv_bytes: int
    """Memory for one token of context; 0 where it cannot be told."""
    parameters: int
    """Numbers in all weights; 0 where they are in an engine's own form."""
    files: Mapping[Path, int]
    """The weights, and how many bytes each has."""


def read_folder(folder: Path, exported: str = "") -> FolderModel:
    """Reads all but the weights themselves. Blocks.

    `exported` is the file of the weights where they are in an engine's own form, of which only the size is
    looked at.

    Raises:
        BadFolder: see there.
        OSError: a file cannot be read.
    """
    config = read_json(folder / CONFIG)
    if not (folder / "tokenizer.json").is_file():
        raise BadFolder("has no tokenizer.json")
    template, words = speech_of(folder)
    generation = _optional(folder / "generation_config.json")
    inner = config.get("text_config")
    text = {**config, **inner} if isinstance(inner, dict) else config
    files = {folder / exported: (folder / exported).stat().st_size} if exported else _weights(folder)
    return FolderModel(
        architecture=_architecture(config),
        context_length=whole(text.get("max_position_embeddings")),
        template=template,
        words=words,
        eos_ids=ids(generation.get("eos_token_id")) or ids(text.get("eos_token_id")),
        kv_bytes=_kv_bytes(text),
        parameters=0 if exported else sum(map(_parameters, files)),
        files=files,
    )


def speech_of(folder: Path) -> tuple[str | None, dict[str, str]]:
    """The chat template, and what it may speak of.

    Raises:
        BadFolder: a file is broken.
        OSError: a file cannot be read.
    """
    tokenizer = _optional(folder / "tokenizer_config.json")
    words = _words({**_optional(folder / "special_tokens_map.json"), **tokenizer})
    return _template(folder, tokenizer), words


def read_json(path: Path) -> dict[str, Any]:
    """One of the JSON files.

    Raises:
        BadFolder: it is broken.
        OSError: it cannot be read.
    """
    if path.stat().st_size > TEXT_MAX_BYTES:
        raise BadFolder(f"has a {path.name} that is far too large")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as exc:
        raise BadFolder(f"has a {path.name} that is no JSON") from exc
    if not isinstance(value, dict):
        raise BadFolder(f"has a {path.name} that is none")
    return value


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        return names[0]
    raise BadFolder(f"does not say in its {CONFIG} of what architecture its model is")


def _template(folder: Path, tokenizer: Mapping[str, Any]) -> str | None:
    """A file of its own wins, as in the hub's own library; of several in one list, the default."""
    file = folder / "chat_template.jinja"
    if file.is_file() and file.stat().st_size <= TEXT_MAX_BYTES:
        return _filled(file.read_text(encoding="utf-8", errors="replace"))
    given = _optional(folder / "chat_template.json").get("chat_template") or tokenizer.get("chat_template")
    if isinstance(given, list):
        named = {item.get("name"): item.get("template") for item in given if isinstance(item, dict)}
        given = named.get("default")
    return _filled(given) if isinstance(given, str) else None


def _filled(text: str) -> str | None:
    return text if text.strip() else None


def _words(tokenizer: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens by their names, each a text or a record with its text."""
    words = {}
    for name, value in tokenizer.items():
        if isinstance(value, dict):
            value = value.get("content")
        if name.endswith("_token") and isinstance(value, str):
            words[name] = value
    return words


def ids(value: object) -> tuple[int, ...]:
    """Numbers of tokens: one, or a list of them; what is none is left out."""
    items = value if isinstance(value, list) else [value]
    return tuple(item for item in items if type(item) is int and item >= 0)


def _kv_bytes(config: Mapping[str, Any]) -> int:
    """Keys and values of one token in all layers, as a plain transformer keeps them: an upper bound."""
    layers, width = whole(config.get("num_hidden_layers")), whole(config.get("hidden_size"))
    heads = whole(config.get("num_attention_heads"))
    if not heads:
        return 0
    kv_heads = whole(config.get("num_key_value_heads")) or heads
    side = whole(config.get("head_dim")) or width // heads
    return layers * kv_heads * side * 2 * KV_ITEM_BYTES


def _weights(folder: Path) -> dict[Path, int]:
    names = sorted(path.name for path in folder.glob(WEIGHTS))
    if (folder / INDEX).is_file():
        where = read_json(folder / INDEX).get("weight_map")
        wanted = set(where.values()) if isinstance(where, dict) else set()
        missing = sorted(str(name) for name in wanted if name not in names)
        if missing or not wanted:
            raise BadFolder(f"is not whole: {missing[0] if missing else 'a list of its weights'} is missing")
        names = sorted(wanted)
    if not names:
        raise BadFolder("has no weights as .safetensors files")
    return {folder / name: (folder / name).stat().st_size for name in names}


def _parameters(path: Path) -> int:
    """The numbers in one file of weights, after a look whether it is whole."""
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= HEADER_MAX_BYTES:
            raise BadFolder(f"holds {path.name}, which is no safetensors file")
        header = _header(path, file.read(length))
    end = max((whole(item["data_offsets"][1]) for item in header.values()), default=0)
    if path.stat().st_size < 8 + length + end:
        raise BadFolder(f"is not whole: {path.name} is cut off")
    return sum(math.prod(map(whole, item["shape"])) for item in header.values())


def _header(path: Path, data: bytes) -> dict[str, Any]:
    """The tensors by their names."""
    try:
        header = json.loads(data)
        header.pop("__metadata__", None)
        if all(
            len(item["data_offsets"]) == 2 and isinstance(item["shape"], list) for item in header.values()
        ):
            return dict(header)
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError) as exc:
        raise BadFolder(f"holds {path.name}, whose header cannot be read") from exc
    raise BadFolder(f"holds {path.name}, whose header cannot be read")


def whole(value: object) -> int:
    """A number above zero; 0 for what is none."""
    return value if type(value) is int and value > 0 else 0

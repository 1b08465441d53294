"""The beginning of a GGUF file: what a model says of itself, read before an engine is asked to load it.

Whether the file is one at all, how long its context may be, whether it brings a chat template, and how much
memory a token of context costs. An engine says only that it could not load something; from here comes why.
Nothing is trusted: every count and length is bounded before memory is taken for it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

__all__ = ["BadGguf", "GgufHeader", "read_header"]

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
"""1 is of the format's first weeks; no engine reads it any more."""
PAIRS_MAX: Final = 1 << 16
"""Keys of one file; models have some dozens."""
ITEMS_MAX: Final = 1 << 24
"""Items of one array; the largest vocabularies have some hundred thousand."""
TENSORS_MAX: Final = 1 << 20
SIDES_MAX: Final = 8
TEXT_MAX_BYTES: Final = 1 << 24
"""One string; the longest is a chat template of some kilobytes."""
KEPT_ITEMS_MAX: Final = 4096
"""Longer arrays (the vocabulary) are walked over and not kept; one item for each layer is kept."""
KV_ITEM_BYTES: Final = 2
"""The engine keeps keys and values as 16-bit numbers."""

_TEXT: Final = 8
_ARRAY: Final = 9
_NUMBERS: Final = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip


class BadGguf(Exception):
    """The file is no GGUF file, or is not whole; the text says which, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What the beginning of one file says."""

    architecture: str
    context_length: int
    """For how many tokens the model was trained; 0 where the file does not say."""
    template: str | None
    """The chat template."""
    kv_bytes: int
    """Memory for one token of context; 0 where it cannot be told."""
    bos_id: int | None = None
    eos_id: int | None = None
    """The tokens that begin and end a text, by their numbers."""


def read_header(path: Path) -> GgufHeader:
    """Reads a file's header. Blocks: some tens of milliseconds for a large vocabulary.

    Raises:
        BadGguf: see there.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        try:
            pairs, tensors = _counts(file)
            values = dict(_pairs(file, pairs))
            last = max((_tensor_offset(file) for _ in range(tensors)), default=0)
        except (struct.error, EOFError) as exc:
            raise BadGguf("is cut off in its header") from exc
        if file.tell() + last >= path.stat().st_size and tensors:
            raise BadGguf("is cut off: some of its weights are missing")
    return _header(values)


def _counts(file: BinaryIO) -> tuple[int, int]:
    if file.read(len(MAGIC)) != MAGIC:
        raise BadGguf("is no GGUF file")
    version = _number(file, "I")
    if version not in VERSIONS:
        raise BadGguf(f"is a GGUF file of the unknown version {version}")
    tensors, pairs = _number(file, "Q"), _number(file, "Q")
    _within("tensors", tensors, TENSORS_MAX)
    _within("keys", pairs, PAIRS_MAX)
    return pairs, tensors


def _pairs(file: BinaryIO, count: int) -> Iterator[tuple[str, Any]]:
    for _ in range(count):
        key = _text(file)
        yield key, _value(file, _number(file, "I"))


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _TEXT:
        return _text(file)
    if kind == _ARRAY:
        return _array(file)
    if kind not in _NUMBERS:
        raise BadGguf("is broken: its header holds a value of an unknown type")
    return _number(file, _NUMBERS[kind])


def _array(file: BinaryIO) -> list[Any] | None:
    """Its items, or None where there are so many that nobody here needs them."""
    kind, count = _number(file, "I"), _number(file, "Q")
    _within("items in one array", count, ITEMS_MAX)
    if count <= KEPT_ITEMS_MAX and kind != _ARRAY:
        return [_value(file, kind) for _ in range(count)]
    if kind == _TEXT:
        for _ in range(count):
            _skip(file, _length(file))
    elif kind in _NUMBERS:
        _skip(file, count * struct.calcsize(_NUMBERS[kind]))
    else:
        raise BadGguf("is broken: its header holds an array of an unknown type")
    return None


def _tensor_offset(file: BinaryIO) -> int:
    """Where a tensor's data begin, after the header."""
    _skip(file, _length(file))
    sides = _number(file, "I")
    _within("sides of a tensor", sides, SIDES_MAX)
    _skip(file, sides * 8 + 4)
    offset: int = _number(file, "Q")
    return offset


def _number(file: BinaryIO, letter: str) -> Any:
    form = f"<{letter}"
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def _length(file: BinaryIO) -> int:
    length: int = _number(file, "Q")
    _within("bytes in one text", length, TEXT_MAX_BYTES)
    return length


def _text(file: BinaryIO) -> str:
    length = _length(file)
    data = file.read(length)
    if len(data) < length:
        raise EOFError
    return data.decode("utf-8", "replace")


def _skip(file: BinaryIO, length: int) -> None:
    file.seek(length, 1)  # beyond the end is noticed by the next read


def _within(what: str, count: int, most: int) -> None:
    if count > most:
        raise BadGguf(f"is broken: its header speaks of {count} {what}")


def _header(values: Mapping[str, Any]) -> GgufHeader:
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise BadGguf("does not say of what architecture its model is")
    template = values.get("tokenizer.chat_template")
    return GgufHeader(
        architecture=architecture,
        context_length=_whole(values.get(f"{architecture}.context_length")),
        template=template if isinstance(template, str) and template.strip() else None,
        kv_bytes=_kv_bytes(values, architecture),
        bos_id=_token_id(values.get("tokenizer.ggml.bos_token_id")),
        eos_id=_token_id(values.get("tokenizer.ggml.eos_token_id")),
    )


def _kv_bytes(values: Mapping[str, Any], architecture: str) -> int:
    """Keys and values of one token in all layers, as a plain transformer keeps them: an upper bound."""

    def given(name: str) -> Any:
        return values.get(f"{architecture}.{name}")

    layers, width = _whole(given("block_count")), _whole(given("embedding_length"))
    heads = given("attention.head_count")
    kv_heads = given("attention.head_count_kv") or heads
    if isinstance(heads, list):
        heads = max(map(_whole, heads), default=0)
    if not _whole(heads):
        return 0
    of_layer = (
        [_whole(item) for item in kv_heads] if isinstance(kv_heads, list) else [_whole(kv_heads)] * layers
    )
    key = _whole(given("attention.key_length")) or width // heads
    value = _whole(given("attention.value_length")) or width // heads
    return sum(of_layer) * (key + value) * KV_ITEM_BYTES


def _whole(value: object) -> int:
    return value if type(value) is int and value > 0 else 0


def _token_id(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None

"""Headers of GGUF files: what a real writer writes is read, what nobody should have written is refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import pytest

from tests.tiny_gguf import CONTEXT, TEMPLATE, Shape, make_tiny_gguf
from workers.gguf_header import BadGguf, read_header


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    make_tiny_gguf(path)
    return path


def test_the_header_of_a_real_file_is_read(tiny: Path) -> None:
    header = read_header(tiny)
    assert (header.architecture, header.context_length, header.template) == ("llama", CONTEXT, TEMPLATE)
    assert header.kv_bytes == 2 * 2 * (16 + 16) * 2, "layers, heads, keys and values, bytes of a number"


def test_a_file_without_a_template_has_none(tmp_path: Path) -> None:
    make_tiny_gguf(tmp_path / "base.gguf", template=None)
    assert read_header(tmp_path / "base.gguf").template is None


def test_a_longer_vocabulary_than_anybody_needs_is_walked_over(tmp_path: Path) -> None:
    path = _written(tmp_path, lambda writer: writer.add_array("many.texts", ["token"] * 5000))
    assert read_header(path).architecture == "llama"
    path = _written(tmp_path, lambda writer: writer.add_array("many.numbers", [1.5] * 5000))
    assert read_header(path).architecture == "llama"


def test_heads_may_differ_from_layer_to_layer(tmp_path: Path) -> None:
    def describe(writer: Any) -> None:
        writer.add_block_count(3)
        writer.add_embedding_length(64)
        writer.add_head_count([4, 4, 8])
        writer.add_head_count_kv([2, 0, 1])

    assert read_header(_written(tmp_path, describe)).kv_bytes == 3 * (8 + 8) * 2


def test_memory_that_cannot_be_told_is_zero(tmp_path: Path) -> None:
    assert read_header(_written(tmp_path, lambda writer: None)).kv_bytes == 0


def test_a_file_cut_at_every_byte_of_its_header_is_refused(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    data = tiny.read_bytes()
    for length in range(0, 6000, 7):
        path.write_bytes(data[:length])
        with pytest.raises(BadGguf):
            read_header(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GGUF" + struct.pack("<I", 1) + bytes(16), "unknown version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0), "tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 40), "keys"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 50), "bytes in one text"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 77), "value of an unknown type"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 4, 1 << 60), "items in one array"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 9, 1), "array of an unknown type"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "of what architecture"),
    ],
    ids=["version", "tensors", "keys", "text", "type", "array", "nested", "nothing"],
)
def test_a_hostile_header_is_refused_before_memory_is_taken(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(data + bytes(64))
    with pytest.raises(BadGguf, match=words):
        read_header(path)


def test_a_shape_makes_a_model_of_that_size(tmp_path: Path) -> None:
    shape = Shape(width=128, layers=1, context=512)
    make_tiny_gguf(tmp_path / "other.gguf", shape=shape)
    header = read_header(tmp_path / "other.gguf")
    assert (header.context_length, header.kv_bytes) == (512, 2 * (32 + 32) * 2)


def _written(folder: Path, describe: Any) -> Path:
    path = folder / "written.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    describe(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

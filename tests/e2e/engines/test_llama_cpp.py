"""The contract of an engine, held by llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.e2e.engines.engine import Damage, Engine
from tests.e2e.engines.rows import Rows
from tests.tiny_gguf import make_tiny_gguf


class LlamaCpp(Engine):
    """Its models are files."""

    provider = "llama-cpp"
    suffix = ".gguf"
    damages = {
        "empty": Damage(lambda file: file.write_bytes(b""), "is no GGUF file"),
        "another format": Damage(
            lambda file: file.write_bytes(b"PK\x03\x04" + file.read_bytes()), "is no GGUF file"
        ),
        "cut in the header": Damage(
            lambda file: file.write_bytes(file.read_bytes()[:100]), "cut off in its header"
        ),
        "cut in the weights": Damage(
            lambda file: _cut(file, file.stat().st_size // 2), "weights are missing"
        ),
        "cut at the end": Damage(lambda file: _cut(file, 100), "file is broken"),
        "architecture": Damage(lambda file: _renamed(file), "xlama"),
    }
    refused = {
        "schema": {
            "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}
        },
        "grammar": {"extra": {"grammar": "root ::= ["}},
        "type": {"extra": {"temperature": "warm"}},
    }
    briefly = {"extra": {"max_tokens": 20}}
    absent = {
        "what_has_no_place_is_a_warning": "its own server takes every field, and says nothing of others"
    }

    def make(self, path: Path, **fields: Any) -> None:
        """As Engine wants it."""
        make_tiny_gguf(path, **fields)


def _cut(file: Path, count: int) -> None:
    file.write_bytes(file.read_bytes()[:-count])


def _renamed(file: Path) -> None:
    name = b"\x05\0\0\0\0\0\0\0%slama"
    file.write_bytes(file.read_bytes().replace(name % b"l", name % b"x"))


class TestLlamaCpp(Rows):
    engine = LlamaCpp()

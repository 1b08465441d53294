"""What mistral.rs is told of a model, be it a folder or a GGUF file, and why something is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workers.adapter import AdapterError
from workers.codes import Code
from workers.folder_model import BadFolder, read_folder
from workers.gguf_header import BadGguf, read_header
from workers.mistral_options import Facts
from workers.model_files import parts_of

__all__ = ["Found", "look_at"]


@dataclass(frozen=True, slots=True)
class Found:
    """What a model's files say."""

    facts: Facts
    architecture: str
    sizes: Mapping[Path, int]
    words: Mapping[str, str]
    """The special tokens that a chat template may speak of."""
    word_ids: Mapping[str, int]
    """The same where only their numbers are known."""
    ends: tuple[int, ...]
    """The tokens that end a reply."""


def look_at(name: str, path: Path) -> Found:
    """What a folder or a GGUF file says. Blocks.

    Raises:
        AdapterError: INVALID_MODEL, it is none, or not whole.
    """
    try:
        return _of_folder(path) if path.is_dir() else _of_gguf(path)
    except (BadFolder, BadGguf) as exc:
        raise AdapterError(Code.INVALID_MODEL, f"{name!r} {exc}; download it once more.") from exc
    except OSError as exc:
        sentence = f"{name!r} cannot be read ({exc.strerror}); check its files and who may read them."
        raise AdapterError(Code.INVALID_MODEL, sentence) from exc


def _of_folder(folder: Path) -> Found:
    model = read_folder(folder)
    size = sum(model.files.values())
    facts = Facts(model.context_length, model.template, model.kv_bytes, model.parameters, size)
    return Found(facts, model.architecture, model.files, model.words, {}, model.eos_ids)


def _of_gguf(path: Path) -> Found:
    header = read_header(path)
    sizes = {part: part.stat().st_size for part in parts_of(path)}
    facts = Facts(header.context_length, header.template, header.kv_bytes, 0, sum(sizes.values()))
    numbers = {"bos_token": header.bos_id, "eos_token": header.eos_id}
    known = {name: number for name, number in numbers.items() if number is not None}
    ends = () if header.eos_id is None else (header.eos_id,)
    return Found(facts, header.architecture, sizes, {}, known, ends)

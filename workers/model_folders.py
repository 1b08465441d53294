"""From the name of a model to the folder that holds it as the hub does: a config, a tokenizer, safetensors.

A name is, first match:

1. the path of a folder: absolute, or from `~`;
2. a folder in one of the operator's (quirk `models_dir`): `tiny-llama`, `sub/tiny-llama`;
3. a repository in the hub's cache: `org/repo`;
4. a GGUF file, as workers.model_files finds it.

Nothing is downloaded, and nothing in a folder is ever run.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from workers.adapter import AdapterError
from workers.codes import Code
from workers.model_files import (
    DEPTH_MAX,
    FILES_MAX,
    NEAR_NAMES,
    SUFFIX,
    ModelFiles,
    directories,
    existing_path,
    repositories,
)

__all__ = ["CONFIG", "find_model", "is_model_folder", "model_names"]

CONFIG: Final = "config.json"


def model_names(files: ModelFiles) -> tuple[str, ...]:
    """All models that can be named: the folders first, then the GGUF files. Blocks."""
    folders = (name for name, _ in _folders(files))
    return tuple(dict.fromkeys((*folders, *files.names())))[:FILES_MAX]


def find_model(files: ModelFiles, name: str) -> Path:
    """The folder, or the GGUF file, of that name. Blocks.

    Raises:
        AdapterError: INVALID_MODEL, there is none, or it cannot be told which.
    """
    name = name.strip()
    if name.lower().endswith(SUFFIX):
        return files.find(name)
    if name.startswith("~") or Path(name).is_absolute():
        return _at(name)
    known = dict(_folders(files))
    for shown, folder in known.items():
        if shown.casefold() == name.casefold():
            return folder
    try:
        return files.find(name)
    except AdapterError as exc:
        near = difflib.get_close_matches(name, known, NEAR_NAMES, cutoff=0.4)
        if not near:
            raise
        sentence = f"There is no model {name!r} in {files.places()}; near ones: {', '.join(near)}."
        raise AdapterError(Code.INVALID_MODEL, sentence) from exc


def is_model_folder(folder: Path) -> bool:
    """Whether there are a config and weights in it."""
    return (folder / CONFIG).is_file() and any(folder.glob("*.safetensors"))


def _at(name: str) -> Path:
    folder = existing_path(name)
    if not folder.is_dir():
        raise AdapterError(Code.INVALID_MODEL, f"There is no folder {name!r}; check the path.")
    if not is_model_folder(folder):
        raise AdapterError(
            Code.INVALID_MODEL, f"{name!r} is no model: it needs {CONFIG} and weights as .safetensors files."
        )
    return folder


def _folders(files: ModelFiles) -> Iterator[tuple[str, Path]]:
    for folder in files.folders:
        for path in _below(folder, DEPTH_MAX):
            yield path.relative_to(folder).as_posix(), path
    for name, snapshot in repositories(files.hub):
        if is_model_folder(snapshot):
            yield name, snapshot


def _below(folder: Path, depth: int) -> Iterator[Path]:
    for path in directories(folder):
        if is_model_folder(path):
            yield path
        elif depth:
            yield from _below(path, depth - 1)

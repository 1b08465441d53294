"""From the name of a model to the folder that holds it as the hub does: a config, a tokenizer, safetensors.

An engine may take weights in a form of its own instead (`exported`: their files' names).

A name is, first match:

1. the path of a folder: absolute, or from `~`;
2. a folder in one of the operator's (quirk `models_dir`): `tiny-llama`, `sub/tiny-llama`;
3. a repository in the hub's cache: `org/repo`;
4. a GGUF file, as workers.model_files finds it.

Nothing is downloaded, and nothing in a folder is ever run.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from workers.adapter import AdapterError
from workers.codes import Code
from workers.model_files import (
    DEPTH_MAX,
    FILES_MAX,
    MAIN,
    NEAR_NAMES,
    SUFFIX,
    ModelFiles,
    directories,
    existing_path,
    hub_name,
    repositories,
)

__all__ = [
    "CONFIG",
    "find_folder",
    "find_model",
    "folder_names",
    "is_exported",
    "is_model_folder",
    "model_names",
]

CONFIG: Final = "config.json"


def model_names(files: ModelFiles) -> tuple[str, ...]:
    """All models that can be named: the folders first, then the GGUF files. Blocks."""
    return tuple(dict.fromkeys((*folder_names(files), *files.names())))[:FILES_MAX]


def folder_names(files: ModelFiles, revision: str = MAIN, exported: Collection[str] = ()) -> tuple[str, ...]:
    """The folders alone. Blocks."""
    return tuple(dict.fromkeys(name for name, _ in _folders(files, revision, exported)))[:FILES_MAX]


def find_folder(files: ModelFiles, name: str, revision: str = MAIN, exported: Collection[str] = ()) -> Path:
    """The folder of that name, a repository of the hub's at that revision. Blocks.

    Raises:
        AdapterError: INVALID_MODEL, there is none.
    """
    name = name.strip()
    if name.startswith("~") or Path(name).is_absolute():
        return _at(name, exported)
    known = dict(_folders(files, revision, exported))
    for shown, folder in known.items():
        if shown.casefold() == name.casefold():
            return folder
    near = difflib.get_close_matches(name, known, NEAR_NAMES, cutoff=0.4)
    hint = f"near ones: {', '.join(near)}" if near else f"it needs {CONFIG} and weights as .safetensors files"
    if not near and hub_name(name) is not None:
        hint = "download it first, or let the operator allow downloads (quirk download)"
    at = f" at revision {revision!r}" if revision != MAIN else ""
    raise AdapterError(Code.INVALID_MODEL, f"There is no model {name!r}{at} in {files.places()}; {hint}.")


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


def is_model_folder(folder: Path, exported: Collection[str] = ()) -> bool:
    """Whether there are a config and weights in it."""
    if not (folder / CONFIG).is_file():
        return False
    return any(folder.glob("*.safetensors")) or is_exported(folder, exported)


def is_exported(folder: Path, exported: Collection[str]) -> bool:
    """Whether all the files of weights in an engine's own form are in it."""
    return bool(exported) and all((folder / name).is_file() for name in exported)


def _at(name: str, exported: Collection[str] = ()) -> Path:
    folder = existing_path(name)
    if not folder.is_dir():
        raise AdapterError(Code.INVALID_MODEL, f"There is no folder {name!r}; check the path.")
    if not is_model_folder(folder, exported):
        raise AdapterError(
            Code.INVALID_MODEL, f"{name!r} is no model: it needs {CONFIG} and weights as .safetensors files."
        )
    return folder


def _folders(
    files: ModelFiles, revision: str = MAIN, exported: Collection[str] = ()
) -> Iterator[tuple[str, Path]]:
    for folder in files.folders:
        for path in _below(folder, DEPTH_MAX, exported):
            yield path.relative_to(folder).as_posix(), path
    for name, snapshot in repositories(files.hub, revision):
        if is_model_folder(snapshot, exported):
            yield name, snapshot


def _below(folder: Path, depth: int, exported: Collection[str]) -> Iterator[Path]:
    for path in directories(folder):
        if is_model_folder(path, exported):
            yield path
        elif depth:
            yield from _below(path, depth - 1, exported)

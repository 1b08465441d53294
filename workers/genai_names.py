"""From the name of a model to the folder that holds it as ONNX Runtime GenAI wants it.

A name is, first match:

1. the path of a folder: absolute, or from `~`;
2. a folder in one of the operator's (quirk `models_dir`): `phi-4`, `sub/phi-4`;
3. a folder in a repository in the hub's cache: `org/repo/sub/folder`, or `org/repo` where it holds only one.

A repository of this format often holds one folder for each kind of device.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from workers.adapter import AdapterError
from workers.codes import Code
from workers.genai_folder import CONFIG, is_genai_folder
from workers.model_files import (
    DEPTH_MAX,
    FILES_MAX,
    NEAR_NAMES,
    ModelFiles,
    directories,
    existing_path,
    repositories,
)

__all__ = ["files_of_model", "find_genai", "genai_names", "split_hub_name"]

_HUB_NAME: Final = re.compile(
    r"(?P<repo>[a-z0-9][\w.-]*/[a-z0-9][\w.-]*)(?:/(?P<folder>[\w][\w.-]*(?:/[\w][\w.-]*)*))?",
    re.ASCII | re.IGNORECASE,
)
_OF_A_MODEL: Final = re.compile(
    r"[\w][\w.-]*\.json|[\w][\w.-]*\.onnx(?:[._]data(?:[._]\d+)?)?|chat_template\.jinja|merges\.txt"
    r"|tokenizer\.model|vocab\.txt",
    re.ASCII,
)
"""What is fetched of a folder: nothing that is run."""
PARTS_MAX: Final = 200
"""Files of one model; most have a dozen."""
SHOWN: Final = 20
"""Folders that a sentence names."""


def split_hub_name(name: str) -> tuple[str, str] | None:
    """Repository and folder of a name of the hub's, the folder empty where none is; None for others."""
    match = _HUB_NAME.fullmatch(name.strip())
    if match is None or ".." in name:
        return None
    return match["repo"], match["folder"] or ""


def genai_names(files: ModelFiles) -> tuple[str, ...]:
    """All models that can be named. Blocks."""
    return tuple(dict.fromkeys(name for name, _ in _folders(files)))[:FILES_MAX]


def find_genai(files: ModelFiles, name: str) -> Path:
    """The folder of that name. Blocks.

    Raises:
        AdapterError: INVALID_MODEL, there is none, or it cannot be told which.
    """
    name = name.strip()
    if name.startswith("~") or Path(name).is_absolute():
        return _at(name)
    known = dict(_folders(files))
    for shown, folder in known.items():
        if shown.casefold() == name.casefold():
            return folder
    inside = [shown for shown in known if shown.casefold().startswith(f"{name.casefold()}/")]
    if len(inside) == 1:
        return known[inside[0]]
    if inside:
        raise _several(name, inside)
    near = difflib.get_close_matches(name, known, NEAR_NAMES, cutoff=0.4)
    hint = f"near ones: {', '.join(near)}" if near else f"it needs {CONFIG} and an .onnx file"
    if not near and split_hub_name(name) is not None:
        hint = "download it first, or let the operator allow downloads (quirk download)"
    raise AdapterError(Code.INVALID_MODEL, f"There is no model {name!r} in {files.places()}; {hint}.")


def files_of_model(repo: str, folder: str, names: Sequence[str]) -> list[str]:
    """Of all files of a repository those that make the model in that folder, its config the last: without it
    a folder is none, so it gets its name when all else is there.

    Raises:
        AdapterError: INVALID_MODEL, there is none, or it cannot be told which.
    """
    places = sorted(name.rpartition("/")[0] for name in names if name.rpartition("/")[2] == CONFIG)
    inside = [place for place in places if not folder or f"{place}/".startswith(f"{folder}/")]
    if not inside:
        where = f"{repo}/{folder}" if folder else repo
        sentence = f"{where} has no {CONFIG}: look for a repository that is made for ONNX Runtime GenAI."
        raise AdapterError(Code.INVALID_MODEL, sentence)
    if folder not in inside and len(inside) > 1:
        raise _several(repo, [f"{repo}/{place}" if place else repo for place in inside])
    place = folder if folder in inside else inside[0]
    start = f"{place}/" if place else ""
    found = [name for name in names if name.startswith(start) and _OF_A_MODEL.fullmatch(name[len(start) :])]
    found = sorted(name for name in found if name != start + CONFIG)
    return [*found[:PARTS_MAX], start + CONFIG]


def _several(name: str, folders: Sequence[str]) -> AdapterError:
    shown = ", ".join(folders[:SHOWN])
    return AdapterError(Code.INVALID_MODEL, f"{name!r} holds several models; name one: {shown}.")


def _at(name: str) -> Path:
    folder = existing_path(name)
    if not folder.is_dir():
        raise AdapterError(Code.INVALID_MODEL, f"There is no folder {name!r}; check the path.")
    if not is_genai_folder(folder):
        inside = [str(path) for path in _below(folder, DEPTH_MAX)]
        if inside:
            raise _several(name, inside)
        raise AdapterError(Code.INVALID_MODEL, f"{name!r} is no model: it needs {CONFIG} and an .onnx file.")
    return folder


def _folders(files: ModelFiles) -> Iterator[tuple[str, Path]]:
    for folder in files.folders:
        for path in _below(folder, DEPTH_MAX):
            yield path.relative_to(folder).as_posix(), path
    for name, snapshot in repositories(files.hub):
        if is_genai_folder(snapshot):
            yield name, snapshot
        for path in _below(snapshot, DEPTH_MAX):
            yield f"{name}/{path.relative_to(snapshot).as_posix()}", path


def _below(folder: Path, depth: int) -> Iterator[Path]:
    for path in directories(folder):
        if is_genai_folder(path):
            yield path
        elif depth:
            yield from _below(path, depth - 1)

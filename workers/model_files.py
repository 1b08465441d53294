"""From the name of a model to the GGUF file that holds it. Nothing is downloaded: what is here counts.

A name is, first match:

1. a path that ends in `.gguf`: absolute, or from `~`;
2. a file in one of the operator's folders (quirk `models_dir`): `qwen3-4b`, `qwen3-4b.gguf`, `sub/qwen3-4b`;
3. a file in the Hugging Face hub's cache: `org/repo/file.gguf`, or `org/repo` where that holds only one.

A model in several files (`-00001-of-00003.gguf`) goes by the name of the first one.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from workers.adapter import AdapterError
from workers.codes import Code

__all__ = [
    "DEPTH_MAX",
    "FILES_MAX",
    "NEAR_NAMES",
    "SUFFIX",
    "ModelFiles",
    "directories",
    "existing_path",
    "hub_name",
    "part_names",
    "parts_of",
    "repositories",
]

SUFFIX: Final = ".gguf"
FILES_MAX: Final = 2000
"""Names that are listed; a larger collection is reached by paths."""
DEPTH_MAX: Final = 3
"""Folders below a models folder that are looked into."""
NEAR_NAMES: Final = 3
PARTS_MAX: Final = 1000
_PART: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf\Z", re.IGNORECASE)
_NOT_MODELS: Final = ("mmproj",)
"""What a repository's files begin with that are no models by themselves: projectors of images."""
_HUB_NAME: Final = re.compile(
    r"(?P<repo>[a-z0-9][\w.-]*/[a-z0-9][\w.-]*)(?:/(?P<file>[\w][\w./ -]*\.gguf))?", re.ASCII | re.IGNORECASE
)
_REPO_PREFIX: Final = "models--"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where models are looked for."""

    folders: tuple[Path, ...]
    hub: Path

    @classmethod
    def of(cls, quirks: Mapping[str, Any], environ: Mapping[str, str]) -> ModelFiles:
        """As the operator's quirks and the environment say.

        Raises:
            AdapterError: UNEXPECTED, a quirk is no path.
        """
        given = quirks.get("models_dir", [])
        paths = [given] if isinstance(given, str) else given
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise AdapterError(Code.UNEXPECTED, "The quirk models_dir must be a path or a list of paths.")
        return cls(tuple(Path(path).expanduser() for path in paths), _hub(environ))

    def names(self) -> tuple[str, ...]:
        """All models that can be named, those of the folders first. Blocks."""
        return tuple(dict.fromkeys(name for name, _ in self._all()))[:FILES_MAX]

    def find(self, name: str) -> Path:
        """The file of that name. Blocks.

        Raises:
            AdapterError: INVALID_MODEL, there is none, or it cannot be told which.
        """
        name = name.strip()
        if _is_path(name):
            return _existing(name)
        known = list(self._all())
        wanted = _without_suffix(name).casefold()
        for shown, path in known:
            if _without_suffix(shown).casefold() == wanted:
                return path
        of_repo = [path for shown, path in known if shown.casefold().startswith(f"{name.casefold()}/")]
        if len(of_repo) == 1:
            return of_repo[0]
        raise self._unknown(name, [shown for shown, _ in known], several=len(of_repo) > 1)

    def places(self) -> str:
        """Where models were looked for, for a sentence."""
        return " or ".join(str(place) for place in (*self.folders, self.hub))

    def _all(self) -> Iterator[tuple[str, Path]]:
        for folder in self.folders:
            for path in _gguf_files(folder, DEPTH_MAX):
                yield _without_suffix(path.relative_to(folder).as_posix()), path
        for name, snapshot in repositories(self.hub):
            for path in _gguf_files(snapshot, DEPTH_MAX):
                yield f"{name}/{path.relative_to(snapshot).as_posix()}", path

    def _unknown(self, name: str, known: Sequence[str], *, several: bool) -> AdapterError:
        if several:
            files = ", ".join(shown for shown in known if shown.casefold().startswith(f"{name.casefold()}/"))
            sentence = f"{name!r} has several GGUF files; name one: {files}."
        else:
            near = difflib.get_close_matches(name, known, NEAR_NAMES, cutoff=0.4)
            hint = "give the path of a .gguf file"
            if hub_name(name) is not None:
                hint = "download it first, or let the operator allow downloads (quirk download)"
            if near:
                hint = f"near ones: {', '.join(near)}"
            sentence = f"There is no model {name!r} in {self.places()}; {hint}."
        return AdapterError(Code.INVALID_MODEL, sentence)


def hub_name(name: str) -> tuple[str, str] | None:
    """Repository and file of a name of the hub's, the file empty where none is; None for others."""
    match = _HUB_NAME.fullmatch(name.strip())
    if match is None or ".." in name:
        return None
    return match["repo"], match["file"] or ""


def part_names(name: str) -> list[str]:
    """The names of all files of the model whose first, or only, file has that name."""
    match = _PART.match(name)
    if match is None:
        return [name]
    count = min(int(match["count"]), PARTS_MAX)
    return [f"{match['stem']}-{i:05}-of-{match['count']}.gguf" for i in range(1, count + 1)]


def parts_of(path: Path) -> list[Path]:
    """All files of the model whose first, or only, file that is.

    Raises:
        AdapterError: INVALID_MODEL, one is missing.
    """
    parts = [path.with_name(name) for name in part_names(path.name)]
    if len(parts) == 1:
        return [path]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise AdapterError(
            Code.INVALID_MODEL, f"A part of the model is missing: {missing[0]}; download it once more."
        )
    return parts


def repositories(hub: Path) -> Iterator[tuple[str, Path]]:
    """The repositories in the hub's cache, and the newest snapshot of each."""
    for repo in directories(hub):
        snapshot = _snapshot(repo) if repo.name.startswith(_REPO_PREFIX) else None
        if snapshot is not None:
            yield repo.name[len(_REPO_PREFIX) :].replace("--", "/"), snapshot


def directories(folder: Path) -> list[Path]:
    """The folders in a folder; none where it is not there, or not ours to read."""
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError:
        return []


def existing_path(name: str) -> Path:
    """The path that a client names.

    Raises:
        AdapterError: INVALID_MODEL, it leads to another machine.
    """
    if name.startswith(("\\\\", "//")):  # Windows would send the user's credentials to whatever host that is
        raise AdapterError(
            Code.INVALID_MODEL, "A model is not read from another machine: copy it to this one."
        )
    return Path(name).expanduser()


def _is_path(name: str) -> bool:
    return name.lower().endswith(SUFFIX) and (name.startswith("~") or Path(name).is_absolute())


def _existing(name: str) -> Path:
    path = existing_path(name)
    if not path.is_file():
        raise AdapterError(Code.INVALID_MODEL, f"There is no file {name!r}; check the path.")
    return path


def _without_suffix(name: str) -> str:
    return name[: -len(SUFFIX)] if name.lower().endswith(SUFFIX) else name


def _gguf_files(folder: Path, depth: int) -> Iterator[Path]:
    """The models in a folder and below it, in the order of their names; later parts of one are left out."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:  # not there, or not ours to read: it holds no models
        return
    for entry in entries:
        if entry.is_dir() and depth:
            yield from _gguf_files(entry, depth - 1)
        elif _is_model(entry) and entry.is_file():
            yield entry


def _is_model(path: Path) -> bool:
    name = path.name.lower()
    part = _PART.match(name)
    later = part is not None and int(part["number"]) != 1
    return name.endswith(SUFFIX) and not later and not name.startswith(_NOT_MODELS)


def _snapshot(repo: Path) -> Path | None:
    """The one that `main` names, else the one that changed last."""
    try:
        commit = (repo / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        commit = ""
    snapshots = directories(repo / "snapshots")
    named = [snapshot for snapshot in snapshots if snapshot.name == commit]
    return named[0] if named else max(snapshots, key=lambda item: item.stat().st_mtime, default=None)


def _hub(environ: Mapping[str, str]) -> Path:
    """Where the hub's own library keeps its files."""
    if given := environ.get("HF_HUB_CACHE"):
        return Path(given).expanduser()
    if given := environ.get("HF_HOME"):
        return Path(given).expanduser() / "hub"
    cache = environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")  # noqa: PTH111, PTH118 no home is no error
    return Path(cache) / "huggingface" / "hub"

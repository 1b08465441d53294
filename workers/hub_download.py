"""Fetches a model from the Hugging Face hub into the hub's own cache, where its own library finds it too.

Either a GGUF file (`fetch`) or what an engine needs of a repository of safetensors (`fetch_repository`):
never its code. Only where the operator allows it (quirk `download`), only while loading, never for a mere
`generate`. The standard library's HTTP is enough for one file at a time, in a thread:

1. The hub is asked what the file is (commit, hash, size) and where it lies. The key goes to the hub alone,
   never along a redirect.
2. The bytes go to `blobs/HASH.incomplete`; what is there of an earlier attempt is continued. A file whose
   hash or size is not the promised one is thrown away.
3. Then it gets its name in `snapshots/COMMIT/`: a link, or the file itself where links cannot be made.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final
from urllib.parse import quote, urljoin

from workers.adapter import AdapterError, ReportProgress
from workers.codes import Code
from workers.model_files import MAIN, hub_name, part_names

__all__ = ["Hub", "files_of_model"]

TIMEOUT_S: Final = 20.0
"""For a connection, and for each read of it."""
READ_BYTES: Final = 1 << 20
LIST_MAX_BYTES: Final = 8 << 20
"""What a repository may say of itself."""
REDIRECTS_MAX: Final = 3
SPARE_BYTES: Final = 1 << 30
"""Left free on the disk."""
PREFERRED: Final = "q4_k_m"
"""Of several files of a repository: small, and hardly worse than the whole."""
CONFIG: Final = "config.json"
"""Without it a folder is no model; so it gets its name last, when all else is there."""
FILES_MAX: Final = 1000
"""Of one repository; the largest models have some hundreds."""
_OF_A_MODEL: Final = re.compile(
    r"(?:config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab"
    r"|preprocessor_config|processor_config|chat_template)\.json"
    r"|chat_template\.jinja|merges\.txt|tokenizer\.model"
    r"|[\w][\w.-]*\.safetensors(?:\.index\.json)?",
    re.ASCII,
)
"""What is fetched of a repository: nothing that is run, and no second copy of the weights."""
_SECOND_COPIES: Final = ("consolidated", "adapter_")
"""The same weights in another engine's form, and what is no model by itself."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_MB: Final = 1_000_000
_COMMIT: Final = re.compile(r"[0-9a-f]{6,64}")


@dataclass(frozen=True, slots=True)
class _Place:
    """What the hub says of a file."""

    url: str
    commit: str
    etag: str
    size: int


@dataclass(slots=True)
class _Progress:
    """How far the download of one model is, and whether anybody still wants it."""

    name: str
    size: int
    report: ReportProgress
    given_up: threading.Event
    done: int = 0

    def check(self) -> None:
        """Raises when it was given up."""
        if self.given_up.is_set():
            raise AdapterError(Code.INTERRUPT, "Loading the model was stopped.")

    def add(self, count: int) -> None:
        """So many bytes more are there."""
        self.done += count
        if count > 0:
            sentence = f"downloading {self.name}: {self.done / _MB:.0f} of {self.size / _MB:.0f} MB"
            self.report("model", sentence, min(self.done / max(self.size, 1), 1.0))


@dataclass(frozen=True, slots=True)
class Hub:
    """One hub and the cache for it."""

    endpoint: str
    cache: Path
    key: str | None = None
    revision: str = MAIN

    def fetch(self, repo: str, file: str, report: ReportProgress, given_up: threading.Event) -> str:
        """Brings a model into the cache, as far as it is not there; returns its file's name there. Blocks.

        Raises:
            AdapterError: INVALID_MODEL, AUTHORIZATION, UNREACHABLE …, or INTERRUPT when it was given up.
        """
        with self._asking(repo):
            file = file or self._chosen(repo)
            for part in part_names(file):
                if hub_name(f"{repo}/{part}") != (repo, part):  # the hub named it: it must not lead elsewhere
                    raise _not_the_hub(repo)
                place = self._place(repo, part)
                self._fetch_one(repo, part, place, _Progress(f"{repo}/{part}", place.size, report, given_up))
        return file

    def fetch_repository(
        self,
        repo: str,
        report: ReportProgress,
        given_up: threading.Event,
        choose: Callable[[str, Sequence[str]], list[str]] | None = None,
    ) -> None:
        """Brings a repository into the cache, as far as it is not there: of its files those that `choose`
        wants, in that order; by itself those of a model of safetensors. Blocks.

        Raises:
            AdapterError: as above; INVALID_MODEL also where the repository has no such weights.
        """
        with self._asking(repo):
            wanted = (choose or files_of_model)(repo, self._names(repo))
            places = {file: self._place(repo, file) for file in wanted}
            if len({place.commit for place in places.values()}) != 1:
                raise AdapterError(Code.UPSTREAM_ERROR, f"{repo} is just being changed: load once more.")
            progress = _Progress(repo, sum(place.size for place in places.values()), report, given_up)
            for file, place in places.items():
                self._fetch_one(repo, file, place, progress)

    @contextmanager
    def _asking(self, repo: str) -> Iterator[None]:
        """What the web raises becomes errors of ours."""
        try:
            yield
        except urllib.error.HTTPError as exc:  # an answer that is an error
            exc.close()
            raise _refused(exc.code, repo) from exc
        except (OSError, http.client.HTTPException) as exc:
            raise _failed(exc, self.endpoint) from exc

    def _fetch_one(self, repo: str, file: str, place: _Place, progress: _Progress) -> None:
        folder = self.cache / f"models--{repo.replace('/', '--')}"
        blob = folder / "blobs" / place.etag
        blob.parent.mkdir(parents=True, exist_ok=True)
        if blob.is_file() or _is_named(folder, place, file):
            progress.add(place.size)
        else:
            self._download(place, blob, f"{repo}/{file}", progress)
        _name(folder, place, file, blob, self.revision)

    def _names(self, repo: str) -> list[str]:
        """All files of a repository."""
        at = "" if self.revision == MAIN else f"/revision/{quote(self.revision)}"
        with self._open(f"{self.endpoint}/api/models/{quote(repo)}{at}") as answer:
            try:
                listed = json.loads(answer.read(LIST_MAX_BYTES))
            except ValueError as exc:
                raise _not_the_hub(repo) from exc
        siblings = listed.get("siblings") if isinstance(listed, dict) else None
        return [str(item.get("rfilename", "")) for item in siblings or [] if isinstance(item, dict)]

    def _chosen(self, repo: str) -> str:
        names = self._names(repo)
        models = sorted(
            name for name in names if name.lower().endswith(".gguf") and "mmproj" not in name.lower()
        )
        preferred = [name for name in models if PREFERRED in name.lower()]
        if len(models) == 1 or len(preferred) == 1:
            return (preferred or models)[0]
        if not models:
            raise AdapterError(Code.INVALID_MODEL, f"{repo} has no GGUF files; look for one that has.")
        shown = ", ".join(models[:20])
        raise AdapterError(
            Code.INVALID_MODEL, f"{repo} has several GGUF files; name one, as {repo}/…: {shown}."
        )

    def _place(self, repo: str, file: str) -> _Place:
        target = f"{self.endpoint}/{quote(repo)}/resolve/{quote(self.revision)}/{quote(file)}"
        for _ in range(REDIRECTS_MAX):
            with self._open(target, method="HEAD") as answer:
                headers, location = answer.headers, answer.headers.get("Location")
            if headers.get("X-Linked-Size") or not location:
                return _read_place(headers, urljoin(target, location or ""), repo)
            target = urljoin(target, location)  # a repository that was renamed
            if not self._is_ours(target):
                break
        raise _not_the_hub(repo)

    def _download(self, place: _Place, blob: Path, name: str, progress: _Progress) -> None:
        part = blob.with_name(f"{blob.name}.incomplete")
        done = part.stat().st_size if part.is_file() else 0
        if done > place.size:
            part.unlink()
            done = 0
        _check_disk(blob.parent, place.size - done, name)
        progress.add(done)
        if done < place.size:
            with self._opened_from(place.url, done) as answer, part.open("ab" if done else "wb") as file:
                if done and answer.status != http.client.PARTIAL_CONTENT:  # it begins anew
                    file.truncate(0)
                    progress.add(-done)
                    done = 0
                _copy(answer, file, place.size - done, progress)
        _check_whole(part, place, name)
        os.replace(part, blob)  # noqa: PTH105 it says what is meant: one step

    def _opened_from(self, url: str, done: int) -> Any:
        headers = {"Range": f"bytes={done}-"} if done else {}
        for _ in range(REDIRECTS_MAX):
            answer = self._open(url, headers=headers)
            location = answer.headers.get("Location")
            if not location:
                return answer
            answer.close()
            url = urljoin(url, location)
        raise AdapterError(
            Code.UPSTREAM_PROTOCOL, "The hub sends from one address to the next; try again later."
        )

    def _is_ours(self, url: str) -> bool:
        return url.startswith(f"{self.endpoint}/")

    def _open(self, url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Any:
        if not url.startswith(("https://", "http://")):
            raise AdapterError(
                Code.UPSTREAM_PROTOCOL, "The hub sends to an address that is none of the web's."
            )
        auth = {"Authorization": f"Bearer {self.key}"} if self.key and self._is_ours(url) else {}
        request = urllib.request.Request(url, method=method, headers={**auth, **(headers or {})})  # noqa: S310 checked above
        return _OPENER.open(request, timeout=TIMEOUT_S)


class _Stay(urllib.request.HTTPRedirectHandler):
    """Redirects are answers: where they lead is looked at before anything is sent there."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """The answer itself."""
        return fp

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


_OPENER: Final = urllib.request.build_opener(_Stay)


def files_of_model(repo: str, names: Sequence[str], exported: Collection[str] = ()) -> list[str]:
    """The files of a repository that make a model of safetensors, its config the last.

    `exported` are the files of weights in an engine's own form: where all are there, they come instead.

    Raises:
        AdapterError: INVALID_MODEL, it has no such weights.
    """
    found = sorted(
        name for name in names if _OF_A_MODEL.fullmatch(name) and not name.startswith(_SECOND_COPIES)
    )
    if exported and set(exported) <= set(names):
        found = [*(name for name in found if ".safetensors" not in name), *sorted(exported)]
    elif not any(name.endswith(".safetensors") for name in found):
        found = []
    if CONFIG not in found:
        raise AdapterError(
            Code.INVALID_MODEL,
            f"{repo} has no weights as safetensors with a {CONFIG}; look for one that has.",
        )
    found.remove(CONFIG)
    return [*found[: FILES_MAX - 1], CONFIG]


def _read_place(headers: Mapping[str, str], url: str, repo: str) -> _Place:
    etag = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
    commit = headers.get("X-Repo-Commit") or ""
    size = headers.get("X-Linked-Size") or headers.get("Content-Length") or ""
    if not (size.isdecimal() and _COMMIT.fullmatch(commit) and re.fullmatch(r"[\w-]{8,128}", etag, re.ASCII)):
        raise _not_the_hub(repo)
    return _Place(url, commit, etag, int(size))


def _copy(answer: Any, file: IO[bytes], left: int, progress: _Progress) -> None:
    while data := answer.read(READ_BYTES):
        progress.check()
        file.write(data)
        left -= len(data)
        if left < 0:
            break
        progress.add(len(data))


def _check_disk(folder: Path, needed: int, name: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise AdapterError(
            Code.INVALID_MODEL,
            f"{name} needs {needed / _MB:.0f} MB of disk and {free / _MB:.0f} are free, of which "
            f"{SPARE_BYTES / _MB:.0f} are to stay so: make room, or use a smaller file.",
        )


def _check_whole(part: Path, place: _Place, name: str) -> None:
    """Raises, and throws the file away, unless it is what was promised."""
    size = part.stat().st_size
    if size < place.size:
        raise AdapterError(
            Code.UNREACHABLE,
            f"The download of {name} was cut off; load once more, and it goes on from there.",
        )
    digest = hashlib.sha256()
    if _SHA256.fullmatch(place.etag):
        with part.open("rb") as file:
            while data := file.read(READ_BYTES):
                digest.update(data)
    if size > place.size or (_SHA256.fullmatch(place.etag) and digest.hexdigest() != place.etag):
        part.unlink()
        raise AdapterError(Code.UPSTREAM_PROTOCOL, f"What came for {name} is not the file; load once more.")


def _named(folder: Path, place: _Place, file: str) -> Path:
    return folder / "snapshots" / place.commit / Path(*PurePosixPath(file).parts)


def _is_named(folder: Path, place: _Place, file: str) -> bool:
    """Whether the file itself lies in the snapshot, as where links cannot be made."""
    named = _named(folder, place, file)
    return named.is_file() and not named.is_symlink() and named.stat().st_size == place.size


def _name(folder: Path, place: _Place, file: str, blob: Path, revision: str) -> None:
    """The file's name in the snapshot, and the snapshot's as the revision's newest."""
    named = _named(folder, place, file)
    named.parent.mkdir(parents=True, exist_ok=True)
    if not named.is_file():
        named.unlink(missing_ok=True)
        try:
            named.symlink_to(os.path.relpath(blob, named.parent))
        except (
            OSError
        ):  # Windows lets few users make links: then the file itself goes there, as the hub's library does
            os.replace(blob, named)  # noqa: PTH105 as above
    refs = folder / "refs"
    refs.mkdir(exist_ok=True)
    if revision != place.commit:
        (refs / revision).write_text(place.commit, encoding="utf-8")


def _not_the_hub(repo: str) -> AdapterError:
    return AdapterError(Code.UPSTREAM_PROTOCOL, f"What answered for {repo} is not the Hugging Face hub.")


def _refused(status: int, repo: str) -> AdapterError:
    if status in (401, 403):
        return AdapterError(
            Code.AUTHORIZATION,
            f"The hub does not give {repo} to everybody, or there is no such repository: accept its "
            "conditions there and send a token of yours as api_key.",
            provider_status=status,
        )
    if status == 404:
        sentence = f"The hub has no {repo}, or no such file in it; check the name."
        return AdapterError(Code.INVALID_MODEL, sentence, provider_status=status)
    code = Code.RATE_LIMITED if status == 429 else Code.UPSTREAM_ERROR
    return AdapterError(
        code, f"The hub answered with HTTP {status}; try again later.", provider_status=status
    )


def _failed(error: Exception, endpoint: str) -> AdapterError:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
    return AdapterError(
        Code.UNREACHABLE, f"The download from {endpoint} failed ({reason}); load once more, and it goes on."
    )

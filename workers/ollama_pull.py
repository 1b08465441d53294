"""Makes an Ollama server fetch a model, `POST /api/pull`, and tells how far it is.

Only where the operator allows it (quirk `pull`), only while loading. The server downloads, keeps what it has
when it is cut off, and goes on from there the next time: whoever leaves here early has closed the connection,
which stops it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, Final, TypeVar

from workers.adapter import AdapterError, ReportProgress
from workers.codes import Code
from workers.ndjson import NDJSONDecoder
from workers.redaction import redacted
from workers.refusals import Refusal
from workers.sse import EventTooLong
from workers.upstream import Upstream

__all__ = ["beating", "pull"]

BEAT_S: Final = 1.0
"""How often a load that waits says that it is alive."""
QUIET_MAX_S: Final = 600.0
"""The longest that a download says nothing: the server checks a file of any size before it goes on."""
FILES_MAX: Final = 256
"""More files than any model has."""
_MB: Final = 1_000_000
_UNKNOWN: Final = ("file does not exist", "not found", "invalid model name", "does not exist")
"""What the server says of a model that its library does not have."""
_NETWORK: Final = (
    *("dial tcp", "no such host", "timeout", "connection re", "unexpected eof", "network is unreachable"),
    *("tls:", "max retries exceeded"),
)
"""And of a library that it cannot reach."""
_T = TypeVar("_T")


async def pull(upstream: Upstream, model: str, report: ReportProgress) -> None:
    """The server has the model afterwards. Cancelling it is safe and stops the download.

    Raises:
        AdapterError: INVALID_MODEL, UNREACHABLE, TRUNCATED, UPSTREAM_ERROR …
    """
    progress = _Progress(model, upstream.who.name)
    body = json.dumps({"model": model, "stream": True}).encode()
    try:
        async with contextlib.aclosing(_lines(upstream, body, progress, report)) as lines:
            async for line in lines:
                progress.take(line)
                report("model", progress.sentence, progress.fraction)
    except Refusal as exc:
        raise _failed(upstream.who.name, model, exc.fields.message, exc.provider_status) from exc
    if not progress.done:
        raise AdapterError(
            Code.TRUNCATED, f"the download of {model!r} broke off; load once more, and it goes on from there"
        )


async def beating(work: Coroutine[Any, Any, _T], beat: Callable[[], None]) -> _T:
    """What `work` gives, with a beat now and every second that it takes. Cancelling it cancels the work."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            beat()
            await asyncio.wait({task}, timeout=BEAT_S)
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait(
                {task}, timeout=BEAT_S
            )  # a request that is cancelled closes its connection at once


async def _lines(
    upstream: Upstream, body: bytes, progress: _Progress, report: ReportProgress
) -> AsyncGenerator[dict[str, Any], None]:
    """The lines of the answer, as they arrive."""

    def beat() -> None:
        report("model", progress.sentence, progress.fraction)

    decoder = NDJSONDecoder()
    async with contextlib.AsyncExitStack() as stack:
        post = upstream.post("/api/pull", body, deadline=0.0, retries=0)
        reply = await beating(_soon(stack.enter_async_context(post), upstream), beat)
        chunks = await stack.enter_async_context(contextlib.aclosing(reply.chunks()))
        while data := await beating(_soon(_next(chunks), upstream), beat):
            for event in _decoded(decoder, data, upstream):
                yield _object(event, upstream)
        if last := decoder.close():
            yield _object(last.data, upstream)


async def _next(chunks: AsyncIterator[bytes]) -> bytes:
    return await anext(chunks, b"")


async def _soon(work: Coroutine[Any, Any, _T], upstream: Upstream) -> _T:
    try:
        return await asyncio.wait_for(work, QUIET_MAX_S)
    except asyncio.TimeoutError as exc:
        raise AdapterError(
            Code.TIMEOUT, f"{upstream.who.name} said nothing of its download for {QUIET_MAX_S:.0f} s"
        ) from exc


def _decoded(decoder: NDJSONDecoder, data: bytes, upstream: Upstream) -> list[bytes]:
    try:
        return [event.data for event in decoder.feed(data)]
    except EventTooLong as exc:
        raise _not_ollama(upstream) from exc


def _object(data: bytes, upstream: Upstream) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise _not_ollama(upstream) from exc
    if not isinstance(value, dict):
        raise _not_ollama(upstream)
    return value


class _Progress:
    """How far a download is; its files are told of one after the other."""

    def __init__(self, model: str, name: str) -> None:
        self._model = model
        self._name = name
        self._files: dict[str, tuple[int, int]] = {}
        self.fraction: float | None = None
        self.sentence = f"{name} looks for {model}"
        self.done = False

    def take(self, line: dict[str, Any]) -> None:
        """One line of the answer.

        Raises:
            AdapterError: it is an error.
        """
        if error := line.get("error"):
            raise _failed(self._name, self._model, error if isinstance(error, str) else "", None)
        status, digest, total = line.get("status"), line.get("digest"), line.get("total")
        self.done = status == "success"
        if isinstance(digest, str) and type(total) is int and total > 0:
            self._note(digest, total, line.get("completed"))
        elif isinstance(status, str):
            self.sentence = f"{self._name} and {self._model}: {redacted(status)}"

    def _note(self, digest: str, total: int, completed: object) -> None:
        if digest in self._files or len(self._files) < FILES_MAX:
            self._files[digest] = (completed if type(completed) is int else 0, total)
        have = sum(had for had, _ in self._files.values())
        whole = sum(size for _, size in self._files.values())
        self.fraction = max(self.fraction or 0.0, min(have / whole, 1.0))  # a new file is no step back
        self.sentence = f"downloading {self._model}: {have / _MB:.0f} of {whole / _MB:.0f} MB"


def _failed(name: str, model: str, message: str, status: int | None) -> AdapterError:
    """The error for what the server said instead of a model."""
    words = message.lower()
    code, sentence = Code.UPSTREAM_ERROR, f"{name} could not fetch {model!r}"
    if any(known in words for known in _UNKNOWN):
        code, sentence = Code.INVALID_MODEL, f"there is no model {model!r} to fetch: check its name"
    elif any(known in words for known in _NETWORK):
        code = Code.UNREACHABLE
        sentence = f"the download of {model!r} failed; load once more, and it goes on from there"
    quote = redacted(message, keep=model)
    return AdapterError(code, f"{sentence} (it said: {quote})" if quote else sentence, provider_status=status)


def _not_ollama(upstream: Upstream) -> AdapterError:
    return AdapterError(
        Code.UPSTREAM_PROTOCOL,
        f"{upstream.who.name} did not answer as Ollama does when it fetches a model: check the base URL",
    )

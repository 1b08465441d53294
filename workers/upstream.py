"""HTTP to a provider: requests out, and the connections that carry them.

What every wire over HTTP needs and no wire should write again: connections that stay warm, no redirects,
no cookies, the system's certificates, proxies, bounded bodies, one table of what failures mean, and at
most one retry, only while nothing of an answer has arrived. A wire may name refusals that are waited out.
Whoever leaves a `post` early, by cancelling or by closing, has closed its connection by then.
Only this file and its neighbours know aiohttp: an answer is http_reply.py's, what became of an attempt
attempts.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import quote

import aiohttp
from aiohttp import http_exceptions
from yarl import URL

from workers.adapter import AdapterError
from workers.attempts import Attempt, Connector, fault_of
from workers.codes import Code
from workers.faults import unsent
from workers.http_reply import READ_ERRORS, Reply, drop, refused
from workers.redaction import redacted
from workers.refusals import Who
from workers.retries import retry_pause_s
from workers.routes import address_of, proxy_for
from workers.trust import trusted

__all__ = ["Patience", "Sign", "Upstream"]

T = TypeVar("T")
Sign: TypeAlias = "Callable[[], Awaitable[Mapping[str, str]]]"
"""Gives the headers that hold for one attempt at a request: a signature ages while a retry waits."""
Patience: TypeAlias = Callable[[AdapterError, int, float], "float | None"]
"""A refusal, how often it was waited for already, and the seconds left → how long to wait where the provider
documents a wait and no failure; None where it is a failure. Such waits are not the one retry."""

CONNECT_S: Final = 5.0
"""Names, TCP, TLS and the proxy together; a provider that takes longer will not speak within a second."""
KEEPALIVE_S: Final = 60.0
"""A person thinks for that long between two messages; reconnecting costs the first word 100 to 300 ms."""
CONNECTIONS_UNBOUNDED: Final = 0
"""aiohttp's word for no limit: the supervisor bounds the requests, and one that waited here would look
unreachable."""
READ_BYTES: Final = 64 << 10
"""How much of an answer is buffered before its connection is paused."""
LARGE_BODY_BYTES: Final = 512 << 10
"""Larger requests are sent in pieces, so that writing one does not hold up the others."""

_PATH_SAFE: Final = "%/?#[]@!$&'()*+,;=:~"
"""What stands in a path as it is; an escape stays the escape that it was, since a signature may cover it."""
SEND_ERRORS: Final = (*READ_ERRORS, http_exceptions.HttpProcessingError, UnicodeError)


class Upstream:
    """The connections of one binding to one provider: made, opened, used by many requests, closed."""

    pause: Callable[[float], Awaitable[None]] = staticmethod(asyncio.sleep)
    """How the time before a retry is spent; a seam for tests."""

    def __init__(
        self,
        base_url: str,
        who: Who,
        headers: Mapping[str, str],
        *,
        accepted: Collection[int] = (200,),
        patience: Patience = lambda error, waits, left_s: None,
    ) -> None:
        """`accepted` are the statuses of an answer; with any other it is a refusal."""
        self._scheme, self._host, port = address_of(base_url, who.name)
        self.who = who
        self._accepted = frozenset(accepted)
        self._patience = patience
        self.where = f"{self._host}:{port}"
        self._base = base_url.rstrip("/")
        self._headers = {"User-Agent": "w-ai-fu-llm", "Accept-Encoding": "identity", **headers}
        self._proxy: str | None = None
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Prepares the connections; nothing is sent.

        Raises:
            AdapterError: UNREACHABLE, when the system names a proxy that cannot be used.
        """
        self._proxy = await asyncio.to_thread(proxy_for, self._scheme, self._host, self.who.name)
        context = await asyncio.to_thread(trusted) if self._scheme == "https" else True
        self._session = aiohttp.ClientSession(
            connector=Connector(limit=CONNECTIONS_UNBOUNDED, keepalive_timeout=KEEPALIVE_S, ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_S),
            trust_env=False,  # it would read ~/.netrc as well, and send what it finds there
            read_bufsize=READ_BYTES,
        )
        self._session._retry_connection = False  # it would repeat a GET by itself, and tell nobody

    async def close(self) -> None:
        """Closes all connections; may be called twice."""
        if self._session is not None:
            await self._session.close()

    async def get_json(self, path: str, *, timeout_s: float, headers: Mapping[str, str] | None = None) -> Any:
        """What a GET answers, parsed; never retried. Cancelling it is safe.

        Raises:
            AdapterError: whatever the network or the provider did; TIMEOUT after `timeout_s`.
        """
        return await self.ask("GET", path, timeout_s=timeout_s, headers=headers)

    async def warm(self, timeout_s: float) -> None:
        """Leaves a warm connection, where nothing else was asked; what is answered says nothing.

        Raises:
            AdapterError: UNREACHABLE.
        """
        try:
            await self.ask("GET", "/ping", timeout_s=timeout_s)
        except AdapterError as exc:
            if exc.code is Code.UNREACHABLE:
                raise

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """What a short question is answered, parsed; never retried. Cancelling it is safe.

        Raises:
            AdapterError: whatever the network or the provider did; TIMEOUT after `timeout_s`.
        """
        limit = aiohttp.ClientTimeout(total=timeout_s, connect=min(CONNECT_S, timeout_s))
        response = await self._send(method, path, body, limit, "", headers)
        reply = Reply(response, self.who, 0)
        try:
            body = await reply.read()
        finally:
            reply.close()
        try:
            return _parsed(body)
        except ValueError as exc:
            kind = redacted(reply.content_type) or "nothing"
            raise AdapterError(
                Code.UPSTREAM_PROTOCOL,
                f"{self.who.name} answered {path} with {kind} instead of JSON: check the base URL",
            ) from exc

    def post(
        self,
        path: str,
        body: bytes,
        *,
        deadline: float,
        model: str = "",
        retries: int = 1,
        sign: Sign | None = None,
    ) -> AbstractAsyncContextManager[Reply]:
        """Sends a request and gives its answer while it is still arriving; `deadline` is of the loop's
        clock and only decides whether a retry fits. Leaving it in any way closes what is open.
        `sign` is asked before each attempt.

        Raises:
            AdapterError: whatever the network or the provider did.
        """
        return self._answered("POST", path, body, deadline, model, retries, sign)

    def get(
        self, path: str, *, deadline: float, retries: int = 1, headers: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[Reply]:
        """As `post`, for an answer that is only asked for.

        Raises:
            AdapterError: whatever the network or the provider did.
        """
        return self._answered("GET", path, None, deadline, "", retries, None, headers)

    async def again(
        self, send: Callable[[], Awaitable[T]], *, deadline: float, retries: int = 1
    ) -> tuple[T, int]:
        """What `send` gives, tried again where the rules allow it, and how often it was. Cancelling it is as
        safe as cancelling `send`.

        Raises:
            AdapterError: whatever the network or the provider did.
        """
        tried = waits = 0
        while True:
            try:
                return await send(), tried + waits
            except AdapterError as exc:
                left_s = deadline - asyncio.get_running_loop().time()
                wait_s = self._patience(exc, waits, left_s)
                if wait_s is not None:
                    waits += 1
                else:
                    wait_s = retry_pause_s(exc, left_s) if tried < retries else None
                    tried += 1
                if wait_s is None:
                    raise
            await self.pause(wait_s)

    @contextlib.asynccontextmanager
    async def _answered(
        self,
        method: str,
        path: str,
        body: bytes | None,
        deadline: float,
        model: str,
        retries: int,
        sign: Sign | None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Reply]:
        async def send() -> aiohttp.ClientResponse:
            signed = headers if sign is None else await sign()
            return await self._send(method, path, body, None, model, signed)

        response, retried = await self.again(send, deadline=deadline, retries=retries)
        reply = Reply(response, self.who, retried)
        try:
            yield reply
        finally:
            reply.close()

    async def _send(
        self,
        method: str,
        path: str,
        body: bytes | None,
        limit: aiohttp.ClientTimeout | None,
        model: str,
        headers: Mapping[str, str] | None,
    ) -> aiohttp.ClientResponse:
        """An answer with an accepted status, or an AdapterError."""
        assert self._session is not None, "open() comes first"  # noqa: S101 - a bug of ours, not an input
        attempt = Attempt.begun()
        extra: dict[str, Any] = {} if limit is None else {"timeout": limit}
        if body is not None:
            extra["data"] = io.BytesIO(body) if len(body) > LARGE_BODY_BYTES else body
            extra["headers"] = {"Content-Type": "application/json", **(headers or {})}
        else:
            extra["headers"] = headers
            extra["skip_auto_headers"] = ("Content-Type",)  # of nothing
        try:
            response = await self._session.request(
                method,
                self._url(path),
                allow_redirects=False,
                proxy=self._proxy,
                **extra,
            )
        except aiohttp.ClientResponseError as exc:
            raise self._unsent(exc, attempt) from None  # its repr shows the request's headers: the key
        except SEND_ERRORS as exc:
            raise self._unsent(exc, attempt) from exc
        except BaseException:
            attempt.abort()
            raise
        if response.status in self._accepted:
            return response
        try:
            raise await refused(response, self.who, model)
        finally:
            drop(response)

    def _url(self, path: str) -> URL:
        """The address of a path, whose escapes are sent as they are."""
        try:
            base = str(URL(self._base)).rstrip("/")
            return URL(base + quote(path, safe=_PATH_SAFE), encoded=True)
        except ValueError as exc:
            raise aiohttp.InvalidURL(self._base) from exc

    def _unsent(self, exc: Exception, attempt: Attempt) -> AdapterError:
        fault, cause = fault_of(exc, attempt)
        status = exc.status if isinstance(exc, aiohttp.ClientResponseError) else 0
        return unsent(fault, self.who.name, self.where, self._proxy, cause, status)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc

"""HTTP to a provider: the one place outside adapters that knows aiohttp, and the one that holds a connection.

What every wire over HTTP needs and no wire should write again: connections that stay warm, no redirects,
no cookies, the system's certificates, proxies, bounded bodies, one table of what failures mean, and at
most one retry, only while nothing of an answer has arrived. A wire may name refusals that are waited out.
Whoever leaves a `post` early, by cancelling or by closing, has closed its connection by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import json
import os
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import quote
from weakref import WeakSet

import aiohttp
from aiohttp import http_exceptions
from aiohttp.connector import Connection
from yarl import URL

from workers.adapter import AdapterError
from workers.codes import Code
from workers.faults import Fault, unsent
from workers.refusals import Who, parse_fields, redacted, redirected, refusal, retry_after_ms
from workers.retries import retry_pause_s
from workers.routes import address_of, proxy_for

__all__ = ["Patience", "Reply", "Sign", "Upstream"]

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
ERROR_BODY_MAX_BYTES: Final = 64 << 10
ERROR_BODY_S: Final = 2.0
"""The status already says what happened; its explanation is not waited for any longer."""
WHOLE_BODY_MAX_BYTES: Final = 16 << 20
"""An unstreamed answer, or a list of models."""
STREAM_MAX_BYTES: Final = 512 << 20
"""A stream beyond this has no end; a million pieces of 300 bytes still fit."""
LINGER_S: Final = 0.05
"""How long the end of an answer is waited for after its last word, to keep the connection."""
LINGER_BYTES: Final = 64 << 10
LARGE_BODY_BYTES: Final = 512 << 10
"""Larger requests are sent in pieces, so that writing one does not hold up the others."""

READ_ERRORS: Final = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
"""What reading a body raises when it cannot go on."""
_PATH_SAFE: Final = "%/?#[]@!$&'()*+,;=:~"
"""What stands in a path as it is; an escape stays the escape that it was, since a signature may cover it."""
SEND_ERRORS: Final = (*READ_ERRORS, http_exceptions.HttpProcessingError, UnicodeError)


class Reply:
    """An answer whose head has arrived with an accepted status; its body is read in one of two ways, once."""

    def __init__(self, response: aiohttp.ClientResponse, who: Who, retries: int) -> None:
        self._response = response
        self._who = who
        self.retries = retries
        self.content_type = response.content_type if "Content-Type" in response.headers else ""
        self._timer: asyncio.TimerHandle | None = None

    def header(self, name: str) -> str:
        """A header of it; empty where there is none."""
        return self._response.headers.get(name, "")

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives; a regular end of it is not judged here.

        Raises:
            AdapterError: TRUNCATED or UPSTREAM_PROTOCOL.
        """
        total = 0
        while data := await self._some():
            total += len(data)
            if total > STREAM_MAX_BYTES:
                raise AdapterError(
                    Code.UPSTREAM_PROTOCOL, f"{self._who.name} sent a stream that does not end"
                )
            yield data

    async def read(self) -> bytes:
        """The whole body.

        Raises:
            AdapterError: TRUNCATED, or UPSTREAM_PROTOCOL when it is over WHOLE_BODY_MAX_BYTES.
        """
        body = bytearray()
        while data := await self._some():
            if len(body) + len(data) > WHOLE_BODY_MAX_BYTES:
                raise AdapterError(
                    Code.UPSTREAM_PROTOCOL,
                    f"{self._who.name} sent an answer of more than {WHOLE_BODY_MAX_BYTES >> 20} MiB",
                )
            body += data
        return bytes(body)

    async def _some(self) -> bytes:
        """What has arrived, as soon as there is anything; nothing at the regular end."""
        try:
            return await self._response.content.readany()
        except READ_ERRORS as exc:
            raise _cut(self._who.name, exc) from exc

    def end_within(self, seconds: float) -> None:
        """Closes the connection if the body has not ended by then; reading it raises TRUNCATED.
        Of several calls the earliest end holds."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = loop.call_later(seconds, _drop, self._response)

    def goes_on(self) -> None:
        """What has come shows that the body is not at its end: no end of it that was set before holds."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def drain(self) -> None:
        """Waits a moment for the end of a body that has nothing more to say, so its connection stays warm."""
        if self._response.content.at_eof():
            return
        self.end_within(LINGER_S)
        left = LINGER_BYTES
        with contextlib.suppress(*READ_ERRORS):
            while left > 0 and (data := await self._response.content.readany()):
                left -= len(data)

    def close(self) -> None:
        """Closes the connection, or leaves it warm where the body was read to its end."""
        if self._timer is not None:
            self._timer.cancel()
        _drop(self._response)


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
        context = await asyncio.to_thread(_trust) if self._scheme == "https" else True
        self._session = aiohttp.ClientSession(
            connector=_Connector(limit=CONNECTIONS_UNBOUNDED, keepalive_timeout=KEEPALIVE_S, ssl=context),
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
        attempt = _Attempt()
        _current.set(attempt)
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
            raise await self._refused(response, model)
        finally:
            _drop(response)

    def _url(self, path: str) -> URL:
        """The address of a path, whose escapes are sent as they are."""
        try:
            base = str(URL(self._base)).rstrip("/")
            return URL(base + quote(path, safe=_PATH_SAFE), encoded=True)
        except ValueError as exc:
            raise aiohttp.InvalidURL(self._base) from exc

    def _unsent(self, exc: Exception, attempt: _Attempt) -> AdapterError:
        fault, cause = _fault(exc, attempt)
        status = exc.status if isinstance(exc, aiohttp.ClientResponseError) else 0
        return unsent(fault, self.who.name, self.where, self._proxy, cause, status)

    async def _refused(self, response: aiohttp.ClientResponse, model: str) -> AdapterError:
        status = response.status
        if 300 <= status < 400:
            return redirected(self.who, status, response.headers.get("Location", ""))
        if status < 300:
            return AdapterError(
                Code.UPSTREAM_PROTOCOL,
                f"{self.who.name} answered with HTTP {status} and no content: check the base URL",
                provider_status=status,
            )
        fields = parse_fields(await _error_body(response), kind=response.headers.get("x-amzn-ErrorType", ""))
        header = response.headers.get("Retry-After")
        return refusal(
            self.who, status, fields, model=model, retry_after_ms=retry_after_ms(header, time.time())
        )


@functools.cache
def _trust() -> ssl.SSLContext:
    """The system's own certificates, which know the user's company and antivirus too; once per process."""
    if os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"):
        return ssl.create_default_context()
    try:
        import truststore  # here: it costs time, and only https needs it
    except ImportError:
        return ssl.create_default_context()
    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def _error_body(response: aiohttp.ClientResponse) -> bytes:
    """As much of an error's body as is worth waiting for; cut where it is too long or too slow."""
    timer = asyncio.get_running_loop().call_later(ERROR_BODY_S, _drop, response)
    body = bytearray()
    try:
        with contextlib.suppress(*READ_ERRORS):
            while len(body) < ERROR_BODY_MAX_BYTES and (data := await response.content.readany()):
                body += data
    finally:
        timer.cancel()
    return bytes(body[:ERROR_BODY_MAX_BYTES])


class _Attempt:
    """How far one request got."""

    def __init__(self) -> None:
        self.reused = False
        self._transport: asyncio.Transport | None = None

    @property
    def connected(self) -> bool:
        """Whether there was a connection to send the request on."""
        return self._transport is not None

    def note(self, transport: asyncio.Transport, *, reused: bool) -> None:
        """The connection is ready; a reused one has carried a request before."""
        self._transport = transport
        self.reused = reused

    def abort(self) -> None:
        """Closes it, with what is not sent yet: a plain close would first send all of the prompt."""
        if self._transport is not None:
            self._transport.abort()


_current: ContextVar[_Attempt] = ContextVar("attempt")
"""The request that the running task is sending."""


class _Connector(aiohttp.TCPConnector):
    """Tells each request its connection, so that a cancelled one can be closed at once."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._used: WeakSet[asyncio.Transport] = WeakSet()

    async def connect(self, *args: Any, **kwargs: Any) -> Connection:
        connection = await super().connect(*args, **kwargs)
        transport = connection.transport
        if transport is not None:
            _current.get().note(transport, reused=transport in self._used)
            self._used.add(transport)
        return connection


def _drop(response: aiohttp.ClientResponse) -> None:
    """Ends a response; its connection is aborted unless the body has ended and it is warm again."""
    connection = response.connection
    transport = connection.transport if connection is not None else None
    response.close()
    if transport is not None:
        transport.abort()


def _fault(exc: Exception, attempt: _Attempt) -> tuple[Fault, BaseException]:
    """Which step failed, and the innermost exception that says why."""
    inner = getattr(exc, "os_error", None) or getattr(exc, "certificate_error", None) or exc.__cause__
    cause = inner if isinstance(inner, BaseException) else exc
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        return Fault.PROXY_REFUSED, cause
    if isinstance(exc, (aiohttp.ClientResponseError, http_exceptions.HttpProcessingError)):
        return Fault.NOT_HTTP, cause
    if isinstance(exc, (aiohttp.InvalidURL, UnicodeError)):
        return Fault.ADDRESS, cause
    if isinstance(exc, asyncio.TimeoutError):
        return (Fault.ANSWER_TIME if attempt.connected else Fault.CONNECT_TIME), cause
    if isinstance(cause, ssl.SSLError):
        return Fault.TLS, cause
    if isinstance(exc, aiohttp.ClientProxyConnectionError):
        return Fault.PROXY, cause
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return Fault.NAME, cause
    if isinstance(exc, aiohttp.ClientConnectorError):
        return Fault.CONNECT, cause
    if not attempt.connected:
        return Fault.HANDSHAKE_CLOSED, cause
    return (Fault.CLOSED_WARM if attempt.reused else Fault.CLOSED), cause


def _cut(name: str, exc: Exception) -> AdapterError:
    """The error for a body that broke off."""
    if isinstance(exc.__cause__, http_exceptions.ContentEncodingError):
        return AdapterError(Code.UPSTREAM_PROTOCOL, f"{name} sent an answer whose compression is broken")
    if isinstance(exc, asyncio.TimeoutError):
        return AdapterError(Code.TIMEOUT, f"{name} began an answer and did not finish it in time")
    return AdapterError(Code.TRUNCATED, f"the connection to {name} broke off in the middle of its answer")


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc

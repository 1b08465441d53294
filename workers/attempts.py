"""One attempt at a request: which connection it got, and which step of it failed.

aiohttp tells nobody which connection a request got. Here each attempt learns its own, so that it can be
closed at once, and so that a failure on a warm one is known as such.
"""

from __future__ import annotations

import asyncio
import ssl
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

import aiohttp
from aiohttp import http_exceptions
from aiohttp.connector import Connection

from workers.faults import Fault

__all__ = ["Attempt", "Connector", "fault_of"]

_current: ContextVar[Attempt] = ContextVar("attempt")
"""The one that the running task is at."""


class Attempt:
    """How far one request got."""

    def __init__(self) -> None:
        self.reused = False
        self._transport: asyncio.Transport | None = None

    @classmethod
    def begun(cls) -> Attempt:
        """A new one; the connection that the running task gets is noted in it."""
        attempt = cls()
        _current.set(attempt)
        return attempt

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


class Connector(aiohttp.TCPConnector):
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


def fault_of(exc: Exception, attempt: Attempt) -> tuple[Fault, BaseException]:
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

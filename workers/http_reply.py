"""An answer of HTTP whose head has arrived: its body, read within bounds, and what is left of its connection.

A connection stays warm where the body was read to its end, and is aborted in all other cases.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Final

import aiohttp
from aiohttp import http_exceptions

from workers.adapter import AdapterError
from workers.codes import Code
from workers.error_fields import parse_fields, retry_after_ms
from workers.refusals import Who, redirected, refusal

__all__ = ["READ_ERRORS", "Reply", "drop", "refused"]

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

READ_ERRORS: Final = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
"""What reading a body raises when it cannot go on."""


class Reply:
    """An answer whose head has arrived with an accepted status; its body is read in one of two ways, once."""

    def __init__(self, response: aiohttp.ClientResponse, who: Who, retries: int) -> None:
        self._response = response
        self.who = who
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
                raise AdapterError(Code.UPSTREAM_PROTOCOL, f"{self.who.name} sent a stream that does not end")
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
                    f"{self.who.name} sent an answer of more than {WHOLE_BODY_MAX_BYTES >> 20} MiB",
                )
            body += data
        return bytes(body)

    async def _some(self) -> bytes:
        """What has arrived, as soon as there is anything; nothing at the regular end."""
        try:
            return await self._response.content.readany()
        except READ_ERRORS as exc:
            raise _cut(self.who.name, exc) from exc

    def end_within(self, seconds: float) -> None:
        """Closes the connection if the body has not ended by then; reading it raises TRUNCATED.
        Of several calls the earliest end holds."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = loop.call_later(seconds, drop, self._response)

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
        drop(self._response)


async def refused(response: aiohttp.ClientResponse, who: Who, model: str) -> AdapterError:
    """The error for an answer with a status that is none of an answer; the response is still the caller's."""
    status = response.status
    if 300 <= status < 400:
        return redirected(who, status, response.headers.get("Location", ""))
    if status < 300:
        return AdapterError(
            Code.UPSTREAM_PROTOCOL,
            f"{who.name} answered with HTTP {status} and no content: check the base URL",
            provider_status=status,
        )
    fields = parse_fields(await _error_body(response), kind=response.headers.get("x-amzn-ErrorType", ""))
    header = response.headers.get("Retry-After")
    return refusal(who, status, fields, model=model, retry_after_ms=retry_after_ms(header, time.time()))


def drop(response: aiohttp.ClientResponse) -> None:
    """Ends a response; its connection is aborted unless the body has ended and it is warm again."""
    connection = response.connection
    transport = connection.transport if connection is not None else None
    response.close()
    if transport is not None:
        transport.abort()


async def _error_body(response: aiohttp.ClientResponse) -> bytes:
    """As much of an error's body as is worth waiting for; cut where it is too long or too slow."""
    timer = asyncio.get_running_loop().call_later(ERROR_BODY_S, drop, response)
    body = bytearray()
    try:
        with contextlib.suppress(*READ_ERRORS):
            while len(body) < ERROR_BODY_MAX_BYTES and (data := await response.content.readany()):
                body += data
    finally:
        timer.cancel()
    return bytes(body[:ERROR_BODY_MAX_BYTES])


def _cut(name: str, exc: Exception) -> AdapterError:
    """The error for a body that broke off."""
    if isinstance(exc.__cause__, http_exceptions.ContentEncodingError):
        return AdapterError(Code.UPSTREAM_PROTOCOL, f"{name} sent an answer whose compression is broken")
    if isinstance(exc, asyncio.TimeoutError):
        return AdapterError(Code.TIMEOUT, f"{name} began an answer and did not finish it in time")
    return AdapterError(Code.TRUNCATED, f"the connection to {name} broke off in the middle of its answer")

"""One attempt: at which step it failed, and its connection, which is closed at once where it is left."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from tests.fakes.openai_server import WAIT_S
from tests.fakes.raw import raw_server
from tests.fakes.upstreams import CANARY, failure, forget_proxies, later, opened
from workers import upstream
from workers.codes import Code
from workers.upstream import Upstream

HUGE = 32 << 20
"""More than the buffers of two sockets hold."""


async def test_d14_an_unknown_name_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_proxies(monkeypatch)

    def unknown(*args: object, **kwargs: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = await failure("http://nowhere.example:81/v1")
    assert error.code is Code.UNREACHABLE
    assert "nowhere.example:81 is not known (DNS)" in error.message


async def test_d14_a_connection_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "CONNECT_S", 0.05)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with raw_server(silent) as port:
        error = await failure(f"https://127.0.0.1:{port}/v1")
    assert error.code is Code.UNREACHABLE
    assert f"connecting to 127.0.0.1:{port} took too long (timeout)" in error.message


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 50])
async def test_d12_what_is_no_tls_says_tls_and_never_gets_the_key(answer: bytes) -> None:
    seen = bytearray()

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.extend(await reader.read(1 << 16))
        writer.write(answer)

    async with raw_server(plain) as port:
        error = await failure(f"https://127.0.0.1:{port}/v1")
    assert error.code is Code.UNREACHABLE
    assert "TLS" in error.message
    assert CANARY.encode() not in seen


async def test_d12_a_connection_that_is_reset_in_the_handshake_says_where() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()

    async with raw_server(reset) as port:
        error = await failure(f"https://127.0.0.1:{port}/v1")
    assert error.code is Code.UNREACHABLE
    assert f"127.0.0.1:{port}" in error.message


async def test_what_does_not_speak_http_is_a_protocol_error() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail.example ESMTP\r\n\r\n")

    async with raw_server(talk) as port:
        error = await failure(f"http://127.0.0.1:{port}")
    assert error.code is Code.UPSTREAM_PROTOCOL
    assert "does not speak HTTP" in error.message


async def test_cancelling_while_connecting_closes_the_socket() -> None:
    greeted, gone = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        greeted.set()
        await reader.read()
        gone.set()

    async with raw_server(silent) as port:
        upstream = await opened(f"https://127.0.0.1:{port}/v1")
        task = asyncio.ensure_future(upstream.get_json("/models", timeout_s=WAIT_S))
        await asyncio.wait_for(greeted.wait(), WAIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), WAIT_S)
        await upstream.close()


async def test_cancelling_a_request_that_nobody_reads_closes_its_socket_with_the_rest_unsent() -> None:
    begun, gone = asyncio.Event(), asyncio.Event()
    received = 0

    class Slow(asyncio.Protocol):
        transport: asyncio.Transport

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            nonlocal received
            received += len(data)
            if not begun.is_set():
                self.transport.pause_reading()
                begun.set()

        def connection_lost(self, exc: Exception | None) -> None:
            self.transport.close()
            gone.set()

    slow = Slow()
    listener = await asyncio.get_running_loop().create_server(lambda: slow, "127.0.0.1", 0)
    upstream = await opened(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1")
    task = asyncio.ensure_future(anext(_replies(upstream, b"x" * HUGE)))
    await asyncio.wait_for(begun.wait(), WAIT_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    slow.transport.resume_reading()
    await asyncio.wait_for(gone.wait(), WAIT_S)
    assert received < HUGE
    await upstream.close()
    listener.close()
    await listener.wait_closed()


async def _replies(upstream: Upstream, body: bytes) -> AsyncIterator[bytes]:
    async with upstream.post("/x", body, deadline=later()) as reply:
        yield await reply.read()

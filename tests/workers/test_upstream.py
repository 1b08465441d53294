"""Connections: every way in which there can be none, proxies, certificates, and what is never sent."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.openai_server import WAIT_S, Behaviour, Exchange, OpenAIServer
from tests.fakes.raw import raw_server
from workers import upstream as module
from workers.adapter import AdapterError
from workers.codes import Code
from workers.faults import Unreachable
from workers.refusals import Who
from workers.upstream import LARGE_BODY_BYTES, Upstream

HUGE = 32 << 20
"""More than the buffers of two sockets hold."""
CANARY = "sk-CANARY-7f3a9c51d2e84b60-Zq"
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer() as running:
        yield running


async def opened(base_url: str) -> Upstream:
    upstream = Upstream(base_url, Who("Fake", (), (CANARY,)), {"Authorization": f"Bearer {CANARY}"})
    await upstream.open()
    return upstream


async def failure(base_url: str, *, retries: int = 0, body: bytes = b"{}") -> AdapterError:
    upstream = await opened(base_url)
    try:
        with pytest.raises(AdapterError) as caught:
            async with upstream.post("/x", body, deadline=later(), retries=retries) as reply:
                await reply.read()
    finally:
        await upstream.close()
    error: BaseException | None = caught.value
    while error is not None:
        assert CANARY not in f"{error!r}{error}"
        error = error.__cause__
    return caught.value


def later() -> float:
    return asyncio.get_running_loop().time() + 60.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


# ---- D14: no connection


async def test_d14_a_refused_connection_says_so_and_is_tried_twice_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(Upstream, "pause", staticmethod(pause))
    port = free_port()
    error = await failure(f"http://127.0.0.1:{port}", retries=1)
    assert error.code is Code.UNREACHABLE
    assert f"127.0.0.1:{port} (refused" in error.message
    assert len(pauses) == 1


async def test_d14_an_unknown_name_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: object, **kwargs: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = await failure("http://nowhere.example:81/v1")
    assert error.code is Code.UNREACHABLE
    assert "nowhere.example:81 is not known (DNS)" in error.message


async def test_d14_a_connection_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_S", 0.05)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with raw_server(silent) as port:
        error = await failure(f"https://127.0.0.1:{port}/v1")
    assert error.code is Code.UNREACHABLE
    assert f"connecting to 127.0.0.1:{port} took too long (timeout)" in error.message


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


async def test_an_answer_that_does_not_come_in_time_is_a_timeout(server: OpenAIServer) -> None:
    async def hang(exchange: Exchange) -> None:
        await exchange.server.gate.wait()

    upstream = await opened(server.base_url)
    await upstream.get_json("/models", timeout_s=WAIT_S)
    server.models = hang
    with pytest.raises(AdapterError) as caught:
        await upstream.get_json("/models", timeout_s=0.05)
    assert caught.value.code is Code.TIMEOUT
    await upstream.close()


async def test_a_body_that_does_not_come_in_time_is_a_timeout(server: OpenAIServer) -> None:
    async def hang(exchange: Exchange) -> None:
        await exchange.head(200, {}, length=10)
        await exchange.server.gate.wait()

    server.models = hang
    upstream = await opened(server.base_url)
    with pytest.raises(AdapterError) as caught:
        await upstream.get_json("/models", timeout_s=0.1)
    assert caught.value.code is Code.TIMEOUT
    await upstream.close()


# ---- D15: proxies


async def test_d15_a_proxy_of_the_environment_is_used(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://user:hunter2@127.0.0.1:{server.port}")
    upstream = await opened("http://provider.example/v1")
    async with upstream.post("/x", b"{}", deadline=later()) as reply:
        await reply.read()
    await upstream.close()
    assert server.requests[0].path == "http://provider.example/v1/x"


async def test_d15_this_machine_is_never_reached_through_a_proxy(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("all_proxy", f"http://127.0.0.1:{free_port()}")
    upstream = await opened(server.base_url)
    await upstream.get_json("/models", timeout_s=WAIT_S)
    await upstream.close()
    assert server.lists[0].path == "/v1/models"


async def test_d15_a_proxy_of_another_kind_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://user:hunter2@127.0.0.1:1080")
    with pytest.raises(Unreachable) as caught:
        await opened("https://provider.example/v1")
    assert "SOCKS" in caught.value.message
    assert "hunter2" not in caught.value.message


async def test_d15_a_proxy_that_is_not_there_or_refuses_is_named_without_its_password(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("http_proxy", f"http://user:hunter2@127.0.0.1:{port}")
    error = await failure("http://provider.example/v1")
    assert f"the proxy 127.0.0.1:{port} (refused" in error.message

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Authenticate\r\nContent-Length: 0\r\n\r\n")

    async with raw_server(refuse) as port:
        monkeypatch.setenv("https_proxy", f"http://user:hunter2@127.0.0.1:{port}")
        error = await failure("https://provider.example/v1")
    assert f"the proxy 127.0.0.1:{port} refused" in error.message
    assert "HTTP 407" in error.message
    assert "hunter2" not in error.message


async def test_a_password_file_of_the_user_is_never_read(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(netrc))
    upstream = await opened(server.base_url)
    await upstream.get_json("/models", timeout_s=WAIT_S)
    await upstream.close()
    assert server.lists[0].key == CANARY


# ---- what is sent, and what is read


async def test_cookies_are_never_kept(server: OpenAIServer) -> None:
    server.models = Behaviour(body=b"{}", headers={"Set-Cookie": "a=b"})
    upstream = await opened(server.base_url)
    for _ in range(2):
        await upstream.get_json("/models", timeout_s=WAIT_S)
    await upstream.close()
    assert "cookie" not in server.lists[1].headers


async def test_a_large_request_arrives_whole(server: OpenAIServer) -> None:
    body = b'{"text": "' + b"x" * (2 * LARGE_BODY_BYTES + 7) + b'"}'
    upstream = await opened(server.base_url)
    async with upstream.post("/x", body, deadline=later()) as reply:
        await reply.read()
    await upstream.close()
    assert server.requests[0].raw == body
    assert server.requests[0].headers["content-type"] == "application/json"


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


async def test_an_answer_over_the_cap_is_refused(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WHOLE_BODY_MAX_BYTES", 1000)
    server.behaviour = Behaviour(body=b"x" * 2000)
    assert (await failure(server.base_url)).code is Code.UPSTREAM_PROTOCOL


async def test_a_stream_over_the_cap_is_refused(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STREAM_MAX_BYTES", 1000)
    server.behaviour = Behaviour(body=b"x" * 2000)
    upstream = await opened(server.base_url)
    with pytest.raises(AdapterError, match="does not end") as caught:
        async with upstream.post("/x", b"{}", deadline=later()) as reply:
            async for _ in reply.chunks():
                pass
    assert caught.value.code is Code.UPSTREAM_PROTOCOL
    await upstream.close()


async def test_an_error_body_is_read_only_so_far(server: OpenAIServer) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.head(400, {"Content-Type": "application/json"}, chunked=True)
        while True:
            await exchange.send(b"x" * 4096)

    server.behaviour = endless
    error = await failure(server.base_url)
    assert (error.code, error.provider_status) == (Code.INVALID_PROMPT, 400)
    await server.closed(0)


async def test_an_error_body_is_waited_for_only_so_long(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ERROR_BODY_S", 0.05)

    async def hang(exchange: Exchange) -> None:
        await exchange.head(500, {}, length=10)
        await exchange.server.gate.wait()

    server.behaviour = hang
    assert (await failure(server.base_url)).code is Code.UPSTREAM_ERROR


async def test_what_does_not_speak_http_is_a_protocol_error() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail.example ESMTP\r\n\r\n")

    async with raw_server(talk) as port:
        error = await failure(f"http://127.0.0.1:{port}")
    assert error.code is Code.UPSTREAM_PROTOCOL
    assert "does not speak HTTP" in error.message


async def test_a_list_that_is_no_json_names_what_came_instead(server: OpenAIServer) -> None:
    server.models = Behaviour(body=b"<html>", headers={"Content-Type": "text/html"})
    upstream = await opened(server.base_url)
    with pytest.raises(AdapterError) as caught:
        await upstream.get_json("/models", timeout_s=WAIT_S)
    await upstream.close()
    assert caught.value.code is Code.UPSTREAM_PROTOCOL
    assert "text/html" in caught.value.message


async def test_the_end_of_an_answer_that_does_not_come_closes_the_connection(server: OpenAIServer) -> None:
    async def open_ended(exchange: Exchange) -> None:
        await exchange.head(200, {}, chunked=True)
        await exchange.send(b"all")
        await exchange.server.gate.wait()

    server.behaviour = open_ended
    upstream = await opened(server.base_url)
    async with upstream.post("/x", b"{}", deadline=later()) as reply:
        assert await anext(reply.chunks()) == b"all"
        await reply.drain()
    await server.closed(0)
    await upstream.close()
    await upstream.close()


def test_the_http_client_is_new_enough_for_what_is_relied_on() -> None:
    assert tuple(map(int, aiohttp.__version__.split(".")[:2])) >= (3, 13)


# ---- signed requests


async def test_each_attempt_is_signed_anew(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def pause(seconds: float) -> None:
        return

    monkeypatch.setattr(Upstream, "pause", staticmethod(pause))
    signatures = iter("abc")

    async def sign() -> dict[str, str]:
        return {"X-Signature": next(signatures)}

    server.script = [Behaviour(status=503, body=b"{}")]
    upstream = await opened(server.base_url)
    async with upstream.post("/x", b"{}", deadline=later(), sign=sign) as reply:
        await reply.read()
    await upstream.close()
    assert [received.headers["x-signature"] for received in server.requests] == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/a%3Ab%2Fc/d?e=f%2B", "/v1/a%3Ab%2Fc/d?e=f%2B"),
        ("/a:b@c/d", "/v1/a:b@c/d"),
        ("/é d", "/v1/%C3%A9%20d"),
    ],
)
async def test_the_escapes_of_a_path_are_sent_as_they_are(server: OpenAIServer, path: str, sent: str) -> None:
    upstream = await opened(server.base_url)
    async with upstream.post(path, b"{}", deadline=later()) as reply:
        await reply.read()
    await upstream.close()
    assert server.requests[0].path == sent

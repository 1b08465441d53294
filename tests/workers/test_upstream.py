"""Requests: retries, proxies, signatures, and what is never sent."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.openai_server import WAIT_S, Behaviour, Exchange, OpenAIServer
from tests.fakes.raw import raw_server
from tests.fakes.upstreams import CANARY, failure, forget_proxies, free_port, later, opened
from workers.adapter import AdapterError
from workers.codes import Code
from workers.faults import Unreachable
from workers.upstream import LARGE_BODY_BYTES


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_proxies(monkeypatch)


async def test_d14_a_refused_connection_says_so_and_is_tried_twice_at_most(pauses: list[float]) -> None:
    port = free_port()
    error = await failure(f"http://127.0.0.1:{port}", retries=1)
    assert error.code is Code.UNREACHABLE
    assert f"127.0.0.1:{port} (refused" in error.message
    assert len(pauses) == 1


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


async def test_a_list_that_is_no_json_names_what_came_instead(server: OpenAIServer) -> None:
    server.models = Behaviour(body=b"<html>", headers={"Content-Type": "text/html"})
    upstream = await opened(server.base_url)
    with pytest.raises(AdapterError) as caught:
        await upstream.get_json("/models", timeout_s=WAIT_S)
    await upstream.close()
    assert caught.value.code is Code.UPSTREAM_PROTOCOL
    assert "text/html" in caught.value.message


def test_the_http_client_is_new_enough_for_what_is_relied_on() -> None:
    assert tuple(map(int, aiohttp.__version__.split(".")[:2])) >= (3, 13)


# ---- signed requests


@pytest.mark.usefixtures("pauses")
async def test_each_attempt_is_signed_anew(server: OpenAIServer) -> None:
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

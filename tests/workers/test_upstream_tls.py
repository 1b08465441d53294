"""TLS: what is not trusted is refused before the key is sent, and the message says TLS."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.openai_server import WAIT_S, OpenAIServer
from tests.fakes.raw import raw_server
from workers import upstream as module
from workers.adapter import AdapterError
from workers.codes import Code
from workers.refusals import Who
from workers.upstream import Upstream

CANARY = "sk-CANARY-7f3a9c51d2e84b60-Zq"
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


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


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody signed, with its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl here to make a certificate with")
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    made = subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(file), "-out", str(file) + ".crt",
        ],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode != 0:
        pytest.skip("this openssl cannot make a certificate")
    file.write_bytes(file.read_bytes() + Path(f"{file}.crt").read_bytes())
    return file


def tls_of(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_d12_a_certificate_that_nobody_signed_is_refused_before_the_key_is_sent(
    certificate: Path, name: str
) -> None:
    async with OpenAIServer(tls=tls_of(certificate)) as server:
        error = await failure(f"https://{name}:{server.port}/v1")
        assert server.requests == []
    assert error.code is Code.UNREACHABLE
    assert "TLS" in error.message
    assert "certificate" in error.message


async def test_a_certificate_that_the_user_trusts_is_accepted(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
    module._trust.cache_clear()
    try:
        async with OpenAIServer(tls=tls_of(certificate)) as server:
            upstream = await opened(server.base_url)
            assert (await upstream.get_json("/models", timeout_s=WAIT_S))["object"] == "list"
            await upstream.close()
    finally:
        module._trust.cache_clear()


async def test_d12_a_certificate_for_another_host_is_refused(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
    module._trust.cache_clear()
    try:
        async with OpenAIServer(tls=tls_of(certificate)) as server:
            error = await failure(f"https://localhost:{server.port}/v1")
            assert server.requests == []
    finally:
        module._trust.cache_clear()
    assert "hostname mismatch" in error.message


def test_the_systems_certificates_are_read_once() -> None:
    module._trust.cache_clear()
    assert module._trust() is module._trust()
    assert module._trust().verify_mode is ssl.CERT_REQUIRED
    module._trust.cache_clear()

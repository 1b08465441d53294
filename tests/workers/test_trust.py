"""Whose certificates are trusted: what is not is refused before the key is sent, and the message says TLS."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.fakes.openai_server import WAIT_S, OpenAIServer
from tests.fakes.upstreams import failure, opened
from workers.codes import Code
from workers.trust import trusted


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
    trusted.cache_clear()
    try:
        async with OpenAIServer(tls=tls_of(certificate)) as server:
            upstream = await opened(server.base_url)
            assert (await upstream.get_json("/models", timeout_s=WAIT_S))["object"] == "list"
            await upstream.close()
    finally:
        trusted.cache_clear()


async def test_d12_a_certificate_for_another_host_is_refused(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
    trusted.cache_clear()
    try:
        async with OpenAIServer(tls=tls_of(certificate)) as server:
            error = await failure(f"https://localhost:{server.port}/v1")
            assert server.requests == []
    finally:
        trusted.cache_clear()
    assert "hostname mismatch" in error.message


def test_the_systems_certificates_are_read_once() -> None:
    trusted.cache_clear()
    assert trusted() is trusted()
    assert trusted().verify_mode is ssl.CERT_REQUIRED
    trusted.cache_clear()

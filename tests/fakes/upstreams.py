"""Connections to the server of a test, with a key that must be seen nowhere, and how they fail."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.fakes.wire import CANARY
from workers.adapter import AdapterError
from workers.refusals import Who
from workers.upstream import Upstream

__all__ = ["CANARY", "failure", "forget_proxies", "free_port", "later", "opened"]

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


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


def forget_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine of the tests has set."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port

"""What the tests of HTTP share: a server, and pauses that take no time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fakes.openai_server import OpenAIServer
from workers.upstream import Upstream


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    """A server that speaks the OpenAI wire."""
    async with OpenAIServer() as running:
        yield running


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses before retries, which take no time."""
    taken: list[float] = []

    async def pause(seconds: float) -> None:
        taken.append(seconds)

    monkeypatch.setattr(Upstream, "pause", staticmethod(pause))
    return taken

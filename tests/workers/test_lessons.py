"""What a refusal teaches, and how much of it is remembered."""

from __future__ import annotations

import pytest

from tests.fakes.bound import bound, collect, load_only, refusal, request, text_of
from tests.fakes.openai_server import OpenAIServer
from workers import lessons as module


async def test_only_so_many_models_are_remembered_for_what_they_refuse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LEARNT_MODELS_MAX", 2)
    async with OpenAIServer() as server:
        adapter = bound(server.base_url)
        await load_only(adapter)
        for model in ("a", "b", "c"):
            server.script = [refusal(400, {"message": "no", "param": "temperature"})]
            await collect(adapter, request(model=model))
        server.requests.clear()
        for model in ("a", "c"):
            await collect(adapter, request(model=model))
        await adapter.close()
    assert ["temperature" in received.body for received in server.requests] == [True, False]


async def test_a_provider_that_refuses_the_wish_for_usage_is_not_asked_again() -> None:
    async with OpenAIServer() as server:
        adapter = bound(server.base_url, {"stream_usage": True})
        await load_only(adapter)
        server.script = [refusal(400, {"message": "Unknown parameter: 'stream_options'"})]
        for _ in range(2):
            assert text_of(await collect(adapter, request())) == "Hello there."
        await adapter.close()
    assert ["stream_options" in received.body for received in server.requests] == [True, False, False]

"""An adapter (of the OpenAI wire, unless named) bound to a fake server, and what its requests bring."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from tests.fakes.openai_server import Behaviour, OpenAIServer
from tests.fakes.wire import CANARY
from workers.adapter import (
    Adapter,
    AdapterError,
    Binding,
    Event,
    Finish,
    Loaded,
    LoadRequest,
    Message,
    ProviderSpec,
    Reasoning,
    Request,
    Text,
)
from workers.adapters.openai_chat import OpenAIChat
from workers.codes import Code

__all__ = [
    "CANARY",
    "bound",
    "cancelled",
    "clean",
    "collect",
    "failure",
    "finish_of",
    "load_only",
    "loaded",
    "partly",
    "reasoning_of",
    "refusal",
    "request",
    "text_of",
]


def bound(
    base_url: str,
    quirks: Mapping[str, Any] | None = None,
    *,
    key: str | None = CANARY,
    provider_id: str = "fake",
    adapter: type[Adapter] = OpenAIChat,
    options: Mapping[str, Any] | None = None,
) -> Adapter:
    """An adapter that is not loaded yet."""
    spec = ProviderSpec(
        provider_id, "Fake", base_url=base_url, key_variables=("FAKE_API_KEY",), quirks=dict(quirks or {})
    )
    return adapter(spec, Binding(1, key=key, options=dict(options or {})))


@contextlib.asynccontextmanager
async def loaded(
    base_url: str,
    quirks: Mapping[str, Any] | None = None,
    *,
    key: str | None = CANARY,
    load: LoadRequest | None = None,
    adapter: type[Adapter] = OpenAIChat,
) -> AsyncIterator[Adapter]:
    """A loaded adapter, closed at the end."""
    made = bound(base_url, quirks, key=key, adapter=adapter)
    await load_only(made, load)
    try:
        yield made
    finally:
        await made.close()


async def load_only(adapter: Adapter, load: LoadRequest | None = None) -> Loaded:
    """Loads without looking at the progress."""
    return await adapter.load(load or LoadRequest(), lambda phase, message, fraction: None)


def request(text: str = "Hello", **fields: Any) -> Request:
    """A streamed request with one message of a user."""
    values: dict[str, Any] = {
        "id": 1,
        "messages": (Message("user", text),),
        "model": "fake-small",
        "stream": True,
        "timeout_s": 60.0,
    }
    return Request(**{**values, **fields})


async def collect(adapter: Adapter, wanted: Request) -> list[Event]:
    """All events of a request."""
    return [event async for event in adapter.generate(wanted)]


def text_of(events: list[Event]) -> str:
    """The text of a reply."""
    return "".join(event.text for event in events if isinstance(event, Text))


def reasoning_of(events: list[Event]) -> str:
    """The thinking of a reply."""
    return "".join(event.text for event in events if isinstance(event, Reasoning))


def finish_of(events: list[Event]) -> Finish:
    """The end of a reply, which must be its last event and its only end."""
    ends = [event for event in events if isinstance(event, Finish)]
    assert len(ends) == 1
    assert events[-1] is ends[0]
    return ends[0]


async def failure(server: OpenAIServer, wanted: Request | None = None, **quirks: Any) -> AdapterError:
    """The error of a request; its text and repr must not hold the key."""
    async with loaded(server.base_url, quirks) as adapter:
        with pytest.raises(AdapterError) as caught:
            await collect(adapter, wanted or request())
    clean(caught.value)
    return caught.value


def clean(error: AdapterError) -> None:
    """No part of the key is in an error, nor in what a traceback would print of it."""
    shown: BaseException | None = error
    texts = []
    while shown is not None:
        texts += [str(shown), repr(shown)]
        shown = shown.__cause__
    assert not any(part in text for text in texts for part in (CANARY, CANARY[:8], CANARY[-8:]))


def refusal(status: int, error: dict[str, Any] | str, **headers: str) -> Behaviour:
    """An answer with that status and error."""
    return Behaviour(status=status, body=json.dumps({"error": error}).encode(), headers=headers)


async def cancelled(task: asyncio.Future[Any]) -> None:
    """Cancels a task and waits for its end."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def partly(adapter: Adapter, before: list[Event], code: Code) -> AdapterError:
    """Takes the events that come before an error, and nothing after it; returns the error."""
    events = []
    iterator = adapter.generate(request())
    with pytest.raises(AdapterError) as caught:
        async for item in iterator:
            events.append(item)  # noqa: PERF401 - what came before the error is looked at
    assert (events, caught.value.code) == (before, code)
    with pytest.raises(StopAsyncIteration):
        await anext(iterator)
    return caught.value

"""The contract of an adapter: its defaults, and that its types keep secrets."""

from __future__ import annotations

from collections.abc import AsyncIterator

from workers.adapter import (
    FINISH_REASONS,
    Adapter,
    AdapterError,
    Binding,
    Event,
    Finish,
    Loaded,
    LoadRequest,
    ProviderSpec,
    Request,
)
from workers.codes import Code


class Silent(Adapter):
    async def generate(self, request: Request) -> AsyncIterator[Event]:
        yield Finish("stop")


def report(phase: str, message: str, fraction: float | None) -> None:
    raise AssertionError("the default has nothing to report")


def test_a_binding_does_not_show_its_key_or_options() -> None:
    binding = Binding(1, key="sk-canary-1", options={"secret": "sk-canary-2"})
    assert "canary" not in f"{binding!r} {binding!s}"


async def test_an_adapter_that_states_only_its_stream_has_working_defaults() -> None:
    adapter = Silent(ProviderSpec("x", "X", default_model="m"), Binding(1))
    assert await adapter.load(LoadRequest(), report) == Loaded(models=("m",))
    await adapter.close()


async def test_without_a_default_model_no_model_is_known() -> None:
    assert await Silent(ProviderSpec("x", "X"), Binding(1)).load(LoadRequest(), report) == Loaded()


def test_an_error_carries_what_a_client_may_know() -> None:
    error = AdapterError(Code.RATE_LIMITED, "Too many requests.", retry_after_ms=10, provider_status=429)
    assert (error.code, error.message, str(error)) == (
        Code.RATE_LIMITED,
        "Too many requests.",
        "Too many requests.",
    )
    assert (error.retry_after_ms, error.provider_status) == (10, 429)


def test_the_reasons_are_those_of_the_protocol() -> None:
    assert FINISH_REASONS == ("stop", "length", "tool_calls", "content_filter")

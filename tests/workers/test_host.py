"""The host in this process: one Done for each Generate, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.worker_process import request_body
from tests.workers.host_rig import BIND, Caller, Fake, body_of, running, soon
from workers import host as host_module
from workers import wire
from workers.adapter import Alive, Event, Request
from workers.codes import Code
from workers.host import EXIT_BROKEN_WIRE, EXIT_STUCK


async def test_a_reply_is_chunks_and_one_done() -> None:
    async with running() as rig:
        await rig.bind()
        rig.generate(5, "hello")
        text, done = await rig.reply(5)
        assert (text, done.code, done.message) == ("Hello", Code.SUCCESS, "")
        assert body_of(done) == {
            "finish_reason": "stop",
            "model": "m1",
            "usage": None,
            "warnings": [],
            "retries": 1,
            "retry_after_ms": None,
            "provider_status": None,
            "upstream_closed_ms": None,
        }
        await rig.nothing_more()


@pytest.mark.parametrize(
    ("scene", "code", "text"),
    [
        ("fail", Code.RATE_LIMITED, ""),
        ("bug", Code.UNEXPECTED, "Hel"),
        ("memory", Code.OUT_OF_MEMORY, ""),
        ("no_thread", Code.OUT_OF_MEMORY, ""),
        ("cut", Code.TRUNCATED, "Hel"),
        ("odd", Code.UNEXPECTED, ""),
        ("odd_finish", Code.UNEXPECTED, ""),
        ("unsendable", Code.UNEXPECTED, ""),
        ("cancel_itself", Code.UNEXPECTED, ""),
        ("no_such_scene", Code.UNEXPECTED, ""),
    ],
)
async def test_every_failure_is_one_done_with_its_code(scene: str, code: Code, text: str) -> None:
    async with running() as rig:
        await rig.bind(key="sk-canary-key")
        rig.generate(5, scene)
        said, done = await rig.reply(5)
        assert (said, done.code) == (text, code)
        assert done.message
        assert "canary" not in done.message
        assert body_of(done)["finish_reason"] == "error"
        await rig.nothing_more()


async def test_what_the_adapter_knows_of_a_failure_is_passed_on() -> None:
    async with running() as rig:
        await rig.bind()
        rig.generate(5, "fail")
        _, done = await rig.reply(5)
        body = body_of(done)
        assert (done.message, body["retry_after_ms"], body["provider_status"]) == ("Too many.", 7, 429)


async def test_cancel_before_the_first_event_closes_the_upstream() -> None:
    async with running() as rig:
        await rig.bind()
        rig.generate(5, "hang")
        await soon(Fake.made[0].started.wait())
        rig.send(wire.Cancel(5))
        text, done = await rig.reply(5)
        assert (text, done.code) == ("", Code.INTERRUPT)
        assert body_of(done)["upstream_closed_ms"] >= 0
        assert body_of(done)["finish_reason"] == "interrupt"
        assert Fake.made[0].upstream_closed.is_set()


async def test_cancel_in_the_same_read_as_its_generate_ends_it_before_it_begins() -> None:
    async with running() as rig:
        await rig.bind()
        body = wire.pack_body(request_body("hello"))
        rig.send(*wire.parts(5, 1, body), wire.Cancel(5))
        text, done = await rig.reply(5)
        assert (text, done.code) == ("", Code.INTERRUPT)
        assert not Fake.made[0].started.is_set()
        await rig.nothing_more()


async def test_cancel_in_the_middle_twice_is_one_done() -> None:
    async with running() as rig:
        await rig.bind()
        rig.generate(5, "hang_later")
        await rig.until(wire.Chunk)
        rig.send(wire.Cancel(5), wire.Cancel(5))
        assert (await rig.reply(5))[1].code == Code.INTERRUPT
        rig.send(wire.Cancel(5))
        await rig.nothing_more()


async def test_cancel_reaches_an_adapter_that_never_suspends() -> None:
    async with running() as rig:
        await rig.bind()
        rig.generate(5, "never_suspend")
        await rig.until(wire.Alive)
        rig.send(wire.Cancel(5))
        assert (await rig.reply(5))[1].code == Code.INTERRUPT


async def test_an_adapter_that_swallows_a_cancel_says_nothing_more() -> None:
    async with running() as rig:
        await rig.bind()
        rig.generate(5, "stubborn")
        await soon(Fake.made[0].started.wait())
        rig.send(wire.Cancel(5))
        text, done = await rig.reply(5)
        assert (text, done.code) == ("", Code.INTERRUPT)
        assert Fake.made[0].upstream_closed.is_set()


async def test_a_cancel_ends_one_request_and_no_other() -> None:
    async with running() as rig:
        await rig.bind()
        rig.generate(5, "hang_later")
        await rig.until(wire.Chunk)
        rig.generate(6, "hang")
        rig.send(wire.Cancel(6))
        assert (await rig.reply(6))[1].code == Code.INTERRUPT
        Fake.made[0].go_on.set()
        assert (await rig.reply(5))[0] == "lo"


async def test_a_long_prompt_arrives_in_parts() -> None:
    async with running() as rig:
        await rig.bind()
        messages = [
            {"role": "system", "content": "x" * (3 * wire.PART_BYTES), "name": None},
            {"role": "user", "content": "hello", "name": None},
        ]
        for frame in wire.parts(5, 1, wire.pack_body(request_body(messages=messages))):
            rig.send(frame)
            await rig.nothing_more() if isinstance(frame, wire.Generate) else None
        assert (await rig.reply(5))[0] == "Hello"


async def test_a_body_that_is_too_long_is_refused_before_it_arrives() -> None:
    async with running() as rig:
        await rig.bind()
        rig.send(wire.Generate(5, 1, wire.BODY_MAX_BYTES + 1, b"{"), wire.Part(5, b"..."))
        assert (await rig.reply(5))[1].code == Code.INVALID_REQUEST
        await rig.nothing_more()


async def test_parts_that_are_too_long_together_fail_the_request() -> None:
    async with running() as rig:
        await rig.bind()
        rig.send(wire.Generate(5, 1, 3, b"{"), wire.Part(5, b"..."), wire.Part(5, b"..."))
        assert (await rig.reply(5))[1].code == Code.UNEXPECTED
        await rig.nothing_more()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"messages": 1}'])
async def test_a_body_that_is_none_fails_the_request(body: bytes) -> None:
    async with running() as rig:
        await rig.bind()
        rig.send(wire.Generate(5, 1, len(body), body))
        assert (await rig.reply(5))[1].code == Code.UNEXPECTED


async def test_a_request_is_cancelled_while_its_body_arrives() -> None:
    async with running() as rig:
        await rig.bind()
        rig.send(wire.Generate(5, 1, 100, b"{"), wire.Cancel(5), wire.Part(5, b"..."))
        assert (await rig.reply(5))[1].code == Code.INTERRUPT
        await rig.nothing_more()


async def test_a_duplicate_id_leaves_the_open_request_alone() -> None:
    async with running() as rig:
        await rig.bind()
        rig.generate(5, "hang_later")
        await rig.until(wire.Chunk)
        rig.generate(5, "hello")
        await rig.nothing_more()
        Fake.made[0].go_on.set()
        assert (await rig.reply(5))[0] == "lo"
        rig.generate(5, "hello")
        assert (await rig.reply(5))[0] == "Hello"


async def test_a_request_for_an_unknown_binding_is_told_so() -> None:
    async with running() as rig:
        rig.generate(5, "hello", binding=9)
        assert (await rig.reply(5))[1].code == Code.NOT_LOADED


async def test_more_open_requests_than_allowed_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "OPEN_MAX", 1)
    async with running() as rig:
        await rig.bind()
        rig.generate(5, "hang")
        rig.generate(6, "hello")
        assert (await rig.reply(6))[1].code == Code.BUSY


async def test_ping_is_answered_by_the_thread_and_by_the_loop() -> None:
    async with running() as rig:
        await rig.nothing_more()


async def test_the_end_of_the_wire_ends_the_process() -> None:
    async with running() as rig:
        rig.close_down()
        await soon(rig.gone.wait())
        assert rig.left == [0]


async def test_a_loop_that_does_not_turn_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "READ_AHEAD", 1)
    monkeypatch.setattr(host_module, "READ_AHEAD_WAIT_S", 0.01)
    async with running() as rig:
        rig.host._read_ahead.acquire()  # as if a read were waiting to be handled
        rig.send(wire.Ping(1))
        await soon(rig.gone.wait())
        assert rig.left == [EXIT_STUCK]


async def test_a_cancel_that_comes_when_the_reply_is_complete_changes_nothing() -> None:
    async with running() as rig:
        await rig.bind()
        rig.generate(5, "cancel_late")
        Fake.made[0].late = lambda: rig.host._cancel(5)
        assert (await rig.reply(5))[1].code == Code.SUCCESS
        await rig.nothing_more()


async def test_noise_on_the_wire_ends_the_process_with_its_own_status() -> None:
    async with running() as rig:
        rig.send_bytes(b"\xff" * 10)
        await soon(rig.gone.wait())
        assert rig.left == [EXIT_BROKEN_WIRE]


async def test_a_second_init_changes_nothing() -> None:
    async with running() as rig:
        rig.send(wire.Init(1, "x", b"{}"))
        await rig.nothing_more()


async def test_shutdown_ends_requests_and_loads_and_closes_adapters() -> None:
    async with running() as rig:
        await rig.bind()
        rig.generate(5, "hang")
        rig.send(wire.Bind(2, wire.pack_body({**BIND, "options": {"load": "hang"}})))
        await rig.until(wire.Progress)
        rig.send(wire.Shutdown())
        assert (await rig.reply(5))[1].code == Code.INTERRUPT
        assert (await rig.until(wire.Bound)).code == Code.INTERRUPT
        for adapter in Fake.made:
            await soon(adapter.closed.wait())


async def test_what_comes_with_shutdown_is_refused() -> None:
    async with running() as rig:
        await rig.bind()
        body = wire.pack_body(request_body("hello"))
        rig.send(wire.Shutdown(), *wire.parts(5, 1, body), wire.Bind(2, wire.pack_body(BIND)))
        assert (await rig.reply(5))[1].code == Code.SHUTTING_DOWN
        assert (await rig.until(wire.Bound)).code == Code.SHUTTING_DOWN


async def test_shutdown_does_not_wait_for_an_adapter_that_does_not_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_module, "CANCEL_MAX_S", 0.01)
    release = asyncio.Event()

    class Clinging(Fake):
        async def generate(self, request: Request) -> AsyncIterator[Event]:
            self.started.set()
            try:
                await asyncio.Event().wait()
            finally:
                await release.wait()
            yield Alive()

    async with running() as rig:
        rig.host._bindings._adapter = Clinging
        await rig.bind()
        rig.generate(5, "-")
        await soon(Fake.made[0].started.wait())
        rig.send(wire.Shutdown())
        assert (await rig.reply(5))[1].code == Code.INTERRUPT
        release.set()


TOOLS: dict[str, Any] = {"tools": [{"type": "function", "function": {"name": "look"}}], "tool_choice": "auto"}
ANSWER = {"role": "tool", "content": "tell_tools", "tool_call_id": "a"}


async def test_an_adapter_without_tools_is_given_none_and_the_client_is_told() -> None:
    async with running() as rig:
        await rig.bind()
        rig.generate(5, "tell_tools", **TOOLS)
        text, done = await rig.reply(5)
        assert text == "0 None"
        assert [name for name, _ in body_of(done)["warnings"]] == ["PARAMETER_LEFT_OUT"] * 2
        rig.generate(6, "", messages=[ANSWER])
        text, done = await rig.reply(6)
        assert (text, done.code) == ("", Code.UNSUPPORTED)


async def test_an_adapter_with_tools_is_given_them_and_their_messages() -> None:
    async with running(Caller) as rig:
        await rig.bind()
        rig.generate(5, "", **TOOLS, messages=[ANSWER])
        text, done = await rig.reply(5)
        assert (text, body_of(done)["warnings"]) == ("1 auto", [])

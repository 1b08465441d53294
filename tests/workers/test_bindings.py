"""Bindings: one Bound for each Bind, and every adapter closed once."""

from __future__ import annotations

import asyncio

import pytest

from tests.workers.host_rig import BIND, SPEC, Fake, body_of, running, soon
from workers import wire
from workers.adapter import AdapterError, Loaded, LoadRequest, ReportProgress
from workers.bindings import Bindings
from workers.codes import Code


async def test_bound_says_what_was_learned_in_whole_characters() -> None:
    async with running() as rig:
        bound = await rig.bind()
        assert (bound.binding, bound.code) == (1, Code.SUCCESS)
        assert body_of(bound)["models"] == ["m1", "half ?"]


@pytest.mark.parametrize(
    ("load", "code"),
    [("refuse", Code.AUTHORIZATION), ("break", Code.UNEXPECTED), ("unsendable", Code.UNEXPECTED)],
)
async def test_a_load_that_fails_says_so(load: str, code: Code) -> None:
    async with running() as rig:
        bound = await rig.bind(key="sk-canary-key", options={"load": load})
        assert (bound.code, "canary" in bound.message) == (code, False)
        await rig.nothing_more()


async def test_what_a_failed_load_had_opened_is_closed() -> None:
    async with running() as rig:
        await rig.bind(options={"load": "refuse"})
        await soon(Fake.made[0].closed.wait())


async def test_a_failed_load_leaves_the_older_adapter_in_place() -> None:
    async with running() as rig:
        await rig.bind()
        await rig.bind(options={"load": "refuse"})
        rig.generate(5, "hello")
        assert (await rig.reply(5))[0] == "Hello"
        assert not Fake.made[0].closed.is_set()


async def test_a_new_bind_replaces_the_adapter_when_its_requests_have_ended() -> None:
    async with running() as rig:
        await rig.bind()
        rig.generate(5, "hang_later")
        await rig.until(wire.Chunk)
        await rig.bind()
        old, new = Fake.made
        assert not old.closed.is_set()
        rig.generate(6, "hello")
        await rig.reply(6)
        assert new.started.is_set()
        old.go_on.set()
        assert (await rig.reply(5))[0] == "lo"
        await soon(old.closed.wait())


async def test_two_binds_of_one_binding_take_effect_in_order() -> None:
    async with running() as rig:
        bind = wire.pack_body({**BIND, "options": {"load": "hang"}})
        rig.send(wire.Bind(1, bind), wire.Bind(1, wire.pack_body(BIND)))
        assert (await rig.until(wire.Progress)).message == "waiting"
        Fake.made[0].go_on.set()
        await rig.until(wire.Bound)
        await rig.until(wire.Bound)
        await soon(Fake.made[0].closed.wait())
        assert len(Fake.made) == 2
        assert not Fake.made[1].closed.is_set()


async def test_unbind_ends_requests_and_closes_the_adapter() -> None:
    async with running() as rig:
        await rig.bind(1)
        await rig.bind(2)
        rig.generate(5, "hang")
        await soon(Fake.made[0].started.wait())
        rig.send(wire.Unbind(1), wire.Unbind(77))
        assert (await rig.reply(5))[1].code == Code.INTERRUPT
        await soon(Fake.made[0].closed.wait())
        rig.generate(6, "hello", binding=1)
        assert (await rig.reply(6))[1].code == Code.NOT_LOADED
        rig.generate(7, "hello", binding=2)
        assert (await rig.reply(7))[0] == "Hello"


async def test_unbind_ends_a_load() -> None:
    async with running() as rig:
        rig.send(wire.Bind(1, wire.pack_body({**BIND, "options": {"load": "hang"}})))
        await rig.until(wire.Progress)
        rig.send(wire.Unbind(1))
        assert (await rig.until(wire.Bound)).code == Code.INTERRUPT
        await soon(Fake.made[0].closed.wait())


async def test_unbind_in_the_same_read_as_its_bind_leaves_nothing_loaded() -> None:
    async with running() as rig:
        rig.send(wire.Bind(1, wire.pack_body(BIND)), wire.Unbind(1))
        assert (await rig.until(wire.Bound)).code == Code.INTERRUPT
        rig.generate(5, "hello")
        assert (await rig.reply(5))[1].code == Code.NOT_LOADED


async def test_progress_may_come_from_a_thread_and_comes_at_a_bounded_rate() -> None:
    async with running() as rig:
        rig.send(wire.Bind(1, wire.pack_body({**BIND, "options": {"load": "progress"}})))
        assert await rig.receive() == wire.Progress(1, "model", "reading", 0.5)
        assert isinstance(await rig.receive(), wire.Bound)


async def test_progress_after_the_load_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.bindings.PROGRESS_EVERY_S", 0.0)
    async with running() as rig:
        await rig.bind(options={"load": "progress"})
        Fake.made[0].report("model", "too late", 1.0)
        await rig.nothing_more()


async def test_a_load_that_is_ready_in_the_moment_of_its_unbind_is_closed() -> None:
    sent: asyncio.Queue[bytes] = asyncio.Queue()

    class Ready(Fake):
        async def load(self, load: LoadRequest, report: ReportProgress) -> Loaded:
            # Runs between the end of this task and the callback that would install the adapter.
            asyncio.get_running_loop().call_soon(bindings.unbind, 1)
            return Loaded()

    bindings = Bindings(Ready, SPEC, sent.put_nowait)
    bindings.bind(wire.Bind(1, wire.pack_body(BIND)))
    (bound,) = wire.Decoder(wire.UP).feed(await soon(sent.get()))
    assert bound.code == Code.INTERRUPT
    await soon(Fake.made[-1].closed.wait())
    assert bindings.lease(1) is None


@pytest.mark.parametrize("error", [AdapterError(Code.UPSTREAM_ERROR, "No."), OSError("no"), None])
async def test_an_adapter_that_does_not_close_is_left_behind(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("workers.bindings.CLOSE_MAX_S", 0.01)

    class Clinging(Fake):
        async def close(self) -> None:
            if error is not None:
                raise error
            await asyncio.Event().wait()

    sent: asyncio.Queue[bytes] = asyncio.Queue()
    bindings = Bindings(Clinging, SPEC, sent.put_nowait)
    bindings.bind(wire.Bind(1, wire.pack_body(BIND)))
    await soon(sent.get())
    await soon(bindings.close())
    assert "close" in caplog.text

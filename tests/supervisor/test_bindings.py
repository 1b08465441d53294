"""The credentials that one worker holds: given, taken back, and never shown."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from supervisor.bindings import Binding, Bindings, BoundResult
from supervisor.errors import Failure, ProviderError, WorkerError
from tests.supervisor.fakes import ignore_progress, soon
from workers import wire
from workers.codes import Code

KEY = "sk-canary-0123456789"


class Desk:
    """Bindings, and what was written to the worker."""

    def __init__(self, timeout_s: float = 60.0) -> None:
        self.written: list[wire.Down] = []
        self.bindings = Bindings("Demo", timeout_s, self.written.extend)
        self.progress: list[tuple[str, str, float | None]] = []

    async def binding(self, number: int = 1, **fields: Any) -> asyncio.Task[BoundResult]:
        """A bind whose frame is written and whose answer is awaited."""
        count = len(self.written)
        task = asyncio.create_task(
            self.bindings.bind(
                Binding(number, **fields),
                verify=True,
                preload_model="m1",
                on_progress=lambda *news: self.progress.append(news),
            )
        )
        while len(self.written) == count:  # noqa: ASYNC110  # it is written in the task's first step
            await asyncio.sleep(0)
        return task

    def answer(self, number: int = 1, code: int = 0, message: str = "", **body: Any) -> None:
        """The worker's answer."""
        self.bindings.answer(wire.Bound(number, code, message, wire.pack_body(body)))


async def test_a_bind_carries_everything_and_returns_what_was_learned() -> None:
    desk = Desk()
    task = await desk.binding(3, key=KEY, base_url="http://127.0.0.1:1/v1", options={"region": "eu"})
    (frame,) = desk.written
    assert isinstance(frame, wire.Bind)
    assert wire.unpack_body(frame.body) == {
        "key": KEY,
        "base_url": "http://127.0.0.1:1/v1",
        "options": {"region": "eu"},
        "verify": True,
        "preload_model": "m1",
    }
    desk.answer(3, models=["m1"], warnings=[["SLOW", "It took long."]], connect_ms=4, model_ms=None)
    result = await soon(task)
    assert (result.models, result.connect_ms, result.model_ms) == (("m1",), 4, None)
    assert [(note.name, note.message) for note in result.warnings] == [("SLOW", "It took long.")]
    assert desk.bindings.bound == {3}


async def test_no_key_is_in_a_repr() -> None:
    assert KEY not in repr(Binding(1, KEY))
    assert KEY not in repr(wire.Bind(1, KEY.encode()))


async def test_a_refusal_is_the_providers_error_and_the_binding_is_taken_back() -> None:
    desk = Desk()
    task = await desk.binding()
    desk.answer(code=int(Code.AUTHORIZATION), message="No.", provider_status=401, retry_after_ms=9)
    with pytest.raises(ProviderError) as caught:
        await soon(task)
    assert caught.value.failure == Failure(Code.AUTHORIZATION, "No.", 9, 401)
    assert desk.written[1:] == [wire.Unbind(1)]
    assert desk.bindings.bound == set()


async def test_a_refused_second_bind_leaves_what_the_worker_had() -> None:
    desk = Desk()
    task = await desk.binding()
    desk.answer()
    await soon(task)
    again = await desk.binding()
    desk.answer(code=int(Code.UNREACHABLE), message="No way.")
    with pytest.raises(ProviderError):
        await soon(again)
    assert desk.bindings.bound == {1}
    assert not any(isinstance(frame, wire.Unbind) for frame in desk.written)


async def test_a_cancelled_bind_is_taken_back_and_its_late_answer_is_dropped() -> None:
    desk = Desk()
    task = await desk.binding()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    assert desk.written[1:] == [wire.Unbind(1)]
    desk.answer()
    assert desk.bindings.bound == set()


async def test_a_bind_that_takes_too_long_is_a_timeout() -> None:
    desk = Desk(timeout_s=0.05)
    task = await desk.binding()
    with pytest.raises(WorkerError, match=r"Demo did not load within 0\.05 s\.") as caught:
        await soon(task)
    assert caught.value.code is Code.TIMEOUT
    assert desk.written[1:] == [wire.Unbind(1)]


async def test_progress_is_handed_on_and_a_negative_fraction_is_unknown() -> None:
    desk = Desk()
    task = await desk.binding()
    desk.bindings.progress(wire.Progress(1, "model", "Reading.", 0.5))
    desk.bindings.progress(wire.Progress(1, "connect", "Connecting.", -1.0))
    desk.bindings.progress(wire.Progress(2, "model", "Of nobody.", 0.5))
    desk.answer()
    await soon(task)
    assert desk.progress == [("model", "Reading.", 0.5), ("connect", "Connecting.", None)]


async def test_progress_renews_the_time_that_a_bind_has(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    waits: list[float | None] = []
    real_wait = asyncio.wait

    async def wait(*args: Any, **kwargs: Any) -> Any:
        waits.append(kwargs["timeout"])
        return await real_wait(*args, **kwargs)

    monkeypatch.setattr(asyncio, "wait", wait)
    task = await desk.binding()
    for count in (1, 2, 3):
        while len(waits) < count:  # noqa: ASYNC110  # until it waits again
            await asyncio.sleep(0)
        desk.bindings.progress(wire.Progress(1, "model", "Reading.", count / 4))
    while len(waits) < 4:  # noqa: ASYNC110
        await asyncio.sleep(0)
    desk.answer()
    await soon(task)
    assert waits == [60.0] * 4


async def test_a_death_fails_every_bind_and_forgets_every_binding() -> None:
    desk = Desk()
    done = await desk.binding(1)
    desk.answer(1)
    await soon(done)
    tasks = [await desk.binding(number) for number in (2, 3)]
    desk.bindings.end_all(WorkerError("The worker of Demo died."))
    for task in tasks:
        with pytest.raises(WorkerError, match="died"):
            await soon(task)
    assert desk.bindings.bound == set()


async def test_an_answer_that_nobody_awaits_is_dropped_whatever_its_body() -> None:
    desk = Desk()
    desk.bindings.answer(wire.Bound(8, 999, "", b"nonsense"))
    assert desk.bindings.bound == set()


SHAPES = {"not JSON": b"{", "a list": b"[]", "models of numbers": b'{"models": [1]}'}


@pytest.mark.parametrize("body", SHAPES.values(), ids=SHAPES.keys())
async def test_an_answer_of_another_shape_is_not_our_wire(body: bytes) -> None:
    desk = Desk()
    task = await desk.binding()
    with pytest.raises(wire.WireError, match="another shape"):
        desk.bindings.answer(wire.Bound(1, 0, "", body))
    desk.bindings.end_all(WorkerError("killed for it"))
    with pytest.raises(WorkerError, match="killed for it"):
        await soon(task)


async def test_an_answer_with_a_code_that_there_is_not_is_not_our_wire() -> None:
    desk = Desk()
    task = await desk.binding()
    with pytest.raises(wire.WireError, match="no code 999"):
        desk.answer(code=999)
    desk.answer()
    assert (await soon(task)).models == ()


async def test_a_bind_that_comes_after_the_death_fails_with_it_at_once() -> None:
    desk = Desk()
    desk.bindings.end_all(WorkerError("The worker of Demo died."))
    bind = desk.bindings.bind(Binding(1), verify=True, preload_model=None, on_progress=ignore_progress)
    with pytest.raises(WorkerError, match="died"):
        await soon(bind)
    assert desk.written == []

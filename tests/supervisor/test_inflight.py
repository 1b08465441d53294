"""The open requests of one worker: their deadlines, their one end, and what comes too late.

The loop's clock is set by hand, so a minute passes at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from supervisor.errors import Failure
from supervisor.inflight import LET_GO_S, Requests, code_of, notes_of
from tests.supervisor.fakes import FakeSink, make_job
from workers import wire
from workers.codes import Code

INTERRUPT = Failure(Code.INTERRUPT, "The request was interrupted.")


class Clock:
    """Stands for the loop where Requests asks for the time and for timers."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self._timers: list[tuple[float, int, _Timer]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, then: Callable[..., None], *args: Any) -> _Timer:
        timer = _Timer(lambda: then(*args))
        self._timers.append((when, len(self._timers), timer))
        return timer

    def pass_s(self, seconds: float) -> None:
        """Lets time pass; what is due happens at its time."""
        until = self.now + seconds
        while due := [entry for entry in self._timers if entry[0] <= until and not entry[2].over]:
            when, _, timer = min(due, key=lambda entry: entry[:2])
            self.now = max(self.now, when)
            timer.over = True
            timer.then()
        self.now = until

    @property
    def pending(self) -> int:
        """Timers that are still armed."""
        return sum(not timer.over for _, _, timer in self._timers)


class _Timer:
    def __init__(self, then: Callable[[], None]) -> None:
        self.then = then
        self.over = False

    def cancel(self) -> None:
        self.over = True


class Desk:
    """Requests, with everything around it at hand."""

    def __init__(self, requests: Requests, clock: Clock, written: list[wire.Down]) -> None:
        self.requests = requests
        self.clock = clock
        self.written = written
        self.sink = FakeSink()

    def start(self, number: int = 1, *, accepted_ago_s: float = 0.0, **job: Any) -> None:
        """Starts a generation that was asked for that long ago."""
        accepted = self.clock.now - accepted_ago_s
        self.requests.start(number, 7, make_job(**job), self.sink, accepted=accepted)

    def chunk(self, text: str = "x", number: int = 1) -> None:
        """The worker sends a piece."""
        self.requests.chunk(wire.Chunk(number, text))

    def done(self, number: int = 1, code: int = 0, message: str = "", **body: Any) -> None:
        """The worker says that it is over."""
        self.requests.done(wire.Done(number, code, message, wire.pack_body(body)))

    @property
    def cancels(self) -> list[int]:
        """Requests that the worker was told to cancel."""
        return [frame.request for frame in self.written if isinstance(frame, wire.Cancel)]

    def code(self, number: int = 1) -> Code | None:
        """The code of the one end; None for a success."""
        (outcome,) = self.sink.ends[number]
        return None if outcome.failure is None else outcome.failure.code


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    clock = Clock()
    written: list[wire.Down] = []

    def write(frames: Iterable[wire.Down]) -> None:
        written.extend(frames)

    monkeypatch.setattr(asyncio, "get_running_loop", lambda: clock)
    requests = Requests("Demo", write)
    monkeypatch.undo()
    return Desk(requests, clock, written)


# ---- the usual way


async def test_a_request_is_written_and_its_chunks_and_end_arrive(desk: Desk) -> None:
    desk.start(5, accepted_ago_s=0.25)
    (frame,) = desk.written
    assert isinstance(frame, wire.Generate)
    assert (frame.request, frame.binding) == (5, 7)
    desk.clock.pass_s(0.5)
    desk.chunk("Hel", 5)
    desk.chunk("lo", 5)
    desk.clock.pass_s(1)
    desk.done(
        5,
        finish_reason="length",
        model="m",
        usage={"input_tokens": 3, "output_tokens": None},
        warnings=[["EMPTY_REPLY", "Nothing."]],
        retries=1,
    )
    (outcome,) = desk.sink.ends[5]
    assert desk.sink.text(5) == "Hello"
    assert (outcome.failure, outcome.finish_reason, outcome.model) == (None, "length", "m")
    assert (outcome.usage, outcome.retries) == ({"input_tokens": 3}, 1)
    assert outcome.warnings == notes_of([("EMPTY_REPLY", "Nothing.")])
    assert outcome.timings_ms == {"queued": 250, "first_token": 750, "total": 1750}
    assert (len(desk.requests), desk.requests.finished, desk.clock.pending) == (0, 1, 0)


async def test_a_failure_carries_what_the_worker_knows_of_it(desk: Desk) -> None:
    desk.start()
    desk.done(code=int(Code.RATE_LIMITED), message="Too many.", retry_after_ms=500, provider_status=429)
    assert desk.sink.ends[1][0].failure == Failure(Code.RATE_LIMITED, "Too many.", 500, 429)


async def test_a_long_prompt_is_written_in_parts(desk: Desk) -> None:
    desk.start(text="x" * (wire.PART_BYTES * 2))
    assert [type(frame) for frame in desk.written] == [wire.Generate, wire.Part, wire.Part]


async def test_pieces_of_a_call_arrive_and_are_life_and_the_first_of_a_reply(desk: Desk) -> None:
    desk.start(timeout_s=10, first_token_timeout_s=10)
    for arguments in ("", "{", "}"):
        desk.clock.pass_s(9)
        desk.requests.call_part(wire.CallPart(1, 0, "a1", "look", arguments))
    desk.done(finish_reason="tool_calls")
    assert [part.arguments for part in desk.sink.call_parts[1]] == ["", "{", "}"]
    (outcome,) = desk.sink.ends[1]
    assert (outcome.finish_reason, outcome.timings_ms["first_token"]) == ("tool_calls", 9000)


async def test_no_piece_of_a_call_arrives_once_its_request_is_to_end(desk: Desk) -> None:
    desk.start()
    desk.requests.end(1, Failure(Code.INTERRUPT, "x"))
    desk.requests.call_part(wire.CallPart(1, 0, "a1", "look", "{"))
    desk.requests.call_part(wire.CallPart(77, 0, "a1", "look", "{"))
    assert desk.sink.call_parts == {}


# ---- deadlines


async def test_a_streamed_request_lives_as_long_as_pieces_come(desk: Desk) -> None:
    desk.start(timeout_s=10)
    for _ in range(20):
        desk.clock.pass_s(9)
        desk.chunk()
    assert desk.cancels == []
    desk.clock.pass_s(10)
    assert desk.cancels == [1]
    desk.done(code=int(Code.INTERRUPT), upstream_closed_ms=3)
    assert desk.code() is Code.TIMEOUT
    (outcome,) = desk.sink.ends[1]
    assert outcome.failure is not None
    assert outcome.failure.message == "Nothing arrived from Demo for 10.0 s."
    assert outcome.upstream_closed_ms == 3


async def test_a_sign_of_life_that_nobody_sees_counts_as_a_piece(desk: Desk) -> None:
    desk.start(timeout_s=10)
    for _ in range(5):
        desk.clock.pass_s(9)
        desk.requests.alive(wire.Alive(1))
    assert desk.cancels == []
    desk.clock.pass_s(10)
    assert desk.cancels == [1]


async def test_an_unstreamed_request_has_its_timeout_for_the_whole(desk: Desk) -> None:
    desk.start(stream=False, timeout_s=10)
    for _ in range(3):
        desk.clock.pass_s(3)
        desk.chunk()
        desk.requests.alive(wire.Alive(1))
    assert desk.cancels == []
    desk.clock.pass_s(1)
    assert desk.cancels == [1]
    desk.clock.pass_s(LET_GO_S)
    failure = desk.sink.ends[1][0].failure
    assert failure == Failure(Code.TIMEOUT, "Demo did not finish within 10.0 s.")


async def test_the_timeout_counts_from_when_the_client_asked(desk: Desk) -> None:
    desk.start(timeout_s=10, accepted_ago_s=8)
    desk.clock.pass_s(2)
    assert desk.cancels == [1]


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "not streamed"])
async def test_the_first_token_has_a_clock_of_its_own_where_that_was_asked_for(
    desk: Desk, stream: bool
) -> None:
    desk.start(1, stream=stream, timeout_s=60, first_token_timeout_s=2)
    desk.start(2, stream=stream, timeout_s=60, first_token_timeout_s=2)
    desk.clock.pass_s(1.9)
    desk.chunk(number=2)
    desk.requests.alive(wire.Alive(1))  # thinking is not the first token
    desk.clock.pass_s(0.2)
    assert desk.cancels == [1]
    desk.clock.pass_s(40)
    assert desk.cancels == [1]
    assert desk.code(1) is Code.TIMEOUT


async def test_a_client_that_owes_credit_does_not_make_its_provider_late(desk: Desk) -> None:
    desk.start(timeout_s=10)
    for _ in range(4):
        desk.chunk("x" * (wire.CREDIT_CHARS // 4))
    desk.clock.pass_s(3_600)
    assert desk.cancels == []
    desk.requests.credit(1, wire.CREDIT_CHARS)
    assert desk.written[-1] == wire.Credit(1, wire.CREDIT_CHARS)
    desk.clock.pass_s(20)
    assert desk.cancels == [1]


async def test_a_client_that_owes_less_than_its_credit_is_no_excuse(desk: Desk) -> None:
    desk.start(timeout_s=10)
    desk.chunk("x" * (wire.CREDIT_CHARS - 1))
    desk.clock.pass_s(10)
    assert desk.cancels == [1]


# ---- ending


async def test_after_an_interrupt_the_end_waits_for_the_worker_to_let_go(desk: Desk) -> None:
    desk.start()
    desk.requests.end(1, INTERRUPT)
    assert desk.cancels == [1]
    assert desk.sink.ends == {}
    desk.done(code=int(Code.INTERRUPT), message="The worker's words.", upstream_closed_ms=12)
    (outcome,) = desk.sink.ends[1]
    assert (outcome.failure, outcome.upstream_closed_ms) == (INTERRUPT, 12)


async def test_a_worker_that_does_not_let_go_is_not_waited_for(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.start()
    desk.requests.end(1, INTERRUPT)
    desk.clock.pass_s(LET_GO_S - 0.001)
    assert desk.sink.ends == {}
    desk.clock.pass_s(0.001)
    assert desk.code() is Code.INTERRUPT
    assert "does not let go" in caplog.text


async def test_the_first_reason_to_end_is_the_one_that_is_told(desk: Desk) -> None:
    desk.start()
    desk.requests.end(1, INTERRUPT)
    desk.requests.end(1, Failure(Code.TIMEOUT, "Later."))
    desk.clock.pass_s(LET_GO_S)
    assert desk.cancels == [1]
    assert desk.code() is Code.INTERRUPT


async def test_an_end_that_was_already_on_its_way_is_still_the_interrupt(desk: Desk) -> None:
    desk.start()
    desk.requests.end(1, INTERRUPT)
    desk.done(code=0)
    assert desk.code() is Code.INTERRUPT


async def test_after_an_interrupt_no_chunk_comes_through(desk: Desk) -> None:
    desk.start()
    desk.chunk("before")
    desk.requests.end(1, INTERRUPT)
    desk.chunk("after")
    desk.clock.pass_s(LET_GO_S)
    assert desk.sink.text(1) == "before"


async def test_what_comes_after_the_end_is_dropped(desk: Desk) -> None:
    desk.start()
    desk.done()
    desk.chunk()
    desk.requests.alive(wire.Alive(1))
    desk.done()
    desk.requests.done(wire.Done(1, 999, "", b"not even JSON"))
    desk.requests.end(1, INTERRUPT)
    desk.requests.credit(1, 5)
    desk.clock.pass_s(3_600)
    assert len(desk.sink.ends[1]) == 1
    assert (desk.cancels, desk.requests.finished) == ([], 1)


async def test_what_was_never_started_is_dropped(desk: Desk) -> None:
    desk.chunk(number=99)
    desk.requests.alive(wire.Alive(99))
    desk.done(99)
    desk.requests.end(99, INTERRUPT)
    assert (desk.written, desk.sink.ends) == ([], {})


async def test_a_death_ends_all_once_and_keeps_the_reason_of_those_that_were_ending(desk: Desk) -> None:
    for number in (1, 2, 3):
        desk.start(number)
    desk.requests.end(2, INTERRUPT)
    desk.requests.end_all(Failure(Code.WORKER_CRASHED, "signal 9"))
    desk.requests.end_all(Failure(Code.WORKER_CRASHED, "again"))
    desk.clock.pass_s(3_600)
    assert [desk.code(number) for number in (1, 2, 3)] == [
        Code.WORKER_CRASHED,
        Code.INTERRUPT,
        Code.WORKER_CRASHED,
    ]
    assert (len(desk.requests), desk.requests.finished, desk.clock.pending) == (0, 3, 0)


async def test_a_sink_may_start_the_next_request_when_it_hears_of_the_end(desk: Desk) -> None:
    class Eager(FakeSink):
        def ended(self, number: int, outcome: Any) -> None:
            super().ended(number, outcome)
            if number == 1:
                desk.start(2)

    desk.sink = Eager()
    desk.start(1)
    desk.done(1)
    assert len(desk.requests) == 1
    desk.done(2)
    assert desk.code(2) is None


# ---- what is not our wire

SHAPES = {
    "not JSON": b"{",
    "a list": b"[]",
    "usage of text": b'{"usage": {"input_tokens": "many"}}',
    "warnings that are no pairs": b'{"warnings": ["EMPTY_REPLY"]}',
    "retries of null": b'{"retries": null}',
}


@pytest.mark.parametrize("body", SHAPES.values(), ids=SHAPES.keys())
async def test_a_body_of_another_shape_is_not_our_wire(desk: Desk, body: bytes) -> None:
    desk.start()
    with pytest.raises(wire.WireError, match="another shape"):
        desk.requests.done(wire.Done(1, 0, "", body))
    assert len(desk.requests) == 1


async def test_a_code_that_there_is_not_is_not_our_wire(desk: Desk) -> None:
    desk.start()
    with pytest.raises(wire.WireError, match="there is no code 999"):
        desk.done(code=999)
    assert code_of(0) is Code.SUCCESS


async def test_a_request_that_comes_after_the_death_ends_with_it_at_once(desk: Desk) -> None:
    desk.requests.end_all(Failure(Code.WORKER_CRASHED, "signal 9"))
    desk.start()
    assert [outcome.failure for outcome in desk.sink.ends[1]] == [Failure(Code.WORKER_CRASHED, "signal 9")]
    assert (desk.written, len(desk.requests), desk.clock.pending) == ([], 0, 0)

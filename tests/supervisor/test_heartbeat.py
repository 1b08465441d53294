"""What answers to pings say, as tables: time is a number here."""

from __future__ import annotations

import pytest

from supervisor.heartbeat import Condition, HeartbeatLimits, Pulse, Verdict

LIMITS = HeartbeatLimits(report_s=10, hung_s=30, busy_hung_s=300, load_s=60)
BEAT_S = 5.0


class Patient:
    """A worker that answers as told, and the clock on the wall."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pulse = Pulse(LIMITS, BEAT_S, self.now)
        self.pings: list[int] = []

    def beat(
        self, *, cpu_percent: float | None = 0.0, answers: tuple[str, ...] = (), loading: bool = False
    ) -> Verdict:
        """Five seconds later: judged, pinged, and answered a millisecond after that."""
        self.now += BEAT_S
        verdict = self.pulse.judge(self.now, cpu_percent=cpu_percent, loading=loading)
        serial = self.pulse.ping(self.now)
        self.pings.append(serial)
        for source in answers:
            self.pulse.pong(serial, source, self.now + 0.001)
        return verdict

    def beats(self, count: int, *, cpu_percent: float = 0.0, answers: tuple[str, ...] = ()) -> list[Verdict]:
        """So many of them."""
        return [self.beat(cpu_percent=cpu_percent, answers=answers) for _ in range(count)]


BOTH = ("thread", "loop")
NOTHING, REPORT, END = Verdict.NOTHING, Verdict.REPORT, Verdict.END


def test_a_worker_that_answers_is_well_and_its_way_back_is_known() -> None:
    patient = Patient()
    assert patient.beats(100, cpu_percent=100.0, answers=BOTH) == [NOTHING] * 100
    assert patient.pulse.condition is Condition.WELL
    assert patient.pulse.round_trip_s == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("answers", "cpu_percent", "condition"),
    [
        pytest.param(("thread",), 0.0, Condition.LOOP_BLOCKED, id="the loop waits"),
        pytest.param(("thread",), 100.0, Condition.LOOP_BLOCKED, id="the loop computes"),
        pytest.param((), 99.0, Condition.BUSY, id="the interpreter is held and computes"),
        pytest.param((), 0.0, Condition.SILENT, id="stopped"),
    ],
)
def test_a_worker_that_stops_answering_is_reported_once_after_10_seconds(
    answers: tuple[str, ...], cpu_percent: float, condition: Condition
) -> None:
    patient = Patient()
    patient.beat(answers=BOTH)
    verdicts = patient.beats(4, cpu_percent=cpu_percent, answers=answers)
    assert verdicts == [NOTHING, REPORT, NOTHING, NOTHING]
    assert patient.pulse.condition is condition
    assert patient.pulse.silence_s(patient.now) == 20


def test_it_is_ended_after_30_seconds_and_an_engine_that_computes_after_300() -> None:
    stuck, computing = Patient(), Patient()
    for patient in (stuck, computing):
        patient.beat(answers=BOTH)
    assert stuck.beats(6) == [NOTHING, REPORT, NOTHING, NOTHING, NOTHING, END]
    assert END not in computing.beats(59, cpu_percent=100.0)
    assert computing.beat(cpu_percent=100.0) is END


def test_a_moment_without_processor_time_ends_no_engine_that_computes() -> None:
    computing = Patient()
    computing.beat(answers=BOTH)
    assert END not in computing.beats(20, cpu_percent=100.0)
    assert computing.beats(5, cpu_percent=3.0) == [NOTHING] * 5  # somebody else has the processor
    assert END not in computing.beats(20, cpu_percent=100.0)
    assert computing.beats(6) == [NOTHING] * 5 + [END]  # it does nothing any more


def test_one_that_answers_again_is_well_and_is_reported_anew_the_next_time() -> None:
    patient = Patient()
    patient.beat(answers=BOTH)
    assert patient.beats(3) == [NOTHING, REPORT, NOTHING]
    assert patient.beat(answers=BOTH) is NOTHING
    assert patient.beats(3) == [NOTHING, REPORT, NOTHING]


def test_an_answer_to_an_older_ping_counts_from_when_that_was_sent() -> None:
    patient = Patient()
    patient.beats(3)
    for source in BOTH:
        patient.pulse.pong(patient.pings[0], source, patient.now)
    assert patient.pulse.silence_s(patient.now) == 10
    assert patient.pulse.round_trip_s == 10


def test_answers_that_nobody_asked_for_say_nothing() -> None:
    patient = Patient()
    patient.beat(answers=BOTH)
    patient.beat()
    patient.pulse.pong(999, "loop", patient.now)
    patient.pulse.pong(patient.pings[-1], "a third", patient.now)
    assert patient.pulse.silence_s(patient.now) == 5


def test_what_the_supervisor_slept_through_is_no_silence() -> None:
    patient = Patient()
    patient.beat(answers=BOTH)
    patient.now += 60  # SIGSTOP, or a closed laptop: neither pings nor answers
    assert patient.beat() is NOTHING
    assert patient.pulse.silence_s(patient.now) == BEAT_S
    assert patient.beat() is REPORT  # it does not answer now either


def test_a_load_is_no_silence() -> None:
    patient = Patient()
    assert [patient.beat(loading=True) for _ in range(11)] == [NOTHING] * 11
    assert patient.beats(2) == [NOTHING, REPORT]


def test_a_load_in_which_it_answers_now_and_then_may_take_for_ever() -> None:
    patient = Patient()
    for count in range(100):
        assert patient.beat(loading=True, answers=BOTH if count % 10 == 0 else ()) is NOTHING


@pytest.mark.parametrize("answers", [(), ("thread",)], ids=["silent", "loop blocked"])
def test_loads_that_follow_each_other_do_not_keep_a_stuck_worker_alive(answers: tuple[str, ...]) -> None:
    patient = Patient()
    patient.beat(answers=BOTH)
    verdicts = [patient.beat(loading=True, answers=answers) for _ in range(17)]
    assert verdicts == [NOTHING] * 12 + [REPORT] + [NOTHING] * 3 + [END]


def test_a_load_that_the_supervisor_sleeps_through_is_no_silence_and_grants_no_time_beyond_now() -> None:
    patient = Patient()
    patient.beat(answers=BOTH)
    patient.now += 600
    assert patient.beat(loading=True) is NOTHING
    assert patient.pulse.silence_s(patient.now) == 0
    assert patient.beats(2) == [NOTHING, REPORT]

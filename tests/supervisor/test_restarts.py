"""The budget of restarts, with time as a number."""

from __future__ import annotations

from supervisor.restarts import PoolLimits, Restarts

LIMITS = PoolLimits()


def test_five_deaths_are_forgiven_after_growing_pauses_and_the_sixth_is_not() -> None:
    history = Restarts(LIMITS)
    pauses = [history.died(float(second), uptime_s=1) for second in range(6)]
    assert pauses == [0.0, 0.25, 1.0, 2.0, 4.0, None]
    assert (history.recent_deaths, history.total_deaths) == (6, 6)


def test_deaths_outside_the_window_do_not_count() -> None:
    history = Restarts(LIMITS)
    pauses = [history.died(minute * 60.0, uptime_s=1) for minute in range(100)]
    assert set(pauses[4:]) == {2.0}
    assert history.recent_deaths == 4


def test_a_worker_that_stayed_up_starts_the_count_anew() -> None:
    history = Restarts(LIMITS)
    assert [history.died(float(n), uptime_s=1) for n in range(5)][-1] == 4.0
    assert history.died(66.0, uptime_s=60) == 0.0
    assert (history.recent_deaths, history.total_deaths) == (1, 6)


def test_more_restarts_than_pauses_keep_the_longest_pause() -> None:
    history = Restarts(PoolLimits(restarts=100))
    assert [history.died(0.0, uptime_s=1) for _ in range(100)][-1] == 4.0


def test_after_a_start_that_failed_the_next_one_waits_a_moment() -> None:
    history = Restarts(LIMITS)
    assert history.wait_s(100.0) == 0
    history.start_failed(100.0)
    assert [history.wait_s(at) for at in (100.0, 102.0, 105.0, 200.0)] == [5.0, 3.0, 0.0, 0.0]


def test_a_start_after_a_death_is_a_restart_and_the_first_one_is_not() -> None:
    history = Restarts(LIMITS)
    history.started()
    for second in range(3):
        history.died(float(second), uptime_s=1)
        history.died(float(second), uptime_s=1)
        history.started()
        history.started()
    assert (history.total_deaths, history.total_restarts) == (6, 3)

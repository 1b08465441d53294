"""What a plain GET is answered, without a socket."""

from __future__ import annotations

import pytest

from supervisor.health import WorkerHealth
from supervisor.pages import Page, Question, asked, ready_answer

TARGETS = {
    "/livez": Question(Page.LIVE),
    "/livez?": Question(Page.LIVE),
    "/readyz": Question(Page.READY),
    "/readyz?verbose": Question(Page.READY, verbose=True),
    "/readyz?verbose=": Question(Page.READY, verbose=True),
    "/readyz?verbosely": Question(Page.READY),
    "/metrics?verbose": Question(Page.METRICS),
    "/": None,
    "": None,
    "/livez/": None,
    "/metrics#x": None,
    "http://127.0.0.1/livez": None,
    "/%6civez": None,
}


@pytest.mark.parametrize(("target", "question"), TARGETS.items(), ids=map(repr, TARGETS))
def test_a_target_is_a_page_or_the_websockets(target: str, question: Question | None) -> None:
    assert asked("GET", target) == question
    assert asked("POST", target) is None


def test_what_tells_of_workers_is_private() -> None:
    private = {t: question.private for t, question in TARGETS.items() if question is not None}
    assert {target for target, is_private in private.items() if is_private} == {
        "/readyz?verbose",
        "/readyz?verbose=",
        "/metrics?verbose",
    }


def test_ready_says_so_by_its_status_and_in_a_word() -> None:
    assert ready_answer((), ready=True).text == "ready\n"
    assert ready_answer((), ready=True).status == 200
    assert ready_answer((), ready=False).text == "closing\n"
    assert ready_answer((), ready=False).status == 503


def test_each_worker_has_a_line_of_its_own_whatever_its_last_error_says() -> None:
    workers = [
        WorkerHealth("groq", "ready", 41, 12.3, condition="well"),
        WorkerHealth("demo", "dead", last_error="it died\nof 'this'"),
    ]
    first, second, third = ready_answer(workers, ready=True).text.splitlines()
    assert first == "ready"
    assert second == (
        "worker provider=groq state=ready pid=41 uptime_s=12 open=0 restarts=0 condition=well last_error=None"
    )
    assert third.endswith(r"""last_error="it died\nof 'this'" """.strip())

"""The probe's side of a connection: whose answer is whose, what is waited for and how long."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import pytest

from supervisor.live_talk import ConnectionLostError, Heard, NoAnswerError, Sent, Talk
from tests.supervisor.live_module import GONE, InMemory

PATIENCE_S: Final = 5.0
CHUNK: Final[dict[str, Any]] = {"type": "generate_stream_chunk", "chunk": "a"}
DONE: Final[dict[str, Any]] = {"type": "generate_stream_done", "is_error": False}
ACK: Final[dict[str, Any]] = {"type": "interrupt_ack"}


def saying(*answers: dict[str, Any]) -> Callable[[dict[str, Any]], list[dict[str, Any]]]:
    """The same answers to whatever is asked."""
    return lambda request: list(answers)


def test_a_field_that_is_none_is_left_out_and_every_request_has_an_id_of_its_own() -> None:
    module = InMemory(saying())
    talk = Talk(module)
    first, second = talk.send("load", provider="p", api_key=None), talk.send("get_models")
    assert module.sent == [
        {"type": "load", "unique_request_id": first.id, "provider": "p"},
        {"type": "get_models", "unique_request_id": second.id},
    ]
    assert first.id != second.id


def test_what_comes_before_the_answer_is_told_and_others_answers_are_passed_over() -> None:
    talk = Talk(InMemory(saying({**CHUNK, "unique_request_id": "another"}, CHUNK, DONE)))
    told: list[Heard] = []
    done = talk.answer(talk.send("generate"), DONE["type"], PATIENCE_S, on_message=told.append)
    assert (done.kind, [heard.kind for heard in told]) == (DONE["type"], [CHUNK["type"]])


def test_an_error_is_an_answer() -> None:
    talk = Talk(InMemory(saying({"type": "error", "is_error": True})))
    assert talk.answer(talk.send("get_models"), "get_models_done", PATIENCE_S).kind == "error"


def test_time_is_told_from_the_request_on() -> None:
    talk = Talk(InMemory(saying(DONE)))
    before_s = time.monotonic()
    sent = talk.send("generate")
    done = talk.answer(sent, DONE["type"], PATIENCE_S)
    after_s = time.monotonic()
    assert before_s <= sent.at_s <= done.at_s <= after_s
    assert done.ms_since(sent) == (done.at_s - sent.at_s) * 1000


@pytest.mark.parametrize(("within_s", "quiet_s"), [(0.0, None), (PATIENCE_S, 0.0)], ids=["whole", "quiet"])
def test_no_wait_is_longer_than_its_bound(within_s: float, quiet_s: float | None) -> None:
    talk = Talk(InMemory(saying()))
    with pytest.raises(NoAnswerError, match="did not answer in time"):
        talk.answer(talk.send("load"), "load_done", within_s, quiet_s=quiet_s)


def test_a_sign_of_life_renews_the_patience_and_not_the_whole() -> None:
    talk = Talk(InMemory(saying({"type": "load_progress"}, {"type": "load_progress"})))
    with pytest.raises(NoAnswerError):
        talk.answer(talk.send("load"), "load_done", 0.0, quiet_s=PATIENCE_S)


def test_a_connection_that_ends_is_said_when_it_is_read_and_when_it_is_written() -> None:
    talk = Talk(InMemory(saying(GONE)))
    sent = talk.send("get_models")
    with pytest.raises(ConnectionLostError, match="closed the connection"):
        talk.answer(sent, "get_models_done", PATIENCE_S)
    with pytest.raises(ConnectionLostError, match="closed the connection"):
        talk.send("get_models")


def stopping(*after: dict[str, Any]) -> tuple[Talk, Sent]:
    """A generation that has begun, and what follows its interrupt."""

    def answers(request: dict[str, Any]) -> list[dict[str, Any]]:
        if request["type"] == "generate":
            return []
        target = request["target_request_id"]
        return [m if m == ACK else {**m, "unique_request_id": target} for m in after]

    talk = Talk(InMemory(answers))
    return talk, talk.send("generate")


@pytest.mark.parametrize(
    ("after", "late"),
    [
        pytest.param((ACK, DONE), 0, id="acknowledged first"),
        pytest.param((CHUNK, ACK, DONE), 0, id="a piece was on its way"),
        pytest.param((DONE, ACK), 0, id="over first"),
        pytest.param((ACK, CHUNK, CHUNK, DONE), 2, id="pieces after it"),
    ],
)
def test_an_interrupt_waits_for_both_and_counts_what_came_too_late(
    after: tuple[dict[str, Any], ...], late: int
) -> None:
    talk, sent = stopping(*after)
    stopped = talk.interrupt(sent, PATIENCE_S)
    assert (stopped.ack.kind, stopped.done.kind, stopped.late) == (ACK["type"], DONE["type"], late)


@pytest.mark.parametrize("after", [(ACK,), (DONE,), ()], ids=["no end", "no ack", "nothing"])
def test_an_interrupt_is_not_waited_for_for_ever(after: tuple[dict[str, Any], ...]) -> None:
    talk, sent = stopping(*after)
    with pytest.raises(NoAnswerError):
        talk.interrupt(sent, 0.0)

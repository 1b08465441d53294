"""A prediction as events; most of it is seen from test_replicate.py and the contract."""

from __future__ import annotations

import pytest

from tests.fakes.wires.replicate import prediction, told
from workers.adapter import AdapterError, Alive, Text
from workers.codes import Code
from workers.prediction_reply import Made, NamedEvents, PredictionReply, identity_of
from workers.refusals import Who


def reply(*stops: str) -> PredictionReply:
    """A reader of one prediction."""
    return PredictionReply(Who("Fake"), model="fake/small", max_output_length=200, ends=stops)


def test_the_name_of_an_event_is_the_first_line_of_its_data() -> None:
    decoder = NamedEvents()
    events = decoder.feed(told("output", "one\ntwo") + b"event: done\ndata: {}\n")
    assert [event.data for event in events] == [b"output\none\ntwo"]
    last = decoder.close()
    assert last is not None
    assert last.data == b"done\n{}"
    assert NamedEvents().close() is None


def test_a_prediction_that_was_made_says_where_it_is_followed_and_is_no_life() -> None:
    made, events = reply().made(prediction("starting", urls={"stream": "https://x"}))
    assert (made, events) == (Made("p0", "https://x"), [])


@pytest.mark.parametrize("urls", [None, {}, [], {"stream": None}, {"stream": 7}], ids=str)
def test_a_prediction_without_an_address_of_its_stream_has_none(urls: object) -> None:
    made, _ = reply().made(prediction("processing", urls=urls))
    assert made.stream_url == ""


def test_output_that_comes_with_the_prediction_is_told_once() -> None:
    one = reply()
    _, events = one.made(prediction("processing", output=["Hel"]))
    assert events == [Text("Hel")]
    assert one.whole(prediction("processing", output=["Hel"])) == []
    assert one.whole(prediction("succeeded", output=["Hel", "lo"])) == [Text("lo")]
    assert (one.complete, one.ended, one.reason) == (True, True, "stop")


def test_an_output_that_grew_within_a_piece_is_told_from_there() -> None:
    one = reply()
    assert one.whole(prediction("processing", output="Hel")) == [Text("Hel")]
    assert one.whole(prediction("processing", output="Hello")) == [Text("lo")]
    assert one.whole(prediction("processing", output="He")) == []


def test_a_state_is_life_only_where_it_has_changed() -> None:
    one = reply()
    one.made(prediction("starting"))
    states = ("starting", "starting", "processing", "processing", "queued")
    assert [one.whole(prediction(status)) for status in states] == [[], [], [Alive()], [], [Alive()]]
    assert one.whole(prediction("queued", output=["", ""])) == []
    assert one.whole(prediction("queued", output=["Hi"])) == [Text("Hi")]


def test_output_that_is_held_back_is_life() -> None:
    one = reply("\nUser:")
    one.made(prediction("processing", output=["Hi"]))
    assert one.whole(prediction("processing", output=["Hi", "\n"])) == [Alive()]
    assert one.whole(prediction("processing", output=["Hi", "\n"])) == []


def test_a_stop_ends_the_reply_and_not_the_prediction() -> None:
    one = reply("\nUser:")
    assert one.piece(b"output\n Yes.\nUs") == [Text("Yes.")]
    assert one.piece(b"output\ner: no") == [Alive()]
    assert (one.complete, one.ended) == (True, False)


def test_what_was_held_back_comes_at_the_end() -> None:
    one = reply("\nUser:")
    assert one.piece(b"output\nYes.\nUs") == [Text("Yes.")]
    assert one.piece(b"done\n{}") == [Text("\nUs")]


@pytest.mark.parametrize("status", ["failed", "canceled", "aborted", "a_state_of_tomorrow"])
def test_a_prediction_that_did_not_succeed_is_over(status: str) -> None:
    one = reply()
    with pytest.raises(AdapterError) as caught:
        one.whole(prediction(status))
    assert (caught.value.code, one.ended) == (Code.UPSTREAM_ERROR, True)


@pytest.mark.parametrize(
    ("data", "identity"),
    [
        (b'{"id": "p0"}', "p0"),
        (b'{"id": 7}', ""),
        (b"{}", ""),
        (b"[]", ""),
        (b"{nonsense", ""),
        (b"\xff", ""),
        (b"[" * 100_000, ""),
    ],
    ids=["good", "number", "none", "list", "nonsense", "bytes", "deep"],
)
def test_an_id_is_found_where_there_is_one(data: bytes, identity: str) -> None:
    assert identity_of(data) == identity

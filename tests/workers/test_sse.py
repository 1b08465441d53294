"""The decoder of event streams: every legal form, every split, and the bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.sse import MAX_EVENT_BYTES, Event, EventTooLong, SSEDecoder


def decoded(*pieces: bytes) -> list[Event]:
    decoder = SSEDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


CASES = {
    "plain": (b"data: one\n\ndata: two\n\n", [b"one", b"two"]),
    "crlf": (b"data: one\r\n\r\ndata: two\r\n\r\n", [b"one", b"two"]),
    "cr": (b"data: one\r\rdata: two\r\r", [b"one", b"two"]),
    "mixed line ends": (b"data: one\r\n\ndata: two\n\r\ndata: three\r\r\n", [b"one", b"two", b"three"]),
    "byte order mark": (b"\xef\xbb\xbfdata: one\n\n", [b"one"]),
    "no space after the colon": (b"data:one\n\n", [b"one"]),
    "two spaces keep one": (b"data:  one\n\n", [b" one"]),
    "several lines of data": (b"data: one\ndata: two\n\n", [b"one\ntwo"]),
    "comments": (b": hello\n\n: inside\ndata: one\n: still\n\n", [b"one"]),
    "id and retry lines": (b"id: 7\nretry: 10\ndata: one\n\n", [b"one"]),
    "many blank lines": (b"\n\n\n\ndata: one\n\n\n\n\ndata: two\n\n\n", [b"one", b"two"]),
    "no data, no event": (b"event: ping\n\ndata: one\n\n", [b"one"]),
    "empty data": (b"data:\n\ndata\n\n", [b"", b""]),
    "characters of many bytes": ("data: été 日本語 😀\n\n".encode(), ["été 日本語 😀".encode()]),
    "a colon in the data": (b"data: a: b\n\n", [b"a: b"]),
    "unknown fields": (b"foo: 1\nbar\ndata: one\n\n", [b"one"]),
}


@pytest.mark.parametrize("name", CASES)
def test_every_legal_form_gives_its_data_at_every_split(name: str) -> None:
    stream, expected = CASES[name]
    assert [event.data for event in decoded(stream)] == expected
    for cut in range(len(stream) + 1):
        assert [event.data for event in decoded(stream[:cut], stream[cut:])] == expected
    assert [event.data for event in decoded(*(bytes([byte]) for byte in stream))] == expected


@given(
    st.lists(
        st.sampled_from([b"\n", b"\r", b"\r\n", b":", b"data", b"data: ", b"event: x", b"\xef\xbb\xbf", b"a"])
    ),
    st.data(),
)
def test_any_bytes_in_any_split_give_the_same_events(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    whole = SSEDecoder()
    expected = whole.feed(stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    split = SSEDecoder()
    events = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        events += split.feed(stream[start:end])
    assert events == expected
    assert split.comments == whole.comments
    assert split.close() == whole.close()


def test_an_event_has_the_name_that_the_stream_gave_it() -> None:
    assert decoded(b"event: error\ndata: x\n\ndata: y\n\nevent:\ndata: z\n\n") == [
        Event("error", b"x"),
        Event("message", b"y"),
        Event("message", b"z"),
    ]


def test_comments_are_counted_and_give_no_event() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b": one\n\n: two\n: three\n\n") == []
    assert decoder.comments == 3


def test_broken_characters_stay_with_their_event() -> None:
    assert decoded(b"data: ok\n\ndata: \xff\xfe\n\ndata: ok\n\n") == [
        Event("message", b"ok"),
        Event("message", b"\xff\xfe"),
        Event("message", b"ok"),
    ]


@pytest.mark.parametrize("step", [1 << 16, 1 << 20, 8 << 20])
def test_an_event_over_the_bound_is_refused_and_not_kept(step: int) -> None:
    stream = b"data: " + b"x" * (8 << 20)
    decoder = SSEDecoder()
    with pytest.raises(EventTooLong):
        for start in range(0, len(stream), step):
            decoder.feed(stream[start : start + step])
            assert len(decoder._rest) <= MAX_EVENT_BYTES
    assert len(decoder._rest) <= MAX_EVENT_BYTES
    with pytest.raises(EventTooLong):
        decoder.feed(b"data: one\n\n")


def test_a_complete_event_over_the_bound_is_refused_after_those_before_it() -> None:
    long = b"data: " + b"x" * MAX_EVENT_BYTES + b"\n\n"
    decoder = SSEDecoder()
    assert decoder.feed(b"data: one\n\n" + long + b"data: two\n\n") == [Event("message", b"one")]
    with pytest.raises(EventTooLong):
        decoder.feed(b"")


def test_an_event_is_refused_that_its_last_piece_makes_too_long() -> None:
    decoder = SSEDecoder()
    decoder.feed(b"data: " + b"x" * (MAX_EVENT_BYTES - 10))
    with pytest.raises(EventTooLong):
        decoder.feed(b"x" * 20 + b"\n\n")


def test_an_event_within_the_bound_is_given() -> None:
    data = b"x" * (MAX_EVENT_BYTES - 100)
    assert decoded(b"data: " + data[:5000], data[5000:] + b"\n\n") == [Event("message", data)]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: one\n\n", None),
        (b"data: one\n\ndata: [DONE]", Event("message", b"[DONE]")),
        (b"data: one\n\ndata: [DONE]\n", Event("message", b"[DONE]")),
        (b"data: one\n\n: bye", None),
        (b"", None),
        (b"\xef\xbb", None),
    ],
)
def test_the_end_gives_the_event_that_only_its_blank_line_was_missing_from(
    stream: bytes, expected: Event | None
) -> None:
    decoder = SSEDecoder()
    decoder.feed(stream)
    assert decoder.close() == expected
    assert decoder.close() is None

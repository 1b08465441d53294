"""The decoder of JSON lines: every form, every split, and the bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.ndjson import NDJSONDecoder
from workers.sse import MAX_EVENT_BYTES, EventTooLong


def decoded(*pieces: bytes) -> list[bytes]:
    decoder = NDJSONDecoder()
    return [event.data for piece in pieces for event in decoder.feed(piece)]


CASES = {
    "plain": (b'{"a":1}\n{"b":2}\n', [b'{"a":1}', b'{"b":2}']),
    "crlf": (b'{"a":1}\r\n{"b":2}\r\n', [b'{"a":1}', b'{"b":2}']),
    "blank lines": (b'\n\n{"a":1}\n \n\r\n{"b":2}\n\n', [b'{"a":1}', b'{"b":2}']),
    "white space around": (b' {"a":1} \n', [b'{"a":1}']),
    "byte order mark": (b'\xef\xbb\xbf{"a":1}\n', [b'{"a":1}']),
    "a mark later on is data": (b'{"a":1}\n\xef\xbb\xbf{}\n', [b'{"a":1}', b"\xef\xbb\xbf{}"]),
    "characters of many bytes": ('{"a":"été 日本 😀"}\n'.encode(), ['{"a":"été 日本 😀"}'.encode()]),
    "an escaped line end": (b'{"a":"\\n"}\n', [b'{"a":"\\n"}']),
    "what is no JSON is a line too": (b": hello\n", [b": hello"]),
    "the last line is not ended": (b'{"a":1}\n{"b', [b'{"a":1}']),
    "nothing": (b"", []),
}


@pytest.mark.parametrize("name", CASES)
def test_every_form_gives_its_lines_at_every_split(name: str) -> None:
    stream, expected = CASES[name]
    assert decoded(stream) == expected
    for cut in range(len(stream) + 1):
        assert decoded(stream[:cut], stream[cut:]) == expected
    assert decoded(*(bytes([byte]) for byte in stream)) == expected


@given(st.lists(st.sampled_from([b"\n", b"\r", b" ", b"{", b"}", b"\xef\xbb\xbf", b"a"])), st.data())
def test_any_bytes_in_any_split_give_the_same_lines(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    whole, split = NDJSONDecoder(), NDJSONDecoder()
    lines = whole.feed(stream)
    assert [event for piece in pieces for event in split.feed(piece)] == lines
    assert split.close() == whole.close()


@pytest.mark.parametrize(
    ("left", "expected"), [(b'{"a":1}', b'{"a":1}'), (b'{"a', b'{"a'), (b" \r", None), (b"", None)]
)
def test_the_end_gives_a_line_without_its_end(left: bytes, expected: bytes | None) -> None:
    decoder = NDJSONDecoder()
    assert [event.data for event in decoder.feed(b"{}\n" + left)] == [b"{}"]
    last = decoder.close()
    assert (last and last.data) == expected
    assert decoder.close() is None


def test_a_line_of_the_largest_size_is_given() -> None:
    line = b"x" * MAX_EVENT_BYTES
    assert decoded(line + b"\n") == [line]
    assert decoded(line, b"\n") == [line]


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_line_that_is_too_long_is_refused_after_those_before_it(ended: bool, pieces: int) -> None:
    giant = b"{}\n" + b"x" * (MAX_EVENT_BYTES + 1) + (b"\n{}\n" if ended else b"")
    size = -(-len(giant) // pieces)
    decoder = NDJSONDecoder()
    lines: list[bytes] = []
    with pytest.raises(EventTooLong):
        for start in range(0, len(giant) + size, size):
            lines += [event.data for event in decoder.feed(giant[start : start + size])]
    assert lines == [b"{}"]
    with pytest.raises(EventTooLong):
        decoder.feed(b"{}\n")

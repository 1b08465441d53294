"""The codec: what one side may say the other understands, at every cut; everything else is a WireError."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import fields
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers import wire

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(-(2**63), 2**64 - 1),
    "str": st.text(max_size=50),
    "bytes": st.binary(max_size=50),
    "float": st.floats(allow_nan=False),
}


def frames_of(table: dict[int, tuple[type[Any], tuple[type, ...]]]) -> st.SearchStrategy[Any]:
    return st.one_of(
        *(
            st.builds(cls, **{field.name: VALUES[str(field.type)] for field in fields(cls)})
            for cls, _ in table.values()
        )
    )


DIRECTIONS = st.sampled_from([wire.DOWN, wire.UP])


def framed(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


@given(st.data(), DIRECTIONS)
def test_what_one_side_says_the_other_hears_at_every_cut(data: st.DataObject, table: Any) -> None:
    said = data.draw(st.lists(frames_of(table), max_size=6))
    stream = b"".join(map(wire.encode, said))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=10)))
    decoder = wire.Decoder(table)
    heard = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        heard += decoder.feed(stream[start:end])
    assert heard == said
    assert decoder.pending_bytes == 0


def test_frames_are_heard_when_they_come_byte_by_byte() -> None:
    said: list[wire.Up] = [wire.Chunk(1, "héllo 🌸"), wire.Done(1, 0, "", b"{}"), wire.Alive(2)]
    decoder = wire.Decoder(wire.UP)
    heard = [frame for byte in b"".join(map(wire.encode, said)) for frame in decoder.feed(bytes([byte]))]
    assert heard == said


def test_an_unfinished_frame_is_counted_as_pending() -> None:
    decoder = wire.Decoder(wire.UP)
    assert decoder.feed(wire.encode(wire.Alive(1))[:-1]) == []
    assert decoder.pending_bytes == len(wire.encode(wire.Alive(1))) - 1


@given(st.data(), DIRECTIONS)
def test_no_side_may_say_what_only_the_other_may(data: st.DataObject, table: Any) -> None:
    frame = data.draw(frames_of(table))
    other = wire.DOWN if table is wire.UP else wire.UP
    with pytest.raises(wire.WireError, match="unknown frame tag"):
        wire.Decoder(other).feed(wire.encode(frame))


@given(st.binary(max_size=200), DIRECTIONS)
def test_noise_is_an_error_of_the_wire_or_waits_for_more(noise: bytes, table: Any) -> None:
    with contextlib.suppress(wire.WireError):
        wire.Decoder(table).feed(noise)


@given(st.data(), DIRECTIONS)
def test_a_broken_payload_is_an_error_of_the_wire(data: st.DataObject, table: Any) -> None:
    frame = data.draw(frames_of(table))
    payload = bytearray(wire.encode(frame)[4:])
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        (heard,) = wire.Decoder(table).feed(framed(bytes(payload)))
    except wire.WireError:
        return
    assert type(heard) in {cls for cls, _ in table.values()}


DEEP = b"\x91" * 2000 + b"\xc0"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x00\x00\x00\x00", id="length 0"),
        pytest.param(b"\xff\xff\xff\xff", id="length 4 GiB"),
        pytest.param(struct.pack(">I", wire.FRAME_MAX_BYTES + 1), id="one byte too long"),
        pytest.param(framed(b"\xdd\xff\xff\xff\xff"), id="array32 bomb"),
        pytest.param(framed(b"\x91\xdf\xff\xff\xff\xff"), id="map32 bomb"),
        pytest.param(framed(b"\xdd\x00\x00\x10\x01" + b"\xc0" * 4097), id="array over the bound"),
        pytest.param(framed(DEEP), id="depth 2000"),
        pytest.param(framed(b"\x93\x46\x01\xa1\xff"), id="bad UTF-8"),
        pytest.param(framed(b"\x92\x46\xc7\x01\x05\x00"), id="ext"),
        pytest.param(framed(b"\xc1"), id="never used byte"),
        pytest.param(framed(b"\x92\x46"), id="cut inside"),
        pytest.param(framed(b"\x92\x46\x01\x00"), id="more than one value"),
        pytest.param(framed(b"\x80"), id="a map"),
        pytest.param(framed(b"\x01"), id="a number"),
        pytest.param(framed(b"\x90"), id="an empty array"),
        pytest.param(framed(b"\x91\xc3"), id="a tag that is true"),
        pytest.param(framed(b"\x91\xa1x"), id="a tag that is text"),
        pytest.param(framed(b"\x91\x7f"), id="unknown tag"),
        pytest.param(framed(b"\x91\x46"), id="fields missing"),
        pytest.param(framed(b"\x93\x46\x01\x01"), id="too many fields"),
        pytest.param(framed(b"\x92\x46\xa1x"), id="wrong type"),
        pytest.param(framed(b"\x92\x46\xc3"), id="true for a number"),
    ],
)
@pytest.mark.parametrize("table", [pytest.param(wire.UP, id="up"), pytest.param(wire.DOWN, id="down")])
def test_what_breaks_a_rule_is_an_error_of_the_wire(data: bytes, table: Any) -> None:
    with pytest.raises(wire.WireError):
        wire.Decoder(table).feed(data)


def test_an_alive_frame_is_what_the_bad_examples_are_made_from() -> None:
    assert wire.encode(wire.Alive(1)) == framed(b"\x92\x46\x01")


def test_a_frame_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(wire.WireError, match="Part of"):
        wire.encode(wire.Part(1, b"x" * wire.FRAME_MAX_BYTES))


@given(st.binary(max_size=3 * wire.PART_BYTES // 2))
def test_a_body_in_parts_adds_up(body: bytes) -> None:
    first, *rest = wire.parts(7, 1, body)
    assert isinstance(first, wire.Generate)
    assert (first.request, first.binding, first.length) == (7, 1, len(body))
    assert first.body + b"".join(part.data for part in rest if isinstance(part, wire.Part)) == body


def test_a_long_body_makes_frames_that_fit() -> None:
    frames = list(wire.parts(7, 1, b"x" * (2 * wire.PART_BYTES + 1)))
    assert [type(frame) for frame in frames] == [wire.Generate, wire.Part, wire.Part]
    assert all(wire.encode(frame) for frame in frames)


@pytest.mark.parametrize("char", ["a", "é", "あ", "🌸"])
def test_split_text_makes_chunks_that_fit(char: str) -> None:
    text = char * (2 * wire.CHUNK_MAX_CHARS + 3)
    pieces = list(wire.split_text(text))
    assert "".join(pieces) == text
    assert all(wire.encode(wire.Chunk(2**63, piece)) for piece in pieces)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=5))
def test_a_body_comes_back_as_it_went_in(body: dict[str, Any]) -> None:
    assert wire.unpack_body(wire.pack_body(body)) == body


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="cut"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"\xff", id="not UTF-8"),
        pytest.param(b"[" * 100_000, id="too deep"),
    ],
)
def test_a_body_that_is_no_object_is_an_error_of_the_wire(data: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.unpack_body(data)


def test_a_number_that_json_does_not_know_is_not_packed() -> None:
    with pytest.raises(ValueError, match="JSON"):
        wire.pack_body({"x": float("nan")})


@pytest.mark.parametrize(
    "frame",
    [
        wire.Bind(1, b"sk-canary"),
        wire.Generate(1, 1, 9, b"sk-canary"),
        wire.Part(1, b"sk-canary"),
    ],
)
def test_frames_with_secrets_or_prompts_do_not_show_them(frame: wire.Frame) -> None:
    assert "canary" not in f"{frame!r} {frame!s}"


def test_a_chunk_shows_only_the_ends_of_a_long_text() -> None:
    assert str(wire.Chunk(1, "short")) == "Chunk(1, 'short')"
    shown = str(wire.Chunk(1, "a" * 100 + "SECRET" + "b" * 100))
    assert "SECRET" not in shown
    assert len(shown) < 60


def test_the_bounds_hold_for_the_pure_msgpack_too() -> None:
    fallback = pytest.importorskip("msgpack.fallback")
    with pytest.raises((ValueError, msgpack.UnpackException)):
        fallback.unpackb(DEEP, max_array_len=wire.ARRAY_MAX)
    with pytest.raises((ValueError, msgpack.UnpackException)):
        fallback.unpackb(b"\xdd\xff\xff\xff\xff", max_array_len=wire.ARRAY_MAX)


def test_the_longest_piece_of_a_call_fits_into_a_frame() -> None:
    name = "\U0001f600" * wire.CALL_NAME_MAX_CHARS
    part = wire.CallPart(2**64 - 1, 127, name, name, "\U0001f600" * wire.CHUNK_MAX_CHARS)
    assert wire.Decoder(wire.UP).feed(wire.encode(part)) == [part]
    assert name[:1] not in repr(part)

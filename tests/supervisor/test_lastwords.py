"""What a worker writes to stderr, in any split, and which of it says why it died."""

from __future__ import annotations

import logging

import pytest

from supervisor.lastwords import LINE_BYTES, LINES_A_SECOND, SHOWN_CHARS, LastWords
from supervisor.logs import register_secret

STACK = b"""\
nothing special
Fatal Python error: Segmentation fault

Current thread 0x00007f (most recent call first):
  File "engine.py", line 3 in prefill
Extension modules: numpy
"""


def words(data: bytes) -> LastWords:
    said = LastWords("demo")
    said.feed(data)
    said.close()
    return said


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", None, id="nothing"),
        pytest.param(b" \n\n", None, id="white space"),
        pytest.param(b"one\ntwo\n", "two", id="the last line"),
        pytest.param(b"one\ntwo", "two", id="a line without an end"),
        pytest.param(b"ValueError: odd\n  at line 3\n", "ValueError: odd", id="no indented line"),
        pytest.param(b"  at line 3\n", "  at line 3", id="nothing but indented lines"),
        pytest.param(STACK, "Fatal Python error: Segmentation fault", id="the interpreter's own"),
        pytest.param(b"\xff\xfe\n", "��", id="no text"),
    ],
)
def test_one_line_says_why(data: bytes, reason: str | None) -> None:
    assert words(data).reason == reason


@pytest.mark.parametrize(
    ("line", "ends"),
    [
        pytest.param(b"memory allocation of 2097152 bytes failed", True, id="Rust"),
        pytest.param(b"terminate called after throwing an instance of 'std::bad_alloc'", True, id="C++"),
        pytest.param(b"terminating due to uncaught exception of type std::bad_alloc", True, id="macOS"),
        pytest.param(b"CUDA error: out of memory", True, id="a GPU"),
        pytest.param(b"E srv alloc: failed to allocate memory for prompt cache state: std::bad_alloc", False,
                     id="one that goes on"),
        pytest.param(b"Fatal Python error: Aborted", False, id="something else"),
    ],
)  # fmt: skip
def test_who_ends_for_want_of_memory_is_known_however_long_the_stacks_below_are(
    line: bytes, ends: bool
) -> None:
    assert words(line + b"\n" + b"  a frame of a stack\n" * 100).out_of_memory is ends


def test_every_split_gives_the_same_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for cut in range(len(STACK)):
        caplog.clear()
        said = LastWords("demo")
        said.feed(STACK[:cut])
        said.feed(STACK[cut:])
        said.close()
        assert len(caplog.records) == 5
        assert said.reason == "Fatal Python error: Segmentation fault"


def test_a_line_without_end_takes_no_memory_and_a_client_sees_a_bounded_piece_of_it() -> None:
    said = LastWords("demo")
    for _ in range(100):
        said.feed(b"x" * LINE_BYTES)
    said.close()
    assert said.reason == "x" * SHOWN_CHARS


def test_of_a_flood_a_bounded_part_is_logged_the_rest_is_counted_and_the_last_line_is_known(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    count = LINES_A_SECOND * 50
    said = LastWords("demo")
    for _ in range(5):
        said.feed(b"x\n" * (count // 5))
    said.feed(b"the end\n")
    assert said.reason == "the end"
    said.close()
    lines = [record for record in caplog.records if record.levelno == logging.INFO]
    told = [record.args for record in caplog.records if record.levelno == logging.WARNING]
    left_out = sum(int(str(args[1])) for args in told if isinstance(args, tuple))
    assert len(lines) + left_out == count + 1
    assert len(lines) < count / 5


def test_a_key_is_masked() -> None:
    register_secret("canary-0123456789")
    assert words(b"bad key canary-0123456789\n").reason == "bad key ***"

"""Stop strings against a definition of one line, at every split."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.stops import StopCutter

# Few letters, so that stops overlap with the text, with themselves and with each other.
TEXT = st.text("ab\n ", max_size=30)
STOPS = st.lists(st.text("ab\n ", max_size=5), max_size=5)


def naive(text: str, stops: list[str]) -> tuple[str, bool]:
    """The definition, on the whole text."""
    stops = [stop for stop in stops if stop]
    bare = text.lstrip()
    lead = "" if any(stop[0].isspace() for stop in stops) else text[: len(text) - len(bare)]
    places = [place for place in map(bare.find, stops) if place >= 0]
    return (lead + bare[: min(places)], True) if places else (lead + bare, False)


def run(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    cutter = StopCutter(stops)
    shown = "".join(map(cutter.feed, pieces)) + cutter.finish()
    return shown, cutter.found


@given(TEXT, STOPS, st.data())
def test_any_split_gives_what_the_whole_text_gives(text: str, stops: list[str], data: st.DataObject) -> None:
    cuts = sorted([0, len(text), *data.draw(st.lists(st.integers(0, len(text)), max_size=8))])
    pieces = [text[start:end] for start, end in pairwise(cuts)]
    assert run(pieces, stops) == naive(text, stops)
    assert run(list(text), stops) == naive(text, stops)


@given(TEXT, STOPS)
def test_a_stop_never_appears_and_nothing_follows_it(text: str, stops: list[str]) -> None:
    cutter = StopCutter(stops)
    for char in text:
        cutter.feed(char)
        if cutter.found:
            assert cutter.feed("ab") == ""


@pytest.mark.parametrize(
    ("stops", "text", "shown"),
    [
        pytest.param([], "all of it", "all of it", id="no stops"),
        pytest.param([""], "all of it", "all of it", id="an empty stop is none"),
        pytest.param(["\n"], "\n\n Hello\nyou", "Hello", id="a reply that begins with its stop"),
        pytest.param(["x"], "\n Hello", "\n Hello", id="white space stays otherwise"),
        pytest.param(["abcd", "bc"], "xabce", "xa", id="the longer one did not come"),
        pytest.param(["abcd", "bc"], "xabc", "xa", id="the longer one can come no more"),
        pytest.param(["abcd", "bc"], "xabcd", "x", id="the earlier one wins"),
        pytest.param(["User:", "###"], "Sure.### User:", "Sure.", id="the earliest"),
        pytest.param(["]", "^", "\\", "-", "(", ".*"], "a.*b", "a", id="characters of regular expressions"),
        pytest.param(["🌸"], "kawaii🌸!", "kawaii", id="emoji"),
        pytest.param(["hello"], "hello", "", id="nothing but a stop"),
    ],
)
def test_table(stops: list[str], text: str, shown: str) -> None:
    assert run([text], stops)[0] == shown
    assert run(list(text), stops)[0] == shown


def test_text_is_held_only_while_it_may_be_a_stop() -> None:
    cutter = StopCutter(["STOP"])
    assert [cutter.feed(piece) for piece in ("abc", "S", "TO", "x", "ST", "ST")] == [
        "abc",
        "",
        "",
        "STOx",
        "",
        "ST",
    ]
    assert cutter.finish() == "ST"
    assert not cutter.found


def test_many_stops_are_one_search() -> None:
    stops = [f"stop-{number}" for number in range(500)]
    assert run(["a stop-", "49", "9 b"], stops) == ("a ", True)

"""Where the thinking of a reply ends, and that nothing is cut inside it, whatever the split."""

from __future__ import annotations

import pytest

from workers.stops import StopCutter
from workers.thinking import HEAD_MAX_CHARS, SpokenCutter, Thinking

TABLE = [
    pytest.param("Hello.", "", id="none"),
    pytest.param("", "", id="nothing"),
    pytest.param(" \n", "", id="white space only"),
    pytest.param("<think>hm</think>Hi", "<think>hm</think>", id="a block"),
    pytest.param("\n <think>\nhm</think>\n\nHi", "\n <think>\nhm</think>", id="in white space"),
    pytest.param("<thinking>a</think>b</thinking>Hi", "<thinking>a</think>b</thinking>", id="its own end"),
    pytest.param("<think>a</think>\n<think>b</think> Hi", "<think>a</think>\n<think>b</think>", id="two"),
    pytest.param("<think>never closed", "<think>never closed", id="unclosed"),
    pytest.param("<think>never</thin", "<think>never</thin", id="half closed"),
    pytest.param("</think>\n\nHi", "</think>", id="the template had opened it"),
    pytest.param("Hi <think>x</think>", "", id="not at the start"),
    pytest.param("<thin", "", id="a tag that never came"),
    pytest.param("<3 you", "", id="a heart"),
    pytest.param(" " * (HEAD_MAX_CHARS + 2) + "<think>x</think>", "", id="far too late"),
]


@pytest.mark.parametrize(("text", "thought"), TABLE)
def test_thinking_ends_where_it_does_at_every_split(text: str, thought: str) -> None:
    for pieces in ([text], list(text)):
        thinking = Thinking()
        parts = [*map(thinking.feed, pieces), thinking.finish()]
        assert ("".join(first for first, _ in parts), "".join(second for _, second in parts)) == (
            thought,
            text.removeprefix(thought),
        )


def test_thinking_is_passed_on_as_it_comes() -> None:
    thinking = Thinking()
    assert thinking.feed("<think>What would the user s") == ("<think>What would the", "")
    assert thinking.feed("ay?</think>") == (" user say?</think>", "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<think>END?\nEND</think>\nWell. END never", "<think>END?\nEND</think>\nWell. "),
        ("<think>END", "<think>END"),
        ("END never", ""),
        ("Well. EN", "Well. EN"),
    ],
)
def test_a_stop_string_is_none_inside_of_thinking(text: str, shown: str) -> None:
    for pieces in ([text], list(text)):
        cutter = SpokenCutter(StopCutter(["END"]))
        assert "".join(map(cutter.feed, pieces)) + cutter.finish() == shown
        assert cutter.found is ("never" in text)

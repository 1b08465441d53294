"""What a client sees of a reply, whatever its split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.thinking import HEAD_MAX_CHARS
from workers.visible import VisibleText


def run(pieces: list[str], stops: tuple[str, ...] = (), name: str | None = None) -> str:
    visible = VisibleText(stops, name)
    return "".join(map(visible.feed, pieces)) + visible.finish()


TABLE = [
    pytest.param("Hello.", "Hello.", id="plain"),
    pytest.param("", "", id="nothing"),
    pytest.param("  \n", "  \n", id="white space only"),
    pytest.param(" Hi", " Hi", id="white space stays"),
    pytest.param("<think>hm</think>Hi", "Hi", id="think"),
    pytest.param("\n <think>\nhm</think>\n\nHi", "Hi", id="think in white space"),
    pytest.param("<thinking>hm</thinking> Hi", "Hi", id="thinking"),
    pytest.param("<thinking>a</think>b</thinking>Hi", "Hi", id="each tag has its own end"),
    pytest.param("<think>a</think>\n<think>b</think> Hi", "Hi", id="two blocks"),
    pytest.param("<think>never closed", "", id="unclosed"),
    pytest.param("<think></think>", "", id="empty block"),
    pytest.param("</think>\n\nHi", "Hi", id="the template had opened it"),
    pytest.param("hm</think>Hi", "hm</think>Hi", id="too late to hide"),
    pytest.param("Hi <think>x</think>", "Hi <think>x</think>", id="not at the start"),
    pytest.param("<thin", "<thin", id="a tag that never came"),
    pytest.param("<thinker>", "<thinker>", id="another tag"),
    pytest.param("<3 you", "<3 you", id="a heart"),
    pytest.param("Mia: Hi", "Hi", id="name"),
    pytest.param("mIA:Hi", "Hi", id="name in any case"),
    pytest.param("\n Mia:  Hi", "Hi", id="name in white space"),
    pytest.param("Mia\uff1aHi", "Hi", id="full-width colon"),
    pytest.param("Mia: ", "", id="nothing but the name"),
    pytest.param("Mia", "Mia", id="no colon came"),
    pytest.param("Miami: hot", "Miami: hot", id="a longer word"),
    pytest.param("Mi: hot", "Mi: hot", id="a shorter word"),
    pytest.param("Mia : Hi", "Mia : Hi", id="not exactly the name"),
    pytest.param("Mia: Mia: Hi", "Mia: Hi", id="once"),
    pytest.param("Hi\nMia: Ho", "Hi\nMia: Ho", id="only at the start"),
    pytest.param("<think>x</think>\nMia: Hi", "Hi", id="think, then name"),
    pytest.param("</think> Mia: Hi", "Hi", id="closing tag, then name"),
    pytest.param("Mia: <think>x</think>", "<think>x</think>", id="nothing is hidden behind the name"),
    pytest.param("a\ud83c\udf38b", "a🌸b", id="pair in halves"),
    pytest.param("a\ud83c b\udf38", "a\ufffd b\ufffd", id="lone halves"),
    pytest.param("a\ud83c", "a\ufffd", id="a half at the end"),
    pytest.param("\ud83c\ud83c\udf38", "\ufffd🌸", id="a half before a pair"),
    pytest.param("<think>\ud83c", "", id="a half in a hidden block"),
]


@pytest.mark.parametrize(("text", "shown"), TABLE)
def test_what_is_shown_at_every_split(text: str, shown: str) -> None:
    assert run([text], name="Mia") == shown
    assert run(list(text), name="Mia") == shown
    for cut in range(len(text)):
        assert run([text[:cut], text[cut:]], name="Mia") == shown


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "Mia", ":", " ", "\n", "x", "\ud83c", "\udf38", "<"]))
)
def test_splits_do_not_matter(pieces: list[str]) -> None:
    assert run(pieces, ("x\n",), "Mia") == run(["".join(pieces)], ("x\n",), "Mia")
    assert run(list("".join(pieces)), ("x\n",), "Mia") == run(["".join(pieces)], ("x\n",), "Mia")


@given(st.lists(st.text(st.characters(), max_size=10)))
def test_what_is_shown_is_whole_characters(pieces: list[str]) -> None:
    visible = VisibleText()
    for piece in [*map(visible.feed, pieces), visible.finish()]:
        piece.encode()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)))
def test_plain_text_passes_unchanged(pieces: list[str]) -> None:
    text = "".join(["Hi", *pieces])
    assert run(["Hi", *pieces]) == text


def test_a_name_alone_is_hidden_only_when_there_is_one() -> None:
    assert run(["Mia: Hi"]) == "Mia: Hi"
    assert run([": Hi"], name="") == ": Hi"
    assert run([": Hi"], name="  ") == ": Hi"


def test_stops_count_after_what_was_hidden() -> None:
    visible = VisibleText(["\n"], "Mia")
    assert visible.feed("<think>a\nb</think>\nMia:\nHi\nMia: more") == "Hi"
    assert visible.stopped
    assert visible.feed("x") == ""


def test_it_tells_what_it_has_hidden() -> None:
    plain, thought, named, stopped = VisibleText(), VisibleText(), VisibleText((), "Mia"), VisibleText(["x"])
    for visible, text in ((plain, "a"), (thought, "<think>a</think>"), (named, "Mia:"), (stopped, "x")):
        visible.feed(text)
        visible.finish()
    assert [item.hidden for item in (plain, thought, named, stopped)] == [False, True, True, True]
    assert (thought.reasoned, named.name_hidden, stopped.stopped) == (True, True, True)


@pytest.mark.parametrize("split", [False, True])
def test_endless_white_space_is_not_kept(split: bool) -> None:
    text = " " * (HEAD_MAX_CHARS + 1) + "<think>x"
    assert run(list(text) if split else [text]) == text


def test_the_first_character_of_a_plain_reply_is_shown_at_once() -> None:
    assert VisibleText(["\n\n"], "Mia").feed("H") == "H"

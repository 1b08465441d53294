"""Tokens become text: whole letters only, nothing empty first, up to the end that the reply finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from workers.token_reply import HELD_MAX, TokenReply, TokenText

END = 999
TEXT = "é€😀 Mia!"


def of_bytes(tokens: Sequence[int]) -> str:
    """A tokenizer whose tokens are bytes; those above are signs that say nothing."""
    return bytes(token for token in tokens if token < 256).decode("utf-8", "replace")


def of_words(tokens: Sequence[int]) -> str:
    """One as SentencePiece's, which shows a word's space only behind another word."""
    return " ".join(("so", "Mia", "said")[token] for token in tokens)


def reply(**fields: Any) -> TokenReply:
    return TokenReply(of_bytes, **{"ends": {END}, "limit": 100, **fields})


def fed(made: TokenReply, tokens: Sequence[int], *, at_once: int = 1) -> list[str]:
    """What is shown, piece by piece."""
    pieces = [made.feed(tokens[start : start + at_once]) for start in range(0, len(tokens), at_once)]
    return [piece for piece in pieces if piece]


def test_letters_of_several_tokens_come_whole() -> None:
    text = TokenText(of_bytes)
    pieces = [text.feed(token) for token in TEXT.encode()]
    assert [piece for piece in pieces if piece] == list(TEXT)
    assert text.finish() == ""


@pytest.mark.parametrize("at_once", [1, 2, 3, 5, 100])
def test_a_text_is_the_same_however_its_tokens_came(at_once: int) -> None:
    assert "".join(fed(reply(), [*TEXT.encode(), END], at_once=at_once)) == TEXT


def test_a_space_between_words_is_shown_and_one_before_the_first_is_not() -> None:
    text = TokenText(of_words)
    assert [text.feed(token) for token in (1, 2, 0)] == ["Mia", " said", " so"]


def test_a_half_letter_at_the_end_is_left_out() -> None:
    made = reply(limit=4)
    assert "".join(fed(made, list("ab€".encode())[:4])) == "ab"
    assert made.reason == "length"


def test_what_never_becomes_a_letter_is_shown_in_the_end() -> None:
    text = TokenText(of_bytes)
    pieces = [text.feed(0x80) for _ in range(HELD_MAX + 1)]
    assert pieces == [""] * HELD_MAX + ["\ufffd" * (HELD_MAX + 1)]
    assert text.feed(ord("a")) == "a"


def test_signs_say_nothing_and_hold_nothing_back() -> None:
    assert fed(reply(), [500, *b"Hi", 501, *b"!"]) == ["H", "i", "!"]


@pytest.mark.parametrize(
    ("tokens", "fields", "text", "reason", "counted"),
    [
        pytest.param([*b"Hi", END, *b"no"], {}, "Hi", "stop", 3, id="an end"),
        pytest.param([*b"Hello"], {"limit": 3}, "Hel", "length", 3, id="a limit"),
        pytest.param([*b"Hi\nAnn: no"], {"stops": ("\nAnn:",)}, "Hi", "stop", 7, id="a stop"),
        pytest.param(
            [*b"Hi\nAn"], {"stops": ("\nAnn:",), "limit": 5}, "Hi\nAn", "length", 5, id="half a stop"
        ),
        pytest.param([*b"Hi"], {}, "Hi", None, 2, id="not over"),
        pytest.param([END], {}, "", "stop", 1, id="nothing"),
    ],
)
def test_a_reply_ends_once_and_says_why(
    tokens: list[int], fields: dict[str, Any], text: str, reason: str | None, counted: int
) -> None:
    made = reply(**fields)
    assert "".join(fed(made, tokens)) == text
    assert (made.reason, made.tokens) == (reason, counted)


def test_white_space_before_a_transcripts_line_is_left_out() -> None:
    assert fed(reply(trims=True), list(b" \n Hi  there")) == ["H", "i", " ", " ", "t", "h", "e", "r", "e"]
    assert fed(reply(), list(b" Hi")) == [" ", "H", "i"]

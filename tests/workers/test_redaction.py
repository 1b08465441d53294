"""What is never repeated of words that are not ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.redaction import QUOTE_CHARS, redacted

CANARY = "sk-CANARY-7f3a9c51d2e84b60-Zq"


@pytest.mark.parametrize(
    "text",
    [
        f"key {CANARY}",
        f"key {CANARY[:8]}...",
        f"key ...{CANARY[-8:]}",
        f"key {CANARY[:10]}****{CANARY[-4:]}",
        "key sk-proj-abcdefabcdef",
        "key gsk_abcdef123456",
        "Bearer abcdefghijkl",
        "api_key=abcdefgh",
        "it is 0123456789abcdef0123456789abcdef",
        "see https://user:secret@example.com/x?key=hunter2",
    ],
)
def test_keys_and_addresses_are_taken_out(text: str) -> None:
    shown = redacted(text, (CANARY,))
    for part in (CANARY[:8], CANARY[-8:], "abcdef", "hunter2", "secret@", "0123456789abcdef"):
        assert part not in shown


def test_what_is_left_is_one_short_line_and_keeps_the_model() -> None:
    assert redacted("a\n\tb\x00c\ud800d") == "a b c d"
    assert len(redacted("word " * 1000)) == QUOTE_CHARS
    model = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
    assert model in redacted(f"no model {model}", keep=model)


@given(st.text(), st.text(min_size=1, max_size=40))
def test_a_registered_secret_never_survives(text: str, secret: str) -> None:
    secret = "s3cr3t" + secret
    assert secret not in redacted(f"{text}{secret}{text}", (secret,))

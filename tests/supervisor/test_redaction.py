"""What is taken out of a text: secrets in every form and every piece, passwords in URLs, who somebody is."""

from __future__ import annotations

import base64
import json
from pathlib import Path, PureWindowsPath
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.redaction import GRAM, Redactor, secret_name, secrets_in

KEY = 'gsk_Ab1/Cd2+Ef3=Gh4 Ij5"Kl6\\Mn7%Op8'
PLAIN = "hidden-word-of-mine"


def clean(text: str, *secrets: str) -> str:
    return Redactor(secrets).clean(text)


@pytest.mark.parametrize(
    "form",
    [
        KEY,
        repr(KEY),
        json.dumps(KEY),
        quote(KEY, safe=""),
        KEY.encode().hex(),
        KEY.encode().hex().upper(),
        base64.b64encode(KEY.encode()).decode(),
        base64.urlsafe_b64encode(KEY.encode()).decode(),
        base64.b64encode(b"a" + KEY.encode() + b"b").decode(),
        base64.b64encode(b"ab" + KEY.encode() + b"bc").decode(),
        base64.b64encode(b"user:" + KEY.encode()).decode(),
    ],
    ids=["plain", "repr", "json", "url", "hex", "HEX", "base64", "urlsafe", "base64+1", "base64+2", "basic"],
)
def test_a_secret_is_found_in_every_form(form: str) -> None:
    pieces = {form[i : i + GRAM] for i in range(4, len(form) - GRAM - 3)}
    shown = clean(f"before {form} after", KEY)
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    assert not [piece for piece in pieces if piece in shown]


@given(st.integers(0, len(PLAIN) - GRAM), st.integers(GRAM, len(PLAIN)))
def test_every_piece_of_a_secret_is_taken_out(start: int, length: int) -> None:
    assert clean(f"<{PLAIN[start : start + length]}>", PLAIN) == "<***>"


@given(st.text(st.characters(codec="utf-8"), max_size=40), st.text(st.characters(codec="utf-8"), max_size=40))
def test_no_piece_is_left_whatever_stands_around_it(before: str, after: str) -> None:
    shown = clean(before + PLAIN + after, PLAIN)
    assert not [i for i in range(len(PLAIN) - GRAM + 1) if PLAIN[i : i + GRAM] in shown]


def test_two_secrets_beside_each_other_leave_nothing_between() -> None:
    assert clean("first-secretsecond-secret", "first-secret", "second-secret") == "***"


def test_a_short_secret_is_taken_out_whole_and_a_tiny_one_stays() -> None:
    assert clean("sesame opens abc", "sesame", "abc") == "*** opens abc"


def test_a_secret_over_two_lines_is_taken_out_of_each() -> None:
    assert clean("first-half and second-half", "first-half\nsecond-half") == "*** and ***"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pw@host/x", "http://***@host/x"),
        ("http://me:p/w@ho@host/x", "http://***@host/x"),
        ("https://host/v1?key=abc&n=1#part", "https://host/v1?key=***&n=***#***"),
        ("https://host/v1", "https://host/v1"),
        ("ws://127.0.0.1:7562", "ws://127.0.0.1:7562"),
    ],
)
def test_a_url_loses_its_user_its_password_and_its_query(text: str, shown: str) -> None:
    assert clean(f"at '{text}' now") == f"at '{shown}' now"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abcd", "Authorization: ***"),
        ('{"api_key": "abcd"}', '{"api_key": "***"}'),
        ("token=abcd, pid=12", "token=***, pid=12"),
        ("x sk-abcdefghijklmnop y", "x *** y"),
        ("id 4f1c6b7e9a0d4f1c6b7e9a0d4f1c6b7e end", "id *** end"),
        ("id 01234567-89ab-cdef-0123-456789abcdef end", "id *** end"),
        ("worker ready provider=groq pid=41 ms=812", "worker ready provider=groq pid=41 ms=812"),
        ("envs/0123456789abcdef-0a1b/bin/python", "envs/0123456789abcdef-0a1b/bin/python"),
        ("Linux-6.1.44-x86_64-with-glibc2.36", "Linux-6.1.44-x86_64-with-glibc2.36"),
        ("total_input_tokens_of_all_requests", "total_input_tokens_of_all_requests"),
    ],
)
def test_what_looks_like_a_secret_goes_and_what_helps_stays(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_on_a_screen_a_path_can_be_typed_again_and_a_known_secret_is_still_none() -> None:
    path = "/srv/0123456789abcdef0123456789abcdef/token=x123456"
    assert Redactor([PLAIN], by_looks=False).clean(f"{path} {PLAIN}") == f"{path} ***"


def test_lines_stay_lines() -> None:
    assert clean(f"one\n{PLAIN}\n\nthree\n", PLAIN) == "one\n***\n\nthree\n"


def test_folders_and_names_are_masked_and_common_names_are_not() -> None:
    folders = [Path("/home/mia"), Path("/")]
    redactor = Redactor([], folders=folders, names={"mia": "USER", "root": "USER", "pc-7.lan": "HOST"})
    text = "/home/mia/x of Mia on PC-7.lan; miami/root"
    assert redactor.clean(text) == "~/x of USER on HOST; miami/root"


def test_a_folder_of_windows_is_masked_in_json_too() -> None:
    folder = PureWindowsPath("C:\\Users\\Mia")
    redactor = Redactor([], folders=[folder])  # type: ignore[list-item]  # a Path of that system is one
    said = json.dumps({"argv": ["C:\\Users\\Mia\\x"]}) + " C:\\Users\\Mia\\x C:/Users/Mia/x"
    assert redactor.clean(said) == '{"argv": ["~\\\\x"]} ~\\x ~/x'


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        *(
            (name, True)
            for name in ("GROQ_API_KEY", "MY_TOKEN", "Password", "AWS_SECRET", "DB_PASS", "X_AUTH")
        ),
        *((name, False) for name in ("PATH", "HOME", "LANG")),
    ],
)
def test_a_variable_is_secret_by_its_name(name: str, secret: bool) -> None:
    assert secret_name(name) is secret


@pytest.mark.parametrize(
    ("value", "secrets"),
    [
        ("word", {"word"}),
        ("https://host/path", set()),
        ("https://me:pw@host/?key=abc&x=de#frag", {"me", "pw", "abc", "de", "frag"}),
        ("https://me:p/w@host", {"me", "p", "w"}),
        ("https://[bad", {"https://[bad"}),
    ],
)
def test_of_a_url_only_what_is_secret_is_one(value: str, secrets: set[str]) -> None:
    assert set(secrets_in(value)) == secrets

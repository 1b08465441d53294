"""Keys do not get into the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from workers import logs
from workers.adapter import Binding


@pytest.fixture(autouse=True)
def no_secrets() -> Iterator[None]:
    logs._secrets.clear()
    yield
    logs._secrets.clear()


def line(message: str, *, error: Exception | None = None) -> str:
    info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("x", logging.ERROR, __file__, 1, "%s", (message,), info)
    return logs.HidingFormatter("%(levelname)s %(name)s: %(message)s").format(record)


def test_a_line_begins_with_its_level() -> None:
    assert line("hello") == "ERROR x: hello"


def test_a_key_is_hidden_in_the_message_and_in_the_traceback() -> None:
    logs.hide_secrets(Binding(1, key="sk-canary-1"))
    assert line("key sk-canary-1!") == "ERROR x: key ***!"
    assert "canary" not in line("failed", error=ValueError("header sk-canary-1"))


def test_a_key_is_hidden_where_it_is_quoted() -> None:
    logs.hide_secrets(Binding(1, key="sk-canary\n1"))
    assert "canary" not in line("failed", error=ValueError(repr("sk-canary\n1")))


def test_options_named_like_a_secret_are_hidden_and_others_are_not() -> None:
    options = {"aws_secret_access_key": "canary-secret", "region": "eu-central-1", "api_token": 5}
    logs.hide_secrets(Binding(1, options=options))
    assert line("canary-secret in eu-central-1") == "ERROR x: *** in eu-central-1"


def test_a_key_too_short_to_be_one_does_not_garble_the_log() -> None:
    logs.hide_secrets(Binding(1, key="none"))
    assert line("none of it") == "ERROR x: none of it"

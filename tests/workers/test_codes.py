"""The table of error codes: complete, closed, and never renumbered."""

from __future__ import annotations

import pytest

from workers.codes import TABLE, Code

SDK_NAMES = {
    "SUCCESS",
    "UNEXPECTED",
    "AUTHORIZATION",
    "INVALID_PROMPT",
    "INVALID_PROVIDER",
    "INVALID_MODEL",
    "TIMEOUT",
    "INTERRUPT",
}


def test_every_code_has_one_row() -> None:
    assert list(TABLE) == list(Code)


def test_the_first_eight_codes_are_the_names_of_the_published_client() -> None:
    assert {code.name for code in list(Code)[:8]} == SDK_NAMES
    assert all(code.sdk_name == code.name for code in list(Code)[:8])


@pytest.mark.parametrize("code", Code, ids=lambda code: code.name)
def test_a_code_has_a_name_that_old_clients_know_and_a_remedy(code: Code) -> None:
    assert code.sdk_name in SDK_NAMES
    assert TABLE[code].when
    assert TABLE[code].remedy
    assert code.retryable is TABLE[code].retryable


def test_codes_are_numbered_without_a_gap() -> None:
    assert [int(code) for code in Code] == list(range(len(Code)))


@pytest.mark.parametrize(
    "code",
    [Code.SUCCESS, Code.INTERRUPT, Code.AUTHORIZATION, Code.INVALID_PROMPT],
    ids=lambda code: code.name,
)
def test_what_nobody_can_cure_by_waiting_is_not_retryable(code: Code) -> None:
    assert not code.retryable

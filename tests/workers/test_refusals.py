"""What a refusal means, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from workers.codes import Code
from workers.error_fields import ErrorFields, parse_fields
from workers.refusals import Who, refusal

CANARY = "sk-CANARY-7f3a9c51d2e84b60-Zq"
WHO = Who("Fake", ("FAKE_API_KEY", "FAKE_KEY"), (CANARY,))
RECORDED: Final[list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "captured_refusals.json").read_text(encoding="utf-8")
)
"""Refusals as providers really word them, each with what it means and where it was seen; a status of null is
an error inside a stream or with status 200."""


@pytest.mark.parametrize("code", [code for code in Code if code in (2, 3, 5, 12, 13, 14, 15, 18, 19)])
def test_every_sentence_names_the_provider_and_holds_no_placeholder(code: Code) -> None:
    status = {2: 401, 3: 400, 5: 404, 12: 429, 13: 402, 14: 413, 15: 451, 18: 500, 19: 405}[code]
    fields = ErrorFields(code="model_not_found" if status == 404 else "", message=f"oops {CANARY}")
    error = refusal(WHO, status, fields, model="m-1", retry_after_ms=5)
    assert (error.code, error.provider_status, error.retry_after_ms) == (code, status, 5)
    assert f"Fake (HTTP {status})" in error.message
    assert "{" not in error.message
    assert CANARY not in error.message


@pytest.mark.foreign
@pytest.mark.parametrize("row", RECORDED, ids=lambda row: f"{row['provider']} {row['status']} {row['means']}")
def test_a_refusal_means_what_its_provider_means(row: dict[str, Any]) -> None:
    error = refusal(WHO, row["status"], parse_fields(json.dumps(row["body"]).encode()), model="m-1")
    assert error.code is Code[row["means"]]
    assert row["source"]


def test_only_a_message_that_helps_is_quoted() -> None:
    assert "top_p is odd" in refusal(WHO, 400, ErrorFields(message="top_p is odd")).message
    assert "org-1" not in refusal(WHO, 429, ErrorFields(message="limit of org-1")).message
    assert "bad" not in refusal(WHO, 401, ErrorFields(message="bad")).message


def test_a_secret_is_in_no_repr() -> None:
    assert CANARY not in repr(WHO)
    assert CANARY not in repr(refusal(WHO, 400, ErrorFields(message=CANARY)).fields)


def test_a_wait_in_the_body_counts_where_no_header_tells_one() -> None:
    fields = ErrorFields(retry_after_ms=1500)
    assert refusal(WHO, 429, fields).retry_after_ms == 1500
    assert refusal(WHO, 429, fields, retry_after_ms=0).retry_after_ms == 0


def test_a_status_may_mean_something_of_its_own_at_one_provider() -> None:
    fields = ErrorFields(message="m")
    own = Who("Fake", statuses={497: Code.CONTENT_FILTERED})
    assert refusal(own, 497, fields).code is Code.CONTENT_FILTERED
    assert refusal(WHO, 497, fields).code is Code.UPSTREAM_PROTOCOL
    assert refusal(own, None, fields).code is Code.UPSTREAM_ERROR

"""What a refusal means, what is said of it, and what is never repeated from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.codes import Code
from workers.refusals import (
    QUOTE_CHARS,
    ErrorFields,
    Who,
    parse_fields,
    redacted,
    refusal,
    retry_after_ms,
)

CANARY = "sk-CANARY-7f3a9c51d2e84b60-Zq"
WHO = Who("Fake", ("FAKE_API_KEY", "FAKE_KEY"), (CANARY,))
NOW = 1_700_000_000.0
RAW: Final = '{"error": {"message": "r", "code": "context_length_exceeded"}}'
"""What a provider behind a router said."""
RECORDED: Final[list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "captured_refusals.json").read_text(encoding="utf-8")
)
"""Refusals as providers really word them, each with what it means and where it was seen; a status of null is
an error inside a stream or with status 200."""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            b'{"error": {"message": "m", "type": "T", "code": "C", "param": "p"}}',
            ErrorFields("c", "t", "p", "m"),
        ),
        (b'{"error": "m"}', ErrorFields(message="m")),
        (b'[{"error": {"message": "m", "code": 429}}]', ErrorFields(code="429", message="m", status=429)),
        (b'{"object": "error", "message": "m", "code": 1500}', ErrorFields(code="1500", message="m")),
        (b'{"detail": "m"}', ErrorFields(message="m")),
        (
            b'{"error": "m", "error_type": "Validation"}',
            ErrorFields(kind="validation", message="m"),
        ),
        (b'{"code": "Odd", "error": "m"}', ErrorFields(code="odd", message="m")),
        (b'{"error": {"message": "m", "status": 400}}', ErrorFields(message="m", status=400)),
        (b'{"error": {"message": "m", "status_code": 503}}', ErrorFields(message="m", status=503)),
        (b'{"error": {"message": "m", "status": "INVALID"}}', ErrorFields(message="m")),
        (b'{"error": {"message": "m", "http_status_code": 422}}', ErrorFields(message="m")),
        (b'{"detail": [{"loc": ["body", "top_k"], "msg": "m"}]}', ErrorFields("", "", "top_k", "top_k: m")),
        (b'{"message": {"detail": [{"loc": ["a", 0], "msg": "m"}, 7]}}', ErrorFields("", "", "a", "a: m")),
        (b'{"message": "{\\"detail\\": [{\\"msg\\": \\"m\\"}]}"}', ErrorFields(message="m")),
        (b'{"message": "{not json"}', ErrorFields(message="{not json")),
        (b'{"detail": [7]}', ErrorFields()),
        (
            json.dumps({"error": {"message": "m", "code": 400, "metadata": {"raw": RAW}}}).encode(),
            ErrorFields("context_length_exceeded", message="m: r", status=400),
        ),
        (
            b'{"error": {"message": "m", "code": "c", "metadata": {"raw": "oops"}}}',
            ErrorFields("c", message="m: oops"),
        ),
        (b'{"error": {"message": "m", "metadata": {"raw": 7}}}', ErrorFields(message="m")),
        (b'{"Message": "m"}', ErrorFields(message="m")),
        (
            b'{"errors": [{"code": "C", "message": "m"}, {"code": "D"}], "status_code": 404}',
            ErrorFields("c", message="m", status=404),
        ),
        (b'{"errors": [{"message": "m"}], "status_code": 503}', ErrorFields(message="m", status=503)),
        (b'{"errors": [{"code": 7003, "message": "m"}]}', ErrorFields("7003", message="m")),
        (b'{"errors": ["m"]}', ErrorFields(message="m")),
        (b'{"errors": [7]}', ErrorFields()),
        (b'{"errors": [], "message": "m"}', ErrorFields(message="m")),
        (b'{"error": "m", "errors": ["n"]}', ErrorFields(message="m")),
        (b'{"error": 7}', ErrorFields()),
        (b"[]", ErrorFields()),
        (b"null", ErrorFields()),
        (b"<html>", ErrorFields()),
        (b"[" * 100_000, ErrorFields()),
        (b"\xff", ErrorFields()),
        (b'{"error": {"message": ["m"], "code": {"a": 1}}}', ErrorFields()),
        (
            b'{"error": {"code": 429, "details": [{"reason": "R"}, 7, {"retryDelay": "1.5s"}]}}',
            ErrorFields(code="r", status=429, retry_after_ms=1500),
        ),
        (b'{"error": {"code": 429, "details": {"reason": "R"}}}', ErrorFields(code="429", status=429)),
        (b'{"error": {"details": [{"retryDelay": "soon"}, {"reason": {}}]}}', ErrorFields()),
    ],
)
def test_the_known_fields_are_read_from_every_shape(body: bytes, expected: ErrorFields) -> None:
    assert parse_fields(body) == expected


@given(st.binary())
def test_no_body_whatever_fails_to_be_read(body: bytes) -> None:
    assert isinstance(parse_fields(body), ErrorFields)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("1", 1000),
        ("0", 0),
        ("1.5", 1500),
        ("3600", 3_600_000),
        ("Tue, 14 Nov 2023 22:13:30 GMT", 10_000),
        ("Tue, 14 Nov 2023 22:13:10 GMT", 0),
        ("Tue, 14 Nov 3023 22:13:10 GMT", None),
        ("999999999", None),
        ("-1", None),
        ("soon", None),
        ("1e9", None),
        ("", None),
        (None, None),
    ],
)
def test_a_wait_is_seconds_or_a_date_and_nothing_else(header: str | None, expected: int | None) -> None:
    assert retry_after_ms(header, NOW) == expected


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


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("ValidationException:http://internal.amazon.com/coral/", "validationexception"),
        ("ThrottlingException", "throttlingexception"),
        ("", "t"),
    ],
)
def test_a_header_may_name_the_kind_of_an_error(kind: str, expected: str) -> None:
    fields = parse_fields(b'{"error": {"message": "m", "type": "T"}}', kind=kind)
    assert (fields.kind, fields.message) == (expected, "m")

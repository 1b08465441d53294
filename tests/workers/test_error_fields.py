"""Where the body of an error keeps its words: every shape of it, and none that fails to be read."""

from __future__ import annotations

import json
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.error_fields import ErrorFields, parse_fields, retry_after_ms

NOW = 1_700_000_000.0
RAW: Final = '{"error": {"message": "r", "code": "context_length_exceeded"}}'
"""What a provider behind a router said."""


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

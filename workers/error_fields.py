"""Where the body of an error keeps its words: one reading of all the shapes that providers give it. No I/O.

What the words mean is decided in refusals.py.
"""

from __future__ import annotations

import email.utils
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

__all__ = ["ErrorFields", "parse_fields", "retry_after_ms"]

RETRY_AFTER_MAX_S: Final = 7 * 24 * 3600
"""A longer wait is a mistake of the provider's clock."""
_STATUS_FIELDS: Final = ("code", "status", "status_code", "statusCode")
"""Where a body may give a status. TGI's `http_status_code` is not among them: it is 422 whatever happened."""
_STATUS_CHARS: Final = 3


@dataclass(frozen=True, slots=True)
class ErrorFields:
    """The known fields of an error body; empty where it has none."""

    code: str = ""
    kind: str = ""
    param: str = ""
    message: str = field(default="", repr=False)
    status: int | None = None
    """An HTTP status that the body itself gives."""
    retry_after_ms: int | None = None
    """When to come back, where the body says it."""


def parse_fields(body: bytes | Any, *, kind: str = "") -> ErrorFields:
    """The known fields of an error body, in whichever of the usual shapes; never raises.

    `kind` is what a header calls the error, as Amazon does: `NameException:http://of.its/schema`.
    """
    fields = _error_in(_parsed(body) if isinstance(body, bytes) else body)
    named = kind.partition(":")[0].strip().lower()
    return replace(fields, kind=named) if named else fields


def retry_after_ms(value: str | None, now: float) -> int | None:
    """A Retry-After header as milliseconds from `now` (a time as of the epoch); None for what is neither
    seconds nor a date."""
    if value is None:
        return None
    text = value.strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
        seconds = float(text)
    else:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - now
        except (ValueError, TypeError, IndexError, OverflowError, OSError):
            return None
        seconds = max(0.0, seconds)
    return round(seconds * 1000) if seconds <= RETRY_AFTER_MAX_S else None


def _error_in(value: Any) -> ErrorFields:
    """The fields of what holds an error somewhere."""
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return ErrorFields()
    inner = value.get("error", value)
    listed = value.get("errors")
    if "error" not in value and isinstance(listed, list) and listed:  # IBM and Cloudflare name several
        inner = listed[0]
        inner = {"status_code": value.get("status_code"), **inner} if isinstance(inner, dict) else inner
    if isinstance(inner, str):
        inner = {"type": value.get("error_type"), **value, "message": inner}  # TGI and xAI name it beside
    return _fields(inner) if isinstance(inner, dict) else ErrorFields()


def _fields(error: Mapping[str, Any]) -> ErrorFields:
    """The fields of what is an error and nothing else."""
    message, found_in = _said(error.get("message") or error.get("Message") or error.get("detail"))
    reason, delay = _details(error.get("details"))
    code = (reason or _text(error.get("code"))).lower()
    kind = (_text(error.get("type")) or _text(error.get("rc"))).lower()
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    if isinstance(raw, str):  # OpenRouter: what the provider behind it said
        behind = parse_fields(raw.encode("utf-8", "replace"))
        message = f"{message}: {behind.message or raw}"
        code = behind.code if behind.code and (not code or code.isdecimal()) else code
    numbers = (_number(error.get(name)) for name in _STATUS_FIELDS)
    status = next((number for number in numbers if number is not None and 400 <= number <= 599), None)
    wait = retry_after_ms(delay.removesuffix("s"), 0) if delay else None
    return ErrorFields(code, kind, _text(error.get("param")) or found_in, message, status, wait)


def _said(value: object) -> tuple[str, str]:
    """The words of an error, and the parameter that they are about; of several findings, the first one's."""
    if isinstance(value, str) and value.startswith("{"):
        value = _parsed(value) or value
    if isinstance(value, dict):
        value = value.get("detail") or value.get("msg")
    finding = value[0] if isinstance(value, list) and value else None
    if not isinstance(finding, dict):
        return _text(value), ""
    place = finding.get("loc")
    names = [part for part in place if isinstance(part, str)] if isinstance(place, list) else []
    name = names[-1] if names else ""
    return ": ".join(filter(None, (name, _text(finding.get("msg"))))), name


def _parsed(text: bytes | str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _number(value: object) -> int | None:
    if isinstance(value, str) and value.isdecimal() and value.isascii() and len(value) <= _STATUS_CHARS:
        return int(value)
    return value if type(value) is int else None


def _details(details: object) -> tuple[str, str]:
    """The reason and the delay in the details of an error, as Google gives them (google.rpc)."""
    items = [item for item in details if isinstance(item, dict)] if isinstance(details, list) else []

    def first(name: str) -> str:
        return next((value for item in items if (value := _text(item.get(name)))), "")

    return first("reason"), first("retryDelay")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return str(value) if type(value) is int else ""

"""What a refusal of an HTTP provider means: status and body into one AdapterError. No I/O.

A status outranks what the body says. Where a status leaves it open (400, 404, 422, an error inside a
stream), the body's own error code decides, and careful patterns of its message come last. Two statuses are
also what some say of an account without money or of a filtered prompt (403, 429); there the body may say so.
The sentences are ours. A short message of the provider is quoted only where it helps to mend the request,
and only after everything that may be a secret was taken out of it.
"""

from __future__ import annotations

import email.utils
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

from workers.adapter import AdapterError
from workers.codes import Code

__all__ = [
    "ErrorFields",
    "Refusal",
    "Who",
    "parse_fields",
    "redacted",
    "redirected",
    "refusal",
    "retry_after_ms",
]

QUOTE_CHARS: Final = 200
"""More of a provider's message helps nobody, and may hold a prompt."""
SECRET_PART_CHARS: Final = 8
"""A provider may show the ends of a key; so many characters of them count as the key."""
RETRY_AFTER_MAX_S: Final = 7 * 24 * 3600
"""A longer wait is a mistake of the provider's clock."""

_BY_STATUS: Final = {
    401: Code.AUTHORIZATION,
    402: Code.QUOTA,
    403: Code.AUTHORIZATION,
    408: Code.UPSTREAM_ERROR,
    413: Code.CONTEXT_TOO_LONG,
    424: Code.UPSTREAM_ERROR,
    429: Code.RATE_LIMITED,
    451: Code.CONTENT_FILTERED,
    498: Code.UPSTREAM_ERROR,
    499: Code.UPSTREAM_ERROR,
}
"""424 is TGI's word for a failed generation, 498 Groq's for a tier without capacity, 499 Google's for a
generation that was cancelled over there."""
_BESIDE_STATUS: Final = {403: (Code.QUOTA, Code.CONTENT_FILTERED), 429: (Code.QUOTA,)}
"""What some say with a status that means something else to all others."""
_OPEN_STATUSES: Final = (400, 404, 410, 422)
"""Statuses under which providers put several different things."""
_BY_UPSTREAM_CODE: Final = {
    "insufficient_quota": Code.QUOTA,
    "insufficient_credits": Code.QUOTA,
    "billing_hard_limit_reached": Code.QUOTA,
    "token_quota_reached": Code.QUOTA,
    "billing_error": Code.QUOTA,
    "invalid_api_key": Code.AUTHORIZATION,
    "api_key_invalid": Code.AUTHORIZATION,
    "billing_disabled": Code.QUOTA,
    "authentication_error": Code.AUTHORIZATION,
    "permission_error": Code.AUTHORIZATION,
    "permission_denied": Code.AUTHORIZATION,
    "rate_limit_exceeded": Code.RATE_LIMITED,
    "rate_limit_error": Code.RATE_LIMITED,
    "too_many_requests": Code.RATE_LIMITED,
    "context_length_exceeded": Code.CONTEXT_TOO_LONG,
    "exceed_context_size_error": Code.CONTEXT_TOO_LONG,
    "string_above_max_length": Code.CONTEXT_TOO_LONG,
    "request_too_large": Code.CONTEXT_TOO_LONG,
    "content_filter": Code.CONTENT_FILTERED,
    "content_policy_violation": Code.CONTENT_FILTERED,
    "model_not_found": Code.INVALID_MODEL,
    "model_not_supported": Code.INVALID_MODEL,
    "deploymentnotfound": Code.INVALID_MODEL,
    "model_not_available": Code.INVALID_MODEL,
    "model_decommissioned": Code.INVALID_MODEL,
    "invalid_model": Code.INVALID_MODEL,
    "container_not_found": Code.INVALID_PROMPT,
    "unsupported_parameter": Code.INVALID_PROMPT,
    "unsupported_value": Code.INVALID_PROMPT,
    "server_error": Code.UPSTREAM_ERROR,
    "internal_server_error": Code.UPSTREAM_ERROR,
    "overloaded_error": Code.UPSTREAM_ERROR,
    "servicequotaexceededexception": Code.QUOTA,
    "resourcenotfoundexception": Code.INVALID_MODEL,
}
_PATTERNS: Final = (
    (
        Code.QUOTA,
        r"credit balance is too low|used all available credits|(doesn't|does not) have any credits"
        r"|run out of credits|monthly (spending limit|included credits)|insufficient balance",
    ),
    (Code.AUTHORIZATION, r"(incorrect|invalid|missing) api[ _-]?key|api[ _-]?key (is )?(not valid|invalid)"),
    (
        Code.CONTEXT_TOO_LONG,
        r"context[ _-]?(length|window|size|limit)|maximum (context|prompt|input)"
        r"|(prompt|input|messages?) (is|are) too long|too many (input )?tokens|reduce the length"
        r"|token count\b.{0,60}\bexceeds the maximum"
        r"|`inputs` (tokens \+ `max_new_tokens` must be|must have less than)"  # TGI
        r"|cannot exceed the total tokens",  # IBM
    ),
    (
        Code.CONTENT_FILTERED,
        r"content[ _-](management )?(policy|filter)|content exists risk"
        r"|(was|been) flagged|safety (system|policy)",
    ),
    (
        Code.INVALID_MODEL,
        r"models?\b.{0,120}\b(not (found|exist|available)|does not exist|doesn't exist|decommissioned)"
        r"|(not a valid|invalid|unknown|no such|unsupported) model|no endpoints found|model not exist"
        r"|model\b.{0,120}\b(not supported by (any )?provider|is not a chat model)"
        r"|model identifier is invalid|on-demand throughput isn"
        r"|\Amodel: \S+\Z",  # Anthropic says no more than that
    ),
    (Code.INVALID_PROMPT, r"\A(input validation|template|tool) error\b"),  # TGI, inside a stream
    (Code.UNSUPPORTED, r"\blocation is not supported"),
)
_COMPILED: Final = tuple(
    (code, re.compile(pattern, re.IGNORECASE | re.DOTALL)) for code, pattern in _PATTERNS
)
_STATUS_FIELDS: Final = ("code", "status", "status_code", "statusCode")
"""Where a body may give a status. TGI's `http_status_code` is not among them: it is 422 whatever happened."""
_STATUS_CHARS: Final = 3
_QUOTED: Final = (Code.INVALID_PROMPT, Code.INVALID_MODEL, Code.CONTEXT_TOO_LONG, Code.UNSUPPORTED)
"""Codes whose cause only the provider's own words tell; all others need none of them."""
_SENTENCES: Final = {
    Code.AUTHORIZATION: "{who} refused the key: {key_remedy}",
    Code.QUOTA: "{who} says that the account is out of credit or quota: top it up at the provider",
    Code.INVALID_PROMPT: "{who} refused the request: change what it names",
    Code.INVALID_MODEL: "{who} does not know {model}: use a name from get_models",
    Code.CONTEXT_TOO_LONG: "the messages do not fit the context of {model} at {who}: shorten them",
    Code.CONTENT_FILTERED: "{who} refused the messages by its content filter: change the prompt",
    Code.RATE_LIMITED: "{who} says that there were too many requests: wait, then try again",
    Code.UPSTREAM_ERROR: "{who} failed: try again a little later",
    Code.UPSTREAM_PROTOCOL: "{who} did not answer as an API does: check that the base URL is the API's",
    Code.UNSUPPORTED: "{who} does not serve this request from here: use another provider",
}

_URL: Final = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_KEY_SHAPES: Final = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|hf)[-_][\w.*…-]{6,}"  # what keys begin with
    r"|(?:key|token|secret|password)[\"']?\s*[:=]\s*[\"']?[^\s\"',}]{4,}"
    r"|\bbearer\s+\S{6,}"
    r"|[\w+/=-]*\*{3,}[\w+/=-]*"  # one that the provider masked itself
    r"|(?=[\w+/=-]*\d)(?=[\w+/=-]*[A-Za-z])[\w+/=-]{24,}",  # long, with digits and letters
    re.IGNORECASE,
)
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


@dataclass(frozen=True, slots=True)
class Who:
    """Whose refusal it is, and what must not be repeated from it."""

    name: str
    key_variables: tuple[str, ...] = ()
    secrets: tuple[str, ...] = field(default=(), repr=False)
    statuses: Mapping[int, Code] = field(default_factory=dict)
    """What a status means there and nowhere else."""
    words: Mapping[str, Code] = field(default_factory=dict)
    """What its own words for errors mean, in lower case; they outrank a status."""


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


class Refusal(AdapterError):
    """A refusal that the provider itself expressed; `fields` are for decisions, never for a client."""

    fields: ErrorFields = ErrorFields()


def refusal(
    who: Who, status: int | None, fields: ErrorFields, *, model: str = "", retry_after_ms: int | None = None
) -> Refusal:
    """The error for an answer with that status, or, without one, for an error inside a stream."""
    code = who.words.get(fields.kind) or who.statuses.get(status or 0) or _classified(status, fields)
    shown_model = f"model {model!r}" if model else "that model"
    sentence = _SENTENCES[code].format(
        who=who.name if status is None else f"{who.name} (HTTP {status})",
        model=shown_model,
        key_remedy=_key_remedy(who),
    )
    quote = redacted(fields.message, who.secrets, keep=model) if code in _QUOTED else ""
    error = Refusal(
        code,
        f"{sentence} (it said: {quote})" if quote else sentence,
        retry_after_ms=fields.retry_after_ms if retry_after_ms is None else retry_after_ms,
        provider_status=status if status is not None else fields.status,
    )
    error.fields = fields
    return error


def redirected(who: Who, status: int, location: str) -> AdapterError:
    """The error for a redirect: it is never followed, since the whole prompt would go with it."""
    try:
        target = urlsplit(location).hostname
    except ValueError:
        target = None
    shown = redacted(target, who.secrets) if target else "another path"
    return AdapterError(
        Code.UPSTREAM_PROTOCOL,
        f"{who.name} answered with a redirect to {shown}, which is never followed: correct the base URL",
        provider_status=status,
    )


def parse_fields(body: bytes | Any, *, kind: str = "") -> ErrorFields:
    """The known fields of an error body, in whichever of the usual shapes; never raises.

    `kind` is what a header calls the error, as Amazon does: `NameException:http://of.its/schema`.
    """
    fields = _error_in(_parsed(body) if isinstance(body, bytes) else body)
    named = kind.partition(":")[0].strip().lower()
    return replace(fields, kind=named) if named else fields


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


def redacted(text: str, secrets: Iterable[str] = (), *, keep: str = "") -> str:
    """`text` on one line, at most QUOTE_CHARS long, without keys and addresses; `keep` may stand in it."""
    text = _UNPRINTABLE.sub(" ", text)[: QUOTE_CHARS * 8]
    for secret in secrets:
        text = _without(text, secret)
    text = _URL.sub("(address)", text)
    text = _KEY_SHAPES.sub(lambda match: match[0] if match[0] in keep else "***", text)
    text = " ".join(text.split())
    return text if len(text) <= QUOTE_CHARS else text[: QUOTE_CHARS - 1] + "…"


def _without(text: str, secret: str) -> str:
    """`text` without `secret`, and without any word that shows an end of it."""
    if not secret:
        return text
    text = text.replace(secret, "***")
    if len(secret) < 2 * SECRET_PART_CHARS:
        return text
    for part in (secret[:SECRET_PART_CHARS], secret[-SECRET_PART_CHARS:]):
        text = re.sub(rf"\S*{re.escape(part)}\S*", "***", text)
    return text


def _classified(status: int | None, fields: ErrorFields) -> Code:
    by_code = _BY_UPSTREAM_CODE.get(fields.code) or _BY_UPSTREAM_CODE.get(fields.kind)
    if status is None:
        if fields.status is not None:
            return _classified(fields.status, fields)
        return by_code or _by_message(fields.message) or Code.UPSTREAM_ERROR
    for code in _BESIDE_STATUS.get(status, ()):
        if code in (by_code, _by_message(fields.message)):
            return code
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status >= 500:
        return Code.UPSTREAM_ERROR
    if status not in _OPEN_STATUSES:
        return Code.UPSTREAM_PROTOCOL
    found = by_code or _by_message(fields.message)
    if status in (404, 410):
        return found if found in (Code.INVALID_MODEL, Code.INVALID_PROMPT) else Code.UPSTREAM_PROTOCOL
    if found in (None, Code.UPSTREAM_ERROR, Code.RATE_LIMITED):
        return Code.INVALID_PROMPT
    return found


def _by_message(message: str) -> Code | None:
    return next((code for code, pattern in _COMPILED if pattern.search(message)), None)


def _key_remedy(who: Who) -> str:
    if not who.key_variables:
        return "give a valid one in `load`"
    return f"give a valid one in `load` or in {' or '.join(who.key_variables)}"


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return str(value) if type(value) is int else ""

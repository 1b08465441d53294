"""What a refusal of an HTTP provider means: a status and an error's words into one AdapterError. No I/O.

A status outranks what the body says. Where a status leaves it open (400, 404, 422, an error inside a
stream), the body's own error code decides, and careful patterns of its message come last. Two statuses are
also what some say of an account without money or of a filtered prompt (403, 429); there the body may say so.
The sentences are ours. A short message of the provider is quoted only where it helps to mend the request,
and only after everything that may be a secret was taken out of it.
Where a body keeps its words is error_fields.py's, what may be repeated of them redaction.py's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from workers.adapter import AdapterError
from workers.codes import Code
from workers.error_fields import ErrorFields
from workers.redaction import redacted

__all__ = ["Refusal", "Who", "redirected", "refusal"]

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

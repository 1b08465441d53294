"""The one table of error codes: names, what the SDK dialect calls them, and what a person does about each.

Both processes import this file, and so do the documentation and its tests.
A code is a number that never changes its meaning; a new one is added at the end.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

__all__ = ["TABLE", "Code", "CodeRow"]


class Code(enum.IntEnum):
    """What became of a request; 0 is success."""

    SUCCESS = 0
    UNEXPECTED = 1
    AUTHORIZATION = 2
    INVALID_PROMPT = 3
    INVALID_PROVIDER = 4
    INVALID_MODEL = 5
    TIMEOUT = 6
    INTERRUPT = 7
    INVALID_REQUEST = 8
    NOT_LOADED = 9
    DUPLICATE_ID = 10
    BUSY = 11
    RATE_LIMITED = 12
    QUOTA = 13
    CONTEXT_TOO_LONG = 14
    CONTENT_FILTERED = 15
    UNSUPPORTED = 16
    UNREACHABLE = 17
    UPSTREAM_ERROR = 18
    UPSTREAM_PROTOCOL = 19
    TRUNCATED = 20
    WORKER_CRASHED = 21
    OUT_OF_MEMORY = 22
    PROVIDER_DOWN = 23
    PROVISION_FAILED = 24
    SHUTTING_DOWN = 25

    @property
    def sdk_name(self) -> str:
        """The name in the closed set of eight that the published SDK client knows."""
        return TABLE[self].sdk_name

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later without anybody changing anything."""
        return TABLE[self].retryable


@dataclass(frozen=True, slots=True)
class CodeRow:
    """One row of the table: when a code is given, and the remedy that the documentation prints."""

    sdk_name: str
    retryable: bool
    when: str
    remedy: str


def _row(sdk_name: str, when: str, remedy: str, *, retryable: bool = False) -> CodeRow:
    return CodeRow(sdk_name, retryable, when, remedy)


TABLE: Final[dict[Code, CodeRow]] = {
    Code.SUCCESS: _row("SUCCESS", "the request was carried out", "nothing to do"),
    Code.UNEXPECTED: _row(
        "UNEXPECTED", "a bug of ours, or anything not named below", "look into the log and report it"
    ),
    Code.AUTHORIZATION: _row(
        "AUTHORIZATION",
        "the key is missing, refused, or not allowed this model (401, 403)",
        "give a valid key in `load` or in the variable that the message names",
    ),
    Code.INVALID_PROMPT: _row(
        "INVALID_PROMPT",
        "the provider refuses the messages or a parameter",
        "change what the message names",
    ),
    Code.INVALID_PROVIDER: _row(
        "INVALID_PROVIDER", "there is no such provider", "use a name from `get_providers`"
    ),
    Code.INVALID_MODEL: _row("INVALID_MODEL", "there is no such model", "use a name from `get_models`"),
    Code.TIMEOUT: _row(
        "TIMEOUT",
        "nothing arrived within timeout_ms or first_token_timeout_ms",
        "try again, or allow more time",
        retryable=True,
    ),
    Code.INTERRUPT: _row(
        "INTERRUPT",
        "ended by interrupt, supersedes, close or the client's going away",
        "nothing to do: somebody asked for it",
    ),
    Code.INVALID_REQUEST: _row(
        "INVALID_PROMPT", "the message breaks this protocol", "mend the field that the message names"
    ),
    Code.NOT_LOADED: _row(
        "INVALID_PROVIDER", "generate, and no provider is loaded", "send `load` and wait for `load_done`"
    ),
    Code.DUPLICATE_ID: _row(
        "INVALID_PROMPT",
        "the id is in use by an open request of this connection",
        "use a new unique_request_id for every request",
    ),
    Code.BUSY: _row(
        "UNEXPECTED", "the queue is full", "wait for open requests to end, then try again", retryable=True
    ),
    Code.RATE_LIMITED: _row(
        "UNEXPECTED",
        "the provider says: too many requests (429)",
        "wait retry_after_ms, then try again",
        retryable=True,
    ),
    Code.QUOTA: _row(
        "AUTHORIZATION", "out of credit (402, insufficient_quota)", "top up the account at the provider"
    ),
    Code.CONTEXT_TOO_LONG: _row(
        "INVALID_PROMPT", "the prompt does not fit the model's context", "send fewer or shorter messages"
    ),
    Code.CONTENT_FILTERED: _row(
        "INVALID_PROMPT", "refused or cut by the provider's filter", "change the prompt"
    ),
    Code.UNSUPPORTED: _row(
        "INVALID_PROMPT",
        "this provider, or this version, cannot do what was asked",
        "leave out what the message names, or use another provider",
    ),
    Code.UNREACHABLE: _row(
        "UNEXPECTED",
        "no connection: DNS, connect, TLS or proxy, the message says which",
        "check the network and the base URL",
        retryable=True,
    ),
    Code.UPSTREAM_ERROR: _row(
        "UNEXPECTED", "the provider failed (5xx)", "try again a little later", retryable=True
    ),
    Code.UPSTREAM_PROTOCOL: _row(
        "UNEXPECTED",
        "an answer that is not the provider's protocol",
        "check that the base URL is the API and not a web page",
    ),
    Code.TRUNCATED: _row(
        "UNEXPECTED",
        "the stream ended without its end",
        "try again; the text so far is incomplete",
        retryable=True,
    ),
    Code.WORKER_CRASHED: _row(
        "UNEXPECTED",
        "the provider's worker process died",
        "try again; the log says why it died",
        retryable=True,
    ),
    Code.OUT_OF_MEMORY: _row(
        "UNEXPECTED",
        "the worker was ended for its memory, or by the system",
        "use a smaller model or context, or close other programs",
    ),
    Code.PROVIDER_DOWN: _row(
        "UNEXPECTED",
        "the worker died too often and is not started again by itself",
        "look into the log, then send `load` for one more try",
    ),
    Code.PROVISION_FAILED: _row(
        "UNEXPECTED", "the provider's environment cannot be made", "run the command that the message names"
    ),
    Code.SHUTTING_DOWN: _row("INTERRUPT", "the module is closing", "start the module again"),
}

"""Every exception has one code, and what a client is told of a bug says nothing about its inside."""

from __future__ import annotations

import pytest

from supervisor.errors import (
    BUG_MESSAGE,
    ClientError,
    Failure,
    ModuleError,
    OperatorError,
    ProviderError,
    ProvisionError,
    SettingsError,
    WorkerError,
    failure_of,
)
from workers.codes import Code


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (ModuleError, Code.UNEXPECTED),
        (ClientError, Code.INVALID_REQUEST),
        (OperatorError, Code.UNEXPECTED),
        (ProvisionError, Code.PROVISION_FAILED),
        (SettingsError, Code.UNEXPECTED),
        (WorkerError, Code.WORKER_CRASHED),
    ],
)
def test_an_expected_failure_has_its_code_and_keeps_its_sentence(kind: type[ModuleError], code: Code) -> None:
    assert failure_of(kind("Why.")) == Failure(code, "Why.")


def test_a_code_given_at_the_raise_outranks_the_classes() -> None:
    exc = WorkerError("Why.", code=Code.OUT_OF_MEMORY)
    assert (exc.message, failure_of(exc).code) == ("Why.", Code.OUT_OF_MEMORY)
    assert failure_of(WorkerError("Why.")).code is Code.WORKER_CRASHED, "the class kept its own"


def test_what_a_worker_reported_is_told_unchanged() -> None:
    failure = Failure(Code.RATE_LIMITED, "Too many requests.", 1500, 429)
    assert failure_of(ProviderError(failure)) is failure
    assert ProviderError(failure).code is Code.RATE_LIMITED


@pytest.mark.parametrize("exc", [ValueError("sk-canary"), KeyError("sk-canary"), BaseException("sk-canary")])
def test_a_bug_is_unexpected_and_tells_nothing(exc: BaseException) -> None:
    assert failure_of(exc) == Failure(Code.UNEXPECTED, BUG_MESSAGE)

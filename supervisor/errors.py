"""Our exceptions, and the one table that turns an exception into a protocol code.

    ModuleError                 carries a Code and one sentence: what, which one, what to do
    ├── ClientError             the client can act: a bad message, key, model, provider
    ├── OperatorError           whoever runs the module can act: an environment, a setting, a port
    │   ├── ProvisionError      an environment cannot be made
    │   └── SettingsError       a flag, variable or file that cannot be used
    ├── WorkerError             a worker could not start, or died
    └── ProviderError           the provider refused, as its worker reported it

Anything else that is raised is a bug of ours and becomes UNEXPECTED.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from workers.codes import Code

__all__ = [
    "BUG_MESSAGE",
    "BootError",
    "ClientError",
    "Failure",
    "ModuleError",
    "OperatorError",
    "ProviderError",
    "ProvisionError",
    "SettingsError",
    "WorkerError",
    "failure_of",
]

BUG_MESSAGE: Final = "Something went wrong inside the module; its log has the traceback."


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request failed, as a client may see it: never a key, never a raw upstream body."""

    code: Code
    message: str
    retry_after_ms: int | None = None
    provider_status: int | None = None


class ModuleError(Exception):
    """An expected failure, with the code that a client is told."""

    code: Code = Code.UNEXPECTED
    retry_after_ms: int | None = None

    def __init__(self, message: str, *, code: Code | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code

    @property
    def message(self) -> str:
        """The sentence for the client and the log."""
        return str(self)


class ClientError(ModuleError):
    """The client asked for something that cannot be had; the message says what to change."""

    code = Code.INVALID_REQUEST


class OperatorError(ModuleError):
    """Whoever runs the module has to act."""


class ProvisionError(OperatorError):
    """An environment cannot be made; the message names the command that would."""

    code = Code.PROVISION_FAILED


class SettingsError(OperatorError):
    """A flag, a variable or a settings file that cannot be used."""


class WorkerError(ModuleError):
    """A worker could not be started, or died."""

    code = Code.WORKER_CRASHED


class BootError(WorkerError):
    """A worker's process ended before it was ready, or did not say hello: another try may succeed."""


class ProviderError(ModuleError):
    """The provider refused, or could not be reached; `failure` is what its worker reported."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, code=failure.code)
        self.failure = failure


def failure_of(exc: BaseException) -> Failure:
    """Translates any exception into what a client is told."""
    if isinstance(exc, ProviderError):
        return exc.failure
    if isinstance(exc, ModuleError):
        return Failure(exc.code, exc.message, exc.retry_after_ms)
    return Failure(Code.UNEXPECTED, BUG_MESSAGE)

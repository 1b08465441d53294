"""How a piece of an adapter's work ended, and the one place where an exception becomes an error code.

`guarded` stands around each request, each load and each close. What an adapter foresaw (AdapterError)
keeps its code and sentence; anything else is UNEXPECTED with a sentence of ours, and its traceback goes
to the log once, since the exception's own text may quote a key or a whole body.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from workers.adapter import AdapterError, Usage, Warn
from workers.codes import Code

__all__ = ["INTERRUPTED", "Ending", "guarded"]

NO_THREAD: Final = "can't start new thread"
"""What Python says where there is no memory for a thread's stack."""

_LOG = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ending:
    """What a terminal frame says; the code of a success is SUCCESS."""

    code: Code = Code.SUCCESS
    message: str = ""
    finish_reason: str | None = None
    model: str | None = None
    usage: Usage | None = None
    warnings: tuple[Warn, ...] = ()
    retries: int = 0
    retry_after_ms: int | None = None
    provider_status: int | None = None


INTERRUPTED: Final = Ending(Code.INTERRUPT, "The request was interrupted.", finish_reason="interrupt")


async def guarded(what: str, work: Callable[[], Awaitable[T]]) -> T | Ending:
    """Runs `work` and returns its result, or how it failed. Cancelling it cancels the work.

    `what` names the work in the log, never with anything of its content. The work is given as a function
    because a coroutine that is cancelled before its first step would warn that nobody awaited it.
    """
    try:
        return await work()
    except AdapterError as exc:
        return Ending(
            exc.code,
            exc.message,
            finish_reason="error",
            retry_after_ms=exc.retry_after_ms,
            provider_status=exc.provider_status,
        )
    except MemoryError:
        return _out_of_memory(what)
    except Exception as exc:  # noqa: BLE001 the boundary: whatever a provider's package raises ends one request
        if NO_THREAD in str(exc):
            return _out_of_memory(what)
        _LOG.error("%s failed", what, exc_info=exc)
        message = f"The adapter failed unexpectedly ({type(exc).__name__}); the log has the details."
        return Ending(Code.UNEXPECTED, message, finish_reason="error")


def _out_of_memory(what: str) -> Ending:
    _LOG.error("out of memory: %s", what)
    message = "The worker ran out of memory; use a smaller model or a shorter context."
    return Ending(Code.OUT_OF_MEMORY, message, finish_reason="error")

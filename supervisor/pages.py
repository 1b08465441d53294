"""What a plain GET on the module's port is answered: /livez, /readyz and /metrics. No I/O.

`/livez` answers while the loop turns, `/readyz` while clients are let in; both tell nothing that needs a
token, except `/readyz?verbose`, which like `/metrics` tells of the workers. Other paths are the WebSocket's.
"""

from __future__ import annotations

import enum
import http
from collections.abc import Iterable
from typing import Final, NamedTuple

from supervisor.health import WorkerHealth, one_word

__all__ = ["Answer", "Page", "Question", "asked", "ready_answer"]

PLAIN: Final = "text/plain; charset=utf-8"
VERBOSE: Final = "verbose"


class Page(enum.Enum):
    """The paths, exactly."""

    LIVE = "/livez"
    READY = "/readyz"
    METRICS = "/metrics"


class Question(NamedTuple):
    """One page that somebody wants. A tuple: a dataclass costs the way to ready half a millisecond."""

    page: Page
    verbose: bool = False

    @property
    def private(self) -> bool:
        """Whether it needs the token, where there is one."""
        return self.verbose or self.page is Page.METRICS


class Answer(NamedTuple):
    """What is sent back."""

    text: str
    status: http.HTTPStatus = http.HTTPStatus.OK
    content_type: str = PLAIN


def asked(method: str, target: str) -> Question | None:
    """The page that a request line wants, or None if it is not one of them."""
    if method != "GET":
        return None
    path, _, query = target.partition("?")
    for page in Page:
        if path == page.value:
            return Question(page, verbose=page is Page.READY and VERBOSE in _names(query))
    return None


def _names(query: str) -> set[str]:
    return {pair.partition("=")[0] for pair in query.split("&")}


def ready_answer(workers: Iterable[WorkerHealth], *, ready: bool) -> Answer:
    """Whether clients are let in, and a line for each of the workers."""
    lines = ["ready" if ready else "closing", *map(_line, workers)]
    status = http.HTTPStatus.OK if ready else http.HTTPStatus.SERVICE_UNAVAILABLE
    return Answer("".join(f"{line}\n" for line in lines), status)


def _line(worker: WorkerHealth) -> str:
    return (
        f"worker provider={worker.provider} state={worker.state} pid={worker.pid} "
        f"uptime_s={worker.uptime_s:.0f} open={worker.open_requests} restarts={worker.restarts} "
        f"condition={one_word(worker.condition)} last_error={worker.last_error!r}"
    )

"""A module in memory for the probe: a connection whose other side answers by a table of a test's own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any, Final

from websockets.exceptions import ConnectionClosedOK

from supervisor.live_talk import Talk

__all__ = ["GONE", "Answers", "InMemory", "Message", "failure"]

Message = dict[str, Any]
Answers = Callable[[Message], list[Message]]
GONE: Final[Message] = {"type": "gone"}
"""An answer after which the connection is closed."""


def failure(kind: str, code: int, name: str, message: str = "It failed.", **fields: Any) -> Message:
    """A terminal message that tells of an error."""
    return {
        "type": kind,
        "is_error": True,
        "error_code": code,
        "error_name": name,
        "message": message,
        **fields,
    }


class InMemory:
    """Both ends of a connection: every request is answered at once, in order, and then nothing comes."""

    def __init__(self, answers: Answers) -> None:
        self.sent: list[Message] = []
        self._answers = answers
        self._waiting: list[Message] = []

    def send(self, message: str) -> None:
        """A request, which causes its answers."""
        request = json.loads(message)
        self.sent.append(request)
        if GONE in self._waiting:
            raise ConnectionClosedOK(None, None)
        for answer in self._answers(request):
            self._waiting.append({"unique_request_id": request["unique_request_id"], **answer})
            if answer == GONE:
                self._waiting[-1] = GONE

    def recv(self, timeout: float | None = None) -> str:
        """The next answer; a TimeoutError at once where there is none."""
        if not self._waiting:
            raise TimeoutError
        if self._waiting[0] == GONE:
            raise ConnectionClosedOK(None, None)
        return json.dumps(self._waiting.pop(0))

    @contextlib.contextmanager
    def talk(self) -> Iterator[Talk]:
        """As a command connects."""
        yield Talk(self)

"""The probe's side of one connection: requests out, their replies in, each with the moment at which it came.

It speaks the SDK's dialect, as any client does; every wait has a bound. What is asked, and what the answers
mean: live_checks.py.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from websockets.exceptions import ConnectionClosed

__all__ = ["Connection", "ConnectionLostError", "Heard", "NoAnswerError", "Sent", "Stopped", "Talk"]

POLL_S: Final = 0.05
"""Between two looks for Ctrl-C: on Windows a wait for a message cannot be broken off by one."""


class Connection(Protocol):
    """What is needed of websockets' own."""

    def send(self, message: str) -> None:
        """Sends a text."""

    def recv(self, timeout: float | None = None) -> str | bytes:
        """The next message; TimeoutError if none came in time."""


class NoAnswerError(Exception):
    """What was waited for did not come; the text is one sentence for a person."""


class ConnectionLostError(NoAnswerError):
    """Nothing more will come on this connection."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One request, and when it left on the monotonic clock."""

    id: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Heard:
    """One message, and when it came on the same clock."""

    message: Mapping[str, Any]
    at_s: float

    @property
    def kind(self) -> str:
        """Its type."""
        return str(self.message.get("type"))

    def is_of(self, sent: Sent) -> bool:
        """Whether it answers that request."""
        return self.message.get("unique_request_id") == sent.id

    def ms_since(self, sent: Sent) -> float:
        """Milliseconds from that request to this message."""
        return (self.at_s - sent.at_s) * 1000


@dataclass(frozen=True, slots=True)
class Stopped:
    """What followed an interrupt."""

    order: Sent
    """The interrupt itself."""
    ack: Heard
    done: Heard
    """The terminal message of what it ended."""
    late: int
    """Pieces after the acknowledgement: there may be none."""


class Talk:
    """Requests and replies over one connection; one request after the other, but for an interrupt."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)

    def send(self, kind: str, **fields: Any) -> Sent:
        """Sends a request; a field that is None is left out.

        Raises:
            ConnectionLostError: the module closed the connection.
        """
        identifier = f"probe-{next(self._ids)}"
        given = {name: value for name, value in fields.items() if value is not None}
        text = json.dumps({"type": kind, "unique_request_id": identifier, **given})
        at_s = time.monotonic()
        try:
            self._connection.send(text)
        except ConnectionClosed as exc:
            raise _LOST from exc
        return Sent(identifier, at_s)

    def hear(self, until_s: float) -> Heard:
        """The next message, whatever it answers, that comes before that moment of the monotonic clock.

        Raises:
            NoAnswerError: none came.
            ConnectionLostError: the module closed the connection.
        """
        while True:
            try:
                text = self._connection.recv(timeout=POLL_S)
            except TimeoutError:
                if time.monotonic() >= until_s:
                    raise NoAnswerError("the module did not answer in time; its log says why") from None
            except ConnectionClosed as exc:
                raise _LOST from exc
            else:
                return Heard(json.loads(text), time.monotonic())

    def answer(
        self,
        sent: Sent,
        kind: str,
        within_s: float,
        *,
        quiet_s: float | None = None,
        on_message: Callable[[Heard], None] = lambda heard: None,
    ) -> Heard:
        """The terminal message of a request, of type `kind` or `error`; what comes before it goes to
        `on_message`. With `quiet_s`, no pause between two of its messages may be longer.

        Raises:
            NoAnswerError: it did not come in time.
        """
        whole_s = sent.at_s + within_s
        until_s = whole_s if quiet_s is None else min(whole_s, sent.at_s + quiet_s)
        while True:
            heard = self.hear(until_s)
            if not heard.is_of(sent):
                continue
            if heard.kind in (kind, "error"):
                return heard
            on_message(heard)
            if quiet_s is not None:
                until_s = min(whole_s, heard.at_s + quiet_s)

    def interrupt(self, sent: Sent, within_s: float) -> Stopped:
        """Interrupts that generation; its end and the acknowledgement may come in either order.

        Raises:
            NoAnswerError: one of them did not come in time.
        """
        order = self.send("interrupt", target_request_id=sent.id)
        ack: Heard | None = None
        done: Heard | None = None
        late = 0
        while ack is None or done is None:
            heard = self.hear(order.at_s + within_s)
            if heard.is_of(order):
                ack = heard
            elif heard.is_of(sent) and heard.kind == "generate_stream_chunk":
                late += ack is not None
            elif heard.is_of(sent):
                done = heard
        return Stopped(order, ack, done, late)


_LOST: Final = ConnectionLostError("the module closed the connection; its log says why")

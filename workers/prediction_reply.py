"""A prediction as events: the states that it goes through, or the stream of what it says. Pure.

A state holds all of the output so far; a stream brings each piece of it as plain text, and the name of an
event says which are text. Neither tells why a model ended, and a stream tells no usage.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from workers.adapter import AdapterError, Alive, Event, Usage
from workers.answer import Answer, count
from workers.codes import Code
from workers.refusals import Who
from workers.sse import Event as Piece
from workers.sse import SSEDecoder
from workers.transcript import OneTurn

__all__ = ["Made", "NamedEvents", "PredictionReply", "identity_of"]

_RUNNING: Final = ("starting", "processing", "queued")
_CANCELLED: Final = ("canceled", "aborted")
_ALIVE: Final = Alive()


class NamedEvents(SSEDecoder):
    """Events whose name is the first line of their data: here the name says what the data is, and the data
    may be anything that a model says, `[DONE]` too."""

    def feed(self, data: bytes) -> list[Piece]:
        return [_named(event) for event in super().feed(data)]

    def close(self) -> Piece | None:
        last = super().close()
        return None if last is None else _named(last)


@dataclass(frozen=True, slots=True)
class Made:
    """A prediction as it was made."""

    identity: str
    stream_url: str
    """Where its events are; empty where they are nowhere."""


class PredictionReply(Answer):
    """Reads one prediction: the events of its stream, or its states one after the other."""

    def __init__(self, who: Who, *, model: str, max_output_length: int, ends: Collection[str]) -> None:
        super().__init__(who, model=model, max_output_length=max_output_length)
        self._turn = OneTurn(ends) if ends else None
        """Ends a reply where the model goes on with somebody else's turn."""
        self._seen = 0
        self._status = ""
        self.ended = False
        """Whether the provider said that the prediction is over."""

    @property
    def complete(self) -> bool:
        return self.reason is not None

    def piece(self, data: bytes) -> list[Event]:
        name, _, payload = data.partition(b"\n")
        if name == b"output":
            try:
                return self._said_now(payload.decode())
            except UnicodeDecodeError as exc:
                raise self._not_ours("text that is not UTF-8") from exc
        if name == b"error":
            self.ended = True
            raise self.failed(payload)
        if name != b"done":
            return [_ALIVE]
        reason = self._object(payload).get("reason") if payload.strip() else None
        self.ended = True
        if reason in _CANCELLED or reason == "error":
            raise self._broken_off(reason)
        return self._over()

    def made(self, data: bytes) -> tuple[Made, list[Event]]:
        """The prediction that was made, and what it brings already; that it was made is no sign of life.

        Raises:
            AdapterError: it failed, or this is no prediction.
        """
        value = self._object(data)
        events = [event for event in self._state(value) if event is not _ALIVE]
        urls = value.get("urls")
        url = urls.get("stream") if isinstance(urls, dict) else None
        return Made(value["id"], url if isinstance(url, str) else ""), events

    def whole(self, data: bytes) -> list[Event]:
        return self._state(self._object(data))

    def _state(self, value: dict[str, Any]) -> list[Event]:
        """What a state of the prediction brings that the one before it did not: text, or a sign of life where
        it has come on."""
        status = value.get("status")
        if not isinstance(value.get("id"), str) or not isinstance(status, str):
            raise self._no_prediction(value)
        if self._answered_by is None and isinstance(model := value.get("model"), str):
            self._answered_by = model
        before, self._status = self._status, status
        if status in _RUNNING:
            return self._fresh(value.get("output")) or ([] if status == before else [_ALIVE])
        self.ended = True
        if status in _CANCELLED:
            raise self._broken_off(status)
        if status != "succeeded":
            raise self.failed({"error": value.get("error")})
        self.usage = _usage(value.get("metrics"))
        return [*self._fresh(value.get("output")), *self._over()]

    def _no_prediction(self, value: dict[str, Any]) -> AdapterError:
        if "detail" in value or "error" in value:
            return self.failed(value)
        return self._not_ours("an answer that is no prediction")

    def _broken_off(self, why: object) -> AdapterError:
        said = "failed" if why == "error" else "was cancelled there"
        return AdapterError(Code.UPSTREAM_ERROR, f"the prediction at {self._who.name} {said}: try again")

    def _fresh(self, output: object) -> list[Event]:
        """The text of an output beyond what was seen of it, in the pieces that it came in."""
        pieces = output if isinstance(output, list) else [output or ""]
        events: list[Event] = []
        before = 0
        for piece in pieces:
            if not isinstance(piece, str):
                raise AdapterError(
                    Code.UNSUPPORTED,
                    f"model {self._model!r} at {self._who.name} answers with something that is no text: "
                    "use a language model",
                )
            before += len(piece)
            new = before - self._seen
            if new > 0:
                self._seen = before
                events += self._said_now(piece[-new:])
        return events

    def _said_now(self, text: str) -> list[Event]:
        shown = text if self._turn is None else self._turn.feed(text)
        if self._turn is not None and self._turn.over:
            self.reason = "stop"
        return [self._text(shown)] if shown else [_ALIVE]

    def _over(self) -> list[Event]:
        """The end: what was held back, since it might have become a stop."""
        self.reason = "stop"
        rest = self._turn.finish() if self._turn is not None else ""
        return [self._text(rest)] if rest else []


def identity_of(data: bytes) -> str:
    """The id in what may be a prediction; empty where there is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    identity = value.get("id") if isinstance(value, dict) else None
    return identity if isinstance(identity, str) else ""


def _named(event: Piece) -> Piece:
    return Piece("named", event.name.encode() + b"\n" + event.data)


def _usage(metrics: object) -> Usage | None:
    if not isinstance(metrics, dict):
        return None
    told = count(metrics.get("input_token_count")), count(metrics.get("output_token_count"))
    return Usage(*told) if told != (None, None) else None

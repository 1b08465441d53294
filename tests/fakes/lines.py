"""A small wire of lines, for what is no wire's own: `{"say": TEXT}`, and `{"end": true}` at last."""

from __future__ import annotations

from typing import Final

from workers.adapter import Event
from workers.answer import Answer
from workers.sse import Event as Piece

NDJSON: Final = {"Content-Type": "application/x-ndjson"}


class Lines:
    """A line of a stream is a piece."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Piece]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [Piece("message", line) for line in lines if line]

    def close(self) -> Piece | None:
        return Piece("message", self._rest) if self._rest else None


class LinesReply(Answer):
    """Reads one answer of it, which is never whole."""

    def piece(self, data: bytes) -> list[Event]:
        value = self._object(data)
        if value.get("end"):
            self.reason = "stop"
        return [self._text(value["say"])] if "say" in value else []

    def whole(self, data: bytes) -> list[Event]:
        raise self._not_ours("an answer that is whole")

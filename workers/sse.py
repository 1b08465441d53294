"""Server-sent events, decoded as they arrive: bytes in, events out, no I/O.

Any split of the bytes gives the same events: inside a character, a line end or the byte order mark.
Data stays bytes, so that whoever parses it meets a broken character together with the event it is in.
Comments are counted and otherwise ignored: they keep a connection open and say nothing about a reply.
An event is bounded, and the bound is checked before more is kept.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["MAX_EVENT_BYTES", "Event", "EventTooLong", "SSEDecoder"]

MAX_EVENT_BYTES: Final = 1 << 20
"""A piece of a reply has some hundred bytes; an unfinished event beyond this is not one."""

_BOM: Final = b"\xef\xbb\xbf"
_BLANK: Final = b"\n\n"
_PLAIN: Final = b"data: "
_DEFAULT_NAME: Final = "message"


class EventTooLong(Exception):
    """An event is larger than MAX_EVENT_BYTES; the stream cannot be followed any further."""


class Event(NamedTuple):
    """One event: its name (`message` where the stream gave none) and its data lines, joined by \\n."""

    name: str
    data: bytes


class SSEDecoder:
    """Bytes in, events out; one per stream."""

    def __init__(self) -> None:
        self.comments = 0
        """How many comment lines were seen."""
        self._head: bytes | None = b""
        """What may be the beginning of a byte order mark; None once that is settled."""
        self._after_cr = False
        self._rest = bytearray()
        self._broken = False

    def feed(self, data: bytes) -> list[Event]:
        """All events that are complete with `data`; what remains is kept for the next call.

        Events that stand before one that is too long are given first, and the next call raises.

        Raises:
            EventTooLong: an event is over MAX_EVENT_BYTES.
        """
        if self._broken:
            raise EventTooLong
        if self._head is not None:
            data = self._without_bom(data)
        if self._after_cr or b"\r" in data:
            data = self._with_plain_ends(data)
        events: list[Event] = []
        if self._rest:
            data = self._completed(data, events)
        if not self._broken:
            self._split(data, events)
        if self._broken and not events:
            raise EventTooLong
        return events

    def close(self) -> Event | None:
        """The end of the stream: an event that only its blank line was missing from, or None.

        Whether it is whole nobody can tell but its reader; the data may be cut anywhere.
        """
        rest, self._rest = bytes(self._rest), bytearray()
        events: list[Event] = []
        self._read(rest, events)
        return events[0] if events else None

    def _without_bom(self, data: bytes) -> bytes:
        data = (self._head or b"") + data
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._head = data
            return b""
        self._head = None
        return data[len(_BOM) :] if data.startswith(_BOM) else data

    def _with_plain_ends(self, data: bytes) -> bytes:
        """Every line end as \\n; a \\n after a \\r that ended the last call belongs to that one."""
        if not data:
            return data
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            self._after_cr = False
        if data:
            self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _completed(self, data: bytes, events: list[Event]) -> bytes:
        """Finishes the event that is kept, if `data` can; returns what follows it."""
        rest = self._rest
        if rest.endswith(b"\n") and data.startswith(b"\n"):
            end = 1
        else:
            end = data.find(_BLANK) + len(_BLANK)
            if end < len(_BLANK):
                self._keep(data)
                return b""
        if len(rest) + end > MAX_EVENT_BYTES:
            self._broken = True
            return b""
        block = bytes(rest) + data[:end]
        rest.clear()
        self._read(block.rstrip(b"\n"), events)
        return data[end:]

    def _split(self, data: bytes, events: list[Event]) -> None:
        last = data.rfind(_BLANK)
        if last < 0:
            self._keep(data)
            return
        checked = last <= MAX_EVENT_BYTES
        for block in data[:last].split(_BLANK):
            if block.startswith(_PLAIN) and b"\n" not in block and checked:
                events.append(Event(_DEFAULT_NAME, block[len(_PLAIN) :]))
            elif len(block) > MAX_EVENT_BYTES:
                self._broken = True
                return
            elif block:
                self._read(block, events)
        self._keep(data[last + len(_BLANK) :])

    def _keep(self, data: bytes) -> None:
        if len(self._rest) + len(data) > MAX_EVENT_BYTES:
            self._broken = True
            self._rest.clear()
        else:
            self._rest += data

    def _read(self, block: bytes, events: list[Event]) -> None:
        """One block of lines, as the specification has it."""
        name = _DEFAULT_NAME
        data: list[bytes] = []
        for line in block.split(b"\n"):
            if line.startswith(b":"):
                self.comments += 1
                continue
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                data.append(value)
            elif field == b"event":
                name = value.decode("utf-8", "replace") or _DEFAULT_NAME
        if data:
            events.append(Event(name, b"\n".join(data)))

"""JSON lines (NDJSON), decoded as they arrive: bytes in, lines out, no I/O.

Any split of the bytes gives the same lines. A line stays bytes and is not looked into: whoever parses it
meets what is broken in it. Blank lines say nothing. A line is bounded, and the bound is checked before more
is kept.
"""

from __future__ import annotations

from typing import Final

from workers.sse import MAX_EVENT_BYTES, Event, EventTooLong

__all__ = ["NDJSONDecoder"]

_BOM: Final = b"\xef\xbb\xbf"
_NAME: Final = "message"
"""Lines have no names; this is what an event without one is called."""


class NDJSONDecoder:
    """Bytes in, lines out; one per stream."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._broken = False
        self._first = True
        """Whether the first line, which may begin with a byte order mark, is still to come."""

    def feed(self, data: bytes) -> list[Event]:
        """All lines that are complete with `data`; what remains is kept for the next call.

        Lines that stand before one that is too long are given first, and the next call raises.

        Raises:
            EventTooLong: a line is over MAX_EVENT_BYTES.
        """
        if self._broken:
            raise EventTooLong
        events: list[Event] = []
        *ended, rest = data.split(b"\n")
        for line in ended:
            self._keep(line)
            if self._broken:
                break
            self._take(events)
        if not self._broken:
            self._keep(rest)
        if self._broken and not events:
            raise EventTooLong
        return events

    def close(self) -> Event | None:
        """The end of the stream: a line that only its end was missing from, or None.

        Whether it is whole nobody can tell but its reader; it may be cut anywhere.
        """
        events: list[Event] = []
        self._take(events)
        return events[0] if events else None

    def _keep(self, part: bytes) -> None:
        if len(self._rest) + len(part) > MAX_EVENT_BYTES:
            self._broken = True
            self._rest.clear()
        else:
            self._rest += part

    def _take(self, events: list[Event]) -> None:
        """The line that is kept becomes an event, unless it is blank."""
        line = bytes(self._rest)
        self._rest.clear()
        if self._first:
            line = line.removeprefix(_BOM)
            self._first = False
        if line := line.strip():
            events.append(Event(_NAME, line))

"""What Amazon's servers want that others do not: signed requests, streams of frames, one host per purpose.

The one file that imports the vendor's package, of which signatures (SigV4) and the reader of frames are used;
its client is not, since nothing can interrupt it.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from botocore.eventstream import EventStreamBuffer, ParserError

from workers.sse import MAX_EVENT_BYTES, Event, EventTooLong

__all__ = ["FRAMES_TYPE", "Frames", "Identity", "control_plane", "region_of"]

FRAMES_TYPE: Final = "application/vnd.amazon.eventstream"
PRELUDE_BYTES: Final = 12
"""A frame begins with its length, that of its headers, and their sum, each of four bytes."""
_UNREADABLE: Final = (ParserError, StopIteration, ValueError, KeyError, struct.error)
"""What the vendor's reader raises at a frame that is none."""
_HOST: Final = re.compile(
    r"//(?P<private>vpce-[\w-]+\.)?(?P<name>[a-z-]+)-runtime(?:-fips)?\.(?P<region>[a-z0-9-]+)\."
    r"(?:vpce\.)?(?:amazonaws\.com(?:\.cn)?|api\.aws)(?=[:/]|\Z)"
)
"""An address of Amazon's own, for everybody or for one private network."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who signs."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)

    def signature(
        self, method: str, url: str, body: bytes, *, service: str, region: str
    ) -> Mapping[str, str]:
        """The headers that sign a request of now; a server takes them for five minutes."""
        from botocore.auth import SigV4Auth  # here: they take 0.1 s, and a key needs no signature
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        kind = {"Content-Type": "application/json"} if body else {}
        asked = AWSRequest(method=method, url=url, data=body, headers=kind)
        given = Credentials(self.access_key_id, self.secret_access_key, self.session_token or None)
        SigV4Auth(given, service, region).add_auth(asked)
        return {name: value for name, value in asked.headers.items() if name not in kind}


def region_of(base_url: str) -> str:
    """The region in an address of Amazon's own; empty in any other."""
    found = _HOST.search(base_url)
    return found["region"] if found else ""


def control_plane(base_url: str) -> str:
    """Where a service is described: beside an address of Amazon's own for everybody; any other as it is."""
    found = _HOST.search(base_url)
    if found is None or found["private"]:
        return base_url
    return base_url.replace("-runtime", "", 1)


class Frames:
    """Takes a stream of frames apart: each is an event `{"its type": its payload}`."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Event]:
        """All frames that are complete with `data`. One that is broken is an event of nothing, and the last.

        Raises:
            EventTooLong: a frame is over MAX_EVENT_BYTES; those before it are given first.
        """
        self._rest += data
        events: list[Event] = []
        while len(self._rest) >= PRELUDE_BYTES:
            size = _size(bytes(self._rest[:PRELUDE_BYTES]))
            if size > MAX_EVENT_BYTES and not events:
                raise EventTooLong
            if size > min(len(self._rest), MAX_EVENT_BYTES):
                break
            events.append(_event(bytes(self._rest[:size])))
            if not events[-1].data:
                self._rest.clear()
            del self._rest[:size]
        return events

    def close(self) -> Event | None:
        """The end of the stream; a part of a frame is none."""
        return Event("part", bytes(self._rest)) if self._rest else None


def _size(prelude: bytes) -> int:
    """The length of a frame; 0 where its sum shows that this is none."""
    size, _, told = struct.unpack(">III", prelude)
    return size if zlib.crc32(prelude[:8]) == told else 0


def _event(frame: bytes) -> Event:
    """One frame; an error is a kind of event too."""
    buffer = EventStreamBuffer()
    buffer.add_data(frame)
    try:
        told = next(buffer).to_response_dict()
    except _UNREADABLE:
        return Event("broken", b"")
    headers = told["headers"]
    kind = headers.get(":event-type") or headers.get(":exception-type") or headers.get(":error-code")
    return Event("frame", b'{"%s":%s}' % (str(kind).encode(), told["body"] or b"{}"))

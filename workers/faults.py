"""What a failed connection means, in words: no I/O, and no HTTP client's types.

upstream.py finds out which step failed; the sentence and whether trying again may help are decided here.
A message names the step (name, connect, TLS, proxy, time) with host and port, never a URL or a header.
"""

from __future__ import annotations

import enum
import ssl
from typing import Final
from urllib.parse import urlsplit

from workers.adapter import AdapterError
from workers.codes import Code

__all__ = ["Fault", "Unreachable", "unsent"]


class Fault(enum.Enum):
    """The step at which a request failed before anything of an answer arrived."""

    ADDRESS = enum.auto()
    NAME = enum.auto()
    CONNECT = enum.auto()
    CONNECT_TIME = enum.auto()
    TLS = enum.auto()
    PROXY = enum.auto()
    PROXY_REFUSED = enum.auto()
    HANDSHAKE_CLOSED = enum.auto()
    CLOSED = enum.auto()
    CLOSED_WARM = enum.auto()
    """The other side closed a warm connection just before we wrote: no request was read."""
    ANSWER_TIME = enum.auto()
    NOT_HTTP = enum.auto()


_SENTENCES: Final = {
    Fault.ADDRESS: "its base URL is not valid",
    Fault.NAME: "the name of {where} is not known (DNS)",
    Fault.CONNECT: "no connection to {where} ({words})",
    Fault.CONNECT_TIME: "connecting to {where} took too long (timeout)",
    Fault.TLS: "TLS with {where} failed ({words})",
    Fault.PROXY: "no connection to the proxy {proxy} ({words})",
    Fault.PROXY_REFUSED: "the proxy {proxy} refused to connect to {where} (HTTP {status})",
    Fault.HANDSHAKE_CLOSED: "{where} closed the connection while it was being made (TLS or proxy)",
    Fault.CLOSED: "{where} closed the connection without an answer",
    Fault.CLOSED_WARM: "{where} closed the connection without an answer",
}
_TRANSIENT: Final = (Fault.NAME, Fault.CONNECT, Fault.CONNECT_TIME, Fault.PROXY, Fault.CLOSED_WARM)
"""Nothing can have been carried out, and the next try may find it mended."""


class Unreachable(AdapterError):
    """No answer; `transient` when the request certainly was not begun and trying again may help."""

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(Code.UNREACHABLE, message)
        self.transient = transient


def unsent(
    fault: Fault, name: str, where: str, proxy: str | None, cause: BaseException, status: int = 0
) -> AdapterError:
    """The error for a request that got no answer."""
    if fault is Fault.NOT_HTTP:
        return AdapterError(
            Code.UPSTREAM_PROTOCOL,
            f"what answers for {name} at {where} does not speak HTTP: check the base URL",
        )
    if fault is Fault.ANSWER_TIME:
        return AdapterError(Code.TIMEOUT, f"{name} at {where} did not answer in time")
    reason = _SENTENCES[fault].format(where=where, words=_words(cause), proxy=_host_of(proxy), status=status)
    return Unreachable(f"{name} cannot be reached: {reason}", transient=fault in _TRANSIENT)


def _words(cause: BaseException) -> str:
    if isinstance(cause, ssl.SSLError):
        words = getattr(cause, "verify_message", "") or cause.reason or "handshake"
        return str(words).replace("_", " ").lower()
    if isinstance(cause, ConnectionRefusedError):
        return "refused: is the server running?"
    if isinstance(cause, ConnectionResetError):
        return "reset"
    if isinstance(cause, TimeoutError):
        return "timeout"
    if isinstance(cause, OSError) and cause.errno:
        return f"system error {cause.errno}"
    return "failed"


def _host_of(proxy: str | None) -> str:
    """Host and port of a proxy, without the password that its URL may hold."""
    parts = urlsplit(proxy or "")
    try:
        port = parts.port
    except ValueError:
        port = None
    return f"{parts.hostname}:{port}" if port else parts.hostname or "of the system"

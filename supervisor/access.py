"""Who may connect: Origin, Host and token (protocol, section 6)."""

from __future__ import annotations

import hmac
import http
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from websockets.datastructures import Headers

__all__ = ["LOOPBACK_NAMES", "Access"]

TOKEN_SUBPROTOCOL: Final = "waifu.token."  # noqa: S105  # a prefix, not a secret
LOOPBACK_NAMES: Final = ("127.0.0.1", "localhost", "::1")
LOG_SHOWN_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Access:
    """Who may connect (protocol, section 6)."""

    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    token: str | None = field(default=None, repr=False)

    def refusal(self, headers: Headers, *, token: bool = True) -> tuple[http.HTTPStatus, str] | None:
        """The status and the reason with which a request is refused, or None; `token`: it needs one."""
        origins = headers.get_all("Origin")
        if origins and not (len(origins) == 1 and origins[0] in self.origins):
            shown = origins[0][:LOG_SHOWN_CHARS]
            return http.HTTPStatus.FORBIDDEN, f"Origin {shown!r} is not allowed; --allow-origin {shown} would"
        hosts = headers.get_all("Host")
        if len(hosts) != 1 or not self._known_host(hosts[0]):
            shown = hosts[0][:LOG_SHOWN_CHARS] if hosts else ""
            return http.HTTPStatus.MISDIRECTED_REQUEST, f"Host {shown!r} is not a loopback name"
        if token and self.token is not None and not self._has_token(headers):
            return http.HTTPStatus.UNAUTHORIZED, "the token is missing or wrong"
        return None

    def _known_host(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        return name is not None and (name in LOOPBACK_NAMES or name in self.hosts)

    def _has_token(self, headers: Headers) -> bool:
        wanted = (self.token or "").encode()
        offered = [value.strip().encode() for value in _subprotocols(headers)]
        prefix = TOKEN_SUBPROTOCOL.encode()
        given = [value.removeprefix(prefix) for value in offered if value.startswith(prefix)]
        scheme, _, bearer = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            given.append(bearer.strip().encode())
        return any(hmac.compare_digest(value, wanted) for value in given)


def _subprotocols(headers: Headers) -> list[str]:
    values = headers.get_all("Sec-WebSocket-Protocol")
    return [name.strip() for value in values for name in value.split(",")]

"""Which way a request goes: to this machine, through a proxy, or straight. No HTTP client's types."""

from __future__ import annotations

import urllib.request
from urllib.parse import urlsplit

from workers.faults import Unreachable

__all__ = ["address_of", "is_loopback", "proxy_for"]

_PORTS = {"http": 80, "https": 443}
_NEVER_PROXIED = ("metadata.google.internal",)
"""What a machine is told of itself, tokens too: a proxy would hear it, and be told of its own machine."""


def address_of(base_url: str, name: str) -> tuple[str, str, int]:
    """Scheme, host and port of a base URL.

    Raises:
        AdapterError: UNREACHABLE, it is not an http or https URL.
    """
    parts = urlsplit(base_url)
    try:
        port = parts.port or _PORTS[parts.scheme]
        host = parts.hostname or ""
        host.encode("idna")
    except (KeyError, ValueError):
        host, port = "", 0
    if not host or parts.username is not None:
        raise Unreachable(f"{name} cannot be reached: its base URL is not a plain http or https URL")
    return parts.scheme, host, port


def is_loopback(host: str) -> bool:
    """Whether that host is this machine; such connections never go through a proxy."""
    host = host.lower().rstrip(".")
    return host in ("localhost", "::1") or host.endswith(".localhost") or host.startswith("127.")


def proxy_for(scheme: str, host: str, name: str) -> str | None:
    """The proxy that the environment or the system names for that host.

    It asks the registry or the system's settings, and on Windows may ask a name server: never on a loop.

    Raises:
        AdapterError: UNREACHABLE, that proxy cannot be used.
    """
    if is_loopback(host) or host in _NEVER_PROXIED:
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(host):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if urlsplit(proxy).scheme not in ("http", "https"):
        raise Unreachable(
            f"{name} cannot be reached: the system names a proxy that is not an http one "
            "(SOCKS is not supported)"
        )
    return proxy

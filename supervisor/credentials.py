"""Which key and which base URL a load uses: the message first, then what the operator set. No I/O.

A client's own base URL is a way to make this process call any host, so only loopback and the hosts that the
operator listed are accepted.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from supervisor.access import LOOPBACK_NAMES
from supervisor.bindings import Binding
from supervisor.catalog import Provider
from supervisor.config import Settings
from supervisor.errors import ClientError
from supervisor.messages import Load
from workers.codes import Code

__all__ = ["binding_for"]

URL_MAX_CHARS: Final = 2_000


def binding_for(
    provider: Provider, load: Load, settings: Settings, *, number: int, before: Binding | None
) -> Binding:
    """The binding of one load; `before` is what this connection loaded that provider with earlier.

    Raises:
        ClientError: the key is missing, or the base URL is missing or not allowed.
    """
    given = (load.api_key or "").strip() or None  # pasted keys end in line breaks
    key = given or (before.key if before is not None else None) or _operator_key(provider, settings)
    if key is None and provider.key_required:
        raise ClientError(
            f"{provider.name} needs a key: send api_key in load, or set {' or '.join(provider.key)} in the "
            f"environment, in {settings.home.dotenv} or in {settings.checkout / '.env'}.",
            code=Code.AUTHORIZATION,
        )
    options = load.options if load.options is not None else dict(before.options) if before is not None else {}
    base_url = _base_url(provider, load, settings, before)
    return Binding(number if before is None else before.id, key, base_url, options)


def _operator_key(provider: Provider, settings: Settings) -> str | None:
    for name in provider.key:
        value = settings.variables.get(name)
        if value is not None:
            return value
    return None


def _base_url(provider: Provider, load: Load, settings: Settings, before: Binding | None) -> str | None:
    if load.base_url:
        return _allowed(load.base_url, settings)
    if before is not None:
        return before.base_url
    by_operator = settings.base_urls.get(provider.id) or settings.variables.get(provider.base_url_variable)
    url = by_operator or provider.base_url
    if url is None and provider.kind in ("api", "local-server"):
        raise ClientError(
            f"{provider.name} needs a base URL: send base_url in load, or set {provider.base_url_variable}."
        )
    return url


def _allowed(url: str, settings: Settings) -> str:
    try:
        if len(url) > URL_MAX_CHARS or not url.isprintable() or " " in url:
            raise ValueError  # urlsplit drops line breaks and tabs, so it would check another URL
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or parts.username is not None or parts.query:
        raise ClientError("base_url must be an http or https URL without a user name and without a query.")
    if host not in LOOPBACK_NAMES and host not in settings.base_url_hosts:
        raise ClientError(
            f"base_url names the host {host[:100]!r}, which the operator has not allowed: "
            f"start the module with --allow-base-url {host[:100]}."
        )
    return url

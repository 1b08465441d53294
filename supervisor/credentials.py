"""Which key, base URL and settings a load uses: the message first, then what the operator set. No I/O.

A client's own base URL is a way to make this process call any host, so only loopback and the hosts that the
operator listed are accepted; and a client that names a part of the host brings its own key, so that nobody
can have the operator's key sent elsewhere. Secrets of two people are never mixed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from supervisor.access import LOOPBACK_NAMES
from supervisor.bindings import Binding, Said
from supervisor.config import Settings
from supervisor.errors import ClientError
from supervisor.messages import Load
from supervisor.providers import Provider, marks_in
from workers.codes import Code

__all__ = ["binding_for"]

URL_MAX_CHARS: Final = 2_000
KEEP_MIN_S: Final = 1.0
"""Less would end a model before the request that it was loaded for."""
_HOST_PART: Final = re.compile(r"\A[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")
_PATH_PART: Final = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")


def binding_for(
    provider: Provider, load: Load, settings: Settings, *, number: int, before: Binding | None
) -> Binding:
    """The binding of one load; `before` is what this connection loaded that provider with earlier.

    Raises:
        ClientError: the key is missing, or the base URL is missing or not allowed.
    """
    said = _said(load, before.said if before is not None else Said())
    own_key = said.api_key is not None or any(
        setting.secret and said.options.get(setting.name) for setting in provider.settings
    )
    theirs = own_key or not _may_have_the_operators_key(said.base_url, provider, settings)
    key = said.api_key or (None if theirs else _operator_key(provider, settings))
    if key is None and provider.key_required and not own_key:
        raise ClientError(_no_key(provider, said, settings), code=Code.AUTHORIZATION)
    options = {**_operator_settings(provider, settings, secrets=not theirs), **said.options}
    base_url = _base_url(provider, said, settings)
    _check_settings(provider, options, base_url)
    if base_url is not None and marks_in(base_url):
        if not own_key:
            _check_host_is_the_operators(base_url, said.options)
        base_url = _filled(base_url, options)
    keep_alive_s = _keep_alive_s(options) if provider.is_engine else None
    return Binding(number if before is None else before.id, key, base_url, options, said, keep_alive_s)


def _may_have_the_operators_key(url: str | None, provider: Provider, settings: Settings) -> bool:
    """Whether an address that a client named is one that the operator knows: his own, or of a host that he
    listed. On loopback anybody may listen."""
    if url is None:
        return True
    known = filter(None, (*_operators_urls(provider, settings), provider.base_url))
    if url.rstrip("/") in (known_url.rstrip("/") for known_url in known):
        return True
    return _host_of(url) in settings.base_url_hosts


def _no_key(provider: Provider, said: Said, settings: Settings) -> str:
    if said.base_url is not None and _operator_key(provider, settings) is not None:
        return (
            f"{provider.name} at an address of your own needs a key of your own: send api_key in load; the "
            f"operator's key goes only to the address in {provider.base_url_variable}."
        )
    return (
        f"{provider.name} needs a key: send api_key in load, or set {' or '.join(provider.key)} in the "
        f"environment, in {settings.home.dotenv} or in {settings.checkout / '.env'}."
    )


def _keep_alive_s(options: Mapping[str, object]) -> float | None:
    """Seconds, as Ollama's option of that name: -1 is for ever, and 0 for hardly any longer than needed."""
    value = options.get("keep_alive")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ClientError("the option keep_alive must be a number of seconds, or -1 for ever.")
    return max(float(value), KEEP_MIN_S) if value >= 0 else math.inf


def _said(load: Load, before: Said) -> Said:
    """What a load says, over what earlier ones said."""
    key = (load.api_key or "").strip()  # pasted keys end in line breaks
    options = before.options if load.options is None else load.options
    return Said(key or before.api_key, load.base_url or before.base_url, options)


def _operator_settings(provider: Provider, settings: Settings, *, secrets: bool) -> dict[str, object]:
    """What a client need not say."""
    result: dict[str, object] = {}
    for setting in provider.settings:
        if setting.secret and not secrets:
            continue
        values = (settings.variables.get(name) for name in setting.variables)
        value = next((value for value in values if value is not None), setting.default)
        if value is not None:
            result[setting.name] = value
    return result


def _check_settings(provider: Provider, options: Mapping[str, object], base_url: str | None) -> None:
    """Whether all is known that must be; what only stands in an address is not needed with another one."""
    needless = {*marks_in(provider.base_url or "")} - {*marks_in(base_url or "")}
    for setting in provider.settings:
        if setting.required and setting.name not in needless and not options.get(setting.name):
            variables = f", or set {' or '.join(setting.variables)}" if setting.variables else ""
            raise ClientError(
                f"{provider.name} needs the {setting.name}: send it in the options of load{variables}."
            )


def _check_host_is_the_operators(base_url: str, chosen: Mapping[str, object]) -> None:
    for mark in marks_in(urlsplit(base_url).netloc):
        if mark in chosen:
            raise ClientError(
                f"the option {mark} chooses the host that a key is sent to: send your own api_key with it.",
                code=Code.AUTHORIZATION,
            )


def _filled(base_url: str, options: Mapping[str, object]) -> str:
    """The base URL with its settings; none of them can lead to another place than the table means."""
    host = marks_in(urlsplit(base_url).netloc)
    for mark in marks_in(base_url):
        value = str(options.get(mark, ""))
        if not (_HOST_PART if mark in host else _PATH_PART).match(value):
            raise ClientError(f"the option {mark} must be letters, digits and hyphens.")
        base_url = base_url.replace(f"{{{mark}}}", value)
    return base_url


def _operator_key(provider: Provider, settings: Settings) -> str | None:
    for name in provider.key:
        value = settings.variables.get(name)
        if value is not None:
            return value
    return None


def _base_url(provider: Provider, said: Said, settings: Settings) -> str | None:
    if said.base_url:
        return _allowed(said.base_url, settings)
    url = next(filter(None, (*_operators_urls(provider, settings), provider.base_url)), None)
    if url is None and provider.kind in ("api", "local-server"):
        raise ClientError(
            f"{provider.name} needs a base URL: send base_url in load, or set {provider.base_url_variable}."
        )
    return url


def _operators_urls(provider: Provider, settings: Settings) -> tuple[str | None, str | None]:
    """What the operator says of where a provider is, the strongest first."""
    return settings.base_urls.get(provider.id), settings.variables.get(provider.base_url_variable)


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


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

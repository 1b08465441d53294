"""An adapter of what Vertex AI serves, all but the wire: the place, the project, and who asks.

Who asks is a service account, a person or a machine (google_login.py), or an API key of the express mode,
which has no project of its own and no list of models.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Mapping
from typing import ClassVar, Final
from urllib.parse import urlsplit

from workers.adapter import AdapterError, Binding, Loaded, LoadRequest, ProviderSpec, ReportProgress, Warn
from workers.codes import Code
from workers.google_login import Login, brings_itself, identity_for
from workers.http_chat import HttpChat
from workers.upstream import Upstream

__all__ = ["PLACE", "VertexChat", "is_at"]

PLACE: Final = "/projects/{project}/locations/{location}"
"""The part of a path that an API key leaves out."""
GLOBAL: Final = "global"
WARM_S: Final = 1.0
"""What a connection ahead of time may take: without one, the first reply takes longer."""
HOST: Final = "https://aiplatform.googleapis.com"
"""Where the location `global` is served, and no other."""
CONTINENTS: Final = ("us", "eu")
"""Locations of many regions, which have a host of another form."""
GOOGLES: Final = re.compile(
    r"https://(?:[a-z0-9-]+-)?aiplatform(?:\.[a-z]+\.rep)?\.googleapis\.com(?::443)?", re.ASCII
)
"""Scheme and host of every location."""
_LOCATION: Final = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
"""A client may choose it, and it becomes a part of the host's name."""


class VertexChat(HttpChat):
    """What Vertex AI serves, for one binding."""

    takes_api_keys: ClassVar[bool] = True
    googles: ClassVar[re.Pattern[str]] = GOOGLES
    """Where somebody is spoken for who is known on this machine: a client may choose the address, and a token
    of the operator's would go there. A seam for tests."""

    def __init__(self, provider: ProviderSpec, binding: Binding) -> None:
        super().__init__(provider, binding)
        self._login: Login | None = None
        self._project = ""

    async def load(self, load: LoadRequest, report: ReportProgress) -> Loaded:
        """Also finds out who asks, and for which project.

        Raises:
            AdapterError: as that of all adapters; INVALID_REQUEST without a project; AUTHORIZATION, who asks
                is the operator, at an address that is not Google's.
        """
        identity = await asyncio.to_thread(identity_for, super()._key)
        if identity is None:
            self._take_api_key()
            return await super().load(load, report)
        if not brings_itself(super()._key) and not is_at(super().base_url, self.googles):
            raise AdapterError(
                Code.AUTHORIZATION,
                f"{self.provider.name} is asked at an address that is not Google's, where nobody is spoken "
                "for who is logged in here: send the JSON of a service account as api_key, or no base_url",
            )
        self._login = Login(identity, self.provider.key_variables)
        try:
            await self._login.open()
            self._project = super().option("project") or await self._login.project()
            if not self._project:
                raise AdapterError(
                    Code.INVALID_REQUEST,
                    f"{self.provider.name} needs a project: send it in the options of load",
                )
            if load.verify:
                await self._login.headers()  # a list of models, which would ask for it, is not everywhere
            return await super().load(load, report)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        await super().close()
        if self._login is not None:
            await self._login.close()

    def _take_api_key(self) -> None:
        if not self.takes_api_keys:
            raise AdapterError(
                Code.AUTHORIZATION,
                f"{self.provider.name} takes no API key: send the JSON of a service account",
            )
        path = self._quirks.chat_path.replace(PLACE, "")
        self._quirks = dataclasses.replace(self._quirks, chat_path=path, models_path="")

    async def _checked(self, upstream: Upstream, *, verify: bool) -> tuple[Warn, ...]:
        """Where no list of models is asked for, the connection is made all the same."""
        warnings = await super()._checked(upstream, verify=verify)
        if not self._quirks.models_path:
            try:
                await upstream.warm(WARM_S)
            except AdapterError as exc:
                if verify:
                    raise
                return (*warnings, Warn("NOT_CHECKED", exc.message))
        return warnings

    def _unchecked(self, *, verify: bool) -> tuple[Warn, ...]:
        """Whoever has got a token is known."""
        return super()._unchecked(verify=verify) if self._login is None else ()

    @property
    def _key(self) -> str:
        return super()._key if self._login is None else ""

    async def signed(self, path: str, body: bytes) -> Mapping[str, str]:
        return {} if self._login is None else await self._login.headers()

    def option(self, name: str) -> str:
        """As everywhere; a project may come from who asks, and a location is never missing."""
        if name == "project" and self._project:
            return self._project
        value = super().option(name)
        if name != "location":
            return value
        if value and not _LOCATION.fullmatch(value):
            raise AdapterError(
                Code.INVALID_REQUEST, "the option location must be letters, digits and hyphens"
            )
        return value or GLOBAL

    @property
    def base_url(self) -> str:
        """Each location has a host of its own, unless the base URL is an operator's."""
        base_url = super().base_url
        location = self.option("location")
        if base_url.rstrip("/") != HOST or self._login is None or location == GLOBAL:
            return base_url
        if location in CONTINENTS:
            return HOST.replace("googleapis", f"{location}.rep.googleapis")
        return HOST.replace("aiplatform", f"{location}-aiplatform")


def is_at(base_url: str, places: re.Pattern[str]) -> bool:
    """Whether an address is one of those places; they are schemes and hosts."""
    try:
        parts = urlsplit(base_url)
    except ValueError:
        return False
    return places.fullmatch(f"{parts.scheme}://{parts.netloc.lower()}") is not None

"""An adapter over HTTP up to its first request: the key, the connections, and which models there are.

A load checks the key with what costs nothing, learns the models, and leaves a warm connection. What does not
answer in time is used unchecked, and a client is told so. Requests and replies are http_chat.py's.
"""

from __future__ import annotations

import abc
import asyncio
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final
from urllib.parse import quote

from workers.adapter import (
    Adapter,
    AdapterError,
    Binding,
    Loaded,
    LoadRequest,
    ProviderSpec,
    ReportProgress,
    Warn,
)
from workers.codes import Code
from workers.model_lists import is_among, model_names, near_ones
from workers.quirks import Quirks
from workers.refusals import Who
from workers.upstream import Upstream

__all__ = ["HttpAdapter"]

LOAD_S: Final = 5.0
"""What a key check may take; a provider that is slower than that is used unchecked."""
UNCHECKED_LOAD_S: Final = 1.0
"""And where no check was asked for: only the list of models and a warm connection are at stake."""
PAGES_MAX: Final = 4
"""Pages of such a list; it is asked for by hundreds."""
_MARK: Final = re.compile(r"\{([a-z_]+)\}")
"""What a path leaves open."""
_MODEL_SAFE: Final = ":@"
"""Beside letters and digits, what stands unescaped in a name in a path."""
_REFUSING: Final = (Code.AUTHORIZATION, Code.UNREACHABLE, Code.INVALID_REQUEST)


class HttpAdapter(Adapter, abc.ABC):
    """One provider for one binding."""

    usual: ClassVar[Quirks] = Quirks()
    """What holds for the wire where a provider's table says nothing."""
    accepted: ClassVar[tuple[int, ...]] = (200,)
    """The statuses of an answer; any other is a refusal."""
    refusing: ClassVar[Mapping[int, Code]] = {}
    """What a status of a refusal means on this wire and on no other."""
    words: ClassVar[Mapping[str, Code]] = {}
    """What words for errors mean that this wire has and no other, in lower case."""

    def __init__(self, provider: ProviderSpec, binding: Binding) -> None:
        super().__init__(provider, binding)
        self._quirks = Quirks.parse(provider.id, provider.quirks, over=self.usual)
        self._upstream: Upstream | None = None
        self._models: tuple[str, ...] = ()

    @property
    def base_url(self) -> str:
        """Where this binding's requests go; empty where nobody said so."""
        return self.binding.base_url or self.provider.base_url or ""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be repeated from an answer."""
        return tuple(filter(None, (self._key,)))

    def headers(self, key: str) -> Mapping[str, str]:
        """What every request of this binding carries; `key` is empty where there is none."""
        return {self._quirks.key_header: self._quirks.key_prefix + key} if key else {}

    async def signed(self, path: str, body: bytes) -> Mapping[str, str]:
        """What one attempt at a request carries besides: a signature, a token that lives for an hour. Without
        a body it is a GET.

        Raises:
            AdapterError: AUTHORIZATION or UNREACHABLE, when there is none to be had.
        """
        return {}

    def patience_s(self, error: AdapterError, waits: int, left_s: float) -> float | None:
        """How long a refusal is waited for that the provider documents as a wait: see workers.upstream.

        Raises:
            AdapterError: what is told instead, where that wait does not fit into the seconds left.
        """
        return None

    async def load(self, load: LoadRequest, report: ReportProgress) -> Loaded:
        """Checks the key with what costs nothing, learns the models, and leaves a warm connection.

        Raises:
            AdapterError: AUTHORIZATION, UNREACHABLE, INVALID_MODEL, or INVALID_REQUEST without a base URL.
        """
        upstream = self._upstream = self.made(self.base_url)
        try:
            await upstream.open()
            report("connect", f"connecting to {self.provider.name} at {upstream.where}", None)
            started = time.monotonic()
            warnings = await self._checked(upstream, verify=load.verify)
            connect_ms = round((time.monotonic() - started) * 1000)
            warnings += await self.preload(load.preload_model, report)
        except BaseException:
            await self.close()
            raise
        return Loaded(models=self._models, warnings=warnings, connect_ms=connect_ms)

    async def preload(self, model: str | None, report: ReportProgress) -> tuple[Warn, ...]:
        """Whether there is that model, where one is named; a server of one's own may also fetch it here.

        Raises:
            AdapterError: INVALID_MODEL, there is none.
        """
        if not model or not self._models or is_among(model, self._models):
            return ()
        if not self._quirks.models_complete:
            return (Warn("MODEL_NOT_LISTED", f"{self.provider.name} does not list the model {model!r}"),)
        hint = self._near(model) or "use a name from get_models"
        raise AdapterError(Code.INVALID_MODEL, f"{self.provider.name} has no model {model!r}; {hint}")

    async def close(self) -> None:
        """Closes all connections; may be called twice."""
        if self._upstream is not None:
            await self._upstream.close()

    def opened(self) -> Upstream:
        """The connections of a loaded binding.

        Raises:
            AdapterError: NOT_LOADED, there are none.
        """
        if self._upstream is None:
            raise AdapterError(Code.NOT_LOADED, f"{self.provider.name} is not loaded")
        return self._upstream

    def made(self, base_url: str) -> Upstream:
        """The connections of this binding to `base_url`, not opened yet.

        Raises:
            AdapterError: INVALID_REQUEST, AUTHORIZATION or UNREACHABLE.
        """
        if not base_url:
            raise AdapterError(
                Code.INVALID_REQUEST, f"{self.provider.name} has no address of its own: give base_url in load"
            )
        key = self._key
        if not key.isascii() or not key.isprintable():
            raise AdapterError(
                Code.AUTHORIZATION,
                f"the key for {self.provider.name} holds characters that no key has: copy it once more",
            )
        headers = {**self._quirks.extra_headers, **self.headers(key)}
        statuses, words = self.refusing, self.words
        who = Who(self.provider.name, self.provider.key_variables, self.secrets, statuses, words)
        return Upstream(base_url, who, headers, accepted=self.accepted, patience=self.patience_s)

    async def models(self, upstream: Upstream, path: str, timeout_s: float) -> tuple[str, ...]:
        """The names of the models that `path` lists.

        Raises:
            AdapterError: whatever the network or the provider did.
        """
        return model_names(await self.listed(upstream, path, timeout_s))

    async def listed(self, upstream: Upstream, path: str, timeout_s: float) -> Any:
        """What a GET of `path` answers, signed.

        Raises:
            AdapterError: whatever the network or the provider did.
        """
        return await upstream.get_json(path, timeout_s=timeout_s, headers=await self.signed(path, b""))

    async def pages(
        self, upstream: Upstream, path: str, timeout_s: float, following: Callable[[Any], str]
    ) -> tuple[str, ...]:
        """The names in a list that comes page by page; `following` says of a page by which query the next one
        is asked for, and nothing of the last.

        Raises:
            AdapterError: whatever the network or the provider did.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout_s
        names: list[str] = []
        after = ""
        for _ in range(PAGES_MAX):
            page = await self.listed(upstream, path + after, max(ends - loop.time(), 0))
            names += model_names(page)
            after = following(page)
            if not after:
                break
        return tuple(dict.fromkeys(names))

    def option(self, name: str) -> str:
        """An option of this binding, as text; empty where there is none.

        Raises:
            AdapterError: INVALID_REQUEST, it is no line of text and no number.
        """
        value = self.binding.options.get(name, "")
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise AdapterError(Code.INVALID_REQUEST, f"the option {name} must be a text")
        text = str(value).strip()  # pasted ones end in line breaks
        if not text.isprintable():
            raise AdapterError(Code.INVALID_REQUEST, f"the option {name} must be one line of text")
        return text

    @property
    def _key(self) -> str:
        """What is sent with every request; empty where each is `signed` instead."""
        return (self.binding.key or "").strip()

    async def _checked(self, upstream: Upstream, *, verify: bool) -> tuple[Warn, ...]:
        """Asks for the models, and for the key where that list is open; what is no refusal is a warning."""
        key_path, models_path = (
            self._filled(path) for path in (self._quirks.key_check_path, self._quirks.models_path)
        )
        share_s = (LOAD_S if verify else UNCHECKED_LOAD_S) / max(bool(key_path) + bool(models_path), 1)
        try:
            if key_path and self.binding.key and verify:
                await self.listed(upstream, key_path, share_s)
            if models_path:
                self._models = await self.models(upstream, models_path, share_s)
        except AdapterError as exc:
            if verify and exc.code in _REFUSING:
                raise
            return (Warn("NOT_CHECKED", f"the key and the models could not be checked: {exc.message}"),)
        return self._unchecked(verify=verify)

    def _unchecked(self, *, verify: bool) -> tuple[Warn, ...]:
        """Says so where nothing that costs nothing tells a good key from a bad one."""
        silent = self._quirks.models_open or not self._quirks.models_path
        if not (verify and self.binding.key and silent) or self._quirks.key_check_path:
            return ()
        return (Warn("KEY_NOT_CHECKED", f"{self.provider.name} shows whether a key is good only in a reply"),)

    def _filled(self, path: str, *, model: str = "") -> str:
        """`path` with `{model}` and the options that it names."""
        if "{" not in path:
            return path

        def value(found: re.Match[str]) -> str:
            return quote(model if found[1] == "model" else self.option(found[1]), safe=_MODEL_SAFE)

        return _MARK.sub(value, path)

    def _near(self, model: str) -> str:
        """A hint at models that may have been meant; empty where none is near."""
        return near_ones(model, self._models)

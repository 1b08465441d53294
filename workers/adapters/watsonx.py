"""IBM watsonx.ai: the OpenAI wire in all but its ends, for a token that is bought with the key.

`POST /text/chat_stream` streams and `/text/chat` does not; a project or a space says who pays. The key itself
goes to IBM's identity service alone, for a token that is good for an hour. What is in a body and in an answer
is chat_body.py's and chat_reply.py's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final
from urllib.parse import urlencode

from workers.adapter import (
    AdapterError,
    Binding,
    Event,
    Loaded,
    LoadRequest,
    ProviderSpec,
    ReportProgress,
    Request,
)
from workers.chat_body import build
from workers.chat_reply import ChatReply
from workers.codes import Code
from workers.error_fields import ErrorFields
from workers.http_chat import HttpChat
from workers.model_lists import model_names
from workers.parameters import Body
from workers.quirks import Quirks
from workers.refusals import Refusal, Who, refusal
from workers.upstream import Upstream

__all__ = ["ADAPTER", "Watsonx", "WatsonxReply"]

VERSION: Final = "2024-10-08"
"""The date of the API that is spoken here; every address needs one."""
LIST: Final = f"version={VERSION}&filters=function_text_chat,!lifecycle_withdrawn:and&limit=200"
USUAL: Final = Quirks(
    models_path=f"/foundation_model_specs?{LIST}",
    unsupported=("top_k", "min_p"),
)
IAM_URL: Final = "https://iam.cloud.ibm.com"
TOKEN_PATH: Final = "/identity/token"  # noqa: S105 - an address
GRANT: Final = "urn:ibm:params:oauth:grant-type:apikey"
FORM: Final = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
TOKEN_S: Final = 5.0
"""What buying a token may take."""
EARLY_S: Final = 300.0
"""A token is replaced so long before it ends: a request on its way must not outlive it, nor may clocks
differ."""
HALF: Final = 0.5
"""Of a token that is good for less than that, half is used."""
SCOPES: Final = ("project_id", "space_id")
_REFUSED_KEY: Final = (400, 401, 403)
"""The statuses with which the identity service refuses a key; 400 for one that it does not know."""
_UNAUTHORIZED: Final = 401
_REASONS: Final = {"time_limit": "length", "cancelled": "abort"}
"""Words for an end that the OpenAI wire does not have → those that it has."""


@dataclass(frozen=True, slots=True)
class _Token:
    bearer: str
    until: float
    """Of the loop's clock."""


class WatsonxReply(ChatReply):
    """Reads one answer of this wire."""

    def _note(self, value: dict[str, Any]) -> None:
        super()._note(value)
        if self._answered_by is None and isinstance(model := value.get("model_id"), str):
            self._answered_by = model

    def _check(self, value: dict[str, Any]) -> None:
        super()._check(value)
        if value.get("errors"):
            raise self.failed(value)

    def _ended(self, reason: object) -> None:
        super()._ended(_REASONS.get(reason, reason) if isinstance(reason, str) else reason)


class Watsonx(HttpChat):
    """One account of this wire for one binding."""

    usual = USUAL
    iam_url: ClassVar[str] = IAM_URL
    """Who sells the tokens: IBM, whatever address a load names. A seam for tests; empty: that address."""

    def __init__(self, provider: ProviderSpec, binding: Binding) -> None:
        super().__init__(provider, binding)
        self._token: _Token | None = None
        self._buying = asyncio.Lock()
        self._iam: Upstream | None = None

    async def load(self, load: LoadRequest, report: ReportProgress) -> Loaded:
        if not self._scope():
            raise AdapterError(
                Code.INVALID_REQUEST,
                f"{self.provider.name} needs a project or a space: give project_id or space_id in the "
                "options of load, or set WATSONX_PROJECT_ID or WATSONX_SPACE_ID",
            )
        return await super().load(load, report)

    def headers(self, key: str) -> Mapping[str, str]:
        return {}  # the key buys tokens, and goes nowhere else

    async def signed(self, path: str, body: bytes) -> Mapping[str, str]:
        return await self._bearer(TOKEN_S)

    async def listed(self, upstream: Upstream, path: str, timeout_s: float) -> Any:
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout_s
        bearer = await self._bearer(timeout_s)
        return await upstream.get_json(path, timeout_s=max(ends - loop.time(), 0), headers=bearer)

    async def models(self, upstream: Upstream, path: str, timeout_s: float) -> tuple[str, ...]:
        listed = await self.listed(upstream, path, timeout_s)
        found = listed.get("resources") if isinstance(listed, dict) else None
        models = (
            [{"id": item.get("model_id")} for item in found if isinstance(item, dict)]
            if isinstance(found, list)
            else []
        )
        return model_names(models)

    def path(self, request: Request, body: Body) -> str:
        return f"/text/{'chat_stream' if body.streamed else 'chat'}?version={VERSION}"

    def body(self, request: Request, quirks: Quirks, refused: Collection[str]) -> Body:
        made = build(request, quirks, refused=refused)
        fields = {name: value for name, value in made.fields.items() if name not in ("model", "stream")}
        return Body({"model_id": request.model, **self._scope(), **fields}, made.warnings, made.streamed)

    def reader(self, who: Who, request: Request) -> WatsonxReply:
        return WatsonxReply(who, model=request.model, max_output_length=request.max_output_length)

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """The reply as it arrives. Cancelling or closing it closes the connection."""
        replies = super().generate(request)
        try:
            async for event in replies:
                yield event
        except Refusal as exc:
            if exc.provider_status == _UNAUTHORIZED:
                self._token = None  # taken back before its time: the next request buys another
            raise
        finally:
            await replies.aclose()

    async def close(self) -> None:
        if self._iam is not None:
            await self._iam.close()
        await super().close()

    def _scope(self) -> dict[str, str]:
        """Who pays: the project, else the space."""
        return next(({name: value} for name in SCOPES if (value := self.option(name))), {})

    async def _bearer(self, timeout_s: float) -> dict[str, str]:
        """The header with a token that is good, which is bought where there is none.

        Cancelling it is safe: whoever needs one next buys it.
        """
        async with self._buying:
            now = asyncio.get_running_loop().time()
            if self._token is None or self._token.until <= now:
                self._token = await self._bought(timeout_s)
        return {"Authorization": f"Bearer {self._token.bearer}"}

    async def _bought(self, timeout_s: float) -> _Token:
        upstream = await self._identity()
        form = urlencode({"grant_type": GRANT, "apikey": self._key}).encode()
        try:
            told = await upstream.ask("POST", TOKEN_PATH, form, timeout_s=timeout_s, headers=FORM)
        except Refusal as exc:
            if exc.provider_status in _REFUSED_KEY:
                raise refusal(upstream.who, _UNAUTHORIZED, ErrorFields()) from exc
            raise
        bearer = told.get("access_token") if isinstance(told, dict) else None
        if not isinstance(bearer, str) or not bearer.isascii() or not bearer.isprintable():
            raise AdapterError(
                Code.UPSTREAM_PROTOCOL, f"the identity service of {self.provider.name} sent no token"
            )
        lasts_s = told.get("expires_in")
        lasts_s = float(lasts_s) if type(lasts_s) is int and lasts_s > 0 else 0.0
        until = asyncio.get_running_loop().time() + max(lasts_s - EARLY_S, lasts_s * HALF)
        return _Token(bearer, until)

    async def _identity(self) -> Upstream:
        """The connections to the identity service."""
        upstream = self.opened()
        if not self.iam_url:
            return upstream
        if self._iam is None:
            made = self.made(self.iam_url)
            await made.open()
            self._iam = made
        return self._iam


ADAPTER: Final = Watsonx

"""KoboldAI's wire, and what KoboldCpp adds to it: an answer as it is made, and an end that is asked for.

The server makes one reply at a time; others wait in it for their turn. It does not notice that a connection
was closed while it reads a prompt, or makes an answer that is not streamed. So whoever leaves one early tells
the server, by the key that the request had: `POST /api/extra/abort`.
KoboldAI itself (United) has neither; its table says `streams = false`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import secrets
from collections.abc import AsyncGenerator, Collection
from typing import Any, Final

from workers.adapter import (
    AdapterError,
    Binding,
    Event,
    Loaded,
    LoadRequest,
    ProviderSpec,
    ReportProgress,
    Request,
    Warn,
)
from workers.afterwards import Afterwards
from workers.codes import Code
from workers.http_chat import HttpChat
from workers.kobold_chat import KoboldReply, Manner, build, cuts_of, read_manner
from workers.parameters import Body
from workers.quirks import Quirks
from workers.refusals import Who
from workers.upstream import Upstream

__all__ = ["ADAPTER", "USUAL", "Kobold"]

USUAL: Final = Quirks(
    chat_path="/api/v1/generate",
    models_path="/api/v1/model",
    models_complete=True,
    seed_field="sampler_seed",
    repetition_penalty_field="rep_pen",
    stop_max=32,  # of 1.76; later ones take 256
    unsupported=("frequency_penalty",),
    reasoning_headroom=2048,
)
STREAM_PATH: Final = "/api/extra/generate/stream"
ABORT_PATH: Final = "/api/extra/abort"
ABORT_S: Final = 2.0
"""What telling the server that nobody listens any more may take; it answers after 0.1 s."""
KEY_BYTES: Final = 8
"""Of the key of a request: unlike that of anybody else, who could end it."""
HIDDEN_MODEL: Final = "koboldcpp/protected-model"
"""The name that a server with a password tells who does not have it."""
_TAILS: Final = ("/api/v1", "/api", "/v1")
"""What the addresses of its doors end in."""
_LOG = logging.getLogger(__name__)


class Kobold(HttpChat):
    """One server for one binding."""

    usual = USUAL

    def __init__(self, provider: ProviderSpec, binding: Binding) -> None:
        super().__init__(
            dataclasses.replace(provider, base_url=_root(provider.base_url)),
            dataclasses.replace(binding, base_url=_root(binding.base_url)),
        )
        self._manner = Manner()
        self._reading: dict[int, KoboldReply] = {}
        """The answers of the requests that are open."""
        self._afterwards = Afterwards()

    def body(self, request: Request, quirks: Quirks, refused: Collection[str]) -> Body:
        return build(request, quirks, self._manner, secrets.token_hex(KEY_BYTES), refused=refused)

    def path(self, request: Request, body: Body) -> str:
        return STREAM_PATH if body.streamed else super().path(request, body)

    def reader(self, who: Who, request: Request) -> KoboldReply:
        reply = self._reading[request.id] = KoboldReply(
            who,
            model=request.model,
            max_output_length=request.max_output_length,
            stops=cuts_of(request, self._quirks.of(request.model), self._manner),
            answered_by=self._models[0] if self._models else None,
        )
        return reply

    async def models(self, upstream: Upstream, path: str, timeout_s: float) -> tuple[str, ...]:
        listed = await self.listed(upstream, path, timeout_s)
        name = listed.get("result") if isinstance(listed, dict) else None
        if name == HIDDEN_MODEL:
            raise AdapterError(
                Code.AUTHORIZATION, f"{self.provider.name} wants its password: send it as api_key in load"
            )
        return (name,) if name and isinstance(name, str) else ()

    async def load(self, load: LoadRequest, report: ReportProgress) -> Loaded:
        """As for every HTTP provider; the model is the one that the server was started with.

        Raises:
            AdapterError: AUTHORIZATION, UNREACHABLE, INVALID_MODEL or INVALID_REQUEST.
        """
        self._manner = read_manner(self.binding.options)
        return await super().load(load, report)

    async def preload(self, model: str | None, report: ReportProgress) -> tuple[Warn, ...]:
        return await super().preload(self._spelled(model or ""), report)

    def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """The reply as it arrives. Cancelling or closing it ends it in the server too.

        Raises:
            AdapterError: INVALID_MODEL, the server has another one; and as for every provider.
        """
        model = self._spelled(request.model)
        if model and self._models and model not in self._models:
            hint = self._near(model) or f"it has {self._models[0]}"
            sentence = f"{self.provider.name} has no model {model!r}, only the one that it was started with"
            raise AdapterError(Code.INVALID_MODEL, f"{sentence}; {hint}")
        name = model or next(iter(self._models), "")
        return super().generate(dataclasses.replace(request, model=name))

    async def _answer(
        self, request: Request, body: Body, deadline: float, retries: int
    ) -> AsyncGenerator[Event, None]:
        """The events of one request; one that is left before its end is ended in the server."""
        runs_on = True
        try:
            async with contextlib.aclosing(super()._answer(request, body, deadline, retries)) as events:
                async for event in events:
                    yield event
        except AdapterError:
            runs_on = False  # refused, or the connection is gone and the server knows it
            raise
        finally:
            reply = self._reading.pop(request.id, None)
            ended = reply is None or reply.ended or not runs_on
            if not ended and isinstance(key := body.fields.get("genkey"), str):
                await self._afterwards.do(self._abort(key))

    async def close(self) -> None:
        await self._afterwards.close()
        await super().close()

    async def _abort(self, key: str) -> None:
        """Tells the server that nobody listens any more, whether the request runs or waits for its turn."""
        body: dict[str, Any] = {"genkey": key}
        try:
            await self.opened().ask("POST", ABORT_PATH, json.dumps(body).encode(), timeout_s=ABORT_S)
        except AdapterError as exc:  # it ends by itself then, at most as late as its limit has it
            _LOG.warning("a reply was not ended provider=%s: %s", self.provider.id, exc.message)

    def _spelled(self, model: str) -> str:
        """A model's name as the server says it, which puts `koboldcpp/` before that of its file."""
        wanted = model.lower()
        return next((name for name in self._models if wanted in (name.lower(), _bare(name))), model)


ADAPTER: Final = Kobold


def _root(base_url: str | None) -> str | None:
    """The server's own address, where that of one of its doors was given."""
    if not base_url:
        return base_url
    url = base_url.rstrip("/")
    return next((url.removesuffix(tail) for tail in _TAILS if url.endswith(tail)), url)


def _bare(name: str) -> str:
    return name.lower().rpartition("/")[2]

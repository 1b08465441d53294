"""The Replicate wire: a prediction is made by one request, followed by others, and ended by another.

`POST …/predictions` answers at once with an id. What the model says then comes as events from an address that
the answer names, or, where it names none, by asking for the prediction again and again. Leaving an answer
early ends nothing at the provider: it is told so, with a request of its own.
What a model takes, its own schema says (workers/model_inputs.py); what a prediction says,
workers/prediction_reply.py reads.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import logging
from collections.abc import AsyncGenerator, Collection
from typing import Any, ClassVar, Final
from urllib.parse import quote, urlsplit

from workers.adapter import (
    AdapterError,
    Begun,
    Binding,
    Event,
    ProviderSpec,
    ReportProgress,
    Request,
    Warn,
)
from workers.afterwards import Afterwards
from workers.codes import Code
from workers.http_chat import HttpChat
from workers.model_inputs import Inputs, build, inputs_of, is_named, turn_ends
from workers.model_lists import model_names
from workers.parameters import Body
from workers.prediction_reply import Made, NamedEvents, PredictionReply, identity_of
from workers.quirks import Quirks
from workers.refusals import Refusal, Who
from workers.routes import is_loopback
from workers.upstream import Upstream

__all__ = ["ADAPTER", "Replicate"]

USUAL: Final = Quirks(models_path="/collections/language-models", key_check_path="/account")
HOSTS: Final = ("replicate.com", "replicate.net")
"""Whose subdomains a stream may be on: the vendor's, and nobody else gets the key."""
HTTPS: Final = 443
STREAM_HOSTS_MAX: Final = 4
"""The vendor has had three in three years."""
LOOK_UP_S: Final = 2.5
"""What asking for a model's schema may take; without it the usual fields are sent."""
KNOWN_MODELS_MAX: Final = 1024
CANCEL_S: Final = 5.0
"""What telling the provider that nobody listens any more may take."""
BEGIN_GRACE_S: Final = 1.0
"""How long the id of an unwanted prediction is waited for; without it nobody can end it."""
STREAM_HEADERS: Final = {"Accept": "text/event-stream", "Cache-Control": "no-store"}

_NO_MODEL: Final = ("the requested resource could not be found", "the specified version does not exist")
"""How the provider begins to say that there is no such model; no other word of it does."""
_LOG = logging.getLogger(__name__)


class Replicate(HttpChat):
    """One provider of this wire for one binding."""

    usual = USUAL
    accepted = (200, 201)
    decoder = NamedEvents
    poll_s: ClassVar[float] = 0.5
    """Between two questions for one prediction, as the vendor's own package has it; a seam for tests."""

    def __init__(self, provider: ProviderSpec, binding: Binding) -> None:
        super().__init__(provider, binding)
        self._inputs: dict[str, Inputs] = {}
        self._streams: dict[str, Upstream] = {}
        """Connections to the hosts that streams are on."""
        self._opening = asyncio.Lock()
        """Of them: requests at once have one to a host."""
        self._afterwards = Afterwards()
        """Cancellations on their way."""

    def body(self, request: Request, quirks: Quirks, refused: Collection[str]) -> Body:
        return build(request, quirks, self._inputs.get(request.model, Inputs()), refused=refused)

    def path(self, request: Request, body: Body) -> str:
        if "version" in body.fields:
            return "/predictions"
        return f"/models/{request.model}/predictions"

    def reader(self, who: Who, request: Request) -> PredictionReply:
        inputs = self._inputs.get(request.model, Inputs())
        return PredictionReply(
            who,
            model=request.model,
            max_output_length=request.max_output_length,
            ends=turn_ends(request, inputs),
        )

    async def models(self, upstream: Upstream, path: str, timeout_s: float) -> tuple[str, ...]:
        listed = await self.listed(upstream, path, timeout_s)
        models = listed.get("models") if isinstance(listed, dict) else None
        named = {_full_name(model): model for model in models} if isinstance(models, list) else {}
        self._inputs.update({name: inputs_of(named[name]) for name in list(named)[:KNOWN_MODELS_MAX] if name})
        return model_names(list(named))

    async def preload(self, model: str | None, report: ReportProgress) -> tuple[Warn, ...]:
        warnings = await super().preload(model, report)
        if name := model or self.provider.default_model:
            await self._look_up(name)  # the next reply need not wait for it
        return warnings

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """The reply as it arrives. Cancelling or closing it ends the prediction too."""
        await self._look_up(request.model)
        async with contextlib.aclosing(super().generate(request)) as events:
            async for event in events:
                yield event

    async def close(self) -> None:
        await self._afterwards.close()
        for upstream in self._streams.values():
            await upstream.close()
        await super().close()

    async def _look_up(self, model: str) -> None:
        """Learns what a model takes, once; one that is not told about is taken to be as most are."""
        if model in self._inputs or self._upstream is None:
            return
        if len(self._inputs) >= KNOWN_MODELS_MAX:
            self._inputs.clear()
        found: Any = None
        name = model.partition(":")[0]
        if is_named(name):
            try:
                found = await self.listed(self._upstream, f"/models/{name}", LOOK_UP_S)
            except AdapterError as exc:
                _LOG.info("no schema provider=%s code=%s", self.provider.id, exc.code.name)
                return  # asked again next time
        self._inputs[model] = inputs_of(found)

    async def _answer(
        self, request: Request, body: Body, deadline: float, retries: int
    ) -> AsyncGenerator[Event, None]:
        upstream = self.opened()
        answer = self.reader(upstream.who, request)
        begun, tried = await self._begin(upstream, request, body, deadline, retries)
        retries += tried
        made, events = answer.made(begun.removeprefix(codecs.BOM_UTF8))
        try:
            if body.warnings or retries:
                yield Begun(body.warnings, retries)
            for event in events:
                yield event
            if not answer.complete:
                rest = self._followed(upstream, made, answer, body, deadline, retries)
                async with contextlib.aclosing(rest) as following:
                    async for event in following:
                        if isinstance(event, Begun):
                            retries = event.retries
                        yield event
            yield answer.finish(retries=retries, warnings=body.warnings)
        finally:
            if not answer.ended:
                await self._afterwards.do(self._cancel(upstream, made.identity))

    # ---- one prediction

    async def _begin(
        self, upstream: Upstream, request: Request, body: Body, deadline: float, retries: int
    ) -> tuple[bytes, int]:
        """The answer to the request that makes the prediction, and how often it was tried again.

        Cancelling it cancels the prediction too, as soon as its id is known.
        """

        async def end(begun: bytes) -> None:
            if identity := identity_of(begun):
                await self._cancel(upstream, identity)

        async def begin() -> bytes:
            sending = self._sent(upstream, request, body)
            return await self._afterwards.begun(sending, end, grace_s=BEGIN_GRACE_S)

        return await upstream.again(begin, deadline=deadline, retries=1 - retries)

    async def _sent(self, upstream: Upstream, request: Request, body: Body) -> bytes:
        path, data = self.path(request, body), body.encoded()
        try:
            async with upstream.post(path, data, deadline=0.0, model=request.model, retries=0) as reply:
                return await reply.read()
        except Refusal as exc:
            if not exc.fields.message.lower().startswith(_NO_MODEL):
                raise
            message = f"{self.provider.name} does not know model {request.model!r}: name another one"
            raise Refusal(Code.INVALID_MODEL, message, provider_status=exc.provider_status) from exc

    async def _followed(
        self,
        upstream: Upstream,
        made: Made,
        answer: PredictionReply,
        body: Body,
        deadline: float,
        retries: int,
    ) -> AsyncGenerator[Event, None]:
        """What a prediction says after it was made: by its stream where it has one, and by asking for it as
        long as it is not over then, since a state of it may come in the place of a stream."""
        if made.stream_url and body.streamed:
            where, path = await self._at(upstream, made.stream_url)
            async with where.get(
                path, deadline=deadline, retries=1 - retries, headers=STREAM_HEADERS
            ) as reply:
                if reply.retries:
                    yield Begun(body.warnings, retries + reply.retries)
                async with contextlib.aclosing(self.read(reply, answer)) as events:
                    async for event in events:
                        yield event
                if answer.ended:
                    await reply.drain()  # before Finish: nobody asks for more after it
        while not answer.complete and not answer.endless:
            await asyncio.sleep(self.poll_s)
            async with upstream.get(_prediction(made.identity), deadline=deadline) as reply:
                for event in answer.whole(await reply.read()):
                    yield event

    async def _at(self, upstream: Upstream, url: str) -> tuple[Upstream, str]:
        """The connections to an address that the provider named, and the path there.

        Raises:
            AdapterError: UPSTREAM_PROTOCOL, the address is not the provider's.
        """
        base_url = self.base_url.rstrip("/")
        if url.startswith(f"{base_url}/"):
            return upstream, url[len(base_url) :]
        if not _is_theirs(url, base_url):
            raise AdapterError(
                Code.UPSTREAM_PROTOCOL,
                f"{self.provider.name} named an address for the reply that is not its own; "
                "it was not asked, since the key would go there",
            )
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        async with self._opening:
            if origin not in self._streams:
                self._streams[origin] = await self._other(origin)
        return self._streams[origin], url[len(origin) :]

    async def _other(self, origin: str) -> Upstream:
        """The connections to another host, opened."""
        if len(self._streams) >= STREAM_HOSTS_MAX:
            raise AdapterError(
                Code.UPSTREAM_PROTOCOL, f"{self.provider.name} names ever new hosts for its replies"
            )
        other = self.made(origin)
        await other.open()
        return other

    # ---- ends

    async def _cancel(self, upstream: Upstream, prediction: str) -> None:
        """Tells the provider that nobody listens any more."""
        try:
            await upstream.ask("POST", f"{_prediction(prediction)}/cancel", timeout_s=CANCEL_S)
        except AdapterError as exc:  # it is over by itself then, at most as late as its limit has it
            _LOG.warning("a prediction was not cancelled provider=%s: %s", self.provider.id, exc.message)


ADAPTER: Final = Replicate


def _full_name(model: object) -> str:
    """`owner/name` of a model in a list; empty for what is none."""
    if not isinstance(model, dict):
        return ""
    owner, name = model.get("owner"), model.get("name")
    return f"{owner}/{name}" if isinstance(owner, str) and isinstance(name, str) else ""


def _prediction(identity: str) -> str:
    return f"/predictions/{quote(identity, safe='')}"


def _is_theirs(url: str, base_url: str) -> bool:
    """Whether an address is the vendor's, or on this machine as the base URL is."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        at_home = is_loopback(urlsplit(base_url).hostname or "")
    except ValueError:
        return False
    if parts.username is not None:
        return False
    if at_home:
        return parts.scheme in ("http", "https") and is_loopback(host)
    named = any(host == name or host.endswith(f".{name}") for name in HOSTS)
    return named and parts.scheme == "https" and port in (None, HTTPS)

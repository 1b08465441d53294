"""An adapter over HTTP, all but its wire: loading, the key, one retry, streams and their ends.

A wire says three things: a request as a body, an answer's reader (workers.answer), and how it differs by its
quirks (workers.quirks). Where it must, also how its models are listed. This file joins them to the
connection and decides when an answer is complete; a file in adapters/ is what is left.
"""

from __future__ import annotations

import abc
import asyncio
import codecs
import contextlib
import difflib
import functools
import re
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from typing import Any, ClassVar, Final, Protocol
from urllib.parse import quote

from workers.adapter import (
    Adapter,
    AdapterError,
    Begun,
    Binding,
    Event,
    Loaded,
    LoadRequest,
    ProviderSpec,
    Reasoning,
    ReportProgress,
    Request,
    Text,
    Warn,
)
from workers.answer import Answer
from workers.chat_body import Body
from workers.codes import Code
from workers.quirks import DROPPABLE, RENAMED, Quirks
from workers.refusals import Refusal, Who, redacted
from workers.sse import Event as Piece
from workers.sse import EventTooLong, SSEDecoder
from workers.upstream import Reply, Upstream

__all__ = ["Decoder", "HttpChat", "model_names"]

LOAD_S: Final = 5.0
"""What a key check may take; a provider that is slower than that is used unchecked."""
UNCHECKED_LOAD_S: Final = 1.0
"""And where no check was asked for: only the list of models and a warm connection are at stake."""
AFTER_END_S: Final = 1.0
"""How long usage and the mark of the end are waited for once the model has said that it ended, and has said
nothing more."""
MODELS_MAX: Final = 4096
"""More model names than any provider has; the rest is left out."""
PAGES_MAX: Final = 4
"""Pages of such a list; it is asked for by hundreds."""
NEAR_MODELS: Final = 3
LEARNT_MODELS_MAX: Final = 256
"""Models whose refused parameters are remembered."""
_LISTS: Final = ("data", "models", "result")
"""Where a list of models is in its answer, if that is not a list itself."""
_DONE: Final = b"[DONE]"
_MARK: Final = re.compile(r"\{([a-z_]+)\}")
"""What a path leaves open."""
_MODEL_SAFE: Final = ":@"
"""Beside letters and digits, what stands unescaped in a name in a path."""
_LATEST: Final = ":latest"
"""Ollama's tag for a name without one."""
_REFUSING_WORDS: Final = (
    *("support", "unknown", "unrecognized", "not permitted", "not enabled", "extra", "deprecated"),
)
"""What a provider says about a parameter that it does not take."""
_DISPENSABLE: Final = ("stop",)
"""What may be left out whatever is said of it, since the host cuts there too."""
_REFUSING: Final = (Code.AUTHORIZATION, Code.UNREACHABLE, Code.INVALID_REQUEST)


class Decoder(Protocol):
    """Takes a stream apart: bytes in, pieces with their names out, at any split of the bytes."""

    def feed(self, data: bytes) -> list[Piece]:
        """All pieces that are complete with `data`.

        Raises:
            EventTooLong: a piece is far too long.
        """

    def close(self) -> Piece | None:
        """The end of the stream: a piece that only its end was missing from."""


class HttpChat(Adapter, abc.ABC):
    """One provider of one wire for one binding."""

    usual: ClassVar[Quirks] = Quirks()
    """What holds for the wire where a provider's table says nothing."""
    stream_types: ClassVar[tuple[str, ...]] = ("text/event-stream", "text/plain", "")
    """The content types of a stream; JSON is always an answer that is whole."""
    decoder: ClassVar[type[Decoder]] = SSEDecoder
    """What takes a stream apart."""
    last_ends: ClassVar[bool] = True
    """Whether the last piece of a stream has an end as all others have; else one may be whole without."""
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
        self._refused: dict[str, frozenset[str]] = {}
        """Per model, the parameters of sampling that it was seen to refuse."""

    @property
    def base_url(self) -> str:
        """Where this binding's requests go; empty where nobody said so."""
        return self.binding.base_url or self.provider.base_url or ""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be repeated from an answer."""
        return tuple(filter(None, (self._key,)))

    @abc.abstractmethod
    def body(self, request: Request, quirks: Quirks, refused: Collection[str]) -> Body:
        """The request on this wire; `quirks` are the model's, `refused` are parameters that it does not take.

        Raises:
            AdapterError: UNSUPPORTED, the request holds what this wire or this provider cannot carry.
        """

    def path(self, request: Request, body: Body) -> str:
        """Where the request goes, after the base URL: `chat_path`, with `{model}` and options filled in."""
        return self._filled(self._quirks.chat_path, model=request.model)

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

    @abc.abstractmethod
    def reader(self, who: Who, request: Request) -> Answer:
        """What reads the answer to a request; used once."""

    def patience_s(self, error: AdapterError, waits: int, left_s: float) -> float | None:
        """How long a refusal is waited for that the provider documents as a wait: see workers.upstream.

        Raises:
            AdapterError: what is told instead, where that wait does not fit into the seconds left.
        """
        return None

    def named(self, error: Refusal, body: Body) -> frozenset[str]:
        """The parameters that a refusal names; from then on `body` gets them as `refused`."""
        return _named_parameters(error, body)

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

    def _filled(self, path: str, *, model: str = "") -> str:
        """`path` with `{model}` and the options that it names."""
        if "{" not in path:
            return path

        def value(found: re.Match[str]) -> str:
            return quote(model if found[1] == "model" else self.option(found[1]), safe=_MODEL_SAFE)

        return _MARK.sub(value, path)

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

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """The reply as it arrives. Cancelling or closing it closes the connection."""
        deadline = asyncio.get_running_loop().time() + request.timeout_s
        retries = 0
        while True:
            body = self.body(request, self._quirks.of(request.model), self._refused.get(request.model, ()))
            begun = False
            try:
                async with contextlib.aclosing(self._answer(request, body, deadline, retries)) as answer:
                    async for event in answer:
                        begun = True
                        yield event
                return
            except Refusal as exc:
                if begun or retries or not self._learnt(exc, request, body):
                    if near := self._near_refused(exc, request.model):
                        raise near from exc
                    raise
                retries += 1

    async def close(self) -> None:
        """Closes all connections; may be called twice."""
        if self._upstream is not None:
            await self._upstream.close()

    # ---- load

    @property
    def _key(self) -> str:
        """What is sent with every request; empty where each is `signed` instead."""
        return (self.binding.key or "").strip()

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

    async def preload(self, model: str | None, report: ReportProgress) -> tuple[Warn, ...]:
        """Whether there is that model, where one is named; a server of one's own may also fetch it here.

        Raises:
            AdapterError: INVALID_MODEL, there is none.
        """
        if not model or not self._models or model in self._models or model + _LATEST in self._models:
            return ()
        if not self._quirks.models_complete:
            return (Warn("MODEL_NOT_LISTED", f"{self.provider.name} does not list the model {model!r}"),)
        hint = self._near(model) or "use a name from get_models"
        raise AdapterError(Code.INVALID_MODEL, f"{self.provider.name} has no model {model!r}; {hint}")

    def _near(self, model: str) -> str:
        near = difflib.get_close_matches(model, self._models, NEAR_MODELS)
        return f"near ones: {', '.join(near)}" if near else ""

    # ---- generate

    def _near_refused(self, refused: Refusal, model: str) -> AdapterError | None:
        """A refusal of the model with those that may have been meant; None if it is none of that kind."""
        near = self._near(model) if refused.code is Code.INVALID_MODEL else ""
        if not near:
            return None
        status = refused.provider_status
        return AdapterError(refused.code, f"{refused.message}; {near}", provider_status=status)

    async def _answer(
        self, request: Request, body: Body, deadline: float, retries: int
    ) -> AsyncGenerator[Event, None]:
        """The events of one request."""
        upstream = self.opened()
        answer = self.reader(upstream.who, request)
        path, data = self.path(request, body), body.encoded()
        async with upstream.post(
            path,
            data,
            deadline=deadline,
            model=request.model,
            retries=1 - retries,
            sign=functools.partial(self.signed, path, data),
        ) as reply:
            if body.warnings or retries + reply.retries:
                yield Begun(body.warnings, retries + reply.retries)
            async with contextlib.aclosing(self.read(reply, answer)) as events:
                async for event in events:
                    yield event
            finish = answer.finish(retries=retries + reply.retries, warnings=body.warnings)
            if not answer.unfinished:
                await reply.drain()  # before Finish: nobody asks for more after it
            yield finish

    def opened(self) -> Upstream:
        """The connections of a loaded binding.

        Raises:
            AdapterError: NOT_LOADED, there are none.
        """
        if self._upstream is None:
            raise AdapterError(Code.NOT_LOADED, f"{self.provider.name} is not loaded")
        return self._upstream

    async def read(self, reply: Reply, answer: Answer) -> AsyncGenerator[Event, None]:
        """The events of an answer that is complete, whole or streamed.

        Raises:
            AdapterError: it is an error, or not complete, or not of this wire.
        """
        if _is_json(reply):
            whole = await reply.read()
            for event in answer.whole(whole.removeprefix(codecs.BOM_UTF8)):
                yield event
        else:
            self._check_type(reply)
            async with contextlib.aclosing(self._streamed(reply, answer)) as stream:
                async for event in stream:
                    yield event

    async def _streamed(self, reply: Reply, answer: Answer) -> AsyncGenerator[Event, None]:
        """The events of a stream up to its end; it returns only when the answer is complete."""
        decoder = self.decoder()
        seen = False
        try:
            async with contextlib.aclosing(reply.chunks()) as chunks:
                async for data in chunks:
                    for name, payload in decoder.feed(data):
                        seen = True
                        if payload == _DONE:
                            return
                        if name == "error":
                            raise answer.failed(payload)
                        for event in answer.piece(payload):
                            if isinstance(event, (Text, Reasoning)):
                                reply.goes_on()
                            yield event
                        if answer.complete or answer.endless:
                            return
                    if answer.reason is not None:
                        reply.end_within(AFTER_END_S)
        except EventTooLong as exc:
            raise self._too_long() from exc
        except AdapterError as exc:
            if exc.code is not Code.TRUNCATED or answer.reason is None:
                raise
            return  # the model had said that it ended; only the connection's end was missing
        last = decoder.close()
        if last is not None and last.name == "error":
            raise answer.failed(last.data)
        if answer.reason is None and last is not None and not self.last_ends:
            for event in _last(answer, last.data):
                yield event
        answer.closed()
        if answer.reason is None and (last is None or last.data != _DONE):
            raise self._incomplete(seen=seen or last is not None)

    def _too_long(self) -> AdapterError:
        return AdapterError(
            Code.UPSTREAM_PROTOCOL, f"{self.provider.name} sent a piece of a reply that is far too long"
        )

    def _incomplete(self, *, seen: bool) -> AdapterError:
        if seen:
            return AdapterError(
                Code.TRUNCATED, f"the stream of {self.provider.name} ended in the middle of the answer"
            )
        return AdapterError(
            Code.UPSTREAM_PROTOCOL, f"{self.provider.name} sent an empty answer: check the base URL"
        )

    def _check_type(self, reply: Reply) -> None:
        if reply.content_type not in self.stream_types:
            raise AdapterError(
                Code.UPSTREAM_PROTOCOL,
                f"{self.provider.name} answered with {redacted(reply.content_type)} instead of a reply: "
                "check that the base URL is the API's",
            )

    def _learnt(self, error: Refusal, request: Request, body: Body) -> bool:
        """Whether the refusal names a parameter of sampling that was sent; then it is not sent again."""
        if error.provider_status not in (400, 422) or error.code is not Code.INVALID_PROMPT:
            return False
        named = self.named(error, body)
        if not named:
            return False
        if len(self._refused) >= LEARNT_MODELS_MAX:
            self._refused.clear()
        self._refused[request.model] = self._refused.get(request.model, frozenset()) | named
        return True


def _is_json(reply: Reply) -> bool:
    return reply.content_type == "application/json" or reply.content_type.endswith("+json")


def _last(answer: Answer, data: bytes) -> list[Event]:
    """What a piece brings that only its end was missing from; nothing, where it was cut inside.

    Raises:
        AdapterError: it is an error of the provider.
    """
    try:
        return answer.piece(data)
    except AdapterError as exc:
        if exc.code is Code.UPSTREAM_PROTOCOL:
            return []
        raise


def _named_parameters(error: Refusal, body: Body) -> frozenset[str]:
    """The parameters of sampling that were sent and that the refusal names, by its field or its words; and
    a field that it wants by another name."""
    message = error.fields.message.lower()
    for old, new in RENAMED.items():
        if old in body.fields and new in message:
            return frozenset((old,))
    sent = {name: name for name in DROPPABLE if name in body.fields} | dict(body.called)
    if error.fields.param in sent:
        return frozenset((error.fields.param,))
    named = frozenset(name for name, called in sent.items() if name in message or called.lower() in message)
    return named if any(word in message for word in _REFUSING_WORDS) else named.intersection(_DISPENSABLE)


def model_names(listed: Any) -> tuple[str, ...]:
    """The names in a list of models, in whichever of its usual shapes."""
    items = listed
    if isinstance(listed, dict):
        items = next((listed[key] for key in _LISTS if key in listed), None)
    if not isinstance(items, list):
        return ()
    names = (item if isinstance(item, str) else _name_of(item) for item in items[:MODELS_MAX])
    return tuple(dict.fromkeys(name for name in names if name))


def _name_of(item: Any) -> str:
    if not isinstance(item, dict):
        return ""
    name = item.get("id") or item.get("name")
    return name if isinstance(name, str) else ""

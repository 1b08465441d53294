"""An adapter over HTTP, all but its wire: one request and its reply, sent once more where that helps.

A wire says three things: a request as a body, an answer's reader (workers.answer), and how it differs by its
quirks (workers.quirks). Where it must, also how its models are listed. This file joins them; a file in
adapters/ is what is left. Keys and loading are http_adapter.py's; reading.py says when an answer is complete,
lessons.py what a refusal teaches.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, Collection
from typing import ClassVar

from workers.adapter import AdapterError, Begun, Binding, Event, ProviderSpec, Request
from workers.answer import Answer
from workers.codes import Code
from workers.http_adapter import HttpAdapter
from workers.http_reply import Reply
from workers.lessons import Lessons, named_parameters, teaches
from workers.parameters import Body
from workers.quirks import Quirks
from workers.reading import Decoder, events_of
from workers.refusals import Refusal, Who
from workers.sse import SSEDecoder

__all__ = ["HttpChat"]


class HttpChat(HttpAdapter, abc.ABC):
    """One provider of one wire for one binding."""

    stream_types: ClassVar[tuple[str, ...]] = ("text/event-stream", "text/plain", "")
    """The content types of a stream; JSON is always an answer that is whole."""
    decoder: ClassVar[type[Decoder]] = SSEDecoder
    """What takes a stream apart."""
    last_ends: ClassVar[bool] = True
    """Whether the last piece of a stream has an end as all others have; else one may be whole without."""

    def __init__(self, provider: ProviderSpec, binding: Binding) -> None:
        super().__init__(provider, binding)
        self._lessons = Lessons()

    @abc.abstractmethod
    def body(self, request: Request, quirks: Quirks, refused: Collection[str]) -> Body:
        """The request on this wire; `quirks` are the model's, `refused` are parameters that it does not take.

        Raises:
            AdapterError: UNSUPPORTED, the request holds what this wire or this provider cannot carry.
        """

    def path(self, request: Request, body: Body) -> str:
        """Where the request goes, after the base URL: `chat_path`, with `{model}` and options filled in."""
        return self._filled(self._quirks.chat_path, model=request.model)

    @abc.abstractmethod
    def reader(self, who: Who, request: Request) -> Answer:
        """What reads the answer to a request; used once."""

    def named(self, error: Refusal, body: Body) -> frozenset[str]:
        """The parameters that a refusal names; from then on `body` gets them as `refused`."""
        return named_parameters(error, body)

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """The reply as it arrives. Cancelling or closing it closes the connection."""
        deadline = asyncio.get_running_loop().time() + request.timeout_s
        retries = 0
        while True:
            body = self.body(request, self._quirks.of(request.model), self._lessons.of(request.model))
            begun = False
            try:
                async with contextlib.aclosing(self._answer(request, body, deadline, retries)) as answer:
                    async for event in answer:
                        begun = True
                        yield event
                return
            except Refusal as exc:
                if begun or retries or not self._learnt(exc, request.model, body):
                    if near := self._near_refused(exc, request.model):
                        raise near from exc
                    raise
                retries += 1

    def read(self, reply: Reply, answer: Answer) -> AsyncGenerator[Event, None]:
        """The events of an answer that is complete, whole or streamed.

        Raises:
            AdapterError: it is an error, or not complete, or not of this wire.
        """
        return events_of(reply, answer, self.decoder(), types=self.stream_types, last_ends=self.last_ends)

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

    def _learnt(self, error: Refusal, model: str, body: Body) -> bool:
        """Whether the refusal names a parameter of sampling that was sent; then it is not sent again."""
        named = self.named(error, body) if teaches(error) else frozenset()
        if named:
            self._lessons.learn(model, named)
        return bool(named)

    def _near_refused(self, refused: Refusal, model: str) -> AdapterError | None:
        """A refusal of the model with those that may have been meant; None if it is none of that kind."""
        near = self._near(model) if refused.code is Code.INVALID_MODEL else ""
        if not near:
            return None
        status = refused.provider_status
        return AdapterError(refused.code, f"{refused.message}; {near}", provider_status=status)

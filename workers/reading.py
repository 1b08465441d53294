"""One answer read to its end, whole or as a stream: this file decides when it is complete.

A stream is complete when its wire says so, or when the model had said that it ended and only the mark of the
end is missing; all else that ends is cut. What the pieces mean is the wire's (workers.answer).
"""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import AsyncGenerator, Collection
from typing import Final, Protocol

from workers.adapter import AdapterError, Event, Reasoning, Text, ToolCallPart
from workers.answer import Answer
from workers.codes import Code
from workers.http_reply import Reply
from workers.redaction import redacted
from workers.sse import Event as Piece
from workers.sse import EventTooLong

__all__ = ["Decoder", "events_of"]

AFTER_END_S: Final = 1.0
"""How long usage and the mark of the end are waited for once the model has said that it ended, and has said
nothing more."""
_DONE: Final = b"[DONE]"


class Decoder(Protocol):
    """Takes a stream apart: bytes in, pieces with their names out, at any split of the bytes."""

    def feed(self, data: bytes) -> list[Piece]:
        """All pieces that are complete with `data`.

        Raises:
            EventTooLong: a piece is far too long.
        """

    def close(self) -> Piece | None:
        """The end of the stream: a piece that only its end was missing from."""


async def events_of(
    reply: Reply, answer: Answer, decoder: Decoder, *, types: Collection[str], last_ends: bool
) -> AsyncGenerator[Event, None]:
    """The events of an answer that is complete. `types` are the content types of a stream; `last_ends` says
    whether the last piece of one has an end as all others have.

    Raises:
        AdapterError: it is an error, or not complete, or not of this wire.
    """
    if _is_json(reply):
        whole = await reply.read()
        for event in answer.whole(whole.removeprefix(codecs.BOM_UTF8)):
            yield event
    else:
        _check_type(reply, types)
        async with contextlib.aclosing(_streamed(reply, answer, decoder, last_ends=last_ends)) as stream:
            async for event in stream:
                yield event


def _is_json(reply: Reply) -> bool:
    return reply.content_type == "application/json" or reply.content_type.endswith("+json")


def _check_type(reply: Reply, types: Collection[str]) -> None:
    if reply.content_type not in types:
        raise AdapterError(
            Code.UPSTREAM_PROTOCOL,
            f"{reply.who.name} answered with {redacted(reply.content_type)} instead of a reply: "
            "check that the base URL is the API's",
        )


async def _streamed(
    reply: Reply, answer: Answer, decoder: Decoder, *, last_ends: bool
) -> AsyncGenerator[Event, None]:
    """The events of a stream up to its end; it returns only when the answer is complete."""
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
                        if isinstance(event, (Text, Reasoning, ToolCallPart)):
                            reply.goes_on()
                        yield event
                    if answer.complete or answer.endless:
                        return
                if answer.reason is not None:
                    reply.end_within(AFTER_END_S)
    except EventTooLong as exc:
        raise AdapterError(
            Code.UPSTREAM_PROTOCOL, f"{reply.who.name} sent a piece of a reply that is far too long"
        ) from exc
    except AdapterError as exc:
        if exc.code is not Code.TRUNCATED or answer.reason is None:
            raise
        return  # the model had said that it ended; only the connection's end was missing
    last = decoder.close()
    if last is not None and last.name == "error":
        raise answer.failed(last.data)
    if answer.reason is None and last is not None and not last_ends:
        for event in _last(answer, last.data):
            yield event
    answer.closed()
    if answer.reason is None and (last is None or last.data != _DONE):
        raise _incomplete(reply.who.name, seen=seen or last is not None)


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


def _incomplete(name: str, *, seen: bool) -> AdapterError:
    if seen:
        return AdapterError(Code.TRUNCATED, f"the stream of {name} ended in the middle of the answer")
    return AdapterError(Code.UPSTREAM_PROTOCOL, f"{name} sent an empty answer: check the base URL")

"""One generation on its way up: events of the adapter in; Chunk, CallPart and Alive frames out, and its end.

1. What a client may not see (reasoning, stops, an echoed name) never leaves; it makes Alive frames.
2. A streamed reply waits when its credit is spent. The adapter is not asked for more meanwhile, so its
   upstream waits too. An unstreamed one has no credit but a bound on the whole.
3. After `cancel` no Chunk and no CallPart leaves, even if the adapter swallows the cancellation.
4. When it ends, however it ends, the adapter's generator has been closed, and with it its upstream.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from workers import wire
from workers.adapter import (
    FINISH_REASONS,
    AdapterError,
    Alive,
    Begun,
    Event,
    Finish,
    Reasoning,
    Request,
    Text,
    ToolCallPart,
    Warn,
)
from workers.codes import Code
from workers.endings import Ending
from workers.tool_calls import ToolCalls
from workers.visible import VisibleText

__all__ = ["Reply"]

UNSTREAMED_MAX_CHARS: Final = 16 << 20
"""The whole of an unstreamed reply: far beyond any model's answer, and still no danger to memory."""
ALIVE_EVERY_S: Final = 0.1
"""Alive frames keep a clock from running out; ten a second are enough for any timeout."""
TURN_EVENTS: Final = 128
"""After so many events the loop gets a turn, even if the adapter had them all at hand."""

_EMPTY: Final = "EMPTY_REPLY"
_TRUNCATED: Final = "The provider's stream ended before its end; the text so far is incomplete."
_TOO_LONG: Final = f"The provider's reply is longer than {UNSTREAMED_MAX_CHARS} characters."


class Reply:
    """Made when a generation starts; `relay` runs once. `warnings` are added to those of a success."""

    def __init__(
        self, request: Request, send: Callable[[bytes], None], warnings: tuple[Warn, ...] = ()
    ) -> None:
        self._id = request.id
        self._model = request.model or None
        self._begun = Begun()
        self._send = send
        self._warnings = warnings
        self._streamed = request.stream
        self._credit = wire.CREDIT_CHARS if request.stream else UNSTREAMED_MAX_CHARS
        self._granted = asyncio.Event()
        self._visible = VisibleText(request.stop, request.character_name)
        self._calls = ToolCalls()
        self._alive_at = float("-inf")
        self._blank = True  # no visible character so far
        self._reasoned = False
        self._cancelled = False

    def grant(self, chars: int) -> None:
        """The client took that many characters."""
        self._credit += chars
        self._granted.set()

    def cancel(self) -> None:
        """Nothing is shown from now on."""
        self._cancelled = True

    async def relay(self, events: AsyncIterator[Event]) -> Ending:
        """Sends the reply and returns how it ended. Cancelling it closes the upstream.

        Raises:
            AdapterError: the adapter's, or UPSTREAM_PROTOCOL for an unstreamed reply without end.
        """
        try:
            until_turn = TURN_EVENTS
            async for event in events:
                if type(event) is Text:
                    text = self._visible.feed(event.text)
                    if not text:
                        self._alive()
                    elif rest := self._emit(text):
                        await self._show(rest)
                    if self._visible.stopped:
                        return await self._over(self._cut())
                elif type(event) is Finish:
                    await self._show(self._visible.finish())
                    return await self._over(event)
                elif type(event) is ToolCallPart:
                    await self._call(self._calls.feed(event))
                else:
                    self._unseen(event)
                until_turn -= 1
                if not until_turn:
                    until_turn = TURN_EVENTS
                    await asyncio.sleep(0)
            await self._show(self._visible.finish())
            if self._visible.stopped:  # a stop that could have become a longer, earlier one
                return await self._over(self._cut())
        finally:
            await _close(events)
        raise AdapterError(Code.TRUNCATED, _TRUNCATED)

    async def _show(self, text: str) -> None:
        """Sends visible text, waiting for credit as often as it takes."""
        while text := self._emit(text):
            await self._wait_for_credit()

    def _emit(self, text: str) -> str:
        """Sends visible text as far as the credit goes and returns the rest."""
        if self._cancelled:
            raise asyncio.CancelledError
        if self._blank and text:
            self._blank = text.isspace()
        while text and self._credit > 0:
            room = min(self._credit, wire.CHUNK_MAX_CHARS)
            piece, text = text[:room], text[room:]
            self._credit -= len(piece)
            self._send(wire.encode(wire.Chunk(self._id, piece)))
        return text

    async def _call(self, piece: ToolCallPart | None) -> None:
        """Sends a piece of a call, waiting for credit as often as it takes."""
        if piece is None:
            self._alive()
            return
        rest, begins = piece.arguments, True
        while rest or begins:
            if self._cancelled:
                raise asyncio.CancelledError
            room = max(min(self._credit, wire.CHUNK_MAX_CHARS), 0)
            if rest and not room:
                await self._wait_for_credit()
                continue
            said, rest, begins = rest[:room], rest[room:], False
            self._credit -= len(said)
            self._send(wire.encode(wire.CallPart(self._id, piece.index, piece.id, piece.name, said)))

    async def _wait_for_credit(self) -> None:
        """Bounded by the supervisor, which watches the client and cancels the request."""
        if not self._streamed:
            raise AdapterError(Code.UPSTREAM_PROTOCOL, _TOO_LONG)
        self._granted.clear()
        await self._granted.wait()

    def _unseen(self, event: Event) -> None:
        if isinstance(event, Reasoning):
            self._reasoned = True
        elif isinstance(event, Begun):
            self._begun = event
            return
        elif not isinstance(event, Alive):
            raise TypeError(f"the adapter yielded a {type(event).__name__}")
        self._alive()

    def _alive(self) -> None:
        if self._cancelled:
            raise asyncio.CancelledError
        now = time.monotonic()
        if now - self._alive_at >= ALIVE_EVERY_S:
            self._alive_at = now
            self._send(wire.encode(wire.Alive(self._id)))

    def _cut(self) -> Finish:
        """The end of a reply that was cut here, before the adapter told its own."""
        return Finish("stop", self._model, warnings=self._begun.warnings, retries=self._begun.retries)

    async def _over(self, finish: Finish) -> Ending:
        """The end of a reply of which all but its calls has been shown."""
        for piece in self._calls.finish():
            await self._call(piece)
        return self._ending(finish)

    def _ending(self, finish: Finish) -> Ending:
        if finish.reason not in FINISH_REASONS:
            raise ValueError(f"the adapter finished with {finish.reason!r}")
        stopped = self._visible.stopped
        calls = bool(self._calls) and finish.reason == "stop"  # some say so of an end at a call too
        warnings = (*self._warnings, *finish.warnings, *self._calls.warnings())
        if self._blank and not self._calls:
            warnings = (*warnings, Warn(_EMPTY, self._empty_because(finish.reason)))
        return Ending(
            finish_reason="stop" if stopped else "tool_calls" if calls else finish.reason,
            model=finish.model,
            usage=finish.usage,
            warnings=warnings,
            retries=finish.retries,
        )

    def _empty_because(self, reason: str) -> str:
        reasoned = self._reasoned or self._visible.reasoned
        if reason == "content_filter":
            return "The provider's filter left nothing of the reply."
        if self._visible.stopped:
            return "The reply began with a stop string."
        if reason == "tool_calls":
            return "The model wanted to call a tool, and no call of one arrived."
        if reasoned and reason == "length":
            return "All tokens were spent on reasoning; raise max_output_length or lower reasoning_effort."
        if reasoned:
            return "The model reasoned and then said nothing."
        if reason == "length":
            return "The reply ended at max_output_length before its first visible character."
        if self._visible.name_hidden:
            return "The reply was nothing but the character's name."
        return "The provider sent no text."


async def _close(events: AsyncIterator[Event]) -> None:
    """Closes the adapter's generator; an iterator that is none has nothing to close."""
    close = getattr(events, "aclose", None)
    if close is not None:
        await close()

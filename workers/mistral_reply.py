"""One reply of mistral.rs as events, drawn by the engine, or here where it is to have a seed.

A reply with a seed follows the engine along its likeliest tokens. Each token is drawn (workers.seeded) from
what the engine says of it; where another one than the likeliest comes out, the engine is asked anew, with the
reply so far at the end of the prompt.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from workers.adapter import AdapterError, Event, Finish, FinishReason, Reasoning, Request, Text, Usage
from workers.codes import Code
from workers.engine_thread import Pieces
from workers.mistral_chat import THINK, Asked
from workers.seeded import END_HELD, Candidate, Draw
from workers.stops import StopCutter

__all__ = ["Piece", "Reply", "Speaker"]

TOLD: Final = 64
"""How many of the likeliest tokens the engine tells of, for a reply with a seed."""
KEEP_EVERY: Final = 32
"""After so many tokens of a reply with a seed, what was computed is kept to go on from: the engine keeps only
what came to its end."""
PART: Final = "\ufffd"
"""What the engine says at the end for a letter that is not whole."""
_UNTOLD: Final = -1
"""In the place of a token that the engine did not tell of."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What the engine brings for one token, or for the last ones."""

    text: str
    thought: str = ""
    candidates: tuple[Candidate, ...] = ()
    """The likeliest first, which it is; none where they were not asked for."""
    reason: str | None = None
    """Why the reply ends here, if it does."""
    usage: Usage | None = None


class Speaker(Protocol):
    """A loaded model, as far as a reply needs it. What is no coroutine blocks, except `begin`."""

    context_length: int
    ends: tuple[int, ...]

    def count(self, prompt: str) -> int:
        """The tokens of a prompt."""

    def begin(self, prompt: str, *, max_tokens: int, **fields: Any) -> Pieces[Piece]:
        """Begins a request."""

    def text_of(self, token: int, after: int | None = None) -> str:
        """What a token says after another one, empty where it is a sign and no text."""

    def sign_of(self, token: int) -> str:
        """How a token is written."""


class Reply:
    """Used once."""

    def __init__(self, speaker: Speaker, model: str, request: Request, asked: Asked) -> None:
        self._speaker = speaker
        self._model = model
        self._request = request
        self._asked = asked
        self._tokens = 0  # of the prompt
        self._said = 0  # tokens of the reply
        self._last: Pieces[Piece] | None = None

    def when_over(self, callback: Callable[[], None]) -> None:
        """Calls that when the engine is through with it."""
        if self._last is None or self._last.work.done():
            callback()
        else:
            self._last.work.add_done_callback(lambda _: callback())

    async def events(self) -> AsyncGenerator[Event, None]:
        """The reply, then Finish. Closing it ends it in the engine too.

        Raises:
            AdapterError: CONTEXT_TOO_LONG before anything is computed, INVALID_PROMPT …
        """
        self._tokens = await asyncio.to_thread(self._speaker.count, self._asked.prompt)
        if self._tokens >= self._speaker.context_length:
            raise AdapterError(
                Code.CONTEXT_TOO_LONG,
                f"The messages have {self._tokens} tokens and the context holds "
                f"{self._speaker.context_length}: send fewer, or load with a larger options.context_length.",
            )
        if self._asked.thinks_from_the_start:
            yield Text(THINK)
        trims = self._asked.plain  # the space after the colon
        async with contextlib.aclosing(self._drawn() if self._asked.seeded else self._straight()) as source:
            async for event in source:
                if isinstance(event, Text):
                    event = Text(event.text.lstrip() if trims else event.text)
                    if not event.text:
                        continue
                    trims = False
                yield event

    @property
    def _left(self) -> int:
        """Tokens that may still be said."""
        return min(self._asked.max_tokens, self._speaker.context_length - self._tokens) - self._said

    @property
    def _ends(self) -> tuple[int, ...]:
        """The tokens that end it."""
        return () if self._asked.fields.get("ignore_eos") else self._speaker.ends

    def _begin(self, prompt: str, max_tokens: int, **fields: Any) -> Pieces[Piece]:
        self._last = self._speaker.begin(prompt, max_tokens=max_tokens, **fields)
        return self._last

    def _finish(self, reason: str, usage: Usage | None) -> Finish:
        kind: FinishReason = "length" if reason == "length" else "stop"
        usage = usage or Usage(self._tokens, self._said)
        return Finish(kind, self._model, usage=usage, warnings=self._asked.warnings)

    # ---- drawn by the engine

    async def _straight(self) -> AsyncGenerator[Event, None]:
        fields = dict(self._asked.fields)
        signs = [await asyncio.to_thread(self._speaker.sign_of, number) for number in self._request.stop_ids]
        if stops := [*self._asked.stops, *signs]:
            fields["stop_seqs"] = stops
        pieces = self._begin(self._asked.prompt, self._left, **fields)
        async with contextlib.aclosing(pieces.taken()) as taken:
            async for piece in taken:
                if piece.thought:
                    yield Reasoning(piece.thought)
                yield Text(_whole(piece))
                if piece.reason is not None:
                    yield self._finish(piece.reason, piece.usage)
                    return

    # ---- drawn here

    async def _drawn(self) -> AsyncGenerator[Event, None]:
        path = _Path(self._request, self._asked.stops, self._ends)
        while path.reason is None and self._left > 0:
            limit = 1 if path.keeps(self._said) else self._left
            pieces = self._begin(self._asked.prompt + path.text, limit, **self._greedy())
            async with contextlib.aclosing(self._followed(pieces, path)) as texts:
                async for text in texts:
                    yield Text(text)
        yield Text(path.rest())
        yield self._finish(path.reason or "length", None)

    def _greedy(self) -> dict[str, Any]:
        """The engine takes the likeliest token and tells of the others; what is drawn for is not its own."""
        bias = dict.fromkeys(self._ends, -END_HELD)
        fields = dict(self._asked.fields)
        for name in ("top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty"):
            fields.pop(name, None)
        bias.update(fields.pop("logit_bias", {}))
        told = {"logprobs": True, "top_logprobs": TOLD}
        return {**fields, **told, "temperature": 0.0, "logit_bias": bias}

    async def _followed(self, pieces: Pieces[Piece], path: _Path) -> AsyncGenerator[str, None]:
        """What is said until the engine has to be asked anew."""
        async with contextlib.aclosing(pieces.taken()) as taken:
            async for piece in taken:
                chosen = path.choose(piece)
                if chosen is None:
                    return
                self._said += 1
                said = _whole(piece)
                if path.astray:
                    said = await asyncio.to_thread(self._speaker.text_of, chosen.id, path.last)
                yield path.say(chosen, said)
                if path.astray or path.reason is not None:
                    return


class _Path:
    """Where a reply with a seed is."""

    def __init__(self, request: Request, stops: tuple[str, ...], ends: tuple[int, ...]) -> None:
        self._draw = Draw(request, ends)
        self._ends = {*ends, *request.stop_ids}
        self._cutter = StopCutter(stops)
        self._kept_at = -KEEP_EVERY
        self._alone = False
        self._in_letter = False
        self.text = ""
        self.last: int | None = None
        """The token that was said last."""
        self.astray = False
        """Another token than the engine's was drawn last."""
        self.reason: str | None = None
        """Why the reply is over."""

    def keeps(self, said: int) -> bool:
        """Whether one token alone is to be asked for, so that what is there so far is kept."""
        self._alone = said - self._kept_at >= KEEP_EVERY
        if self._alone:
            self._kept_at = said
        return self._alone

    def choose(self, piece: Piece) -> Candidate | None:
        """The token that it becomes; None where the engine has to be asked anew, or the reply is over."""
        self.astray = False
        if not piece.candidates:
            if piece.reason == "stop":
                self.reason = "stop"
                return None
            return Candidate(_UNTOLD, piece.text, 0.0)
        best = piece.candidates[0]
        if self._alone and PART in best.text:  # the engine would never say the rest of the letter
            return None
        if self._in_letter:
            self._draw.note(best)
            return best
        chosen = self._draw.choose(piece.candidates)
        self.astray = chosen is not best
        return chosen

    def say(self, chosen: Candidate, said: str) -> str:
        """That was said; what may be shown of it."""
        self.last = chosen.id if chosen.id != _UNTOLD else None
        if chosen.id in self._ends or (self.astray and not said):
            self.reason = "stop"
            return ""
        self._in_letter = not said
        self.text += said
        shown = self._cutter.feed(said)
        if self._cutter.found:
            self.reason = "stop"
        return shown

    def rest(self) -> str:
        """What was held back, and turned out to be no stop."""
        return self._cutter.finish()


def _whole(piece: Piece) -> str:
    """Its text, without a letter that the reply's limit has cut in two."""
    return piece.text.rstrip(PART) if piece.reason == "length" else piece.text

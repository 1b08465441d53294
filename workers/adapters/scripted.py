"""The adapter `scripted`: replies from a script, without a key, a network or a model.

It is the provider `demo`, with a built-in script that shows what the module does, and the deterministic
voice of an application's own tests. What a script is: workers.script and docs/script.md. Which one is
played, first match:

1. `options.replies`, a script inside the `load` message: always allowed, it touches nothing.
2. `options.script`, the path of a file: only where the operator's quirk `allow_script_option` is true,
   since a client would otherwise choose a file that this process reads.
3. The operator's quirk `script`, the path of a file.
4. The built-in one.

A word counts as a token. Cancelling is possible between any two pieces.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

from workers.adapter import (
    Adapter,
    AdapterError,
    Binding,
    Event,
    Finish,
    FinishReason,
    Loaded,
    LoadRequest,
    ProviderSpec,
    Reasoning,
    ReportProgress,
    Request,
    Text,
    Usage,
    Warn,
)
from workers.codes import Code
from workers.script import Script, ScriptedReply, parse_script, parse_script_text, split_words

__all__ = ["ADAPTER", "Scripted"]

SCRIPT_MAX_BYTES: Final = 8 << 20
"""A script file is written by a person."""
TURN_PIECES: Final = 256
"""Pieces without a delay between two turns of the loop, so that an interrupt gets through."""
_OPTIONS: Final = ("replies", "script")
_PACE_MS: Final = 30
"""The built-in voice: about as fast as a good model, slow enough to see words arrive."""

_BUILT_IN: Final[list[dict[str, Any]]] = [
    {
        "match": ["story", "tale", "geschichte", "histoire", "historia"],
        "first_delay_ms": 150,
        "delay_ms": _PACE_MS,
        "text": (
            "Once a small lighthouse stood on a rock that no map knew. Every night it lit its lamp, though "
            'no ship ever came. "Why do you bother?" asked the gulls. "Because somebody may be on the '
            'way," said the lighthouse. One winter, in the worst storm of the century, a fishing boat '
            "found its light, and since then that rock has a name on every map: Welcome."
        ),
    },
    {
        "match": ["who are you", "your name", "what are you"],
        "first_delay_ms": 150,
        "delay_ms": _PACE_MS,
        "text": (
            "I am the demo: a character made of a script, without a model behind me. Load a real provider "
            "and the same messages reach a real mind."
        ),
    },
    {
        "match": ["help", "what can you do"],
        "first_delay_ms": 150,
        "delay_ms": _PACE_MS,
        "text": (
            "I can greet you, tell a story, tell a joke, count, and say a few words in other languages. "
            "Ask for a story and interrupt me in the middle: I will stop at once."
        ),
    },
    {
        "match": ["joke", "witz", "blague", "chiste"],
        "first_delay_ms": 150,
        "delay_ms": _PACE_MS,
        "text": "Why did the stream go quiet? The punch line was still buffering. 🥁",
    },
    {
        "match": ["count"],
        "delay_ms": _PACE_MS,
        "text": "One, two, three, four, five, six, seven, eight, nine, ten. Ready or not, here I come!",
    },
    {
        "match": ["こんにちは", "日本", "japanese"],
        "delay_ms": _PACE_MS,
        "chunks": ["こんにちは", "! ", "お会い", "できて", "うれしい", "です", "。", "🌸"],
    },
    {"match": ["hallo", "deutsch"], "delay_ms": _PACE_MS, "text": "Hallo! Schön, dass du da bist. 👋"},
    {"match": ["bonjour", "français"], "delay_ms": _PACE_MS, "text": "Bonjour ! Ravie de te voir. 👋"},
    {"match": ["hola", "español"], "delay_ms": _PACE_MS, "text": "¡Hola! ¡Qué alegría verte! 👋"},
    {
        "match": ["hello", "good morning", "good evening", "hey"],
        "first_delay_ms": 100,
        "delay_ms": _PACE_MS,
        "text": "Hello! 👋 I am listening. Ask me for a story, a joke, or help.",
    },
    {
        "first_delay_ms": 100,
        "delay_ms": _PACE_MS,
        "text": 'You said: "{message}" A real model would have an opinion. Shall I tell a story?',
    },
    {
        "first_delay_ms": 100,
        "delay_ms": _PACE_MS,
        "text": '"{message}" sounds interesting! I only know my script, though. Ask for a joke?',
    },
]


class Scripted(Adapter):
    """One script, played for one binding."""

    def __init__(self, provider: ProviderSpec, binding: Binding) -> None:
        super().__init__(provider, binding)
        self._script = Script(())
        self._turn = 0

    async def load(self, load: LoadRequest, report: ReportProgress) -> Loaded:
        """Reads and checks the script. Cancelling it is safe.

        Raises:
            AdapterError: INVALID_REQUEST for a bad script, INVALID_MODEL for a model that it has not.
        """
        self._script = await self._chosen()
        self._check(load.preload_model)
        unknown = ", ".join(sorted(set(self.binding.options) - set(_OPTIONS)))
        sentence = f"Options without a meaning here: {unknown}; known are {', '.join(_OPTIONS)}."
        warnings = (Warn("UNKNOWN_OPTION", sentence),) if unknown else ()
        return Loaded(models=self._script.models, warnings=warnings)

    async def generate(self, request: Request) -> AsyncIterator[Event]:
        """Plays the reply that fits. Each run of it is a new one, in the script's order."""
        self._check(request.model)
        message = next((item.content for item in reversed(request.messages) if item.role == "user"), "")
        reply = self._reply(message)
        await asyncio.sleep(reply.first_delay_s)
        for thought in reply.reasoning:
            yield Reasoning(thought)
        budget = _Budget(request.max_output_length)
        for pause_s, event in _steps(reply, _filled(reply, message, request.character_name), budget):
            if pause_s is not None:
                await asyncio.sleep(pause_s)
            yield event
        if reply.hang:
            await asyncio.Event().wait()  # for ever, on purpose: the request's clock or an interrupt ends it
        if reply.failure is not None:
            failure = reply.failure
            raise AdapterError(failure.code, failure.message, retry_after_ms=failure.retry_after_ms)
        reason: FinishReason | None = "length" if budget.spent else reply.finish
        if reason is not None:
            yield Finish(reason, request.model or self._script.models[0], _usage(reply, request, budget))

    async def _chosen(self) -> Script:
        options, quirks = self.binding.options, self.provider.quirks
        replies, path = options.get("replies"), options.get("script")
        if replies is not None and path is not None:
            raise AdapterError(Code.INVALID_REQUEST, "Give options.replies or options.script, not both.")
        if replies is not None:
            return parse_script(replies, "options.replies")
        if path is not None and quirks.get("allow_script_option") is not True:
            raise AdapterError(
                Code.INVALID_REQUEST,
                "options.script names a file, which the operator has not allowed (quirk "
                "allow_script_option); send the replies themselves as options.replies.",
            )
        path = quirks.get("script") if path is None else path
        if path is None:
            return parse_script(_BUILT_IN, "the built-in script")
        return parse_script_text(await asyncio.to_thread(_read, path), "the script")

    def _check(self, model: str | None) -> None:
        if model and model not in self._script.models:
            known = ", ".join(self._script.models)
            raise AdapterError(Code.INVALID_MODEL, f"The script has no model {model!r}; it has: {known}.")

    def _reply(self, message: str) -> ScriptedReply:
        heard = message.casefold()
        for reply in self._script.replies:
            if any(match.casefold() in heard for match in reply.match):
                return reply
        general = [reply for reply in self._script.replies if not reply.match]
        if not general:
            raise AdapterError(
                Code.INVALID_PROMPT, "No reply of the script matches; add one that has no `match`."
            )
        self._turn += 1
        return general[(self._turn - 1) % len(general)]


class _Budget:
    """How many words may still be said, a word being a token."""

    def __init__(self, words: int) -> None:
        self._left = words
        self.said = 0
        self.spent = False

    def take(self, piece: str, words: int) -> str:
        """As much of `piece` as may still be said."""
        if words > self._left:
            self.spent = True
            piece = " ".join(piece.split()[: self._left])
            words = self._left
        self._left -= words
        self.said += words
        return piece


def _filled(reply: ScriptedReply, message: str, character_name: str | None) -> list[str]:
    """The pieces of a reply, with what was said to it in the places marked for that."""
    pieces: list[str] = []
    for piece in reply.chunks:
        if "{message}" in piece or "{character}" in piece:
            text = piece.replace("{character}", character_name or "").replace("{message}", message)
            pieces += split_words(text)
        else:
            pieces.append(piece)
    return pieces


def _steps(reply: ScriptedReply, pieces: list[str], budget: _Budget) -> Iterator[tuple[float | None, Text]]:
    """What to say, and how long to wait before it; None: not at all."""
    counted = [(piece, Text(piece), len(piece.split())) for piece in pieces]
    played = 0
    for _ in range(reply.repeat):
        for piece, text, words in counted:
            pause_s: float | None = None
            if played and reply.delay_s:
                pause_s = reply.delay_s
            elif played % TURN_PIECES == 0:
                pause_s = 0.0
            played += 1
            said = budget.take(piece, words)
            if said:
                yield pause_s, text if said is piece else Text(said)
            if budget.spent:
                return


def _usage(reply: ScriptedReply, request: Request, budget: _Budget) -> Usage:
    if reply.usage is not None:
        return reply.usage
    heard = sum(len(message.content.split()) for message in request.messages)
    return Usage(input_tokens=heard, output_tokens=budget.said)


def _read(path: object) -> str:
    """The text of a script file; the errors name no path, since a client may see them."""
    try:
        with Path(str(path)).open("rb") as file:
            data = file.read(SCRIPT_MAX_BYTES + 1)
        if len(data) > SCRIPT_MAX_BYTES:
            raise AdapterError(Code.INVALID_REQUEST, f"The script is over {SCRIPT_MAX_BYTES} bytes.")
        return data.decode("utf-8-sig")
    except OSError as exc:
        raise AdapterError(
            Code.INVALID_REQUEST, f"The script cannot be read ({exc.strerror}); check its path."
        ) from exc
    except UnicodeDecodeError as exc:
        raise AdapterError(Code.INVALID_REQUEST, "The script is not UTF-8.") from exc


ADAPTER: Final = Scripted

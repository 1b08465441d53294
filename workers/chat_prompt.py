"""A request's messages as the one text that a model goes on with, for engines that are given text.

By the model's chat template (workers.chat_template), or as a transcript where it has none. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from workers.adapter import AdapterError, Request
from workers.chat_template import Render, renderer
from workers.codes import Code
from workers.parameters import asks_to_think, early_stops
from workers.prompt import merged, plain_roles, prefixed
from workers.transcript import transcript

__all__ = [
    "TEMPLATE_WORDS",
    "THINK",
    "THINKING_HEADROOM",
    "Manner",
    "Prompt",
    "manner_of",
    "prompt_of",
    "reply_limit",
]

THINK: Final = "<think>"
TEMPLATE_WORDS: Final = "chat_template_kwargs"
"""In `extra`: what a client says to the template itself."""
THINKING_HEADROOM: Final = 2048
"""Tokens for thinking; they do not count as visible text."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a loaded model wants to be spoken to."""

    render: Render | None
    """None: as a transcript."""
    may_think: bool
    """Its chat template knows thinking."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads."""

    text: str
    plain: bool
    """It is a transcript: the white space at the start of a reply is none of it."""
    stops: tuple[str, ...]
    """Where somebody else would begin to speak, and those of the request that cannot fire in thinking."""
    thinks: bool
    """The reply may begin with thinking."""

    @property
    def opens_thinking(self) -> bool:
        """Whether the template has opened a block of thinking that the reply goes on with."""
        return not self.plain and _opens(self.text)


def manner_of(template: str | None, words: Mapping[str, str], *, as_transcript: bool) -> Manner:
    """How a model with that chat template wants to be spoken to; `words` are what it may speak of.

    Raises:
        AdapterError: INVALID_MODEL, the template cannot be read.
    """
    if as_transcript:
        return Manner(None, may_think=False)
    return Manner(renderer(template or "", words), may_think="think" in (template or ""))


def prompt_of(request: Request, manner: Manner) -> Prompt:
    """The text for a request.

    Raises:
        AdapterError: UNSUPPORTED or INVALID_PROMPT.
    """
    if manner.render is None:
        lines = transcript(request)
        text = "".join(f"{line.content}\n" for line in lines.lines)
        return Prompt(
            f"{text}{lines.speaker}:", plain=True, stops=(*lines.stops, *early_stops(request)), thinks=False
        )
    messages = merged(prefixed(message) for message in plain_roles(request.messages))
    plain = [{"role": message.role, "content": message.content} for message in messages]
    think = asks_to_think(request) and manner.may_think
    text = manner.render(plain, think, _told(request))
    stops = () if manner.may_think else tuple(early_stops(request))
    return Prompt(text, plain=False, stops=stops, thinks=think or _opens(text))


def reply_limit(request: Request, prompt: Prompt, prompt_tokens: int, context_length: int) -> int:
    """How many tokens the reply may have, thinking included.

    Raises:
        AdapterError: INVALID_PROMPT or CONTEXT_TOO_LONG.
    """
    if not prompt_tokens:
        raise AdapterError(Code.INVALID_PROMPT, "The model's chat template makes nothing of these messages.")
    room = context_length - prompt_tokens
    if room <= 0:
        raise AdapterError(
            Code.CONTEXT_TOO_LONG,
            f"The messages have {prompt_tokens} tokens and the context holds {context_length}: "
            "send fewer, or load with a larger options.context_length.",
        )
    return min(request.max_output_length + (THINKING_HEADROOM if prompt.thinks else 0), room)


def _told(request: Request) -> dict[str, Any]:
    """What a client says to the template itself."""
    more = request.extra.get(TEMPLATE_WORDS)
    effort = {} if request.reasoning_effort is None else {"reasoning_effort": request.reasoning_effort}
    return {**effort, **(more if isinstance(more, Mapping) else {})}


def _opens(text: str) -> bool:
    return text.rstrip().endswith(THINK)

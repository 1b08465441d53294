"""NovelAI: chat models on a dialect of the OpenAI wire, story models on a wire of its own.

Which of the two a model is spoken to on is data, its `chat_path`. The dialect must be asked for a stream,
since a whole answer of it holds no text. On both, NovelAI makes one reply at a time for each account: here
requests of one key wait for their turn, and where somebody else has it, NovelAI's refusal is waited out.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import AsyncGenerator, Collection
from typing import Any, Final

from workers import novelai_story
from workers.adapter import AdapterError, Event, Request
from workers.answer import Answer
from workers.chat_body import build
from workers.chat_reply import ChatReply
from workers.codes import Code
from workers.http_chat import HttpChat
from workers.parameters import Body, asks_to_think
from workers.quirks import Quirks
from workers.redaction import redacted
from workers.refusals import Refusal, Who
from workers.turns import turn_of
from workers.upstream import Upstream

__all__ = ["ADAPTER", "STORY", "STORY_MODELS", "USUAL", "NovelAI"]

STORY_PATH: Final = "/ai/generate-stream"
STORY_MODELS: Final = ("llama-3-erato-v1", "kayra-v1")
"""No list of NovelAI's names them."""
STORY: Final = {
    "chat_path": STORY_PATH,
    "temperature_min": 0.1,
    "stop_max": 0,
    "unsupported": ["seed"],
}
"""What is different for them."""
USUAL: Final = Quirks(
    chat_path="/oa/v1/chat/completions",
    models_path="/oa/v1/models",
    stop_max=4,
    merge_roles=True,
    unsupported=("repetition_penalty", "response_format", "reasoning_effort"),
    thinking_off={"enable_thinking": False},
    by_model={"kayra* *erato* clio* euterpe* krake* sigurd*": STORY},
)
THINKING_HEADROOM: Final = 2048
"""Tokens for thinking that a client asked for, which would else use up those of the reply."""
SUBSCRIPTION_STATUSES: Final = (402, 403)
LOCKED: Final = "concurrent generation is locked"
"""What is said while another reply of the account is being made, with 429 and once was seen with 409."""
LOCKED_WAITS_S: Final = (2.0, 4.0, 6.0)
"""Replies take some seconds; the last of these is repeated until the request's time is up."""
LOCKED_JITTER: Final = 0.25
"""By how much of itself such a wait may be longer: two who wait for one account must not meet again."""


class NovelAI(HttpChat):
    """NovelAI for one binding."""

    usual = USUAL

    def body(self, request: Request, quirks: Quirks, refused: Collection[str]) -> Body:
        if quirks.chat_path == STORY_PATH:
            return novelai_story.build(request, quirks, self.option("tier"), refused=refused)
        if asks_to_think(request):
            quirks = dataclasses.replace(
                quirks, reasoning_models=("*",), reasoning_headroom=THINKING_HEADROOM
            )
        body = build(dataclasses.replace(request, stream=True), quirks, refused=refused)
        return Body({**body.fields, "stream": True}, body.warnings, streamed=True)

    def path(self, request: Request, body: Body) -> str:
        return self._quirks.of(request.model).chat_path

    def reader(self, who: Who, request: Request) -> Answer:
        if self._quirks.of(request.model).chat_path == STORY_PATH:
            length = novelai_story.length_of(request, self.option("tier"))
            return novelai_story.StoryReply(who, request, length=length)
        return DialectReply(who, model=request.model, max_output_length=request.max_output_length)

    async def models(self, upstream: Upstream, path: str, timeout_s: float) -> tuple[str, ...]:
        listed = await super().models(upstream, path, timeout_s)
        return tuple(dict.fromkeys((*listed, *STORY_MODELS))) if listed else ()

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """The reply as it arrives, once it is this key's turn. Cancelling or closing it closes the connection
        and gives the turn back."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + request.timeout_s
        async with turn_of((self.binding.key or "").strip()):
            left_s = max(ends - loop.time(), 0.0)
            try:
                reply = super().generate(dataclasses.replace(request, timeout_s=left_s))
                async with contextlib.aclosing(reply) as events:
                    async for event in events:
                        yield event
            except Refusal as exc:
                raise self._told(exc, request.model) from exc

    def patience_s(self, error: AdapterError, waits: int, left_s: float) -> float | None:
        if not isinstance(error, Refusal) or LOCKED not in error.fields.message.lower():
            return None
        wait_s = LOCKED_WAITS_S[min(waits, len(LOCKED_WAITS_S) - 1)]
        wait_s = max(wait_s, (error.retry_after_ms or 0) / 1000)
        wait_s *= random.uniform(1, 1 + LOCKED_JITTER)  # noqa: S311 - spreads retries, no secret
        if wait_s < left_s:
            return wait_s
        raise AdapterError(
            Code.RATE_LIMITED,
            f"{self.provider.name} makes one reply at a time for each account and was busy with another: "
            "end that one, or wait for it",
            retry_after_ms=error.retry_after_ms,
            provider_status=error.provider_status,
        ) from error

    def _told(self, error: Refusal, model: str) -> AdapterError:
        """The refusal in words that help: with 402 and 403 the subscription is meant, or no such model."""
        status = error.provider_status
        if status not in SUBSCRIPTION_STATUSES:
            return error
        name = f"{self.provider.name} (HTTP {status})"
        if self._models and model not in self._models:
            near = self._near(model) or "use a name from get_models"
            return AdapterError(
                Code.INVALID_MODEL,
                f"{name} refuses model {model!r} and does not list it; {near}",
                provider_status=status,
            )
        quote = redacted(error.fields.message, ((self.binding.key or "").strip(),), keep=model)
        places = " or ".join(("`load`", *self.provider.key_variables))
        return AdapterError(
            Code.AUTHORIZATION,
            f"{name} does not allow this account what was asked of model {model!r}: look at its "
            f"subscription, and at the key in {places} (it said: {quote or 'nothing'})",
            provider_status=status,
        )


class DialectReply(ChatReply):
    """Reads one answer of the dialect, whose errors are NovelAI's own."""

    def _check(self, value: dict[str, Any]) -> None:
        if "statusCode" in value:
            raise self.failed(value)
        super()._check(value)


ADAPTER: Final = NovelAI

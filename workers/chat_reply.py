"""An answer of the OpenAI wire as events: whole, or one piece of a stream after the other. Pure.

It never trusts a field to be there or to be of its type; what it cannot use it passes over, and what is
not this protocol at all is one UPSTREAM_PROTOCOL error.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from typing import Any, Final

from workers.adapter import (
    AdapterError,
    Alive,
    Event,
    Finish,
    FinishReason,
    Reasoning,
    Text,
    Usage,
    Warn,
)
from workers.codes import Code
from workers.refusals import Who, parse_fields, refusal

__all__ = ["ChatReply"]

OUTPUT_CHARS_PER_TOKEN: Final = 16
"""No text has longer tokens on average: a reply beyond that ignores its limit and has no end."""
OUTPUT_CHARS_MIN: Final = 4096
"""Short limits may be overshot by that much before it counts."""

_REASONING_FIELDS: Final = ("reasoning_content", "reasoning", "thinking")
_FINISH_REASONS: Final[Mapping[str, FinishReason]] = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
"""All others (`stop`, `eos`, `end_turn` …) mean that the model came to its end."""
_FAILED_REASONS: Final = ("error", "abort", "insufficient_system_resource")
_ALIVE: Final = Alive()
_JSON: Final = json.JSONDecoder()


class ChatReply:
    """Reads one answer; afterwards `finish` says how it ended."""

    def __init__(self, who: Who, *, model: str, max_output_length: int) -> None:
        self._who = who
        self._model = model
        self._left_chars = max(max_output_length * OUTPUT_CHARS_PER_TOKEN, OUTPUT_CHARS_MIN)
        self._answered_by: str | None = None
        self._said = False
        self._refused = False
        self.reason: FinishReason | None = None
        """Why the model ended, once it said so."""
        self.usage: Usage | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing more can come: the reason of its end is known, and the usage."""
        return self.reason is not None and self.usage is not None

    @property
    def endless(self) -> bool:
        """Whether the provider has sent far more than it was asked for."""
        return self._left_chars < 0

    def piece(self, data: bytes) -> list[Event]:
        """What one event of a stream brings.

        Raises:
            AdapterError: it is an error of the provider, or not JSON.
        """
        value = self._object(data)
        choices = value.get("choices")
        if "error" in value or not isinstance(choices, list):
            self._check(value)
        self._note(value)
        if not choices or not isinstance(choices, list):
            return []
        choice = choices[0]
        if not isinstance(choice, dict):
            return []
        part = choice.get("delta")
        if not isinstance(part, dict):
            part = choice.get("message")  # some servers end a stream with the whole message's field
        events = self._part(part) if isinstance(part, dict) else []
        if reason := choice.get("finish_reason"):
            self._ended(reason)
        return events or [_ALIVE]

    def whole(self, data: bytes) -> list[Event]:
        """What an answer that was not streamed brings.

        Raises:
            AdapterError: it is an error of the provider, or not its protocol.
        """
        value = self._object(data.removeprefix(codecs.BOM_UTF8))
        self._check(value)
        self._note(value)
        choices = value.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(choice, dict) or not isinstance(message, dict):
            raise self._not_ours("an answer without a message")
        events = self._part(message)
        self._ended(choice.get("finish_reason") or ("tool_calls" if message.get("tool_calls") else "stop"))
        return events

    def failed(self, data: bytes) -> AdapterError:
        """The error for a stream's event that is called `error`, whatever it holds."""
        return refusal(self._who, None, parse_fields(data), model=self._model)

    def finish(self, *, retries: int, warnings: tuple[Warn, ...]) -> Finish:
        """The end of a complete answer.

        Raises:
            AdapterError: CONTENT_FILTERED, nothing was said because of a filter.
        """
        filtered = self.reason == "content_filter" or self._refused
        if filtered and not self._said:
            raise AdapterError(
                Code.CONTENT_FILTERED, f"{self._who.name} or its filter refused to answer: change the prompt"
            )
        reason = "length" if self.endless else self.reason or "stop"
        if self.endless:
            warnings = (
                *warnings,
                Warn("OUTPUT_CUT", f"{self._who.name} did not keep to max_output_length and was ended"),
            )
        return Finish(
            reason=reason, model=self._answered_by, usage=self.usage, warnings=warnings, retries=retries
        )

    def _object(self, data: bytes) -> dict[str, Any]:
        try:
            value = _JSON.decode(data.decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError) as exc:
            raise self._not_ours("something that is not JSON") from exc
        if not isinstance(value, dict):
            raise self._not_ours("JSON that is no object")
        return value

    def _check(self, value: dict[str, Any]) -> None:
        """Raises for an error in the place of an answer."""
        if value.get("error") or value.get("object") == "error":
            raise refusal(self._who, None, parse_fields(value), model=self._model)

    def _note(self, value: dict[str, Any]) -> None:
        if self._answered_by is None and isinstance(model := value.get("model"), str):
            self._answered_by = model
        usage = value.get("usage")
        if usage is None and isinstance(extra := value.get("x_groq"), dict):
            usage = extra.get("usage")
        if isinstance(usage, dict):
            self.usage = _usage(usage)

    def _part(self, part: dict[str, Any]) -> list[Event]:
        """The events of a delta or a message."""
        events: list[Event] = []
        for name in _REASONING_FIELDS:
            thought = part.get(name)
            if thought and isinstance(thought, str):
                events.append(Reasoning(thought))
                break  # some servers send the same thought under two names
        content = part.get("content")
        if isinstance(content, str):
            if content:
                events.append(self._text(content))
        elif isinstance(content, list):
            for item in content:
                events.extend(self._item(item))
        if part.get("refusal"):
            self._refused = True
        return events

    def _item(self, item: object) -> list[Event]:
        """The events of one part of a content that is a list."""
        if not isinstance(item, dict):
            return []
        text = item.get("text")
        if isinstance(text, str) and text and item.get("type", "text") == "text":
            return [self._text(text)]
        thought = item.get("thinking")
        if isinstance(thought, list):
            thought = "".join(
                piece["text"]
                for piece in thought
                if isinstance(piece, dict) and type(piece.get("text")) is str
            )
        return [Reasoning(thought)] if thought and isinstance(thought, str) else []

    def _text(self, text: str) -> Text:
        self._said = True
        self._left_chars -= len(text)
        return Text(text)

    def _ended(self, reason: object) -> None:
        if reason in _FAILED_REASONS:
            raise AdapterError(
                Code.UPSTREAM_ERROR, f"{self._who.name} failed in the middle of its answer: try again"
            )
        if self.reason is None:
            self.reason = _FINISH_REASONS.get(reason, "stop") if isinstance(reason, str) else "stop"

    def _not_ours(self, what: str) -> AdapterError:
        return AdapterError(
            Code.UPSTREAM_PROTOCOL, f"{self._who.name} sent {what}: check that the base URL is the API's"
        )


def _usage(usage: dict[str, Any]) -> Usage:
    prompt = usage.get("prompt_tokens_details")
    completion = usage.get("completion_tokens_details")
    cached = prompt.get("cached_tokens") if isinstance(prompt, dict) else None
    if cached is None:
        cached = usage.get("prompt_cache_hit_tokens")  # DeepSeek's name for it
    reasoning = completion.get("reasoning_tokens") if isinstance(completion, dict) else None
    return Usage(
        input_tokens=_count(usage.get("prompt_tokens")),
        output_tokens=_count(usage.get("completion_tokens")),
        cached_input_tokens=_count(cached),
        reasoning_tokens=_count(reasoning),
    )


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None

"""An answer of the OpenAI wire as events: whole, or one piece of a stream after the other. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from workers.adapter import AdapterError, Alive, Event, FinishReason, Reasoning, Usage
from workers.answer import Answer, count
from workers.call_parts import CallParts
from workers.codes import Code
from workers.refusals import Who

__all__ = ["ChatReply"]

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


class ChatReply(Answer):
    """Reads one answer; afterwards `finish` says how it ended."""

    def __init__(self, who: Who, *, model: str, max_output_length: int) -> None:
        super().__init__(who, model=model, max_output_length=max_output_length)
        self._parts = CallParts()

    def piece(self, data: bytes) -> list[Event]:
        """What one event of a stream brings.

        Raises:
            AdapterError: it is an error of the provider, or not JSON.
        """
        value = self._object(data)
        choices = value.get("choices")
        if self.reason is None and ("error" in value or not isinstance(choices, list)):
            self._check(value)  # after its end none is of the answer: OpenRouter sends one after `length`
        self._note(value)
        if not choices or not isinstance(choices, list):
            return []
        choice = choices[0]
        if not isinstance(choice, dict):
            return []
        self._check(choice)
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
        value = self._object(data)
        self._check(value)
        self._note(value)
        choices = value.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if isinstance(choice, dict):
            self._check(choice)
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(choice, dict) or not isinstance(message, dict):
            raise self._not_ours("an answer without a message")
        events = self._part(message)
        self._ended(choice.get("finish_reason") or ("tool_calls" if message.get("tool_calls") else "stop"))
        return events

    def _check(self, value: dict[str, Any]) -> None:
        """Raises for an error in the place of an answer, or of one of its choices (OpenRouter)."""
        if value.get("error") or value.get("object") == "error":
            raise self.failed(value)

    def _note(self, value: dict[str, Any]) -> None:
        model = value.get("model")
        if self._answered_by is None and model and isinstance(model, str):  # Azure's first piece has no name
            self._answered_by = model
        usage = value.get("usage")
        if isinstance(extra := value.get("x_groq"), dict):
            self._check(extra)  # Groq says there why it ended a stream early
            usage = usage or extra.get("usage")
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
        events += map(self._call_part, self._parts.read(part))
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

    def _ended(self, reason: object) -> None:
        if reason in _FAILED_REASONS:
            raise AdapterError(
                Code.UPSTREAM_ERROR, f"{self._who.name} failed in the middle of its answer: try again"
            )
        if self.reason is None:
            self.reason = _FINISH_REASONS.get(reason, "stop") if isinstance(reason, str) else "stop"


def _usage(usage: dict[str, Any]) -> Usage:
    prompt = usage.get("prompt_tokens_details")
    completion = usage.get("completion_tokens_details")
    cached = prompt.get("cached_tokens") if isinstance(prompt, dict) else None
    if cached is None:  # the names for it at DeepSeek and Together
        cached = usage.get("prompt_cache_hit_tokens", usage.get("cached_tokens"))
    reasoning = count(completion.get("reasoning_tokens")) if isinstance(completion, dict) else None
    asked, said = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
    if asked is not None and said is not None and reasoning:
        apart = asked + said + reasoning  # xAI counts thinking beside what is said; all others within
        said = said + reasoning if usage.get("total_tokens") == apart else said
    return Usage(asked, said, count(cached), reasoning)

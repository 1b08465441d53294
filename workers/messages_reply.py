"""An answer of the Anthropic wire as events: a message, or the events that one is made of. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from workers.adapter import Alive, Event, FinishReason, Reasoning, Usage
from workers.answer import Answer, count, whole_input
from workers.refusals import Who

__all__ = ["MessagesReply"]

_STOP_REASONS: Final[Mapping[str, FinishReason]] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""All others (`end_turn`, `stop_sequence`) mean that the model came to its end; after `pause_turn` it would
have gone on if asked."""
_ALIVE: Final = Alive()


class MessagesReply(Answer):
    """Reads one answer of the Anthropic wire: a message, or the events that one is made of."""

    def __init__(self, who: Who, *, model: str, max_output_length: int) -> None:
        super().__init__(who, model=model, max_output_length=max_output_length)
        self._counts: dict[str, Any] = {}
        """The fields of usage; its parts come with the first event and with the last but one."""

    def piece(self, data: bytes) -> list[Event]:
        value = self._object(data)
        match value.get("type"):
            case "content_block_delta":
                return self._part(value.get("delta"))
            case "content_block_start":
                return self._part(value.get("content_block"))
            case "message_start":
                self._note(value.get("message"))
            case "message_delta":
                self._note(value)
                self._ended(value.get("delta"))
            case "message_stop":
                self.reason = self.reason or "stop"
            case "error":
                raise self.failed(value)
            case _ if "error" in value:
                raise self.failed(value)
        return [_ALIVE]

    def whole(self, data: bytes) -> list[Event]:
        value = self._object(data)
        content = value.get("content")
        if value.get("error"):
            raise self.failed(value)
        if value.get("type") != "message" or not isinstance(content, list):
            raise self._not_ours("an answer without a message")
        self._note(value)
        events = [event for block in content for event in self._part(block) if event is not _ALIVE]
        self._ended(value)
        self.reason = self.reason or "stop"
        return events

    def _part(self, part: object) -> list[Event]:
        """The events of a block, or of a piece of one; both name their text alike."""
        if isinstance(part, dict):
            text = part.get("text")
            if text and isinstance(text, str) and part.get("type") in ("text", "text_delta"):
                return [self._text(text)]
            thought = part.get("thinking")
            if thought and isinstance(thought, str):
                return [Reasoning(thought)]
        return [_ALIVE]

    def _note(self, message: object) -> None:
        if not isinstance(message, dict):
            return
        if self._answered_by is None and isinstance(model := message.get("model"), str):
            self._answered_by = model
        if isinstance(usage := message.get("usage"), dict):
            self._counts.update((name, value) for name, value in usage.items() if value is not None)
            self.usage = _usage(self._counts)

    def _ended(self, delta: object) -> None:
        reason = delta.get("stop_reason") if isinstance(delta, dict) else None
        if isinstance(reason, str) and self.reason is None:
            self.reason = _STOP_REASONS.get(reason, "stop")


def _usage(counts: Mapping[str, Any]) -> Usage:
    cached, written = counts.get("cache_read_input_tokens"), counts.get("cache_creation_input_tokens")
    details = counts.get("output_tokens_details")
    return Usage(
        input_tokens=whole_input(counts.get("input_tokens"), cached, written),
        output_tokens=count(counts.get("output_tokens")),
        cached_input_tokens=count(cached),
        reasoning_tokens=count(details.get("thinking_tokens")) if isinstance(details, dict) else None,
    )

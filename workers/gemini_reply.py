"""An answer of the Gemini wire as events: whole, or one piece of a stream after the other; both look alike.

An error in the middle of a stream does not come as an event of it, but as bare JSON: GeminiStream finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeGuard

from workers.adapter import AdapterError, Alive, Event, Finish, FinishReason, Reasoning, Usage, Warn
from workers.answer import Answer, count
from workers.codes import Code
from workers.refusals import Who
from workers.sse import Event as Piece
from workers.sse import SSEDecoder

__all__ = ["GeminiReply", "GeminiStream"]

_FILTERS: Final = (
    *("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR"),
    *("ESCALATION", "PUP_LIMITED_DISABLED", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"),
)
_FAULTS: Final = (
    *("OTHER", "MALFORMED_RESPONSE", "MISSING_THOUGHT_SIGNATURE", "MALFORMED_FUNCTION_CALL"),
    *("UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "IMAGE_OTHER", "NO_IMAGE"),
)
"""Ends that are a failure where nothing was said before them."""
_CALLS: Final = ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS")
_FINISH_REASONS: Final[Mapping[str, FinishReason]] = {
    **dict.fromkeys(_FILTERS, "content_filter"),
    **dict.fromkeys(_CALLS, "tool_calls"),
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
}
"""All others (`STOP` …) mean that the model came to its end."""
_NO_END: Final = "FINISH_REASON_UNSPECIFIED"
_DOUBTED: Final = "STOP"
"""Old models say it with every piece of a stream, from the first on, with the usage or without."""
_ALIVE: Final = Alive()


class GeminiStream(SSEDecoder):
    """Server-sent events, and the bare JSON of an error between them."""

    def _read(self, block: bytes, events: list[Piece]) -> None:
        if block.startswith((b"{", b"[")):
            events.append(Piece("error", block))
        else:
            super()._read(block, events)


class GeminiReply(Answer):
    """Reads one answer of the Gemini wire."""

    def __init__(self, who: Who, *, model: str, max_output_length: int) -> None:
        super().__init__(who, model=model, max_output_length=max_output_length)
        self._fault = ""
        """The wire's word for an end that may be a failure."""
        self._goes_on = False
        """A piece said something and no end: whatever end follows is the end."""
        self._stopped = False
        """An end was said that only the stream's own end confirms."""

    def piece(self, data: bytes) -> list[Event]:
        return self._events(self._object(data)) or [_ALIVE]

    def whole(self, data: bytes) -> list[Event]:
        value = self._object(data)
        events = self._events(value)
        if self.reason is None and not isinstance(_candidate(value), dict):
            raise self._unanswered(value)
        self.reason = self.reason or "stop"
        return events

    def closed(self) -> None:
        if self._stopped:
            self.reason = self.reason or "stop"

    def finish(self, *, retries: int, warnings: tuple[Warn, ...]) -> Finish:
        if self._fault and not self._said:
            raise AdapterError(
                Code.UPSTREAM_ERROR, f"{self._who.name} ended without a reply ({self._fault}): try again"
            )
        return super().finish(retries=retries, warnings=warnings)

    def _events(self, value: dict[str, Any]) -> list[Event]:
        if "error" in value:
            raise self.failed(value)
        self._note(value)
        candidate = _candidate(value)
        if not isinstance(candidate, dict):
            if _is_blocked(value.get("promptFeedback")):
                self.reason = "content_filter"
            return []
        content = candidate.get("content")
        parts = content.get("parts") if isinstance(content, dict) else None
        events = [event for part in parts for event in self._part(part)] if isinstance(parts, list) else []
        reason = candidate.get("finishReason")
        self._goes_on = self._goes_on or bool(events and not _is_end(reason))
        self._ended(reason)
        return events

    def _part(self, part: object) -> list[Event]:
        """Text, or a thought, which is told by a mark beside it."""
        text = part.get("text") if isinstance(part, dict) else None
        if not text or not isinstance(part, dict) or not isinstance(text, str):
            return []
        return [Reasoning(text)] if part.get("thought") is True else [self._text(text)]

    def _note(self, value: dict[str, Any]) -> None:
        if self._answered_by is None and isinstance(model := value.get("modelVersion"), str):
            self._answered_by = model
        counts = value.get("usageMetadata")
        if isinstance(counts, dict) and (usage := _usage(counts)) is not None:
            self.usage = usage

    def _ended(self, reason: object) -> None:
        """The last one counts."""
        if not _is_end(reason):
            return
        self._fault = reason if reason in _FAULTS else ""
        if reason == _DOUBTED and not self._goes_on:
            self._stopped = True
        else:
            self.reason = _FINISH_REASONS.get(reason, "stop")

    def _unanswered(self, value: dict[str, Any]) -> AdapterError:
        if "usageMetadata" not in value and "modelVersion" not in value:
            return self._not_ours("an answer without a candidate")
        return AdapterError(
            Code.UPSTREAM_ERROR, f"{self._who.name} sent an answer without a reply: try again"
        )


def _candidate(value: dict[str, Any]) -> object:
    """The one candidate that was asked for."""
    candidates = value.get("candidates")
    return candidates[0] if isinstance(candidates, list) and candidates else None


def _is_end(reason: object) -> TypeGuard[str]:
    return isinstance(reason, str) and reason != _NO_END


def _is_blocked(feedback: object) -> bool:
    """Whether the prompt was refused; the reason may be there as a sentence only."""
    return isinstance(feedback, dict) and bool(
        feedback.get("blockReason") or feedback.get("blockReasonMessage")
    )


def _usage(counts: Mapping[str, Any]) -> Usage | None:
    """Tokens; thoughts are counted apart on the wire, and are output all the same."""
    said = count(counts.get("candidatesTokenCount"))
    thought = count(counts.get("thoughtsTokenCount"))
    asked = count(counts.get("promptTokenCount"))
    if asked is None and said is None and thought is None:
        return None
    return Usage(
        input_tokens=asked,
        output_tokens=None if said is None and thought is None else (said or 0) + (thought or 0),
        cached_input_tokens=count(counts.get("cachedContentTokenCount")),
        reasoning_tokens=thought,
    )

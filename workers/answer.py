"""One answer of a provider as events, whatever its wire: what every reader of one keeps and says. Pure.

A reader takes an answer whole, or one piece of a stream after the other, and knows afterwards how it ended.
It never trusts a field to be there or to be of its type; what it cannot use it passes over, and what is not
its wire's protocol at all is one UPSTREAM_PROTOCOL error.
"""

from __future__ import annotations

import abc
import json
from typing import Any, Final

from workers.adapter import (
    AdapterError,
    Event,
    Finish,
    FinishReason,
    Text,
    ToolCallPart,
    Usage,
    Warn,
)
from workers.codes import Code
from workers.error_fields import parse_fields
from workers.refusals import Who, refusal

__all__ = ["Answer", "count", "whole_input"]

OUTPUT_CHARS_PER_TOKEN: Final = 16
"""No text has longer tokens on average: a reply beyond that ignores its limit and has no end."""
OUTPUT_CHARS_MIN: Final = 4096
"""Short limits may be overshot by that much before it counts."""
_JSON: Final = json.JSONDecoder()


class Answer(abc.ABC):
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

    @property
    def unfinished(self) -> bool:
        """Whether the provider would go on: its connection is closed then, and not kept."""
        return self.endless

    @abc.abstractmethod
    def piece(self, data: bytes) -> list[Event]:
        """What one event of a stream brings.

        Raises:
            AdapterError: it is an error of the provider, or not its protocol.
        """

    @abc.abstractmethod
    def whole(self, data: bytes) -> list[Event]:
        """What an answer that was not streamed brings.

        Raises:
            AdapterError: it is an error of the provider, or not its protocol.
        """

    def closed(self) -> None:  # noqa: B027 - most wires say all in their pieces
        """The stream has come to its regular end, which on some wires decides what was said of an end."""

    def failed(self, data: bytes | dict[str, Any]) -> AdapterError:
        """The error for what is an error in the place of an answer, whatever it holds."""
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

    # ---- for the readers of each wire

    def _object(self, data: bytes) -> dict[str, Any]:
        try:
            value = _JSON.decode(data.decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError) as exc:
            raise self._not_ours("something that is not JSON") from exc
        if not isinstance(value, dict):
            raise self._not_ours("JSON that is no object")
        return value

    def _text(self, text: str) -> Text:
        self._said = True
        self._left_chars -= len(text)
        return Text(text)

    def _call_part(self, part: ToolCallPart) -> ToolCallPart:
        """A piece of a call counts as something said."""
        self._said = True
        self._left_chars -= len(part.arguments)
        return part

    def _not_ours(self, what: str) -> AdapterError:
        return AdapterError(
            Code.UPSTREAM_PROTOCOL, f"{self._who.name} sent {what}: check that the base URL is the API's"
        )


def count(value: object) -> int | None:
    """A number of tokens, if it is one."""
    return value if type(value) is int and value >= 0 else None


def whole_input(fresh: object, cached: object, written: object) -> int | None:
    """Tokens of input where a wire counts apart what a cache gave or took: they are input all the same."""
    counted = count(fresh)
    return None if counted is None else counted + (count(cached) or 0) + (count(written) or 0)

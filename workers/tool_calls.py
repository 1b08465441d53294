"""The calls of tools in one reply, made whole from the pieces that an adapter yields. Pure.

1. Calls are numbered from 0, in the order in which their names become known; nothing of one is shown before.
2. Every piece that is shown has the id and the name of its call. A call without an id gets one.
3. The arguments are the provider's, character for character; none at all are an empty object. What is no JSON
   in the end is told and not mended.
4. How many there are and how long has bounds, which no model's answer reaches.
"""

from __future__ import annotations

import json
import secrets
import string
from dataclasses import dataclass, field
from typing import Final

from workers.adapter import AdapterError, ToolCallPart, Warn
from workers.codes import Code
from workers.visible import join_halves
from workers.wire import CALL_NAME_MAX_CHARS

__all__ = ["ARGUMENTS_MAX_CHARS", "CALLS_MAX", "ToolCalls"]

CALLS_MAX: Final = 128
"""As many as OpenAI takes tools."""
ARGUMENTS_MAX_CHARS: Final = 1 << 20
"""Of all calls of a reply together; they are kept until its end, here and in the supervisor."""
_ID_CHARS: Final = 9
"""What Mistral's models want of an id, letters and digits; all others take any."""
_ID_LETTERS: Final = string.ascii_letters + string.digits
_NOTHING: Final = "{}"
_BROKEN: Final = "TOOL_CALL_BROKEN"


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    number: int = -1
    """Its place among those that are shown."""
    held: str = ""
    """Arguments that came before the name."""
    half: str = ""
    """The first half of a surrogate pair."""
    said: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        return "".join(self.said)


class ToolCalls:
    """Pieces of one reply in, pieces for its client out; used once."""

    def __init__(self) -> None:
        self._calls: dict[int, _Call] = {}
        self._shown = 0
        self._chars = 0

    def __bool__(self) -> bool:
        """Whether the client was told of a call."""
        return self._shown > 0

    def feed(self, part: ToolCallPart) -> ToolCallPart | None:
        """What the client is told of it, if anything.

        Raises:
            AdapterError: UPSTREAM_PROTOCOL, it is more than any model says.
        """
        self._count(part)
        call = self._calls.setdefault(part.index, _Call())
        call.id = call.id or part.id
        call.name = call.name or part.name
        text, call.half = join_halves(call.half + part.arguments)
        return self._show(call, text)

    def finish(self) -> list[ToolCallPart]:
        """The reply is complete: what is still to be told of its calls."""
        last = []
        for call in self._calls.values():
            text, call.half = "\ufffd" if call.half else "", ""
            if call.number >= 0 and not (call.arguments + text).strip():
                text = _NOTHING
            piece = self._show(call, text)
            last += [] if piece is None else [piece]
        return last

    def warnings(self) -> tuple[Warn, ...]:
        """What a client should know about the calls of a reply that is complete."""
        warnings = []
        for call in self._calls.values():
            if call.number < 0:
                warnings.append(Warn(_BROKEN, "A call without the name of its tool was left out; ask again."))
            elif not _is_json(call.arguments):
                what = f"The arguments for the tool {call.name!r} are no JSON"
                warnings.append(Warn(_BROKEN, f"{what}; raise max_output_length, or ask again."))
        return tuple(warnings)

    def _show(self, call: _Call, text: str) -> ToolCallPart | None:
        if not call.name:
            call.held += text
            return None
        begins = call.number < 0
        if begins:
            call.number = self._shown
            call.id = call.id or "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_CHARS))
            self._shown += 1
            text, call.held = call.held + text, ""
        if not text and not begins:
            return None
        call.said.append(text)
        return ToolCallPart(call.number, call.id, call.name, text)

    def _count(self, part: ToolCallPart) -> None:
        self._chars += len(part.arguments)
        many = part.index not in self._calls and len(self._calls) >= CALLS_MAX
        if many or self._chars > ARGUMENTS_MAX_CHARS:
            raise AdapterError(
                Code.UPSTREAM_PROTOCOL,
                f"The provider sent more than {CALLS_MAX} calls of tools, or arguments for them of more than "
                f"{ARGUMENTS_MAX_CHARS} characters.",
            )
        if max(len(part.id), len(part.name)) > CALL_NAME_MAX_CHARS:
            raise AdapterError(
                Code.UPSTREAM_PROTOCOL,
                f"The provider sent a call whose id or name is over {CALL_NAME_MAX_CHARS} characters.",
            )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True

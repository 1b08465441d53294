"""The calls of tools in an answer of the OpenAI wire, as pieces that say which call they belong to. Pure.

By the book a piece has an index, and the first one of a call its id and name. Servers leave out the index,
give every call the same one, repeat ids or make a new one for every piece, send calls whole, and arguments as
an object. None of them begins a call without its name, and so calls can be told apart.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from workers.adapter import ToolCallPart

__all__ = ["CallParts"]

_NO_ID: Final = "null"
"""What Mistral's schema has for an id that is not there."""
_OLD_INDEX: Final = -1
"""Of the one call that the wire had before it had several."""


@dataclass(slots=True)
class _Call:
    number: int
    index: int | None
    """As the server numbers it."""
    id: str
    name: str
    said: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether its arguments are all there."""
        try:
            json.loads("".join(self.said))
        except ValueError:
            return False
        return True


class CallParts:
    """Reads one answer, whole or piece by piece."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def read(self, part: dict[str, Any]) -> list[ToolCallPart]:
        """What a delta or a message says of calls."""
        items = part.get("tool_calls")
        if isinstance(items, dict):  # TGI sends one at a time so
            items = [items]
        old = part.get("function_call")
        if isinstance(old, dict):
            items = [{"index": _OLD_INDEX, "function": old}, *(items if isinstance(items, list) else ())]
        met: set[int] = set()
        return [
            self._piece(item, function, met)
            for item in (items if isinstance(items, list) else ())
            if isinstance(item, dict) and isinstance(function := item.get("function"), dict)
        ]

    def _piece(self, item: dict[str, Any], function: dict[str, Any], met: set[int]) -> ToolCallPart:
        """One piece; `met` are the calls that pieces beside it belong to, to which it does not."""
        index = item.get("index")
        identifier, name = _id(item.get("id")), _text(function.get("name"))
        arguments = _arguments(function.get("arguments"))
        call = self._call(index if type(index) is int else None, identifier, name, met)
        call.id, call.name = call.id or identifier, call.name or name
        call.said.append(arguments)
        met.add(call.number)
        return ToolCallPart(call.number, identifier, name, arguments)

    def _call(self, index: int | None, identifier: str, name: str, met: set[int]) -> _Call:
        call = self._known(index, identifier)
        if call is None or (name and self._is_another(call, index, identifier, name, met)):
            call = _Call(len(self._calls), index, identifier, name)
            self._calls.append(call)
        return call

    def _known(self, index: int | None, identifier: str) -> _Call | None:
        """The call that a piece would go on with."""
        if index is not None:
            return next((call for call in reversed(self._calls) if call.index == index), None)
        same = [call for call in self._calls if identifier and call.id == identifier]
        return next(iter(same or self._calls[-1:]), None)

    def _is_another(self, call: _Call, index: int | None, identifier: str, name: str, met: set[int]) -> bool:
        """Whether a piece with a name begins a call instead of going on with that one."""
        if call.number in met:
            return True
        if not call.name:
            return False
        if identifier and call.id:
            return identifier != call.id
        return index is None and (name != call.name or call.is_whole)


def _id(value: object) -> str:
    return "" if value == _NO_ID else _text(value)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _arguments(value: object) -> str:
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    return _text(value)

"""Messages that belong to tools, in the one form that workers know. Pure.

Before an assistant had `tool_calls`, it had one `function_call`, and a message of role `function` answered it
by name. Such a pair becomes a call with an id and the message of a `tool` that answers it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from supervisor.messages import ChatMessage, FunctionCall

__all__ = ["OldCalls"]

NO_ARGUMENTS: Final = "{}"
_ID_DIGITS: Final = 5
"""With the word before them they make nine letters and digits, which is what Mistral's models want."""


class OldCalls:
    """The messages of one prompt, in their order."""

    def __init__(self) -> None:
        self._waiting: list[tuple[str, str]] = []
        """Names and ids of the calls that nobody has answered."""
        self._made = 0

    def fields(self, message: ChatMessage) -> dict[str, Any] | None:
        """The fields of the message beside its content; None where it answers a call that there is not."""
        calls = [_call(call.id, call.function) for call in message.tool_calls or ()]
        if message.function_call is not None:
            self._made += 1
            calls.append(_call(f"call{self._made:0{_ID_DIGITS}}", message.function_call))
        self._waiting += [(call["name"], call["id"]) for call in calls]
        role, answered = message.role, message.tool_call_id or None
        if role == "function":
            found = next((pair for pair in self._waiting if pair[0] == message.name), None)
            if found is None:
                return None
            self._waiting.remove(found)
            role, answered = "tool", found[1]
        of_a_tool = {"tool_calls": calls, "tool_call_id": answered if role == "tool" else None}
        return {"role": role, "name": message.name or None, **of_a_tool}


def _call(identifier: str, function: FunctionCall) -> dict[str, str]:
    arguments = function.arguments
    if isinstance(arguments, dict):
        arguments = msgspec.json.encode(arguments).decode()
    return {"id": identifier, "name": function.name, "arguments": arguments or NO_ARGUMENTS}

"""Tools, the choice of one, their calls and their answers as fields of the OpenAI wire. Pure.

Tools and the choice go as the client sent them: they are written in the shape of this wire.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any, Final

from workers.adapter import Message, Request, ToolCall, Warn
from workers.parameters import omitted
from workers.quirks import Quirks

__all__ = ["CHOICE", "TOOLS", "answer_fields", "call_fields", "tool_fields"]

TOOLS: Final = "tools"
CHOICE: Final = "tool_choice"


def tool_fields(
    request: Request, quirks: Quirks, left_out: Collection[str], warnings: list[Warn]
) -> dict[str, Any]:
    """The fields of the body. A choice goes without tools too: they may be in `extra`."""
    result: dict[str, Any] = {}
    if request.tools:
        if TOOLS in left_out:
            warnings.append(omitted(TOOLS))
        else:
            result[TOOLS] = list(request.tools)
    choice = request.tool_choice
    if choice is not None:
        known = not quirks.tool_choices or not isinstance(choice, str) or choice in quirks.tool_choices
        if TOOLS in left_out or CHOICE in left_out or not known:
            warnings.append(omitted(CHOICE))
        else:
            result[CHOICE] = choice
    return result


def call_fields(message: Message, quirks: Quirks) -> dict[str, Any]:
    """What a message of an assistant that calls tools has beside its role and name."""
    calls = [_call(call, number, quirks) for number, call in enumerate(message.tool_calls)]
    return {"content": message.content or None, "tool_calls": calls}


def answer_fields(message: Message, quirks: Quirks) -> dict[str, Any]:
    """What a message of a tool has beside its role."""
    return {"content": message.content, "tool_call_id": _id(message.tool_call_id or "", quirks)}


def _call(call: ToolCall, number: int, quirks: Quirks) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    fields = {"id": _id(call.id, quirks), "type": "function", "function": function}
    return {**fields, "index": number} if quirks.tool_call_index else fields


def _id(identifier: str, quirks: Quirks) -> str:
    """The id as the provider takes it. One that another provider made becomes one of the right form, the same
    wherever it stands."""
    chars = quirks.tool_call_id_chars
    plain = identifier.isascii() and identifier.isalnum()
    if not chars or (plain and len(identifier) == chars):
        return identifier
    return hashlib.sha256(identifier.encode("utf-8", "replace")).hexdigest()[:chars]

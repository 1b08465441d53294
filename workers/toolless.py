"""A request for a wire that carries no tools: without them, and never with a message of theirs. Pure."""

from __future__ import annotations

import dataclasses

from workers.adapter import AdapterError, Request, Warn
from workers.codes import Code
from workers.parameters import omitted

__all__ = ["no_tool_messages", "without_tools"]


def without_tools(request: Request) -> tuple[Request, tuple[Warn, ...]]:
    """The request without tools, and what must be said about that.

    Raises:
        AdapterError: UNSUPPORTED, one of its messages belongs to a tool.
    """
    for message in request.messages:
        if message.is_of_a_tool:
            raise no_tool_messages(message.role)
    warnings = [omitted(name) for name in ("tools", "tool_choice") if getattr(request, name)]
    if warnings:
        request = dataclasses.replace(request, tools=(), tool_choice=None)
    return request, tuple(warnings)


def no_tool_messages(role: str) -> AdapterError:
    """The error for a message that belongs to a tool, where the provider knows none."""
    what = "with tool_calls" if role == "assistant" else f"of role {role!r}"
    return AdapterError(
        Code.UNSUPPORTED,
        f"messages {what} are not supported by this provider, which knows no tools: say in the words of a "
        "user or an assistant what the tool said, or use another provider",
    )

"""What adapters do to the messages of a prompt: names, roles and their order. Pure.

A provider that has a `name` field and takes it gets it, cleaned to the letters that it allows; for all
others a name becomes the beginning of the content, `Name: …`, which every model understands.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from workers.adapter import AdapterError, Message
from workers.codes import Code
from workers.toolless import no_tool_messages

__all__ = [
    "OPENING",
    "after_reply",
    "after_start",
    "alternating",
    "clean_name",
    "merged",
    "plain_roles",
    "prefixed",
    "spoken",
]

NAME_MAX_CHARS: Final = 64
"""What OpenAI allows; others allow more or have no such field."""
SPEAKING_ROLES: Final = ("system", "user", "assistant")
OPENING: Final = "Begin."
"""What the user is made to say where a wire wants a user and the prompt has none, or has them too late."""
_NOT_IN_NAMES: Final = re.compile(r"[^a-zA-Z0-9_-]+")


def clean_name(name: str | None) -> str:
    """`name` with only letters that a `name` field takes; empty when nothing of it can be said so."""
    if not name:
        return ""
    plain = unicodedata.normalize("NFKD", name)
    plain = "".join(char for char in plain if not unicodedata.combining(char))
    if any(char.isalnum() and not char.isascii() for char in plain):
        return ""  # half a name would be another name
    cleaned = _NOT_IN_NAMES.sub("_", plain).strip("_-")[:NAME_MAX_CHARS]
    return cleaned.rstrip("_-")


def prefixed(message: Message) -> Message:
    """The message with its name at the beginning of its content instead of in its field."""
    if message.name is None:
        return message
    name = " ".join(message.name.split())
    if not name:
        return replace(message, name=None)
    return replace(message, name=None, content=f"{name}: {message.content}")


def plain_roles(messages: Iterable[Message], *, tools: bool = False) -> list[Message]:
    """The messages with `developer` said as `system`, which every wire knows. `tools`: those of tools may be.

    Raises:
        AdapterError: UNSUPPORTED, a message belongs to a tool.
    """
    result = []
    for message in messages:
        if message.role == "developer":
            message = replace(message, role="system")
        if message.is_of_a_tool:
            if not tools:
                raise no_tool_messages(message.role)
        elif message.role not in SPEAKING_ROLES:
            raise AdapterError(
                Code.UNSUPPORTED,
                f"messages of role {message.role!r} are not supported: send system, user and assistant",
            )
        result.append(message)
    return result


def spoken(messages: Iterable[Message]) -> list[Message]:
    """The messages as all wires without a `name` field take them; blank ones are a 400 there.

    Raises:
        AdapterError: UNSUPPORTED, a message belongs to a tool; INVALID_PROMPT, all of them are blank.
    """
    result = [prefixed(message) for message in plain_roles(messages)]
    result = [message for message in result if message.content.strip()]
    if not result:
        raise AdapterError(Code.INVALID_PROMPT, "all messages are empty: send some text")
    return result


def alternating(messages: Iterable[Message]) -> tuple[list[str], list[Message]]:
    """The system prompt in its parts, and the turns of user and assistant in turn, the user first.

    Raises:
        AdapterError: as `spoken`.
    """
    said = spoken(messages)
    start = next((n for n, message in enumerate(said) if message.role != "system"), len(said))
    turns = after_start(said[start:], then="user")
    if not turns or turns[0].role != "user":
        turns.insert(0, Message("user", OPENING))
    turns = merged(turns)
    if turns[-1].role == "assistant":  # white space at its very end is a 400 where it is to be continued
        turns[-1] = replace(turns[-1], content=turns[-1].content.rstrip())
    return [message.content for message in said[:start]], turns


def after_reply(messages: Iterable[Message], *, then: str) -> list[Message]:
    """The messages with every `system` one that follows a reply given the role `then`."""
    result: list[Message] = []
    for message in messages:
        if message.role == "system" and result and result[-1].role == "assistant":
            message = replace(message, role=then)
        result.append(message)
    return result


def after_start(messages: Iterable[Message], *, then: str) -> list[Message]:
    """The messages with every `system` one given the role `then`: some wires have it at the start alone."""
    return [replace(message, role=then) if message.role == "system" else message for message in messages]


def merged(messages: Iterable[Message]) -> list[Message]:
    """The messages with neighbours of one role and name joined by a line end. Nothing is joined to what a
    tool says, nor to a call of one, which its answers follow; a call is joined to what was said before it."""
    result: list[Message] = []
    for message in messages:
        last = result[-1] if result else None
        if last is not None and _may_go_on(last, message):
            parts = (
                [last.content, message.content]
                if message.content or not message.tool_calls
                else [last.content]
            )
            result[-1] = replace(last, content="\n".join(parts), tool_calls=message.tool_calls)
        else:
            result.append(message)
    return result


def _may_go_on(last: Message, message: Message) -> bool:
    speaks = not last.is_of_a_tool and message.role in SPEAKING_ROLES
    return speaks and (last.role, last.name) == (message.role, message.name)

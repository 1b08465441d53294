"""The OpenAI wire, `POST /chat/completions`: most providers and all local servers speak it.

Providers differ by their quirks (quirks.py), which are data. A request becomes a body in chat_body.py, an
answer becomes events in chat_reply.py; connections, keys and ends are http_chat.py's.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Final

from workers.adapter import Request
from workers.chat_body import build
from workers.chat_reply import ChatReply
from workers.http_chat import HttpChat
from workers.parameters import Body
from workers.quirks import Quirks
from workers.refusals import Who

__all__ = ["ADAPTER", "OpenAIChat"]


class OpenAIChat(HttpChat):
    """One provider of the OpenAI wire for one binding."""

    carries_tools: ClassVar[bool] = True

    def body(self, request: Request, quirks: Quirks, refused: Collection[str]) -> Body:
        return build(request, quirks, refused=refused)

    def reader(self, who: Who, request: Request) -> ChatReply:
        return ChatReply(who, model=request.model, max_output_length=request.max_output_length)


ADAPTER: Final = OpenAIChat

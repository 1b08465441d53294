"""An adapter of the Anthropic wire, all but where it is served and how its models are listed."""

from __future__ import annotations

from collections.abc import Collection

from workers.adapter import Request
from workers.claude_models import USUAL
from workers.http_chat import HttpChat
from workers.messages_body import build
from workers.messages_reply import MessagesReply
from workers.parameters import Body
from workers.quirks import Quirks
from workers.refusals import Who

__all__ = ["MessagesChat"]


class MessagesChat(HttpChat):
    """One provider of the Anthropic wire for one binding."""

    usual = USUAL

    def body(self, request: Request, quirks: Quirks, refused: Collection[str]) -> Body:
        return build(request, quirks, refused=refused)

    def reader(self, who: Who, request: Request) -> MessagesReply:
        return MessagesReply(who, model=request.model, max_output_length=request.max_output_length)

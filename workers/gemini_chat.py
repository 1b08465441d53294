"""An adapter of the Gemini wire, all but where it is served and how a caller proves who they are.

The wire names model and method in the path. A model may be given as Google lists it, `models/NAME`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from dataclasses import replace
from typing import Any, ClassVar, Final
from urllib.parse import quote

from workers.adapter import Event, ReportProgress, Request, Warn
from workers.gemini_body import build
from workers.gemini_models import USUAL
from workers.gemini_reply import GeminiReply, GeminiStream
from workers.http_chat import HttpChat
from workers.parameters import Body
from workers.quirks import Quirks
from workers.reading import Decoder
from workers.refusals import Who

__all__ = ["GeminiChat", "following_page", "plain_name"]

STREAM: Final = ":streamGenerateContent?alt=sse"
WHOLE: Final = ":generateContent"


class GeminiChat(HttpChat):
    """One provider of the Gemini wire for one binding."""

    usual = USUAL
    decoder: ClassVar[type[Decoder]] = GeminiStream

    def body(self, request: Request, quirks: Quirks, refused: Collection[str]) -> Body:
        return build(request, quirks, refused=refused)

    def reader(self, who: Who, request: Request) -> GeminiReply:
        return GeminiReply(who, model=request.model, max_output_length=request.max_output_length)

    def path(self, request: Request, body: Body) -> str:
        return super().path(request, body) + (STREAM if body.streamed else WHOLE)

    def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        return super().generate(replace(request, model=plain_name(request.model)))

    async def preload(self, model: str | None, report: ReportProgress) -> tuple[Warn, ...]:
        return await super().preload(plain_name(model or ""), report)


def following_page(page: Any) -> str:
    """What asks for the page after this one of a list of models."""
    token = page.get("nextPageToken") if isinstance(page, dict) else None
    return f"&pageToken={quote(token, safe='')}" if token and isinstance(token, str) else ""


def plain_name(model: Any) -> str:
    """The name of a model without the collection that it is in."""
    return model.rpartition("/")[2] if isinstance(model, str) else ""

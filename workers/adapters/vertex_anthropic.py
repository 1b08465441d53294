"""The Anthropic wire as Vertex AI serves it: the model stands in the path, and there is no list of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Final

from workers.adapter import Request
from workers.claude_models import USUAL
from workers.messages_chat import MessagesChat
from workers.parameters import Body
from workers.quirks import Quirks
from workers.vertex_chat import PLACE, VertexChat

__all__ = ["ADAPTER", "VertexAnthropic"]

VERSION: Final = "vertex-2023-10-16"
STREAM: Final = ":streamRawPredict"
WHOLE: Final = ":rawPredict"
DATED: Final = "@"
"""What stands between the name of a model and its date; elsewhere that is a hyphen."""


class VertexAnthropic(VertexChat, MessagesChat):
    """Anthropic's models of Vertex AI for one binding."""

    takes_api_keys = False
    usual = dataclasses.replace(
        USUAL,
        chat_path=f"/v1{PLACE}/publishers/anthropic/models/{{model}}",
        models_path="",
        extra_headers={},
    )

    def body(self, request: Request, quirks: Quirks, refused: Collection[str]) -> Body:
        named = dataclasses.replace(request, model=request.model.partition(DATED)[0])
        made = super().body(named, self._quirks.of(named.model), refused)
        fields = {name: value for name, value in made.fields.items() if name != "model"}
        return dataclasses.replace(made, fields={"anthropic_version": VERSION, **fields})

    def path(self, request: Request, body: Body) -> str:
        return super().path(request, body) + (STREAM if body.streamed else WHOLE)


ADAPTER: Final = VertexAnthropic

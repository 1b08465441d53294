"""The Gemini wire as Vertex AI serves it: in a project and a place, to whoever proves who they are."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from workers.gemini_chat import GeminiChat, following_page, plain_name
from workers.gemini_models import USUAL
from workers.upstream import Upstream
from workers.vertex_chat import PLACE, VertexChat

__all__ = ["ADAPTER", "Vertex"]

PAGE_MODELS: Final = 100
"""As many models as a page of their list may have."""


class Vertex(VertexChat, GeminiChat):
    """Google's models of Vertex AI for one binding."""

    usual = dataclasses.replace(
        USUAL,
        chat_path=f"/v1{PLACE}/publishers/google/models/{{model}}",
        models_path="/v1beta1/publishers/google/models",  # v1 has no such list
    )

    async def models(self, upstream: Upstream, path: str, timeout_s: float) -> tuple[str, ...]:
        return await self.pages(upstream, f"{path}?pageSize={PAGE_MODELS}", timeout_s, following_page)

    async def listed(self, upstream: Upstream, path: str, timeout_s: float) -> Any:
        return _plainly(await super().listed(upstream, path, timeout_s))


def _plainly(page: Any) -> Any:
    """A page of the list with the plain names of its models."""
    items = page.get("publisherModels") if isinstance(page, dict) else None
    if not isinstance(items, list):
        return page
    return {**page, "models": [plain_name(item.get("name")) for item in items if isinstance(item, dict)]}


ADAPTER: Final = Vertex

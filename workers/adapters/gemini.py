"""The Gemini wire as Google AI Studio serves it: a key in a header, and a list of models in pages."""

from __future__ import annotations

from typing import Any, Final

from workers.gemini_chat import GeminiChat, following_page, plain_name
from workers.upstream import Upstream

__all__ = ["ADAPTER", "Gemini"]

PAGE_MODELS: Final = 1000
"""As many models as a page of their list may have."""
METHOD: Final = "generateContent"
"""What a model of this list must be able to do: others embed, or draw."""


class Gemini(GeminiChat):
    """Google AI Studio for one binding."""

    async def models(self, upstream: Upstream, path: str, timeout_s: float) -> tuple[str, ...]:
        return await self.pages(upstream, f"{path}?pageSize={PAGE_MODELS}", timeout_s, following_page)

    async def listed(self, upstream: Upstream, path: str, timeout_s: float) -> Any:
        return _that_answer(await super().listed(upstream, path, timeout_s))


def _that_answer(page: Any) -> Any:
    """A page of the list with the plain names of the models that answer, and of no others."""
    items = page.get("models") if isinstance(page, dict) else None
    if not isinstance(items, list):
        return page
    models = [item for item in items if isinstance(item, dict) and METHOD in _methods(item)]
    return {**page, "models": [plain_name(item.get("name")) for item in models]}


def _methods(item: dict[str, Any]) -> list[Any]:
    methods = item.get("supportedGenerationMethods")
    return methods if isinstance(methods, list) else []


ADAPTER: Final = Gemini

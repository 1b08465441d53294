"""The Gemini wire as Google AI Studio serves it: a key in a header, and a list of models in pages."""

from __future__ import annotations

import functools
from typing import Any, Final
from urllib.parse import quote

from workers.gemini_chat import GeminiChat, plain_name
from workers.pages import all_pages
from workers.upstream import Upstream

__all__ = ["ADAPTER", "Gemini"]

PAGE_MODELS: Final = 1000
"""As many models as a page of their list may have."""
METHOD: Final = "generateContent"
"""What a model of this list must be able to do: others embed, or draw."""


class Gemini(GeminiChat):
    """Google AI Studio for one binding."""

    async def models(self, upstream: Upstream, path: str, timeout_s: float) -> tuple[str, ...]:
        get = functools.partial(self.listed, upstream)
        pages = await all_pages(get, f"{path}?pageSize={PAGE_MODELS}", timeout_s, _following)
        return tuple(dict.fromkeys(name for page in pages for name in _names(page)))


def _following(page: Any) -> str:
    """What asks for the page after this one."""
    token = page.get("nextPageToken") if isinstance(page, dict) else None
    return f"&pageToken={quote(token, safe='')}" if token and isinstance(token, str) else ""


def _names(page: Any) -> list[str]:
    """The models of a page that answer."""
    items = page.get("models") if isinstance(page, dict) else None
    if not isinstance(items, list):
        return []
    models = [item for item in items if isinstance(item, dict) and METHOD in _methods(item)]
    return [name for item in models if (name := plain_name(item.get("name")))]


def _methods(item: dict[str, Any]) -> list[Any]:
    methods = item.get("supportedGenerationMethods")
    return methods if isinstance(methods, list) else []


ADAPTER: Final = Gemini

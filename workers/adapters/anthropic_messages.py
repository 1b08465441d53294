"""The Anthropic wire, `POST /messages`, with its list of models in pages."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from workers.messages_chat import MessagesChat
from workers.upstream import Upstream

__all__ = ["ADAPTER", "AnthropicMessages"]

PAGE_MODELS: Final = 1000
"""As many models as a page of their list may have."""


class AnthropicMessages(MessagesChat):
    """One provider of the Anthropic wire for one binding."""

    async def models(self, upstream: Upstream, path: str, timeout_s: float) -> tuple[str, ...]:
        return await self.pages(upstream, f"{path}?limit={PAGE_MODELS}", timeout_s, _following)

    async def listed(self, upstream: Upstream, path: str, timeout_s: float) -> Any:
        return _in_use(await super().listed(upstream, path, timeout_s))


def _in_use(page: Any) -> Any:
    """A page of the list without the models that are listed only because they once were."""
    items = page.get("data") if isinstance(page, dict) else None
    if not isinstance(items, list):
        return page
    kept = [item for item in items if not (isinstance(item, dict) and item.get("lifecycle") == "retired")]
    return {**page, "data": kept}


def _following(page: Any) -> str:
    """The query for the page after this one."""
    last = page.get("last_id") if isinstance(page, dict) and page.get("has_more") else None
    return f"&after_id={quote(last, safe='')}" if last and isinstance(last, str) else ""


ADAPTER: Final = AnthropicMessages

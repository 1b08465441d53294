"""What may be repeated of words that are not ours: one short line, without keys and addresses. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = ["QUOTE_CHARS", "redacted"]

QUOTE_CHARS: Final = 200
"""More of a provider's message helps nobody, and may hold a prompt."""
SECRET_PART_CHARS: Final = 8
"""A provider may show the ends of a key; so many characters of them count as the key."""

_URL: Final = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_KEY_SHAPES: Final = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|hf)[-_][\w.*…-]{6,}"  # what keys begin with
    r"|(?:key|token|secret|password)[\"']?\s*[:=]\s*[\"']?[^\s\"',}]{4,}"
    r"|\bbearer\s+\S{6,}"
    r"|[\w+/=-]*\*{3,}[\w+/=-]*"  # one that the provider masked itself
    r"|(?=[\w+/=-]*\d)(?=[\w+/=-]*[A-Za-z])[\w+/=-]{24,}",  # long, with digits and letters
    re.IGNORECASE,
)
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def redacted(text: str, secrets: Iterable[str] = (), *, keep: str = "") -> str:
    """`text` on one line, at most QUOTE_CHARS long, without keys and addresses; `keep` may stand in it."""
    text = _UNPRINTABLE.sub(" ", text)[: QUOTE_CHARS * 8]
    for secret in secrets:
        text = _without(text, secret)
    text = _URL.sub("(address)", text)
    text = _KEY_SHAPES.sub(lambda match: match[0] if match[0] in keep else "***", text)
    text = " ".join(text.split())
    return text if len(text) <= QUOTE_CHARS else text[: QUOTE_CHARS - 1] + "…"


def _without(text: str, secret: str) -> str:
    """`text` without `secret`, and without any word that shows an end of it."""
    if not secret:
        return text
    text = text.replace(secret, "***")
    if len(secret) < 2 * SECRET_PART_CHARS:
        return text
    for part in (secret[:SECRET_PART_CHARS], secret[-SECRET_PART_CHARS:]):
        text = re.sub(rf"\S*{re.escape(part)}\S*", "***", text)
    return text

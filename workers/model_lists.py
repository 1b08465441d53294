"""Lists of models in all their usual shapes: the names in one, and whether one that is meant is there."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any, Final

__all__ = ["is_among", "model_names", "near_ones"]

MODELS_MAX: Final = 4096
"""More model names than any provider has; the rest is left out."""
NEAR_MODELS: Final = 3
_CLOUDFLARES: Final = "result"
"""There an id is a number of Cloudflare's own, by which nobody can ask for a model."""
_LISTS: Final = ("data", "models", _CLOUDFLARES)
"""Where a list of models is in its answer, if that is not a list itself."""
_LATEST: Final = ":latest"
"""Ollama's tag for a name without one."""


def model_names(listed: Any) -> tuple[str, ...]:
    """The names in a list of models, in whichever of its usual shapes."""
    items, place = listed, ""
    if isinstance(listed, dict):
        place = next((key for key in _LISTS if key in listed), "")
        items = listed.get(place)
    if not isinstance(items, list):
        return ()
    fields = ("name",) if place == _CLOUDFLARES else ("id", "name")
    names = (item if isinstance(item, str) else _name_of(item, fields) for item in items[:MODELS_MAX])
    return tuple(dict.fromkeys(name for name in names if name))


def is_among(model: str, models: Collection[str]) -> bool:
    """Whether a list has that model; a tag that goes without saying need not be said."""
    return model in models or model + _LATEST in models


def near_ones(model: str, models: Collection[str]) -> str:
    """A hint at those of `models` that may have been meant; empty where none is near."""
    near = difflib.get_close_matches(model, models, NEAR_MODELS)
    return f"near ones: {', '.join(near)}" if near else ""


def _name_of(item: Any, fields: Collection[str]) -> str:
    if not isinstance(item, dict):
        return ""
    name = next((item[field] for field in fields if item.get(field)), "")
    return name if isinstance(name, str) else ""

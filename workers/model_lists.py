"""Lists of models in all their usual shapes: the names in one, and whether one that is meant is there."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any, Final

__all__ = ["is_among", "model_names", "near_ones"]

MODELS_MAX: Final = 4096
"""More model names than any provider has; the rest is left out."""
NEAR_MODELS: Final = 3
_LISTS: Final = ("data", "models", "result")
"""Where a list of models is in its answer, if that is not a list itself."""
_LATEST: Final = ":latest"
"""Ollama's tag for a name without one."""


def model_names(listed: Any) -> tuple[str, ...]:
    """The names in a list of models, in whichever of its usual shapes."""
    items = listed
    if isinstance(listed, dict):
        items = next((listed[key] for key in _LISTS if key in listed), None)
    if not isinstance(items, list):
        return ()
    names = (item if isinstance(item, str) else _name_of(item) for item in items[:MODELS_MAX])
    return tuple(dict.fromkeys(name for name in names if name))


def is_among(model: str, models: Collection[str]) -> bool:
    """Whether a list has that model; a tag that goes without saying need not be said."""
    return model in models or model + _LATEST in models


def near_ones(model: str, models: Collection[str]) -> str:
    """A hint at those of `models` that may have been meant; empty where none is near."""
    near = difflib.get_close_matches(model, models, NEAR_MODELS)
    return f"near ones: {', '.join(near)}" if near else ""


def _name_of(item: Any) -> str:
    if not isinstance(item, dict):
        return ""
    name = item.get("id") or item.get("name")
    return name if isinstance(name, str) else ""

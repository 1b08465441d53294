"""The version of this checkout, without reading pyproject.toml; a test compares the two."""

from __future__ import annotations

from typing import Final

__all__ = ["VERSION"]

VERSION: Final = "0.1.0"

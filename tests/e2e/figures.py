"""Figures that tests measure and do not judge: collected while they run, printed as tables at the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

__all__ = ["Figures", "tables"]

_TABLES: defaultdict[str, dict[tuple[str, str], str]] = defaultdict(dict)


class Figures:
    """One table per title; a figure stands in a row and a column."""

    def add(self, title: str, row: str, column: str, value: float | str) -> None:
        """Notes a figure; one that was there is overwritten."""
        _TABLES[title][row, column] = value if isinstance(value, str) else f"{value:.3g}"


def tables() -> Iterator[tuple[str, list[str]]]:
    """Title and lines of every table."""
    for title, cells in _TABLES.items():
        rows = list(dict.fromkeys(row for row, _ in cells))
        columns = list(dict.fromkeys(column for _, column in cells))
        width = max(map(len, rows))
        widths = [max(len(c), *(len(cells.get((r, c), "")) for r in rows)) for c in columns]
        lines = [" " * width + "".join(f"  {c:>{w}}" for c, w in zip(columns, widths, strict=True))]
        for row in rows:
            shown = [f"  {cells.get((row, c), ''):>{w}}" for c, w in zip(columns, widths, strict=True)]
            lines.append(row.ljust(width) + "".join(shown))
        yield title, lines

"""The figures as bars in one SVG; the scales are logarithmic, since the contenders are that far apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from benchmarks.contenders import CONTENDERS
from benchmarks.figures import Figures, median_of
from benchmarks.report import Results

__all__ = ["picture"]

COLUMNS: Final = 2
PANEL_WIDTH: Final = 470
LABEL_WIDTH: Final = 110
VALUE_WIDTH: Final = 70
"""Right of the longest bar, for its number."""
ROW_HEIGHT: Final = 24
BAR_HEIGHT: Final = 15
TITLE_HEIGHT: Final = 34
MARGIN: Final = 16
COLOURS: Final = {"ours": "#d1495b"}
OTHERS: Final = "#8d99ae"
DECADES_BELOW: Final = 0.35
"""The shortest bar is so much of a decade long, so that it can be seen."""


@dataclass(frozen=True, slots=True)
class _Panel:
    """One figure of all contenders."""

    title: str
    value: Callable[[Figures], float]
    show: str


_PANELS: Final = (
    _Panel("unstreamed request, p50, ms: less is better", lambda f: f.whole_p50_ms, "{:.2f}"),
    _Panel("first token, p50, ms: less is better", lambda f: f.first_p50_ms, "{:.2f}"),
    _Panel("one unpaced stream, chunks/s: more is better", lambda f: f.chunks_per_s, "{:,.0f}"),
    _Panel("many unstreamed, requests/s: more is better", lambda f: f.requests_per_s, "{:,.0f}"),
    _Panel("paced streams, chunk p99, ms: less is better", lambda f: f.streams_p99_ms, "{:.2f}"),
    _Panel("paced streams, CPU, % of a core: less is better", lambda f: f.streams_cpu_percent, "{:.0f}"),
)


def picture(results: Results) -> str:
    """The drawing."""
    names = list(results.rounds)
    figures = [median_of(results.rounds[name]) for name in names]
    panel_height = TITLE_HEIGHT + ROW_HEIGHT * len(names) + MARGIN
    width = PANEL_WIDTH * COLUMNS + MARGIN
    height = panel_height * math.ceil(len(_PANELS) / COLUMNS) + TITLE_HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for index, panel in enumerate(_PANELS):
        down, across = divmod(index, COLUMNS)
        x, y = MARGIN + across * PANEL_WIDTH, MARGIN + down * panel_height
        parts += [f'<g transform="translate({x} {y})">', *_bars(panel, names, figures), "</g>"]
    note = f'<text x="{MARGIN}" y="{height - MARGIN}" fill="#666666">Logarithmic scales.</text>'
    return "\n".join([*parts, note, "</svg>", ""])


def _bars(panel: _Panel, names: Sequence[str], figures: Sequence[Figures]) -> Iterator[str]:
    yield f'<text y="14" font-weight="bold" fill="#222222">{escape(panel.title)}</text>'
    values = [panel.value(one) for one in figures]
    lengths = _lengths(values, PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH - MARGIN)
    for row, (name, value, length) in enumerate(zip(names, values, lengths, strict=True)):
        y = TITLE_HEIGHT + row * ROW_HEIGHT
        text_y = y + BAR_HEIGHT - 3
        yield (
            f'<text x="{LABEL_WIDTH - 8}" y="{text_y}" text-anchor="end" fill="#222222">'
            f"{escape(CONTENDERS[name].name)}</text>"
        )
        yield (
            f'<rect x="{LABEL_WIDTH}" y="{y}" width="{length:.0f}" height="{BAR_HEIGHT}" rx="2" '
            f'fill="{COLOURS.get(name, OTHERS)}"/>'
        )
        shown = panel.show.format(value)
        yield f'<text x="{LABEL_WIDTH + length + 6:.0f}" y="{text_y}" fill="#222222">{shown}</text>'


def _lengths(values: Sequence[float], longest: float) -> list[float]:
    """Of the bars: the logarithms of the values, above the smallest one; a zero has no bar."""
    logs = [math.log10(value) if value > 0 else None for value in values]
    known = [log for log in logs if log is not None]
    if not known:
        return [0.0] * len(values)
    bottom = min(known) - DECADES_BELOW
    span = max(known) - bottom
    return [0.0 if log is None else (log - bottom) / span * longest for log in logs]

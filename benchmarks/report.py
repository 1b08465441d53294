"""The results in words: a table for the terminal and Markdown for the repository."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Final

from benchmarks.contenders import CONTENDERS
from benchmarks.drive import CROWD_SETTINGS
from benchmarks.figures import Crowd, Figures, Life, median_of
from benchmarks.measures import (
    CROWD_EVERY_US,
    CROWD_WITHIN_S,
    SOME_REQUESTS,
    STREAM_EVERY_US,
    STREAMS_WITHIN_S,
    WHOLE,
)
from benchmarks.orders import Effort
from benchmarks.targets import targets

__all__ = ["Results", "markdown", "plain_text"]

SHOWN_PACKAGES: Final = ("aiohttp", "openai", "websockets")


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that was measured."""

    effort: Effort
    rounds: Mapping[str, Sequence[Figures]]
    life: Life
    crowds: Mapping[str, Sequence[Crowd]]
    others_percent: float
    """Of the machine, what other work took before anything was started."""


_COLUMNS: Final[tuple[tuple[str, Callable[[Figures], str]], ...]] = (
    ("whole p50/p99 ms", lambda f: f"{f.whole_p50_ms:.2f} / {f.whole_p99_ms:.2f}"),
    ("first token p50/p99 ms", lambda f: f"{f.first_p50_ms:.2f} / {f.first_p99_ms:.2f}"),
    ("chunks/s", lambda f: f"{f.chunks_per_s:,.0f}"),
    ("paced p50/p99 ms", lambda f: f"{f.streams_p50_ms:.2f} / {f.streams_p99_ms:.2f}"),
    ("paced CPU", lambda f: f"{f.streams_cpu_percent:.0f} %"),
    ("requests/s", lambda f: f"{f.requests_per_s:,.0f}"),
    ("start ms", lambda f: f"{f.start_ms:,.0f}"),
    ("memory MB", lambda f: f"{f.memory_mb:.1f}"),
)


def plain_text(results: Results) -> str:
    """For the terminal."""
    return "\n\n".join(_aligned(rows) for rows in _tables(results)) + f"\n\n{_memory_note(results.life)}"


def markdown(results: Results, drawing: str) -> str:
    """For a file beside the picture `drawing`."""
    figures, held, crowds, life = map(_piped, _tables(results))
    parts = (
        "# Measured",
        _where(results),
        f"![the figures as bars]({drawing})",
        figures,
        _legend(results),
        "## Targets",
        held,
        "## This module's life",
        life,
        _memory_note(results.life),
        "## Many streams at once",
        crowds,
        f"Begun within {CROWD_WITHIN_S:g} s, {CROWD_EVERY_US // 1000} ms between two chunks of a stream; "
        "processor time in milliseconds for "
        f"each stream and second. The module ran with {_settings()}, since its defaults admit fewer.",
    )
    return "\n\n".join(parts) + "\n"


def _settings() -> str:
    return ", ".join(f"`--set {setting}`" for setting in CROWD_SETTINGS)


Rows = Sequence[Sequence[str]]


def _tables(results: Results) -> tuple[Rows, Rows, Rows, Rows]:
    return _figures(results), _targets(results), _crowds(results), _life(results.life)


def _figures(results: Results) -> Rows:
    rows = [["", *(title for title, _ in _COLUMNS)]]
    for name, rounds in results.rounds.items():
        middle = median_of(rounds)
        rows.append([CONTENDERS[name].name, *(show(middle) for _, show in _COLUMNS)])
    return rows


def _targets(results: Results) -> Rows:
    rows = [["target", "wanted", "measured", ""]]
    for target in targets(results.rounds, results.life, results.crowds["ours"]):
        measured = f"{target.measured:.2f}{target.unit}"
        rows.append([target.what, target.wanted, measured, "met" if target.met else "MISSED"])
    return rows


def _crowds(results: Results) -> Rows:
    rows = [["streams", "", "chunk p50/p99 ms", "own CPU ms", "client's CPU ms"]]
    for name, crowds in results.crowds.items():
        for one in crowds:
            lag = f"{one.p50_ms:.2f} / {one.p99_ms:.2f}"
            cpu = [f"{one.own_cpu_ms:.2f}", f"{one.client_cpu_ms:.2f}"]
            rows.append([str(one.streams), CONTENDERS[name].name, lag, *cpu])
    return rows


def _life(life: Life) -> Rows:
    return [
        ["", "median", "all"],
        ["ready ms", *_median_and_all(life.ready_ms)],
        ["load ms", *_median_and_all(life.load_ms)],
        ["supervisor MB", f"{life.supervisor_mb:.1f}", ""],
        ["worker MB", f"{life.worker_mb:.1f}", ""],
    ]


def _median_and_all(values: Sequence[float]) -> tuple[str, str]:
    return f"{statistics.median(values):.0f}", " ".join(f"{value:.0f}" for value in values)


def _memory_note(life: Life) -> str:
    kind = "proportional memory: a page that several processes share counts once in all"
    if not life.proportional:
        kind = (
            "resident memory, in which shared pages count in full, so more than the proportional memory that "
            "the targets mean: this system, or this user, may not see that"
        )
    return f"Memory after {SOME_REQUESTS} requests, in millions of bytes; {kind}."


def _where(results: Results) -> str:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in SHOWN_PACKAGES if _installed(name))
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}; {versions}. Before the first round other work took "
        f"{results.others_percent:.0f} % of the machine."
    )


def _installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def _legend(results: Results) -> str:
    effort = results.effort
    lines = [
        f"Medians of {effort.rounds} rounds, in each of which every contender ran once. The upstream, the "
        "contender and the client share the machine, and all talk over loopback without TLS. Every chunk of "
        "every reply was checked.",
        "",
        f"- whole: an unstreamed request for {WHOLE.chunks} tokens, {effort.wholes} times.",
        f"- first token: from the request to the first chunk of a stream, {effort.firsts} times.",
        f"- chunks/s: one stream of {effort.burst_chunks:,} chunks, as fast as they are taken.",
        f"- paced: {effort.streams} streams at once, begun within {STREAMS_WITHIN_S:g} s, a chunk every "
        f"{STREAM_EVERY_US // 1000} ms in each; from the upstream's stamp to the client; CPU of both, "
        "in percent of one core.",
        f"- requests/s: unstreamed, {effort.ways} of them open at any time.",
        "- start: until the first request can be sent, with a loaded provider in the case of this module.",
        "",
        *(f"- {CONTENDERS[name].name}: {CONTENDERS[name].does}." for name in results.rounds),
    ]
    return "\n".join(lines)


def _piped(rows: Rows) -> str:
    head, *rest = rows
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rest))


def _aligned(rows: Rows) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )

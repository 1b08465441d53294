"""The doctor, `install.py --check`: asks each probe in turn and shows what it found, with the remedy.

A probe is one look at one thing that goes wrong for users; it changes nothing. Here each is run within its
own bound and all within one, and a probe that raises or hangs is a finding like any other. What is looked at:
probes.py (what lies there) and trials.py (what has to be tried).
"""

from __future__ import annotations

import enum
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["EXIT_BAD", "PROBE_S", "Finding", "Grade", "Probe", "closing_line", "examine", "shown"]

EXIT_BAD: Final = 5
"""Of --check when something is bad; 1 to 4 say other things of install.py."""

PROBE_S: Final = 13.0
"""For one probe, above what it waits for itself: a network folder that is gone takes minutes to say so."""

WHOLE_S: Final = 26.0
"""For all of them: half a minute, with the start, is what a person waits before pressing Ctrl-C."""

TITLE_CHARS: Final = 14
"""The column of what was looked at; a longer title moves its own line only."""


class Grade(enum.Enum):
    """How a thing is; the value is the word that is shown."""

    OK = "ok"
    WARN = "warn"
    """It works, or may, and a user might be surprised."""
    BAD = "bad"
    """It cannot work so."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found, and what to do about it."""

    grade: Grade
    title: str
    """What was looked at."""
    text: str
    remedy: str = ""
    """One command or one sentence; empty if all is well."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One look; `look` may raise whatever it likes."""

    title: str
    look: Callable[[], Iterable[Finding]]


def examine(
    probes: Sequence[Probe], *, probe_s: float = PROBE_S, whole_s: float = WHOLE_S
) -> Iterator[Finding]:
    """The findings of all probes, each when it is known."""
    deadline = time.monotonic() + whole_s
    for probe in probes:
        left_s = deadline - time.monotonic()
        if left_s > 0:
            yield from _examined(probe, min(probe_s, left_s))
        else:
            text = f"was not looked at: everything together took longer than {whole_s:g} s"
            yield Finding(Grade.WARN, probe.title, text, "run it again when the machine has less to do")


def _examined(probe: Probe, timeout_s: float) -> Sequence[Finding]:
    """In a thread, since a call of the system that hangs can be left behind but not ended."""
    results: queue.Queue[Sequence[Finding]] = queue.Queue()
    threading.Thread(target=lambda: results.put(_looked(probe)), daemon=True).start()
    try:
        return results.get(timeout=timeout_s)
    except queue.Empty:
        text = f"did not answer within {timeout_s:.0f} s"
        remedy = "is a disk or a network folder hanging? Close what uses it, then run this again"
        return [Finding(Grade.WARN, probe.title, text, remedy)]


def _looked(probe: Probe) -> Sequence[Finding]:
    try:
        return list(probe.look())
    except Exception as exc:  # noqa: BLE001  # the boundary of one probe: the others still have something to say
        text = f"could not be looked at ({type(exc).__name__}: {exc})"
        remedy = "this is a mistake of ours: python install.py --report makes a file for telling us"
        return [Finding(Grade.BAD, probe.title, text, remedy)]


def shown(finding: Finding) -> str:
    """A finding in one line, and its remedy under it."""
    line = f"{finding.grade.value:<5} {finding.title:<{TITLE_CHARS}} {_on_one_line(finding.text)}"
    return line if not finding.remedy else f"{line}\n      -> {_on_one_line(finding.remedy)}"


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def closing_line(findings: Sequence[Finding]) -> str:
    """How many there are of each grade, and what that means."""
    count = {grade: sum(finding.grade is grade for finding in findings) for grade in Grade}
    bad, warned = count[Grade.BAD], count[Grade.WARN]
    numbers = f"{count[Grade.OK]} ok, {warned} to look at, {bad} bad"
    if bad:
        return f"{numbers}. Begin with what is bad; each arrow says how."
    return f"{numbers}. Nothing stands in the way." if warned else f"{numbers}. Everything is fine."

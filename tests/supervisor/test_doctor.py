"""How the doctor asks: each probe within its bound, none able to spoil the others, in plain lines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

import pytest

from supervisor.doctor import Finding, Grade, Probe, closing_line, examine, shown

FINE = Finding(Grade.OK, "one", "is well")
LOW = Finding(Grade.WARN, "two", "is low", "fill it")
BROKEN = Finding(Grade.BAD, "three", "is broken", "mend it")


def probe(title: str, look: Callable[[], Iterable[Finding]]) -> Probe:
    return Probe(title, look)


def test_every_finding_of_every_probe_comes_in_order() -> None:
    probes = [probe("a", lambda: [FINE, LOW]), probe("b", list), probe("c", lambda: [BROKEN])]
    assert list(examine(probes)) == [FINE, LOW, BROKEN]


def test_a_finding_is_there_before_the_next_probe_is_asked() -> None:
    asked: list[str] = []

    def second() -> list[Finding]:
        asked.append("second")
        return [LOW]

    findings = examine([probe("first", lambda: [FINE]), probe("second", second)])
    assert next(findings) == FINE
    assert asked == []
    assert list(findings) == [LOW]


def test_a_probe_that_raises_is_a_finding_and_the_next_is_asked() -> None:
    def look() -> Iterator[Finding]:
        yield FINE
        raise LookupError("nobody home")

    first, second = examine([probe("odd", look), probe("two", lambda: [LOW])])
    assert (first.grade, first.title, second) == (Grade.BAD, "odd", LOW)
    assert "LookupError: nobody home" in first.text
    assert first.remedy


def test_a_probe_that_hangs_is_a_finding_and_the_next_is_asked() -> None:
    release, done = threading.Event(), threading.Event()

    def look() -> list[Finding]:
        release.wait()
        done.set()
        return [FINE]

    try:
        first, second = examine([probe("slow", look), probe("two", lambda: [LOW])], probe_s=0.01)
    finally:
        release.set()
    assert (first.grade, first.title, second) == (Grade.WARN, "slow", LOW)
    assert done.wait(5)


def test_what_there_is_no_time_for_is_named() -> None:
    (only,) = examine([probe("late", lambda: [FINE])], whole_s=0)
    assert (only.grade, only.title) == (Grade.WARN, "late")
    assert "was not looked at" in only.text


@pytest.mark.parametrize(
    ("finding", "lines"),
    [
        (FINE, ["ok    one            is well"]),
        (LOW, ["warn  two            is low", "      -> fill it"]),
        (BROKEN, ["bad   three          is broken", "      -> mend it"]),
        (Finding(Grade.OK, "x", "two\nlines\r\n"), ["ok    x              two lines"]),
    ],
    ids=["ok", "warn", "bad", "newline"],
)
def test_a_finding_is_one_line_and_its_remedy_another(finding: Finding, lines: list[str]) -> None:
    assert shown(finding).splitlines() == lines


@pytest.mark.parametrize(
    ("findings", "line"),
    [
        ([FINE], "1 ok, 0 to look at, 0 bad. Everything is fine."),
        ([FINE, LOW], "1 ok, 1 to look at, 0 bad. Nothing stands in the way."),
        ([BROKEN, LOW], "0 ok, 1 to look at, 1 bad. Begin with what is bad; each arrow says how."),
    ],
    ids=["ok", "warn", "bad"],
)
def test_the_last_line_counts(findings: list[Finding], line: str) -> None:
    assert closing_line(findings) == line

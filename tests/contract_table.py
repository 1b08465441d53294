"""The tables that a run prints at its end: adapters x rows of test_contract.py, engines x rows of
tests/e2e/engines; a plugin of pytest. Where tests run in several processes, the one that gets their reports
counts and prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import pytest

__all__ = ["Cell", "Counting", "Table", "cell_of"]

MODULE: Final = "test_contract.py"
ADAPTERS: Final = "adapters"
ENGINES: Final = "engines"
PROPERTY: Final = "contract"
FAILED: Final = "FAILED"
NONE: Final = "-"


class Cell(NamedTuple):
    """Of which table, column and row a test is a case, and why it does not apply, if it does not."""

    table: str
    column: str
    row: str
    absent: str = ""


def cell_of(item: pytest.Item) -> Cell | None:
    """The cell that a test is a case of."""
    row = getattr(item, "originalname", item.name).removeprefix("test_")
    shown = row.replace("_", " ")
    callspec = getattr(item, "callspec", None)
    if item.path.name == MODULE and callspec is not None and "wire" in callspec.params:
        wire = callspec.params["wire"]
        return Cell(ADAPTERS, wire.name, shown, wire.absent.get(row, ""))
    cls = getattr(item, "cls", None)
    engine = getattr(cls, "engine", None)
    if engine is None or row in (name.removeprefix("test_") for name in vars(cls)):
        return None  # the second: a test of that engine alone
    return Cell(ENGINES, engine.provider, shown, engine.absent.get(row, ""))


@dataclass
class Table:
    """Counts the cells of one kind as they are reported."""

    kind: str
    passed: Counter[tuple[str, str]] = field(default_factory=Counter)
    failed: Counter[tuple[str, str]] = field(default_factory=Counter)
    absent: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, report: pytest.TestReport) -> None:
        """One phase of one test."""
        told = dict(report.user_properties).get(PROPERTY)
        if not isinstance(told, (tuple, list)) or told[0] != self.kind:  # a list, from another process
            return
        _, column, row, absent = map(str, told)
        cell = (column, row)
        if report.failed:
            self.failed[cell] += 1
        elif report.skipped and isinstance(report.longrepr, tuple):
            if report.longrepr[2].removeprefix("Skipped: ") == absent:  # not because it is not installed
                self.absent[cell] = absent
        elif report.when == "call" and report.passed:
            self.passed[cell] += 1

    def lines(self) -> Iterator[str]:
        """The table, the reasons for what is not in it, and the sum."""
        cells = [*self.passed, *self.failed, *self.absent]
        columns = list(dict.fromkeys(column for column, _ in cells))
        rows = list(dict.fromkeys(row for _, row in cells))
        if not rows:
            return
        width = max(map(len, rows))
        yield f"{'':{width}}  " + "  ".join(columns)
        for row in rows:
            shown = (f"{self._cell(column, row):>{len(column)}}" for column in columns)
            yield f"{row:{width}}  " + "  ".join(shown)
        for (column, row), reason in self.absent.items():
            yield f"{NONE} {column}, {row}: {reason}"
        yield (
            f"{len(columns)} {self.kind} x {len(rows)} rows: {self.passed.total()} cells passed, "
            f"{self.failed.total()} failed, {len(self.absent)} rows do not apply"
        )

    def _cell(self, column: str, row: str) -> str:
        key = (column, row)
        if self.failed[key]:
            return FAILED
        return NONE if key in self.absent else str(self.passed[key])


TABLES: Final = pytest.StashKey[tuple[Table, ...]]()


class Counting:
    """Counts the cells where reports arrive, which is another process where tests run in several."""

    def __init__(self, tables: tuple[Table, ...]) -> None:
        self._tables = tables

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase of one test."""
        for table in self._tables:
            table.add(report)


def pytest_configure(config: pytest.Config) -> None:
    """Begins to count."""
    config.stash[TABLES] = tables = (Table(ADAPTERS), Table(ENGINES))
    config.pluginmanager.register(Counting(tables))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each test of a contract says which cell it is."""
    for item in items:
        cell = cell_of(item)
        if cell is not None:
            item.user_properties.append((PROPERTY, tuple(cell)))  # a plain one: it goes to another process


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the tables of what was run."""
    for table in config.stash[TABLES]:
        lines = list(table.lines())
        if lines:
            terminalreporter.section(f"{table.kind} x rows of the contract")
        for line in lines:
            terminalreporter.write_line(line)

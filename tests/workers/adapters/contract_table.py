"""The table adapters x rows that a run of test_contract.py prints at its end; a plugin of pytest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import pytest

__all__ = ["MODULE", "Counting", "Table", "cell_of"]

MODULE: Final = "test_contract.py"
PROPERTY: Final = "contract"
FAILED: Final = "FAILED"
NONE: Final = "-"


def cell_of(item: pytest.Item) -> tuple[str, str] | None:
    """The adapter and the row that a test is a cell of."""
    callspec = getattr(item, "callspec", None)
    if item.path.name != MODULE or callspec is None or "wire" not in callspec.params:
        return None
    row = getattr(item, "originalname", item.name)
    return callspec.params["wire"].name, row.removeprefix("test_").replace("_", " ")


@dataclass
class Table:
    """Counts cells as they are reported."""

    passed: Counter[tuple[str, str]] = field(default_factory=Counter)
    failed: Counter[tuple[str, str]] = field(default_factory=Counter)
    absent: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, report: pytest.TestReport) -> None:
        """One phase of one test."""
        told = dict(report.user_properties).get(PROPERTY)
        if not isinstance(told, (tuple, list)):  # a list where it came from another process
            return
        adapter, row = told
        cell = (str(adapter), str(row))
        if report.failed:
            self.failed[cell] += 1
        elif report.skipped and isinstance(report.longrepr, tuple):
            self.absent[cell] = report.longrepr[2].removeprefix("Skipped: ")
        elif report.when == "call" and report.passed:
            self.passed[cell] += 1

    def lines(self) -> Iterator[str]:
        """The table, the reasons for what is not in it, and the sum."""
        cells = [*self.passed, *self.failed, *self.absent]
        adapters = list(dict.fromkeys(adapter for adapter, _ in cells))
        rows = list(dict.fromkeys(row for _, row in cells))
        if not rows:
            return
        width = max(map(len, rows))
        yield f"{'':{width}}  " + "  ".join(adapters)
        for row in rows:
            shown = (f"{self._cell(adapter, row):>{len(adapter)}}" for adapter in adapters)
            yield f"{row:{width}}  " + "  ".join(shown)
        for (adapter, row), reason in self.absent.items():
            yield f"{NONE} {adapter}, {row}: {reason}"
        yield (
            f"{len(adapters)} adapters x {len(rows)} rows: {self.passed.total()} cells passed, "
            f"{self.failed.total()} failed, {len(self.absent)} rows do not apply"
        )

    def _cell(self, adapter: str, row: str) -> str:
        key = (adapter, row)
        if self.failed[key]:
            return FAILED
        return NONE if key in self.absent else str(self.passed[key])


TABLE: Final = pytest.StashKey[Table]()


class Counting:
    """Counts the cells where reports arrive, which is another process where tests run in several."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase of one test."""
        self._table.add(report)


def pytest_configure(config: pytest.Config) -> None:
    """Begins to count."""
    config.stash[TABLE] = table = Table()
    config.pluginmanager.register(Counting(table))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each test of the contract says which cell it is."""
    for item in items:
        cell = cell_of(item)
        if cell is not None:
            item.user_properties.append((PROPERTY, cell))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the table, if the contract was run."""
    lines = list(config.stash[TABLE].lines())
    if lines:
        terminalreporter.section("adapters x rows of the contract")
        for line in lines:
            terminalreporter.write_line(line)

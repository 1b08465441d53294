"""The tables of contracts, whose reports may come from another process."""

from __future__ import annotations

from typing import Any

import execnet
import pytest

from tests.contract_table import PROPERTY, Cell, Table

WHY = "it has none"


def report(
    outcome: Any, *, column: str = "one", row: str = "a row", longrepr: Any = None
) -> pytest.TestReport:
    """One call of a test that is a cell of that row."""
    told = [(PROPERTY, tuple(Cell("engines", column, row, WHY)))]
    return pytest.TestReport("x", ("x", 1, "x"), {}, outcome, longrepr, "call", user_properties=told)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "from another process"])
def test_cells_are_counted_wherever_their_reports_come_from(
    request: pytest.FixtureRequest, elsewhere: bool
) -> None:
    table = Table("engines")
    for one in (
        report("passed"),
        report("passed"),
        report("failed", column="second"),
        report("skipped", row="b row", longrepr=("x", 1, f"Skipped: {WHY}")),
        report("skipped", row="c row", longrepr=("x", 1, "Skipped: not installed")),
    ):
        table.add(_sent(request.config, one) if elsewhere else one)
    assert list(table.lines()) == [
        "       one  second",
        "a row    2  FAILED",
        "b row    -       0",
        f"- one, b row: {WHY}",
        "2 engines x 2 rows: 2 cells passed, 1 failed, 1 rows do not apply",
    ]


def test_a_table_counts_its_own_cells_alone() -> None:
    table = Table("adapters")
    table.add(report("passed"))
    assert list(table.lines()) == []


def _sent(config: pytest.Config, one: pytest.TestReport) -> pytest.TestReport:
    """As it is after its way from one process to another."""
    data = config.hook.pytest_report_to_serializable(config=config, report=one)
    back = config.hook.pytest_report_from_serializable(config=config, data=execnet.loads(execnet.dumps(data)))
    assert isinstance(back, pytest.TestReport)
    return back

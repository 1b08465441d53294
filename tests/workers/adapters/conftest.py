"""What the tests of adapters over HTTP share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from typing import Final

import pytest

from tests.fakes.openai_server import OpenAIServer
from tests.workers.adapters.contract_table import Table, properties
from workers.upstream import Upstream

TABLE: Final = pytest.StashKey[Table]()


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    """A server that speaks the OpenAI wire."""
    async with OpenAIServer() as running:
        yield running


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses before retries, which take no time."""
    taken: list[float] = []

    async def pause(seconds: float) -> None:
        taken.append(seconds)

    monkeypatch.setattr(Upstream, "pause", staticmethod(pause))
    return taken


# ---- the table of the contract


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each test of the contract says which cell it is."""
    config.stash[TABLE] = Table()
    for item in items:
        item.user_properties.extend(properties(item).items())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Counts the cell."""
    report = yield
    item.config.stash[TABLE].add(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the table, if the contract was run."""
    table = config.stash.get(TABLE, None)
    lines = list(table.lines()) if table is not None else []
    if lines:
        terminalreporter.section("adapters x rows of the contract")
        for line in lines:
            terminalreporter.write_line(line)

"""All rows that an engine is held to, and the cases that each engine has its own of.

The record that each client makes is checked at its end (tests/e2e/record.py): one acknowledgement and one
terminal message for every request, and nothing with its id after that. So every row holds it, also those in
which a reply is interrupted or a worker is killed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from tests.e2e.engines.engine import Engine
from tests.e2e.engines.living import Living
from tests.e2e.engines.loading import WRONG, Loading
from tests.e2e.engines.replies import Replies
from tests.e2e.engines.sharing import Sharing

__all__ = ["Rows"]


@pytest.mark.foreign
@pytest.mark.install
class Rows(Loading, Replies, Sharing, Living):
    """The contract; a subclass says of which engine."""

    engine: ClassVar[Engine]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """pytest asks this of a class."""
        everywhere = {name: case for name, case in WRONG.items() if name not in self.engine.no_options}
        cases: Mapping[str, Mapping[str, Any]] = {
            "wrong": {**everywhere, **self.engine.wrong_options},
            "damage": self.engine.damages,
            "refused": self.engine.refused,
        }
        for name in set(cases) & set(metafunc.fixturenames):
            found = cases[name] or {"none": None}  # the row is absent then
            metafunc.parametrize(name, list(found.values()), ids=list(found))

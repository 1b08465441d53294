"""The contract of an engine, row by row, through the real module; one test file for each light engine."""

import pytest

ROWS = ("living", "loading", "replies", "sharing", "stage")
"""No test files by their names, and what fails in them is to be shown as in one."""

pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in ROWS))

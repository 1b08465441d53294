"""What the probe prints around its checks; the command with the real module: tests/e2e/test_live_probe.py."""

from __future__ import annotations

import re
from typing import Any, Final

import pytest

from supervisor import live_probe
from supervisor.live_checks import TITLES, Check, Checks, Subject, Verdict
from supervisor.live_probe import HEAD, _cost, _how_to_report, _on_one_line, _Probed, _table, main
from supervisor.providers import Provider
from tests.supervisor.live_module import InMemory

ROWS: Final = tuple(Check(title, Verdict.OK, "", ms=12.6) for title in TITLES)


def probed(*rows: Check, **provider: Any) -> _Probed:
    """A provider whose checks made those rows."""
    subject = Subject(Provider("cloud", "Cloud", "api", "x", "http", **provider))
    return _Probed(subject, Checks(subject, InMemory(lambda request: []).talk), rows)


def test_the_table_has_a_column_for_each_thing_that_a_reader_of_it_asks() -> None:
    assert len(HEAD) == len(set(HEAD) | {"load", "interrupt"}) == 15
    head, rule, row = _table([probed(*ROWS, default_model="big")])
    assert head.strip("| ").split(" | ") == list(HEAD)
    assert set(rule) == set("| -")
    cells = row.strip("| ").split(" | ")
    assert (cells[0], cells[2:12]) == ("cloud", ["big", "13", "13", "13", *["ok"] * 6])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", cells[1])


def test_a_figure_that_is_not_known_is_a_dash_and_so_is_no_model() -> None:
    rows = [Check(title, Verdict.SKIPPED, "") for title in TITLES]
    cells = _table([probed(*rows)])[-1].strip("| ").split(" | ")
    assert cells[2:6] == ["none", "-", "-", "-"]


def test_a_name_cannot_break_out_of_its_cell_or_steer_a_terminal() -> None:
    row = _table([probed(*ROWS, default_model="a|b\x1b[2J\nc")])[-1]
    assert r"| a\|b [2J c |" in row
    assert _on_one_line("a\x07\n  b\x9b1m") == "a b 1m"


@pytest.mark.parametrize(
    ("requests", "tokens", "used", "quirks", "said"),
    [
        pytest.param(0, 0, {}, {"reasoning_headroom": 9}, "nothing was generated", id="nothing"),
        pytest.param(
            1,
            5,
            {},
            {},
            "asked for 5 tokens of reply at most, in 1 request, and more if the model thinks",
            id="one",
        ),
        pytest.param(
            *(2, 205, {"output_tokens": 7}, {"reasoning_headroom": 9}),
            "asked for 205 tokens of reply at most, in 2 requests, and 9 more in each if the model thinks; "
            "it counted 0 in and 7 out",
            id="all",
        ),
    ],
)
def test_what_it_cost_at_most_is_said(
    requests: int, tokens: int, used: dict[str, int], quirks: dict[str, int], said: str
) -> None:
    one = probed(quirks=quirks)
    one.checks.requests, one.checks.asked_tokens, one.checks.used = requests, tokens, used
    assert _cost(one.checks, one.subject.provider) == said


def test_only_what_passed_is_told_to_be_tried() -> None:
    assert 'tried = "YOUR NAME, ' in _how_to_report(probed(*ROWS))
    failed = _how_to_report(probed(*ROWS, Check("stream", Verdict.FAILED, "")))
    assert "stays as it is" in failed
    assert "tried =" not in failed


def test_an_interrupt_before_it_begins_is_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(live_probe, "_subjects", interrupt)
    assert main(["--llm", "demo"]) == 130
    assert capsys.readouterr().err == "probe: interrupted\n"

"""What is said of keys: the variable and the place, what is wrong with one, and never a part of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import pytest

from supervisor.doctor import Finding, Grade
from supervisor.home import Home
from supervisor.key_probes import keys
from supervisor.probes import Place
from tests.supervisor.places import mark
from tests.wheelhouse import CHECKOUT

BOX = "\N{BOX DRAWINGS LIGHT HORIZONTAL}"


@pytest.fixture
def place(home: Home) -> Place:
    """An empty HOME, our own checkout, no variables."""
    return Place(home, CHECKOUT, {})


def named(place: Place, *names: str) -> Place:
    return dataclasses.replace(place, names=names)


def only(findings: Iterable[Finding]) -> Finding:
    (finding,) = findings
    assert bool(finding.remedy) is (finding.grade is not Grade.OK), (
        "a remedy for what is not ok, and only then"
    )
    return finding


def test_a_key_is_told_by_the_name_of_its_variable_and_its_place_alone(place: Place) -> None:
    mark(place.home, "http")
    place.home.dotenv.write_text("GROQ_API_KEY=hidden-in-file\n", encoding="utf-8")
    with_key = dataclasses.replace(place, environ={"OPENAI_API_KEY": "hidden-in-environment"})
    found = {finding.title: finding for finding in keys(with_key)}
    assert found["openai"].text == "OPENAI_API_KEY is set in the environment"
    assert found["groq"].text == f"GROQ_API_KEY is set in {place.home.dotenv}"
    assert "deepseek" in found["keys"].text
    assert "hidden" not in repr(found)
    assert {finding.grade for finding in found.values()} == {Grade.OK}


def test_the_environment_counts_before_the_file(place: Place) -> None:
    place.home.dotenv.write_text("GROQ_API_KEY=x\n", encoding="utf-8")
    with_key = dataclasses.replace(place, environ={"GROQ_API_KEY": "y"}, names=("groq",))
    assert "the environment" in list(keys(with_key))[-1].text


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("gsk 123456", "white space in it"),
        ("gsk_123456\n", "white space at an end"),
        ("gsk_12\x0034", "control character"),
        ('"gsk_123456', "quotation mark"),
        ("gsk_123456\N{RIGHT DOUBLE QUOTATION MARK}", "quotation mark"),
        (f"gsk_12{BOX}3456", "letters that no key has"),
        ("gsk_12\u200b3456", "control character"),
        ("gsk_12\n3456", "white space in it"),
    ],
    ids=ascii,
)
def test_a_key_that_was_pasted_badly_is_a_warning_without_it(place: Place, key: str, words: str) -> None:
    with_key = dataclasses.replace(place, environ={"GROQ_API_KEY": key})
    found = only(keys(with_key))
    assert (found.grade, words in found.text) == (Grade.WARN, True)
    assert "gsk" not in found.text + found.remedy


def test_a_named_provider_without_environment_and_key_gets_a_command_for_each(place: Place) -> None:
    first, second = keys(named(place, "groq"))
    assert f'python install.py --llm groq --home "{place.home.root}"' in first.remedy
    assert f"write GROQ_API_KEY=… into {place.home.dotenv}" in second.remedy
    assert [first.grade, second.grade] == [Grade.WARN, Grade.WARN]


def test_a_large_environment_that_is_not_there_is_bad_since_no_load_makes_it(place: Place) -> None:
    text = "[env.http]\nheavy = true\n"
    place.home.local_catalog.write_text(text, encoding="utf-8")
    assert next(iter(keys(named(place, "groq")))).grade is Grade.BAD


def test_who_needs_no_key_is_not_asked_for_one(place: Place) -> None:
    mark(place.home, "base")
    assert list(keys(named(place, "demo"))) == []

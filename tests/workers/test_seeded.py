"""Draws of a reply with a seed: the same for the same seed, and by the chances that the engine tells."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from tests.fakes.bound import request
from workers.seeded import END_HELD, Candidate, Draw

CHANCES = {0: 0.5, 1: 0.3, 2: 0.15, 3: 0.05}
CANDIDATES = tuple(Candidate(number, "abcd"[number], math.log(chance)) for number, chance in CHANCES.items())


def draw(seed: int = 1, ends: tuple[int, ...] = (), temperature: float = 1.0, **sampling: float) -> Draw:
    return Draw(request(temperature=temperature, sampling={"seed": seed, **sampling}), ends)


def shares(
    drawn: Draw, candidates: tuple[Candidate, ...] = CANDIDATES, count: int = 4000
) -> dict[int, float]:
    """How often each token was drawn, of all."""
    times = Counter(drawn.choose(candidates).id for _ in range(count))
    return {number: times[number] / count for number in times}


def test_one_seed_draws_the_same_and_another_does_not() -> None:
    drawn = [[draw(seed).choose(CANDIDATES).id for _ in range(1)] for seed in (7, 7)]
    first, again, other = (
        [one.choose(CANDIDATES).id for _ in range(50)] for one in (draw(7), draw(7), draw(8))
    )
    assert drawn[0] == drawn[1]
    assert first == again != other


def test_tokens_are_drawn_by_their_chances() -> None:
    found = shares(draw())
    assert all(abs(found[number] - chance) < 0.03 for number, chance in CHANCES.items())


def test_a_low_temperature_prefers_the_likeliest_and_a_high_one_less() -> None:
    assert shares(draw(temperature=0.3))[0] > 0.8
    assert shares(draw(temperature=5.0))[0] < 0.4


@pytest.mark.parametrize(
    ("sampling", "left"),
    [
        ({"top_k": 1}, {0}),
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.6}, {0, 1}),
        ({"top_p": 0.0}, {0}),
        ({"min_p": 0.2}, {0, 1, 2}),
        ({}, {0, 1, 2, 3}),
    ],
)
def test_what_is_too_unlikely_is_never_drawn(sampling: dict[str, Any], left: set[int]) -> None:
    assert set(shares(draw(**sampling))) == left


def test_what_was_said_becomes_less_likely_if_that_is_wanted() -> None:
    assert shares(draw(presence_penalty=2.0), count=2000)[3] > CHANCES[3]
    noted = draw(frequency_penalty=1.0, top_k=1)
    noted.note(CANDIDATES[0])
    assert noted.choose(CANDIDATES).id == 1


def test_an_end_that_the_engine_holds_back_is_as_likely_as_it_was() -> None:
    held = (*CANDIDATES[1:], Candidate(0, "", CANDIDATES[0].log_chance - END_HELD))
    assert abs(shares(draw(ends=(0,)), held)[0] - CHANCES[0]) < 0.03


def test_a_part_of_a_letter_is_taken_only_where_it_is_the_likeliest() -> None:
    parts = (Candidate(0, "\ufffd", -1.0), Candidate(1, "\ufffd", -1.0), Candidate(2, "a", -1.0))
    assert set(shares(draw(), parts, 200)) == {0, 2}

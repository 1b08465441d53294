"""What the next token is chosen by: a client's words, and a source of chance for each reply."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.bound import request
from workers.token_choice import BELOW_ONE, LIKELIEST, choice_of


def drawn(seed: int | None, count: int = 5) -> list[float]:
    sampling = {} if seed is None else {"seed": seed}
    choice = choice_of(request(sampling=sampling))
    return [choice.draw() for _ in range(count)]


def test_one_seed_draws_the_same_and_another_does_not() -> None:
    assert drawn(3) == drawn(3) != drawn(4)


def test_without_a_seed_each_reply_draws_its_own() -> None:
    assert drawn(None) != drawn(None)


def test_a_neighbours_draws_change_nothing() -> None:
    one, other = choice_of(request(sampling={"seed": 3})), choice_of(request(sampling={"seed": 4}))
    mixed = []
    for _ in range(5):
        mixed.append(one.draw())
        other.draw()
    assert mixed == drawn(3)


def test_a_share_is_never_the_whole() -> None:
    class Most:
        def random(self) -> float:
            return 1.0 - 2.0**-53

    choice = choice_of(request())
    object.__setattr__(choice, "chance", Most())
    assert choice.draw() == BELOW_ONE < 1


@pytest.mark.parametrize(
    ("fields", "greedy", "cuts", "remembers"),
    [
        ({}, False, False, False),
        ({"temperature": 0.0}, True, False, False),
        ({"sampling": {"top_k": 1}}, True, True, False),
        ({"sampling": {"top_k": 40}}, False, True, False),
        ({"sampling": {"top_p": 0.9}}, False, True, False),
        ({"sampling": {"min_p": 0.1}}, False, True, False),
        ({"sampling": {"top_p": 1.0, "top_k": 0, "min_p": 0.0}}, False, False, False),
        ({"sampling": {"repetition_penalty": 1.1}}, False, False, True),
        ({"sampling": {"presence_penalty": 0.5}}, False, False, True),
        ({"sampling": {"frequency_penalty": -0.5}}, False, False, True),
    ],
)
def test_only_what_is_said_costs_time(
    fields: dict[str, Any], greedy: bool, cuts: bool, remembers: bool
) -> None:
    choice = choice_of(request(**fields))
    assert (choice.greedy, choice.cuts, choice.remembers) == (greedy, cuts, remembers)


def test_the_likeliest_is_greedy_and_nothing_else() -> None:
    assert (LIKELIEST.greedy, LIKELIEST.cuts, LIKELIEST.remembers) == (True, False, False)


def test_a_seed_is_not_shown() -> None:
    assert "chance" not in repr(choice_of(request(sampling={"seed": 3})))

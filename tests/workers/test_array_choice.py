"""The next token by an array of scores: what is likeliest, what is cut off, what was said, and chance."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np
import pytest

from tests.fakes.bound import request
from workers.array_choice import FIRST, Chooser
from workers.token_choice import choice_of

SCORES: Final = np.log(np.array([0.5, 0.25, 0.15, 0.1], dtype=np.float32))
DRAWS: Final = 4000
NEAR: Final = 0.04
"""Four standard deviations of the rarest share are less."""


def chooser(prompt: tuple[int, ...] = (), *, temperature: float = 1.0, **sampling: float) -> Chooser:
    return Chooser(choice_of(request(temperature=temperature, sampling={"seed": 1, **sampling})), prompt)


def shares(**fields: Any) -> list[float]:
    """How often each token comes, of many draws."""
    one = chooser(**fields)
    counts = Counter(one.next(SCORES.tobytes()) for _ in range(DRAWS))
    return [counts[token] / DRAWS for token in range(len(SCORES))]


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, [0.5, 0.25, 0.15, 0.1]),
        ({"temperature": 0.5}, [0.725, 0.181, 0.065, 0.029]),
        ({"top_k": 2}, [0.667, 0.333, 0, 0]),
        ({"top_p": 0.7}, [0.667, 0.333, 0, 0]),
        ({"top_p": 0.76}, [0.556, 0.278, 0.167, 0]),
        ({"min_p": 0.4}, [0.667, 0.333, 0, 0]),
        ({"top_k": 3, "min_p": 0.2, "top_p": 0.99}, [0.556, 0.278, 0.167, 0]),
    ],
    ids=["plain", "temperature", "top_k", "top_p", "top_p wider", "min_p", "together"],
)
def test_tokens_come_as_often_as_is_asked(fields: dict[str, float], wanted: list[float]) -> None:
    found = shares(**fields)
    assert all(abs(share - want) < NEAR for share, want in zip(found, wanted, strict=True)), found
    assert [share == 0 for share in found] == [want == 0 for want in wanted]


@pytest.mark.parametrize("fields", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}])
def test_the_likeliest_always_may_come_and_alone_does(fields: dict[str, float]) -> None:
    assert shares(**fields) == [1.0, 0, 0, 0]


def test_a_token_far_below_the_best_one_is_never_drawn() -> None:
    scores = np.full(1000, -60.0, dtype=np.float32)
    scores[7] = 0.0
    one = chooser()
    assert {one.next(scores.tobytes()) for _ in range(100)} == {7}


@pytest.mark.parametrize("fields", [{"top_p": 0.999}, {"min_p": 0.5}], ids=["top_p", "min_p"])
def test_where_many_are_as_likely_all_of_them_may_come(fields: dict[str, float]) -> None:
    """More than are looked at in the beginning."""
    scores = np.zeros(5 * FIRST, dtype=np.float32).tobytes()
    one = chooser((), **fields)
    assert max(one.next(scores) for _ in range(50)) - min(one.next(scores) for _ in range(50)) > FIRST


def test_next_to_nothing_as_a_temperature_is_the_likeliest() -> None:
    assert shares(temperature=1e-30) == [1.0, 0, 0, 0]


def test_a_repetition_penalty_is_for_the_prompt_too_and_drives_scores_down() -> None:
    scores = np.array([4.0, 3.0, -1.0], dtype=np.float32).tobytes()
    assert chooser(temperature=0.0).next(scores) == 0
    one = chooser((0,), temperature=0.0, repetition_penalty=2.0)
    assert [one.next(scores) for _ in range(2)] == [1, 0], "3 became 1.5, and 4 is 2"


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
def test_what_was_said_is_said_less_and_the_prompt_does_not_count(name: str) -> None:
    scores = np.array([4.0, 3.0, 2.5], dtype=np.float32).tobytes()
    one = chooser((0, 0, 1), temperature=0.0, **{name: 1.25})
    said = [one.next(scores) for _ in range(4)]
    assert said[:3] == [0, 1, 0]
    assert said[3] == (2 if name == "frequency_penalty" else 0)


def test_one_seed_draws_the_same_and_without_one_nobody_knows() -> None:
    scores = np.zeros(1 << 16, dtype=np.float32).tobytes()
    assert chooser().next(scores) == chooser().next(scores)
    free = [Chooser(choice_of(request()), ()).next(scores) for _ in range(4)]
    assert len(set(free)) > 1

"""Lists of models, in every shape, and names that are meant."""

from __future__ import annotations

from typing import Any

import pytest

from workers.model_lists import is_among, model_names, near_ones


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ([{"id": "a"}, {"id": "b"}], ("a", "b")),
        ({"data": [{"id": "a"}, {"id": "a"}, {"name": "b"}]}, ("a", "b")),
        ({"models": ["a", 7, {}, {"id": 7}, None]}, ("a",)),
        ({"result": [{"id": "f9f2250b", "name": "a"}]}, ("a",)),
        ({"data": 7}, ()),
        (None, ()),
    ],
)
def test_names_are_read_from_a_list_in_every_shape(listed: Any, names: tuple[str, ...]) -> None:
    assert model_names(listed) == names


def test_a_name_is_among_others_with_its_tag_or_without() -> None:
    assert is_among("a", ("a", "b"))
    assert is_among("a", ("a:latest",))
    assert not is_among("a:latest", ("a",))


def test_near_ones_are_a_hint_and_none_is_no_hint() -> None:
    assert near_ones("gpt-5-mni", ("gpt-5-mini", "gpt-5", "whisper")) == "near ones: gpt-5-mini, gpt-5"
    assert near_ones("x", ("gpt-5",)) == ""

"""Names, roles and order of messages."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.adapter import AdapterError, Message
from workers.codes import Code
from workers.prompt import (
    OPENING,
    after_reply,
    alternating,
    clean_name,
    merged,
    plain_roles,
    prefixed,
    spoken,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("DEV", "DEV"),
        ("Hilda Müller", "Hilda_Muller"),
        ("  Mia! ", "Mia"),
        ("a.b@c", "a_b_c"),
        ("初音", ""),
        ("Mia 初音", ""),
        ("!!!", ""),
        ("_-_", ""),
        ("", ""),
        (None, ""),
        ("x" * 100, "x" * 64),
        ("①", "1"),
    ],
)
def test_a_name_is_cleaned_to_what_a_name_field_takes(name: str | None, expected: str) -> None:
    assert clean_name(name) == expected


@given(st.text())
def test_a_cleaned_name_is_always_allowed_or_empty(name: str) -> None:
    assert re.fullmatch(r"[a-zA-Z0-9_-]{0,64}", clean_name(name))


def test_a_name_becomes_the_beginning_of_the_content() -> None:
    assert prefixed(Message("user", "hi", "Mia \n M")) == Message("user", "Mia M: hi")
    assert prefixed(Message("user", "hi", " ")) == Message("user", "hi")
    assert prefixed(Message("user", "hi")) == Message("user", "hi")


def test_neighbours_of_one_role_and_name_are_joined() -> None:
    messages = [
        Message("user", "a"),
        Message("user", "b"),
        Message("assistant", "c"),
        Message("user", "d", "X"),
    ]
    assert merged([*messages, Message("user", "e", "Y")]) == [
        Message("user", "a\nb"),
        Message("assistant", "c"),
        Message("user", "d", "X"),
        Message("user", "e", "Y"),
    ]


def test_a_developer_is_a_system() -> None:
    assert plain_roles([Message("developer", "a")]) == [Message("system", "a")]


@pytest.mark.parametrize("role", ["tool", "function", "narrator"])
def test_a_role_that_the_wire_cannot_carry_is_unsupported(role: str) -> None:
    with pytest.raises(AdapterError) as caught:
        plain_roles([Message(role, "a")])
    assert caught.value.code is Code.UNSUPPORTED
    assert role in caught.value.message


def test_a_system_message_right_after_a_reply_gets_another_role_and_no_other_does() -> None:
    messages = [
        Message("system", "a"),
        Message("assistant", "b"),
        Message("system", "c"),
        Message("system", "d"),
    ]
    assert [message.role for message in after_reply(messages, then="user")] == [
        "system",
        "assistant",
        "user",
        "system",
    ]


def test_what_is_said_has_its_names_and_nothing_blank() -> None:
    messages = [Message("developer", "A"), Message("user", " "), Message("user", "Hi", "Ann")]
    assert spoken(messages) == [Message("system", "A"), Message("user", "Ann: Hi")]


def test_turns_alternate_and_begin_with_the_user() -> None:
    messages = [
        Message("system", "A"),
        Message("system", "B"),
        Message("assistant", "1"),
        Message("system", "C"),
        Message("user", "2"),
        Message("assistant", "3 \n"),
    ]
    system, turns = alternating(messages)
    assert system == ["A", "B"]
    assert [(turn.role, turn.content) for turn in turns] == [
        ("user", OPENING),
        ("assistant", "1"),
        ("user", "C\n2"),
        ("assistant", "3"),
    ]


@pytest.mark.parametrize("read", [spoken, alternating])
def test_a_prompt_of_nothing_is_refused(read: Callable[[list[Message]], object]) -> None:
    with pytest.raises(AdapterError) as caught:
        read([Message("system", " "), Message("user", "\n")])
    assert caught.value.code is Code.INVALID_PROMPT

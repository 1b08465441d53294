"""Messages as one text: by a template, or as a transcript; and who thinks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pytest

from tests.fakes.bound import request
from workers.adapter import Message
from workers.chat_prompt import Manner, prompt_of


def joined(messages: list[dict[str, str]], think: bool, more: Mapping[str, Any]) -> str:
    return (
        "|".join(f"{message['role']}={message['content']}" for message in messages) + f"|{think}|{dict(more)}"
    )


CHAT: Final = Manner(joined, may_think=False)
THINKER: Final = Manner(joined, may_think=True)


def test_a_template_gets_names_in_the_text_and_neighbours_joined() -> None:
    messages = (Message("developer", "Be brief."), Message("user", "Hi", name="Ann"), Message("user", "So?"))
    prompt = prompt_of(request(messages=messages), CHAT)
    assert prompt.text == "system=Be brief.|user=Ann: Hi\nSo?|False|{}"
    assert (prompt.plain, prompt.stops, prompt.thinks, prompt.opens_thinking) == (False, (), False, False)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, {}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ({"extra": {"chat_template_kwargs": {"x": 1}}}, {"x": 1}),
        ({"extra": {"chat_template_kwargs": "no table"}}, {}),
    ],
)
def test_a_template_is_told_what_a_client_says_to_it(fields: dict[str, Any], told: dict[str, Any]) -> None:
    assert prompt_of(request(**fields), CHAT).text.endswith(f"|{told}")


def test_only_a_model_that_may_think_is_asked_to() -> None:
    wanted = request(reasoning_effort="low")
    assert prompt_of(wanted, THINKER).thinks
    assert not prompt_of(wanted, CHAT).thinks
    assert not prompt_of(request(), THINKER).thinks


def test_a_stop_counts_at_once_unless_it_could_fire_in_thinking() -> None:
    wanted = request(stop=("END", "\n"))
    assert prompt_of(wanted, CHAT).stops == ("END",)
    assert prompt_of(wanted, THINKER).stops == ()


def test_a_template_may_open_the_thinking_itself() -> None:
    prompt = prompt_of(request(), Manner(lambda messages, think, more: "assistant:<think>\n", may_think=True))
    assert prompt.thinks
    assert prompt.opens_thinking


def test_a_transcript_ends_with_who_speaks_next() -> None:
    messages = (Message("system", "A tale."), Message("user", "Hi", name="Ann"))
    prompt = prompt_of(
        request(messages=messages, character_name="Mia", stop=("END",)), Manner(None, may_think=False)
    )
    assert (prompt.text, prompt.plain) == ("A tale.\n\nAnn: Hi\nMia:", True)
    assert prompt.stops == ("\nUser:", "\nAnn:", "END")

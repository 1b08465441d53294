"""Chat templates: as the hub's own library makes texts of them, and with nothing in reach."""

from __future__ import annotations

import pytest

from workers.adapter import AdapterError
from workers.chat_template import renderer
from workers.codes import Code

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "日本 & <b>"}]


def made(template: str, *, think: bool = False) -> str:
    return renderer(template, {"bos_token": "<s>"})(MESSAGES, think)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% for m in messages %}\n  {{ m['role'] }}\n{% endfor %}\n", "  system\n  user\n"),
        ("{{ bos_token }}{{ messages[1].content }}", "<s>日本 & <b>"),
        ("{{ messages[1] | tojson }}", '{"role": "user", "content": "日本 & <b>"}'),
        ("{% for m in messages %}{% break %}{% endfor %}{{ tools is none }}", "True"),
        ("{{ add_generation_prompt }}{{ enable_thinking }}", "TrueFalse"),
        ("{{ strftime_now('%Y') | length }}", "4"),
    ],
    ids=["blocks", "words", "json", "loops", "thinking", "day"],
)
def test_a_template_makes_one_text(template: str, text: str) -> None:
    assert made(template) == text


def test_a_model_thinks_where_that_was_asked_for() -> None:
    assert made("{{ enable_thinking }}", think=True) == "True"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{{ messages[0].__class__.__mro__ }}", "unsafe"),
        ("{% set x = messages.append(1) %}", "unsafe"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "too big"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ nothing.at.all }}", "undefined"),
    ],
)
def test_what_a_template_refuses_or_may_not_do_is_an_invalid_prompt(template: str, words: str) -> None:
    with pytest.raises(AdapterError) as caught:
        made(template)
    assert caught.value.code is Code.INVALID_PROMPT
    assert words in caught.value.message


def test_a_template_that_cannot_be_read_is_an_invalid_model() -> None:
    with pytest.raises(AdapterError) as caught:
        made("{% if %}")
    assert caught.value.code is Code.INVALID_MODEL
    assert "options.transcript" in caught.value.message

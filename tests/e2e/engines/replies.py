"""Rows about one reply: its text, its end, what shapes it, and what it refuses."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from tests.e2e.engines.engine import NAMED, SPOKEN
from tests.e2e.engines.stage import LONG, SAME_WORDS, Stage, Talk
from tests.tiny_model import SPECIALS

__all__ = ["Replies"]

PROMPT_TOKENS: Final = len("<>user: Hello<><>assistant:")
"""Of one greeting in the template, whose signs are tokens of their own; here each is two letters less one."""
SIGNS: Final = 3
EVERYTHING: Final = {
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.05,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "repetition_penalty": 1.1,
}
drawn_or_not = pytest.mark.parametrize("sampling", [{}, {"seed": 3}], ids=["free", "seeded"])
repeatable = pytest.mark.parametrize("sampling", [{"seed": 3}, {"top_k": 1}], ids=["seeded", "likeliest"])


def user(content: str, **fields: str) -> dict[str, str]:
    """A message of the user's."""
    return {"role": "user", "content": content, **fields}


class Replies:
    """What one reply is."""

    async def test_a_reply_is_streamed_and_says_what_it_cost(self, talk: Talk) -> None:
        reply = await talk.say(**SAME_WORDS)
        assert len(reply.chunks) > 1
        assert all(reply.chunks), "the first text is text, and none is empty"
        assert (reply.end["finish_reason"], reply.end["model"]) == ("length", "tiny")
        usage = reply.end["usage"]
        assert (usage["input_tokens"], usage["output_tokens"]) == (PROMPT_TOKENS - SIGNS, 40)
        assert "warnings" not in reply.end
        whole = await talk.answer(user("Hello"), stream=False, **SAME_WORDS)
        assert whole.end["response"] == reply.text

    async def test_one_seed_says_the_same_and_another_does_not(self, talk: Talk) -> None:
        texts = [(await talk.say(**SAME_WORDS)).text for _ in range(3)]
        other = (await talk.say(**{**SAME_WORDS, "seed": 4})).text
        assert texts[0] == texts[1] == texts[2] != other

    async def test_parameters_of_sampling_are_heeded(self, talk: Talk) -> None:
        async def said(**params: Any) -> str:
            reply = await talk.say(max_output_length=30, **params)
            assert "warnings" not in reply.end
            return reply.text

        cold = await said(temperature=0.0)
        for params in ({"top_k": 1}, {"top_k": 1, "seed": 1}, {"top_p": 0.0001, "seed": 2}):
            assert await said(**params) == cold, params
        assert await said(min_p=0.9999) == cold
        assert len(set(await said(temperature=0.0, frequency_penalty=2.0))) > len(set(cold))
        assert await said(temperature=0.0, repetition_penalty=2.0) != cold
        for params in (EVERYTHING, {**EVERYTHING, "seed": 3}):
            assert await said(**params)

    async def test_what_has_no_place_is_a_warning(self, talk: Talk) -> None:
        for name, params in talk.engine.left_out.items():
            warnings = (await talk.say(max_output_length=5, **params)).end["warnings"]
            assert [warning["name"] for warning in warnings] == ["PARAMETER_LEFT_OUT"]
            assert name in warnings[0]["message"]

    async def test_what_the_engine_cannot_take_is_an_invalid_prompt(
        self, talk: Talk, refused: dict[str, Any]
    ) -> None:
        reply = await talk.say(max_output_length=5, **refused)
        assert (reply.code, reply.chunks) == ("INVALID_PROMPT", [])
        await talk.works()

    @pytest.mark.parametrize("kind", ["object", "schema"])
    async def test_a_response_format_shapes_the_reply(self, talk: Talk, kind: str) -> None:
        wanted: dict[str, Any] = {"type": "json_object"}
        if kind == "schema":
            schema = {"name": "x", "schema": {"enum": ["yes", "no"]}}
            wanted = {"type": "json_schema", "json_schema": schema}
        text = (await talk.say(max_output_length=60, response_format=wanted)).text
        assert json.loads(text) in ("yes", "no") if kind == "schema" else text.lstrip().startswith("{")

    # ---- its end

    @repeatable
    async def test_a_stop_string_over_several_tokens_ends_the_reply(
        self, talk: Talk, sampling: dict[str, Any]
    ) -> None:
        same = {"max_output_length": 40, **sampling}
        whole = (await talk.say(**same)).text
        stop = whole[15:18]
        reply = await talk.say(**same, stop_tokens=[stop, "\x01never"])
        assert (reply.text, reply.end["finish_reason"]) == (whole[: whole.index(stop)], "stop")
        assert reply.end["usage"]["output_tokens"] < 40, "the engine stopped, nobody had to cut"

    @repeatable
    async def test_a_token_id_ends_the_reply(self, talk: Talk, sampling: dict[str, Any]) -> None:
        same = {"max_output_length": 40, **sampling}
        whole = (await talk.say(**same)).text
        letter = next(one for one in whole[5:] if one.isascii() and one not in whole[:5])
        reply = await talk.say(**same, stop_tokens=[len(SPECIALS) + ord(letter)])
        assert (reply.text, reply.end["finish_reason"]) == (whole[: whole.index(letter)], "stop")

    async def test_letters_of_several_tokens_come_whole(self, stage: Stage) -> None:
        async with stage.talk("speaker") as talk:
            reply = await talk.say(max_output_length=31, temperature=0.0)
            stopped = await talk.say(max_output_length=31, temperature=0.0, stop_tokens=["€😀"])
        sentence = "31 tokens: nine to a round, and of the last letter one of three"
        assert reply.chunks == [*(SPOKEN * 3), "é"], sentence
        assert (stopped.text, stopped.end["finish_reason"]) == ("é", "stop")

    async def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(self, stage: Stage) -> None:
        reply = await stage.said_by("tiny", {"context_length": 2048}, text="word " * 600)
        assert (reply.code, reply.chunks) == ("CONTEXT_TOO_LONG", [])
        assert "3019 tokens" in reply.end["message"]
        assert "holds 2048" in reply.end["message"]

    @drawn_or_not
    async def test_a_reply_ends_where_the_context_does(self, stage: Stage, sampling: dict[str, Any]) -> None:
        reply = await stage.said_by("tiny", {"context_length": 256}, text="x" * 200, **LONG, **sampling)
        assert reply.end["finish_reason"] == "length"
        usage = reply.end["usage"]
        assert usage["input_tokens"] + usage["output_tokens"] == 256

    # ---- its prompt

    async def test_a_second_turn_reuses_the_first(self, talk: Talk) -> None:
        history = [{"role": "system", "content": "You are Mia. " * 40}, user("Tell me a story, please.")]
        first = await talk.answer(*history, max_output_length=30)
        history += [{"role": "assistant", "content": first.text}, user("Go on.")]
        usage = (await talk.answer(*history, max_output_length=5)).end["usage"]
        slack = talk.engine.reuse_slack
        assert usage["cached_input_tokens"] >= first.end["usage"]["input_tokens"] - slack
        assert usage["input_tokens"] - usage["cached_input_tokens"] < 80 + slack

    async def test_a_name_is_a_part_of_the_prompt(self, talk: Talk) -> None:
        named = await talk.answer(user("Hi", name="Ann"), max_output_length=1)
        plain = await talk.answer(user("Ann: Hi"), max_output_length=1)
        assert named.end["usage"]["input_tokens"] == plain.end["usage"]["input_tokens"]

    async def test_an_echo_of_the_characters_name_is_not_in_the_reply(self, stage: Stage) -> None:
        async with stage.talk("named") as talk:
            plain = await talk.say(max_output_length=9, temperature=0.0)
            named = await talk.say(max_output_length=9, temperature=0.0, character_name="Mia")
            stopped = await talk.say(temperature=0.0, character_name="Mia", stop_tokens=["Mia:"])
        said = (NAMED * 2)[:9]
        assert (stopped.text, stopped.end["finish_reason"]) == ("Yo", "stop"), "the second time it counts"
        assert (plain.text, named.text) == (said, said.removeprefix("Mia: "))

    @drawn_or_not
    async def test_a_model_without_a_template_continues_a_transcript(
        self, stage: Stage, sampling: dict[str, Any]
    ) -> None:
        messages = [{"role": "system", "content": "A tale."}, user("Hi", name="Ann")]
        async with stage.talk("base") as talk:
            reply = await talk.answer(*messages, character_name="Mia", max_output_length=10, **sampling)
        assert reply.end["usage"]["input_tokens"] == len("A tale.\n\nAnn: Hi\nMia:")
        assert not reply.text[:1].isspace()

    async def test_a_model_that_may_think_is_told_not_to_unless_it_is_asked(self, stage: Stage) -> None:
        async with stage.talk("thinker") as talk:
            quick = (await talk.say(max_output_length=3)).end["usage"]
            briefly = stage.engine.briefly
            asked = (await talk.say(max_output_length=3, reasoning_effort="low", **briefly)).end["usage"]
        assert quick["input_tokens"] > asked["input_tokens"], "it saw an empty block of thinking"
        assert quick["output_tokens"] == 3
        assert asked["output_tokens"] > 3, "thinking does not count as text"

    async def test_a_template_that_refuses_the_messages_says_why(self, stage: Stage) -> None:
        messages = [user("Hi"), {"role": "assistant", "content": "Hello"}, user("So?")]
        async with stage.talk("strict") as talk:
            reply = await talk.answer(*messages)
            assert (reply.code, "two messages at most" in reply.end["message"]) == ("INVALID_PROMPT", True)
            await talk.loaded("strict", transcript=True)
            assert (await talk.answer(*messages, **SAME_WORDS)).code == "SUCCESS"

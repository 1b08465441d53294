"""Replies of mistral.rs as events, from a speaker that says what it is told to say."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest

from tests.fakes.bound import finish_of, request, text_of
from workers.adapter import AdapterError, Event, Reasoning, Request, Usage
from workers.codes import Code
from workers.engine_thread import Pieces, Take
from workers.mistral_chat import Asked
from workers.mistral_reply import KEEP_EVERY, Piece, Reply
from workers.seeded import Candidate

ASKED: Final = Asked(
    "prompt", 10, {"temperature": 1.0, "top_k": 1}, (), seeded=False, plain=False, warnings=()
)
SEEDED: Final = dataclasses.replace(ASKED, seeded=True)
GREEDY: Final[dict[str, Any]] = {"sampling": {"seed": 1, "top_k": 1}}
"""A draw that always takes the likeliest."""
USED: Final = Usage(3, 2)


class Speaker:
    """Each request gets the next one of the scripts."""

    def __init__(self, threads: ThreadPoolExecutor, *scripts: Sequence[Piece]) -> None:
        self._threads = threads
        self._scripts = list(scripts)
        self.context_length = 100
        self.ends: tuple[int, ...] = (9,)
        self.tokens = 3
        self.asked: list[dict[str, Any]] = []

    def count(self, prompt: str) -> int:
        return self.tokens

    def begin(self, prompt: str, *, max_tokens: int, **fields: Any) -> Pieces[Piece]:
        self.asked.append({"prompt": prompt, "max_tokens": max_tokens, **fields})
        script = self._scripts.pop(0)

        def run(take: Take[Piece]) -> None:
            for piece in script:
                if take(piece):
                    return

        return Pieces[Piece](self._threads, run, lambda error: AdapterError(Code.UNEXPECTED, ""), ())

    def text_of(self, token: int, after: int | None = None) -> str:
        return "" if token == 8 else f"<{token}>"

    def sign_of(self, token: int) -> str:
        return f"[{token}]"


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


async def events(speaker: Speaker, asked: Asked = ASKED, wanted: Request | None = None) -> list[Event]:
    reply = Reply(speaker, "m", wanted or request(), asked)
    return [event async for event in reply.events()]


def told(text: str, *ids: int, reason: str | None = None) -> Piece:
    """A piece of which the engine says how likely its token was."""
    signs = {5: "\ufffd"}
    found = tuple(Candidate(number, signs.get(number, "x"), -float(i)) for i, number in enumerate(ids))
    return Piece(text, candidates=found, reason=reason)


async def test_pieces_become_text_and_an_end(threads: ThreadPoolExecutor) -> None:
    speaker = Speaker(threads, [Piece("Hel"), Piece(""), Piece("lo", reason="stop", usage=USED)])
    found = await events(speaker)
    assert text_of(found) == "Hello"
    assert (finish_of(found).reason, finish_of(found).usage, finish_of(found).model) == ("stop", USED, "m")
    assert speaker.asked == [{"prompt": "prompt", "max_tokens": 10, "temperature": 1.0, "top_k": 1}]


async def test_a_letter_that_the_limit_has_cut_is_left_out(threads: ThreadPoolExecutor) -> None:
    found = await events(Speaker(threads, [Piece("a"), Piece("b\ufffd\ufffd", reason="length", usage=USED)]))
    assert (text_of(found), finish_of(found).reason) == ("ab", "length")


async def test_a_transcripts_first_white_space_is_left_out(threads: ThreadPoolExecutor) -> None:
    plain = dataclasses.replace(ASKED, plain=True)
    found = await events(Speaker(threads, [Piece(" "), Piece("\n a"), Piece(" b", reason="stop")]), plain)
    assert text_of(found) == "a b"


async def test_thinking_is_kept_apart_or_marked(threads: ThreadPoolExecutor) -> None:
    opened = dataclasses.replace(ASKED, prompt="assistant: <think>\n")
    script = [Piece("", thought="Hm."), Piece("So</think>Hi", reason="stop")]
    found = await events(Speaker(threads, script), opened)
    assert text_of(found) == "<think>So</think>Hi"
    assert Reasoning("Hm.") in found


async def test_a_prompt_that_does_not_fit_is_refused_before_anything_is_asked(
    threads: ThreadPoolExecutor,
) -> None:
    speaker = Speaker(threads)
    speaker.tokens = 100
    with pytest.raises(AdapterError) as caught:
        await events(speaker)
    assert caught.value.code is Code.CONTEXT_TOO_LONG
    assert "100 tokens and the context holds 100" in caught.value.message
    assert speaker.asked == []


async def test_a_reply_is_no_longer_than_the_context(threads: ThreadPoolExecutor) -> None:
    speaker = Speaker(threads, [Piece("a", reason="length")])
    speaker.tokens = 98
    await events(speaker)
    assert speaker.asked[0]["max_tokens"] == 2


async def test_stop_strings_and_stop_tokens_are_sent(threads: ThreadPoolExecutor) -> None:
    speaker = Speaker(threads, [Piece("a", reason="stop")])
    await events(speaker, dataclasses.replace(ASKED, stops=("!",)), request(stop_ids=(4,)))
    assert speaker.asked[0]["stop_seqs"] == ["!", "[4]"]


async def test_a_seeded_reply_keeps_the_prompt_first_and_then_follows_the_engine(
    threads: ThreadPoolExecutor,
) -> None:
    speaker = Speaker(
        threads, [told("a", 1, reason="length")], [told("b", 2), told("c", 3), Piece("", reason="stop")]
    )
    found = await events(speaker, SEEDED, request(**GREEDY))
    assert text_of(found) == "abc"
    assert (finish_of(found).reason, finish_of(found).usage) == ("stop", Usage(3, 3))
    assert [(asked["prompt"], asked["max_tokens"]) for asked in speaker.asked] == [
        ("prompt", 1),
        ("prompta", 9),
    ]
    assert speaker.asked[0]["logit_bias"] == {9: -5.0}
    assert speaker.asked[0]["temperature"] == 0.0
    assert "top_k" not in speaker.asked[0]


async def test_where_another_token_is_drawn_the_engine_is_asked_anew(threads: ThreadPoolExecutor) -> None:
    script = [[told("a", 1, 7, reason="length")], *([[told("b", 2, 7), told("c", 3, 7)]] * 30)]
    speaker = Speaker(threads, *script)
    found = await events(speaker, SEEDED, request(sampling={"seed": 3}))
    text = text_of(found)
    assert "<7>" in text
    assert finish_of(found).usage == Usage(3, 10)
    for asked in speaker.asked:
        assert text.startswith(asked["prompt"].removeprefix("prompt"))


@pytest.mark.parametrize("sign", [8, 9], ids=["a sign", "an end"])
async def test_a_drawn_end_ends_the_reply_and_says_nothing(threads: ThreadPoolExecutor, sign: int) -> None:
    likely = (Candidate(1, "x", -60.0), Candidate(sign, "x", 0.0))
    speaker = Speaker(threads, [Piece("a", candidates=likely, reason="length")])
    found = await events(speaker, SEEDED, request(sampling={"seed": 1}))
    assert (text_of(found), finish_of(found).reason) == ("", "stop")


async def test_a_seeded_reply_goes_through_a_letter_with_the_engine(threads: ThreadPoolExecutor) -> None:
    speaker = Speaker(
        threads,
        [told("\ufffd", 5, reason="length")],
        [told("", 5), told("", 5, 7), told("あ", 5, 7), Piece("", reason="stop")],
    )
    found = await events(speaker, SEEDED, request(sampling={"seed": 1, "top_k": 1}))
    assert text_of(found) == "あ"
    assert [asked["prompt"] for asked in speaker.asked] == ["prompt", "prompt"], "a half is not kept"


async def test_a_seeded_reply_keeps_what_it_has_now_and_then(threads: ThreadPoolExecutor) -> None:
    asked = dataclasses.replace(SEEDED, max_tokens=KEEP_EVERY + 2)
    first = [told("a", 1, reason="length")]
    rest = [told("b", 2) for _ in range(KEEP_EVERY + 1)]
    speaker = Speaker(threads, first, rest)
    found = await events(speaker, asked, request(**GREEDY))
    assert finish_of(found).usage == Usage(3, KEEP_EVERY + 2)
    assert [given["max_tokens"] for given in speaker.asked] == [1, KEEP_EVERY + 1]


async def test_a_stop_string_ends_a_seeded_reply_across_tokens(threads: ThreadPoolExecutor) -> None:
    asked = dataclasses.replace(SEEDED, stops=("bc",))
    speaker = Speaker(threads, [told("a", 1, reason="length")], [told("b", 2), told("c", 3), told("d", 4)])
    found = await events(speaker, asked, request(**GREEDY))
    assert (text_of(found), finish_of(found).reason) == ("a", "stop")


async def test_a_seeded_reply_does_not_end_where_ends_are_to_be_ignored(threads: ThreadPoolExecutor) -> None:
    asked = dataclasses.replace(SEEDED, fields={"ignore_eos": True}, max_tokens=2)
    speaker = Speaker(threads, [told("a", 9, reason="length")], [told("b", 2, reason="length")])
    found = await events(speaker, asked, request(**GREEDY))
    assert (text_of(found), finish_of(found).reason) == ("ab", "length")
    assert speaker.asked[0]["logit_bias"] == {}

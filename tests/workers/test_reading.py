"""When an answer is complete, and when it is none; what every wire has in common is in test_contract.py."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Final

import pytest

from tests.fakes.bound import text_of
from tests.fakes.lines import NDJSON, Lines, LinesReply
from tests.fakes.openai_server import Behaviour, OpenAIServer
from tests.fakes.upstreams import later, opened
from workers.adapter import AdapterError
from workers.codes import Code
from workers.reading import events_of
from workers.sse import Event as Piece
from workers.sse import EventTooLong

LINES: Final = "application/x-ndjson"


async def read(server: OpenAIServer, *, types: Collection[str] = (LINES,), last_ends: bool = True) -> str:
    """What an answer of that server says."""
    upstream = await opened(server.base_url)
    answer = LinesReply(upstream.who, model="m", max_output_length=50)
    try:
        async with upstream.post("/x", b"{}", deadline=later()) as reply:
            events = events_of(reply, answer, Lines(), types=types, last_ends=last_ends)
            async with contextlib.aclosing(events):
                return text_of([event async for event in events])
    finally:
        await upstream.close()


@pytest.mark.parametrize(
    ("sent", "code", "words"),
    [
        (b'{"say": "Hi"}\n', Code.TRUNCATED, "ended in the middle of the answer"),
        (b"", Code.UPSTREAM_PROTOCOL, "sent an empty answer"),
        (b'{"say": "Hi"}\n{"end": true}', Code.TRUNCATED, "ended in the middle of the answer"),
    ],
    ids=["no end", "nothing", "an end that is not ended"],
)
async def test_a_stream_that_does_not_come_to_its_end_is_no_answer(
    server: OpenAIServer, sent: bytes, code: Code, words: str
) -> None:
    server.behaviour = Behaviour(body=sent, headers=NDJSON)
    with pytest.raises(AdapterError, match=words) as caught:
        await read(server)
    assert caught.value.code is code


async def test_a_last_piece_counts_without_its_end_only_where_the_wire_says_so(server: OpenAIServer) -> None:
    server.behaviour = Behaviour(body=b'{"say": "Hi"}\n{"end": true}', headers=NDJSON)
    assert await read(server, last_ends=False) == "Hi"
    server.behaviour = Behaviour(body=b'{"say": "Hi"}\n{"end": tr', headers=NDJSON)
    with pytest.raises(AdapterError) as caught:
        await read(server, last_ends=False)
    assert caught.value.code is Code.TRUNCATED


async def test_the_mark_of_the_end_ends_an_answer(server: OpenAIServer) -> None:
    server.behaviour = Behaviour(body=b'{"say": "Hi"}\n[DONE]\n{"say": "!"}\n', headers=NDJSON)
    assert await read(server) == "Hi"


async def test_a_piece_that_is_far_too_long_ends_the_reading(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Lines, data: bytes) -> list[Piece]:
        raise EventTooLong

    monkeypatch.setattr(Lines, "feed", full)
    server.behaviour = Behaviour(body=b"x", headers=NDJSON)
    with pytest.raises(AdapterError, match="far too long") as caught:
        await read(server)
    assert caught.value.code is Code.UPSTREAM_PROTOCOL


@pytest.mark.parametrize("kind", ["application/json", "application/problem+json"])
async def test_json_is_an_answer_that_is_whole(server: OpenAIServer, kind: str) -> None:
    server.behaviour = Behaviour(body=b"{}", headers={"Content-Type": kind})
    with pytest.raises(AdapterError, match="an answer that is whole"):
        await read(server, types=(kind,))


async def test_another_kind_of_stream_is_told_by_its_name(server: OpenAIServer) -> None:
    server.behaviour = Behaviour(body=b'{"end": true}\n', headers={"Content-Type": "text/html"})
    with pytest.raises(AdapterError, match="text/html instead of a reply") as caught:
        await read(server)
    assert caught.value.code is Code.UPSTREAM_PROTOCOL

"""What a wire may say of itself beyond body and reader: a path, a kind of stream, a signature.

All else of workers/http_chat.py is held for every adapter by tests/workers/adapters/test_contract.py.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from typing import Final

import pytest

from tests.fakes.bound import bound, collect, finish_of, load_only, request, text_of
from tests.fakes.http_server import Exchange
from tests.fakes.lines import NDJSON, Lines, LinesReply
from tests.fakes.openai_server import Behaviour, OpenAIServer
from workers.adapter import AdapterError, Request
from workers.codes import Code
from workers.http_chat import HttpChat
from workers.http_reply import Reply
from workers.parameters import Body
from workers.quirks import Quirks
from workers.refusals import Who


class LinesChat(HttpChat):
    """A wire that names the model in the path and streams lines."""

    usual = Quirks(models_path="", chat_path="/talk")
    stream_types = ("application/x-ndjson",)
    decoder = Lines

    def path(self, request: Request, body: Body) -> str:
        return f"{super().path(request, body)}/{request.model}"

    def body(self, request: Request, quirks: Quirks, refused: Collection[str]) -> Body:
        return Body({"text": request.messages[-1].content}, ())

    def reader(self, who: Who, request: Request) -> LinesReply:
        return LinesReply(who, model=request.model, max_output_length=request.max_output_length)


async def test_a_wire_has_its_own_path_and_its_own_kind_of_stream() -> None:
    async def lines(exchange: Exchange) -> None:
        await exchange.head(200, NDJSON, chunked=True)
        for part in (b'{"say": "Hel', b'lo"}\n{"say": "!"}\n', b'{"end": true}\n'):
            await exchange.send(part)
        await exchange.end()

    async with OpenAIServer() as server:
        server.behaviour = lines
        adapter = bound(server.base_url, adapter=LinesChat)
        await load_only(adapter)
        events = await collect(adapter, request())
        await adapter.close()
    assert (text_of(events), finish_of(events).reason) == ("Hello!", "stop")
    assert (server.requests[0].path, server.requests[0].body) == ("/v1/talk/fake-small", {"text": "Hello"})
    assert server.lists == []


class Telling(Reply):
    """An answer of that wire whose pieces are at hand; it notes what is said of its end."""

    def __init__(self, *pieces: bytes) -> None:
        self.content_type = LinesChat.stream_types[0]
        self.told: list[str] = []
        self._pieces = pieces

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        for piece in self._pieces:
            yield piece

    def end_within(self, seconds: float) -> None:
        self.told.append("ends")

    def goes_on(self) -> None:
        self.told.append("goes on")


class NeverDone(LinesReply):
    """Waits for more after its end: usage, a mark."""

    @property
    def complete(self) -> bool:
        return False


async def test_the_end_that_is_waited_for_is_put_off_by_what_is_said_and_by_nothing_else() -> None:
    reply = Telling(b'{"say": "Hel"}\n{"end": true}\n', b"{}\n", b'{"say": "lo"}\n', b'{"end": true}\n')
    adapter = bound("http://127.0.0.1:9/v1", adapter=LinesChat)
    assert isinstance(adapter, LinesChat)
    answer = NeverDone(Who("Fake"), model="m", max_output_length=200)
    events = [event async for event in adapter.read(reply, answer)]
    assert text_of(events) == "Hello"
    assert reply.told == ["goes on", "ends", "ends", "goes on", "ends", "ends"]


async def test_another_kind_of_stream_is_no_answer_of_that_wire() -> None:
    async with OpenAIServer() as server:
        server.behaviour = Behaviour(events=(b'{"say": "Hi"}\n{"end": true}\n',))
        adapter = bound(server.base_url, adapter=LinesChat)
        await load_only(adapter)
        with pytest.raises(AdapterError) as caught:
            await collect(adapter, request())
        await adapter.close()
    assert caught.value.code is Code.UPSTREAM_PROTOCOL
    assert "text/event-stream" in caught.value.message


class SignedChat(LinesChat):
    """A wire whose requests carry a signature of their own."""

    async def signed(self, path: str, body: bytes) -> dict[str, str]:
        return {"x-signature": f"{path} {len(body)}"}


async def test_every_request_is_signed_by_what_it_is() -> None:
    async with OpenAIServer() as server:
        server.behaviour = Behaviour(events=(b'{"end": true}\n',), headers=NDJSON)
        adapter = bound(server.base_url, {"models_path": "/models"}, adapter=SignedChat)
        await load_only(adapter)
        await collect(adapter, request())
        await adapter.close()
    assert server.lists[0].headers["x-signature"] == "/models 0"
    sent = server.requests[0]
    assert sent.headers["x-signature"] == f"/talk/fake-small {len(sent.raw)}"
    assert sent.headers["content-type"] == "application/json"


PATHS: Final = {"chat_path": "/of/{model}/talk?version={version}", "models_path": "/list?version={version}"}


async def test_a_path_is_filled_with_the_model_and_with_options_and_stays_one_path() -> None:
    async with OpenAIServer() as server:
        adapter = bound(server.base_url, PATHS, options={"version": "1&x=2"})
        await load_only(adapter)
        await collect(adapter, request(model="org/../m?#:1"))
        await adapter.close()
    assert server.lists[0].path == "/v1/list?version=1%26x%3D2"
    assert server.requests[0].path == "/v1/of/org%2F..%2Fm%3F%23:1/talk?version=1%26x%3D2"

"""What a wire may say of itself beyond body and reader: a path, a kind of stream, a list of models.

All else of workers/http_chat.py is held for every adapter by tests/workers/adapters/test_contract.py.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from typing import Any, Final

import pytest

from tests.fakes.bound import bound, collect, finish_of, load_only, refusal, request, text_of
from tests.fakes.http_server import Exchange
from tests.fakes.openai_server import Behaviour, OpenAIServer
from workers import http_chat as module
from workers.adapter import AdapterError, Event, LoadRequest, Request
from workers.answer import Answer
from workers.chat_body import Body, build
from workers.codes import Code
from workers.http_chat import HttpChat, model_names
from workers.quirks import Quirks
from workers.refusals import Who
from workers.sse import Event as Piece
from workers.upstream import Reply

NDJSON: Final = {"Content-Type": "application/x-ndjson"}


class Lines:
    """A line of a stream is a piece."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Piece]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [Piece("message", line) for line in lines if line]

    def close(self) -> Piece | None:
        return Piece("message", self._rest) if self._rest else None


class LinesReply(Answer):
    """`{"say": TEXT}`, then `{"end": true}`."""

    def piece(self, data: bytes) -> list[Event]:
        value = self._object(data)
        if value.get("end"):
            self.reason = "stop"
        return [self._text(value["say"])] if "say" in value else []

    def whole(self, data: bytes) -> list[Event]:
        raise self._not_ours("an answer that is whole")


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


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ([{"id": "a"}, {"id": "b"}], ("a", "b")),
        ({"data": [{"id": "a"}, {"id": "a"}, {"name": "b"}]}, ("a", "b")),
        ({"models": ["a", 7, {}, {"id": 7}, None]}, ("a",)),
        ({"result": [{"name": "a"}]}, ("a",)),
        ({"data": 7}, ()),
        (None, ()),
    ],
)
def test_names_are_read_from_a_list_in_every_shape(listed: Any, names: tuple[str, ...]) -> None:
    assert model_names(listed) == names


async def test_only_so_many_models_are_remembered_for_what_they_refuse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LEARNT_MODELS_MAX", 2)
    async with OpenAIServer() as server:
        adapter = bound(server.base_url)
        await load_only(adapter)
        for model in ("a", "b", "c"):
            server.script = [refusal(400, {"message": "no", "param": "temperature"})]
            await collect(adapter, request(model=model))
        server.requests.clear()
        for model in ("a", "c"):
            await collect(adapter, request(model=model))
        await adapter.close()
    assert ["temperature" in received.body for received in server.requests] == [True, False]


# ---- paths that leave something open, requests that are signed, keys that nothing checks


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


async def test_an_option_that_is_no_text_is_told() -> None:
    async with OpenAIServer() as server:
        adapter = bound(server.base_url, PATHS, options={"version": ["1"]})
        with pytest.raises(AdapterError) as caught:
            await load_only(adapter)
        await adapter.close()
    assert (caught.value.code, caught.value.message) == (
        Code.INVALID_REQUEST,
        "the option version must be a text",
    )


@pytest.mark.parametrize(
    ("quirks", "key", "verify", "told"),
    [
        pytest.param({"models_open": True}, "k", True, True, id="an open list"),
        pytest.param({"models_path": ""}, "k", True, True, id="no list"),
        pytest.param({}, "k", True, False, id="a list that needs the key"),
        pytest.param({"models_open": True}, None, True, False, id="no key"),
        pytest.param({"models_open": True}, "k", False, False, id="no check wanted"),
        pytest.param(
            {"models_open": True, "key_check_path": "/key"}, "k", True, False, id="checked elsewhere"
        ),
    ],
)
async def test_a_key_that_nothing_checked_is_told(
    quirks: dict[str, Any], key: str | None, verify: bool, told: bool
) -> None:
    async with OpenAIServer() as server:
        adapter = bound(server.base_url, quirks, key=key)
        loaded = await load_only(adapter, LoadRequest(verify=verify))
        await adapter.close()
    assert [warning.name for warning in loaded.warnings] == ["KEY_NOT_CHECKED"] * told


async def test_a_provider_that_refuses_the_wish_for_usage_is_not_asked_again() -> None:
    async with OpenAIServer() as server:
        adapter = bound(server.base_url, {"stream_usage": True})
        await load_only(adapter)
        server.script = [refusal(400, {"message": "Unknown parameter: 'stream_options'"})]
        for _ in range(2):
            assert text_of(await collect(adapter, request())) == "Hello there."
        await adapter.close()
    assert ["stream_options" in received.body for received in server.requests] == [True, False, False]


def test_a_temperature_that_is_too_low_is_lifted_and_told() -> None:
    body = build(request(temperature=0.0), Quirks(temperature_min=0.01))
    assert body.fields["temperature"] == 0.01
    assert [warning.name for warning in body.warnings] == ["PARAMETER_CHANGED"]

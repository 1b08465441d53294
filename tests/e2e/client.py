"""A client of the module that records every message, and at its end holds the protocol against the record.

    async with connect(module) as client:
        await client.load("demo")
        reply = await client.say("Hello")

record.py says what is held. Besides, no key came back.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import websockets.exceptions
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket

from tests.e2e.module import Module
from tests.e2e.record import Json, check_record, same_id

__all__ = ["Client", "Reply", "connect", "prompt"]

WAIT_S: Final = 5.0
START_S: Final = 20.0
"""For a load, which may start a process."""
FAST_S: Final = 1.0
"""The patience of the published client."""
LINGER_NONE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER that turns a close into a reset."""


def prompt(text: str) -> list[Json]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


@dataclass(frozen=True)
class Reply:
    """What came for one generation."""

    id: object
    chunks: list[str]
    end: Json

    @property
    def text(self) -> str:
        """The words, however they came."""
        return "".join(self.chunks) if self.chunks else self.end.get("response") or ""

    @property
    def code(self) -> str:
        """How it ended."""
        return str(self.end.get("error_name", "SUCCESS"))


@dataclass
class Client:
    """One connection."""

    module: Module
    socket: ClientConnection
    provider_field: str = "provider"
    received: list[Json] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    sent: list[Json] = field(default_factory=list)
    errors_expected: int = 0
    """How many messages were sent that cannot be attributed, or reuse an open id."""
    leaves_early: bool = False
    """Whether it goes away with requests open, which are then owed nothing."""

    def __post_init__(self) -> None:
        self._ids = itertools.count(1)
        self._news = asyncio.Event()
        self.ended = False
        self.reader = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            async for message in self.socket:
                assert isinstance(message, str), "the module sends text"
                self.texts.append(message)
                self.received.append(json.loads(message))
                self._news.set()
        self.ended = True
        self._news.set()

    # ---- sending

    def new_id(self) -> str:
        """An id that this connection has not used."""
        return f"r{next(self._ids)}"

    async def send(self, request: Mapping[str, Any]) -> None:
        """Sends a request that follows the protocol, or breaks it in a field."""
        self.sent.append(dict(request))
        await self.socket.send(json.dumps(request))

    async def send_raw(self, message: str | bytes, *, meant: Mapping[str, Any] | None = None) -> None:
        """Sends a frame as it is; without `meant` it is expected to be answered with `error`."""
        if meant is None:
            self.errors_expected += 1
        else:
            self.sent.append(dict(meant))
        await self.socket.send(message)

    async def generate(self, text: str = "Hello", *, stream: bool = True, **fields: Any) -> object:
        """Sends a generate; returns its id. `params` and every other field may be given."""
        request = {
            "type": "generate",
            "unique_request_id": self.new_id(),
            "messages": prompt(text),
            "params": {},
            "stream": stream,
            **fields,
        }
        await self.send(request)
        return request["unique_request_id"]

    # ---- waiting

    async def wait(
        self, wanted: Callable[[Json], bool], *, after: int = 0, timeout_s: float = WAIT_S
    ) -> Json:
        """The first message from number `after` on that is wanted."""

        async def find() -> Json:
            checked = after
            while True:
                for message in self.received[checked:]:
                    checked += 1
                    if wanted(message):
                        return message
                assert not self.ended, f"the connection ended; last came {self.texts[-3:]}"
                self._news.clear()
                await self._news.wait()

        try:
            return await asyncio.wait_for(find(), timeout_s)
        except asyncio.TimeoutError:
            raise AssertionError(f"it did not come; last came {self.texts[-3:]}") from None

    async def ask(self, request: Mapping[str, Any], answer: str, *, timeout_s: float = FAST_S) -> Json:
        """Sends a request and waits for the message of type `answer`."""
        after = len(self.received)
        await self.send(request)
        return await self.wait(lambda m: m["type"] == answer, after=after, timeout_s=timeout_s)

    async def load(self, provider: str, *, timeout_s: float = START_S, **fields: Any) -> Json:
        """Loads; returns load_done, whatever it says."""
        request = {"type": "load", self.provider_field: provider, **fields}
        if self.provider_field == "provider":
            request.setdefault("unique_request_id", self.new_id())
        after = len(self.received)
        await self.send(request)
        await self.wait(lambda m: m["type"] == "load_ack", after=after, timeout_s=FAST_S)
        return await self.wait(lambda m: m["type"] == "load_done", after=after, timeout_s=timeout_s)

    async def chunk(self, request_id: object, number: int = 1) -> None:
        """Waits until so many chunks of that request have come."""
        seen = itertools.count(1)
        await self.wait(lambda m: _of(m, request_id) and "chunk" in m and next(seen) >= number)

    async def end(self, request_id: object, *, timeout_s: float = WAIT_S) -> Reply:
        """Waits for the end of that generation."""
        done = ("generate_done", "generate_stream_done")
        end = await self.wait(lambda m: _of(m, request_id) and m["type"] in done, timeout_s=timeout_s)
        return Reply(
            request_id, [m["chunk"] for m in self.received if _of(m, request_id) and "chunk" in m], end
        )

    async def say(self, text: str = "Hello", *, timeout_s: float = WAIT_S, **fields: Any) -> Reply:
        """Generates, and waits for the end."""
        return await self.end(await self.generate(text, **fields), timeout_s=timeout_s)

    async def interrupt(self, target: object = None) -> Json:
        """Interrupts one generation or all; returns the interrupt_ack."""
        request: Json = {"type": "interrupt"}
        if self.provider_field == "provider":
            request["unique_request_id"] = self.new_id()
        if target is not None:
            request["target_request_id"] = target
        return await self.ask(request, "interrupt_ack")

    # ---- ending

    async def leave(self) -> None:
        """Closes the connection with whatever is open."""
        self.leaves_early = True
        await self.socket.close()
        await asyncio.wait_for(asyncio.wait([self.reader]), WAIT_S)

    async def vanish(self) -> None:
        """Resets the connection, as a process does that is killed with data unread."""
        self.leaves_early = True
        sock: socket.socket = self.socket.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
        self.socket.transport.abort()
        await asyncio.wait_for(asyncio.wait([self.reader]), WAIT_S)

    # ---- the record

    def check(self) -> None:
        """Fails where the record breaks the protocol, or holds a key."""
        check_record(self.sent, self.received, errors=self.errors_expected, left_early=self.leaves_early)
        for text in self.texts:
            assert not [key for key in self.module.keys if key in text], f"a key came back in {text[:200]}"


def _of(message: Json, request_id: object) -> bool:
    return same_id(message.get("unique_request_id"), request_id)


@contextlib.asynccontextmanager
async def connect(module: Module, *, seed: bool = False) -> AsyncIterator[Client]:
    """A connection, checked at its end; `seed` makes it speak the seed's dialect."""
    url = f"ws://127.0.0.1:{module.port}"
    async with open_websocket(url, proxy=None, open_timeout=WAIT_S, close_timeout=WAIT_S) as socket_:
        client = Client(module, socket_, "llm" if seed else "provider")
        try:
            yield client
        finally:
            await socket_.close()
            await asyncio.wait_for(asyncio.wait([client.reader]), WAIT_S)
        client.check()

"""A provider that is never the bottleneck: the OpenAI wire on a bare asyncio.Protocol.

    python -m benchmarks.upstream      prints its port, serves on loopback, ends with its stdin

Answers are made beforehand. It speaks what api.openai.com speaks: HTTP/1.1 kept alive, event streams in HTTP
chunks of one event each, a first chunk with the role, a last one with the reason, the usage, [DONE].
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Final, cast

from benchmarks.orders import MODEL, Order, expected_text, read_order, word

__all__ = ["Connection", "main"]

SLICE_BYTES: Final = 64 << 10
"""An unpaced answer is written in slices of this size, as long as the socket takes them."""
BACKLOG: Final = 2048
"""A thousand streams connect at once."""
STAMP_DIGITS: Final = 19
"""Nanoseconds for three centuries: every stamped chunk has the same length."""

_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_STREAM: Final = re.compile(rb'"stream": ?true')
_STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_LAST: Final = b"0\r\n\r\n"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _answer(value: object) -> bytes:
    """A whole HTTP answer."""
    body = _json(value)
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


def _event(data: bytes) -> bytes:
    """An event in an HTTP chunk of its own."""
    return b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data)


def _piece(choices: list[dict[str, Any]], **fields: object) -> bytes:
    head = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1700000000, "model": MODEL}
    return _event(_json({**head, "choices": choices, **fields}))


def _delta(delta: dict[str, str], reason: str | None = None) -> bytes:
    return _piece([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}])


def _usage(order: Order) -> dict[str, int]:
    return {
        "prompt_tokens": 10,
        "completion_tokens": order.chunks,
        "total_tokens": order.chunks + 10,
    }


_FIRST: Final = _STREAM_HEAD + _delta({"role": "assistant", "content": ""})
_BEFORE_STAMP, _AFTER_STAMP = _delta({"content": "0" * STAMP_DIGITS + " "}).split(b"0" * STAMP_DIGITS)
_MODELS: Final = _answer({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "bench"}]})
_NOT_FOUND: Final = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


def _ending(order: Order) -> bytes:
    return _delta({}, "stop") + _piece([], usage=_usage(order)) + _event(b"[DONE]") + _LAST


@functools.lru_cache(maxsize=8)
def _unpaced(order: Order) -> bytes:
    words = b"".join(_delta({"content": word(number)}) for number in range(order.chunks))
    return _FIRST + words + _ending(order)


@functools.lru_cache(maxsize=8)
def _whole(order: Order) -> bytes:
    message = {"role": "assistant", "content": expected_text(order)}
    return _answer(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion",
            "created": 1700000000,
            "model": MODEL,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": _usage(order),
        }
    )


class Connection(asyncio.Protocol):
    """One connection of a client: a request, its answer, the next request."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._slices: Iterator[bytes] = iter(())
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pump()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        length = _LENGTH.search(head)
        if length is not None and len(body) < int(length[1]):
            return
        self._received = b""  # nobody sends the next request before this one's answer
        self._request(head, body)

    def _request(self, head: bytes, body: bytes) -> None:
        order = read_order(body)
        if head.startswith(b"GET ") and b"/models" in head:
            self._write(_MODELS)
        elif order is None:
            self._write(_NOT_FOUND)
        elif _STREAM.search(body) is None:
            self._write(_whole(order))
        elif order.every_us:
            self._write(_FIRST)
            self._tick(order, 0, self._loop.time())
        else:
            answer = _unpaced(order)
            self._slices = (answer[at : at + SLICE_BYTES] for at in range(0, len(answer), SLICE_BYTES))
            self._pump()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _pump(self) -> None:
        while not self._paused and (piece := next(self._slices, b"")):
            self._write(piece)

    def _tick(self, order: Order, number: int, started: float) -> None:
        """Sends one paced chunk, stamped with the moment; the next one's time does not drift."""
        if number == order.chunks:
            self._write(_ending(order))
            return
        self._write(b"%b%019d%b" % (_BEFORE_STAMP, time.perf_counter_ns(), _AFTER_STAMP))
        due = started + (number + 1) * order.every_us / 1e6
        self._timer = self._loop.call_at(due, self._tick, order, number + 1, started)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def wait() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait, daemon=True).start()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=BACKLOG)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await ended.wait()
    server.close()


def main() -> None:
    """Serves until stdin ends."""
    try:
        import uvloop  # not on Windows, and not in the development environment
    except ImportError:
        asyncio.run(_serve())
    else:
        uvloop.run(_serve())


if __name__ == "__main__":
    main()

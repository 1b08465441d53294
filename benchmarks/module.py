"""This module as an application sees it: started, its ready line read, spoken with, ended."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

import psutil
from websockets.asyncio.client import ClientConnection, connect

from benchmarks import processes
from benchmarks.orders import MODEL, TOKENS_MAX, OnChunk, Order
from benchmarks.places import CHECKOUT, Places
from supervisor.launcher import program_argv

__all__ = ["Module", "Socket"]

PROVIDER: Final = "openai"
KEY: Final = "sk-benchmark"
WAIT_S: Final = 60.0
"""For an answer that is not a reply of the model."""


class Module:
    """One running module, whose openai is the upstream."""

    def __init__(self, places: Places, upstream: str, settings: tuple[str, ...] = ()) -> None:
        self._argv = program_argv(places.supervisor, CHECKOUT, places.home)
        self._argv += ["0", "--home", str(places.home.root), "--base-url", f"{PROVIDER}={upstream}"]
        self._argv += [word for setting in settings for word in ("--set", setting)]
        self._stack = contextlib.ExitStack()
        self.ready_ms = 0.0
        """From the spawn to the ready line."""
        self.port = 0

    def start(self) -> None:
        """Starts it and waits for its ready line."""
        began = time.perf_counter()
        self._child = self._stack.enter_context(
            processes.serving(self._argv, variables={"OPENAI_API_KEY": KEY})
        )
        assert self._child.stdout is not None  # noqa: S101  # it was asked for
        watch = threading.Timer(WAIT_S, self._child.kill)
        watch.start()
        line = self._child.stdout.readline()
        self.ready_ms = (time.perf_counter() - began) * 1000
        watch.cancel()
        if not line:
            raise RuntimeError("the module did not start: run `python supervisor 0` to see why")
        self.port = json.loads(line)["port"]

    def processes(self) -> list[psutil.Process]:
        """The supervisor, then its workers."""
        return processes.tree(self._child.pid)

    def stop(self) -> None:
        """Ends it."""
        self._stack.close()


@dataclass(frozen=True, slots=True)
class _Open:
    """A request without its terminal message."""

    on_chunk: OnChunk
    done: asyncio.Future[dict[str, Any]]


class Socket:
    """One WebSocket of an application, with as little around it as keeps replies apart."""

    def __init__(self, websocket: ClientConnection) -> None:
        self._websocket = websocket
        self._ids = map(str, itertools.count(1))
        self._open: dict[str, _Open] = {}
        self._reader = asyncio.get_running_loop().create_task(self._read())

    @classmethod
    async def connected(cls, port: int) -> Socket:
        """A connection to the module on that port."""
        return cls(await connect(f"ws://127.0.0.1:{port}", compression=None, proxy=None))

    async def _read(self) -> None:
        try:
            async for message in self._websocket:
                reply = json.loads(message)
                kind = reply["type"]
                if kind == "generate_stream_chunk":
                    self._open[reply["unique_request_id"]].on_chunk(reply["chunk"])
                elif kind.endswith("_done"):
                    self._open.pop(reply["unique_request_id"]).done.set_result(reply)
                elif kind == "error":
                    raise RuntimeError(f"the module answered {reply}")
        finally:
            for request in self._open.values():
                request.done.set_exception(RuntimeError("the connection to the module ended"))

    async def load(self) -> dict[str, Any]:
        """Loads the provider; returns load_done."""
        return await asyncio.wait_for(self._ask({"type": "load", "provider": PROVIDER}, _ignored), WAIT_S)

    async def generate(self, order: Order, on_chunk: OnChunk | None) -> dict[str, Any]:
        """One reply, streamed if there is somebody who takes its chunks; returns its terminal message.

        The module bounds it, and whoever started this process does.
        """
        request = {
            "type": "generate",
            "messages": [{"role": "user", "content": order.prompt}],
            "params": {"model_id": MODEL, "max_output_length": TOKENS_MAX, "timeout_ms": None},
            "stream": on_chunk is not None,
        }
        return await self._ask(request, on_chunk or _ignored)

    async def _ask(self, request: dict[str, Any], on_chunk: OnChunk) -> dict[str, Any]:
        number = next(self._ids)
        done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._open[number] = _Open(on_chunk, done)
        await self._websocket.send(json.dumps({**request, "unique_request_id": number}))
        reply = await done
        if reply["is_error"]:
            raise RuntimeError(f"a {request['type']} failed: {reply['error_name']}: {reply['message']}")
        return reply

    async def close(self) -> None:
        """Closes the connection."""
        await self._websocket.close()
        await asyncio.wait({self._reader}, timeout=WAIT_S)


def _ignored(_text: str) -> None:
    """For requests that have no chunks."""

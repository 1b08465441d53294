"""What is compared: one class per way from an application to a provider, all asked in the same words.

Every contender runs in a client process of its own, on asyncio's own loop, and does the same for each chunk:
its text is parsed and handed to `on_chunk`. Packages are imported in `start`, because that is measured.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import itertools
import json
import re
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, cast

import psutil

from benchmarks import processes
from benchmarks.module import Module, Socket
from benchmarks.orders import MODEL, TOKENS_MAX, OnChunk, Order
from benchmarks.places import Places

__all__ = ["CONTENDERS", "Contender", "Ours"]

REQUEST_S: Final = 300.0
"""The longest reply of the slowest contender."""
LITELLM_START_S: Final = 120.0
LITELLM_POLL_S: Final = 0.02
KEY: Final = "sk-benchmark"
STREAM_OPTIONS: Final = {"include_usage": True}


class Contender(abc.ABC):
    """One way to a provider. Made, started, used, closed."""

    name: ClassVar[str]
    does: ClassVar[str]
    """What is between the application and the provider, in one sentence."""

    def __init__(self, upstream: str, places: Places) -> None:
        self.upstream = upstream
        self.places = places

    @abc.abstractmethod
    async def start(self) -> None:
        """Gets ready for the first request: imports, processes, connections."""

    @abc.abstractmethod
    async def whole(self, order: Order) -> str:
        """The text of an unstreamed reply."""

    @abc.abstractmethod
    async def stream(self, order: Order, on_chunk: OnChunk) -> None:
        """A streamed reply, to its end."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Ends it."""

    def processes(self) -> list[psutil.Process]:
        """Its processes besides the client's."""
        return []


class Floor(Contender):
    """Bytes straight from the upstream, to show that the upstream and the loop are not the bottleneck."""

    name = "floor"
    does = "a bare asyncio.Protocol that searches the bytes for the words and parses nothing"

    async def start(self) -> None:
        self._idle: list[_RawConnection] = []

    async def whole(self, order: Order) -> str:
        words: list[str] = []
        await self._ask(order, words.append, stream=False)
        return "".join(words)

    async def stream(self, order: Order, on_chunk: OnChunk) -> None:
        await self._ask(order, on_chunk, stream=True)

    async def _ask(self, order: Order, on_chunk: OnChunk, *, stream: bool) -> None:
        connection = self._idle.pop() if self._idle else await self._connected()
        body = json.dumps(_body(order, stream=stream)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        await asyncio.wait_for(connection.ask(head.encode() + body, on_chunk), REQUEST_S)
        self._idle.append(connection)

    async def _connected(self) -> _RawConnection:
        host, _, port = self.upstream.partition("//")[2].partition("/")[0].partition(":")
        _, made = await asyncio.get_running_loop().create_connection(_RawConnection, host, int(port))
        return made

    async def close(self) -> None:
        for connection in self._idle:
            connection.close()


class _RawConnection(asyncio.Protocol):
    """One request at a time; the upstream's answers end in known bytes."""

    _WORD: Final = re.compile(rb'"content":"([^"]+)"')

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._rest = b""

    def ask(self, request: bytes, on_chunk: OnChunk) -> asyncio.Future[None]:
        """Sends a request; done at the end of its answer."""
        self._on_chunk = on_chunk
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._over

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        seen = 0
        for match in self._WORD.finditer(data):
            self._on_chunk(match[1].decode())
            seen = match.end()
        self._rest = data[seen:]
        if data.endswith((b"[DONE]\n\n\r\n0\r\n\r\n", b"}}")):
            self._rest = b""
            self._over.set_result(None)

    def close(self) -> None:
        """Closes the connection."""
        self._transport.close()


class Direct(Contender):
    """The leanest that an application would write itself."""

    name = "aiohttp"
    does = "aiohttp in the application: events split and parsed with json.loads by hand"
    headers: ClassVar[Mapping[str, str]] = {"Authorization": f"Bearer {KEY}"}

    async def start(self) -> None:
        import aiohttp  # its import is measured

        self._url = f"{self.upstream}/chat/completions"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers=self.headers,
            timeout=aiohttp.ClientTimeout(total=REQUEST_S),
        )

    async def whole(self, order: Order) -> str:
        async with self._session.post(self._url, json=_body(order, stream=False)) as response:
            response.raise_for_status()
            answer = json.loads(await response.read())
            return str(answer["choices"][0]["message"]["content"])

    async def stream(self, order: Order, on_chunk: OnChunk) -> None:
        rest = b""
        async with self._session.post(self._url, json=_body(order, stream=True)) as response:
            response.raise_for_status()
            async for data in response.content.iter_any():
                *events, rest = (rest + data).split(b"\n\n")
                for event in events:
                    text = _text_of(event)
                    if text:
                        on_chunk(text)

    async def close(self) -> None:
        await self._session.close()


class OpenAISDK(Contender):
    """The official SDK."""

    name = "openai SDK"
    does = "the official openai package in the application: AsyncOpenAI, without retries"

    async def start(self) -> None:
        import openai  # its import is measured

        self._client = openai.AsyncOpenAI(
            base_url=self.upstream, api_key=KEY, max_retries=0, timeout=REQUEST_S
        )

    async def whole(self, order: Order) -> str:
        answer = await self._client.chat.completions.create(**_body(order, stream=False))
        return str(answer.choices[0].message.content)

    async def stream(self, order: Order, on_chunk: OnChunk) -> None:
        pieces = await self._client.chat.completions.create(**_body(order, stream=True))
        async for piece in pieces:
            if piece.choices and (text := piece.choices[0].delta.content):
                on_chunk(text)

    async def close(self) -> None:
        await self._client.close()


class LiteLLM(Direct):
    """The proxy that people put between applications and providers."""

    name = "LiteLLM proxy"
    does = "litellm[proxy] as a process with one worker, asked with the same aiohttp client as above"

    async def start(self) -> None:
        environment = self.places.litellm
        if environment is None:
            raise RuntimeError("the LiteLLM proxy has no environment")
        port = _free_port()
        self._stack = contextlib.ExitStack()
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="waifu-bench-")))
        config = folder / "config.yaml"
        config.write_text(json.dumps(self._config()), encoding="utf-8")  # JSON is YAML
        argv = [str(environment.python), "-c", "from litellm import run_server; run_server()"]
        argv += ["--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
        variables = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}  # asks no server for it
        log = self.places.home.logs / "litellm.log"
        self._child = self._stack.enter_context(
            processes.serving([*argv, "--num_workers", "1"], log=log, variables=variables)
        )
        drained = asyncio.get_running_loop().run_in_executor(None, self._child.communicate)
        drained.add_done_callback(lambda done: done.exception())
        self.upstream = f"http://127.0.0.1:{port}/v1"
        await super().start()
        await asyncio.wait_for(self._answers(port), LITELLM_START_S)

    def _config(self) -> dict[str, Any]:
        way = {"model": f"openai/{MODEL}", "api_base": self.upstream, "api_key": KEY}
        return {
            "model_list": [{"model_name": MODEL, "litellm_params": way}],
            "general_settings": {"master_key": KEY},
            "litellm_settings": {"num_retries": 0, "request_timeout": REQUEST_S},
        }

    async def _answers(self, port: int) -> None:
        while True:
            with contextlib.suppress(OSError):
                async with self._session.get(f"http://127.0.0.1:{port}/health/liveliness") as response:
                    if response.status == 200:
                        return
            if self._child.poll() is not None:
                raise RuntimeError(f"the LiteLLM proxy ended; see {self.places.home.logs / 'litellm.log'}")
            await asyncio.sleep(LITELLM_POLL_S)

    def processes(self) -> list[psutil.Process]:
        return processes.tree(self._child.pid)

    async def close(self) -> None:
        await super().close()
        self._stack.close()


class Ours(Contender):
    """This module: supervisor, worker, and an application's WebSocket."""

    name = "this module"
    does = (
        "the supervisor and its worker as processes, asked over one WebSocket by the websockets package's "
        "asyncio client, without compression; messages parsed with json.loads"
    )
    settings: tuple[str, ...] = ()
    """`--set` flags."""
    sockets = 1

    async def start(self) -> None:
        self.module = Module(self.places, self.upstream, self.settings)
        self.module.start()
        self._clients = [await Socket.connected(self.module.port) for _ in range(self.sockets)]
        self._turns = itertools.cycle(self._clients)
        for client in self._clients:
            await client.load()

    async def whole(self, order: Order) -> str:
        done = await next(self._turns).generate(order, None)
        return str(done["response"])

    async def stream(self, order: Order, on_chunk: OnChunk) -> None:
        await next(self._turns).generate(order, on_chunk)

    def processes(self) -> list[psutil.Process]:
        return self.module.processes()

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        self.module.stop()


CONTENDERS: Final[dict[str, type[Contender]]] = {
    "floor": Floor,
    "aiohttp": Direct,
    "openai": OpenAISDK,
    "litellm": LiteLLM,
    "ours": Ours,
}


def _body(order: Order, *, stream: bool) -> dict[str, Any]:
    """The request, as all but the module's client make it."""
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": order.prompt}],
        "max_tokens": TOKENS_MAX,
        "temperature": 1.0,
    }
    return {**body, "stream": True, "stream_options": STREAM_OPTIONS} if stream else body


def _text_of(event: bytes) -> str:
    """What an event of the OpenAI wire says."""
    data = event.removeprefix(b"data: ")
    if not data or data == b"[DONE]":
        return ""
    choices = json.loads(data)["choices"]
    return str(choices[0]["delta"].get("content") or "") if choices else ""


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])

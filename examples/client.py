"""A small client of the module: load, generate, stream, interrupt, each as one call.

    python examples/client.py ws://127.0.0.1:7562 [PROVIDER]

It needs the package websockets and nothing else, so copy it into your application and change it. One task
reads the connection and hands every message to the request whose id it carries; that is all there is to it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

__all__ = ["Client", "LLMError", "connected"]

Message: TypeAlias = "dict[str, Any]"

CHUNK: Final = "generate_stream_chunk"
GONE: Final[Message] = {
    "type": "error",
    "is_error": True,
    "error_name": "GONE",
    "message": "The module closed the connection.",
}
"""What open requests are told when there is no connection any more; the name is ours, not the module's."""


class LLMError(Exception):
    """A request failed; `name` is the module's name for why, and `retryable` whether to try again later."""

    def __init__(self, reply: Message) -> None:
        super().__init__(reply["message"])
        self.name: str = reply["error_name"]
        self.retryable: bool = reply.get("retryable", False)


class Client:
    """One connection. Requests may run at the same time."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)
        self._open: dict[str, asyncio.Queue[Message]] = {}

    async def load(self, provider: str, **fields: Any) -> Message:
        """Makes a provider ready; `fields` are those of the protocol: api_key, preload_model_id, …

        Raises:
            LLMError: it cannot be loaded; the message says what to do.
        """
        return await self._ask("load", provider=provider, **fields)

    async def generate(self, messages: Sequence[Message], **params: Any) -> str:
        """The whole reply.

        Raises:
            LLMError: there is none.
        """
        done = await self._ask("generate", messages=list(messages), params=params, stream=False)
        return str(done["response"])

    async def stream(self, messages: Sequence[Message], **params: Any) -> AsyncIterator[str]:
        """The reply in pieces, as they come. Leaving early does not end it: send `interrupt`.

        Raises:
            LLMError: it ended early; the pieces so far stay what they are.
        """
        async for reply in self._replies("generate", messages=list(messages), params=params, stream=True):
            if reply["type"] == CHUNK:
                yield reply["chunk"]

    async def interrupt(self) -> None:
        """Ends all generations of this connection; each of them fails with INTERRUPT."""
        await self._ask("interrupt")

    async def _ask(self, kind: str, **fields: Any) -> Message:
        """Sends a request and waits for its terminal message."""
        last: Message = {}
        async for reply in self._replies(kind, **fields):
            last = reply
        return last

    async def _replies(self, kind: str, **fields: Any) -> AsyncIterator[Message]:
        """Everything that a request is answered with, its acknowledgement excepted."""
        identifier = f"{kind}-{next(self._ids)}"
        inbox = self._open[identifier] = asyncio.Queue()
        try:
            await self._connection.send(json.dumps({"type": kind, "unique_request_id": identifier, **fields}))
            while True:
                reply = await inbox.get()
                if reply.get("is_error"):
                    raise LLMError(reply)
                if kind == "interrupt" or not reply["type"].endswith("_ack"):
                    yield reply
                if reply["type"].endswith("_done") or kind == "interrupt":
                    return
        finally:
            del self._open[identifier]

    async def read(self) -> None:
        """Hands each message to its request, until the connection ends; then tells those that still wait."""
        try:
            async for text in self._connection:
                message = json.loads(text)
                inbox = self._open.get(message.get("unique_request_id"))
                if inbox is not None:
                    inbox.put_nowait(message)
        except ConnectionClosed:
            pass  # not the usual goodbye, and an end all the same
        for inbox in self._open.values():
            inbox.put_nowait(GONE)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """A client for the body of an `async with`."""
    async with connect(url, max_size=None, proxy=None) as connection:
        client = Client(connection)
        reader = asyncio.create_task(client.read())
        try:
            yield client
        finally:
            await connection.close()
            await reader


async def main(url: str, provider: str) -> None:
    """Every call once."""
    async with connected(url) as client:
        loaded = await client.load(provider)
        print(f"{provider}: {loaded['models_count']} models")

        print("generate:", await client.generate([{"role": "user", "content": "Hello!"}]))

        print("stream:  ", end=" ")
        async for chunk in client.stream([{"role": "user", "content": "Tell me a joke."}]):
            print(chunk, end="", flush=True)
        print()

        print("interrupt:", end=" ")
        words = 0
        try:
            async for chunk in client.stream([{"role": "user", "content": "Tell me a story."}]):
                print(chunk, end="", flush=True)
                words += 1
                if words == 5:
                    await client.interrupt()
        except LLMError as exc:
            print(f"[{exc.name}]")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1], *sys.argv[2:] or ["demo"]))

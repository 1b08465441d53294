"""An adapter where it lives: in the real host, on real pipes, before a fake server that speaks its wire.

    async with serving(wire) as served:
        served.server.behaviour = Behaviour(texts=("Hel", "lo"))
        outcome = await served.ask()
        outcome.text, outcome.code, outcome.body    # what the supervisor would have got

Whatever a test looks at, of every request it is held that nothing follows its Done, and that no part of the
key is in any frame, address or body.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.bound import CANARY
from tests.fakes.http_server import FakeServer
from tests.fakes.wire import Wire
from tests.workers.host_rig import Rig, body_of, running
from workers import wire as frames
from workers.adapter import ProviderSpec
from workers.codes import Code

__all__ = ["Outcome", "Served", "serving"]

NAME = "Fake"
VARIABLE = "FAKE_API_KEY"


@dataclass
class Outcome:
    """What came up of one request."""

    chunks: list[str] = field(default_factory=list)
    calls: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    """Calls of tools as far as they came: ids, names and arguments."""
    alive: int = 0
    """How many frames said that it goes on."""
    done: frames.Done | None = None

    @property
    def text(self) -> str:
        """All that a client would have seen."""
        return "".join(self.chunks)

    @property
    def code(self) -> Code:
        """How it ended."""
        assert self.done is not None
        return Code(self.done.code)

    @property
    def message(self) -> str:
        """The sentence of a failure."""
        assert self.done is not None
        return self.done.message

    @property
    def body(self) -> dict[str, Any]:
        """The rest of the end: `finish_reason`, `usage`, `warnings`, …"""
        assert self.done is not None
        return body_of(self.done)

    @property
    def warnings(self) -> list[str]:
        """The names of its warnings."""
        return [name for name, _ in self.body["warnings"]]


class Served:
    """One binding of the adapter; made by `serving`."""

    def __init__(self, wire: Wire, server: FakeServer, rig: Rig) -> None:
        self.wire = wire
        self.server = server
        self._rig = rig
        self._outcomes: dict[int, Outcome] = defaultdict(Outcome)
        self._started = 0

    async def load(self, **changes: Any) -> frames.Bound:
        """Binds anew, with the key and the server's address unless told otherwise."""
        given = {
            "key": self.wire.credential(CANARY),
            "base_url": self.server.base_url,
            "options": dict(self.wire.options),
            **changes,
        }
        bound = await self._rig.bind(**given)
        _clean(bound)
        return bound

    def start(self, text: str = "Hello", **changes: Any) -> int:
        """Starts a generation; returns its id."""
        self._started += 1
        self._rig.generate(self._started, text, **{"model": self.wire.names[0], **changes})
        return self._started

    async def ask(self, text: str = "Hello", **changes: Any) -> Outcome:
        """One generation from its start to its end."""
        return await self.outcome(self.start(text, **changes))

    async def outcome(self, request: int) -> Outcome:
        """Waits for the end of a generation."""
        while self._outcomes[request].done is None:
            await self._next()
        return self._outcomes[request]

    async def chunk(self, request: int, count: int = 1) -> Outcome:
        """Waits for so many chunks of a generation."""
        while len(self._outcomes[request].chunks) < count:
            await self._next()
        return self._outcomes[request]

    async def called(self, request: int, *arguments: str) -> Outcome:
        """Waits until the calls of a generation have come so far."""
        while [call[2] for call in self._outcomes[request].calls.values()] != list(arguments):
            await self._next()
        return self._outcomes[request]

    def cancel(self, request: int) -> None:
        """What an interrupt is to a worker."""
        self._rig.send(frames.Cancel(request))

    async def quiet(self) -> None:
        """Nothing more comes up."""
        await self._rig.nothing_more()

    async def _next(self) -> None:
        frame = await self._rig.receive()
        _clean(frame)
        outcome = self._outcomes[frame.request]
        assert outcome.done is None, f"{frame} after the end"
        if isinstance(frame, frames.Chunk):
            outcome.chunks.append(frame.text)
            self._rig.send(frames.Credit(frame.request, len(frame.text)))
        elif isinstance(frame, frames.CallPart):
            said = outcome.calls.get(frame.index, ("", "", ""))[2] + frame.arguments
            outcome.calls[frame.index] = (frame.id, frame.name, said)
            self._rig.send(frames.Credit(frame.request, len(frame.arguments)))
        elif isinstance(frame, frames.Alive):
            outcome.alive += 1
        else:
            assert isinstance(frame, frames.Done)
            outcome.done = frame

    def check(self) -> None:
        """The key was in the headers alone of what the server received, or in what buys a token."""
        seen = self.server
        assert not any(_shows_key(received.path) for received in seen.tokens)
        for received in (*seen.requests, *seen.lists, *seen.follows, *seen.cancels):
            assert not _shows_key(received.path)
            assert not _shows_key(received.raw.decode("utf-8", "replace"))


@asynccontextmanager
async def serving(wire: Wire, *, load: bool = True, **quirks: Any) -> AsyncIterator[Served]:
    """A server, a host and a binding, loaded unless `load` is false."""
    async with wire.beside(), FakeServer(wire) as server:
        spec = ProviderSpec(
            wire.name.replace("_", "-"), NAME, key_variables=(VARIABLE,), quirks={**wire.quirks, **quirks}
        )
        async with running(wire.adapter, spec) as rig:
            served = Served(wire, server, rig)
            if load:
                bound = await served.load()
                assert bound.code == 0, bound.message
            yield served
            await served.quiet()
        served.check()


def _clean(frame: object) -> None:
    body = getattr(frame, "body", b"")
    assert not _shows_key(f"{frame!r}{body!r}"), "a part of the key"


def _shows_key(text: str) -> bool:
    return any(part in text for part in (CANARY, CANARY[:8], CANARY[-8:]))

"""Where a row plays: an engine in the real module, its models, and clients that load and talk."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tests.e2e.client import Client, Reply, connect
from tests.e2e.engines.engine import Engine
from tests.e2e.module import Installation, Module
from tests.e2e.record import Json

__all__ = ["LONG", "SAME_WORDS", "Stage", "Talk"]

OPTIONS: Final[dict[str, Any]] = {"threads": 1}
"""One thread, since the machine that tests is not idle."""
SAME_WORDS: Final[dict[str, Any]] = {"max_output_length": 40, "seed": 3}
LONG: Final[dict[str, Any]] = {"max_output_length": 7000, "extra": {"ignore_eos": True}}
"""Some seconds of talk, so that whatever happens to it happens in its middle."""


@dataclass
class Talk:
    """One client of an engine."""

    client: Client
    engine: Engine

    async def load(self, model: str = "tiny", *, progress: bool = False, **options: Any) -> Json:
        """Loads; returns load_done, whatever it says. An empty name names none."""
        fields: dict[str, Any] = {"preload_model_id": model} if model else {}
        return await self.client.load(
            self.engine.provider,
            options={**OPTIONS, **self.engine.options, **options},
            timeout_s=self.engine.load_s,
            **fields,
            **({"progress": True} if progress else {}),
        )

    async def loaded(self, model: str = "tiny", **options: Any) -> Json:
        """Loads what can be loaded."""
        done = await self.load(model, **options)
        assert done["is_error"] is False, done
        return done

    async def told(self, model: str, **options: Any) -> list[str]:
        """The news that a load gives of its model."""
        after = len(self.client.received)
        await self.loaded(model, progress=True, **options)
        news = self.client.received[after:]
        return [m["message"] for m in news if m["type"] == "load_progress" and m["phase"] == "model"]

    async def say(self, text: str = "Hello", **params: Any) -> Reply:
        """One streamed reply."""
        return await self.end(await self.client.generate(text, params=params))

    async def answer(self, *messages: Json, stream: bool = True, **params: Any) -> Reply:
        """The reply to a conversation."""
        return await self.end(
            await self.client.generate(messages=list(messages), params=params, stream=stream)
        )

    async def begin(self, text: str = "Hello", **params: Any) -> object:
        """A long reply, of which something has come."""
        request = await self.client.generate(text, params={**LONG, **params})
        await self.client.chunk(request)
        return request

    async def interrupted(self, request: object) -> Reply:
        """The end of a reply that is interrupted now."""
        await self.client.interrupt(request)
        reply = await self.end(request)
        assert reply.code == "INTERRUPT"
        return reply

    async def end(self, request: object) -> Reply:
        """The end of a reply, however it comes."""
        return await self.client.end(request, timeout_s=self.engine.load_s)

    async def works(self) -> str:
        """Fails unless the model answers as it always does; returns what it says."""
        reply = await self.say(**SAME_WORDS)
        assert reply.code == "SUCCESS", reply.end
        return reply.text


@dataclass(frozen=True)
class Stage:
    """A module in which the engine is."""

    engine: Engine
    place: Installation
    models: Path
    module: Module

    @contextlib.asynccontextmanager
    async def talk(self, model: str = "", *, seed: bool = False, **options: Any) -> AsyncIterator[Talk]:
        """A connection, checked at its end, which has loaded that model; an empty name: which has not."""
        async with connect(self.module, seed=seed) as client:
            talk = Talk(client, self.engine)
            if model:
                await talk.loaded(model, **options)
            yield talk

    async def said_by(self, model: str, options: dict[str, Any] | None = None, **params: Any) -> Reply:
        """One reply of a model."""
        async with self.talk(model, **(options or {})) as talk:
            return await talk.say(**params)

    @contextlib.contextmanager
    def another(self, cache: Path | None = None, **quirks: Any) -> Iterator[Stage]:
        """A second module in the same HOME, whose operator wants something else of the engine."""
        tables = self.place.home / "venvs.local.toml"
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in quirks.items()]
        tables.write_text("".join((f"[provider.{self.engine.provider}.quirks]\n", *lines)), encoding="utf-8")
        cache = cache or self.place.home / "no hub"
        try:
            with Module(self.place, variables={"HF_HUB_CACHE": str(cache)}) as module:
                yield replace(self, module=module)
        finally:
            tables.unlink()

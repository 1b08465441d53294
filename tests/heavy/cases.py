"""What only an engine's own process can show, whichever engine of tokens it is: faults made on purpose,
and what many loads leave. inside.py and inside_openvino.py run it in the engines' environments.

pytest is not in these, so what does not hold is an AssertionError.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import psutil

from workers import torch_replies
from workers.adapter import AdapterError, Event, Finish, Message, Request, Text
from workers.codes import Code
from workers.hf_library import torch
from workers.token_adapter import TokenAdapter
from workers.torch_choice import chosen

__all__ = ["NO_MEMORY", "Cases", "request", "said", "text_of"]

CYCLES: Final = 40
WARM_CYCLES: Final = 10
"""Until then the allocator is still taking what it will keep."""
GROWTH_MAX_BYTES: Final = 24 << 20
"""Less than the contexts of two models would leave behind."""
NO_MEMORY: Final = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    MemoryError(),
)


def request(**fields: Any) -> Request:
    values: dict[str, Any] = {
        "id": 1,
        "messages": (Message("user", "Hello"),),
        "model": "",
        "stream": True,
        "timeout_s": 60.0,
        "max_output_length": 40,
        "sampling": {"seed": 3},
    }
    return Request(**{**values, **fields})


async def said(adapter: TokenAdapter[Any, Any], **fields: Any) -> list[Event]:
    return [event async for event in adapter.generate(request(**fields))]


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


class Fault:
    """Lets some tokens be chosen, then raises."""

    def __init__(self, error: Exception, after: int) -> None:
        self._error = error
        self._left = after

    def __call__(self, *arguments: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise self._error
        return chosen(*arguments)


class Cases:
    """Of one engine."""

    def __init__(
        self, load: Callable[[Path], Awaitable[TokenAdapter[Any, Any]]], rooms: Sequence[ModuleType]
    ) -> None:
        """`rooms` are those in which tokens are chosen."""
        self._load = load
        self._rooms = (torch_replies, *rooms)

    def broken(self, model: Path, error: Exception, code: Code) -> None:
        """All open replies end with that code, and the next one is as if nothing had been."""
        asyncio.run(self._broken(model, error, code))

    async def _broken(self, model: Path, error: Exception, code: Code) -> None:
        adapter = await self._load(model)
        before = text_of(await said(adapter))
        engine = adapter.resident._held[0].model
        self._choose_with(Fault(error, after=20))
        replies = await asyncio.gather(*(said(adapter, id=i) for i in range(2)), return_exceptions=True)
        self._choose_with(chosen)
        codes = [reply.code for reply in replies if isinstance(reply, AdapterError)]
        assert code in codes, replies
        assert len(codes) == 2 or engine.places == 1, replies
        assert text_of(await said(adapter)) == before
        assert adapter.resident._held[0].model is not engine, "it was loaded anew"
        await adapter.close()
        assert not adapter.resident.busy

    def _choose_with(self, function: Callable[..., Any]) -> None:
        for room in self._rooms:
            setattr(room, "chosen", function)  # noqa: B010  # in place of a function

    def cycles(self, model: Path) -> None:
        """Loads and unloads leave nothing."""
        sizes = []
        for _ in range(CYCLES):
            asyncio.run(self._cycle(model))
            gc.collect()
            sizes.append(psutil.Process().memory_info().rss)
            assert threading.active_count() == 1, threading.enumerate()
        growth = sizes[-1] - sizes[WARM_CYCLES]
        sys.stdout.write(f"{[size >> 20 for size in sizes]} MiB\n")
        assert growth < GROWTH_MAX_BYTES, growth

    async def _cycle(self, model: Path) -> None:
        adapter = await self._load(model)
        events = await said(adapter, max_output_length=2)
        assert isinstance(events[-1], Finish)
        await adapter.close()

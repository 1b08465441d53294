"""The client process of one contender: measures it and prints its figures as one line of JSON.

    python -m benchmarks.drive figures|crowd|life CONTENDER UPSTREAM_URL HOME EFFORT

Each contender gets a fresh process in every round, so that none pays for another's imports and garbage.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from benchmarks import places
from benchmarks.contenders import CONTENDERS, Contender, Ours
from benchmarks.figures import Crowd, Life
from benchmarks.measures import CROWD_EVERY_US, CROWD_WITHIN_S, crowd, measure, some_requests
from benchmarks.module import Module, Socket
from benchmarks.orders import Effort, Order
from benchmarks.processes import memory_of, raise_file_limit

__all__ = ["CROWD_SETTINGS", "main"]

CROWD_SETTINGS: Final = ("worker.requests=1024", "requests.generations=128")
"""A thousand streams are more than the module's defaults admit."""
STREAMS_PER_SOCKET: Final = 100


async def life(upstream: str, at: places.Places, effort: Effort) -> Life:
    """Starts the module many times, loads a provider some times, and weighs what runs then."""
    ready_ms = []
    for _ in range(effort.starts):
        module = Module(at, upstream)
        module.start()
        ready_ms.append(module.ready_ms)
        module.stop()
    load_ms = [await _load_ms(at, upstream) for _ in range(effort.loads)]
    ours = Ours(upstream, at)
    await ours.start()
    try:
        await some_requests(ours)
        supervisor, *workers = ours.processes()
        heavy, light = memory_of([supervisor]), memory_of(workers)
    finally:
        await ours.close()
    return Life(
        tuple(ready_ms), tuple(load_ms), heavy.mb, light.mb, heavy.proportional and light.proportional
    )


async def _load_ms(at: places.Places, upstream: str) -> float:
    """From `load` to `load_done`, in a module that has loaded nothing yet."""
    module = Module(at, upstream)
    module.start()
    try:
        socket = await Socket.connected(module.port)
        began = time.perf_counter()
        await socket.load()
        spent_ms = (time.perf_counter() - began) * 1000
        await socket.close()
    finally:
        module.stop()
    return spent_ms


async def crowds(contender: Contender, effort: Effort) -> list[Crowd]:
    """Ever more streams at once."""
    if isinstance(contender, Ours):
        contender.settings = CROWD_SETTINGS
        contender.sockets = max(1, max(effort.crowds) // STREAMS_PER_SOCKET)
    await contender.start()
    try:
        await some_requests(contender)
        order = Order(effort.crowd_chunks, CROWD_EVERY_US)
        return [await crowd(contender, streams, order, within_s=CROWD_WITHIN_S) for streams in effort.crowds]
    finally:
        await contender.close()


async def _measured(argv: Sequence[str]) -> Any:
    what, name, upstream, home, effort_json = argv
    effort = Effort.from_json(effort_json)
    at = places.found(home)
    if what == "life":
        return dataclasses.asdict(await life(upstream, at, effort))
    contender = CONTENDERS[name](upstream, at)
    if what == "crowd":
        return [dataclasses.asdict(one) for one in await crowds(contender, effort)]
    return dataclasses.asdict(await measure(contender, effort))


def main() -> None:
    """Measures what the command line says."""
    raise_file_limit()
    sys.stdout.write(json.dumps(asyncio.run(_measured(sys.argv[1:]))) + "\n")


if __name__ == "__main__":
    main()

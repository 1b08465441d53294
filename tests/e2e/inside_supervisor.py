"""A whole supervisor in a Python that looks at its own objects: what is left of loads that are over?

    python inside_supervisor.py CHECKOUT HOME PROVIDER MODEL CYCLES

Prints the kinds of objects of which there are more after the second half of the cycles than before it, with
how many more, and how many more tasks there are. The client is in the same Python, so nothing of it may stay
either.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

CHECKOUT: Final = Path(sys.argv[1])
sys.path.insert(0, str(CHECKOUT))

from websockets.asyncio.client import connect  # noqa: E402  # as all below: the checkout is on the path only now

from supervisor.app import App  # noqa: E402
from supervisor.catalog import load_catalog  # noqa: E402
from supervisor.config import load_settings  # noqa: E402
from supervisor.logs import start_logging  # noqa: E402

WAIT_S: Final = 20.0
SETTLE_S: Final = 0.5
"""For what ends by itself after a cycle: a worker's process takes a tenth of that."""
OPTIONS: Final = {"threads": 1, "context_length": 512}


def main() -> None:
    """Runs it and prints."""
    home, provider, model, count, *flags = sys.argv[2:]
    settings = load_settings(["0", "--home", home, *flags], os.environ, CHECKOUT)
    catalog = load_catalog(CHECKOUT / "venvs.toml", settings.home.local_catalog)
    logs = start_logging(settings.home.logs, level="WARNING", json_lines=False)

    async def measured() -> dict[str, Any]:
        return await _measured(App(settings, catalog, logs), provider, model, int(count))

    sys.stdout.write(json.dumps(asyncio.run(measured())))
    logs.stop()


async def _measured(app: App, provider: str, model: str, count: int) -> dict[str, Any]:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    running = asyncio.ensure_future(app.run(lambda host, number: port.set_result(number)))
    await asyncio.wait({port, running}, timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
    url = f"ws://127.0.0.1:{port.result()}"
    for _ in range(count // 2):
        await _cycle(url, provider, model)
    before, tasks = await _settled(), len(asyncio.all_tasks())
    for _ in range(count - count // 2):
        await _cycle(url, provider, model)
    after = await _settled()
    more = {kind: after[kind] - before[kind] for kind in after if after[kind] > before[kind]}
    tasks = len(asyncio.all_tasks()) - tasks
    app.close()
    await asyncio.wait_for(running, WAIT_S)
    return {"more": more, "tasks": tasks}


async def _cycle(url: str, provider: str, model: str) -> None:
    """A connection loads, says something, and leaves."""
    async with connect(url, proxy=None) as socket:
        load = {"type": "load", "provider": provider, "preload_model_id": model, "options": OPTIONS}
        await socket.send(json.dumps(load))
        await _until(socket, "load_done")
        generate = {
            "type": "generate",
            "unique_request_id": "g",
            "messages": [{"role": "user", "content": "Hello"}],
            "params": {"max_output_length": 1},
            "stream": True,
        }
        await socket.send(json.dumps(generate))
        await _until(socket, "generate_stream_done")


async def _until(socket: Any, kind: str) -> None:
    while True:
        message = json.loads(await asyncio.wait_for(socket.recv(), WAIT_S))
        if message["type"] == kind:
            if message["is_error"]:
                raise SystemExit(message["message"])
            return


async def _settled() -> Counter[str]:
    """The objects there are, by their kind, when what is on its way out has gone."""
    await asyncio.sleep(SETTLE_S)  # of several ends nobody tells this side
    _forget_cancelled_timers(asyncio.get_running_loop())
    gc.collect()
    return Counter(f"{type(thing).__module__}.{type(thing).__qualname__}" for thing in gc.get_objects())


def _forget_cancelled_timers(loop: Any) -> None:
    """asyncio keeps up to a hundred timers that were cancelled until their time has come."""
    loop._scheduled[:] = [timer for timer in loop._scheduled if not timer.cancelled()]
    heapq.heapify(loop._scheduled)
    loop._timer_cancelled_count = 0


if __name__ == "__main__":
    main()

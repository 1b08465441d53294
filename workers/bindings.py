"""Bindings of a worker: one adapter for each client connection that loaded the provider.

1. Every Bind gets exactly one Bound, sent by the callback that the loop calls once when the load is over.
2. A Bind of an existing binding loads a new adapter first; the old one serves its requests to their end.
   If the load fails, the old one stays. Binds of one binding take effect in order.
3. An adapter is closed once, when it is retired and serves nothing any more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

from workers import bodies, wire
from workers.adapter import Adapter, AdapterError, Loaded, ProviderSpec, ReportProgress
from workers.codes import Code
from workers.endings import INTERRUPTED, Ending, guarded
from workers.logs import hide_secrets

__all__ = ["Bindings", "Serving"]

PROGRESS_EVERY_S: Final = 0.1
"""At most ten Progress frames a second of one load."""
CANCEL_MAX_S: Final = 1.0
"""How long a shutdown waits for cancelled loads."""
CLOSE_MAX_S: Final = 1.5
"""How long one adapter may take to close; then it is left to the end of the process."""
CLOSE_GRACE_S: Final = 0.5
"""Beyond that bound, for one that does not heed its cancellation either."""

_LOG = logging.getLogger(__name__)
_Load: TypeAlias = "asyncio.Task[tuple[Adapter, Loaded] | Ending]"


@dataclass(eq=False, slots=True)
class Serving:
    """A loaded adapter, and how many requests it serves."""

    adapter: Adapter
    open: int = 0
    retired: bool = False


class Bindings:
    """Loads, keeps and closes adapters; belongs to the loop."""

    def __init__(self, adapter: type[Adapter], provider: ProviderSpec, send: Callable[[bytes], None]) -> None:
        self._adapter = adapter
        self._provider = provider
        self._send = send
        self._serving: dict[int, Serving] = {}
        self._loads: dict[_Load, int] = {}
        self._unwanted: set[_Load] = set()
        self._closing: set[asyncio.Task[Any]] = set()

    def bind(self, bind: wire.Bind) -> None:
        """Begins to load an adapter; its Bound follows."""
        earlier = {task for task, binding in self._loads.items() if binding == bind.binding}
        work = guarded(f"load of binding {bind.binding}", partial(self._load, bind, earlier))
        task = asyncio.get_running_loop().create_task(work)
        self._loads[task] = bind.binding
        task.add_done_callback(self._loaded)

    def unbind(self, binding: int) -> None:
        """Stops its loads and retires its adapter; the caller ends its requests."""
        for task in [task for task, of in self._loads.items() if of == binding]:
            self._unwanted.add(task)
            task.cancel()
        self._retire(self._serving.pop(binding, None))

    def lease(self, binding: int) -> Serving | None:
        """The binding's adapter for one more request, to be given back by `release`."""
        serving = self._serving.get(binding)
        if serving is not None:
            serving.open += 1
        return serving

    def release(self, serving: Serving) -> None:
        """A request of this adapter has ended."""
        serving.open -= 1
        if serving.retired and not serving.open:
            self._close(serving.adapter)

    async def close(self) -> None:
        """Unbinds everything and waits, within bounds, until all adapters are closed."""
        for binding in {*self._serving, *self._loads.values()}:
            self.unbind(binding)
        if self._loads:
            await asyncio.wait(set(self._loads), timeout=CANCEL_MAX_S)
        if self._closing:
            await asyncio.wait(set(self._closing), timeout=CLOSE_MAX_S + CLOSE_GRACE_S)

    async def _load(self, bind: wire.Bind, earlier: set[_Load]) -> tuple[Adapter, Loaded]:
        if earlier:  # each of them is bounded like this one: by its adapter, and by Unbind
            await asyncio.wait(earlier)
        binding, request = bodies.read_bind(bind)
        hide_secrets(binding)
        adapter = self._adapter(self._provider, binding)
        adapter.tell_of_models(self._tell_of_model)
        task = asyncio.current_task()
        try:
            loaded = await adapter.load(request, self._reporter(task, bind.binding))
        except BaseException:
            self._close(adapter)  # a load that fails or is cancelled may have opened something
            raise
        return adapter, loaded

    def _tell_of_model(self, event: str, model: str) -> None:
        self._send(bodies.model_frame(event, model))

    def _loaded(self, task: _Load) -> None:
        binding = self._loads.pop(task)
        unwanted = task in self._unwanted
        self._unwanted.discard(task)
        outcome = INTERRUPTED if task.cancelled() else task.result()
        if isinstance(outcome, Ending):
            self._send(bodies.bound_frame(binding, outcome))
            return
        adapter, loaded = outcome
        if unwanted:  # it was ready in the moment of its Unbind
            self._close(adapter)
            self._send(bodies.bound_frame(binding, INTERRUPTED))
            return
        self._retire(self._serving.get(binding))
        self._serving[binding] = Serving(adapter)
        self._send(bodies.bound_frame(binding, loaded))

    def _reporter(self, task: asyncio.Task[Any] | None, binding: int) -> ReportProgress:
        """What an adapter calls while it loads, from the loop or from a thread that loads a model."""
        loop = asyncio.get_running_loop()
        reported_at = float("-inf")

        def report(phase: str, message: str, fraction: float | None) -> None:
            nonlocal reported_at
            now = time.monotonic()
            if now - reported_at >= PROGRESS_EVERY_S:
                reported_at = now
                frame = bodies.progress_frame(binding, phase, message, fraction)
                loop.call_soon_threadsafe(send, frame)

        def send(frame: bytes) -> None:
            if task in self._loads:  # nothing follows the Bound
                self._send(frame)

        return report

    def _retire(self, serving: Serving | None) -> None:
        if serving is not None:
            serving.retired = True
            if not serving.open:
                self._close(serving.adapter)

    def _close(self, adapter: Adapter) -> None:
        task = asyncio.get_running_loop().create_task(self._closed(adapter))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _closed(self, adapter: Adapter) -> None:
        ending = await guarded("close of an adapter", partial(_close_in_time, adapter))
        if isinstance(ending, Ending) and ending.code is not Code.UNEXPECTED:  # that one is logged already
            _LOG.warning("an adapter did not close: %s", ending.message)


async def _close_in_time(adapter: Adapter) -> None:
    try:
        await asyncio.wait_for(adapter.close(), CLOSE_MAX_S)
    except asyncio.TimeoutError as exc:
        raise AdapterError(Code.TIMEOUT, f"It took longer than {CLOSE_MAX_S} s.") from exc

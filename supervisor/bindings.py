"""The credentials that one worker holds: a binding is what one client connection brought with its load.

Only here does a key go onto the wire. Nothing of one binding serves another; a worker that is started again
knows none, and pool.py gives them anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from supervisor.errors import Failure, ProviderError, WorkerError
from supervisor.inflight import code_of, notes_of
from supervisor.replies import WarningNote
from workers import wire
from workers.codes import Code

__all__ = ["Binding", "Bindings", "BoundResult", "Said"]


@dataclass(frozen=True, slots=True)
class Said:
    """What a client itself has said about a provider so far, in all its loads."""

    api_key: str | None = field(default=None, repr=False)
    base_url: str | None = None
    options: Mapping[str, object] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Binding:
    """What one client connection loads a provider with: what it said, and what the operator set besides."""

    id: int
    key: str | None = field(default=None, repr=False)
    base_url: str | None = None
    options: Mapping[str, object] = field(default_factory=dict, repr=False)
    said: Said = field(default_factory=Said, repr=False)
    keep_alive_s: float | None = None
    """How long an engine's worker stays after it was used last: infinity pins it, None leaves it to who is
    connected."""


@dataclass(frozen=True, slots=True)
class BoundResult:
    """What a successful bind learned."""

    models: tuple[str, ...]
    warnings: tuple[WarningNote, ...]
    connect_ms: int | None
    model_ms: int | None


class _BoundBody(msgspec.Struct, frozen=True):
    models: tuple[str, ...] = ()
    warnings: tuple[tuple[str, str], ...] = ()
    connect_ms: int | None = None
    model_ms: int | None = None
    retry_after_ms: int | None = None
    provider_status: int | None = None


@dataclass(slots=True)
class _PendingBind:
    done: asyncio.Future[BoundResult]
    on_progress: Callable[[str, str, float | None], None]
    progressed: asyncio.Event = field(default_factory=asyncio.Event)


class Bindings:
    """Every binding that one worker has or is being given. `write` puts frames on the worker's pipe."""

    def __init__(self, name: str, timeout_s: float, write: Callable[[Iterable[wire.Down]], None]) -> None:
        self._name = name
        self._timeout_s = timeout_s
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._pending: dict[int, _PendingBind] = {}
        self._over: WorkerError | None = None
        self.bound: set[int] = set()

    @property
    def loading(self) -> bool:
        """Whether a load is under way."""
        return bool(self._pending)

    async def bind(
        self,
        binding: Binding,
        *,
        verify: bool,
        preload_model: str | None,
        on_progress: Callable[[str, str, float | None], None],
    ) -> BoundResult:
        """Gives the worker one connection's credentials, and waits until it has loaded with them.

        Cancelling it is safe: the binding is taken back.

        Raises:
            WorkerError: the provider refused, could not be reached, or the worker died.
        """
        if self._over is not None:  # the worker died between being ready and this
            raise self._over
        pending = _PendingBind(self._loop.create_future(), on_progress)
        self._pending[binding.id] = pending
        body = {
            "key": binding.key,
            "base_url": binding.base_url,
            "options": dict(binding.options),
            "verify": verify,
            "preload_model": preload_model,
        }
        try:
            self._write([wire.Bind(binding.id, wire.pack_body(body))])
            result = await self._bind_answer(pending)
        except BaseException:
            if binding.id not in self.bound:  # else the worker goes on with what it had
                self.unbind(binding.id)
            raise
        finally:
            if self._pending.get(binding.id) is pending:
                del self._pending[binding.id]
        self.bound.add(binding.id)
        return result

    async def _bind_answer(self, pending: _PendingBind) -> BoundResult:
        """The result, however long it takes while there is progress."""
        while True:
            pending.progressed.clear()
            moved = asyncio.ensure_future(pending.progressed.wait())
            either: set[asyncio.Future[Any]] = {pending.done, moved}
            try:
                done, _ = await asyncio.wait(
                    either, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                moved.cancel()
            if pending.done in done:
                return pending.done.result()
            if not done:
                raise WorkerError(
                    f"{self._name} did not load within {self._timeout_s:g} s.", code=Code.TIMEOUT
                )

    def unbind(self, binding: int) -> None:
        """Forgets a binding; its requests, if any are left, end."""
        self.bound.discard(binding)
        self._write([wire.Unbind(binding)])

    def progress(self, frame: wire.Progress) -> None:
        """How far a bind is."""
        pending = self._pending.get(frame.binding)
        if pending is not None:
            pending.progressed.set()
            pending.on_progress(frame.phase, frame.message, frame.fraction if frame.fraction >= 0 else None)

    def answer(self, frame: wire.Bound) -> None:
        """The end of a bind.

        Raises:
            WireError: its body has another shape.
        """
        pending = self._pending.get(frame.binding)
        if pending is None or pending.done.done():
            return
        try:
            body = msgspec.json.decode(frame.body, type=_BoundBody)
        except msgspec.MsgspecError as exc:
            raise wire.WireError(f"Bound has a body of another shape: {exc}") from exc
        code = code_of(frame.code)
        if code is Code.SUCCESS:
            result = BoundResult(body.models, notes_of(body.warnings), body.connect_ms, body.model_ms)
            pending.done.set_result(result)
        else:
            failure = Failure(code, frame.message, body.retry_after_ms, body.provider_status)
            pending.done.set_exception(ProviderError(failure))

    def end_all(self, error: WorkerError) -> None:
        """The worker is no more: whoever waits for a bind, or asks for one later, gets `error`."""
        self._over = error
        for pending in self._pending.values():
            if not pending.done.done():
                pending.done.set_exception(error)
        self.bound.clear()

"""What the models of an engine cost its worker: one line in the log when one has come or gone, and two fields
of its health. Pure but for the log: samples and the time come in as arguments.

An operator reads from it what the process had before the first model came, what it has with it, and what came
back when it left; what does not come back then comes with the end of the process.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

__all__ = ["ModelMemory", "megabytes"]

log = logging.getLogger(__name__)

MEGABYTE: Final = 1 << 20
LOADED: Final = "model loaded provider=%s pid=%d model=%r ms=%.0f before_mb=%s memory_mb=%s"
NOT_LOADED: Final = "model not loaded provider=%s pid=%d model=%r ms=%.0f before_mb=%s memory_mb=%s"
_MS_PER_S: Final = 1000


@dataclass(frozen=True, slots=True)
class _Begun:
    """A load that is under way."""

    at: float
    memory_bytes: int | None


class ModelMemory:
    """The models of one worker; an engine loads one at a time."""

    def __init__(self, provider: str, pid: int) -> None:
        self._provider = provider
        self._pid = pid
        self._begun: _Begun | None = None
        self._names: list[str] = []
        self.before_bytes: int | None = None
        """What the process had before the first of its models came; None while it has none."""

    @property
    def names(self) -> tuple[str, ...]:
        """The models that are in memory."""
        return tuple(self._names)

    def news(
        self, event: str, model: str, now: float, *, before_bytes: int | None, memory_bytes: int | None
    ) -> None:
        """Something happened to a model: `before_bytes` is from before that, `memory_bytes` from now.

        An event that nobody knows is an engine's own affair.
        """
        if event == "loading":
            self._begun = _Begun(now, memory_bytes)
        elif event == "loaded":
            self._loaded(model, now, memory_bytes)
        elif event == "failed":
            self._over(NOT_LOADED, model, now, memory_bytes)
        elif event == "gone":
            self._gone(model, before_bytes, memory_bytes)

    def _loaded(self, model: str, now: float, memory_bytes: int | None) -> None:
        begun = self._over(LOADED, model, now, memory_bytes)
        if not self._names:
            self.before_bytes = begun.memory_bytes
        self._names.append(model)

    def _over(self, line: str, model: str, now: float, memory_bytes: int | None) -> _Begun:
        begun = self._begun or _Begun(now, None)
        self._begun = None
        log.info(
            line,
            *(self._provider, self._pid, model, (now - begun.at) * _MS_PER_S),
            *(megabytes(begun.memory_bytes), megabytes(memory_bytes)),
        )
        return begun

    def _gone(self, model: str, before_bytes: int | None, memory_bytes: int | None) -> None:
        if model in self._names:
            self._names.remove(model)
        log.info(
            "model gone provider=%s pid=%d model=%r before_mb=%s memory_mb=%s",
            *(self._provider, self._pid, model, megabytes(before_bytes), megabytes(memory_bytes)),
        )
        if not self._names:
            self.before_bytes = None


def megabytes(size_bytes: int | None) -> int | None:
    """As a line for operators tells a size."""
    return None if size_bytes is None else round(size_bytes / MEGABYTE)

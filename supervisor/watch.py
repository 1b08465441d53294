"""Watches over one running worker: its heartbeats, its memory, its processor time, and what follows.

A task of the worker's, from Ready to its end. Each second it takes a sample, each `heartbeat_s` it pings
and judges; the rules of judging are heartbeat.py's, ending a worker is worker.py's. A worker that loads a
model for a client is not judged: the load has a time limit of its own.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final, Protocol

from supervisor import spawn
from supervisor.heartbeat import Condition, HeartbeatLimits, Pulse, Verdict
from supervisor.model_memory import ModelMemory
from workers.codes import Code

__all__ = ["Watch", "WatchLimits", "Watched"]

log = logging.getLogger(__name__)

SAMPLE_S: Final = 1.0
"""A worker that grows is met before the machine is full; a sample costs some 30 µs."""
MB: Final = 1 << 20
STUCK_WORDS: Final = {
    Condition.LOOP_BLOCKED: "its event loop did not turn",
    Condition.BUSY: "something held its interpreter and computed",
    Condition.SILENT: "it did nothing: stopped from outside, or stuck with its interpreter held",
}


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """When a worker is reported and when it is ended."""

    heartbeat_s: float
    heartbeat: HeartbeatLimits
    memory_soft_mb: int
    memory_hard_mb: int
    """0: no limit."""
    memory_setting: str
    """Where an operator changes it."""


class Watched(Protocol):
    """What watching needs of a worker."""

    def ping(self, serial: int) -> None:
        """Sends a ping."""

    def ask_for_stacks(self) -> None:
        """Makes it write its stacks into the log, if its reading thread still can."""

    def is_excused(self) -> bool:
        """Whether it loads something just now."""

    def end(self, words: str, *, code: Code, hung: bool) -> None:
        """Ends it; it dies of `words`."""


class Watch:
    """The vital signs of one worker. `run` it as a task; what it learned is in the attributes."""

    def __init__(
        self,
        worker: Watched,
        provider: str,
        pid: int,
        limits: WatchLimits,
        sampler: spawn.Sampler | None = None,
    ) -> None:
        self._worker = worker
        self._provider = provider
        self._pid = pid
        self._limits = limits
        self._sampler = sampler
        self._loop = asyncio.get_running_loop()
        self._warned_of_memory = False
        self.pulse = Pulse(limits.heartbeat, limits.heartbeat_s, self._loop.time())
        self.models = ModelMemory(provider, pid)
        self.memory_bytes: int | None = None
        self.cpu_s: float | None = None
        self.cpu_percent: float | None = None

    async def run(self) -> None:
        """Until it is cancelled, which is safe at any time."""
        if self._sampler is None:
            self._sampler = await asyncio.to_thread(spawn.Sampler, self._pid)
        step_s = min(SAMPLE_S, self._limits.heartbeat_s)
        beat_at = sampled_at = self._loop.time()
        while True:
            self._sample(self._sampler, self._loop.time() - sampled_at)
            sampled_at = self._loop.time()
            if sampled_at >= beat_at:
                self._beat(sampled_at)
                beat_at = max(beat_at + self._limits.heartbeat_s, sampled_at)
            await asyncio.sleep(step_s)

    def model_news(self, event: str, model: str) -> None:
        """Something happened to a model of the engine: takes its memory now, and tells of it."""
        before_bytes = self.memory_bytes
        sample = self._sampler.sample() if self._sampler is not None else None
        if sample is not None:
            self.memory_bytes = sample.memory_bytes
        self.models.news(
            event, model, self._loop.time(), before_bytes=before_bytes, memory_bytes=self.memory_bytes
        )

    def _sample(self, sampler: spawn.Sampler, elapsed_s: float) -> None:
        sample = sampler.sample()
        if sample is None:  # its silence is judged all the same
            self.memory_bytes = self.cpu_s = self.cpu_percent = None
            return
        if self.cpu_s is not None and elapsed_s > 0:
            self.cpu_percent = round(100 * (sample.cpu_s - self.cpu_s) / elapsed_s, 1)
        self.memory_bytes, self.cpu_s = sample
        self._judge_memory(sample.memory_bytes)

    def _judge_memory(self, memory_bytes: int) -> None:
        memory_mb = memory_bytes // MB
        hard_mb, soft_mb = self._limits.memory_hard_mb, self._limits.memory_soft_mb
        if hard_mb and memory_mb > hard_mb:
            setting = self._limits.memory_setting
            words = f"it used {memory_mb} MB of memory, over the limit of {hard_mb} MB ({setting})"
            self._worker.end(words, code=Code.OUT_OF_MEMORY, hung=False)
        elif soft_mb and memory_mb > soft_mb and not self._warned_of_memory:
            self._warned_of_memory = True
            log.warning(
                "worker grows provider=%s pid=%d memory_mb=%d soft_mb=%d hard_mb=%d",
                *(self._provider, self._pid, memory_mb, soft_mb, hard_mb),
            )

    def _beat(self, now: float) -> None:
        pulse = self.pulse
        verdict = pulse.judge(now, cpu_percent=self.cpu_percent, loading=self._worker.is_excused())
        silence_s = pulse.silence_s(now)
        if verdict is Verdict.REPORT:
            log.warning(
                "worker silent provider=%s pid=%d condition=%r silent_s=%.1f cpu_pct=%s",
                *(self._provider, self._pid, pulse.condition.value, silence_s, self.cpu_percent),
            )
            self._worker.ask_for_stacks()
        elif verdict is Verdict.END:
            words = f"it did not answer for {silence_s:.0f} s: {STUCK_WORDS[pulse.condition]}"
            self._worker.end(words, code=Code.WORKER_CRASHED, hung=True)
        self._worker.ping(pulse.ping(now))

"""What a worker's answers to pings say of it. Pure: time comes in as an argument, a verdict goes out.

Each Ping is answered twice: by the worker's reading thread, which needs the interpreter, and by its event
loop, which needs a turn. Together with the processor time that it uses, four conditions can be told apart:

    thread  loop    processor   condition
    yes     yes     any         well           (also one whose other threads are busy)
    yes     no      any         loop blocked   something in the loop does not give way
    no      any     used        busy           the interpreter is held: a long computation, a bad regex
    no      any     idle        silent         stopped, or waiting while it holds the interpreter

A worker is judged by its silence: the time since the sending of the newest ping that it answered in both
ways. What the supervisor itself slept through is no silence of a worker's.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass
from typing import Final

__all__ = ["Condition", "HeartbeatLimits", "Pulse", "Verdict"]

BUSY_PERCENT: Final = 20.0
"""Of one processor: above it a worker that does not answer is at work, below it waits or is stopped."""
LATE_BEATS: Final = 2.0
"""A beat that comes later than so many intervals tells of our own sleep: a suspended laptop, a SIGSTOP."""
PINGS_KEPT: Final = 64
"""Unanswered pings that are remembered; older ones would tell nothing new."""


class Condition(enum.Enum):
    """What the answers say."""

    WELL = "well"
    LOOP_BLOCKED = "loop blocked"
    BUSY = "busy"
    SILENT = "silent"


class Verdict(enum.Enum):
    """What is to be done about it."""

    NOTHING = "nothing"
    REPORT = "report"
    END = "end"


@dataclass(frozen=True, slots=True)
class HeartbeatLimits:
    """After how much silence something is done, in seconds."""

    report_s: float
    hung_s: float
    busy_hung_s: float
    """The same as `hung_s` for one that still uses the processor: an engine may compute for minutes."""
    load_s: float
    """The most that a load may take without a sign of life; then it excuses nothing any more."""


class Pulse:
    """The heartbeats of one worker."""

    def __init__(self, limits: HeartbeatLimits, interval_s: float, now: float) -> None:
        self._limits = limits
        self._interval_s = interval_s
        self._serial = 0
        self._sent: deque[tuple[int, float]] = deque(maxlen=PINGS_KEPT)
        self._heard = {"thread": now, "loop": now}
        """When the newest ping was sent that it answered so."""
        self._answered = dict(self._heard)
        """The same, or a later moment up to which its silence is excused."""
        self._worked = now
        """The last beat at which it used the processor."""
        self._last_beat = now
        self._reported = False
        self.condition = Condition.WELL
        self.round_trip_s: float | None = None
        """Of the newest ping that the event loop answered."""

    def ping(self, now: float) -> int:
        """A ping leaves now; its serial number."""
        self._serial += 1
        self._sent.append((self._serial, now))
        return self._serial

    def pong(self, serial: int, source: str, now: float) -> None:
        """An answer came; one to a ping that nobody knows any more says nothing."""
        sent = next((at for number, at in self._sent if number == serial), None)
        if sent is None or source not in self._answered:
            return
        self._heard[source] = max(sent, self._heard[source])
        self._answered[source] = max(sent, self._answered[source])
        if source == "loop":
            self.round_trip_s = now - sent
            while self._sent and self._sent[0][0] < serial:
                self._sent.popleft()

    def silence_s(self, now: float) -> float:
        """For how long it has not answered in both ways."""
        return now - min(self._answered.values())

    def judge(self, now: float, *, cpu_percent: float | None, loading: bool) -> Verdict:
        """A beat: takes the condition from what is known now, and says what to do."""
        self._allow_for_our_sleep(now)
        if loading:
            self._excuse(now)
        if cpu_percent is not None and cpu_percent >= BUSY_PERCENT:
            self._worked = now
        self.condition = self._look(now, cpu_percent)
        silence_s = self.silence_s(now)
        if self.condition is Condition.WELL:
            self._reported = False
            return Verdict.NOTHING
        idle_s = min(silence_s, now - self._worked)
        if silence_s >= self._limits.busy_hung_s or idle_s >= self._limits.hung_s:
            return Verdict.END
        if self._reported:
            return Verdict.NOTHING
        self._reported = True
        return Verdict.REPORT

    def _allow_for_our_sleep(self, now: float) -> None:
        late_s = now - self._last_beat - self._interval_s
        self._last_beat = now
        if late_s > self._interval_s * (LATE_BEATS - 1):
            self._worked = min(self._worked + late_s, now)
            for times in (self._heard, self._answered):
                times.update({source: min(at + late_s, now) for source, at in times.items()})

    def _excuse(self, now: float) -> None:
        """It has a reason not to answer (a load): its silence begins anew.

        No load is silent for longer than its own time limit. Without this bound a client that loads again
        and again would keep a stuck worker alive.
        """
        if now - min(self._heard.values()) < self._limits.load_s:
            self._answered = dict.fromkeys(self._answered, now)

    def _look(self, now: float, cpu_percent: float | None) -> Condition:
        if self.silence_s(now) < self._limits.report_s:
            return Condition.WELL
        if now - self._answered["thread"] < self._limits.report_s:
            return Condition.LOOP_BLOCKED
        if cpu_percent is not None and cpu_percent >= BUSY_PERCENT:
            return Condition.BUSY
        return Condition.SILENT

"""What is counted, and what a scrape of /metrics reads: Prometheus' text format 0.0.4. No I/O, no clock.

`Metrics.ended` stands at the end of every generation, so it only adds; all text is made by the scrape.
Labels are bounded: providers of the catalogue, codes, and words of ours. Nothing that a client or a provider
made up, such as a model's name, becomes one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple, TypeAlias

from supervisor.commands import Outcome
from supervisor.health import STATES, ModuleHealth, WorkerHealth
from supervisor.version import VERSION
from workers.codes import Code

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PREFIX: Final = "waifu_llm_"
FIRST_TOKEN_MS: Final = (50, 100, 200, 300, 500, 750, 1_000, 1_500, 2_000, 3_000, 5_000, 10_000, 30_000)
"""Finest below a second, within which a character must start to speak, and a voice takes a third of it.
The last are for a local model that reads a long prompt."""
TOTAL_MS: Final = (
    100,
    250,
    500,
    1_000,
    2_000,
    3_000,
    5_000,
    10_000,
    20_000,
    30_000,
    60_000,
    120_000,
    600_000,
)
"""From one word to the longest request that an operator allows by default."""
TOKENS: Final = {
    "input_tokens": "Tokens of prompts, where the provider reported them.",
    "output_tokens": "Tokens of replies, where the provider reported them.",
    "cached_input_tokens": "Of the input tokens, those that the provider had cached.",
    "reasoning_tokens": "Of the output tokens, those that went into thinking.",
}
"""As `usage` names them; a metric each, for a sum over labels would count the last two twice."""

MICROSECONDS: Final = 6
"""Decimals of a value that is not whole; what follows them is noise."""

Sample: TypeAlias = "tuple[str, Mapping[str, str], float]"
"""What follows the metric's name, the labels, the value."""


class Metrics:
    """All that is counted from the start of the module on."""

    def __init__(self) -> None:
        self._tallies: dict[str, _Tally] = {}

    def ended(self, provider: str, outcome: Outcome) -> None:
        """A generation of a provider of the catalogue is over."""
        tally = self._tallies.get(provider)
        if tally is None:
            tally = self._tallies[provider] = _Tally()
        failure = outcome.failure
        tally.by_code[0 if failure is None else failure.code] += 1
        tally.retries += outcome.retries
        first_ms = outcome.timings_ms.get("first_token")
        if first_ms is not None:
            tally.first_token.observe(first_ms)
        total_ms = outcome.timings_ms.get("total")
        if failure is None and total_ms is not None:
            tally.total.observe(total_ms)
        for name, count in outcome.usage.items():
            if name in TOKENS and count > 0:  # a provider's figure; a counter never goes down
                tally.tokens[name] += count

    def text(self, module: ModuleHealth, workers: Sequence[WorkerHealth], dropped: Mapping[str, int]) -> str:
        """The whole page; `dropped` counts the clients that the module dropped, by reason."""
        families = (*_of_requests(self._tallies), *_of_workers(workers), *_of_module(module, dropped))
        return "".join(f"{line}\n" for family in families for line in family.lines())


class _Histogram:
    """Milliseconds, counted by bucket."""

    def __init__(self, bounds_ms: Sequence[int]) -> None:
        self._bounds_ms = bounds_ms
        self._counts = [0] * (len(bounds_ms) + 1)
        self._sum_ms = 0

    def observe(self, value_ms: int) -> None:
        self._counts[bisect_left(self._bounds_ms, value_ms)] += 1
        self._sum_ms += value_ms

    def samples(self, labels: Mapping[str, str]) -> Iterator[Sample]:
        """Each bucket holds those before it."""
        names = [*(f"{bound_ms / 1000:g}" for bound_ms in self._bounds_ms), "+Inf"]
        for name, count in zip(names, accumulate(self._counts), strict=True):
            yield "_bucket", {**labels, "le": name}, count
        yield "_sum", labels, self._sum_ms / 1000
        yield "_count", labels, sum(self._counts)


class _Tally:
    """What became of one provider's generations."""

    def __init__(self) -> None:
        self.by_code = [0] * len(Code)
        self.retries = 0
        self.tokens = dict.fromkeys(TOKENS, 0)
        self.first_token = _Histogram(FIRST_TOKEN_MS)
        self.total = _Histogram(TOTAL_MS)


# ---------------------------------------------------------------- families


class _Family(NamedTuple):
    """One metric: its name, its type, what it says, and its samples."""

    name: str
    kind: str
    help: str
    samples: Iterable[Sample]

    def lines(self) -> Iterator[str]:
        name = PREFIX + self.name
        yield f"# HELP {name} {self.help}"
        yield f"# TYPE {name} {self.kind}"
        for suffix, labels, value in self.samples:
            yield f"{name}{suffix}{_labels(labels)} {round(value, MICROSECONDS)}"


def _of_requests(tallies: Mapping[str, _Tally]) -> Iterator[_Family]:
    items = [({"provider": provider}, tally) for provider, tally in tallies.items()]
    yield _Family(
        "requests_total",
        "counter",
        "Generations that ended, by how.",
        [("", {**labels, "code": Code(n).name}, count) for labels, t in items for n, count in _seen(t)],
    )
    yield _Family(
        "first_token_seconds",
        "histogram",
        "From a generate to the first word of its reply.",
        [sample for labels, tally in items for sample in tally.first_token.samples(labels)],
    )
    yield _Family(
        "request_seconds",
        "histogram",
        "From a generate to the end of its reply, where it succeeded.",
        [sample for labels, tally in items for sample in tally.total.samples(labels)],
    )
    retries = [("", labels, tally.retries) for labels, tally in items]
    yield _Family("retries_total", "counter", "Requests to a provider that were sent once more.", retries)
    for name, words in TOKENS.items():
        yield _Family(
            f"{name}_total", "counter", words, [("", labels, tally.tokens[name]) for labels, tally in items]
        )


def _seen(tally: _Tally) -> Iterator[tuple[int, int]]:
    """The codes that there were, and always SUCCESS: a rate needs a zero to begin from."""
    return ((code, count) for code, count in enumerate(tally.by_code) if count or code == Code.SUCCESS)


def _of_workers(workers: Sequence[WorkerHealth]) -> Iterator[_Family]:
    def family(name: str, kind: str, words: str, value: Callable[[WorkerHealth], float | None]) -> _Family:
        values = [({"provider": worker.provider}, value(worker)) for worker in workers]
        samples = [("", labels, number) for labels, number in values if number is not None]
        return _Family(f"worker_{name}", kind, words, samples)

    yield family("up", "gauge", "Whether the worker is ready.", lambda w: int(w.state == "ready"))
    yield _Family("worker_state", "gauge", "1 for the state that the worker is in.", _states(workers))
    yield family("uptime_seconds", "gauge", "Since the worker's start.", lambda w: w.uptime_s)
    yield family("restarts_total", "counter", "Starts after a death.", lambda w: w.restarts)
    yield family("deaths_total", "counter", "Ends that nobody asked for.", lambda w: w.deaths)
    yield family("open_requests", "gauge", "Generations that the worker has.", lambda w: w.open_requests)
    yield family("resident_memory_bytes", "gauge", "Resident memory of the worker.", lambda w: w.memory_bytes)
    yield family(
        "cpu_seconds_total", "counter", "Processor time since the worker's start.", lambda w: w.cpu_s
    )
    yield family(
        "heartbeat_seconds",
        "gauge",
        "The last heartbeat's way through the worker's event loop and back.",
        lambda w: None if w.heartbeat_ms is None else w.heartbeat_ms / 1000,
    )


def _states(workers: Iterable[WorkerHealth]) -> Iterator[Sample]:
    for worker in workers:
        for state in dict.fromkeys((*STATES, worker.state)):
            yield "", {"provider": worker.provider, "state": state}, int(worker.state == state)


def _of_module(module: ModuleHealth, dropped: Mapping[str, int]) -> Iterator[_Family]:
    def one(name: str, kind: str, words: str, value: float | None) -> _Family:
        return _Family(name, kind, words, [] if value is None else [("", {}, value)])

    yield one("clients", "gauge", "Clients that are connected.", module.clients)
    yield _Family(
        "clients_dropped_total",
        "counter",
        "Connections that the module ended, by reason.",
        [("", {"reason": reason}, count) for reason, count in dropped.items()],
    )
    yield _Family(
        "log_lines_lost_total",
        "counter",
        "Log lines that a sink did not take in time, or could not write.",
        [("", {"sink": sink}, count) for sink, count in module.lost_lines.items()],
    )
    yield one("supervisor_uptime_seconds", "gauge", "Since the module's start.", module.uptime_s)
    yield one(
        "supervisor_resident_memory_bytes", "gauge", "Resident memory of the supervisor.", module.memory_bytes
    )
    yield one("supervisor_cpu_seconds_total", "counter", "Processor time of the supervisor.", module.cpu_s)
    yield one(
        "supervisor_loop_lag_seconds",
        "gauge",
        "How late the supervisor's event loop was, at worst, since the last health line.",
        module.lag_s,
    )
    yield _Family("build_info", "gauge", "The module's version.", [("", {"version": VERSION}, 1)])


def _labels(labels: Mapping[str, str]) -> str:
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

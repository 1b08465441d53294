"""The measures, each over any contender; a reply of which anything is missing ends the benchmark."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from benchmarks.contenders import Contender
from benchmarks.figures import Crowd, Figures, percentile
from benchmarks.orders import Effort, Order, expected_text
from benchmarks.processes import cpu_s, memory_of, own

__all__ = ["Incomplete", "crowd", "measure", "some_requests"]

WHOLE: Final = Order(chunks=20)
"""An answer of two sentences."""
FIRST: Final = Order(chunks=5)
STREAM_EVERY_US: Final = 20_000
"""50 chunks a second, faster than anybody reads."""
STREAMS_WITHIN_S: Final = 1.0
"""Streams that begin in one moment keep one beat; those of different people have each their own."""
CROWD_EVERY_US: Final = 200_000
"""5 chunks a second: a thousand streams are then 5,000 chunks a second, which two cores can serve."""
CROWD_WITHIN_S: Final = 2.0
"""A thousand streams that begin in one moment measure how fast connections are made, not streams."""
SOME_REQUESTS: Final = 100
"""After which memory is looked at; half of them streamed."""


class Incomplete(Exception):
    """Some of a reply did not arrive."""


async def measure(contender: Contender, effort: Effort) -> Figures:
    """All figures of one contender, which is started and closed here."""
    began = time.perf_counter()
    await contender.start()
    start_ms = _ms_since(began)
    try:
        await some_requests(contender)
        memory = memory_of(contender.processes() or [own()])
        wholes = await _times(lambda: _whole(contender), effort.wholes, effort.warm_ups)
        firsts = await _times(lambda: _first(contender), effort.firsts, effort.warm_ups)
        chunks_per_s = await _burst(contender, effort.burst_chunks)
        order = Order(effort.stream_chunks, STREAM_EVERY_US)
        paced = await crowd(contender, effort.streams, order, within_s=STREAMS_WITHIN_S)
        return Figures(
            start_ms=start_ms,
            whole_p50_ms=percentile(wholes, 50),
            whole_p99_ms=percentile(wholes, 99),
            first_p50_ms=percentile(firsts, 50),
            first_p99_ms=percentile(firsts, 99),
            chunks_per_s=chunks_per_s,
            streams_p50_ms=paced.p50_ms,
            streams_p99_ms=paced.p99_ms,
            streams_cpu_percent=paced.cpu_percent,
            requests_per_s=await _throughput(contender, effort.ways, effort.requests),
            memory_mb=memory.mb,
        )
    finally:
        await contender.close()


async def some_requests(contender: Contender) -> None:
    """Streamed and unstreamed in turn."""
    for _ in range(SOME_REQUESTS // 2):
        await _whole(contender)
        await _first(contender)


async def crowd(contender: Contender, streams: int, order: Order, *, within_s: float) -> Crowd:
    """So many paced streams at once, begun one after the other within that time."""
    processes = contender.processes()
    before_s, client_before_s, began = cpu_s(processes), cpu_s([own()]), time.perf_counter()
    gap_s = within_s / streams
    lags = await asyncio.gather(*[_paced(contender, order, number * gap_s) for number in range(streams)])
    spent_s = time.perf_counter() - began
    own_s, client_s = cpu_s(processes) - before_s, cpu_s([own()]) - client_before_s
    stream_seconds = streams * order.chunks * order.every_us / 1e6
    every = [lag for stream in lags for lag in stream]
    return Crowd(
        streams=streams,
        p50_ms=percentile(every, 50),
        p99_ms=percentile(every, 99),
        own_cpu_ms=own_s * 1000 / stream_seconds,
        client_cpu_ms=client_s * 1000 / stream_seconds,
        cpu_percent=(own_s + client_s) * 100 / spent_s,
    )


async def _whole(contender: Contender) -> float:
    began = time.perf_counter()
    text = await contender.whole(WHOLE)
    spent_ms = _ms_since(began)
    _check(text, WHOLE)
    return spent_ms


async def _first(contender: Contender) -> float:
    """Until the first chunk is there."""
    pieces: list[tuple[float, str]] = []
    began = time.perf_counter()
    await contender.stream(FIRST, lambda text: pieces.append((time.perf_counter(), text)))
    _check("".join(text for _, text in pieces), FIRST)
    return (pieces[0][0] - began) * 1000


async def _burst(contender: Contender, chunks: int) -> float:
    """Chunks a second of one unpaced stream, from its request to its end."""
    order = Order(chunks)
    pieces: list[str] = []
    await contender.stream(Order(chunks // 10), pieces.append)
    pieces.clear()
    began = time.perf_counter()
    await contender.stream(order, pieces.append)
    spent_s = time.perf_counter() - began
    _check("".join(pieces), order)
    return chunks / spent_s


async def _paced(contender: Contender, order: Order, delay_s: float) -> list[float]:
    """For each chunk of a stream, the milliseconds from the upstream's stamp to its arrival."""
    pieces: list[tuple[int, str]] = []
    await asyncio.sleep(delay_s)
    await contender.stream(order, lambda text: pieces.append((time.perf_counter_ns(), text)))
    lags = [(arrived - int(stamp)) / 1e6 for arrived, text in pieces for stamp in text.split()]
    if len(lags) != order.chunks:
        raise Incomplete(f"{contender.name}: {len(lags)} of {order.chunks} chunks of a paced stream arrived")
    return lags


async def _throughput(contender: Contender, ways: int, requests: int) -> float:
    """Unstreamed requests a second, so many of them open at any time."""

    async def one_after_the_other() -> None:
        for _ in range(requests // ways):
            await _whole(contender)

    began = time.perf_counter()
    await asyncio.gather(*[one_after_the_other() for _ in range(ways)])
    return requests // ways * ways / (time.perf_counter() - began)


async def _times(once: Callable[[], Awaitable[float]], times: int, warm_ups: int) -> list[float]:
    for _ in range(warm_ups):
        await once()
    return [await once() for _ in range(times)]


def _check(text: str, order: Order) -> None:
    if text != expected_text(order):
        raise Incomplete(f"a reply of {order.chunks} chunks arrived with {len(text)} characters")


def _ms_since(began: float) -> float:
    return (time.perf_counter() - began) * 1000

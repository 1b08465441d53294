"""How a server is made to fetch a model: progress, every way to fail, and an end when it is not wanted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.fakes.bound import cancelled
from tests.fakes.http_server import Exchange
from tests.fakes.ollama_server import PULLED, OllamaServer
from tests.fakes.wire import Behaviour
from tests.fakes.wires.ollama import line
from workers import ollama_pull
from workers.adapter import AdapterError
from workers.codes import Code
from workers.ollama_pull import pull
from workers.refusals import Who
from workers.upstream import Upstream


@pytest.fixture
async def ollama() -> AsyncIterator[OllamaServer]:
    """An Ollama."""
    async with OllamaServer() as running:
        yield running


@pytest.fixture
async def upstream(ollama: OllamaServer) -> AsyncIterator[Upstream]:
    """A connection to it."""
    made = Upstream(ollama.base_url, Who("Ollama"), {})
    await made.open()
    yield made
    await made.close()


class Reports:
    """What was told while it went on."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, float | None]] = []
        self.any = asyncio.Event()

    def __call__(self, phase: str, message: str, fraction: float | None) -> None:
        self.told.append((phase, message, fraction))
        self.any.set()


async def failure(upstream: Upstream, model: str = "nonesuch") -> AdapterError:
    with pytest.raises(AdapterError) as caught:
        await pull(upstream, model, Reports())
    return caught.value


async def test_a_download_tells_how_far_all_its_files_are(ollama: OllamaServer, upstream: Upstream) -> None:
    reports = Reports()
    await pull(upstream, "fake-small", reports)
    assert ollama.requests[0].body == {"model": "fake-small", "stream": True}
    assert {phase for phase, _, _ in reports.told} == {"model"}
    fractions = [fraction for _, _, fraction in reports.told if fraction is not None]
    assert fractions == sorted(fractions)  # a new file is no step back
    assert set(fractions) == {0.0, 0.25}
    sentences = [message for _, message, _ in reports.told]
    assert "downloading fake-small: 4 of 16 MB" in sentences
    assert "Ollama and fake-small: verifying sha256 digest" in sentences


async def test_a_download_is_read_at_every_split(ollama: OllamaServer, upstream: Upstream) -> None:
    ollama.pull = Behaviour(
        events=tuple(bytes([byte]) for byte in b"".join(PULLED)[:-1])
    )  # its end is missing
    await pull(upstream, "fake-small", Reports())


async def test_waiting_is_told_again_and_again(
    ollama: OllamaServer, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ollama_pull, "BEAT_S", 0.001)
    ollama.pull = Behaviour(events=PULLED, gate_before_head=True)
    reports = Reports()
    task = asyncio.ensure_future(pull(upstream, "fake-small", reports))
    while len(reports.told) < 3:
        reports.any.clear()
        await asyncio.wait_for(reports.any.wait(), 5)
    assert reports.told[2] == ("model", "Ollama looks for fake-small", None)
    ollama.gate.set()
    await task


@pytest.mark.parametrize("after", [None, 0, 3], ids=["before the headers", "before a line", "amid"])
async def test_whoever_stops_waiting_has_closed_the_connection(
    ollama: OllamaServer, upstream: Upstream, after: int | None
) -> None:
    ollama.pull = Behaviour(events=PULLED, gate_before_head=after is None, gate_after=after)
    reports = Reports()
    task = asyncio.ensure_future(pull(upstream, "fake-small", reports))
    await ollama.received(1)
    while after and reports.told[-1][2] is None:
        reports.any.clear()
        await asyncio.wait_for(reports.any.wait(), 5)
    await cancelled(task)
    await ollama.closed(0)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("pull model manifest: file does not exist", Code.INVALID_MODEL),
        ("invalid model name", Code.INVALID_MODEL),
        ("max retries exceeded: unexpected EOF", Code.UNREACHABLE),
        ('Get "https://r.example/v2/": dial tcp: lookup r.example: no such host', Code.UNREACHABLE),
        ("write /models/blobs/x: no space left on device", Code.UPSTREAM_ERROR),
        ("digest mismatch, file must be downloaded again", Code.UPSTREAM_ERROR),
    ],
)
@pytest.mark.parametrize("begun", [True, False], ids=["amid", "at once"])
async def test_a_failure_is_told_with_the_servers_words(
    ollama: OllamaServer, upstream: Upstream, words: str, code: Code, begun: bool
) -> None:
    error = line({"error": words})
    ollama.pull = Behaviour(events=(*PULLED[:3], error)) if begun else Behaviour(status=500, body=error)
    found = await failure(upstream)
    assert found.code is code
    assert words.rpartition(": ")[2] in found.message
    assert "'nonesuch'" in found.message
    assert "://" not in found.message
    assert len(ollama.requests) == 1


@pytest.mark.parametrize("error", [{"error": 7}, {"error": {"message": "x"}}])
async def test_a_failure_without_words_is_one(
    ollama: OllamaServer, upstream: Upstream, error: dict[str, object]
) -> None:
    ollama.pull = Behaviour(events=(line(error),))
    assert (await failure(upstream)).message == "Ollama could not fetch 'nonesuch'"


async def test_a_download_without_its_end_is_cut_off(ollama: OllamaServer, upstream: Upstream) -> None:
    ollama.pull = Behaviour(events=PULLED[:-1])
    found = await failure(upstream)
    assert (found.code, "goes on from there" in found.message) == (Code.TRUNCATED, True)


async def test_a_connection_that_breaks_is_cut_off(ollama: OllamaServer, upstream: Upstream) -> None:
    ollama.pull = Behaviour(events=(*PULLED[:3], b""), cut_after=3, cut="rst")
    assert (await failure(upstream)).code is Code.TRUNCATED


@pytest.mark.parametrize(
    "garbage",
    [b"<html>\n", b"[1]\n", b"null\n", b"[" * 100_000 + b"\n", b"x" * (2 << 20), b'{"status'],
    ids=len,
)
async def test_what_is_not_ollamas_is_told(ollama: OllamaServer, upstream: Upstream, garbage: bytes) -> None:
    ollama.pull = Behaviour(events=(PULLED[0], garbage))
    found = await failure(upstream)
    assert (found.code, "base URL" in found.message) == (Code.UPSTREAM_PROTOCOL, True)


async def test_a_server_that_says_nothing_is_given_up(
    ollama: OllamaServer, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def mute(exchange: Exchange) -> None:
        await exchange.head(200, {"Content-Type": "application/x-ndjson"}, chunked=True)
        await exchange.server.gate.wait()

    ollama.pull = mute
    monkeypatch.setattr(ollama_pull, "QUIET_MAX_S", 0.05)
    assert (await failure(upstream)).code is Code.TIMEOUT
    await ollama.closed(0)


async def test_odd_numbers_are_passed_over(ollama: OllamaServer, upstream: Upstream) -> None:
    odd = (
        {"status": 7},
        {"digest": "a", "total": 0},
        {"digest": "a", "total": "many", "completed": 1},
        {"digest": "a", "total": 10, "completed": "some"},
        {"digest": 7, "total": 10},
    )
    ollama.pull = Behaviour(events=(*map(line, odd), PULLED[-1]))
    reports = Reports()
    await pull(upstream, "fake-small", reports)
    assert {fraction for _, _, fraction in reports.told} == {None, 0.0}

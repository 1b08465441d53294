"""One worker: the real process with the `scripted` adapter, and rude ones that break each rule."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import supervisor.stopping as stopping_module
import supervisor.worker as worker_module
from supervisor import spawn
from supervisor.bindings import Binding, BoundResult
from supervisor.errors import Failure, ProviderError, WorkerError
from supervisor.logs import register_secret
from supervisor.providers import Provider
from supervisor.spawn import watch_process, worker_environment
from supervisor.worker import Death, Worker, WorkerLimits, WorkerState
from tests.supervisor.fakes import PROVIDER, START_WAIT_S, FakeSink, ignore_progress, kill, make_job, soon
from tests.worker_process import CHECKOUT, make_checkout, make_site_packages
from workers import wire
from workers.codes import Code

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="signals and process groups are POSIX's")

HANGS: dict[str, Any] = {"replies": [{"text": "Once upon a time ", "hang": True}]}
RUDE = """
import os, signal, subprocess, sys, time
sys.path[:0] = [sys.argv[2], {checkout!r}]
from workers import wire
nonce = sys.argv[3]
decoder, waiting = wire.Decoder(wire.DOWN), []

def up(*frames):
    os.write(1, b"".join(map(wire.encode, frames)))

def down():
    while not waiting:
        data = os.read(0, 65536)
        if not data:
            os._exit(0)
        waiting.extend(frame for frame in decoder.feed(data) if type(frame) is not wire.Ping)
    return waiting.pop(0)

def hello(version=wire.VERSION, nonce=nonce):
    up(wire.Hello(version, os.getpid(), nonce, "3"))

def boot():
    hello()
    down()
    up(wire.Ready(7))

"""


class Deaths:
    """What `on_death` was told."""

    def __init__(self) -> None:
        self.heard: list[Death] = []
        self._came = asyncio.Event()

    def __call__(self, _worker: Worker, death: Death) -> None:
        self.heard.append(death)
        self._came.set()

    async def one(self) -> Death:
        """The one death."""
        await soon(self._came.wait(), START_WAIT_S)
        (death,) = self.heard
        return death


class Bench:
    """Makes workers, and ends them when the test is over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.site_packages = make_site_packages(folder / "site packages")
        self.deaths = Deaths()
        self.made: list[Worker] = []

    def real(self, *, checkout: Path = CHECKOUT, provider: Provider = PROVIDER, **limits: Any) -> Worker:
        """A worker that is not started yet."""
        worker = Worker(
            provider,
            python=Path(sys.executable),
            site_packages=self.site_packages,
            checkout=checkout,
            environment=worker_environment(os.environ),
            limits=WorkerLimits(**limits),
            on_death=self.deaths,
        )
        self.made.append(worker)
        return worker

    def rude(self, program: str, *, provider: Provider = PROVIDER, **limits: Any) -> Worker:
        """A worker that is that program, with boot(), up() and down() at hand."""
        boot = self._folder / f"rude {len(self.made)}" / "workers" / "__main__.py"
        boot.parent.mkdir(parents=True)
        boot.write_text(RUDE.format(checkout=str(CHECKOUT)) + program, encoding="utf-8")
        return self.real(checkout=boot.parent.parent, provider=provider, **limits)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    for worker in made.made:
        await soon(worker.stop(), START_WAIT_S)
    await asyncio.sleep(0)


@pytest.fixture
def hasty_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The polite steps of a stop are short, for workers that do not follow them anyway."""
    monkeypatch.setattr(stopping_module, "ASK_S", 0.05)
    monkeypatch.setattr(stopping_module, "END_S", 0.05)


async def started(worker: Worker) -> Worker:
    """The worker, ready."""
    await soon(worker.start(), START_WAIT_S)
    return worker


async def bound(worker: Worker, number: int = 1, **options: Any) -> BoundResult:
    """What a bind with those options learned."""
    binding = Binding(number, options=options)
    return await soon(
        worker.bindings.bind(binding, verify=True, preload_model=None, on_progress=ignore_progress)
    )


def generate(worker: Worker, number: int, sink: FakeSink, **changes: Any) -> None:
    """Starts a generation with binding 1."""
    now = asyncio.get_running_loop().time()
    worker.requests.start(number, 1, make_job(**changes), sink, accepted=now)


def state_of(worker: Worker) -> WorkerState:
    """Where it is now (a type checker takes a property for unchanging)."""
    return worker.state


async def gone(pid: int | None) -> None:
    """Waits until no process of that id lives."""
    assert pid is not None
    alive = watch_process(pid)
    for _ in range(500):
        if not alive():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"process {pid} lives on")


# ---- a good life


async def test_a_real_worker_starts_binds_generates_and_stops(bench: Bench) -> None:
    worker = bench.real()
    await started(worker)
    assert state_of(worker) is WorkerState.READY
    result = await bound(worker, replies=[{"chunks": ["Hel", "lo", " 👋"]}])
    assert result.models == ("demo",)
    sink = FakeSink()
    generate(worker, 7, sink)
    outcome = await sink.end(7)
    assert outcome.failure is None
    assert sink.chunks[7] == ["Hel", "lo", " 👋"]
    assert (outcome.finish_reason, outcome.model) == ("stop", "demo")
    assert set(outcome.timings_ms) == {"queued", "first_token", "total"}
    pid = worker.pid
    await soon(worker.stop())
    assert state_of(worker) is WorkerState.DEAD
    assert bench.deaths.heard == []
    await gone(pid)


async def test_a_large_prompt_arrives_whole(bench: Bench) -> None:
    worker = await started(bench.real())
    await bound(worker, replies=[{"text": "{message}"}])
    prompt = "漢字🎈 " * 200_000
    sink = FakeSink()
    generate(worker, 1, sink, text=prompt, stream=False)
    assert (await sink.end(1, START_WAIT_S)).failure is None
    assert len(sink.text(1)) == len(prompt)
    assert hash(sink.text(1)) == hash(prompt)  # a difference of megabytes is not to be printed


async def test_a_streamed_reply_waits_for_credit_and_then_goes_on(bench: Bench) -> None:
    worker = await started(bench.real())
    await bound(
        worker, replies=[{"match": "big", "chunks": ["x" * (32 << 10)], "repeat": 16}, {"text": "ok"}]
    )
    sink = FakeSink()
    generate(worker, 1, sink, text="big")
    await sink.until(lambda: len(sink.text(1)) >= wire.CREDIT_CHARS)
    generate(worker, 2, sink)
    await sink.end(2)  # the wire is in order: nothing more of 1 is on its way
    assert len(sink.text(1)) == wire.CREDIT_CHARS
    worker.requests.credit(1, wire.CREDIT_CHARS)
    await sink.end(1)
    assert len(sink.text(1)) == 16 * (32 << 10)


async def test_a_cancelled_generation_ends_with_its_reason_and_others_go_on(bench: Bench) -> None:
    worker = await started(bench.real())
    await bound(worker, **HANGS)
    sink = FakeSink()
    generate(worker, 1, sink)
    generate(worker, 2, sink)
    await sink.first_chunk(1)
    await sink.first_chunk(2)
    failure = Failure(Code.INTERRUPT, "Enough.")
    worker.requests.end(1, failure)
    outcome = await sink.end(1)
    assert outcome.failure == failure
    assert outcome.upstream_closed_ms is not None
    assert 2 not in sink.ends


async def test_a_bind_that_the_adapter_refuses_is_the_providers_error(bench: Bench) -> None:
    worker = await started(bench.real())
    with pytest.raises(ProviderError, match="replies") as caught:
        await bound(worker, replies="not a list")
    assert caught.value.code is Code.INVALID_REQUEST
    assert worker.bindings.bound == set()


async def test_with_as_many_requests_as_it_may_have_a_worker_is_swamped(bench: Bench) -> None:
    worker = await started(bench.real(requests=2))
    await bound(worker, **HANGS)
    sink = FakeSink()
    generate(worker, 1, sink)
    assert not worker.swamped
    generate(worker, 2, sink)
    assert worker.swamped


async def test_a_worker_that_does_not_read_its_pipe_is_swamped(
    bench: Bench, hasty_stops: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "STDIN_MAX_BYTES", 1 << 20)
    worker = await started(bench.rude("boot(); time.sleep(600)"))
    assert not worker.swamped
    generate(worker, 1, FakeSink(), text="x" * (4 << 20))
    assert worker.swamped


async def test_the_workers_environment_and_arguments_hold_no_key(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "gsk_canary")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    program = "boot(); down(); up(wire.Chunk(1, repr([*os.environ.items(), *sys.argv]))); down()"
    worker = await started(bench.rude(program))
    sink = FakeSink()
    generate(worker, 1, sink)
    await sink.first_chunk(1)
    assert "HTTPS_PROXY" in sink.text(1)
    assert "GROQ_API_KEY" not in sink.text(1)
    assert "gsk_canary" not in sink.text(1)


# ---- death


@posix_only
async def test_killed_in_mid_stream_every_request_ends_once_and_says_how(bench: Bench) -> None:
    worker = await started(bench.real())
    await bound(worker, **HANGS)
    sink = FakeSink()
    for number in range(5):
        generate(worker, number, sink, stream=number % 2 == 0)
    for number in range(5):
        await sink.first_chunk(number)
    assert worker.pid is not None
    kill(worker.pid)
    for number in range(5):
        failure = await sink.failure(number)
        assert failure.code is Code.WORKER_CRASHED
        assert "Demo" in failure.message
        assert "signal 9 (SIGKILL)" in failure.message
    death = await bench.deaths.one()
    assert (death.code, death.returncode) == (Code.WORKER_CRASHED, -9)
    assert worker.state is WorkerState.DEAD
    assert worker.bindings.bound == set()
    assert len(worker.requests) == 0
    await soon(worker.stop())
    assert len(bench.deaths.heard) == 1


@posix_only
@pytest.mark.parametrize(
    ("pings_later", "code"),
    [
        pytest.param(0, Code.OUT_OF_MEMORY, id="just now"),
        pytest.param(2, Code.WORKER_CRASHED, id="long before"),
    ],
)
async def test_a_kill_is_the_system_s_if_it_ended_somebody_for_memory_just_now(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, pings_later: int, code: Code
) -> None:
    kills = [0]
    monkeypatch.setattr(spawn, "oom_kills", lambda: kills[0])
    worker = await started(bench.real())
    kills[0] += 1
    for serial in range(pings_later):
        worker.ping(serial)
    assert worker.pid is not None
    kill(worker.pid)
    death = await bench.deaths.one()
    assert (death.code, "ran out of memory" in death.words) == (code, code is Code.OUT_OF_MEMORY)


async def test_an_engine_that_ends_for_want_of_memory_comes_with_what_would_need_less(bench: Bench) -> None:
    last_words = b"memory allocation of 2097152 bytes failed\\n"
    dying = f"boot(); os.write(2, b'{last_words.decode()}'); down(); os._exit(134)"
    worker = await started(bench.rude(dying, provider=replace(PROVIDER, kind="engine")))
    sink = FakeSink()
    generate(worker, 1, sink)
    failure = await sink.failure(1)
    assert failure.code is Code.OUT_OF_MEMORY
    assert "status 134, its memory ran out. Load it with half the options.context_length" in failure.message


async def test_a_model_that_comes_and_goes_in_an_engine_is_known(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "supervisor")
    news = [f"up(wire.ModelNews('{event}', 'tiny'))" for event in ("loading", "loaded", "gone")]
    program = f"boot(); down(); {'; '.join(news)}; up(wire.Chunk(1, 'x'))\nwhile True: down()"
    worker = await started(bench.rude(program, provider=replace(PROVIDER, kind="engine")))
    sink = FakeSink()
    generate(worker, 1, sink)
    await sink.first_chunk(1)
    told = [line for line in caplog.messages if line.startswith("model ")]
    assert [line.partition(" provider=")[0] for line in told] == ["model loaded", "model gone"]
    assert all("None" not in line for line in told), "also the first one was sampled"


async def test_a_bind_in_progress_fails_with_the_death(bench: Bench) -> None:
    worker = await started(bench.rude("boot(); down(); os._exit(5)"))
    with pytest.raises(WorkerError, match="status 5") as caught:
        await bound(worker)
    assert caught.value.code is Code.WORKER_CRASHED


async def test_what_was_written_before_the_death_still_counts(bench: Bench) -> None:
    program = """
boot()
request = down().request
up(wire.Chunk(request, "last"), wire.Chunk(request, " words"), wire.Done(request, 0, "", b"{}"))
os._exit(1)
"""
    worker = await started(bench.rude(program))
    sink = FakeSink()
    generate(worker, 1, sink)
    assert (await sink.end(1)).failure is None
    assert sink.text(1) == "last words"
    assert (await bench.deaths.one()).returncode == 1


LAST_WORDS = {
    "a whole line": "Fatal: no memory, key=hunter2hunter2\\n",
    "a line without an end": "Fatal: no memory, key=hunter2hunter2",
}


@pytest.mark.parametrize("words", LAST_WORDS.values(), ids=LAST_WORDS.keys())
async def test_a_death_tells_the_last_words_without_a_key(bench: Bench, words: str) -> None:
    register_secret("hunter2hunter2")
    worker = await started(bench.rude(f"boot(); down(); os.write(2, b'{words}'); os._exit(3)"))
    sink = FakeSink()
    generate(worker, 1, sink)
    message = (await sink.failure(1)).message
    assert "status 3" in message
    assert "Fatal: no memory" in message
    assert "hunter2" not in message


@posix_only
async def test_a_grandchild_that_holds_the_pipes_does_not_delay_the_death(
    bench: Bench, tmp_path: Path
) -> None:
    pid_file = tmp_path / "grandchild.pid"
    program = f"""
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
boot()
down()
with open({str(pid_file)!r}, "w") as file:
    file.write(str(child.pid))
os._exit(9)
"""
    worker = await started(bench.rude(program))
    sink = FakeSink()
    generate(worker, 1, sink)
    try:
        assert "status 9" in (await sink.failure(1)).message
        assert (await bench.deaths.one()).returncode == 9
    finally:
        kill(int(pid_file.read_text(encoding="utf-8")))


@posix_only
async def test_what_a_worker_started_goes_with_it(bench: Bench) -> None:
    program = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
boot()
request = down().request
up(wire.Chunk(request, str(child.pid)))
down()
os._exit(9)
"""
    worker = await started(bench.rude(program))
    sink = FakeSink()
    generate(worker, 1, sink)
    await sink.first_chunk(1)
    grandchild = int(sink.text(1))
    worker.requests.credit(1, 1)  # its second frame: it leaves
    await bench.deaths.one()
    await gone(grandchild)


GARBAGE = {
    "a print": "os.write(1, b'Loading model...\\n')",
    "half a frame and a print": "os.write(1, wire.encode(wire.Alive(1))[:3] + b'oops' * 100)",
    "a huge length": "os.write(1, b'\\xff\\xff\\xff\\xff')",
    "a frame of the other direction": "os.write(1, wire.encode(wire.Cancel(1)))",
    "a Done of another shape": "up(wire.Done(request, 0, '', b'[]'))",
    "a code that there is not": "up(wire.Done(request, 999, '', b'{}'))",
    "a Bound of another shape": "up(wire.Bound(1, 0, '', b'7'))",
    "a Failed with a code that there is not": "up(wire.Failed(999, ''))",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_a_worker_that_writes_garbage_is_killed_and_its_requests_end(
    bench: Bench, garbage: str, hasty_stops: None
) -> None:
    program = f"""
boot()
assert type(down()) is wire.Bind
request = down().request
{garbage}
time.sleep(600)
"""
    worker = await started(bench.rude(program))
    binding = asyncio.ensure_future(
        worker.bindings.bind(Binding(1), verify=True, preload_model=None, on_progress=ignore_progress)
    )
    await asyncio.sleep(0)  # its frame is written
    sink = FakeSink()
    generate(worker, 1, sink)
    failure = await sink.failure(1)
    assert failure.code is Code.WORKER_CRASHED
    assert "its output is not our wire" in failure.message
    with pytest.raises(WorkerError, match="not our wire"):
        await soon(binding)
    await bench.deaths.one()
    await gone(worker.pid)


# ---- starts that fail


STARTS = {
    "another version": ("hello(version=99); down()", f"speaks wire 99, this supervisor {wire.VERSION}"),
    "another nonce": ("hello(nonce='guess'); down()", "Something else than our worker"),
    "garbage": ("os.write(1, b'hello from a .pth file\\n'); time.sleep(600)", "its output is not our wire"),
    "an early end": ("os._exit(4)", "status 4"),
    "an end after the hello": ("hello(); down(); os._exit(6)", "status 6"),
    "Failed": ("hello(); down(); up(wire.Failed(21, 'numpy does not import')); down()", "numpy does not"),
}


@pytest.mark.parametrize(("program", "words"), STARTS.values(), ids=STARTS.keys())
async def test_a_start_that_fails_says_why_and_leaves_no_process(
    bench: Bench, program: str, words: str, hasty_stops: None
) -> None:
    worker = bench.rude(program)
    with pytest.raises(WorkerError, match=words):
        await started(worker)
    assert worker.state is WorkerState.DEAD
    assert bench.deaths.heard == []
    await gone(worker.pid)


async def test_no_hello_in_time_is_a_failed_start(bench: Bench, hasty_stops: None) -> None:
    worker = bench.rude("time.sleep(600)", hello_s=0.2)
    with pytest.raises(WorkerError, match=r"The worker of Demo did not say hello within 0\.2 s\."):
        await started(worker)
    await gone(worker.pid)


async def test_no_ready_in_time_is_a_failed_start(bench: Bench, hasty_stops: None) -> None:
    worker = bench.rude("hello(); time.sleep(600)", ready_s=0.2)
    with pytest.raises(WorkerError, match=r"was not ready within 0\.2 s\."):
        await started(worker)
    await gone(worker.pid)


async def test_a_module_that_does_not_import_is_named(bench: Bench, tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "made", lame="import a_package_that_is_not_there\n")
    provider = Provider("lame", "Lame", "script", "lame", "base")
    worker = bench.real(checkout=checkout, provider=provider)
    with pytest.raises(WorkerError, match="a_package_that_is_not_there"):
        await started(worker)
    assert worker.state is WorkerState.DEAD


async def test_a_python_that_is_not_there_is_an_expected_failure(bench: Bench, tmp_path: Path) -> None:
    worker = Worker(
        PROVIDER,
        python=tmp_path / "no" / "python",
        site_packages=bench.site_packages,
        checkout=CHECKOUT,
        environment={},
        limits=WorkerLimits(),
        on_death=bench.deaths,
    )
    with pytest.raises((WorkerError, OSError)):
        await started(worker)
    assert worker.state is WorkerState.DEAD


async def test_a_cancelled_start_leaves_no_process(bench: Bench, hasty_stops: None) -> None:
    worker = bench.rude("hello(); time.sleep(600)")
    start = asyncio.ensure_future(worker.start())
    await soon(_pid_known(worker))
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(start)
    assert worker.state is WorkerState.DEAD
    await gone(worker.pid)


async def _pid_known(worker: Worker) -> None:
    while worker.pid is None:  # noqa: ASYNC110  # the worker has no event for it
        await asyncio.sleep(0.01)


# ---- stops


def _steps(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        r.getMessage().rpartition("step=")[2] for r in caplog.records if "worker stopped" in r.getMessage()
    ]


STOPS = {
    "asked": ("boot()\nwhile type(down()) is not wire.Shutdown: pass\nos._exit(0)", "asked"),
    "only at the end of stdin": ("boot()\nwhile True: down()", "asked"),
    "only when ended": ("boot(); time.sleep(600)", "ended"),
    "never": ("signal.signal(signal.SIGTERM, signal.SIG_IGN); boot()\nwhile True: time.sleep(600)", "killed"),
}


@posix_only
@pytest.mark.parametrize(("program", "step"), STOPS.values(), ids=STOPS.keys())
async def test_a_stop_goes_as_far_as_the_worker_needs(
    bench: Bench, program: str, step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if step != "asked":
        monkeypatch.setattr(stopping_module, "ASK_S", 0.1)
    if step == "killed":
        monkeypatch.setattr(stopping_module, "END_S", 0.1)
    caplog.set_level(logging.INFO, "supervisor")
    worker = await started(bench.rude(program))
    sink = FakeSink()
    generate(worker, 1, sink)
    await soon(worker.stop(), START_WAIT_S)
    assert _steps(caplog) == [step]
    assert (await sink.failure(1)).code is Code.INTERRUPT
    assert bench.deaths.heard == []
    await gone(worker.pid)


async def test_stop_can_be_called_twice_at_once_and_before_the_start(bench: Bench) -> None:
    worker = await started(bench.real())
    await soon(asyncio.gather(worker.stop(), worker.stop()))
    assert worker.state is WorkerState.DEAD
    never = bench.real()
    await soon(never.stop())
    assert never.state is WorkerState.DEAD


# ---- what it says on stderr


async def test_stderr_is_logged_line_by_line_bounded_and_under_the_workers_name(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "supervisor")
    program = """
boot()
os.write(2, b"one\\n\\ntwo ")
os.write(2, b"and a half\\n" + b"x" * 100_000 + b"\\n" + b"\\xff\\xfe\\n")
down()
os._exit(0)
"""
    worker = await started(bench.rude(program))
    generate(worker, 1, FakeSink())
    await bench.deaths.one()
    said = [r.getMessage() for r in caplog.records if "worker says provider=demo" in r.getMessage()]
    assert [line.partition("text=")[2] for line in said[:2]] == ["'one'", "'two and a half'"]
    assert len(said) == 4
    assert max(map(len, said)) < 10_000


def test_a_worker_is_told_where_an_operators_login_is_and_no_key() -> None:
    login = {"GOOGLE_APPLICATION_CREDENTIALS": "account.json", "CLOUDSDK_CONFIG": None}
    seen = worker_environment({"PATH": "bin", "GROQ_API_KEY": "of-the-operator"}, login)
    assert seen == {"PATH": "bin", "GOOGLE_APPLICATION_CREDENTIALS": "account.json"}


def test_the_text_of_a_login_is_a_key_and_is_in_no_environment() -> None:
    login = {"GOOGLE_APPLICATION_CREDENTIALS": '{"type": "service_account"}'}
    assert worker_environment({**login}, login) == {}

"""What an operator sees of the real module: its pages, the status command, its log for machines.

And the log's promise: whoever stops reading stderr holds up neither a stream nor the file.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from supervisor.catalog import load_catalog
from supervisor.home import find_home
from supervisor.provision import Recipe, provision
from supervisor.spawn import STAY_VARIABLE
from supervisor.version import VERSION
from tests.e2e.client import Client, connect
from tests.e2e.module import Installation, Module
from tests.wheelhouse import wait_until

WAIT_S: Final = 20.0
TOKEN: Final = "an-operators-token"


def get(module: Module, path: str, **headers: str) -> tuple[int, str, str]:
    """Status, content type and text, as Python's own client has them; no proxy is asked."""
    request = urllib.request.Request(f"http://127.0.0.1:{module.port}{path}", headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=WAIT_S) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.headers["Content-Type"], exc.read().decode()


async def fetched(module: Module, path: str, **headers: str) -> tuple[int, str, str]:
    """The same without blocking the loop."""
    return await asyncio.to_thread(get, module, path, **headers)


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of a page, by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def status_command(
    module: Module, *flags: str, stdout: int = subprocess.PIPE, **variables: str
) -> subprocess.Popen[str]:
    """The command, started as a person does."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TEMP") if name in os.environ}
    place = module.installation
    argv = [sys.executable, str(place.checkout / "supervisor"), "status", "--home", str(place.home)]
    return subprocess.Popen(
        [*argv, "--port", str(module.port), *flags],
        env={**kept, STAY_VARIABLE: "1", **variables},
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its exit code, stdout and stderr."""
    out, err = process.communicate(timeout=WAIT_S)
    return process.returncode, out, err


# ---- pages


async def test_the_pages_tell_of_what_was_done(openai: Client) -> None:
    module = openai.module
    before = samples((await fetched(module, "/metrics"))[2])
    done = ("waifu_llm_requests_total", frozenset({("provider", "openai"), ("code", "SUCCESS")}))
    assert (await openai.say()).code == "SUCCESS"
    assert await fetched(module, "/livez") == (200, "text/plain; charset=utf-8", "alive\n")
    assert (await fetched(module, "/readyz"))[::2] == (200, "ready\n")
    assert "worker provider=openai state=ready pid=" in (await fetched(module, "/readyz?verbose"))[2]
    mine = frozenset({("provider", "openai")})
    memory = "waifu_llm_worker_resident_memory_bytes"  # known as soon as its watch has looked once
    await asyncio.to_thread(wait_until, lambda: (memory, mine) in samples(get(module, "/metrics")[2]), memory)
    status, kind, text = await fetched(module, "/metrics")
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    found = samples(text)
    assert found[done] == before.get(done, 0) + 1
    assert found["waifu_llm_first_token_seconds_count", mine] >= 1
    assert found["waifu_llm_worker_up", mine] == 1
    assert found[memory, mine] > 1e6
    assert found["waifu_llm_supervisor_resident_memory_bytes", frozenset()] > 1e6
    assert found["waifu_llm_clients", frozenset()] == 1
    assert found["waifu_llm_build_info", frozenset({("version", VERSION)})] == 1


async def test_status_tells_of_the_supervisor_too(client: Client) -> None:
    answer = await client.ask({"type": "status", "unique_request_id": client.new_id()}, "status_done")
    assert answer["clients"] == 1
    assert answer["memory_bytes"] > 1_000_000
    assert answer["cpu_s"] > 0


async def test_pages_are_answered_when_every_place_is_taken(installation: Installation) -> None:
    with Module(installation, ("--set", "server.connections=1")) as module:
        async with connect(module):
            for path in ("/livez", "/readyz", "/metrics"):
                assert (await fetched(module, path))[0] == 200


def test_a_token_guards_what_tells_of_workers(installation: Installation) -> None:
    with Module(installation, variables={"WAIFU_LLM_TOKEN": TOKEN}) as module:
        statuses = {
            path: get(module, path)[0] for path in ("/livez", "/readyz", "/readyz?verbose", "/metrics")
        }
        assert statuses == {"/livez": 200, "/readyz": 200, "/readyz?verbose": 401, "/metrics": 401}
        assert get(module, "/metrics", Authorization=f"Bearer {TOKEN}")[0] == 200
        code, _, err = finished(status_command(module))
        assert (code, "WAIFU_LLM_TOKEN" in err) == (1, True)
        assert finished(status_command(module, WAIFU_LLM_TOKEN=TOKEN))[0] == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_curl_gets_the_pages_and_another_method_does_no_harm(module: Module) -> None:
    def curl(*flags: str) -> str:
        argv = ["curl", "--silent", "--noproxy", "*", "--max-time", "10", *flags]
        return subprocess.run(argv, capture_output=True, encoding="utf-8", timeout=WAIT_S, check=False).stdout

    url = f"http://127.0.0.1:{module.port}"
    assert curl("--include", f"{url}/livez").endswith("\n\nalive\n")
    assert list(text_string_to_metric_families(curl(f"{url}/metrics")))
    for flags in (["--head"], ["--data", "x=y"], ["--request", "DELETE"]):
        assert "alive" not in curl(*flags, f"{url}/livez")
    assert curl(f"{url}/livez") == "alive\n"
    assert "Traceback" not in module.log()


# ---- the status command


async def test_the_status_command_prints_a_table_or_json(openai: Client) -> None:
    await openai.say()
    code, out, err = await asyncio.to_thread(finished, status_command(openai.module))
    assert (code, err) == (0, "")
    headline, _, head, *rows = out.splitlines()
    assert headline.startswith(f"module {VERSION}, up ")
    assert "1 client besides this one" in headline
    assert head.split()[:4] == ["provider", "state", "pid", "up"]
    assert any(row.startswith("openai ") for row in rows)
    code, out, err = await asyncio.to_thread(finished, status_command(openai.module, "--json"))
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["clients"] == 2
    assert [w["state"] for w in report["workers"] if w["provider"] == "openai"] == ["ready"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_watch_goes_on_until_ctrl_c(module: Module) -> None:
    with status_command(module, "--watch", "--json") as process:
        assert process.stdout is not None
        reports = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        code, _, err = finished(process)
    assert (code, err) == (0, "")
    assert reports[1]["uptime_s"] > reports[0]["uptime_s"]


def test_watch_writes_over_a_terminal(module: Module) -> None:
    pty: Any = pytest.importorskip("pty", reason="this system has no pseudo terminals")
    ours, its = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        process = status_command(module, "--watch", TERM="xterm", stdout=its)
        os.close(its)
        shown = b""
        while shown.count(b"\x1b[H\x1b[2Jmodule ") < 2:
            shown += screen.read(4096)
        process.send_signal(signal.SIGINT)
        assert finished(process)[0] == 0


def test_the_status_of_a_module_that_has_ended_is_1(installation: Installation) -> None:
    with Module(installation) as module:
        module.process.terminate()
        module.wait()
        code, out, err = finished(status_command(module))
    assert (code, out) == (1, "")
    assert "no module listens at" in err


# ---- the log for machines


def entries(text: str) -> list[dict[str, Any]]:
    """Whole lines of JSON."""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def is_measured(module: Module) -> bool:
    """Whether a health line of a worker, and then one of the module, has told of memory."""
    told = [line for line in entries(module.stderr()) if line["event"] in ("worker health", "module health")]
    measured = [line["event"] for line in told if line["memory_mb"] is not None]
    return "worker health" in measured and measured[-1] == "module health"


async def test_every_line_of_the_json_log_has_its_fields_and_workers_tell_how_they_are(
    installation: Installation,
) -> None:
    flags = ("--log-format", "json", "--set", "health.interval_s=0.2")
    with Module(installation, flags) as module:
        async with connect(module) as client:
            assert (await client.load("demo"))["is_error"] is False
            pid = module.workers()[0].pid
            await asyncio.to_thread(wait_until, lambda: is_measured(module), "a health line with a measure")
        lines = entries(module.stderr())
    for line in lines:
        assert {"ts", "level", "logger", "event", "msg"} <= set(line), line
    by_event: Mapping[str, dict[str, Any]] = {line["event"]: line for line in lines}
    ready = by_event["worker ready"]
    assert (ready["provider"], ready["pid"]) == ("demo", pid)
    assert isinstance(ready["ms"], int)
    health = by_event["worker health"]
    assert (health["provider"], health["state"], health["pid"]) == ("demo", "ready", pid)
    assert isinstance(health["memory_mb"], int)
    assert health["last_error"] is None
    own = by_event["module health"]
    assert (own["clients"], own["log_lines_lost"]) == (1, 0)
    assert own["memory_mb"] > 1
    assert by_event["module ready"]["port"] == module.port


# ---- nobody reads

NOISY: Final = """
import sys
from collections.abc import AsyncIterator

from workers.adapter import Event, Request, Text
from workers.adapters.scripted import Scripted


class Noisy(Scripted):
    async def generate(self, request: Request) -> AsyncIterator[Event]:
        number = 0
        async for event in super().generate(request):
            if isinstance(event, Text):
                for _ in range(LINES):
                    sys.stderr.write("noise-%d-%s\\n" % (number, "x" * WIDTH))
                    number += 1
            yield event


ADAPTER = Noisy
"""
WORDS: Final = 52
LINES_A_WORD: Final = 50
WIDTH: Final = 1_850
"""Together ten megabytes of log, which has each text as a field and in its `msg`, at fewer than a thousand
lines a second."""
PACE_MS: Final = 60


@pytest.fixture
def noisy(unprovisioned: Installation, tmp_path: Path) -> Installation:
    """An installation whose provider `noisy` writes a hundred kilobytes to its stderr before each word."""
    checkout, home = tmp_path / "checkout", find_home(str(tmp_path / "hôme"), {})
    shutil.copytree(unprovisioned.checkout, checkout)
    text = NOISY.replace("LINES", str(LINES_A_WORD)).replace("WIDTH", str(WIDTH))
    (checkout / "workers" / "adapters" / "noisy.py").write_text(text, encoding="utf-8")
    table = '[provider.noisy]\nname = "Noisy"\nkind = "script"\nadapter = "noisy"\nenv = "base"\n'
    home.local_catalog.write_text(f'{table}default_model = "demo"\n', encoding="utf-8")
    base = load_catalog(checkout / "venvs.toml").envs["base"]
    recipe = Recipe("base", checkout / "locks" / "base.txt", base.imports)
    provision(home, recipe, wheelhouse=unprovisioned.wheels)
    return Installation(checkout, home.root, unprovisioned.wheels)


@pytest.fixture
def unread() -> Iterator[tuple[int, int]]:
    """A pipe: the end that nobody reads, and the one to write to."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)


async def test_ten_megabytes_of_log_that_nobody_reads_hold_up_neither_a_stream_nor_the_file(
    noisy: Installation, unread: tuple[int, int]
) -> None:
    reader, writer = unread
    with os.fdopen(writer, "wb") as stderr:
        module = Module(noisy, ("--log-format", "json"), stderr_end=stderr)
        module.start()
    try:
        words = " ".join(f"w{number}" for number in range(WORDS))
        async with connect(module) as client:
            done = await client.load("noisy", options={"replies": [{"text": words, "delay_ms": PACE_MS}]})
            assert done["is_error"] is False, done
            reply = await client.say(timeout_s=WAIT_S * 2)
            assert (reply.code, reply.text) == ("SUCCESS", words)
            noise = {f"noise-{number}-" for number in range(WORDS * LINES_A_WORD)}
            await asyncio.to_thread(wait_until, lambda: noise == logged(module), "the file's lines")
            lost = await lost_lines(module)
            assert lost > 0
            assert await asyncio.to_thread(read_until_the_loss, reader) == lost
    finally:
        module.stop()


def logged(module: Module) -> set[str]:
    """Which lines of the noise are in the log's files."""
    return set(re.findall(r"noise-\d+-", module.log()))


async def lost_lines(module: Module) -> int:
    """How many lines stderr has lost, as /metrics says; the file has lost none."""
    found = samples((await fetched(module, "/metrics"))[2])
    lost = {
        sink: found["waifu_llm_log_lines_lost_total", frozenset({("sink", sink)})]
        for sink in ("file", "stderr")
    }
    assert lost["file"] == 0
    return int(lost["stderr"])


def read_until_the_loss(reader: int) -> int:
    """Reads stderr at last; returns the number in the one line that tells what was lost."""
    with os.fdopen(os.dup(reader), encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            if entry["event"] == "log lines lost":
                return int(entry["n"])
    raise AssertionError("it was not told")

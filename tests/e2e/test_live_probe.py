"""`supervisor probe` as a person runs it: the real module, the demo, and providers that behave badly.

The providers' side is the fake of the OpenAI wire. Whatever happens is a row and an exit code, never a
traceback, and no key is in anything that the command or its module wrote.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
import pytest

from supervisor.home import find_home
from supervisor.live_checks import NO_KEY, TITLES
from supervisor.spawn import STAY_VARIABLE
from supervisor.version import VERSION
from tests.e2e.hostile import make_hostile
from tests.e2e.module import Installation
from tests.e2e.upstream import Upstream
from tests.fakes.openai_server import Behaviour, Exchange, Step
from tests.fakes.wire import JSON
from tests.wheelhouse import CHECKOUT, wait_until

PATIENCE_S: Final = 30.0
"""For a probe: a module, a worker, six checks."""
KEY: Final = "canary0123456789abcdefprobe"
MODEL: Final = "fake-small"
OPENAI: Final = ("--llm", "openai", "--model", MODEL)
VERDICTS: Final = ("ok", "failed", "skipped")

STUBBORN: Final = '''
import asyncio, time
from workers.adapter import Adapter, Finish, Text
class Stubborn(Adapter):
    """Does not let go: it holds the loop for longer than the module waits for the end of a request."""
    async def generate(self, request):
        try:
            yield Text("piece")
            if request.max_output_length > 100:
                await asyncio.Event().wait()
            yield Finish("length")
        finally:
            time.sleep(2 if request.max_output_length > 100 else 0)
ADAPTER = Stubborn
'''


@dataclass(frozen=True)
class Printed:
    """What a probe left behind."""

    code: int
    out: str
    err: str
    log: str = field(repr=False)

    @property
    def rows(self) -> dict[str, tuple[str, str]]:
        """The checks: title → verdict and text; of several providers the last one's."""
        found = {}
        for line in self.out.splitlines():
            word, _, rest = line.partition(" ")
            title = next((name for name in TITLES if rest.lstrip().startswith(name)), None)
            if word in VERDICTS and title is not None:
                found[title] = (word, rest.lstrip().removeprefix(title).strip())
        return found

    @property
    def verdicts(self) -> str:
        """All verdicts in order, by their first letters."""
        return "".join(self.rows[title][0][0] for title in TITLES)

    @property
    def table(self) -> list[dict[str, str]]:
        """The Markdown table, a dictionary for each row. A title that is there twice is the check's."""
        lines = [line.strip("| ").split(" | ") for line in self.out.splitlines() if line.startswith("| ")]
        head, rule, *rows = lines
        assert set(rule) == {"---"}
        assert {len(row) for row in lines} == {len(head)}
        return [dict(zip(head, row, strict=True)) for row in rows]


def start(place: Installation, *flags: str, **variables: str) -> subprocess.Popen[str]:
    """The command, started as a person does."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TEMP") if name in os.environ}
    argv = [sys.executable, str(place.checkout / "supervisor"), "probe", "--home", str(place.home), *flags]
    return subprocess.Popen(
        argv,
        env={**kept, STAY_VARIABLE: "1", "PYTHONUTF8": "1", **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def finished(place: Installation, process: subprocess.Popen[str]) -> Printed:
    """What it left, and that none of it is a key or a traceback."""
    with process:
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    log = "".join(p.read_text(encoding="utf-8") for p in sorted((place.home / "logs").glob("*")))
    assert KEY not in out + err + log
    assert "Traceback" not in out + err
    return Printed(process.returncode, out, err, log)


async def probed(place: Installation, *flags: str, **variables: str) -> Printed:
    """A probe to its end, while the upstream serves."""
    return await asyncio.to_thread(lambda: finished(place, start(place, *flags, **variables)))


def probe(place: Installation, *flags: str, **variables: str) -> Printed:
    """A probe of somebody who needs no upstream."""
    return finished(place, start(place, *flags, **variables))


# ---- the demo


def test_the_demo_passes_without_any_key(installation: Installation) -> None:
    done = probe(installation, "--llm", "demo")
    assert (done.code, done.verdicts) == (0, "ooooso"), done.out
    assert done.rows["bad key"] == ("skipped", "it takes no key")
    assert "it has: demo. [INVALID_MODEL]" in done.rows["wrong model"][1]
    assert "asked for 206 tokens of reply at most, in 3 requests" in done.out


def test_the_row_to_report_says_everything_and_where_it_goes(installation: Installation) -> None:
    done = probe(installation, "--llm", "demo")
    (row,) = done.table
    assert {"provider": "demo", "model": "demo", "module": VERSION}.items() <= row.items()
    assert row["Python"] == platform.python_version()
    assert all(row[f"{figure} ms"].isdecimal() for figure in ("load", "first token", "interrupt"))
    assert {row[title] for title in TITLES} == {"ok", "skipped"}
    assert '[provider.demo] in venvs.toml then says\n    tried = "YOUR NAME, 2' in done.out
    assert 'README.md, "Reporting a probe"' in done.out
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    assert "\n### Reporting a probe\n" in readme


def test_several_make_a_row_each(installation: Installation) -> None:
    done = probe(installation, "--llm", "demo,openai", "--llm", "demo")
    assert [row["provider"] for row in done.table] == ["demo", "openai"]
    assert done.code == 1


def test_nothing_is_left_running(installation: Installation) -> None:
    with start(installation, "--llm", "demo") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Demo")
        family = psutil.Process(process.pid).children(recursive=True)
        process.communicate(timeout=PATIENCE_S)
    assert family
    wait_until(lambda: not _alive(family), "the end of the module")


def _alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    alive = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
    return alive


# ---- a provider, well and badly


@pytest.fixture
async def cloud(upstream: Upstream) -> AsyncIterator[Upstream]:
    """An OpenAI with which all is well: one key, two models, and a long reply that would never end."""
    upstream.models = models_for_the_key
    upstream.script = [Behaviour(texts=("Hi", "!")), Behaviour(gate_after=2), no_such_model()]
    yield upstream


async def models_for_the_key(exchange: Exchange) -> None:
    """The list of models, for whoever has the key."""
    if exchange.request.key != KEY:
        await refuse(exchange)
        return
    server = exchange.server
    body = server.wire.models(server.model_names, exchange.request)
    await exchange.head(200, {"Content-Type": JSON}, length=len(body))
    await exchange.send(body)


async def refuse(exchange: Exchange) -> None:
    """401, with the key in its text: some providers do that."""
    message = f"Incorrect API key provided: {exchange.request.key}"
    body = json.dumps({"error": {"message": message, "code": "invalid_api_key"}}).encode()
    await exchange.head(401, {"Content-Type": JSON}, length=len(body))
    await exchange.send(body)


def no_such_model() -> Behaviour:
    """As OpenAI answers to a name that it does not know."""
    body = {"error": {"message": "The model `fake-small-nope` does not exist", "code": "model_not_found"}}
    return Behaviour(status=404, body=json.dumps(body).encode())


def reach(upstream: Upstream, **variables: str) -> Mapping[str, str]:
    """The variables of somebody with a key, whose OpenAI is the upstream."""
    return {"OPENAI_BASE_URL": upstream.base_url, "OPENAI_API_KEY": KEY, **variables}


async def test_a_provider_that_is_well_passes_every_check(
    installation: Installation, cloud: Upstream
) -> None:
    done = await probed(installation, *OPENAI, **reach(cloud))
    assert (done.code, done.verdicts) == (0, "oooooo"), done.out
    assert "near ones: fake-small" in done.rows["wrong model"][1]
    assert "upstream_closed_ms" in done.rows["interrupt"][1]
    assert done.rows["models"][1] == "2 listed, fake-small among them"
    assert [request.key for request in cloud.lists] == [KEY, NO_KEY]
    bodies = [request.body for request in cloud.requests]
    assert [body["model"] for body in bodies] == [MODEL, MODEL, "fake-small-nope"]
    assert [body["max_completion_tokens"] for body in bodies] == [5, 200, 1]
    await cloud.closed(1)


async def test_a_thinking_model_may_cost_more_and_that_is_said(
    installation: Installation, cloud: Upstream
) -> None:
    done = await probed(installation, *OPENAI, **reach(cloud))
    assert "in 3 requests, and 2048 more in each if the model thinks; it counted 7 in and 3 out" in done.out


async def test_the_key_may_stand_in_a_variable_of_another_name(
    installation: Installation, cloud: Upstream
) -> None:
    variables = {"OPENAI_BASE_URL": cloud.base_url, "SOMETHING": KEY}
    done = await probed(installation, *OPENAI, "--key-from", "SOMETHING", **variables)
    assert (done.code, done.verdicts) == (0, "oooooo"), done.out
    assert cloud.requests[0].key == KEY


async def test_a_key_that_is_refused_is_a_row_and_still_a_proof_of_the_refusal(
    installation: Installation, cloud: Upstream
) -> None:
    done = await probed(installation, *OPENAI, **{**reach(cloud), "OPENAI_API_KEY": f"{KEY}-old"})
    assert (done.code, done.verdicts) == (1, "fsssos"), done.out
    assert "[AUTHORIZATION, status 401]" in done.rows["load"][1]
    assert "nothing was generated" in done.out
    assert cloud.requests == []


async def test_without_a_key_the_row_names_the_variable(installation: Installation, cloud: Upstream) -> None:
    done = await probed(installation, *OPENAI, OPENAI_BASE_URL=cloud.base_url)
    assert (done.code, done.verdicts) == (1, "fsssos"), done.out
    assert "OPENAI_API_KEY" in done.rows["load"][1]
    assert "[provider.openai] in venvs.toml stays as it is" in done.out


def behaviours(name: str, step: Step) -> list[Step]:
    """The script of a well-behaved provider, with another answer to one of the three requests."""
    usual: dict[str, Step] = {
        "stream": Behaviour(),
        "interrupt": Behaviour(gate_after=2),
        "wrong model": no_such_model(),
    }
    script = {**usual, name: step}
    if name == "stream":
        del script["interrupt"]  # which is not asked for then
    return list(script.values())


SLOW_DOWN: Final = b'{"error": {"message": "slow down"}}'
FAULTS: Final[dict[str, tuple[str, Step, str, str]]] = {
    "no credit": ("stream", Behaviour(status=402, body=b"{}"), "oofsoo", "[QUOTA, status 402]"),
    "too many requests": (
        *("stream", Behaviour(status=429, body=SLOW_DOWN, headers={"Retry-After": "3600"})),
        *("oofsoo", "[RATE_LIMITED, status 429]"),
    ),
    "an outage": ("stream", Behaviour(status=500, body=b"{}"), "oofsoo", "[UPSTREAM_ERROR, status 500]"),
    "a web page": (
        *("stream", Behaviour(body=b"<html>", headers={"Content-Type": "text/html"})),
        *("oofsoo", "[UPSTREAM_PROTOCOL"),
    ),
    "a cut stream": ("stream", Behaviour(cut_after=1, cut="rst"), "oofsoo", "[TRUNCATED"),
    "a reply of thoughts alone": ("stream", Behaviour(texts=(), reasoning=("hm",)), "oofsoo", "EMPTY_REPLY"),
    "a stream that never begins": ("stream", Behaviour(gate_before_head=True), "oofsoo", "[TIMEOUT"),
    "a long reply that is short": ("interrupt", Behaviour(), "ooosoo", "was over before"),
    "a long reply that fails": (
        *("interrupt", Behaviour(status=503, body=b"{}", headers={"Retry-After": "3600"})),
        *("ooofoo", "the long reply failed"),
    ),
    "any name is taken for a model": ("wrong model", Behaviour(), "ooooof", "answered to the name"),
    "a wrong model is a bad prompt": (
        *("wrong model", Behaviour(status=400, body=b'{"error": {"message": "bad"}}')),
        *("ooooof", "this should be INVALID_MODEL"),
    ),
}


@pytest.mark.parametrize(("title", "step", "expected", "said"), FAULTS.values(), ids=FAULTS.keys())
async def test_whatever_the_provider_does_is_a_row(
    installation: Installation, cloud: Upstream, title: str, step: Step, expected: str, said: str
) -> None:
    cloud.script = behaviours(title, step)
    variables = reach(cloud, WAIFU_LLM_REQUESTS_TIMEOUT_MS="1500")
    done = await probed(installation, *OPENAI, **variables)
    assert done.verdicts == expected, done.out
    assert said in done.rows[title][1]
    assert done.code == (1 if "f" in expected else 0)
    assert [row[title] for row in done.table] == [done.rows[title][0]]


async def test_a_list_that_is_open_to_everybody_is_no_check_of_a_key(
    installation: Installation, cloud: Upstream
) -> None:
    cloud.models = Behaviour(body=b'{"data": [{"id": "fake-small"}]}')
    done = await probed(installation, *OPENAI, **reach(cloud))
    assert (done.code, done.verdicts) == (1, "oooofo"), done.out


async def test_nobody_there_is_a_row(installation: Installation) -> None:
    done = await probed(installation, *OPENAI, OPENAI_BASE_URL="http://127.0.0.1:9/v1", OPENAI_API_KEY=KEY)
    assert (done.code, done.verdicts) == (1, "fsssss"), done.out
    assert "[UNREACHABLE]" in done.rows["load"][1]


# ---- workers and modules that misbehave


@pytest.fixture(scope="module")
def stubborn(unprovisioned: Installation, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """An installation whose provider `stubborn` does not let go of a request."""
    place = make_hostile(unprovisioned, tmp_path_factory.mktemp("stubborn hôme"))
    (place.checkout / "workers" / "adapters" / "stubborn.py").write_text(STUBBORN, encoding="utf-8")
    table = (
        "\n[provider.stubborn]\nkind = 'script'\nadapter = 'stubborn'\nenv = 'base'\ndefault_model = 'x'\n"
    )
    with find_home(str(place.home), {}).local_catalog.open("a", encoding="utf-8") as file:
        file.write(table)
    return place


def test_a_worker_that_does_not_let_go_fails_the_interrupt(stubborn: Installation) -> None:
    done = probe(stubborn, "--llm", "stubborn")
    assert done.rows["interrupt"][0] == "failed", done.out
    assert "the provider's connection was not closed by then" in done.rows["interrupt"][1]
    assert done.rows["wrong model"][0] == "failed"  # it answers to any name
    assert done.code == 1


def test_a_worker_that_cannot_start_is_a_row(stubborn: Installation) -> None:
    done = probe(stubborn, "--llm", "lame")
    assert (done.code, done.verdicts) == (1, "fsssss"), done.out


@pytest.fixture
async def begun(cloud: Upstream) -> asyncio.Event:
    """Set when the first generation has arrived, which then hangs."""
    event = asyncio.Event()

    async def hang(exchange: Exchange) -> None:
        event.set()
        await exchange.server.gate.wait()

    cloud.script = [hang]
    return event


async def test_a_module_that_is_killed_is_a_row(
    installation: Installation, cloud: Upstream, begun: asyncio.Event
) -> None:
    process = start(installation, *OPENAI, **reach(cloud))
    finish = asyncio.create_task(asyncio.to_thread(finished, installation, process))
    await asyncio.wait_for(begun.wait(), PATIENCE_S)
    (module,) = psutil.Process(process.pid).children()
    module.kill()
    done = await finish
    assert (done.code, done.verdicts) == (1, "oofsss"), done.out
    assert "the module closed the connection" in done.rows["stream"][1]
    await cloud.closed(0)


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to one process")
async def test_ctrl_c_ends_it_and_its_module(
    installation: Installation, cloud: Upstream, begun: asyncio.Event
) -> None:
    process = start(installation, *OPENAI, **reach(cloud))
    finish = asyncio.create_task(asyncio.to_thread(finished, installation, process))
    await asyncio.wait_for(begun.wait(), PATIENCE_S)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    done = await finish
    assert (done.code, done.err.splitlines()[-1]) == (130, "probe: interrupted")
    assert not _alive(family)


# ---- what is missing or wrong before it starts


def test_an_environment_that_is_missing_is_made_and_left_out_of_the_figure(own_home: Installation) -> None:
    done = probe(own_home, "--llm", "demo", WAIFU_LLM_WHEELHOUSE=str(own_home.wheels))
    assert (done.code, done.verdicts) == (0, "ooooso"), done.out
    assert "its environment was made first" in done.rows["load"][1]


def test_a_large_environment_is_not_made_in_passing(own_home: Installation) -> None:
    local = find_home(str(own_home.home), {}).local_catalog
    local.write_text("[env.base]\nheavy = true\n", encoding="utf-8")
    done = probe(own_home, "--llm", "demo")
    assert (done.code, done.verdicts) == (1, "fsssss"), done.out
    assert "run: python install.py --llm demo" in done.rows["load"][1]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        pytest.param(("--llm", "gorq"), "did you mean groq?", id="nobody of that name"),
        pytest.param(("--llm", ","), "names nobody", id="no name"),
        pytest.param((), "--llm", id="no flag"),
        pytest.param(("--llm", "demo", "--key-from", "NOT_SET"), "--key-from NOT_SET", id="no such variable"),
        pytest.param(("--llm", "demo,groq", "--model", "x"), "one at a time", id="one model for two"),
        pytest.param(("--llm", "demo", "--lm", "x"), "unrecognized arguments", id="an unknown flag"),
    ],
)
def test_what_means_nothing_is_2_before_anything_starts(
    own_home: Installation, flags: tuple[str, ...], said: str
) -> None:
    done = probe(own_home, *flags)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert not list((own_home.home / "logs").glob("*.log"))


def test_a_module_that_does_not_start_lends_its_code(own_home: Installation, tmp_path: Path) -> None:
    settings = find_home(str(own_home.home), {}).settings
    settings.write_text("host = '203.0.113.7'\ntoken = 'a-canary-token'\n", encoding="utf-8")
    done = probe(own_home, "--llm", "demo", WAIFU_LLM_SERVER_CONNECTIONS="1", WAIFU_LLM_PORT="none")
    assert (done.code, done.out) == (2, "")
    assert "the port must be from 0 to 65535" in done.err

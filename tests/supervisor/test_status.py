"""`supervisor status` against a real socket: what it prints, and what it says when there is nothing to print.

tests/e2e/test_operators.py asks the real module.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import pytest

from supervisor import status
from supervisor.access import Access
from supervisor.config import load_settings
from supervisor.health import WorkerHealth
from supervisor.status import _can_be_cleared, _duration, _table, main
from tests.supervisor.fakes import ServerUnderTest, serving, soon

REPORT: dict[str, Any] = {
    "version": "1.2.3",
    "uptime_s": 4_000.0,
    "clients": 3,
    "memory_bytes": 25_400_000,
    "cpu_s": 1.5,
    "workers": [
        WorkerHealth(
            "groq",
            "ready",
            41,
            uptime_s=125.0,
            restarts=2,
            open_requests=1,
            finished_requests=12,
            condition="well",
            heartbeat_ms=0.42,
            memory_bytes=34_400_000,
            cpu_s=1.5,
            cpu_percent=0.31,
        ).fields(),
        WorkerHealth("demo", "down", restarts=5, last_error="it died\x1b[2J of\nthis").fields(),
    ],
}
DONE = json.dumps({"type": "status_done", "is_error": False, "error": 0, **REPORT})


# ---- the table


def test_the_table_has_a_line_for_the_module_and_one_for_each_worker() -> None:
    assert _table(REPORT).splitlines() == [
        "module 1.2.3, up 1 h 6 min, 2 clients besides this one, 24 MB",
        "",
        "provider  state  pid  up     memory  cpu    open  done  restarts  heartbeat    last error",
        "groq      ready  41   2 min  33 MB   0.3 %  1     12    2         well 0.4 ms  -",
        "demo      down   -    -      -       -      0     0     5         -            it died [2J of this",
    ]


def test_without_a_worker_it_says_so() -> None:
    assert _table({**REPORT, "workers": [], "clients": 2}).splitlines() == [
        "module 1.2.3, up 1 h 6 min, 1 client besides this one, 24 MB",
        "",
        "no provider is loaded",
    ]


def test_an_older_module_that_tells_less_is_shown_all_the_same() -> None:
    worker = {name: REPORT["workers"][0][name] for name in ("provider", "state", "pid", "uptime_s")}
    worker |= {"restarts": 0, "open_requests": 0, "finished_requests": 0, "last_error": None, "cpu_s": 0.25}
    lines = _table({"version": "0.1.0", "uptime_s": 3.2, "workers": [worker]}).splitlines()
    assert lines[0] == "module 0.1.0, up 3 s"
    assert " ".join(lines[-1].split()) == "groq ready 41 2 min - 0.2 s 0 0 0 - -"


class Terminal(io.StringIO):
    """A stdout that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_line_is_cut_to_the_width_of_a_terminal_and_of_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = {**REPORT, "workers": [WorkerHealth("demo", "down", last_error="x" * 500).fields()]}
    assert "x" * 500 in _table(long)
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "100")
    assert [len(line) <= 99 for line in _table(long).splitlines()] == [True] * 4
    assert _table(long).endswith("x" * 10)


DURATIONS = {0.4: "0 s", 59.9: "59 s", 60: "1 min", 3599: "59 min", 12_000: "3 h 20 min", 187_300: "2 d 4 h"}


@pytest.mark.parametrize(("seconds", "text"), DURATIONS.items())
def test_a_duration_has_the_units_that_a_person_wants(seconds: float, text: str) -> None:
    assert _duration(seconds) == text


@pytest.mark.parametrize(
    ("variables", "cleared"),
    [
        pytest.param({"TERM": "xterm-256color"}, True, id="a terminal"),
        pytest.param({"TERM": "dumb"}, False, id="a dumb one"),
        pytest.param({}, False, id="an old Windows console"),
        pytest.param({"WT_SESSION": "1"}, True, id="Windows Terminal"),
    ],
)
def test_only_a_terminal_that_knows_how_is_cleared(
    monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str], cleared: bool
) -> None:
    for name in ("TERM", "WT_SESSION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert not _can_be_cleared()
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert _can_be_cleared() is cleared


# ---- asking


@contextlib.contextmanager
def printed(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """What is written to stdout and stderr meanwhile."""
    out, err = io.StringIO(), io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        yield out, err


async def asked(monkeypatch: pytest.MonkeyPatch, *flags: str) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of the command."""
    with printed(monkeypatch) as (out, err):
        code = await soon(asyncio.to_thread(main, flags), 20)
    return code, out.getvalue(), err.getvalue()


@contextlib.asynccontextmanager
async def listening(access: Access | None = None) -> AsyncIterator[ServerUnderTest]:
    """A server whose clients say only what a test says."""
    async with serving(access) as server:
        server.echo = False
        yield server


async def answering(server: ServerUnderTest, *answers: str) -> list[bytes]:
    """Answers the messages of the next client, one each, and then closes; returns what it said."""
    client = await server.client()
    said = []
    for answer in answers:
        said.append(await client.next_message())
        client.connection.send(answer.encode())
    await soon(client.left.wait())
    return said


async def test_it_sends_status_and_prints_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening() as server:
        answers = asyncio.create_task(answering(server, DONE))
        code, out, err = await asked(monkeypatch, "--port", str(server.port))
        assert (code, out, err) == (0, _table(REPORT) + "\n", "")
        assert await answers == [b'{"type":"status"}']


async def test_json_is_one_line_of_what_the_module_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening() as server:
        answers = asyncio.create_task(answering(server, DONE))
        code, out, _ = await asked(monkeypatch, "--json", "--url", server.uri)
        assert code == 0
        assert json.loads(out) == REPORT
        await answers


async def test_the_port_and_the_token_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(Access(token="a-secret-token")) as server:
        monkeypatch.setenv("WAIFU_LLM_PORT", str(server.port))
        code, out, err = await asked(monkeypatch)
        assert (code, out) == (1, "")
        assert "set WAIFU_LLM_TOKEN" in err
        monkeypatch.setenv("WAIFU_LLM_TOKEN", "a-secret-token")
        answers = asyncio.create_task(answering(server, DONE))
        assert (await asked(monkeypatch))[0] == 0
        await answers


async def test_watch_asks_again_on_the_same_connection_until_the_module_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(status, "REFRESH_S", 0.01)
    async with listening() as server:

        async def answer_three_times() -> None:
            client = await server.client()
            for _ in range(3):
                await client.next_message()
                client.connection.send(DONE.encode())
            await client.next_message()
            client.connection.close()

        answers = asyncio.create_task(answer_three_times())
        code, out, err = await asked(monkeypatch, "--watch", "--port", str(server.port))
        assert (code, out) == (1, (_table(REPORT) + "\n") * 3)
        assert err == "status: the module closed the connection; its log says why\n"
        assert len(server.clients) == 1
        await answers


async def test_a_module_that_does_not_answer_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(status, "ANSWER_S", 0.1)
    async with listening() as server:
        answers = asyncio.create_task(answering(server))
        code, out, err = await asked(monkeypatch, "--port", str(server.port))
        assert (code, out) == (1, "")
        assert "did not answer within 0.1 s" in err
        await answers


STRANGE = {"not json": "hello", "another message": '{"type":"error"}', "not an object": "[1]"}


@pytest.mark.parametrize("answer", STRANGE.values(), ids=STRANGE.keys())
async def test_an_answer_that_is_none_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    async with listening() as server:
        answers = asyncio.create_task(answering(server, answer))
        code, out, err = await asked(monkeypatch, "--port", str(server.port))
        assert (code, out) == (1, "")
        assert err.startswith("status: what listens there ")
        await answers


# ---- nobody there


async def test_where_nothing_listens_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        code, out, err = await asked(monkeypatch, "--port", str(port))
    assert (code, out) == (1, "")
    assert f"no module listens at ws://127.0.0.1:{port}" in err
    assert "python install.py --run" in err
    assert len(err.splitlines()) == 1


REPLIES = {
    "a web server": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "noise": b"\x00\xff" * 100,
    "silence": b"",
}


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES.keys())
async def test_what_is_not_our_module_is_named_so(monkeypatch: pytest.MonkeyPatch, reply: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        code, out, err = await asked(monkeypatch, "--port", str(port))
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "is not this module" in err or "does not let us in" in err


BAD = {
    "a port that is none": ["--port", "0"],
    "a large port": ["--port", "65536"],
    "an unknown flag": ["--wat"],
}


@pytest.mark.parametrize("flags", BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_2(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(flags)
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "ws://127.0.0.1:99999"])
def test_a_url_of_another_kind_is_2(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", url]) == 2
    assert "is not a WebSocket URL" in capsys.readouterr().err


ADDRESSES: dict[str, str] = {
    "127.0.0.1": "ws://127.0.0.1:7562",
    "0.0.0.0": "ws://127.0.0.1:7562",  # noqa: S104  # what a module may bind
    "::": "ws://[::1]:7562",
    "box.lan": "ws://box.lan:7562",
}


@pytest.mark.parametrize(("host", "url"), ADDRESSES.items())
def test_what_a_module_binds_is_made_an_address_to_call(
    make_url: Callable[[str], str], host: str, url: str
) -> None:
    assert make_url(host) == url


@pytest.fixture
def make_url(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """The URL that the settings of a module on that host give."""

    def url(host: str) -> str:
        monkeypatch.setenv("WAIFU_LLM_HOST", host)
        monkeypatch.setenv("WAIFU_LLM_TOKEN", "a-secret-token")
        return status._url(load_settings([], os.environ, status.CHECKOUT), None)

    return url

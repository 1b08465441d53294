"""An application that spawns the module, seen from outside: started, obeyed by, killed, and cleared away.

    with Application("node", argv, env={}) as application:
        ready = application.ready()
        application.order("SIGINT")
        application.ended().code

The applications are application.mjs and application.py, which do the same in their own languages.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_websocket

from tests.wheelhouse import PATIENCE_S, wait_until

__all__ = ["LANGUAGES", "Application", "Ended", "Talk", "gone", "talk_to"]

FOLDER: Final = Path(__file__).resolve().parent
NODE: Final = shutil.which("node")
LANGUAGES: Final = (
    pytest.param(
        "node", marks=pytest.mark.skipif(NODE is None, reason="node is not on PATH; python proves the same")
    ),
    "python",
)
PROGRAMS: Final = {
    "node": [str(NODE), str(FOLDER / "application.mjs")],
    "python": [sys.executable, str(FOLDER / "application.py")],
}


@dataclass(frozen=True, slots=True)
class Ended:
    """How the spawned program ended."""

    code: int | None
    signal: str | None
    stderr: str


class Application:
    """A running application and the one program that it spawned."""

    def __init__(
        self,
        language: str,
        argv: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        stdin: str = "pipe",
        reads: str = "everything",
        detached: bool = False,
    ) -> None:
        """`stdin`: pipe, ignore. `reads`: everything, the ready line, nothing. `{pid}` is its own pid."""
        plan = {
            "argv": list(argv),
            "cwd": str(cwd),
            "env": dict(env or {}),
            "stdin": stdin,
            "reads": reads,
            "detached": detached,
        }
        self._process = subprocess.Popen(
            [*PROGRAMS[language], json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.module = psutil.Process(self._next("spawned")["pid"])
        self._family = [self.module]

    def __enter__(self) -> Application:
        return self

    def __exit__(self, *exc: object) -> None:
        self.family()
        self.kill()
        for process in self._family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._events.put(json.loads(line))
        self._events.put({"event": "the application's end"})

    def _next(self, wanted: str) -> dict[str, Any]:
        event = self._events.get(timeout=PATIENCE_S)
        assert event["event"] == wanted, event
        return event

    def ready(self) -> dict[str, Any]:
        """The ready line, which is the first of its stdout."""
        line: dict[str, Any] = json.loads(self._next("line")["line"])
        assert line["event"] == "ready"
        return line

    def order(self, what: str) -> None:
        """`end stdin`, `close stdout`, or the name of a signal that it sends to the module."""
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()

    def ended(self) -> Ended:
        """Waits for the end of the module, after which the application leaves; nothing of it may be left."""
        event = self._next("exit")
        assert gone(self._family)
        return Ended(event["code"], event["signal"], event["stderr"])

    def family(self) -> list[psutil.Process]:
        """The module and everything below it, now; its end is waited for later."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._family = [self.module, *self.module.children(recursive=True)]
        return self._family

    def kill(self) -> None:
        """Ends the application alone, so that it can do nothing for its child."""
        self._process.kill()
        self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def gone(processes: Sequence[psutil.Process]) -> bool:
    """Waits until none of these runs any more."""
    wait_until(lambda: not any(map(_runs, processes)), f"the end of {[p.pid for p in processes]}")
    return True


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Talk:
    """A conversation with the demo, in the plainest way."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    def send(self, **message: object) -> None:
        """Sends a request."""
        self._connection.send(json.dumps(message))

    def next(self, kind: str) -> dict[str, Any]:
        """The next message of that type."""
        while True:
            message: dict[str, Any] = json.loads(self._connection.recv(timeout=PATIENCE_S))
            if message["type"] == kind:
                return message

    def load(self, *replies: Mapping[str, Any]) -> None:
        """Loads the demo with a script of those replies, or with its own."""
        options = {"options": {"replies": list(replies)}} if replies else {}
        self.send(type="load", provider="demo", unique_request_id="l", **options)
        done = self.next("load_done")
        assert done["is_error"] is False, done

    def stream(self, text: str = "Hello!") -> None:
        """Begins a streamed reply, and waits for its first piece."""
        self.send(
            type="generate",
            unique_request_id="g",
            messages=[{"role": "user", "content": text}],
            params={"max_output_length": 1_000_000},
            stream=True,
        )
        self.next("generate_stream_chunk")

    def say(self, text: str = "Hello!") -> str:
        """A whole reply."""
        messages = [{"role": "user", "content": text}]
        self.send(type="generate", unique_request_id="s", messages=messages, params={}, stream=False)
        done = self.next("generate_done")
        assert done["is_error"] is False, done
        return str(done["response"])


@contextlib.contextmanager
def talk_to(port: int) -> Iterator[Talk]:
    """A connection, opened at once."""
    with open_websocket(f"ws://127.0.0.1:{port}", proxy=None, open_timeout=PATIENCE_S) as connection:
        yield Talk(connection)

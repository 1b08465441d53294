"""A module for one command alone: on a free port, talked to like any other, and ended with the command.

`chat` and `probe` are its users. What they say over the connection is theirs.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

from websockets.exceptions import InvalidHandshake, InvalidURI
from websockets.sync.client import ClientConnection, connect

from supervisor import spawn

__all__ = ["EXIT_GONE", "EXIT_SETTINGS", "NoModuleError", "connected", "own_module"]

CHECKOUT: Final = Path(__file__).resolve().parent.parent
EXIT_GONE: Final = 1
EXIT_SETTINGS: Final = 2

READY_S: Final = 30.0
"""From start to the ready line; a second is usual, a cold disk behind an antivirus takes many."""
STOP_S: Final = 8.0
"""For the module to end by itself: a little more than it allows its workers."""
CONNECT_S: Final = 10.0
GOODBYE_S: Final = 1.0
COMPLAINTS_KEPT: Final = 5


class NoModuleError(Exception):
    """There is no module to talk to; the text is one sentence for a person."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextlib.contextmanager
def own_module(home: Path, *flags: str) -> Iterator[str]:
    """A module of our own, on a free port, started with `flags` for the body; yields its URL.

    Ctrl-C does not reach it, and it does not outlive us: it ends when its stdin does, which is our pipe.

    Raises:
        NoModuleError: it does not start.
    """
    argv = [sys.executable, str(CHECKOUT / "supervisor"), "0", "--host", "127.0.0.1", "--home", str(home)]
    options = spawn.worker_options({**os.environ, spawn.STAY_VARIABLE: "1"})
    with subprocess.Popen([*argv, "--exit-on-stdin-eof", *flags], **options) as process:
        group = spawn.Group(process)
        try:
            yield f"ws://127.0.0.1:{_ready_port(process)}"
        finally:
            _stop(process, group)


def connected(url: str, token: str | None) -> ClientConnection:
    """A connection to the module at `url`; it is used as a `with` block.

    Raises:
        NoModuleError: nothing is there, or it does not let us in.
    """
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        return connect(
            url,
            additional_headers=headers,
            compression=None,
            max_size=None,  # a reply is as long as it is
            open_timeout=CONNECT_S,
            close_timeout=GOODBYE_S,
            proxy=None,  # the module is on this machine, whatever the proxy variables say
        )
    except InvalidURI as exc:
        sentence = f"{url} is not a WebSocket URL, such as ws://127.0.0.1:7562"
        raise NoModuleError(sentence, EXIT_SETTINGS) from exc
    except InvalidHandshake as exc:
        raise NoModuleError(f"{url} does not let us in: {exc}", EXIT_GONE) from exc
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
        raise NoModuleError(f"{url} cannot be reached: {reason}", EXIT_GONE) from exc


def _ready_port(process: subprocess.Popen[bytes]) -> int:
    """The port in the ready line. Both pipes are read to their end, so that the module never waits for us."""
    lines: queue.Queue[bytes] = queue.Queue()
    complaints: collections.deque[str] = collections.deque(maxlen=COMPLAINTS_KEPT)
    said = _drained(process.stderr, lambda line: complaints.append(line.decode("utf-8", "replace")))
    _drained(process.stdout, lines.put)
    try:
        line = lines.get(timeout=READY_S)
    except queue.Empty:
        raise NoModuleError(f"the module was not ready after {READY_S:.0f} s", EXIT_GONE) from None
    if line:
        return int(json.loads(line)["port"])
    said.join(timeout=STOP_S)
    code = process.wait(timeout=STOP_S)
    sys.stderr.writelines(complaints)
    sentence = f"the module did not start ({spawn.exit_words(code)})"
    raise NoModuleError(sentence, code if code > 0 else EXIT_GONE)


def _drained(stream: IO[bytes] | None, take: Callable[[bytes], object]) -> threading.Thread:
    """A thread that takes every line of a pipe, and an empty one at its end."""

    def drain() -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: closed under us, the command is over
            for line in stream or ():
                take(line)
        take(b"")

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    return thread


def _stop(process: subprocess.Popen[bytes], group: spawn.Group) -> None:
    with contextlib.suppress(OSError):
        process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
    try:
        process.wait(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        group.kill()

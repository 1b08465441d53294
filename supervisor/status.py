"""`supervisor status`: asks a running module how it is, and prints a table; with --watch again and again.

It is a client like any other: it connects to the port that this user's settings name, sends `status`, and
leaves.

Exit codes: 0 it answered, and for --watch Ctrl-C; 1 no module answers there; 2 bad arguments or settings;
130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    InvalidURI,
)
from websockets.sync.client import ClientConnection, connect

from supervisor.config import Settings, load_settings
from supervisor.errors import SettingsError

__all__ = ["main"]

CHECKOUT: Final = Path(__file__).resolve().parent.parent
EXIT_NOT_THERE: Final = 1
EXIT_SETTINGS: Final = 2
EXIT_INTERRUPTED: Final = 130

CONNECT_S: Final = 5.0
"""A module on this machine answers in milliseconds; one across a network may be slow."""
ANSWER_S: Final = 5.0
GOODBYE_S: Final = 1.0
POLL_S: Final = 0.05
"""Between two looks for Ctrl-C: on Windows a wait for a message cannot be broken off by one."""
REFRESH_S: Final = 2.0
"""Of --watch: a person reads a row in about that time."""

EVERY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # what a module may bind is no address to call
PORT_MAX: Final = 65535
UNAUTHORIZED: Final = 401
CLEAR: Final = "\x1b[H\x1b[2J"
CONTROL_CHARACTERS: Final = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), " ")
"""What an error's text may not do to a terminal."""
HEAD: Final = (
    *("provider", "state", "pid", "up", "memory", "cpu", "open", "done", "restarts"),
    *("heartbeat", "last error"),
)
MINUTE_S: Final = 60
HOUR_S: Final = 3_600
DAY_S: Final = 86_400
MEGABYTE: Final = 1 << 20
"""As the limits of a worker's memory count."""


class _StatusError(Exception):
    """No status can be had; the text is one sentence that says what to do."""


def main(argv: Sequence[str]) -> int:
    """Prints the status; returns the exit code."""
    flags = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a letter that it cannot hold must not end the table
        sys.stdout.reconfigure(errors="replace")
    try:
        settings = load_settings(["--home", flags.home] if flags.home else [], os.environ, CHECKOUT)
        url = flags.url or _url(settings, flags.port)
        with _connected(url, settings.access.token) as connection:
            _show(connection, watch=flags.watch, as_json=flags.json)
    except SettingsError as exc:
        return _complain(exc.message, EXIT_SETTINGS)
    except _StatusError as exc:
        return _complain(str(exc), EXIT_NOT_THERE)
    except ConnectionClosed:
        return _complain("the module closed the connection; its log says why", EXIT_NOT_THERE)
    except BrokenPipeError:  # whoever read our output left; Python must not try to flush what remains
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 0 if flags.watch else EXIT_INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="supervisor status", description="How a running module and its workers are.", allow_abbrev=False
    )
    parser.add_argument("--watch", action="store_true", help=f"again each {REFRESH_S:g} s, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    parser.add_argument(
        "--port", type=_port, metavar="N", help="where it listens on this machine (default 7562)"
    )
    parser.add_argument("--url", metavar="ws://…", help="a module elsewhere")
    parser.add_argument("--home", metavar="DIR", help="whose settings name the port and the token")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= PORT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 1 to {PORT_MAX}")
    return int(text)


def _url(settings: Settings, port: int | None) -> str:
    host = EVERY_ADDRESS.get(settings.hosts[0], settings.hosts[0])
    shown = f"[{host}]" if ":" in host else host
    return f"ws://{shown}:{settings.port if port is None else port}"


# ---------------------------------------------------------------- asking


def _connected(url: str, token: str | None) -> ClientConnection:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        return connect(
            url,
            additional_headers=headers,
            compression=None,
            open_timeout=CONNECT_S,
            close_timeout=GOODBYE_S,
            proxy=None,  # the module is on this machine, whatever the proxy variables say
        )
    except (InvalidURI, ValueError) as exc:  # ValueError: its port
        raise SettingsError(f"{url} is not a WebSocket URL, such as ws://127.0.0.1:7562") from exc
    except InvalidStatus as exc:
        if exc.response.status_code == UNAUTHORIZED:
            raise _StatusError(f"{url} wants its token: set WAIFU_LLM_TOKEN to the module's") from exc
        raise _StatusError(f"{url} does not let us in: {exc}") from exc
    except (InvalidHandshake, EOFError) as exc:
        raise _StatusError(f"what listens at {url} is not this module: name its port with --port") from exc
    except TimeoutError as exc:
        raise _StatusError(f"nothing answered at {url} within {CONNECT_S:g} s: is it the right one?") from exc
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
        raise _StatusError(
            f"no module listens at {url} ({reason}): start one with python install.py --run, "
            "or name its port with --port"
        ) from exc


def _show(connection: ClientConnection, *, watch: bool, as_json: bool) -> None:
    clears = watch and not as_json and _can_be_cleared()
    while True:
        report = _ask(connection)
        text = json.dumps(report, ensure_ascii=False) if as_json else _table(report)
        sys.stdout.write((CLEAR if clears else "") + text + "\n")
        sys.stdout.flush()
        if not watch:
            return
        time.sleep(REFRESH_S)


def _can_be_cleared() -> bool:
    """Whether stdout is a terminal that knows the sequence; an old Windows console sets neither variable."""
    knows = os.environ.get("TERM", "dumb") != "dumb" or "WT_SESSION" in os.environ
    return sys.stdout.isatty() and knows


def _ask(connection: ClientConnection) -> dict[str, Any]:
    """The fields of `status_done`.

    Raises:
        _StatusError: nothing came in time, or something else.
    """
    connection.send('{"type":"status"}')
    until = time.monotonic() + ANSWER_S
    while time.monotonic() < until:
        try:
            report = json.loads(connection.recv(timeout=POLL_S))
        except TimeoutError:
            continue
        except ValueError as exc:
            raise _StatusError("what listens there is not this module: name its port with --port") from exc
        if not isinstance(report, dict) or report.get("type") != "status_done":
            raise _StatusError("what listens there does not know `status`: is it another version?")
        return {name: value for name, value in report.items() if name not in ("type", "is_error", "error")}
    raise _StatusError(f"the module did not answer within {ANSWER_S:g} s: it hangs, or is very busy")


# ---------------------------------------------------------------- showing


def _table(report: Mapping[str, Any]) -> str:
    """What a person reads: a line for the module, and one for each worker."""
    workers = report["workers"]
    lines = [_headline(report), ""]
    if not workers:
        lines.append("no provider is loaded")
        return "\n".join(lines)
    rows = [HEAD, *(_row(worker) for worker in workers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return "\n".join(line[: _width()] for line in lines)


def _width() -> int | None:
    """Of a terminal; what goes elsewhere is not cut."""
    return shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else None


def _headline(report: Mapping[str, Any]) -> str:
    clients = report.get("clients")
    parts = [f"module {report['version']}", f"up {_duration(report['uptime_s'])}"]
    if clients is not None:
        others = clients - 1  # we are one
        parts.append(f"{others} client{'' if others == 1 else 's'} besides this one")
    if report.get("memory_bytes") is not None:
        parts.append(_megabytes(report["memory_bytes"]))
    return ", ".join(parts)


def _row(worker: Mapping[str, Any]) -> tuple[str, ...]:
    percent = worker.get("cpu_percent")
    return (
        str(worker["provider"]),
        str(worker["state"]),
        _or_dash(worker["pid"]),
        _duration(worker["uptime_s"]) if worker["pid"] is not None else "-",
        _megabytes(worker.get("memory_bytes")),
        f"{percent:.1f} %" if percent is not None else _seconds(worker.get("cpu_s")),
        str(worker["open_requests"]),
        str(worker["finished_requests"]),
        str(worker["restarts"]),
        _heartbeat(worker),
        _or_dash(worker["last_error"]).translate(CONTROL_CHARACTERS),
    )


def _heartbeat(worker: Mapping[str, Any]) -> str:
    delay_ms = worker.get("heartbeat_ms")
    words = [_or_dash(worker.get("condition"))]
    return " ".join(words if delay_ms is None else [*words, f"{delay_ms:.1f} ms"])


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def _megabytes(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / MEGABYTE:.0f} MB"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"


def _duration(seconds: float) -> str:
    """`42 s`, `5 min`, `3 h 20 min`, `2 d 4 h`."""
    whole = int(seconds)
    if whole < MINUTE_S:
        return f"{whole} s"
    if whole < HOUR_S:
        return f"{whole // MINUTE_S} min"
    if whole < DAY_S:
        return f"{whole // HOUR_S} h {whole % HOUR_S // MINUTE_S} min"
    return f"{whole // DAY_S} d {whole % DAY_S // HOUR_S} h"


def _complain(text: str, exit_code: int) -> int:
    sys.stderr.write(f"status: {text}\n")
    sys.stderr.flush()
    return exit_code

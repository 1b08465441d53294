"""A chat in the terminal: starts the module for itself, loads one provider, and talks over its WebSocket.

`install.py --chat` ends here. What is typed and shown is this file's; the words come from the same protocol
that every application speaks. From a pipe instead of a terminal each line is a message, and its reply is
printed, without prompts.

Exit codes: 0 the conversation is over; 1 the module went away; 2 bad arguments or settings; 4 the provider
cannot be loaded; 130 interrupted before there was a prompt. A module that does not start lends its own code.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from supervisor.catalog import load_catalog
from supervisor.config import Settings, load_settings
from supervisor.errors import SettingsError
from supervisor.own_module import EXIT_GONE, EXIT_SETTINGS, NoModuleError, connected, own_module
from supervisor.terminal import StatusLine
from workers.codes import Code

with contextlib.suppress(
    ImportError
):  # Windows has none; where it is, input() edits lines and remembers them
    import readline  # noqa: F401

__all__ = ["main"]

CHECKOUT: Final = Path(__file__).resolve().parent.parent
EXIT_NOT_LOADED: Final = 4
EXIT_INTERRUPTED: Final = 130

POLL_S: Final = 0.05
"""Between two looks for Ctrl-C: on Windows a wait for a message cannot be broken off by one."""
HISTORY_MAX_CHARS: Final = 100_000
"""Of the conversation; the oldest part is forgotten, long before a frame is too large for the module."""
OUTPUT_TOKENS: Final = 1_000
"""A person reads along, and can interrupt; the protocol's 200 are meant for a voice."""

PROMPT: Final = "you> "
NO_MODELS: Final = "NO_MODELS"
"""An engine's warning that there is no model on this machine."""
CONTROL_CHARACTERS: Final = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (9, 10)}
"""What a reply may not do to a terminal: clear it, rename it, paste into it."""


class _NotLoadedError(Exception):
    """The provider cannot be loaded; the text is one sentence for a person."""


def main(argv: Sequence[str]) -> int:
    """Talks until the input ends or somebody leaves; returns the exit code."""
    _forgive()
    flags = _parser().parse_args(argv)
    try:
        settings = load_settings(["--home", flags.home] if flags.home else [], os.environ, CHECKOUT)
        wanted = _converse(flags, settings, flags.model)
        if wanted is not None:
            _converse(flags, settings, wanted, "--allow-download")
    except SettingsError as exc:
        return _complain(exc.message, EXIT_SETTINGS)
    except NoModuleError as exc:
        return _complain(str(exc), exc.exit_code)
    except _NotLoadedError as exc:
        return _complain(str(exc), EXIT_NOT_LOADED)
    except ConnectionClosed:
        return _complain("the module closed the connection; its log says why", EXIT_GONE)
    except BrokenPipeError:  # whoever read our output left; Python must not try to flush what remains
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_GONE
    except KeyboardInterrupt:
        return _complain("interrupted", EXIT_INTERRUPTED)
    return 0


def _converse(
    flags: argparse.Namespace, settings: Settings, model: str | None, *module_flags: str
) -> str | None:
    """A conversation; or, where there is no model to have it with, the one that the person wants fetched."""
    with contextlib.ExitStack() as stack:
        url = flags.url or stack.enter_context(own_module(settings.home.root, *module_flags))
        connection = connected(url, settings.access.token)
        stack.enter_context(connection)
        chat = _Chat(connection, flags.provider, model)
        lacking = chat.load()
        if lacking and not flags.url and (wanted := _offered(flags.provider, settings)):
            return wanted
        chat.talk()
    return None


def _offered(provider: str, settings: Settings) -> str | None:
    """The model that a person at a terminal agrees to fetch, of those that the provider's table suggests."""
    known = load_catalog(CHECKOUT / "venvs.toml", settings.home.local_catalog).find(provider)
    suggested = known.quirks.get("suggested", {}) if known is not None else {}
    if not suggested or not sys.stdin.isatty() or not sys.stdout.isatty():
        return None
    model, what = next(iter(suggested.items()))
    print(f"There is no model here yet. The Hugging Face hub has {model} ({what}).")
    answer = input("Fetch it? [y/N] ")
    return model if answer.strip().lower() in ("y", "yes") else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="supervisor chat", description="Talk to a provider in this terminal.", allow_abbrev=False
    )
    parser.add_argument("--home", metavar="DIR", help="where environments, logs and settings live")
    parser.add_argument("--provider", default="demo", metavar="NAME", help="whom to talk to (default demo)")
    parser.add_argument("--model", metavar="ID", help="one of its models (default: the provider's own)")
    parser.add_argument(
        "--url", metavar="ws://…", help="a module that runs already, instead of one for itself"
    )
    return parser


# ---------------------------------------------------------------- the conversation


class _Chat:
    """One conversation over one connection."""

    def __init__(self, connection: ClientConnection, provider: str, model: str | None) -> None:
        self._connection = connection
        self._provider = provider
        self._model = model
        self._history: list[dict[str, str]] = []
        self._interactive = sys.stdin.isatty() and sys.stdout.isatty()
        self._requests = 0

    def load(self) -> bool:
        """Loads the provider, showing how far it is; returns whether it has no model to talk with.

        Raises:
            _NotLoadedError: it cannot be loaded.
        """
        self._send("load", provider=self._provider, preload_model_id=self._model, progress=True)
        status = StatusLine(sys.stderr)
        done = self._receive()
        while done is None or done["type"] not in ("load_done", "error"):
            if done is not None and done["type"] == "load_progress":
                status.show(f"{self._provider}: {done['message'] or done['phase']}")
            done = self._receive()
        status.end()
        if done["is_error"]:
            raise _NotLoadedError(done["message"])
        for warning in done.get("warnings", ()):
            _note(warning["message"])
        if any(warning["name"] == NO_MODELS for warning in done.get("warnings", ())):
            return True
        if self._interactive:
            print(f"{self._provider} is ready; Ctrl-C interrupts a reply, at the prompt it leaves")
        return False

    def talk(self) -> None:
        """Answers what is typed, or each line of a pipe, until the input ends or somebody leaves.

        Raises:
            KeyboardInterrupt: Ctrl-C, where there is no terminal to go back to.
        """
        try:
            for line in self._typed() if self._interactive else sys.stdin:
                if line.strip():
                    self._answer(line.strip())
        except KeyboardInterrupt:
            if not self._interactive:
                raise
            print()

    def _typed(self) -> Iterator[str]:
        while True:
            try:
                yield input(PROMPT)
            except EOFError:
                print()
                return

    def _answer(self, text: str) -> None:
        """One message and its reply.

        Raises:
            KeyboardInterrupt: a second Ctrl-C.
        """
        self._history.append({"role": "user", "content": text})
        params = {"model_id": self._model, "max_output_length": OUTPUT_TOKENS}
        self._send("generate", messages=self._history, params=params, stream=True)
        if self._interactive:
            print(f"{self._provider}> ", end="", flush=True)
        pieces: list[str] = []
        with _held_interrupts(self._interactive) as presses:
            done = self._stream(pieces, presses)
        self._remember("".join(pieces))
        interrupted = done.get("error_code") == Code.INTERRUPT
        print(" [interrupted]" if interrupted else "", flush=True)
        if done["is_error"] and not interrupted:
            _note(done["message"])
        for warning in done.get("warnings", ()):
            _note(warning["message"])

    def _stream(self, pieces: list[str], presses: Sequence[int]) -> dict[str, Any]:
        """Shows a reply as it comes; returns its terminal message."""
        asked_to_end = False
        while True:
            reply = self._receive()
            if len(presses) > 1:
                raise KeyboardInterrupt
            if presses and not asked_to_end:
                asked_to_end = True
                self._send("interrupt")
            if reply is None:
                continue
            if reply["type"] in ("generate_stream_done", "error"):
                return reply
            if reply["type"] == "generate_stream_chunk":
                pieces.append(reply["chunk"])
                print(reply["chunk"].translate(CONTROL_CHARACTERS), end="", flush=True)

    def _remember(self, reply: str) -> None:
        """A message without any reply leaves no trace: two of the user's in a row confuse some models."""
        if reply:
            self._history.append({"role": "assistant", "content": reply})
        else:
            self._history.pop()
        while sum(len(message["content"]) for message in self._history) > HISTORY_MAX_CHARS:
            del self._history[:2]

    def _send(self, kind: str, **fields: Any) -> None:
        self._requests += 1
        request = {"type": kind, "unique_request_id": f"chat-{self._requests}", **fields}
        self._connection.send(json.dumps(request))

    def _receive(self) -> dict[str, Any] | None:
        """The next message, or None when none came for a moment."""
        try:
            message: dict[str, Any] = json.loads(self._connection.recv(timeout=POLL_S))
        except TimeoutError:
            return None
        return message


# ---------------------------------------------------------------- the terminal


@contextlib.contextmanager
def _held_interrupts(held: bool) -> Iterator[list[int]]:
    """Ctrl-C in the body is counted instead of raised, so that it cannot tear a message apart."""
    presses: list[int] = []
    if not held:
        yield presses
        return
    before = signal.signal(signal.SIGINT, lambda number, _: presses.append(number))
    try:
        yield presses
    finally:
        signal.signal(signal.SIGINT, before)


def _forgive() -> None:
    """A letter that a stream cannot hold must not end the conversation; a pipe speaks UTF-8 everywhere."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace", encoding=None if stream.isatty() else "utf-8")


def _note(text: str) -> None:
    sys.stderr.write(f"[{text}]\n")
    sys.stderr.flush()


def _complain(text: str, exit_code: int) -> int:
    sys.stderr.write(f"chat: {text}\n")
    sys.stderr.flush()
    return exit_code

"""A real worker process for tests: started as the supervisor starts it, spoken to in frames.

Every wait is bounded by WAIT_S. A thread reads the wire, another stderr, so a worker never blocks on a
pipe. `with` ends the process, whatever the test did.
"""

from __future__ import annotations

import functools
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import msgpack

from workers import wire

__all__ = [
    "CHECKOUT",
    "FLAGS",
    "NONCE",
    "WAIT_S",
    "WorkerProcess",
    "init_frame",
    "make_checkout",
    "make_site_packages",
    "pythons",
    "request_body",
]

CHECKOUT: Final = Path(__file__).resolve().parent.parent
NONCE: Final = "a-nonce"
WAIT_S: Final = 5.0
"""Bound of every wait: hundreds of times what a quiet machine needs."""
FLAGS: Final = ("-I", "-S", "-X", "utf8", "-X", "faulthandler")
ENVIRONMENT: Final = ("HOME", "LANG", "PATH", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR", "USERPROFILE")
SUPPORTED_MINORS: Final = range(10, 15)
F = TypeVar("F")


def make_site_packages(folder: Path) -> Path:
    """A folder with msgpack and nothing else, for any Python (another version takes its pure half)."""
    package = Path(msgpack.__file__).parent
    shutil.copytree(package, folder / "msgpack", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def make_checkout(folder: Path, **adapters: str) -> Path:
    """A copy of workers/ with more adapters in it, given as source text by their names."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(CHECKOUT / "workers", folder / "workers", ignore=ignored)
    for name, source in adapters.items():
        (folder / "workers" / "adapters" / f"{name}.py").write_text(source, encoding="utf-8")
    return folder


@functools.cache
def pythons() -> tuple[str, ...]:
    """The running Python, and of the others on this machine 3.10 and the newest one that we support."""
    found: dict[tuple[int, int], str] = {}
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    names = [shutil.which(f"python3.{minor}") for minor in SUPPORTED_MINORS]
    for candidate in [*map(str, sorted(pyenv.glob("3.*/bin/python"))), *filter(None, names)]:
        probe = [candidate, "-I", "-S", "-c", "import sys; print(*sys.version_info[:2])"]
        answer = subprocess.run(probe, capture_output=True, encoding="utf-8", timeout=WAIT_S, check=False)
        if answer.returncode == 0:
            major, minor = map(int, answer.stdout.split())
            if minor in SUPPORTED_MINORS:
                found.setdefault((major, minor), candidate)
    found.pop(sys.version_info[:2], None)
    wanted = {min(found), max(found)} if found else set()
    return (sys.executable, *(found[version] for version in sorted(wanted)))


NO_TOOL: Final[dict[str, Any]] = {"name": None, "tool_calls": [], "tool_call_id": None}
"""What a message is as a rule."""


def request_body(text: str = "hello", **changes: Any) -> dict[str, Any]:
    """The body of a Generate with every field, as docs/wire.md lists them."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": text}],
        "model": "",
        "stream": True,
        "timeout_ms": 60_000,
        "character_name": None,
        "temperature": 1.0,
        "max_output_length": 200,
        "stop": [],
        "stop_ids": [],
        "sampling": {},
        "response_format": None,
        "reasoning_effort": None,
        "tools": [],
        "tool_choice": None,
        "extra": {},
    }
    body |= changes
    return {**body, "messages": [{**NO_TOOL, **message} for message in body["messages"]]}


class WorkerProcess:
    """One worker, from its start to its end."""

    def __init__(
        self,
        site_packages: Path,
        *,
        adapter: str = "scripted",
        python: str | Path = sys.executable,
        environment: Mapping[str, str] | None = None,
        checkout: Path = CHECKOUT,
        command: Sequence[str] | None = None,
    ) -> None:
        env = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        boot = checkout / "workers" / "__main__.py"
        argv = command or [str(python), *FLAGS, str(boot), adapter, str(site_packages), NONCE]
        self.process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**env, **(environment or {})},
            start_new_session=True,
            bufsize=0,
        )
        self._frames: queue.Queue[Any] = queue.Queue()
        self._stderr: list[bytes] = []
        self._threads = [
            threading.Thread(target=self._read_frames, daemon=True),
            threading.Thread(target=self._read_stderr, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(WAIT_S)
        for thread in self._threads:
            thread.join(WAIT_S)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        return self.process.pid

    def send(self, *frames: wire.Down) -> None:
        """Writes frames down, in one piece."""
        self.send_bytes(b"".join(map(wire.encode, frames)))

    def send_bytes(self, data: bytes) -> None:
        """Writes what may not be frames at all."""
        assert self.process.stdin is not None
        view = memoryview(data)
        while view:
            view = view[self.process.stdin.write(view) :]

    def close_stdin(self) -> None:
        """What a supervisor's death looks like from below."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def receive(self) -> Any:
        """The next frame up.

        Raises:
            EOFError: there is none any more.
            wire.WireError: something else than frames came up.
        """
        try:
            frame = self._frames.get(timeout=WAIT_S)
        except queue.Empty:
            raise AssertionError(f"no frame within {WAIT_S} s; stderr: {self.stderr()}") from None
        if isinstance(frame, Exception):
            self._frames.put(frame)  # the end stays the end
            raise frame
        return frame

    def until(self, kind: type[F]) -> F:
        """The next frame of that kind; what comes before is dropped."""
        while True:
            frame = self.receive()
            if isinstance(frame, kind):
                return frame

    def frames_of(self, request: int) -> Iterator[Any]:
        """The frames of one request up to its Done; frames of others are dropped."""
        while True:
            frame = self.receive()
            if getattr(frame, "request", None) == request:
                yield frame
                if isinstance(frame, wire.Done):
                    return

    def reply(self, request: int) -> tuple[str, wire.Done]:
        """The whole text of a request, its credit given back as it comes, and its Done."""
        text: list[str] = []
        for frame in self.frames_of(request):
            if isinstance(frame, wire.Done):
                return "".join(text), frame
            if isinstance(frame, wire.Chunk):
                text.append(frame.text)
                self.send(wire.Credit(request, len(frame.text)))
        raise AssertionError("frames_of ends with Done")

    def boot(self, **settings: Any) -> tuple[wire.Hello, wire.Ready]:
        """Takes Hello, sends Init with `settings` over working defaults, takes Ready."""
        hello = self.receive()
        assert isinstance(hello, wire.Hello)
        self.send(init_frame(**settings))
        ready = self.receive()
        assert isinstance(ready, wire.Ready), ready
        return hello, ready

    def bind(self, binding: int = 1, **changes: Any) -> wire.Bound:
        """Binds, and returns the answer."""
        body: dict[str, Any] = {
            "key": None,
            "base_url": None,
            "options": {},
            "verify": True,
            "preload_model": None,
        }
        self.send(wire.Bind(binding, wire.pack_body({**body, **changes})))
        return self.until(wire.Bound)

    def generate(self, request: int, text: str = "hello", *, binding: int = 1, **changes: Any) -> None:
        """Starts a generation."""
        body = wire.pack_body(request_body(text, **changes))
        self.send(*wire.parts(request, binding, body))

    def exit_status(self) -> int:
        """Waits for the process to end by itself."""
        return self.process.wait(WAIT_S)

    def stderr(self) -> str:
        """What came on stderr so far; all of it once the process has ended and its pipe with it."""
        if self.process.poll() is not None:
            self._threads[1].join(WAIT_S)
        return b"".join(self._stderr).decode("utf-8", "replace")

    def _read_frames(self) -> None:
        assert self.process.stdout is not None
        decoder = wire.Decoder(wire.UP)
        try:
            while data := os.read(self.process.stdout.fileno(), 1 << 16):
                for frame in decoder.feed(data):
                    self._frames.put(frame)
        except wire.WireError as exc:
            self._frames.put(exc)
            return
        except OSError:  # the pipe was closed under us
            pass
        left = decoder.pending_bytes
        self._frames.put(wire.WireError(f"{left} bytes of noise") if left else EOFError("the wire ended"))

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        while data := os.read(self.process.stderr.fileno(), 1 << 16):
            self._stderr.append(data)


def init_frame(*, version: int = wire.VERSION, provider: str = "demo", **settings: Any) -> wire.Init:
    """An Init with every setting, as docs/wire.md lists them."""
    defaults: dict[str, Any] = {
        "name": "Demo",
        "base_url": None,
        "default_model": "demo",
        "key_variables": [],
        "quirks": {},
        "silent_s": 10.0,
    }
    return wire.Init(version, provider, wire.pack_body({**defaults, **settings}))

"""Boot of a worker process: ENV/python -I -S -X utf8 -X faulthandler THIS ADAPTER SITE_PACKAGES NONCE

The order is the point of this file:

1. The wire is claimed while only the standard library can have run: under -I -S no .pth, sitecustomize
   or user directory has, and SITE_PACKAGES is merely put on the path, never processed.
2. Hello goes up before anything slow is imported; Init is read.
3. The adapter and its packages are imported while no thread waits on stdin: on Windows an import that
   touches the standard handles would wait for that thread (numpy issue 24290). A parent's death is
   covered by the nanny, or the supervisor's job object, meanwhile.
4. Ready goes up, and the host takes over.

Every import below stands where the order allows it, hence in the functions.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from workers.adapter import Adapter, ProviderSpec
    from workers.codes import Code
    from workers.stdio import FrameWriter

EXIT_FAILED: Final = 72
"""A Failed frame said why."""
EXIT_NO_WIRE: Final = 73
"""There is no msgpack in SITE_PACKAGES, so the only word is on stderr."""
HEADER_BYTES: Final = 4
"""The length in front of a frame."""
_MS_PER_S: Final = 1000


class _Refusal(Exception):
    """Why this worker cannot serve; the sentence goes up in Failed."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def main() -> int:
    """Boots and serves; returns the exit status."""
    parent_pid = os.getppid()  # first of all: a parent that dies from here on is noticed
    adapter_name, site_packages, nonce = sys.argv[1:4]
    del sys.argv[1:]  # not for a package that looks there
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120
    from workers import stdio

    read_fd, write_fd = stdio.claim()
    stdio.guard(stdio.under_nanny(parent_pid, read_fd, write_fd))
    sys.path.append(site_packages)  # after ours, so that no package called `workers` comes first
    try:
        from workers import wire
    except ImportError as exc:
        sys.stderr.write(f"ERROR workers: the environment has no usable {exc.name}: {exc}\n")
        return EXIT_NO_WIRE
    writer = stdio.FrameWriter(write_fd)
    python = ".".join(map(str, sys.version_info[:3]))
    writer.write(wire.encode(wire.Hello(wire.VERSION, os.getpid(), nonce, python)))
    return _serve(adapter_name, read_fd, writer)


def _serve(adapter_name: str, read_fd: int, writer: FrameWriter) -> int:
    import asyncio
    import logging
    import time

    from workers import stdio, wire
    from workers.codes import Code
    from workers.host import Host
    from workers.logs import log_to_stderr

    log_to_stderr()
    try:
        init = _init(read_fd)
        if init is None:
            return 0
        provider, silent_s = init
        started = time.monotonic()
        adapter = _adapter(adapter_name, provider.id)
        import_ms = round((time.monotonic() - started) * _MS_PER_S)
    except _Refusal as exc:
        writer.write(wire.encode(wire.Failed(int(exc.code), exc.message)))
        return EXIT_FAILED
    except (Exception, SystemExit) as exc:  # in main: whatever a package raises when imported
        logging.getLogger("workers").error("the worker cannot start", exc_info=exc)
        sentence = (
            f"The adapter {adapter_name!r} cannot start ({type(exc).__name__}); the log has the details."
        )
        writer.write(wire.encode(wire.Failed(int(Code.UNEXPECTED), sentence)))
        return EXIT_FAILED
    stdio.watch_interpreter(silent_s)
    writer.write(wire.encode(wire.Ready(import_ms)))
    # Not asyncio.run: it would wait, without a bound, for threads that a package left working.
    asyncio.new_event_loop().run_until_complete(Host(adapter, provider, read_fd, writer).run())
    return 0


def _init(read_fd: int) -> tuple[ProviderSpec, float] | None:
    """What Init says, or None when the supervisor went away first."""
    from workers import bodies, stdio, wire
    from workers.codes import Code

    # First the length, then exactly that much: what follows Init is for the reading thread.
    header = stdio.read_exactly(read_fd, HEADER_BYTES)
    decoder = wire.Decoder(wire.DOWN)
    decoder.feed(header)  # refuses a length that is out of bounds
    payload = stdio.read_exactly(read_fd, int.from_bytes(header, "big"))
    frames = decoder.feed(payload)
    if not frames:
        return None
    init = frames[0]
    if not isinstance(init, wire.Init):
        raise _Refusal(Code.UNEXPECTED, f"The worker expected Init and got {type(init).__name__}.")
    if init.version != wire.VERSION:
        raise _Refusal(
            Code.UNEXPECTED,
            f"The supervisor speaks version {init.version} of the wire and the worker version "
            f"{wire.VERSION}: they are of two checkouts; start the module again.",
        )
    return bodies.read_init(init)


def _adapter(name: str, provider: str) -> type[Adapter]:
    """The adapter's class, its packages imported."""
    import importlib
    import re

    from workers.adapter import Adapter
    from workers.codes import Code

    if re.fullmatch(r"[a-z][a-z0-9_]*", name) is None:
        raise _Refusal(Code.UNEXPECTED, f"{name!r} is not a name of an adapter; mend venvs.toml.")
    try:
        module = importlib.import_module(f"workers.adapters.{name}")
    except ImportError as exc:
        if exc.name == f"workers.adapters.{name}":
            raise _Refusal(Code.UNEXPECTED, f"There is no adapter {name!r}; mend venvs.toml.") from exc
        missing = f"The environment of {provider} has no usable module {exc.name or 'for ' + name!r}"
        remedy = f"run: python install.py --remove {provider}, then python install.py --llm {provider}"
        sys.stderr.write(f"ERROR workers: {type(exc).__name__}: {exc}\n")
        raise _Refusal(Code.PROVISION_FAILED, f"{missing}; {remedy}") from exc
    adapter: type[Adapter] = module.ADAPTER
    if not issubclass(adapter, Adapter):
        raise TypeError(f"ADAPTER of workers.adapters.{name} is not a subclass of Adapter")
    return adapter


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # not sys.exit: that would wait for threads which a package left working

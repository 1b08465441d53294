"""An adapter that misbehaves when it is told to; tests copy it into the adapters of a checkout of their own.

The last message of a prompt says what to do: a name of the table at the end, and an argument.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from workers.adapter import Adapter, Event, Finish, Loaded, LoadRequest, ReportProgress, Request, Text

SMALL: Final = "x" * 50
LARGE: Final = "🌊" * 50_000
"""A frame of 200 kB: more than a pipe takes at once, so that a kill can cut it."""
PACE_S: Final = 0.002
LARGE_EVERY: Final = 20


class Hostile(Adapter):
    """Does what it is told."""

    async def load(self, load: LoadRequest, report: ReportProgress) -> Loaded:
        """Blocks the loop, or computes with the interpreter held, for as long as the options say."""
        if seconds := self.binding.options.get("compute_s"):
            await compute_with_the_interpreter_held(str(seconds))
        time.sleep(float(self.binding.options.get("block_s", 0)))  # noqa: ASYNC251  # that is the point
        return await super().load(load, report)

    async def generate(self, request: Request) -> AsyncIterator[Event]:
        """One of the deeds below."""
        name, _, argument = request.messages[-1].content.partition(" ")
        if name in STREAMS:
            async for event in STREAMS[name](argument):
                yield event
        elif name == "wait":
            yield Text("waiting")
            await asyncio.sleep(float(argument))
        else:
            yield Text(str(await DEEDS[name](argument)))
        yield Finish("stop")


async def stream(argument: str) -> AsyncIterator[Event]:
    """So many pieces, each with its number; now and then a large one."""
    for number in range(int(argument)):
        yield Text(f"{number};{LARGE if number % LARGE_EVERY == 1 else SMALL}|")
        await asyncio.sleep(PACE_S)


async def timed(argument: str) -> AsyncIterator[Event]:
    """So many pieces of 400 bytes, each with the time at which it left, on the clock of this machine."""
    for number in range(int(argument)):
        yield Text(f"{number};{time.monotonic_ns()};".ljust(399, "x") + "|")
        await asyncio.sleep(PACE_S / 2)


async def flood(argument: str) -> AsyncIterator[Event]:
    """So many pieces of 400 bytes, as fast as they are taken."""
    for number in range(int(argument)):
        yield Text(f"{number};".ljust(399, "x") + "|")


async def block_the_loop(argument: str) -> str:
    """The event loop waits for something that does not give way."""
    time.sleep(float(argument))  # noqa: ASYNC251
    return "done"


async def hold_the_interpreter(argument: str) -> str:
    """A call into C that keeps the interpreter and does nothing; its last word tells that it is there."""
    sleep = ctypes.PyDLL(None).sleep
    os.write(2, b"holding\n")
    sleep(int(argument))
    return "done"


async def compute_with_the_interpreter_held(argument: str) -> str:
    """One call into C that computes for so many seconds and lets nobody else run."""
    before = time.perf_counter()
    sum(range(10**6))
    sum(range(round(10**6 * float(argument) / (time.perf_counter() - before))))
    return "done"


async def meet_a_bad_regex(_: str) -> str:
    """Computes until the sun goes down."""
    re.match(r"(a+)+$", "a" * 60 + "b")
    return "done"


async def compute_in_python(argument: str) -> str:
    """Threads that compute, and let others run when the interpreter asks for it."""
    until = time.monotonic() + float(argument)

    def compute() -> None:
        while time.monotonic() < until:
            sum(range(100))

    return await _in_threads(compute)


async def compute_natively(argument: str) -> str:
    """Threads that compute without the interpreter."""
    until = time.monotonic() + float(argument)
    data = bytes(10**7)

    def compute() -> None:
        while time.monotonic() < until:
            hashlib.sha256(data).digest()

    return await _in_threads(compute)


async def _in_threads(work: Callable[[], None]) -> str:
    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    return "done"


async def grow(argument: str) -> str:
    """Takes so many MB and keeps them."""
    kept = bytearray(int(argument) << 20)
    kept[:: 1 << 12] = b"x" * len(kept[:: 1 << 12])
    await asyncio.sleep(600)
    return str(len(kept))


async def die(argument: str) -> str:
    """Ends by that signal, or with that status; SIGSTOP is as good a name as any."""
    if argument.isdecimal():
        os._exit(int(argument))
    if argument == "segfault":
        ctypes.string_at(0)
    os.kill(os.getpid(), getattr(signal, argument))
    time.sleep(600)  # noqa: ASYNC251  # it stays here, should it live on
    return "done"


async def start_a_process(how: str) -> str:
    """Leaves a process behind that nobody asked for; its id is the reply."""
    if sys.platform == "win32":
        raise NotImplementedError("Windows does not fork")
    else:  # noqa: RET506  # mypy reads another platform's branch only in this shape
        left, wrote = os.pipe()
        if os.fork() == 0:
            if how != "in its group":
                os.setsid()
            if how == "as a daemon" and os.fork() != 0:
                os._exit(0)
            os.write(wrote, str(os.getpid()).encode())
            os.close(wrote)
            time.sleep(600)  # noqa: ASYNC251
            os._exit(0)
        os.close(wrote)
        return os.read(left, 20).decode()


async def make_noise(_: str) -> str:
    """Prints as libraries do."""
    for number in range(500):
        print("noise", number)  # noqa: T201
    os.write(1, b"more noise\n")
    return "done"


async def shout(argument: str) -> str:
    """Floods its stderr with short lines for so many seconds, as a library in debug mode does."""
    until = time.monotonic() + float(argument)

    def write() -> None:
        while time.monotonic() < until:
            os.write(2, b"shout\n" * 5000)

    await asyncio.to_thread(write)
    return "done"


async def write_garbage(_: str) -> str:
    """Finds the wire and writes into it what no frame is."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        if int(name) > 2 and os.readlink(f"/proc/self/fd/{name}").startswith("pipe"):  # noqa: PTH115
            try:
                os.write(int(name), b"\xff" * 100)
            except OSError:
                continue
    return "done"


STREAMS: Final = {"stream": stream, "timed": timed, "flood": flood}
DEEDS: Final = {
    "block": block_the_loop,
    "hold": hold_the_interpreter,
    "compute": compute_with_the_interpreter_held,
    "regex": meet_a_bad_regex,
    "python": compute_in_python,
    "native": compute_natively,
    "grow": grow,
    "die": die,
    "start": start_a_process,
    "noise": make_noise,
    "shout": shout,
    "garbage": write_garbage,
}

ADAPTER: Final = Hostile

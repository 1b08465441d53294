"""What loads and unloads leave in memory: of models that go with their connection, and of processes that end.

    python benchmarks/cycles.py --home HOME [--engine NAME] [--model FILE] [--cycles N] [--processes N]

HOME is one in which `install.py --llm NAME` has run for the engines. Without --model one of random weights is
made, so run it in the development environment. Each cycle is a new connection that loads the model, gets a
token and leaves. Sizes are resident MiB of the supervisor and of all below it, times in milliseconds; nothing
is asserted, tests/e2e/test_cycles.py does that.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import IO, Any, Final

CHECKOUT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from benchmarks.engines import MIB, MS, WAIT_S, Client, Failed, Module, client_of, model_of, size_of  # noqa: E402

ENGINES: Final = ("llama-cpp", "huggingface-local", "transformers")
CYCLES: Final = 200
WARM: Final = 10
"""Cycles after which nothing new may come."""
POLL_S: Final = 0.01
STAYS: Final = ("--set", "pool.engine_idle_s=3600")
ENDS: Final = ("--set", "pool.engine_idle_s=0.01")

Json = dict[str, Any]


async def models(home: Path, engine: str, model: Path, count: int) -> Json:
    """The model leaves with each connection, its process stays."""
    with tempfile.TemporaryDirectory() as folder, _opened(Path(folder, "log")) as log:
        module = Module(home, log, *STAYS)
        try:
            before = module.memory()
            loaded, unloaded, took = [], [], []
            for number in range(1, count + 1):
                async with client_of(module, engine) as client:
                    took.append((await _used(client, model))["timings_ms"]["model"])
                    loaded.append(module.memory())
                await _gone(Path(folder, "log"), number)
                unloaded.append(module.memory())
            return {
                "load_ms": median(took),
                "before": _mib(before),
                "with the model": _mib(loaded[0]),
                "unloaded": _mib(unloaded[0]),
                f"unloaded, cycle {WARM}": _mib(unloaded[min(WARM, count - 1)]),
                f"with the model, cycle {count}": _mib(loaded[-1]),
                f"unloaded, cycle {count}": _mib(unloaded[-1]),
            }
        finally:
            module.close()


async def processes(home: Path, engine: str, model: Path, count: int) -> Json:
    """The process ends after each connection, and is started again by the next one."""
    with tempfile.TemporaryFile() as log:
        module = Module(home, log, *ENDS)
        try:
            before = module.memory()
            loaded, ended, took = [], [], []
            for _ in range(count):
                async with client_of(module, engine) as client:
                    started = time.perf_counter()
                    await _used(client, model)
                    took.append((time.perf_counter() - started) * MS)
                    loaded.append(module.memory())
                await _over(module)
                ended.append(module.memory())
            return {
                "load_and_first_token_ms": round(median(took)),
                "before": _mib(before),
                "with the model": _mib(loaded[0]),
                "ended": _mib(ended[0]),
                f"ended, cycle {WARM}": _mib(ended[min(WARM, count - 1)]),
                f"ended, cycle {count}": _mib(ended[-1]),
            }
        finally:
            module.close()


def _opened(path: Path) -> IO[bytes]:
    return path.open("wb")


async def _used(client: Client, model: Path) -> Json:
    """The load_done, when the model has said something too."""
    done = await client.load(model)
    await client.say("Hello", 1)
    return done


async def _gone(log: Path, number: int) -> None:
    """Waits until so many models have left the memory."""
    deadline = time.perf_counter() + WAIT_S
    while (await asyncio.to_thread(log.read_bytes)).count(b" model gone ") < number:
        if time.perf_counter() > deadline:
            raise Failed("the model does not go")
        await asyncio.sleep(POLL_S)


async def _over(module: Module) -> None:
    """Waits until there is nothing below the supervisor."""
    deadline = time.perf_counter() + WAIT_S
    while module.memory()["workers"]:
        if time.perf_counter() > deadline:
            raise Failed("the process does not end")
        await asyncio.sleep(POLL_S)


def _mib(sizes: dict[str, float]) -> str:
    return f"{sizes['supervisor']:.1f} + {sizes['workers']:.1f}"


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="What loads and unloads leave in memory.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--engine", choices=ENGINES, help="only this one")
    parser.add_argument("--model", type=Path, help="of that engine")
    parser.add_argument("--cycles", type=int, default=CYCLES)
    parser.add_argument("--processes", type=int, default=CYCLES)
    flags = parser.parse_args()
    if flags.model is not None and flags.engine is None:
        parser.error("--model needs --engine: whose model is it?")
    found: Json = {}
    for engine in [flags.engine] if flags.engine else ENGINES:
        with model_of(engine, flags.model) as model:
            found[engine] = {
                "model_mib": round(size_of(model) / MIB),
                "models": asyncio.run(models(flags.home, engine, model, flags.cycles)),
                "processes": asyncio.run(processes(flags.home, engine, model, flags.processes)),
            }
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the module costs an engine: each engine through the module against the same one called directly.

    python benchmarks/engines.py --home HOME [--engine NAME] [--model FILE] [--rounds N] [--speed-only]
    python benchmarks/engines.py --home HOME --engine NAME --pairs 6

HOME is one in which `install.py --llm NAME` has run for the engines: llama-cpp, huggingface-local, onnx,
openvino, and transformers, which is measured against two ways to call it: its batch, and its usual method.
Without --model one of random weights is made whose tokens cost over five milliseconds; that needs numpy, gguf
and onnx, so run it in the development environment. Both sides load the same file with the same settings and
take turns, so that whatever else the machine does meets both. Times are in milliseconds; nothing is asserted.

Where an engine's weights lie in memory differs from process to process, and one may be a tenth faster than
the next for as long as it lives; the one that loads second often is. So --pairs starts both sides anew so
many times, the other one first each time, and tells the geometric mean of what the pairs say; an even number,
so that both orders count alike.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import geometric_mean, median, quantiles
from typing import IO, Any, Final

CHECKOUT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

import psutil  # noqa: E402  # as all below: the checkout is on the path only now
from websockets.asyncio.client import ClientConnection, connect  # noqa: E402

from supervisor.catalog import load_catalog  # noqa: E402
from supervisor.environments import find  # noqa: E402
from supervisor.home import find_home  # noqa: E402
from supervisor.spawn import STAY_VARIABLE  # noqa: E402
from supervisor.variants import lock_of  # noqa: E402

TOKENS: Final = 60
"""Of one reply whose speed is measured."""
FIRST_TOKENS: Final = 20
INTERRUPTS: Final = 20
TURNS: Final = 5
CROWD: Final = 4
LETTER_TOKENS: Final = 4
"""Of one letter at most: a reply that ends within one may have no text."""
HISTORY_WORDS: Final = 120
"""Of the first turn of a conversation; a byte is a token here."""
OPTIONS: Final[Mapping[str, Any]] = {"slots": CROWD, "threads": 1, "context_length": 2048}
SIDES: Final = ("direct", "module")
WAIT_S: Final = 300.0
START_S: Final = 30.0
MS: Final = 1000
MIB: Final = 1 << 20
SHAPE: Final = {"width": 768, "layers": 12, "heads": 12, "kv_heads": 4, "feed_forward": 2048}


Json = dict[str, Any]
Say = Callable[[str, int], list[float]]
"""A text and a number of tokens → when each piece of the reply came, in seconds."""


# ---- the engines, called directly, in a process of their own


def serve_directly(engine: str, model: str) -> None:
    """Loads the model as the adapter does, then answers each line of stdin with one of times."""
    direct = ENGINES[engine].direct
    if direct is None:
        raise Failed(f"{engine} is called directly by a program of its own")
    say = direct(Path(model))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        order = json.loads(line)
        sys.stdout.write(json.dumps(say(order["text"], order["tokens"])) + "\n")
        sys.stdout.flush()


def llama_cpp_directly(model: Path) -> Say:
    """The package xllamacpp."""
    from workers.adapters import llama_cpp  # only that process has the engine
    from workers.engine_options import Given, read_options

    given, _ = read_options(OPTIONS, Given)
    wanted = llama_cpp.Wanted("direct", model, given)
    engine = llama_cpp._opened(wanted, lambda *_: None, threading.Event())

    def say(text: str, tokens: int) -> list[float]:
        at: list[float] = []

        def take(piece: bytes) -> bool:
            choices = json.loads(piece).get("choices")
            if choices and choices[0]["delta"].get("content"):
                at.append(time.perf_counter())
            return False

        body = {
            "messages": [{"role": "user", "content": text}],
            "max_tokens": tokens,
            "temperature": 1.0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,
            "chat_template_kwargs": {"enable_thinking": False},
        }
        started = time.perf_counter()
        engine._server.handle_chat_completions(json.dumps(body).encode(), take)
        return [moment - started for moment in at]

    return say


def mistralrs_directly(model: Path) -> Say:
    """The package mistralrs."""
    from workers.adapters import mistralrs  # as above
    from workers.engine_options import read_options
    from workers.mistral_options import Given

    given, _ = read_options(OPTIONS, Given)
    wanted = mistralrs.Wanted("direct", model, given)
    engine = mistralrs._opened(wanted, lambda *_: None, threading.Event())
    render = engine.manner.render
    if render is None:
        raise Failed("the model has no chat template")

    def say(text: str, tokens: int) -> list[float]:
        at: list[float] = []
        prompt = render([{"role": "user", "content": text}], False, {})
        request = mistralrs._request(prompt, max_tokens=tokens, temperature=1.0, ignore_eos=True)
        started = time.perf_counter()
        for chunk in engine._runner.send_chat_completion_request(request):
            if chunk.choices[0].delta.content:
                at.append(time.perf_counter())  # noqa: PERF401  # the moment is the point
        return [moment - started for moment in at]

    return say


def onnx_directly(model: Path) -> Say:
    """The package onnxruntime-genai, by its own classes and its own choice of tokens."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime_genai  # as above

    numbers = {name: int(OPTIONS[name]) for name in ("threads", "context_length")}
    config = onnxruntime_genai.Config(str(model))
    session = {"intra_op_num_threads": numbers["threads"]}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
    loaded = onnxruntime_genai.Model(config)
    tokenizer = onnxruntime_genai.Tokenizer(loaded)

    def say(text: str, tokens: int) -> list[float]:
        at: list[float] = []
        params = onnxruntime_genai.GeneratorParams(loaded)
        length, sampling = numbers["context_length"], {"do_sample": True, "temperature": 1.0, "top_k": 0}
        params.set_search_options(max_length=length, **sampling)
        started = time.perf_counter()
        prompt = tokenizer.encode(f"<|from|>user: {text}<|stop|><|from|>assistant: ")
        generator = onnxruntime_genai.Generator(loaded, params)
        generator.append_tokens(prompt)
        letters = tokenizer.create_stream()
        for _ in range(tokens):
            generator.generate_next_token()
            letters.decode(generator.get_next_tokens()[0])
            at.append(time.perf_counter())
        return [moment - started for moment in at]

    return say


def random_gguf(folder: Path) -> Path:
    """A model of random weights as a GGUF file."""
    from tests.tiny_gguf import make_tiny_gguf  # it needs numpy
    from tests.tiny_model import Shape

    path = folder / "random.gguf"
    make_tiny_gguf(path, shape=Shape(**SHAPE))
    return path


def random_folder(folder: Path) -> Path:
    """The same as a folder of safetensors."""
    from tests.tiny_model import Shape  # it needs numpy
    from tests.tiny_safetensors import make_tiny_safetensors

    make_tiny_safetensors(folder / "random", shape=Shape(**SHAPE))
    return folder / "random"


def random_onnx(folder: Path) -> Path:
    """The same as a graph."""
    from tests.tiny_model import Shape  # it needs numpy
    from tests.tiny_onnx import make_tiny_onnx  # and onnx

    make_tiny_onnx(folder / "random", shape=Shape(**SHAPE))
    return folder / "random"


@dataclass(frozen=True, slots=True)
class Contestant:
    """An engine, and how it is asked not to reuse what it has computed."""

    direct: Callable[[Path], Say] | None
    make: Callable[[Path], Path]
    anew_extra: Json = field(default_factory=dict)
    anew_options: Json = field(default_factory=dict)
    program: tuple[str, ...] = ()
    """What is called directly where its packages are in an environment of its own alone."""
    environment: str = ""


ENGINES: Final = {
    "llama-cpp": Contestant(llama_cpp_directly, random_gguf, anew_extra={"cache_prompt": False}),
    "huggingface-local": Contestant(mistralrs_directly, random_folder, anew_options={"prefix_cache": False}),
    "onnx": Contestant(onnx_directly, random_onnx, anew_options={"prefix_cache": False}),
    "transformers": Contestant(
        None,
        random_folder,
        anew_options={"prefix_cache": False},
        program=("transformers_directly.py", "batch"),
        environment="transformers",
    ),
    "transformers-generate": Contestant(
        None,
        random_folder,
        anew_options={"prefix_cache": False},
        program=("transformers_directly.py", "generate"),
        environment="transformers",
    ),
    "openvino": Contestant(
        None,
        random_folder,
        anew_options={"prefix_cache": False},
        program=("transformers_directly.py", "openvino"),
        environment="openvino",
    ),
}


class Failed(Exception):
    """What cannot be measured, since it did not work."""


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise Failed("the process has no pipe")
    return stream


def _own_argv(contestant: Contestant, model: Path, home: Path) -> list[str]:
    """The program of an engine whose packages are in an environment of its own."""
    spec = load_catalog(CHECKOUT / "venvs.toml").envs[contestant.environment]
    place = find_home(str(home), {})
    found = find(place, lock_of(place, CHECKOUT, spec))
    if found is None:
        raise Failed(f"the environment {contestant.environment} is not in {home}")
    program, kind = contestant.program
    numbers = [str(OPTIONS[name]) for name in ("slots", "threads", "context_length")]
    return [str(found.python), str(CHECKOUT / "benchmarks" / program), str(model), kind, *numbers]


class Direct:
    """The other end of that process."""

    def __init__(self, engine: str, model: Path, home: Path) -> None:
        argv = [sys.executable, __file__, "--engine", engine, "--direct", str(model)]
        if ENGINES[engine].program:
            argv = _own_argv(ENGINES[engine], model, home)
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
        if self._line() != "ready\n":
            raise Failed("the engine does not load in a process of its own")

    def _line(self) -> str:
        return _pipe(self.process.stdout).readline()

    def say(self, text: str, tokens: int) -> list[float]:
        """When each piece of the reply came, in seconds."""
        stdin = _pipe(self.process.stdin)
        stdin.write(json.dumps({"text": text, "tokens": tokens}) + "\n")
        stdin.flush()
        times: list[float] = json.loads(self._line())
        return times

    def close(self) -> None:
        """Its stdin ends, and so does it."""
        self.process.communicate(timeout=WAIT_S)


# ---- the module


class Module:
    """A module that runs for the time of a measurement."""

    def __init__(self, home: Path, log: IO[bytes], *flags: str) -> None:
        argv = [sys.executable, str(CHECKOUT / "supervisor"), "0", "--home", str(home), *flags]
        environment = {**os.environ, STAY_VARIABLE: "1"}
        self.process = subprocess.Popen(
            argv, env=environment, stdout=subprocess.PIPE, stderr=log, encoding="utf-8"
        )
        self.port = json.loads(_pipe(self.process.stdout).readline())["port"]

    def memory(self) -> dict[str, float]:
        """Resident MiB of the supervisor, and of all below it."""
        own = psutil.Process(self.process.pid)
        below = sum(map(_resident_bytes, own.children(recursive=True)))
        return {"supervisor": own.memory_info().rss / MIB, "workers": below / MIB}

    def close(self) -> None:
        """Ends it as a terminal would."""
        self.process.terminate()
        self.process.wait(START_S)
        _pipe(self.process.stdout).close()


def _resident_bytes(process: psutil.Process) -> int:
    """None of a process that ends while it is looked at."""
    with contextlib.suppress(psutil.NoSuchProcess):
        size: int = process.memory_info().rss
        return size
    return 0


class Client:
    """One connection that does one thing at a time."""

    def __init__(self, socket: ClientConnection, engine: str) -> None:
        self._socket = socket
        self.engine = engine
        self._ids = itertools.count(1)

    async def ask(self, request: Json, answer: str) -> Json:
        """Sends, and waits for the message of that type."""
        await self._socket.send(json.dumps(request))
        return await self.until(answer)

    async def until(self, kind: str) -> Json:
        """The next message of that type."""
        while True:
            message: Json = json.loads(await asyncio.wait_for(self._socket.recv(), WAIT_S))
            if message["type"] == kind:
                return message

    async def load(self, model: Path, **options: Any) -> Json:
        """Loads the model."""
        options = {**OPTIONS, **options}
        request = {
            "type": "load",
            "provider": self.engine.partition("-generate")[0],
            "preload_model_id": str(model),
            "options": options,
        }
        done = await self.ask({**request, "unique_request_id": f"l{next(self._ids)}"}, "load_done")
        if done["is_error"]:
            raise Failed(done["message"])
        return done

    async def begin(self, messages: list[Json], tokens: int, **extra: Any) -> float:
        """Sends a generate; the time of that."""
        request = {
            "type": "generate",
            "unique_request_id": f"g{next(self._ids)}",
            "messages": messages,
            "params": {"max_output_length": tokens, "extra": {"ignore_eos": True, **extra}},
            "stream": True,
        }
        started = time.perf_counter()
        await self._socket.send(json.dumps(request))
        return started

    async def say(self, text: str, tokens: int) -> list[float]:
        """When each piece of the reply came, in seconds."""
        times, _, _ = await self.converse([{"role": "user", "content": text}], tokens)
        return times

    async def converse(
        self, messages: list[Json], tokens: int, **extra: Any
    ) -> tuple[list[float], str, Json]:
        """When each piece came, the reply, and its end."""
        started = await self.begin(messages, tokens, **extra)
        at, text = [], ""
        while True:
            message: Json = json.loads(await asyncio.wait_for(self._socket.recv(), WAIT_S))
            if message["type"] == "generate_stream_chunk":
                at.append(time.perf_counter() - started)
                text += message["chunk"]
            elif message["type"] == "generate_stream_done":
                if message["is_error"]:
                    raise Failed(message["message"])
                return at, text, message


@contextlib.asynccontextmanager
async def client_of(module: Module, engine: str) -> Any:
    """A connection, closed at the end."""
    async with connect(f"ws://127.0.0.1:{module.port}", proxy=None) as socket:
        yield Client(socket, engine)


# ---- the measures


async def speeds(client: Client, direct: Direct, rounds: int) -> Json:
    """A token's time and the first token of both sides, in turns, beginning with the other one each time.

    The lower quartile of the times is what a token costs when nothing else runs; the medians say how busy
    the machine was meanwhile.
    """
    tokens: dict[str, list[float]] = {side: [] for side in SIDES}
    first: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in SIDES if number % 2 else reversed(SIDES):
            text = f"Tell me number {number} of the stories."
            times = direct.say(text, TOKENS) if side == "direct" else await client.say(text, TOKENS)
            tokens[side] += [(after - before) * MS for before, after in itertools.pairwise(times)]
    for number in range(FIRST_TOKENS):
        for side in SIDES if number % 2 else reversed(SIDES):
            text = f"{number:03} is a number."
            times = direct.say(text, 1) if side == "direct" else await client.say(text, 1)
            first[side] += [moment * MS for moment in times]  # none for a piece of a letter
    return {
        "token_ms": {side: _spread(values) for side, values in tokens.items()},
        "tokens_per_s_module_against_direct": {
            name: round(figure / _spread(tokens["module"])[name], 4)
            for name, figure in _spread(tokens["direct"]).items()
        },
        "first_token_ms": {side: _spread(values) for side, values in first.items()},
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "quartile": round(quantiles(values, n=4)[0], 3),
        "median": round(median(values), 3),
        "mean": round(sum(values) / len(values), 3),
    }


async def crowd(module: Module, engine: str, model: Path) -> Json:
    """Tokens a second of one client, and of several at once together."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_of(module, engine)) for _ in range(CROWD)]
        for client in clients:
            await client.load(model)
        alone, together = [], []
        for number in range(3):
            alone.append(await _crowd_speed(clients[:1], f"Alone {number}"))
            together.append(await _crowd_speed(clients, f"Together {number}"))
    return {"one": round(median(alone), 2), f"{CROWD} at once": round(median(together), 2)}


async def _crowd_speed(clients: list[Client], text: str) -> float:
    """Tokens a second of all together, from the question to the last token."""
    started = time.perf_counter()
    replies = await asyncio.gather(*(client.say(text, TOKENS) for client in clients))
    return sum(map(len, replies)) / (time.perf_counter() - started)


async def second_turns(client: Client, model: Path) -> Json:
    """The first token of a conversation's second turn, with and without the first one's reuse."""
    engine = ENGINES[client.engine]
    kinds: dict[str, tuple[Json, Json]] = {
        "with": ({}, {}),
        "without": (engine.anew_options, engine.anew_extra),
    }
    times, usage = {}, {}
    for kind, (options, extra) in kinds.items():
        await client.load(model, **options)
        found = [await _second_turn(client, f"{kind}{number}", extra) for number in range(TURNS)]
        times[kind] = round(median(first for first, _ in found), 1)
        usage[kind] = found[-1][1]
    await client.load(model)
    return {
        "first_token_ms": times,
        "tokens": {
            kind: [use["input_tokens"], use.get("cached_input_tokens", 0)] for kind, use in usage.items()
        },
    }


async def _second_turn(client: Client, name: str, extra: Json) -> tuple[float, Json]:
    words = " ".join(f"word{name}{i}" for i in range(HISTORY_WORDS))
    history = [{"role": "user", "content": words}]
    _, text, _ = await client.converse(history, 10, **extra)
    history += [{"role": "assistant", "content": text}, {"role": "user", "content": "Go on."}]
    times, _, end = await client.converse(history, LETTER_TOKENS, **extra)
    return times[0] * MS, end["usage"]


async def interrupts(client: Client) -> Json:
    """From sending an interrupt to its ack and to the end of the reply, and how long closing took."""
    acks, ends, closed = [], [], []
    for number in range(INTERRUPTS):
        await client.begin([{"role": "user", "content": f"Stop {number}"}], 2000)
        for _ in range(1 + number % 5):
            await client.until("generate_stream_chunk")
        started = time.perf_counter()
        await client.ask({"type": "interrupt", "unique_request_id": f"i{number}"}, "interrupt_ack")
        acks.append((time.perf_counter() - started) * MS)
        end = await client.until("generate_stream_done")
        ends.append((time.perf_counter() - started) * MS)
        closed.append(end["upstream_closed_ms"])
    spread = {"ack": acks, "end": ends, "upstream_closed": closed}
    return {
        name: {"median": round(median(values), 2), "max": round(max(values), 2)}
        for name, values in spread.items()
    }


async def paired(home: Path, engine: str, model: Path, rounds: int, pairs: int) -> Json:
    """The speeds of so many pairs of new processes, and what they come to."""
    speeds_of = [
        await _speeds_anew(home, engine, model, rounds, direct_first=bool(number % 2))
        for number in range(pairs)
    ]
    ratios = [speed["tokens_per_s_module_against_direct"]["median"] for speed in speeds_of]
    first = [
        round(speed["first_token_ms"]["module"]["median"] - speed["first_token_ms"]["direct"]["median"], 2)
        for speed in speeds_of
    ]
    return {
        "tokens_per_s_module_against_direct": {"mean": round(geometric_mean(ratios), 4), "each": ratios},
        "first_token_later_ms": {"median": median(first), "each": first},
        "token_ms": [{side: speed["token_ms"][side]["median"] for side in SIDES} for speed in speeds_of],
    }


async def _speeds_anew(home: Path, engine: str, model: Path, rounds: int, *, direct_first: bool) -> Json:
    """The speeds of two new processes."""
    with tempfile.TemporaryFile() as log, contextlib.ExitStack() as stack:
        module = Module(home, log)
        stack.callback(module.close)
        direct = Direct(engine, model, home) if direct_first else None
        async with client_of(module, engine) as client:
            await client.load(model)
            direct = direct or Direct(engine, model, home)
            stack.callback(direct.close)
            return await speeds(client, direct, rounds)


async def measure(home: Path, engine: str, model: Path, rounds: int, *, speed_only: bool) -> Json:
    """Everything, one after the other, or only what compares the module with the engine."""
    size = await asyncio.to_thread(size_of, model)
    with tempfile.TemporaryFile() as log, contextlib.ExitStack() as stack:
        module = Module(home, log)
        stack.callback(module.close)
        figures: Json = {"model_mib": round(size / MIB), "idle": _rounded(module.memory())}
        async with client_of(module, engine) as client:
            figures["load"] = (await client.load(model))["timings_ms"]
            figures["loaded"] = _rounded(module.memory())
            direct = Direct(engine, model, home)
            stack.callback(direct.close)
            figures["speed"] = await speeds(client, direct, rounds)
            if speed_only:
                return figures
            figures["second turn"] = await second_turns(client, model)
            figures["interrupt"] = await interrupts(client)
            figures["crowd"] = await crowd(module, engine, model)
            return figures


def size_of(model: Path) -> int:
    files = model.iterdir() if model.is_dir() else [model]
    return sum(file.stat().st_size for file in files)


def _rounded(sizes: Mapping[str, float]) -> Json:
    return {name: round(size, 1) for name, size in sizes.items()}


@contextlib.contextmanager
def model_of(engine: str, given: Path | None) -> Iterator[Path]:
    """The model to measure with; one of random weights is made and removed again."""
    if given is not None:
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield ENGINES[engine].make(Path(folder))


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="What the module costs an engine.")
    parser.add_argument("--home", type=Path)
    parser.add_argument("--engine", choices=ENGINES, help="only this one")
    parser.add_argument("--model", type=Path, help="of that engine")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--speed-only", action="store_true", help="only what compares the two sides")
    parser.add_argument("--pairs", type=int, help="speeds only, of so many pairs of new processes")
    parser.add_argument("--direct", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.direct is not None:
        serve_directly(flags.engine, flags.direct)
        return 0
    if flags.home is None:
        parser.error("--home is missing: one in which install.py --llm NAME has run for each engine")
    if flags.model is not None and flags.engine is None:
        parser.error("--model needs --engine: whose model is it?")
    if flags.pairs and flags.pairs % 2:
        parser.error("--pairs must be even: who loads second is often faster")
    for engine in [flags.engine] if flags.engine else ENGINES:
        with model_of(engine, flags.model) as model:
            if flags.pairs:
                measured = paired(flags.home, engine, model, flags.rounds, flags.pairs)
            else:
                measured = measure(flags.home, engine, model, flags.rounds, speed_only=flags.speed_only)
            sys.stdout.write(json.dumps({engine: asyncio.run(measured)}, indent=2) + "\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())

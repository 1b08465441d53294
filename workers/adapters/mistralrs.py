"""mistral.rs inside the worker, by the package mistralrs: a folder of safetensors or a GGUF file, no torch.

Whose turn it is decides workers.resident, where a model is workers.model_folders, and what all engines do
alike stands in workers.engine_adapter. What was found out about version 0.9.5, and what follows from it:

1. A reply is an iterator that waits in the engine without holding the interpreter; once it is dropped, the
   engine stops at its next token (it used no processor time afterwards). A prompt is computed in one piece:
   an interrupt in it is answered at once, and the engine is through with it only at the prompt's end.
2. Making a Runner holds the interpreter to the end, seconds for a model that is quantised in place. So the
   files are read before, in a thread, with progress and a way to stop.
3. It applies the chat template by itself and does not say how many tokens came of it. So it gets a template
   that lets everything through, and one text, which is counted by its own tokenizer before.
4. All requests share one source of chance, and none can have a seed (EricLBuehler/mistral.rs#1626). So a
   reply with a seed is drawn here (workers.seeded), from what the engine says of each token: it goes on with
   the likeliest token, and where another one was drawn it is asked anew from there. That is slower.
5. On a processor what is kept of conversations is never thrown away (EricLBuehler/mistral.rs#1961; in 0.9.5
   still, 16 KiB to some hundred for each token). So it is counted, and the engine made anew when it is too
   much.
6. How many threads compute is a variable of the process, read once: the first load decides.
7. A Runner is called by one thread at a time: a second one is refused. Its iterators are not.
8. It would ask the hub for what is missing in a folder. So it is told that there is no network.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.metadata
import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from workers import engine_adapter
from workers.adapter import (
    AdapterError,
    Alive,
    Begun,
    Binding,
    Event,
    ProviderSpec,
    ReportProgress,
    Request,
    Usage,
    Warn,
)
from workers.chat_prompt import Manner
from workers.chat_template import renderer
from workers.codes import Code
from workers.engine_adapter import EngineAdapter
from workers.engine_memory import was_memory
from workers.engine_options import read_options
from workers.engine_thread import Pieces, Take
from workers.hub_download import Hub
from workers.machine import give_back_memory, memory_bytes
from workers.mistral_chat import ask
from workers.mistral_files import Found, look_at
from workers.mistral_options import Given, Used, cache_bytes, check_memory, fill, smaller, weights_bytes
from workers.mistral_reply import Piece, Reply
from workers.model_folders import find_model, model_names
from workers.redaction import redacted
from workers.resident import Resident, Turn
from workers.seeded import Candidate
from workers.warm_files import read_once

os.environ.update(RUST_LOG="error", HF_HUB_OFFLINE="1")
import mistralrs  # it reads those while it is imported: of every load it would tell in many lines

__all__ = ["ADAPTER", "MistralRs"]

PREFIXES: Final = 16
"""Conversations that are kept where the engine throws older ones away (on a GPU)."""
GROWTH: Final = 512
"""The engine keeps a conversation in steps of so many tokens."""
QUOTE_MAX_CHARS: Final = 200
"""Of the engine's errors, which go on with a trace of its insides."""
THROUGH: Final = "{% for message in messages %}{{ message.content }}{% endfor %}"
"""The template that lets everything through."""
NOBODY: Final = "none"
"""Whose token the engine takes for the hub."""
LET_GO_S: Final = 0.05
"""For the engine's threads to end, which free the model and tell nobody: what is given back before that is
a part of it."""
_MODEL: Final = "default"
"""The name of a Runner's only model."""
_ERRORS: Final = (ValueError, RuntimeError, OverflowError, TypeError)
"""What becomes of the engine's exceptions on their way into Python."""
_DIED: Final = "Received none"
"""In what the engine says when its own thread has ended; the next request starts it again."""
_THREADS: Final = "RAYON_NUM_THREADS"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model, and how it is to be loaded."""

    name: str
    path: Path
    options: Given


class Engine:
    """A loaded model."""

    def __init__(self, wanted: Wanted, found: Found, used: Used) -> None:
        self._path = wanted.path
        self._used = used
        self._found = found
        self._name = wanted.name
        self._runner: Any = None
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._renewal: asyncio.Task[None] | None = None
        self._kept_bytes = 0
        self._bos = ""
        self._calling = threading.Lock()
        self._threads = ThreadPoolExecutor(used.slots, thread_name_prefix="engine")
        self.places = used.slots
        self.context_length = used.context_length
        self.ends = found.ends
        self.manner = Manner(None, may_think=False)

    def serves(self, wanted: Wanted) -> bool:
        """Whether it is that model, loaded in a way that will do."""
        return wanted.path == self._path and self._used.will_do_for(wanted.options)

    async def close(self) -> None:
        """Gives the memory back; no request may be running."""
        if self._renewal is not None:
            await asyncio.wait({self._renewal})
        await asyncio.to_thread(self._drop)

    def start(self) -> None:
        """Makes the engine, and lets it say one token, so that the next one costs no loading. Blocks.

        Raises:
            AdapterError: INVALID_MODEL or OUT_OF_MEMORY, it cannot be made.
        """
        self._runner, self._kept_bytes = None, 0
        try:
            self._runner = _made(self._path, self._found, self._used)
            self._learn_to_speak()
            for _ in self._runner.send_chat_completion_request(_request("Hi", max_tokens=1)):
                pass
        except (*_ERRORS, MemoryError) as exc:
            raise self._not_made(exc) from exc
        give_back_memory()

    def enter(self) -> asyncio.Task[None] | None:
        """Lets a request in, which must `leave`; or what it has to wait for, before it asks once more.

        The engine is made anew when it keeps too much of conversations, and when everybody has left."""
        if self._renewal is None and (self._runner is None or self._kept_bytes > cache_bytes(memory_bytes())):
            self._renewal = asyncio.get_running_loop().create_task(self._renewed())
            self._renewal.add_done_callback(self._renewal_over)
        if self._renewal is None:
            self._inside += 1
            self._empty.clear()
        return self._renewal

    def leave(self) -> None:
        """A request is over."""
        self._inside -= 1
        if not self._inside:
            self._empty.set()

    def count(self, prompt: str) -> int:
        """The tokens of a prompt, as the engine will count them. Blocks.

        Raises:
            AdapterError: INVALID_PROMPT.
        """
        special = not (self._bos and prompt.startswith(self._bos))
        try:
            with self._calling:
                return len(self._runner.tokenize_text(prompt, special, None))
        except _ERRORS as exc:
            raise _refused(exc) from exc

    def text_of(self, token: int, after: int | None = None) -> str:
        """What a token says after another one, empty where it is no text but a sign. Blocks."""
        if not self._text([token], signs=False):
            return ""
        if after is None:
            return self._text([token])
        before, both = self._text([after]), self._text([after, token])
        return both[len(before) :] if both.startswith(before) else self._text([token])

    def sign_of(self, token: int) -> str:
        """How a token is written, also one that is no text. Blocks."""
        return self._text([token])

    def _text(self, tokens: list[int], *, signs: bool = True) -> str:
        try:
            with self._calling:
                return str(self._runner.detokenize_text(tokens, not signs))
        except _ERRORS as exc:
            raise _refused(exc) from exc

    def begin(self, prompt: str, *, max_tokens: int, **fields: Any) -> Pieces[Piece]:
        """Begins a request."""
        runner, request = self._runner, _request(prompt, max_tokens=max_tokens, **fields)

        def run(take: Take[Piece]) -> None:
            with self._calling:
                chunks = runner.send_chat_completion_request(request)
            for piece in map(_piece, chunks):
                if piece.usage is not None:
                    self._keep(piece.usage)
                if take(piece):
                    return

        return Pieces[Piece](self._threads, run, _refused, (*_ERRORS, MemoryError))

    def _keep(self, usage: Usage) -> None:
        """A conversation came to its end, and the engine keeps it."""
        if self._used.prefix_cache and not _has_gpu():
            steps = -(-((usage.input_tokens or 0) + (usage.output_tokens or 0)) // GROWTH)
            with self._calling:
                self._kept_bytes += steps * GROWTH * self._found.facts.kv_bytes

    def _not_made(self, error: Exception) -> AdapterError:
        """Why the engine could not be made, of which it names only what it was about to do."""
        facts, name = self._found.facts, self._name
        if was_memory(error, max(weights_bytes(facts, self._used.isq), facts.file_bytes)):
            remedy = smaller(self._used, facts)
            return AdapterError(
                Code.OUT_OF_MEMORY, f"The memory ran out while {name!r} was loaded: try {remedy}."
            )
        return AdapterError(
            Code.INVALID_MODEL,
            f"The engine cannot load {name!r} (architecture {self._found.architecture}); "
            f"it said: {_quoted(error)}.",
        )

    async def _renewed(self) -> None:
        await self._empty.wait()
        await asyncio.to_thread(self.start)

    def _renewal_over(self, task: asyncio.Task[None]) -> None:
        self._renewal = None

    def _drop(self) -> None:
        self._threads.shutdown()  # all are idle
        self._runner = None  # the last reference: its destructor tells the engine's threads to end
        time.sleep(LET_GO_S)
        give_back_memory()

    def _learn_to_speak(self) -> None:
        found = self._found
        words = {**{name: self.sign_of(number) for name, number in found.word_ids.items()}, **found.words}
        self._bos = words.get("bos_token", "")
        if not self._used.transcript:
            template = found.facts.template or ""
            self.manner = Manner(renderer(template, words), may_think="think" in template)


class MistralRs(EngineAdapter[Wanted, Engine]):
    """One connection's use of the engine."""

    kind = "a folder of safetensors or a .gguf file"

    def __init__(self, provider: ProviderSpec, binding: Binding) -> None:
        super().__init__(provider, binding)
        self.resident = _RESIDENT
        self._options = Given()

    def read_options(self, options: Mapping[str, Any]) -> tuple[Warn, ...]:
        """As EngineAdapter wants it."""
        self._options, warnings = read_options(options, Given)
        fixed = os.environ.get(_THREADS) if _PROCESS.decided else None
        if fixed is None or self._options.threads in (None, int(fixed)):
            return warnings
        sentence = f"The engine computes with {fixed} threads until its process ends: the first load decides."
        return (*warnings, Warn("OPTION_IGNORED", sentence))

    def wanted(self, name: str, path: Path) -> Wanted:
        """As EngineAdapter wants it."""
        return Wanted(name, path, self._options)

    def names(self) -> tuple[str, ...]:
        """As EngineAdapter wants it."""
        return model_names(self.files)

    def find(self, name: str) -> Path:
        """As EngineAdapter wants it."""
        return find_model(self.files, name)

    def fetch(
        self, hub: Hub, repo: str, file: str, report: ReportProgress, given_up: threading.Event
    ) -> Path:
        """As EngineAdapter wants it: a repository of safetensors, unless a GGUF file is named."""
        if file:
            return super().fetch(hub, repo, file, report, given_up)
        try:
            hub.fetch_repository(repo, report, given_up)
        except AdapterError as exc:
            if exc.code is not Code.INVALID_MODEL:
                raise
            return super().fetch(hub, repo, file, report, given_up)  # it may have GGUF files instead
        return find_model(self.files, repo)

    async def generate(self, request: Request) -> AsyncIterator[Event]:
        """The reply as the engine makes it. Cancelling or closing it ends it in the engine too."""
        turn = self.resident.ask(await self.wanted_of(request.model))
        over: Callable[[Callable[[], None]], None] = _at_once
        entered: list[Engine] = []
        try:
            async for alive in self.waiting(turn):
                yield alive
            engine = turn.model
            while (renewal := engine.enter()) is not None:
                await asyncio.wait({renewal}, timeout=engine_adapter.BEAT_S)
                yield Alive()
                if renewal.done():
                    renewal.result()
            entered.append(engine)
            asked = ask(request, engine.manner)
            if asked.warnings:
                yield Begun(asked.warnings)
            reply = Reply(engine, turn.wanted.name, request, asked)
            over = reply.when_over
            async with contextlib.aclosing(reply.events()) as events:
                async for event in events:
                    yield event
        finally:  # the place is free when the engine has let go
            over(functools.partial(_left, entered, turn))


def _at_once(callback: Callable[[], None]) -> None:
    callback()


def _left(entered: list[Engine], turn: Turn[Wanted, Engine]) -> None:
    """A request is over, in the engine too."""
    for engine in entered:
        engine.leave()
    turn.release()


# ---- loading, in a thread


@dataclass(slots=True)
class _Process:
    """What holds for all models of this process."""

    decided: bool = False
    """Whether the number of threads is fixed."""


_PROCESS: Final = _Process()


async def _load_engine(turn: Turn[Wanted, Engine]) -> Engine:
    return await asyncio.to_thread(_opened, turn.wanted, turn.report, turn.given_up)


def _opened(wanted: Wanted, report: ReportProgress, given_up: threading.Event) -> Engine:
    """Loads the model and lets it say one token, so that the next one costs no loading.

    Raises:
        AdapterError: INVALID_MODEL or OUT_OF_MEMORY; INTERRUPT when it was given up.
    """
    found = look_at(wanted.name, wanted.path)
    machine_bytes = memory_bytes()
    used = fill(wanted.options, found.facts, _threads(wanted.options))
    if not _has_gpu() and machine_bytes:
        check_memory(wanted.name, used, found.facts, machine_bytes)
    if found.facts.file_bytes < machine_bytes // 2:  # a larger one would push itself out again
        read_once(wanted.name, found.sizes, report, given_up)
    report("model", f"starting the engine with {wanted.name}", None)
    engine = Engine(wanted, found, used)
    engine.start()
    return engine


def _threads(options: Given) -> int:
    """How many threads compute, which the first load decides for the whole process."""
    if not _PROCESS.decided:
        wanted = options.threads or max(1, (os.cpu_count() or 1) // 2)  # the others are for games and voices
        os.environ[_THREADS] = str(wanted)
        _PROCESS.decided = True
    return options.threads or int(os.environ[_THREADS])


@functools.cache
def _has_gpu() -> bool:
    """Whether the package was built for a GPU: it tells nothing of what it computes with."""
    package = importlib.metadata.distribution("mistralrs")
    return "+cu" in package.version or "macosx" in (package.read_text("WHEEL") or "")


def _made(path: Path, found: Found, used: Used) -> Any:
    """The engine itself."""
    which: Any = mistralrs.Which.Plain(model_id=str(path))
    if not path.is_dir():
        names = [part.name for part in found.sizes]
        which = mistralrs.Which.GGUF(quantized_model_id=str(path.parent), quantized_filename=names)
    keeps = used.prefix_cache and (_has_gpu() or found.facts.kv_bytes > 0)
    with tempfile.TemporaryDirectory(prefix="template") as folder:
        through = Path(folder, "through.jinja")
        through.write_text(THROUGH, encoding="utf-8")
        return mistralrs.Runner(
            which=which,
            max_seqs=used.slots,
            prefix_cache_n=PREFIXES if keeps else 0,
            token_source=NOBODY,
            jinja_explicit=str(through),
            in_situ_quant=used.isq,
        )


# ---- what goes in, and what comes out


def _request(prompt: str, *, max_tokens: int, **fields: Any) -> Any:
    return mistralrs.ChatCompletionRequest(
        messages=[{"role": "user", "content": prompt}],
        model=_MODEL,
        max_tokens=max_tokens,
        stream=True,
        **fields,
    )


def _piece(chunk: Any) -> Piece:
    choice = chunk.choices[0]
    told = choice.logprobs.top_logprobs if choice.logprobs is not None else None
    return Piece(
        text=choice.delta.content or "",
        thought=choice.delta.reasoning_content or "",
        candidates=tuple(Candidate(one.token, one.bytes or "", one.logprob) for one in told or ()),
        reason=choice.finish_reason,
        usage=_usage(chunk.usage),
    )


def _usage(usage: Any) -> Usage | None:
    if usage is None:
        return None
    cached = getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", None)
    return Usage(usage.prompt_tokens, usage.completion_tokens, cached_input_tokens=cached)


def _refused(error: Exception) -> AdapterError:
    """The error for an exception of the engine."""
    if isinstance(error, MemoryError):
        return AdapterError(
            Code.OUT_OF_MEMORY, "The engine ran out of memory; load with a smaller options.context_length."
        )
    if _DIED in str(error):
        return AdapterError(Code.UPSTREAM_ERROR, "The engine broke in the middle of its answer; try again.")
    return AdapterError(Code.INVALID_PROMPT, f"The engine refuses the request (it said: {_quoted(error)}).")


def _quoted(error: Exception) -> str:
    """What the engine said, without its trace."""
    return redacted(str(error).strip().partition("\n")[0])[:QUOTE_MAX_CHARS]


_RESIDENT: Final[Resident[Wanted, Engine]] = Resident(_load_engine)
"""The one model of this process."""

ADAPTER: Final = MistralRs

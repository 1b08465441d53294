"""Hugging Face's transformers inside the worker, on torch: what the light engines cannot load.

A model is a folder of safetensors, an operator's or one in the hub's cache. What all engines do alike stands
in workers.engine_adapter, how a model is loaded in workers.torch_loading, how replies are made in
workers.torch_replies; here is how a request becomes tokens, and tokens become a reply.

What a model's own files ask for in sampling is not taken over: a request says what it wants.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from workers.adapter import (
    AdapterError,
    Alive,
    Begun,
    Binding,
    Event,
    Finish,
    ProviderSpec,
    ReportProgress,
    Request,
    Text,
    Usage,
    Warn,
)
from workers.chat_prompt import TEMPLATE_WORDS, THINK, THINKING_HEADROOM, Manner, Prompt, prompt_of
from workers.chat_template import renderer
from workers.codes import Code
from workers.engine_adapter import QUIRKS, EngineAdapter
from workers.engine_options import read_options
from workers.hub_download import Hub
from workers.model_files import MAIN
from workers.model_folders import find_folder, folder_names
from workers.parameters import omitted
from workers.resident import Resident, Turn
from workers.token_choice import choice_of
from workers.token_job import Job
from workers.token_reply import TokenReply
from workers.torch_faults import ERRORS, TRUST, not_loaded
from workers.torch_loading import Plan, Wanted, clear, load_model, load_tokenizer, plan_of
from workers.torch_options import Given, smaller
from workers.torch_replies import runner_of

__all__ = ["ADAPTER", "Transformers"]

AT_ONCE_CHARS: Final = 8192
"""A prompt up to that long becomes tokens within a millisecond or two."""
_EXTRA: Final = ("ignore_eos", TEMPLATE_WORDS)
"""What a client may add."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, ready for the engine."""

    prompt: Prompt
    tokens: list[int]
    limit: int
    """Tokens of the reply at most."""
    ends: frozenset[int]
    warnings: tuple[Warn, ...]


class Engine:
    """A loaded model."""

    def __init__(self, wanted: Wanted, plan: Plan, model: Any, tokenizer: Any) -> None:
        self._wanted = wanted
        self._used = plan.used
        self._model = model
        self._tokenizer = tokenizer
        self._ends = frozenset((*plan.found.eos_ids, tokenizer.eos_token_id)) - {None}
        self._manner = _manner(plan)
        self.runner = runner_of(model, plan.used, self._first_words())

    @property
    def places(self) -> int:
        """How many requests it serves at once."""
        return self.runner.places

    def serves(self, wanted: Wanted) -> bool:
        """Whether it is that model, loaded in a way that will do. One that has failed is loaded anew."""
        same = (wanted.path, wanted.trusted) == (self._wanted.path, self._wanted.trusted)
        return same and not self.runner.broken and self._used.will_do_for(wanted.options)

    async def close(self) -> None:
        """Gives the memory back; no request may be running."""
        await asyncio.to_thread(self._drop)

    def _drop(self) -> None:
        self.runner.stop()
        self._model = None
        clear()

    def decode(self, tokens: Sequence[int]) -> str:
        """As TokenReply wants it."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def read(self, request: Request) -> Asked:
        """What a request asks for, in tokens. Blocks.

        Raises:
            AdapterError: UNSUPPORTED, INVALID_PROMPT or CONTEXT_TOO_LONG.
        """
        prompt = prompt_of(request, self._manner)
        tokens = self._encode(prompt)
        if not tokens:
            raise AdapterError(
                Code.INVALID_PROMPT, "The model's chat template makes nothing of these messages."
            )
        room = self._used.context_length - len(tokens)
        if room <= 0:
            raise AdapterError(
                Code.CONTEXT_TOO_LONG,
                f"The messages have {len(tokens)} tokens and the context holds {self._used.context_length}: "
                "send fewer, or load with a larger options.context_length.",
            )
        wanted = request.max_output_length + (THINKING_HEADROOM if prompt.thinks else 0)
        ends = frozenset() if request.extra.get("ignore_eos") is True else self._ends
        return Asked(prompt, tokens, min(wanted, room), ends | set(request.stop_ids), _unknown(request))

    def _encode(self, prompt: Prompt) -> list[int]:
        """A chat template writes the signs that a text begins with; in a transcript there are none."""
        return list(self._tokenizer.encode(prompt.text, add_special_tokens=prompt.plain))

    def _first_words(self) -> list[int]:
        """What the model reads first; it is not nothing, whatever its tokenizer makes of it."""
        return self._encode(Prompt("Hi", plain=True, stops=(), thinks=False)) or [0]


class Transformers(EngineAdapter[Wanted, Engine]):
    """One connection's use of the engine."""

    kind = "a folder with config.json and .safetensors files"
    quirks = (*QUIRKS, TRUST)

    def __init__(self, provider: ProviderSpec, binding: Binding) -> None:
        super().__init__(provider, binding)
        self.resident = _RESIDENT
        self._options = Given()

    def read_options(self, options: Mapping[str, Any]) -> tuple[Warn, ...]:
        """As EngineAdapter wants it."""
        self._options, warnings = read_options(options, Given)
        self.revision = self._options.revision or MAIN
        return warnings

    def wanted(self, name: str, path: Path) -> Wanted:
        """As EngineAdapter wants it."""
        return Wanted(name, path, self._options, self.provider.quirks.get(TRUST) is True)

    def names(self) -> tuple[str, ...]:
        """As EngineAdapter wants it."""
        return folder_names(self.files, self.revision)

    def find(self, name: str) -> Path:
        """As EngineAdapter wants it."""
        return find_folder(self.files, name, self.revision)

    def fetch(
        self, hub: Hub, repo: str, file: str, report: ReportProgress, given_up: threading.Event
    ) -> Path:
        """As EngineAdapter wants it: a repository of safetensors."""
        if file:
            raise AdapterError(
                Code.INVALID_MODEL, f"{file} is for the provider llama-cpp: name a repository of safetensors."
            )
        hub.fetch_repository(repo, report, given_up)
        return self.find(repo)

    async def generate(self, request: Request) -> AsyncIterator[Event]:
        """The reply as the engine makes it. Cancelling or closing it ends it in the engine too."""
        turn = self.resident.ask(await self.wanted_of(request.model))
        try:
            async for alive in self.waiting(turn):
                yield alive
            engine, model = turn.model, turn.wanted.name
            asked = await _read(engine, request)
            if asked.warnings:
                yield Begun(asked.warnings)
            if asked.prompt.opens_thinking:
                yield Text(THINK)
            job = Job(asked.tokens, limit=asked.limit, ends=asked.ends, choice=choice_of(request))
            tokens = engine.runner.answer(job, turn.release)
        except BaseException:  # from here on the engine gives the turn back
            turn.release()
            raise
        async with contextlib.aclosing(tokens):
            async for event in _events(tokens, job, asked, engine, model):
                yield event


def _manner(plan: Plan) -> Manner:
    """How the model wants to be spoken to.

    Raises:
        AdapterError: INVALID_MODEL, its chat template cannot be read.
    """
    if plan.used.transcript:
        return Manner(None, may_think=False)
    template = plan.found.template or ""
    return Manner(renderer(template, plan.found.words), may_think="think" in template)


async def _read(engine: Engine, request: Request) -> Asked:
    """In a thread where it may take long; else a thread would be what takes long."""
    if sum(len(message.content) for message in request.messages) > AT_ONCE_CHARS:
        return await asyncio.to_thread(engine.read, request)
    return engine.read(request)


async def _events(
    tokens: AsyncIterator[Sequence[int]], job: Job, asked: Asked, engine: Engine, model: str
) -> AsyncGenerator[Event, None]:
    prompt = asked.prompt
    reply = TokenReply(
        engine.decode, ends=asked.ends, limit=asked.limit, stops=prompt.stops, trims=prompt.plain
    )
    async for new in tokens:
        text = reply.feed(new)
        yield Text(text) if text else Alive()
        if reply.reason is not None:
            break
    usage = Usage(len(job.prompt), reply.tokens, len(job.prompt) - job.computed)
    yield Finish(reply.reason or "length", model, usage, asked.warnings)


def _unknown(request: Request) -> tuple[Warn, ...]:
    """What a request says and nothing here heeds."""
    names = [f"extra.{name}" for name in request.extra if name not in _EXTRA]
    if (request.response_format or {}).get("type", "text") != "text":
        names.append("response_format")
    return tuple(map(omitted, names))


# ---- loading, in a thread


async def _load_engine(turn: Turn[Wanted, Engine]) -> Engine:
    return await asyncio.to_thread(_opened, turn.wanted, turn.report, turn.given_up)


def _opened(wanted: Wanted, report: ReportProgress, given_up: threading.Event) -> Engine:
    """Loads the model and lets it say one token, so that the next one costs no loading.

    Raises:
        AdapterError: INVALID_MODEL, UNSUPPORTED or OUT_OF_MEMORY; INTERRUPT when it was given up.
    """
    plan = plan_of(wanted)
    remedy = smaller(plan.used, plan.found, plan.machine)
    try:
        tokenizer = load_tokenizer(wanted)
        return Engine(wanted, plan, load_model(wanted, plan, report, given_up), tokenizer)
    except (*ERRORS, AdapterError) as exc:
        error = not_loaded(exc, wanted.name, plan.found.architecture, remedy)
    clear()  # only now nothing holds any more what the exception held
    raise error


_RESIDENT: Final[Resident[Wanted, Engine]] = Resident(_load_engine)
"""The models of this process."""

ADAPTER: Final = Transformers

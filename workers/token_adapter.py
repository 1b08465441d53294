"""What the adapters of engines share that take tokens and give tokens: a request becomes tokens, and tokens
become a reply.

How a model gets into memory, and what makes its tokens, is each engine's own: transformers_local and
openvino_local of workers.adapters. What all engines share stands in workers.engine_adapter.

What a model's own files ask for in sampling is not taken over: a request says what it wants.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from workers.adapter import (
    AdapterError,
    Alive,
    Begun,
    Event,
    Finish,
    ReportProgress,
    Request,
    Text,
    Usage,
    Warn,
)
from workers.chat_prompt import TEMPLATE_WORDS, THINK, Prompt, manner_of, prompt_of, reply_limit
from workers.codes import Code
from workers.engine_adapter import EngineAdapter
from workers.engine_thread import read_in_time
from workers.folder_model import BadFolder, FolderModel, read_folder
from workers.hub_download import Hub, files_of_model
from workers.model_folders import find_folder, folder_names
from workers.parameters import omitted
from workers.token_choice import choice_of
from workers.token_job import Job, Runner
from workers.token_reply import TokenReply

__all__ = ["Asked", "Speaker", "TokenAdapter", "TokenEngine", "looked_at"]

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


class Speaker:
    """A model's tokenizer, and how the model wants to be spoken to."""

    def __init__(
        self, tokenizer: Any, found: FolderModel, *, context_length: int, as_transcript: bool
    ) -> None:
        """
        Raises:
            AdapterError: INVALID_MODEL, its chat template cannot be read.
        """
        self._tokenizer = tokenizer
        self._ends = frozenset((*found.eos_ids, tokenizer.eos_token_id)) - {None}
        self._manner = manner_of(found.template, found.words, as_transcript=as_transcript)
        self._context_length = context_length

    def decode(self, tokens: Sequence[int]) -> str:
        """As TokenReply wants it."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def first_words(self) -> list[int]:
        """What the model reads first; it is not nothing, whatever its tokenizer makes of it."""
        return self._encode(Prompt("Hi", plain=True, stops=(), thinks=False)) or [0]

    def read(self, request: Request) -> Asked:
        """What a request asks for, in tokens. Blocks.

        Raises:
            AdapterError: UNSUPPORTED, INVALID_PROMPT or CONTEXT_TOO_LONG.
        """
        prompt = prompt_of(request, self._manner)
        tokens = self._encode(prompt)
        limit = reply_limit(request, prompt, len(tokens), self._context_length)
        ends = frozenset() if request.extra.get("ignore_eos") is True else self._ends
        return Asked(prompt, tokens, limit, ends | set(request.stop_ids), _unknown(request))

    def _encode(self, prompt: Prompt) -> list[int]:
        """A chat template writes the signs that a text begins with; in a transcript there are none."""
        return list(self._tokenizer.encode(prompt.text, add_special_tokens=prompt.plain))


class TokenEngine(Protocol):
    """A loaded model, as workers.resident wants it, and what speaks for it."""

    speaker: Speaker
    runner: Runner

    @property
    def places(self) -> int:
        """How many requests it serves at once."""

    def serves(self, wanted: Any) -> bool:
        """Whether it is what `wanted` describes."""

    async def close(self) -> None:
        """Gives its memory back; called once, when no place is taken."""


class Wanted(Protocol):
    """A model, and how it is to be loaded."""

    @property
    def name(self) -> str:
        """As a client says it."""


W = TypeVar("W", bound=Wanted)
E = TypeVar("E", bound=TokenEngine)


class TokenAdapter(EngineAdapter[W, E]):
    """One connection's use of such an engine."""

    exported: tuple[str, ...] = ()
    """The files of weights that the engine takes instead of safetensors, where all of them are there."""

    def names(self) -> tuple[str, ...]:
        """As EngineAdapter wants it."""
        return folder_names(self.files, self.revision, self.exported)

    def find(self, name: str) -> Path:
        """As EngineAdapter wants it."""
        return find_folder(self.files, name, self.revision, self.exported)

    def fetch(
        self, hub: Hub, repo: str, file: str, report: ReportProgress, given_up: threading.Event
    ) -> Path:
        """As EngineAdapter wants it: a whole repository."""
        if file:
            raise AdapterError(
                Code.INVALID_MODEL, f"{file} is for the provider llama-cpp: name a repository of safetensors."
            )
        hub.fetch_repository(repo, report, given_up, partial(files_of_model, exported=self.exported))
        return self.find(repo)

    async def generate(self, request: Request) -> AsyncIterator[Event]:
        """The reply as the engine makes it. Cancelling or closing it ends it in the engine too."""
        turn = self.resident.ask(await self.wanted_of(request.model))
        try:
            async for alive in self.waiting(turn):
                yield alive
            engine, model = turn.model, turn.wanted.name
            asked = await read_in_time(engine.speaker.read, request)
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
            async for event in _events(tokens, job, asked, engine.speaker, model):
                yield event


def looked_at(name: str, path: Path, exported: str = "") -> FolderModel:
    """What the files of a folder say; `exported` as read_folder wants it. Blocks.

    Raises:
        AdapterError: INVALID_MODEL, it is none, or not whole.
    """
    try:
        return read_folder(path, exported)
    except BadFolder as exc:
        raise AdapterError(Code.INVALID_MODEL, f"{name!r} {exc}; download it once more.") from exc
    except OSError as exc:
        sentence = f"{name!r} cannot be read ({exc.strerror}); check the folder and who may read it."
        raise AdapterError(Code.INVALID_MODEL, sentence) from exc


async def _events(
    tokens: AsyncIterator[Sequence[int]], job: Job, asked: Asked, speaker: Speaker, model: str
) -> AsyncGenerator[Event, None]:
    prompt = asked.prompt
    reply = TokenReply(
        speaker.decode, ends=asked.ends, limit=asked.limit, stops=prompt.stops, trims=prompt.plain
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

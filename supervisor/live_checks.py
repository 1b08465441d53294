"""What a probe asks of a provider, in order, and what each answer means: pass, fail, or why it was not asked.

    load         its key is checked, its models are learnt
    models       it lists some
    stream       a few tokens arrive piece by piece, and an end
    interrupt    a longer reply ends when it is told to
    bad key      another connection's load with a key that is none is AUTHORIZATION
    wrong model  a model that there is not is INVALID_MODEL

Whatever goes wrong in a check is its row and nobody's traceback. No row holds a key, a prompt or a reply.
The command around it: live_probe.py.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final

from supervisor.live_talk import ConnectionLostError, Heard, NoAnswerError, Sent, Stopped, Talk
from supervisor.own_module import NoModuleError
from supervisor.providers import Provider
from workers.codes import Code

__all__ = ["TITLES", "Check", "Checks", "Subject", "Verdict"]

LET_GO_MS: Final = 400
"""A worker that does not let go is waited for half a second; one that has nothing to close is not."""

LOAD, MODELS, STREAM = "load", "models", "stream"
INTERRUPT, BAD_KEY, WRONG_MODEL = "interrupt", "bad key", "wrong model"
TITLES: Final = (LOAD, MODELS, STREAM, INTERRUPT, BAD_KEY, WRONG_MODEL)

SHORT_PROMPT: Final = "Say hi."
SHORT_TOKENS: Final = 5
LONG_PROMPT: Final = "Tell me a long story."
LONG_TOKENS: Final = 200
"""Enough that the fastest provider is still at it when the interrupt comes; hardly any are ever made."""
REFUSED_TOKENS: Final = 1
"""Of a model that there is not; should it answer all the same, it costs one token."""
NO_KEY: Final = "sk-this-is-not-a-key-of-anybody"
NO_MODEL_SUFFIX: Final = "-nope"
"""Behind a real name, so that the real one is near."""

QUIET_S: Final = 120.0
"""Between two signs of life of a load: the module gives up each of its steps sooner."""
LOAD_S: Final = 3600.0
"""For a load that makes an environment; as long as a build may take."""
ANSWER_S: Final = 5.0
"""For what the module answers by itself."""
REPLY_S: Final = 300.0
"""For a generation: the module ends one for which nothing arrives for a minute, but a model may think."""
FIRST_PIECE_S: Final = 20.0
"""For the beginning of the long reply; after that it is interrupted as it is."""
INTERRUPT_S: Final = 5.0
"""From the interrupt to the last of its messages; the module allows a worker half a second of it."""
MODELS_NAMED: Final = 3


class Verdict(enum.Enum):
    """How a check ended; the value is the word that is shown."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"
    """It could not be asked, or it means nothing here; the text says why."""


@dataclass(frozen=True, slots=True)
class Check:
    """One row."""

    title: str
    verdict: Verdict
    text: str
    ms: float | None = None
    """The figure of load, stream and interrupt."""


OVER_BEFORE: Final = Check(
    INTERRUPT,
    Verdict.SKIPPED,
    "the reply was over before the interrupt could end it; a slower --model shows it",
)


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is probed."""

    provider: Provider
    model: str | None = None
    """The one that is asked for; None: the provider's default, or the only one that it has."""
    key: str | None = field(default=None, repr=False)
    """None: the module looks it up."""
    installed: bool = True
    """Whether its environment was there before."""


class Checks:
    """The checks of one provider; used once."""

    def __init__(
        self,
        subject: Subject,
        connect: Callable[[], AbstractContextManager[Talk]],
        on_progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._subject = subject
        self._provider = subject.provider
        self._connect = connect
        self._on_progress = on_progress
        self._loaded = False
        self._unchecked_key = False
        self._key_refused = False
        self._models: tuple[str, ...] = ()
        self._why_lost = ""
        self._done: dict[str, Verdict] = {}
        self.model: str | None = subject.model or subject.provider.default_model
        self.requests = 0
        """Generations that were asked for."""
        self.asked_tokens = 0
        """The most that those may have written."""
        self.used: dict[str, int] = {}
        """What the provider counted, where it told."""

    def run(self) -> Iterator[Check]:
        """Each check when it is known.

        Raises:
            NoModuleError: there is no module to talk to.
        """
        looks = dict(zip(TITLES, self._looks(), strict=True))
        with self._connect() as talk:
            for title, look in looks.items():
                check = self._checked(title, look, talk)
                self._done[title] = check.verdict
                yield check

    def _looks(self) -> tuple[Callable[[Talk], Check], ...]:
        return (
            *(self._load, self._list, self._stream),
            *(self._interrupt, self._load_with_bad_key, self._ask_wrong_model),
        )

    def _checked(self, title: str, look: Callable[[Talk], Check], talk: Talk) -> Check:
        why_not = self._why_lost or self._why_not(title)
        if why_not:
            return Check(title, Verdict.SKIPPED, why_not)
        try:
            return look(talk)
        except ConnectionLostError as exc:
            self._why_lost = "the module is gone"
            return Check(title, Verdict.FAILED, str(exc))
        except (NoAnswerError, NoModuleError) as exc:
            return Check(title, Verdict.FAILED, str(exc))

    def _why_not(self, title: str) -> str:
        """Why that check is not made; empty if it is."""
        if title == BAD_KEY:
            return self._why_no_bad_key()
        if title != LOAD and not self._loaded:
            return "it is not loaded"
        if title == INTERRUPT and self._done[STREAM] is not Verdict.OK:
            return "its stream failed"
        if title == WRONG_MODEL and self.model is None:
            return "no model is known"
        return ""

    def _why_no_bad_key(self) -> str:
        if not self._provider.key:
            return "it takes no key"
        if not self._provider.key_required:
            return "it works without a key, so none need be refused"
        if self._unchecked_key:
            return "only a reply shows whether a key is good, and a load asks for none"
        return "" if self._loaded or self._key_refused else "it cannot be loaded at all"

    # ---- load and models

    def _load(self, talk: Talk) -> Check:
        sent, done = self._loading(talk, self._subject.key, preload_model_id=self._subject.model)
        message = done.message
        if message["is_error"]:
            self._key_refused = message["error_code"] == Code.AUTHORIZATION
            return Check(LOAD, Verdict.FAILED, _refusal(message))
        self._loaded = True
        ms = done.ms_since(sent)
        timings = dict(message.get("timings_ms", {}))
        text = f"{ms:.0f} ms ({', '.join(f'{name} {value}' for name, value in timings.items())})"
        if not self._subject.installed:
            ms -= timings.get("provision", 0)
            text += f"; its environment was made first, without that {ms:.0f} ms"
        warned = [warning["name"] for warning in message.get("warnings", ())]
        self._unchecked_key = "KEY_NOT_CHECKED" in warned
        unchecked = "NOT_CHECKED" in warned
        return Check(LOAD, Verdict.FAILED if unchecked else Verdict.OK, _with_warnings(text, message), ms)

    def _loading(self, talk: Talk, key: str | None, **fields: Any) -> tuple[Sent, Heard]:
        sent = talk.send(
            "load", provider=self._provider.id, api_key=key, verify=True, progress=True, **fields
        )
        return sent, talk.answer(sent, "load_done", LOAD_S, quiet_s=QUIET_S, on_message=self._tell)

    def _tell(self, heard: Heard) -> None:
        if heard.kind == "load_progress":
            self._on_progress(f"{self._provider.id}: {heard.message['message'] or heard.message['phase']}")

    def _list(self, talk: Talk) -> Check:
        done = talk.answer(talk.send("get_models"), "get_models_done", ANSWER_S).message
        if done["type"] == "error":
            return Check(MODELS, Verdict.FAILED, _refusal(done))
        self._models = tuple(done["models"])
        if not self._models:
            return Check(MODELS, Verdict.SKIPPED, "it lists none")
        if self.model is None and len(self._models) == 1:
            self.model = self._models[0]
        named = (
            "" if self.model is None else f", {self.model} {'' if self._is_listed() else 'not '}among them"
        )
        return Check(MODELS, Verdict.OK, f"{len(self._models)} listed{named}")

    def _is_listed(self) -> bool:
        return self.model in self._models

    # ---- stream

    def _stream(self, talk: Talk) -> Check:
        if self.model is None:
            known = ", ".join(self._models[:MODELS_NAMED])
            some = f", for example {known}" if known else ""
            text = f"it has no default model: name one with --model{some}"
            return Check(STREAM, Verdict.FAILED, text)
        pieces: list[Heard] = []
        sent = self._generate(talk, SHORT_PROMPT, SHORT_TOKENS)
        done = talk.answer(
            sent, "generate_stream_done", REPLY_S, on_message=lambda heard: _collect(heard, pieces)
        )
        self._count(done.message)
        if done.message["is_error"]:
            return Check(STREAM, Verdict.FAILED, _refusal(done.message))
        if not pieces:
            text = _with_warnings("it ended without any text", done.message)
            return Check(STREAM, Verdict.FAILED, text)
        first_ms, whole_ms = pieces[0].ms_since(sent), done.ms_since(sent)
        text = f"first piece after {_ms(first_ms)}, {len(pieces)} in all, over after {_ms(whole_ms)}"
        text += f" ({done.message.get('finish_reason')})"
        return Check(STREAM, Verdict.OK, _with_warnings(text, done.message), first_ms)

    def _generate(self, talk: Talk, prompt: str, tokens: int, model: str | None = None) -> Sent:
        self.requests += 1
        self.asked_tokens += tokens
        return talk.send(
            "generate",
            messages=[{"role": "user", "content": prompt}],
            params={"model_id": model or self.model, "max_output_length": tokens},
            stream=True,
        )

    def _count(self, done: Mapping[str, Any]) -> None:
        for name, tokens in done.get("usage", {}).items():
            self.used[name] = self.used.get(name, 0) + tokens

    # ---- interrupt

    def _interrupt(self, talk: Talk) -> Check:
        sent = self._generate(talk, LONG_PROMPT, LONG_TOKENS)
        begun = _beginning(talk, sent)
        if begun is not None and begun.kind != "generate_stream_chunk":
            self._count(begun.message)
            return _over_too_soon(begun.message)
        stopped = talk.interrupt(sent, INTERRUPT_S)
        self._count(stopped.done.message)
        return _judged(stopped, before_first=begun is None)

    # ---- bad key, wrong model

    def _load_with_bad_key(self, talk: Talk) -> Check:
        """On a connection of its own: a key belongs to the connection that brought it."""
        with self._connect() as other:
            sent, done = self._loading(other, NO_KEY)
        message, took = done.message, f"after {_ms(done.ms_since(sent))}"
        if not message["is_error"]:
            text = "the load took a key that is none: its list of models may be open to everybody"
            return Check(BAD_KEY, Verdict.FAILED, _with_warnings(text, message))
        if message["error_code"] != Code.AUTHORIZATION:
            return Check(BAD_KEY, Verdict.FAILED, f"this should be AUTHORIZATION; {_refusal(message)}")
        return Check(BAD_KEY, Verdict.OK, f"refused {took}; {_refusal(message)}")

    def _ask_wrong_model(self, talk: Talk) -> Check:
        name = f"{self.model}{NO_MODEL_SUFFIX}"
        sent = self._generate(talk, SHORT_PROMPT, REFUSED_TOKENS, name)
        done = talk.answer(sent, "generate_stream_done", REPLY_S).message
        self._count(done)
        if not done["is_error"]:
            return Check(
                WRONG_MODEL, Verdict.FAILED, f"it answered to the name {name}, which it does not have"
            )
        if done["error_code"] != Code.INVALID_MODEL:
            return Check(WRONG_MODEL, Verdict.FAILED, f"this should be INVALID_MODEL; {_refusal(done)}")
        return Check(WRONG_MODEL, Verdict.OK, _refusal(done))


def _beginning(talk: Talk, sent: Sent) -> Heard | None:
    """The first piece of a reply, or its end; None if neither comes soon.

    Raises:
        ConnectionLostError: the module closed the connection.
    """
    try:
        while True:
            heard = talk.hear(sent.at_s + FIRST_PIECE_S)
            if heard.is_of(sent) and heard.kind != "generate_ack":
                return heard
    except ConnectionLostError:
        raise
    except NoAnswerError:
        return None


def _judged(stopped: Stopped, *, before_first: bool) -> Check:
    """The row of an interrupt that went out."""
    done, ms = stopped.done.message, stopped.done.ms_since(stopped.order)
    if done.get("error_code") != Code.INTERRUPT:
        return _over_too_soon(done)
    when = "before its first piece, " if before_first else ""
    ack_ms = stopped.ack.ms_since(stopped.order)
    text = f"{when}acknowledged after {_ms(ack_ms)}, over after {_ms(ms)}"
    if stopped.late:
        return Check(INTERRUPT, Verdict.FAILED, f"{text}; pieces that came after it: {stopped.late}", ms)
    closed_ms = done.get("upstream_closed_ms")
    if closed_ms is None and ms < LET_GO_MS:  # nothing had to be closed: all of it had come
        return OVER_BEFORE
    if closed_ms is None:
        text += ", and the provider's connection was not closed by then"
        return Check(INTERRUPT, Verdict.FAILED, text, ms)
    return Check(INTERRUPT, Verdict.OK, f"{text}, upstream_closed_ms {closed_ms}", ms)


def _over_too_soon(done: Mapping[str, Any]) -> Check:
    if done["is_error"]:
        return Check(INTERRUPT, Verdict.FAILED, f"the long reply failed: {_refusal(done)}")
    return OVER_BEFORE


def _collect(heard: Heard, pieces: list[Heard]) -> None:
    if heard.kind == "generate_stream_chunk":
        pieces.append(heard)


def _refusal(message: Mapping[str, Any]) -> str:
    """The module's sentence, then the code: a redactor takes what follows a word like AUTHORIZATION away."""
    status = message.get("provider_status")
    said = f", status {status}" if status is not None else ""
    return f"{message['message']} [{message['error_name']}{said}]"


def _with_warnings(text: str, message: Mapping[str, Any]) -> str:
    return "; ".join([text, *(f"{note['name']}: {note['message']}" for note in message.get("warnings", ()))])


def _ms(milliseconds: float) -> str:
    """`0.8 ms`, `812 ms`."""
    return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"

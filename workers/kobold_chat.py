"""A request as KoboldAI and KoboldCpp take it, and what they answer as events. Pure.

They continue a text. It is a transcript (workers/transcript.py), or, for a model that was trained on turns
with marks around them, the turns with those marks. Where somebody else would begin to speak the reply is cut
here: the server ends there too, and gives that the same reason as a reply that became too long.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from workers.adapter import AdapterError, Alive, Event, Request, Usage, Warn
from workers.answer import Answer, count
from workers.codes import Code
from workers.parameters import Body, no_stop_ids, sampling, stops_sent, without_options
from workers.prompt import plain_roles, prefixed
from workers.quirks import Quirks, matches
from workers.refusals import Who
from workers.stops import StopCutter
from workers.thinking import SpokenCutter
from workers.transcript import transcript

__all__ = ["KoboldReply", "Manner", "Tags", "build", "cuts_of", "read_manner"]

CONTEXT_MAX: Final = 1 << 30
TAG_CHARS: Final = 256
"""More than any mark around a turn has."""
_NOT_ENDED: Final = "null"
"""The reason of an end that is not yet one, up to 1.76 as a text."""
_ALIVE: Final = Alive()


@dataclass(frozen=True, slots=True)
class Tags:
    """The marks around the turns, by the names that KoboldCpp's own files of them have."""

    system_start: str = ""
    system_end: str = ""
    user_start: str = ""
    user_end: str = ""
    assistant_start: str = ""
    assistant_end: str = ""


PRESETS: Final = {
    "alpaca": Tags("", "\n", "\n### Instruction:\n", "\n", "\n### Response:\n", "\n"),
    "chatml": Tags(
        *("<|im_start|>system\n", "<|im_end|>\n", "<|im_start|>user\n", "<|im_end|>\n"),
        *("<|im_start|>assistant\n", "<|im_end|>\n"),
    ),
    "gemma": Tags(
        *("<start_of_turn>user\n", "<end_of_turn>\n", "<start_of_turn>user\n", "<end_of_turn>\n"),
        *("<start_of_turn>model\n", "<end_of_turn>\n"),
    ),
    "llama-3": Tags(
        *("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        *("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        *("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    ),
    "mistral": Tags("[INST] ", " [/INST]", "[INST] ", " [/INST]", "", "</s>"),
}


@dataclass(frozen=True, slots=True)
class Manner:
    """What a client says in `options` of how its model wants to be spoken to."""

    tags: Tags | None = None
    """None: a transcript."""
    context_length: int | None = None
    """Tokens; None: as many as the server has."""


@dataclass(frozen=True, slots=True)
class _Prompt:
    """The text to be continued, and where the continuation ends."""

    memory: str
    """Its beginning, which must stay when the rest does not fit any more."""
    text: str
    stops: tuple[str, ...]


def read_manner(options: Mapping[str, Any]) -> Manner:
    """The options of a `load`.

    Raises:
        AdapterError: INVALID_REQUEST, a value cannot be meant.
    """
    context = options.get("context_length")
    if isinstance(context, float) and context.is_integer():
        context = int(context)
    if context is not None and (type(context) is not int or not 0 < context <= CONTEXT_MAX):
        raise AdapterError(
            Code.INVALID_REQUEST, f"options.context_length must be a whole number from 1 to {CONTEXT_MAX}"
        )
    return Manner(_tags(options.get("instruct")), context)


def _tags(value: object) -> Tags | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and value in PRESETS:
        return PRESETS[value]
    known = {item.name for item in fields(Tags)}
    if isinstance(value, dict) and value and set(value) <= known and all(map(_is_tag, value.values())):
        return Tags(**value)
    raise AdapterError(
        Code.INVALID_REQUEST,
        f"options.instruct must be one of {', '.join(PRESETS)}, or an object with the texts "
        f"{', '.join(item.name for item in fields(Tags))}",
    )


def _is_tag(value: object) -> bool:
    return isinstance(value, str) and len(value) <= TAG_CHARS


def build(
    request: Request, quirks: Quirks, manner: Manner, key: str, *, refused: Collection[str] = ()
) -> Body:
    """The body of a request; `key` is what it can be ended by, and `refused` what is known to be refused.

    Raises:
        AdapterError: UNSUPPORTED, the request holds what this wire cannot carry.
    """
    if request.stop_ids:
        raise no_stop_ids()
    warnings: list[Warn] = []
    left_out = {*quirks.unsupported, *refused}
    prompt = _prompt(request, manner)
    thinks = matches(quirks.reasoning_models, request.model)
    sent = (
        [] if thinks else stops_sent(replace(request, stop=(*prompt.stops, *request.stop)), quirks, left_out)
    )
    body: dict[str, Any] = {"quiet": True}  # the server would print what is said
    if quirks.streams:
        body |= {"memory": prompt.memory, "prompt": prompt.text, "trim_stop": False, "genkey": key}
    else:
        body["prompt"] = prompt.memory + prompt.text
    body["max_length"] = request.max_output_length + (quirks.reasoning_headroom if thinks else 0)
    if manner.context_length:
        body["max_context_length"] = manner.context_length
    body.update(sampling(request, quirks, left_out, warnings))
    if sent:
        body["stop_sequence"] = sent
    warnings += without_options(request)
    streamed = quirks.streams and (request.stream or len(sent) < len({*prompt.stops, *request.stop}))
    body.update(request.extra)
    return Body(body, tuple(warnings), streamed)


def cuts_of(request: Request, quirks: Quirks, manner: Manner) -> tuple[str, ...]:
    """Where a reply is cut. What a client wants cut is cut later, where a model thinks in its text: there its
    stop strings do not count."""
    stops = _prompt(request, manner).stops
    return stops if matches(quirks.reasoning_models, request.model) else (*stops, *request.stop)


def _prompt(request: Request, manner: Manner) -> _Prompt:
    if manner.tags is None:
        lines = transcript(request)
        start = next((n for n, line in enumerate(lines.lines) if line.role != "system"), len(lines.lines))
        memory, text = ("".join(f"{line.content}\n" for line in part) for part in _at(lines.lines, start))
        return _Prompt(memory, f"{text}{lines.speaker}:", lines.stops)
    turns = [prefixed(message) for message in plain_roles(request.messages)]
    start = next((n for n, turn in enumerate(turns) if turn.role != "system"), len(turns))
    memory, text = (
        "".join(_tagged(turn.role, turn.content, manner.tags) for turn in part) for part in _at(turns, start)
    )
    starts = (manner.tags.user_start, manner.tags.assistant_start, manner.tags.system_start)
    marks = (mark.strip() for mark in (*starts, manner.tags.assistant_end))
    stops = tuple(dict.fromkeys(mark for mark in marks if mark))
    return _Prompt(memory, text + manner.tags.assistant_start, stops)


def _at(items: Any, start: int) -> tuple[Any, Any]:
    return items[:start], items[start:]


def _tagged(role: str, content: str, tags: Tags) -> str:
    around = {
        "system": (tags.system_start, tags.system_end),
        "assistant": (tags.assistant_start, tags.assistant_end),
    }
    before, after = around.get(role, (tags.user_start, tags.user_end))
    return f"{before}{content}{after}"


class KoboldReply(Answer):
    """Reads one answer: a text, or the tokens that one is made of."""

    def __init__(
        self, who: Who, *, model: str, max_output_length: int, stops: Collection[str], answered_by: str | None
    ) -> None:
        super().__init__(who, model=model, max_output_length=max_output_length)
        self._cutter = SpokenCutter(StopCutter(stops))
        self._answered_by = answered_by
        self.ended = False
        """Whether the server has come to an end, too."""

    @property
    def complete(self) -> bool:
        """Nothing more is said once it ended: no usage comes."""
        return self.reason is not None

    def piece(self, data: bytes) -> list[Event]:
        value = self._object(data)
        if value.get("error") or "detail" in value:
            raise self.failed(value)
        events = self._shown(value.get("token"))
        return [*events, *self._end(value.get("finish_reason"))] or [_ALIVE]

    def whole(self, data: bytes) -> list[Event]:
        value = self._object(data)
        if value.get("error") or "detail" in value:
            raise self.failed(value)
        results = value.get("results")
        result = results[0] if isinstance(results, list) and results else None
        if not isinstance(result, dict) or not isinstance(result.get("text"), str):
            raise self._not_ours("an answer without a text")
        if "prompt_tokens" in result or "completion_tokens" in result:
            self.usage = Usage(count(result.get("prompt_tokens")), count(result.get("completion_tokens")))
        events = self._shown(result["text"])
        reason = result.get("finish_reason")
        events += self._end(reason if isinstance(reason, str) else "stop")
        return [_ALIVE, *events]  # its beginning may be thoughts that nobody sees

    def _shown(self, token: object) -> list[Event]:
        if not token or not isinstance(token, str) or self.reason is not None:
            return []
        text = self._cutter.feed(token)
        if self._cutter.found:
            self.reason = "stop"
        return [self._text(text)] if text else []

    def _end(self, reason: object) -> list[Event]:
        """What was held back until the end, if this is it."""
        if not isinstance(reason, str) or reason == _NOT_ENDED:
            return []
        self.ended = True
        if reason == "error":
            raise AdapterError(
                Code.UPSTREAM_ERROR, f"{self._who.name} failed in the middle of its answer: try again"
            )
        if self.reason is not None:
            return []
        text = self._cutter.finish()
        self.reason = "length" if reason == "length" and not self._cutter.found else "stop"
        return [self._text(text)] if text else []

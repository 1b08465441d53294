"""A request as a job of the AI Horde, and what the horde says of a job as events. Pure.

The horde's models continue a transcript (workers.transcript); their text comes whole, with the stop string
that ended it. Where the next turn begins it is cut here, and by the host where the client wants it cut.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from workers.adapter import AdapterError, Alive, Event, Request, Warn
from workers.answer import Answer
from workers.codes import Code
from workers.error_fields import parse_fields
from workers.parameters import Body, bounded, no_stop_ids, sampling, stops_sent, without_options
from workers.quirks import Quirks, matches
from workers.refusals import Who, refusal
from workers.transcript import OneTurn, transcript

__all__ = ["LOOK_EVERY_S", "HordeReply", "build"]

BOUNDS: Final = {"rep_pen": (1.0, 3.0), "top_k": (0, 100), "min_p": (0.0, 1.0), "top_p": (0.001, 1.0)}
"""What the horde takes, or its own package where that is less; beyond them the job is refused."""
LENGTHS: Final = (16, 1024)
"""Tokens of a reply that can be asked for; the horde would take more, but hardly a volunteer offers that."""
CONTEXTS: Final = (2048, 4096, 8192, 16384, 32000)
"""Sizes of context to ask for: the smallest that will do, since few volunteers have a large one."""
BYTES_PER_TOKEN: Final = 3
"""Fewer than tokens have on average, so that a prompt is not cut."""
STOPS_MAX_CHARS: Final = 2000
"""All stop strings of a job together."""

LOOK_EVERY_S: Final = 1.0
"""The horde allows sixty looks a minute at one job."""
LOOK_EVERY_MAX_S: Final = 4.0
"""In a long queue; the text is there for so long at most before it is seen."""
LOOKS_OF_A_WAIT: Final = 4
"""A job that is said to take twelve seconds is looked at every three."""
_CENSORED: Final = ("censored", "csam")
_ALIVE: Final = Alive()


def build(request: Request, quirks: Quirks, *, refused: Collection[str] = ()) -> Body:
    """The body of a job; `refused` names parameters of sampling that are known to be refused.

    Raises:
        AdapterError: UNSUPPORTED, the request holds what the horde cannot carry.
    """
    if request.stop_ids:
        raise no_stop_ids()
    warnings: list[Warn] = []
    lines = transcript(request)
    left_out = {*quirks.unsupported, *refused}
    thinks = matches(quirks.reasoning_models, request.model)
    params: dict[str, Any] = {"n": 1, "max_length": _bounded_length(request, warnings)}
    params["max_context_length"] = _context(lines.prompt, params["max_length"])
    for name, value in sampling(request, quirks, left_out, warnings).items():
        params[name] = bounded(name, value, BOUNDS.get(name, (value, value)), warnings)
    if not thinks:
        params["stop_sequence"] = _fitting((*lines.ends, *stops_sent(request, quirks, left_out)))
    warnings += without_options(request)
    extra = dict(request.extra)
    wanted = extra.pop("params", {})
    params.update(wanted if isinstance(wanted, Mapping) else {})
    models = {"models": [request.model]} if request.model else {}
    return Body({"prompt": lines.prompt, "params": params, **models, **extra}, tuple(warnings))


class HordeReply(Answer):
    """Reads what the horde says of one job: that it is queued, how far it is, its text."""

    def __init__(self, who: Who, request: Request) -> None:
        super().__init__(who, model=request.model, max_output_length=request.max_output_length)
        self._turn = OneTurn(transcript(request).ends)
        self._progress: tuple[Any, ...] = ()
        self.pause_s = LOOK_EVERY_S
        """When to look again."""
        self.impossible = 0
        """At how many looks in a row nobody could do it."""

    @property
    def complete(self) -> bool:
        return self.reason is not None  # and usage is never told

    def queued(self, value: Any) -> str:
        """The id of the job that was put into the queue.

        Raises:
            AdapterError: it is an error of the horde, or not its protocol.
        """
        job = value.get("id") if isinstance(value, dict) else None
        if job and isinstance(job, str):
            return job
        if isinstance(value, dict) and ("message" in value or "rc" in value):
            raise refusal(self._who, None, parse_fields(value), model=self._model)
        raise self._not_ours("an answer without a job")

    def looked(self, value: Any) -> list[Event]:
        """What a look at the job brings: its text, a sign of life where it has come on, or nothing.

        Raises:
            AdapterError: the job failed, or it is not the horde's protocol.
        """
        if not isinstance(value, dict) or "done" not in value:
            raise self._not_ours("an answer without the state of the job")
        if value.get("faulted"):
            raise AdapterError(Code.UPSTREAM_ERROR, f"{self._who.name} lost the job: try again")
        if value["done"]:
            return self._told(value.get("generations"))
        self.impossible = self.impossible + 1 if value.get("is_possible") is False else 0
        wait_s = value.get("wait_time")
        if isinstance(wait_s, (int, float)):
            self.pause_s = min(max(wait_s / LOOKS_OF_A_WAIT, LOOK_EVERY_S), LOOK_EVERY_MAX_S)
        names = ("queue_position", "wait_time", "waiting", "processing", "finished", "restarted")
        before, self._progress = self._progress, tuple(value.get(name) for name in names)
        return [] if self._progress == before else [_ALIVE]

    def _told(self, generations: Any) -> list[Event]:
        made = generations[0] if isinstance(generations, list) and generations else None
        text = made.get("text") if isinstance(made, dict) else None
        if not isinstance(made, dict) or not isinstance(text, str):
            raise self._not_ours("a job that is done and has no text")
        if isinstance(made.get("model"), str):
            self._answered_by = made["model"]
        censored = made.get("state") in _CENSORED
        self.reason = "content_filter" if censored else "stop"
        shown = self._turn.feed(text) + self._turn.finish()
        return [self._text(shown)] if shown and made.get("state") != "csam" else [_ALIVE]

    def piece(self, data: bytes) -> list[Event]:
        raise self._not_ours("a stream")

    def whole(self, data: bytes) -> list[Event]:
        return self.looked(self._object(data))


def _bounded_length(request: Request, warnings: list[Warn]) -> int:
    low, high = LENGTHS
    kept = min(max(request.max_output_length, low), high)
    if kept != request.max_output_length:
        sentence = f"max_output_length {request.max_output_length} was sent as {kept}"
        warnings.append(Warn("PARAMETER_CHANGED", sentence))
    return kept


def _context(prompt: str, length: int) -> int:
    """Tokens of context that the prompt and its reply need, rounded up to what volunteers have."""
    needed = len(prompt.encode("utf-8", "replace")) // BYTES_PER_TOKEN + length
    return next((size for size in CONTEXTS if size >= needed), CONTEXTS[-1])


def _fitting(stops: tuple[str, ...]) -> list[str]:
    """As many of them, from the first on, as a job may have."""
    result, chars = [], 0
    for stop in dict.fromkeys(stops):
        chars += len(stop)
        if chars > STOPS_MAX_CHARS:
            break
        result.append(stop)
    return result

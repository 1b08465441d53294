"""A request as Ollama's own wire has it, and what it answers as events. Pure.

JSON lines, sampling in `options`, thinking in a field of its own. Stop strings hold in what a model thinks
too, so they go upstream only where it is known that the model does not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from workers.adapter import Alive, Event, Reasoning, Request, Usage, Warn
from workers.answer import Answer, count
from workers.chat_body import spoken
from workers.ollama_options import Given
from workers.parameters import (
    NO_EFFORT,
    Body,
    asks_to_think,
    is_streamed,
    no_stop_ids,
    omitted,
    sampling,
    schema_of,
    stops_sent,
)
from workers.quirks import Quirks, matches
from workers.refusals import Who

__all__ = ["LEVELS", "THINK", "OllamaReply", "build", "fields_of", "mapping"]

THINK: Final = "think"
"""Refused by models that do not think, up to 0.12.4 even when it is false."""
LEVELS: Final = "think level"
"""Refused by all models but gpt-oss up to 0.17.6: they think or do not."""
EFFORTS: Final = {"minimal": "low", "xhigh": "high"}
"""Words of the OpenAI wire for an effort that this one calls otherwise."""
_ALIVE: Final = Alive()


def build(
    request: Request,
    quirks: Quirks,
    given: Given,
    *,
    thinks: bool | None = None,
    refused: Collection[str] = (),
) -> Body:
    """The body of a request; `thinks` is whether the model can, where that is known, and `refused` is what it
    is known to refuse.

    Raises:
        AdapterError: UNSUPPORTED, the request holds what this wire cannot carry.
    """
    if request.stop_ids:
        raise no_stop_ids()
    warnings: list[Warn] = []
    always = matches(quirks.reasoning_models, request.model)
    hidden = always or (thinks is not False and asks_to_think(request))
    left_out = {*quirks.unsupported, *refused}
    options = sampling(request, quirks, left_out, warnings)
    options["num_predict"] = request.max_output_length + (quirks.reasoning_headroom if hidden else 0)
    stops = stops_sent(request, quirks, left_out) if thinks is False and not hidden else []
    if stops:
        options["stop"] = stops
    body = fields_of(request.model, given)
    body["messages"] = spoken(request.messages, quirks)
    body["options"] = {**body.get("options", {}), **options, **mapping(request.extra.get("options"))}
    body.update(_thinking(request, quirks, refused, warnings, able=always or thinks is not False))
    if (shape := _format(request, warnings)) is not None:
        body["format"] = shape
    streamed = is_streamed(request, stops)
    body["stream"] = streamed
    body.update((name, value) for name, value in request.extra.items() if name != "options")
    return Body(body, tuple(warnings), streamed)


def fields_of(model: str, given: Given) -> dict[str, Any]:
    """What every request to a model says alike: how it is to be in memory, and for how long."""
    fields: dict[str, Any] = {"model": model}
    if given.runner:
        fields["options"] = dict(given.runner)
    if given.keep_alive is not None:
        fields["keep_alive"] = given.keep_alive
    return fields


def _thinking(
    request: Request, quirks: Quirks, refused: Collection[str], warnings: list[Warn], *, able: bool
) -> Mapping[str, Any]:
    """Whether to think, for a model that may be `able` to."""
    effort = request.reasoning_effort
    asked = effort is not None and effort != NO_EFFORT
    if not able or THINK in refused:
        if asked:
            warnings.append(omitted("reasoning_effort"))
        return {}
    if not asked:
        off = not asks_to_think(request) and matches(quirks.thinking_off_models, request.model)
        return quirks.thinking_off if off else {}
    if LEVELS in refused:
        warnings.append(Warn("PARAMETER_CHANGED", f"reasoning_effort {effort} was sent as think"))
        return {"think": True}
    return {"think": EFFORTS.get(effort or "", effort)}


def _format(request: Request, warnings: list[Warn]) -> Any:
    """The shape that an answer must have; None where it may be any text."""
    wanted = request.response_format
    if wanted is None or wanted.get("type") == "text":
        return None
    if wanted.get("type") == "json_object":
        return "json"
    schema = schema_of(wanted)
    if schema is None:
        warnings.append(omitted("response_format"))
    return schema


class OllamaReply(Answer):
    """Reads one answer: a message, or the lines that one is made of."""

    def __init__(self, who: Who, *, model: str, max_output_length: int) -> None:
        super().__init__(who, model=model, max_output_length=max_output_length)
        self._called = False

    @property
    def complete(self) -> bool:
        """Its last line says all that there is to say."""
        return self.reason is not None

    def piece(self, data: bytes) -> list[Event]:
        return self._read(self._object(data)) or [_ALIVE]

    def whole(self, data: bytes) -> list[Event]:
        value = self._object(data)
        if not value.get("error") and not isinstance(value.get("message"), dict):
            raise self._not_ours("an answer without a message")
        return self._read({**value, "done": True})

    def _read(self, value: dict[str, Any]) -> list[Event]:
        if value.get("error"):
            raise self.failed(value)
        if self._answered_by is None and isinstance(model := value.get("model"), str):
            self._answered_by = model
        events = self._part(mapping(value.get("message")))
        if value.get("done") is True:
            self._ended(value)
        return events

    def _part(self, message: Mapping[str, Any]) -> list[Event]:
        events: list[Event] = []
        if (thought := message.get("thinking")) and isinstance(thought, str):
            events.append(Reasoning(thought))
        if (content := message.get("content")) and isinstance(content, str):
            events.append(self._text(content))
        self._called = self._called or bool(message.get("tool_calls"))
        return events

    def _ended(self, value: Mapping[str, Any]) -> None:
        length = value.get("done_reason") == "length"
        self.reason = "length" if length else "tool_calls" if self._called else "stop"
        if "prompt_eval_count" in value or "eval_count" in value:
            self.usage = Usage(count(value.get("prompt_eval_count")), count(value.get("eval_count")))


def mapping(value: object) -> Mapping[str, Any]:
    """`value`, if it is an object of JSON; else an empty one."""
    return value if isinstance(value, dict) else {}

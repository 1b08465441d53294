"""What one model takes, where each has a schema of its own, and a request in those fields. Pure.

A provider that hosts everybody's models (Replicate) knows no fields for all of them: the limit alone has five
names, a conversation is a list of messages here and one text there. Which, the model's own schema says; a
model whose schema is not known gets the fields that most have.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from workers.adapter import AdapterError, Message, Request, Warn
from workers.codes import Code
from workers.parameters import Body, asks_to_think, changed, no_stop_ids, omitted, sampling, stops_sent
from workers.prompt import plain_roles, prefixed
from workers.quirks import DROPPABLE, Quirks, matches
from workers.transcript import transcript

__all__ = ["USUAL_FIELDS", "Inputs", "build", "inputs_of", "is_named", "turn_ends"]

LIMITS: Final = ("max_tokens", "max_new_tokens", "max_completion_tokens", "max_output_tokens", "max_length")
SYSTEMS: Final = ("system_prompt", "system_instruction")
STOPS: Final = ("stop_sequences", "stop")
OPTIONS: Final = ("response_format", "reasoning_effort")
USUAL_FIELDS: Final[Mapping[str, Any]] = {
    "prompt": {"type": "string"},
    "system_prompt": {"type": "string"},
    "max_tokens": {"type": "integer"},
    "temperature": {"type": "number"},
    "top_p": {"type": "number"},
    "stop_sequences": {"type": "string"},
}
"""What most language models at Replicate have."""
_NAMED: Final = re.compile(r"(?!\.)[\w.-]+/(?!\.)[\w.-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Inputs:
    """The fields of one model, as its schema has them."""

    fields: Mapping[str, Any] = field(default_factory=lambda: USUAL_FIELDS)
    """Names → schemas."""
    version: str = ""
    """What a model that only runs by its version is called by; empty where its name will do."""

    def first_of(self, names: Collection[str]) -> str:
        """The first of the names that is a field; empty where none is."""
        return next((name for name in names if name in self.fields), "")

    @property
    def has_messages(self) -> bool:
        """Whether a conversation may be a list of messages."""
        return self.type_of("messages") == "array"

    def type_of(self, name: str) -> str:
        """The JSON type of a field; empty where it is not known."""
        kind = self._schema(name).get("type")
        return kind if isinstance(kind, str) else ""

    def fitted(self, name: str, value: float) -> float:
        """`value` within the limits of the field."""
        schema = self._schema(name)
        least, most = schema.get("minimum"), schema.get("maximum")
        if isinstance(least, (int, float)) and value < least:
            return least
        return most if isinstance(most, (int, float)) and value > most else value

    def _schema(self, name: str) -> Mapping[str, Any]:
        schema = self.fields.get(name)
        return schema if isinstance(schema, Mapping) else {}


def inputs_of(model: object) -> Inputs:
    """What the description of a model says that it takes; the usual fields where it says nothing."""
    latest = model.get("latest_version") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(latest, dict):
        return Inputs()
    found: Any = latest
    for key in ("openapi_schema", "components", "schemas", "Input", "properties"):
        found = found.get(key) if isinstance(found, dict) else None
    fields = found if isinstance(found, dict) and found else USUAL_FIELDS
    identity = latest.get("id")
    unofficial = model.get("is_official") is False and isinstance(identity, str)
    return Inputs(fields, str(identity) if unofficial else "")


def build(request: Request, quirks: Quirks, inputs: Inputs, *, refused: Collection[str] = ()) -> Body:
    """The body of a request for a prediction.

    Raises:
        AdapterError: UNSUPPORTED, INVALID_MODEL or INVALID_PROMPT, it cannot be put into this model's fields.
    """
    _check(request, inputs)
    thinks = matches(quirks.reasoning_models, request.model) or asks_to_think(request)
    missing = [name for name in DROPPABLE if name not in inputs.fields]
    left_out = {*quirks.unsupported, *refused, *missing}
    left_out -= {"stop"} if inputs.first_of(STOPS) else set()
    warnings: list[Warn] = []
    given = _conversation(request, inputs)
    limit = request.max_output_length + (quirks.reasoning_headroom if thinks else 0)
    given.update(_fitted(request, inputs, quirks, left_out, warnings, limit))
    stops = [] if thinks else _stops(request, inputs, quirks, left_out)
    if stops:
        name = inputs.first_of(STOPS)
        given[name] = ",".join(stops) if inputs.type_of(name) == "string" else stops
    given.update(_options(request, inputs, left_out, warnings))
    streamed = request.stream or not set(request.stop) <= set(stops)
    version = _version(request.model, inputs)
    body: dict[str, Any] = {"version": version} if version else {}
    body["input"] = given
    if streamed:
        body["stream"] = True
    extra = dict(request.extra)
    if isinstance(extra.get("input"), Mapping):
        extra["input"] = {**given, **extra["input"]}
    return Body({**body, **extra}, tuple(warnings), streamed)


def is_named(model: str) -> bool:
    """Whether it is `owner/name`; all else is a version, after a name or alone."""
    return _NAMED.fullmatch(model) is not None


def turn_ends(request: Request, inputs: Inputs) -> tuple[str, ...]:
    """Where a reply ends because the next turn begins; nowhere but in a transcript."""
    if inputs.has_messages:
        return ()
    spoken = _after_system(request)[1]
    return transcript(dataclasses.replace(request, messages=spoken)).ends if _is_dialogue(spoken) else ()


def _check(request: Request, inputs: Inputs) -> None:
    if not request.model:
        raise AdapterError(Code.INVALID_MODEL, "this provider has no model of its own: name one in model_id")
    if request.stop_ids:
        raise no_stop_ids()
    if "prompt" not in inputs.fields and not inputs.has_messages:
        raise AdapterError(Code.INVALID_MODEL, f"model {request.model!r} takes no text: use a language model")


def _version(model: str, inputs: Inputs) -> str:
    """What names the model in the body; empty where its path does."""
    if is_named(model):
        return inputs.version
    return model.rpartition(":")[2]


def _conversation(request: Request, inputs: Inputs) -> dict[str, Any]:
    if inputs.has_messages:
        spoken = [prefixed(message) for message in plain_roles(request.messages)]
        return {"messages": [{"role": message.role, "content": message.content} for message in spoken]}
    system, spoken_after = _after_system(request)
    field_name = inputs.first_of(SYSTEMS)
    if not field_name:
        system, spoken_after = "", tuple(plain_roles(request.messages))
    result = {field_name: system} if system else {}
    if not _is_dialogue(spoken_after):
        return {"prompt": "\n".join(prefixed(message).content for message in spoken_after), **result}
    return {"prompt": transcript(dataclasses.replace(request, messages=spoken_after)).prompt, **result}


def _after_system(request: Request) -> tuple[str, tuple[Message, ...]]:
    """The system messages at the beginning as one text, and what follows them."""
    messages = plain_roles(request.messages)
    start = next((n for n, message in enumerate(messages) if message.role != "system"), len(messages))
    return "\n".join(message.content for message in messages[:start]), tuple(messages[start:])


def _is_dialogue(messages: Collection[Message]) -> bool:
    """Whether it takes a transcript to say who said what: a single question needs none."""
    return [message.role for message in messages] not in ([], ["user"])


def _fitted(
    request: Request,
    inputs: Inputs,
    quirks: Quirks,
    left_out: Collection[str],
    warnings: list[Warn],
    wanted: int,
) -> dict[str, Any]:
    """The limit and the parameters of sampling, within what the model allows."""
    result: dict[str, Any] = {}
    for name, value in sampling(request, quirks, left_out, warnings).items():
        result[name] = inputs.fitted(name, value)
        if result[name] != value:
            warnings.append(changed(name, value, result[name]))
    limit = inputs.first_of(LIMITS)
    if not limit:
        warnings.append(omitted("max_output_length"))
        return result
    result[limit] = inputs.fitted(limit, wanted)
    if result[limit] != wanted:
        warnings.append(changed("max_output_length", wanted, result[limit]))
    return result


def _stops(request: Request, inputs: Inputs, quirks: Quirks, left_out: Collection[str]) -> list[str]:
    stops = stops_sent(request, quirks, left_out)
    if inputs.type_of(inputs.first_of(STOPS)) == "string":  # a list with commas between
        stops = [stop for stop in stops if "," not in stop and stop == stop.strip()]
    return stops


def _options(
    request: Request, inputs: Inputs, left_out: Collection[str], warnings: list[Warn]
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name in OPTIONS:
        value = getattr(request, name)
        if value is None:
            continue
        if name in inputs.fields and name not in left_out:
            result[name] = value
        else:
            warnings.append(omitted(name))
    return result

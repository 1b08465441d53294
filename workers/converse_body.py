"""A request as the body of Bedrock's Converse wire, by a provider's quirks. Pure.

One body serves the models of all makers; what only one maker has travels in `additionalModelRequestFields`.
What models differ in is data (quirks.py).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Final

from workers.adapter import Request, Warn
from workers.parameters import (
    NEUTRAL_TEMPERATURE,
    NO_EFFORT,
    Body,
    asks_to_think,
    is_streamed,
    no_stop_ids,
    not_taken,
    omitted,
    sampling,
    stops_sent,
)
from workers.prompt import alternating
from workers.quirks import Quirks, matches

__all__ = ["build"]

TEMPERATURE_OR_TOP_P: Final = ("*anthropic.claude*",)
"""Models that refuse both at once, and of which the newest refuse either."""
EXTRA: Final = "additionalModelRequestFields"
_NAMES: Final = {"top_p": "topP", "stop": "stopSequences"}


def build(request: Request, quirks: Quirks, *, refused: Collection[str] = ()) -> Body:
    """The body of a request; `refused` names parameters of sampling that this model is known to refuse.

    Raises:
        AdapterError: UNSUPPORTED or INVALID_PROMPT, the request holds what this wire cannot carry.
    """
    if request.stop_ids:
        raise no_stop_ids()
    warnings: list[Warn] = []
    thinks = matches(quirks.reasoning_models, request.model) or _will_think(request, quirks)
    left_out = not_taken(quirks, refused, thinks=thinks)
    given = _sampling(request, quirks, left_out, warnings)
    stops = [] if thinks else stops_sent(request, quirks, left_out)
    called = {name: _NAMES.get(name, name) for name in (*given, *(("stop",) if stops else ()))}
    extra = _thinking(request, quirks, warnings)
    if (top_k := given.pop("top_k", None)) is not None:
        extra["top_k"] = top_k
    inference = {
        "maxTokens": request.max_output_length + (quirks.reasoning_headroom if thinks else 0),
        **{_NAMES.get(name, name): value for name, value in given.items()},
        **({"stopSequences": stops} if stops else {}),
    }
    body = {**_conversation(request, quirks), "inferenceConfig": inference}
    _add_format(body, request.response_format, warnings)
    body.update(request.extra)
    if extra:
        theirs = request.extra.get(EXTRA)
        body[EXTRA] = {**extra, **theirs} if isinstance(theirs, Mapping) else extra
    streamed = is_streamed(request, stops)
    return Body(body, tuple(warnings), streamed, called)


def _conversation(request: Request, quirks: Quirks) -> dict[str, Any]:
    """The turns, and the system prompt, which the user says where the model takes none."""
    system, turns = alternating(request.messages)
    said = [{"role": turn.role, "content": [{"text": turn.content}]} for turn in turns]
    parts = [{"text": part} for part in system]
    if quirks.system_role == "user":
        first = said[0]
        return {"messages": [{**first, "content": [*parts, *first["content"]]}, *said[1:]]}
    return {"messages": said, **({"system": parts} if parts else {})}


def _sampling(
    request: Request, quirks: Quirks, left_out: Collection[str], warnings: list[Warn]
) -> dict[str, Any]:
    """Temperature and its kind; of temperature and top_p only one where the model refuses both."""
    given = sampling(request, quirks, left_out, warnings)
    if matches(TEMPERATURE_OR_TOP_P, request.model):
        if given.get("temperature") == NEUTRAL_TEMPERATURE:
            del given["temperature"]  # its own default
        if "temperature" in given and given.pop("top_p", None) is not None:
            warnings.append(omitted("top_p"))
    return given


def _asked_to_think(request: Request) -> bool:
    """Whether the client asks for it, in its own words or in those of the model's maker."""
    theirs = request.extra.get(EXTRA)
    words = theirs if isinstance(theirs, Mapping) else {}
    return asks_to_think(replace(request, extra={**request.extra, **words}))


def _will_think(request: Request, quirks: Quirks) -> bool:
    """Whether it is asked for in a way that reaches the model; an effort does only as `thinking_on`."""
    by_effort = request.reasoning_effort not in (None, NO_EFFORT)
    return bool(quirks.thinking_on) if by_effort else _asked_to_think(request)


def _thinking(request: Request, quirks: Quirks, warnings: list[Warn]) -> dict[str, Any]:
    """What the model's maker calls thinking, or not thinking."""
    effort = request.reasoning_effort
    if effort is None or effort == NO_EFFORT:
        wanted = not _asked_to_think(request) and matches(quirks.thinking_off_models, request.model)
        return dict(quirks.thinking_off) if wanted else {}
    if quirks.thinking_on:
        message = f"reasoning_effort {effort} was sent as thinking, which has no such depths here"
        warnings.append(Warn("PARAMETER_CHANGED", message))
    else:
        warnings.append(omitted("reasoning_effort"))
    return dict(quirks.thinking_on)


def _add_format(body: dict[str, Any], wanted: Mapping[str, Any] | None, warnings: list[Warn]) -> None:
    """A schema has a place on this wire, as a text; JSON of any shape has none."""
    if wanted is None or wanted.get("type") == "text":
        return
    inner = wanted.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, Mapping) else None
    if not isinstance(schema, Mapping):
        warnings.append(omitted("response_format"))
        return
    shape = {"schema": json.dumps(schema)}
    if isinstance(inner, Mapping) and isinstance(name := inner.get("name"), str) and name:
        shape["name"] = name
    body["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": shape}}}

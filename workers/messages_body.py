"""A request as the body of the Anthropic wire, by a provider's quirks. Pure.

The system prompt stands apart and turns alternate. Which models take no sampling, which think by themselves
and how each is told not to is data (claude_models.py).
"""

from __future__ import annotations

from collections.abc import Collection
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
    schema_of,
    stops_sent,
)
from workers.prompt import alternating
from workers.quirks import Quirks, matches

__all__ = ["build"]

EFFORTS: Final = {"minimal": "low"}
"""Words of the OpenAI wire for an effort that this one calls otherwise."""


def build(request: Request, quirks: Quirks, *, refused: Collection[str] = ()) -> Body:
    """The body of a request; `refused` names parameters of sampling that this model is known to refuse.

    Raises:
        AdapterError: UNSUPPORTED or INVALID_PROMPT, the request holds what this wire cannot carry.
    """
    if request.stop_ids:
        raise no_stop_ids()
    warnings: list[Warn] = []
    asked = asks_to_think(request)
    thinks = asked or matches(quirks.reasoning_models, request.model)
    system, turns = alternating(request.messages)
    body: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_output_length + (quirks.reasoning_headroom if thinks else 0),
        "messages": [{"role": message.role, "content": message.content} for message in turns],
    }
    if system:
        body["system"] = "\n".join(system)
    left_out = not_taken(quirks, refused, thinks=thinks)
    body.update(_sampling(request, quirks, left_out, warnings))
    stops = [] if thinks else stops_sent(request, quirks, left_out)
    if stops:
        body["stop_sequences"] = stops
    _add_thinking(body, request, quirks, warnings)
    _add_format(body, request, warnings)
    streamed = is_streamed(request, stops)
    if streamed:
        body["stream"] = True
    body.update({**quirks.extra_body, **request.extra})
    return Body(body, tuple(warnings), streamed)


def _sampling(
    request: Request, quirks: Quirks, left_out: Collection[str], warnings: list[Warn]
) -> dict[str, Any]:
    """Temperature or top_p: newer models refuse both at once."""
    given = sampling(request, quirks, left_out, warnings)
    if given.get("temperature") == NEUTRAL_TEMPERATURE:
        del given["temperature"]  # the newest models refuse the field, others only any other value
    if "temperature" in given and given.pop("top_p", None) is not None:
        warnings.append(omitted("top_p"))
    return given


def _add_thinking(body: dict[str, Any], request: Request, quirks: Quirks, warnings: list[Warn]) -> None:
    effort = request.reasoning_effort
    if effort is None or effort == NO_EFFORT:
        if not asks_to_think(request) and matches(quirks.thinking_off_models, request.model):
            body.update(quirks.thinking_off)
        return
    body.update(quirks.thinking_on)
    if "reasoning_effort" in quirks.unsupported:
        warnings.append(
            Warn("PARAMETER_CHANGED", f"reasoning_effort {effort} was sent as thinking with a fixed budget")
        )
    else:
        body["output_config"] = {"effort": EFFORTS.get(effort, effort)}


def _add_format(body: dict[str, Any], request: Request, warnings: list[Warn]) -> None:
    """A schema has a place on this wire, JSON of any shape has none."""
    wanted = request.response_format
    if wanted is None or wanted.get("type") == "text":
        return
    schema = schema_of(wanted)
    if schema is None:
        warnings.append(omitted("response_format"))
        return
    shape = {"format": {"type": "json_schema", "schema": schema}}
    body["output_config"] = {**body.get("output_config", {}), **shape}

"""What every wire decides alike about a request: sampling, stops, thinking, and what of it is told. Pure.

A body is a wire's own; these are the rules by which one is made, so that a parameter means the same wherever
a request goes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from workers.adapter import AdapterError, Request, Warn
from workers.codes import Code
from workers.quirks import Quirks
from workers.visible import COLONS

__all__ = [
    "NEUTRAL_TEMPERATURE",
    "NO_EFFORT",
    "Body",
    "asks_to_think",
    "bounded",
    "changed",
    "early_stops",
    "is_streamed",
    "no_stop_ids",
    "not_taken",
    "omitted",
    "sampling",
    "schema_of",
    "stops_sent",
    "without_options",
]

_WHOLE: Final = ("top_k", "seed")
"""Parameters that are whole numbers on the wire."""
_THINKING_KEYS: Final = (
    "reasoning",
    "reasoning_effort",
    "think",
    "thinking",
    "enable_thinking",
    "chat_template_kwargs",
    "output_config",
)
"""With one of these in `extra` the client decides about thinking itself."""
NO_EFFORT: Final = "none"
"""The `reasoning_effort` that means no thinking at all."""
NEUTRAL_TEMPERATURE: Final = 1.0
"""What every provider takes for none given; leaving it out changes nothing."""
NEUTRAL_TOP_P: Final = 1.0
_JSON: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent, and what a client should know about it."""

    fields: Mapping[str, Any]
    warnings: tuple[Warn, ...]
    streamed: bool = False
    """Whether the answer is asked for as a stream."""
    called: Mapping[str, str] = field(default_factory=dict)
    """Parameters of sampling that are in it elsewhere or otherwise → their names there."""

    def encoded(self) -> bytes:
        """The bytes of the body; half a character becomes an escape, which JSON allows."""
        text = _JSON.encode(self.fields)
        try:
            return text.encode()
        except UnicodeEncodeError:
            return json.dumps(self.fields, separators=(",", ":")).encode()


def not_taken(quirks: Quirks, refused: Collection[str], *, thinks: bool) -> set[str]:
    """The parameters that are left out: this provider or model does not take them, or not while it thinks."""
    return {*quirks.unsupported, *refused, *(quirks.reasoning_unsupported if thinks else ())}


def sampling(
    request: Request, quirks: Quirks, left_out: Collection[str], warnings: list[Warn]
) -> dict[str, Any]:
    """Temperature and its kind, by the names and within the limits of the provider."""
    given: dict[str, float] = {"temperature": request.temperature, **request.sampling}
    fields = {"seed": quirks.seed_field, "repetition_penalty": quirks.repetition_penalty_field}
    result: dict[str, Any] = {}
    for name, value in given.items():
        if name in left_out:
            if name != "temperature" or value != NEUTRAL_TEMPERATURE:
                warnings.append(omitted(name))
            continue
        if name == "top_p" and value >= NEUTRAL_TOP_P and quirks.top_p_below_one:
            continue
        kept = _within(name, value, quirks)
        if kept != value:
            warnings.append(changed(name, value, kept))
        result[fields.get(name, name)] = int(kept) if name in _WHOLE else kept
    return result


def asks_to_think(request: Request) -> bool:
    """Whether the client decides about thinking itself."""
    effort = request.reasoning_effort
    return (effort is not None and effort != NO_EFFORT) or any(key in request.extra for key in _THINKING_KEYS)


def early_stops(request: Request) -> list[str]:
    """The stop strings that may end a reply before the host sees it. One of white space alone may not, nor
    one that fires in an echo of the character's name, which is not shown: either may be the first thing that
    a model says, and then there would be no reply. The host cuts there after the first word."""
    name = (request.character_name or "").strip().casefold()
    wanted = [stop for stop in dict.fromkeys(request.stop) if stop.strip()]
    return [stop for stop in wanted if not (name and _is_in_echo(stop.lstrip().casefold(), name))]


def _is_in_echo(stop: str, name: str) -> bool:
    """Whether a stop lies in `name:`, or begins there."""
    echoes = [f"{name}{colon}" for colon in COLONS]
    return any(stop in echo or any(stop.startswith(echo[i:]) for i in range(len(echo))) for echo in echoes)


def stops_sent(request: Request, quirks: Quirks, left_out: Collection[str]) -> list[str]:
    """The stop strings that may go upstream."""
    if "stop" in left_out:
        return []
    stops = early_stops(request)
    longest = quirks.stop_chars_max or max(map(len, stops), default=0)
    return [stop for stop in stops if len(stop) <= longest][: quirks.stop_max]


def is_streamed(request: Request, stops: Collection[str]) -> bool:
    """Whether to stream, where `stops` go upstream: as asked, and also where the host must be able to end a
    reply early."""
    return request.stream or len(stops) < len(set(request.stop))


def no_stop_ids() -> AdapterError:
    """The error for token ids in `stop_tokens`, where a wire has no place for them."""
    return AdapterError(
        Code.UNSUPPORTED, "this provider takes no token ids in stop_tokens: send strings instead"
    )


def schema_of(response_format: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The JSON schema that a `response_format` of the OpenAI wire asks for, if it asks for one."""
    inner = response_format.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, Mapping) else None
    return schema if isinstance(schema, Mapping) else None


def bounded(name: str, value: float, limits: tuple[float, float], warnings: list[Warn]) -> float:
    """`value` within limits, which is told where it is another one then."""
    least, most = limits
    kept = min(max(value, least), most)
    if kept != value:
        warnings.append(changed(name, value, kept))
    return kept


def without_options(request: Request) -> list[Warn]:
    """The warnings of a wire that goes on with a text, and has no formats and no efforts."""
    warnings = []
    if request.response_format is not None and request.response_format.get("type") != "text":
        warnings.append(omitted("response_format"))
    if request.reasoning_effort not in (None, NO_EFFORT):
        warnings.append(omitted("reasoning_effort"))
    return warnings


def changed(name: str, value: float, kept: float) -> Warn:
    """The warning about a parameter that was sent with another value."""
    return Warn("PARAMETER_CHANGED", f"{name} {value:g} was sent as {kept:g}")


def omitted(name: str) -> Warn:
    """The warning about a parameter that was not sent."""
    return Warn("PARAMETER_LEFT_OUT", f"{name} was left out: this provider or model does not take it")


def _within(name: str, value: float, quirks: Quirks) -> float:
    if name == "temperature":
        return min(max(value, quirks.temperature_min), quirks.temperature_max)
    return max(value, quirks.top_p_min) if name == "top_p" else value

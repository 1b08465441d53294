"""A request as the body of the OpenAI wire, by a provider's quirks. Pure.

What a provider does not have is left out, and said so; `extra` comes last and wins.
What other wires decide alike (sampling, stops, whether a client asks for thinking) they take from here.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from workers.adapter import AdapterError, Message, Request, Warn
from workers.codes import Code
from workers.prompt import after_reply, clean_name, merged, plain_roles, prefixed
from workers.quirks import RENAMED, Quirks, matches

__all__ = [
    "NO_EFFORT",
    "Body",
    "asks_to_think",
    "bounded",
    "build",
    "changed",
    "no_stop_ids",
    "omitted",
    "sampling",
    "schema_of",
    "spoken",
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
_EFFORTS: Final = ("minimal", "low", "medium", "high", "xhigh", "max")
"""From little thinking to much."""
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


def build(request: Request, quirks: Quirks, *, refused: Collection[str] = ()) -> Body:
    """The body of a request; `refused` names parameters of sampling that this model is known to refuse.

    Raises:
        AdapterError: UNSUPPORTED, the request holds what this wire or this provider cannot carry.
    """
    thinks = matches(quirks.reasoning_models, request.model)
    left_out = {*quirks.unsupported, *refused, *(quirks.reasoning_unsupported if thinks else ())}
    warnings: list[Warn] = []
    body: dict[str, Any] = {"model": request.model} if request.model else {}
    body["messages"] = spoken(request.messages, quirks, thinks=thinks)
    at_rest = request.reasoning_effort == NO_EFFORT and (not quirks.efforts or NO_EFFORT in quirks.efforts)
    headroom = quirks.reasoning_headroom if thinks and not at_rest else 0
    tokens_field = quirks.max_tokens_field
    if tokens_field in refused:
        tokens_field = RENAMED.get(tokens_field, tokens_field)
    body[tokens_field] = request.max_output_length + headroom
    body.update(sampling(request, quirks, left_out, warnings))
    stops = [] if thinks or asks_to_think(request) else stops_sent(request, quirks, left_out)
    if stops:
        body["stop"] = stops
    if request.stop_ids:
        body[_stop_ids_field(quirks)] = list(request.stop_ids)
    body.update(_options(request, quirks, left_out, warnings))
    streamed = _streams(request, quirks, stops, body)
    if streamed:
        body["stream"] = True
        if quirks.stream_usage and "stream_options" not in left_out:
            body["stream_options"] = {"include_usage": True}
    body.update({**quirks.extra_body, **request.extra})
    return Body(body, tuple(warnings), streamed)


def spoken(messages: tuple[Message, ...], quirks: Quirks, *, thinks: bool = False) -> list[dict[str, str]]:
    """The messages as role and content, with the names, roles and order that the provider takes.

    Raises:
        AdapterError: UNSUPPORTED, a message belongs to a tool.
    """
    plain = plain_roles(messages)
    named = [message if _has_native_name(message, quirks) else prefixed(message) for message in plain]
    if quirks.system_after_assistant != "system":
        named = after_reply(named, then=quirks.system_after_assistant)
    if quirks.merge_roles:
        named = merged(named)
    system_role = quirks.reasoning_system_role if thinks else quirks.system_role
    result = []
    for message in named:
        role = system_role if message.role == "system" else message.role
        fields = {"role": role, "content": message.content}
        if message.name:
            fields["name"] = clean_name(message.name)
        result.append(fields)
    return result


def _has_native_name(message: Message, quirks: Quirks) -> bool:
    if quirks.name_field == "prefix" or (quirks.name_field == "user_only" and message.role != "user"):
        return False
    return bool(clean_name(message.name))


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


def _within(name: str, value: float, quirks: Quirks) -> float:
    if name == "temperature":
        return min(max(value, quirks.temperature_min), quirks.temperature_max)
    return max(value, quirks.top_p_min) if name == "top_p" else value


def _options(
    request: Request, quirks: Quirks, left_out: Collection[str], warnings: list[Warn]
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in (
        ("response_format", _format(request, quirks, warnings)),
        ("reasoning_effort", _effort(request.reasoning_effort, quirks, warnings)),
    ):
        if value is None:
            continue
        if name in left_out:
            warnings.append(omitted(name))
        else:
            result[name] = value
    if (
        quirks.thinking_off
        and not asks_to_think(request)
        and matches(quirks.thinking_off_models, request.model)
    ):
        result.pop("reasoning_effort", None)  # it can only be "none", which this says already
        result.update(quirks.thinking_off)
    return result


def _format(request: Request, quirks: Quirks, warnings: list[Warn]) -> Mapping[str, Any] | None:
    """`response_format` as the provider knows it."""
    wanted = request.response_format
    if wanted is None or not quirks.json_grammar:
        return wanted
    inner = wanted.get("json_schema")
    if isinstance(inner, dict) and "schema" in inner:
        return {"type": "json", "value": inner["schema"]}
    if wanted.get("type") != "text":
        warnings.append(omitted("response_format"))
    return None


def _effort(effort: str | None, quirks: Quirks, warnings: list[Warn]) -> str | None:
    """The effort as the provider knows it: the nearest one, or nothing where it knows no word for none."""
    if effort is None or not quirks.efforts or effort in quirks.efforts:
        return effort
    known = [name for name in quirks.efforts if name != NO_EFFORT]
    if effort == NO_EFFORT or not known:
        return None
    kept = min(known, key=lambda name: abs(_rank(name) - _rank(effort)))
    warnings.append(Warn("PARAMETER_CHANGED", f"reasoning_effort {effort} was sent as {kept}"))
    return kept


def _rank(effort: str) -> int:
    return _EFFORTS.index(effort) if effort in _EFFORTS else len(_EFFORTS)


def asks_to_think(request: Request) -> bool:
    """Whether the client decides about thinking itself."""
    effort = request.reasoning_effort
    return (effort is not None and effort != NO_EFFORT) or any(key in request.extra for key in _THINKING_KEYS)


def stops_sent(request: Request, quirks: Quirks, left_out: Collection[str]) -> list[str]:
    """The stop strings that may go upstream. One of white space alone never does: it may be the first thing
    that a model says, and then there would be no reply; the host cuts there after the first word."""
    if "stop" in left_out:
        return []
    longest = quirks.stop_chars_max or max(map(len, request.stop), default=0)
    stops = [stop for stop in dict.fromkeys(request.stop) if stop.strip() and len(stop) <= longest]
    return stops[: quirks.stop_max]


def _stop_ids_field(quirks: Quirks) -> str:
    if not quirks.stop_ids_field:
        raise no_stop_ids()
    return quirks.stop_ids_field


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


def _streams(request: Request, quirks: Quirks, stops: list[str], body: Mapping[str, Any]) -> bool:
    """Whether to stream: as asked, and also where the host must be able to end a reply early."""
    if quirks.json_unstreamed and "response_format" in body:
        return False
    return request.stream or len(stops) < len(set(request.stop))


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

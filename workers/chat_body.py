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
from workers.quirks import Quirks, matches

__all__ = [
    "NO_EFFORT",
    "Body",
    "asks_to_think",
    "build",
    "changed",
    "omitted",
    "refuse_stop_ids",
    "sampling",
    "stops_sent",
]

_WHOLE: Final = ("top_k", "seed")
"""Parameters that are whole numbers on the wire."""
_THINKING_KEYS: Final = (
    "reasoning",
    "reasoning_effort",
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
_JSON: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent, and what a client should know about it."""

    fields: Mapping[str, Any]
    warnings: tuple[Warn, ...]
    streamed: bool = False
    """Whether the answer is asked for as a stream."""
    named: Mapping[str, str] = field(default_factory=dict)
    """Parameters of sampling that were sent and do not stand in `fields` by our names → the word by which a
    refusal would name them."""

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
    body["messages"] = _messages(request.messages, quirks, thinks=thinks)
    headroom = quirks.reasoning_headroom if thinks and request.reasoning_effort != NO_EFFORT else 0
    body[quirks.max_tokens_field] = request.max_output_length + headroom
    body.update(sampling(request, quirks, left_out, warnings))
    stops = [] if thinks or asks_to_think(request) else stops_sent(request, quirks, left_out)
    if stops:
        body["stop"] = stops
    if request.stop_ids:
        refuse_stop_ids(request, quirks.stop_ids_field)
        body[quirks.stop_ids_field] = list(request.stop_ids)
    body.update(_options(request, quirks, left_out, warnings))
    streamed = _streams(request, quirks, stops, body)
    if streamed:
        body["stream"] = True
        if quirks.stream_usage and "stream_options" not in left_out:
            body["stream_options"] = {"include_usage": True}
    body.update({**quirks.extra_body, **request.extra})
    return Body(body, tuple(warnings), streamed)


def _messages(messages: tuple[Message, ...], quirks: Quirks, *, thinks: bool) -> list[dict[str, str]]:
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
        ("response_format", request.response_format),
        ("reasoning_effort", request.reasoning_effort),
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


def refuse_stop_ids(request: Request, field: str = "") -> None:
    """Raises where token ids are given to end a reply and there is no `field` for them.

    Raises:
        AdapterError: UNSUPPORTED.
    """
    if request.stop_ids and not field:
        raise AdapterError(
            Code.UNSUPPORTED, "this provider takes no token ids in stop_tokens: send strings instead"
        )


def _streams(request: Request, quirks: Quirks, stops: list[str], body: Mapping[str, Any]) -> bool:
    """Whether to stream: as asked, and also where the host must be able to end a reply early."""
    if quirks.json_unstreamed and "response_format" in body:
        return False
    return request.stream or len(stops) < len(set(request.stop))


def changed(name: str, value: float, kept: float) -> Warn:
    """The warning about a parameter that was sent with another value."""
    return Warn("PARAMETER_CHANGED", f"{name} {value:g} was sent as {kept:g}")


def omitted(name: str) -> Warn:
    """The warning about a parameter that was not sent."""
    return Warn("PARAMETER_LEFT_OUT", f"{name} was left out: this provider or model does not take it")

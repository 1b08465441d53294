"""A request as the body of the OpenAI wire, by a provider's quirks. Pure.

What a provider does not have is left out, and said so; `extra` comes last and wins.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Final

from workers.adapter import TOOL_ROLES, Message, Request, Warn
from workers.parameters import (
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
from workers.prompt import after_reply, clean_name, merged, plain_roles, prefixed
from workers.quirks import RENAMED, Quirks, matches
from workers.tool_fields import TOOLS, answer_fields, call_fields, tool_fields

__all__ = ["build", "spoken"]

_EFFORTS: Final = ("minimal", "low", "medium", "high", "xhigh", "max")
"""From little thinking to much."""


def build(request: Request, quirks: Quirks, *, refused: Collection[str] = ()) -> Body:
    """The body of a request; `refused` names parameters of sampling that this model is known to refuse.

    Raises:
        AdapterError: UNSUPPORTED, the request holds what this wire or this provider cannot carry.
    """
    thinks = matches(quirks.reasoning_models, request.model)
    left_out = not_taken(quirks, refused, thinks=thinks)
    warnings: list[Warn] = []
    body: dict[str, Any] = {"model": request.model} if request.model else {}
    body["messages"] = spoken(request.messages, quirks, thinks=thinks, tools=TOOLS not in left_out)
    headroom = _headroom(request, quirks, thinks=thinks)
    tokens_field = quirks.max_tokens_field
    if tokens_field in refused:
        tokens_field = RENAMED.get(tokens_field, tokens_field)
    body[tokens_field] = request.max_output_length + headroom
    body.update(sampling(request, quirks, left_out, warnings))
    tools = tool_fields(request, quirks, left_out, warnings)
    calls = TOOLS in tools or TOOLS in request.extra
    unsafe = thinks or calls or asks_to_think(request)  # a stop would fire in what is not text
    stops = [] if unsafe else stops_sent(request, quirks, left_out)
    if stops:
        body["stop"] = stops
    if request.stop_ids:
        body[_stop_ids_field(quirks)] = list(request.stop_ids)
    body.update(_options(request, quirks, left_out, warnings))
    body.update(tools)
    streamed = _streams(request, quirks, stops, body)
    if streamed:
        body["stream"] = True
        if quirks.stream_usage and "stream_options" not in left_out:
            body["stream_options"] = {"include_usage": True}
    body.update({**quirks.extra_body, **request.extra})
    return Body(body, tuple(warnings), streamed)


def _headroom(request: Request, quirks: Quirks, *, thinks: bool) -> int:
    """Tokens for thinking, where a model does it."""
    asked = asks_to_think(request)
    at_rest = request.reasoning_effort == NO_EFFORT and (not quirks.efforts or NO_EFFORT in quirks.efforts)
    told_not_to = (
        not asked and matches(quirks.thinking_off_models, request.model) and _is_off(quirks.thinking_off)
    )
    return quirks.reasoning_headroom if (thinks or asked) and not at_rest and not told_not_to else 0


def _is_off(thinking: object) -> bool:
    """Whether it means no thinking at all; the least that some models can do is a little."""
    if isinstance(thinking, Mapping):
        return any(_is_off(value) for value in thinking.values())
    return thinking is False or thinking in (NO_EFFORT, "disabled")


def spoken(
    messages: tuple[Message, ...], quirks: Quirks, *, thinks: bool = False, tools: bool = False
) -> list[dict[str, Any]]:
    """The messages with the names, roles and order that the provider takes.

    Raises:
        AdapterError: UNSUPPORTED, a message belongs to a tool, and there are none here (`tools`).
    """
    plain = plain_roles(messages, tools=tools)
    named = [_named(message, quirks) for message in plain]
    if quirks.system_after_assistant != "system":
        named = after_reply(named, then=quirks.system_after_assistant)
    if quirks.merge_roles:
        named = merged(named)
    system_role = quirks.reasoning_system_role if thinks else quirks.system_role
    result = []
    for message in named:
        role = system_role if message.role == "system" else message.role
        fields: dict[str, Any] = {"role": role, "content": message.content}
        if message.tool_calls:
            fields.update(call_fields(message, quirks))
        elif message.is_of_a_tool:
            fields.update(answer_fields(message, quirks))
        if message.name:
            fields["name"] = clean_name(message.name)
        result.append(fields)
    return result


def _named(message: Message, quirks: Quirks) -> Message:
    """The message with its name where the provider reads it. What a tool says has that of its call, and a
    call without a word is given none."""
    if message.role in TOOL_ROLES:
        return replace(message, name=None)
    if _has_native_name(message, quirks):
        return message
    return replace(message, name=None) if message.tool_calls and not message.content else prefixed(message)


def _has_native_name(message: Message, quirks: Quirks) -> bool:
    if quirks.name_field == "prefix" or (quirks.name_field == "user_only" and message.role != "user"):
        return False
    return bool(clean_name(message.name))


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


def _stop_ids_field(quirks: Quirks) -> str:
    if not quirks.stop_ids_field:
        raise no_stop_ids()
    return quirks.stop_ids_field


def _streams(request: Request, quirks: Quirks, stops: list[str], body: Mapping[str, Any]) -> bool:
    if quirks.json_unstreamed and "response_format" in body:
        return False
    return is_streamed(request, stops)

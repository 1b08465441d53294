"""A request as the body of the Gemini wire, by a provider's quirks. Pure.

The system prompt stands apart, turns alternate, and all that shapes a reply is in `generationConfig`, with
names of its own. What quirks and the client's `extra` say is merged into the body, table by table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from workers.adapter import Request, Warn
from workers.parameters import (
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
from workers.prompt import after_start, alternating, plain_roles
from workers.quirks import Quirks, matches

__all__ = ["build"]

CONFIG: Final = "generationConfig"
THINKING: Final = "thinkingConfig"
JSON_TYPE: Final = "application/json"
_NAMES: Final = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
    "seed": "seed",
}
"""Our parameters of sampling that the wire has, and what it calls them."""
_REFUSED_AS: Final = {"presence_penalty": "penalty", "frequency_penalty": "penalty", "stop": "stopSequences"}
"""What a refusal calls a parameter where that is not the wire's own name: "Penalty is not enabled"."""
_ROLES: Final = {"user": "user", "assistant": "model"}


def build(request: Request, quirks: Quirks, *, refused: Collection[str] = ()) -> Body:
    """The body of a request; `refused` names parameters of sampling that this model is known to refuse.

    Raises:
        AdapterError: UNSUPPORTED or INVALID_PROMPT, the request holds what this wire cannot carry.
    """
    if request.stop_ids:
        raise no_stop_ids()
    warnings: list[Warn] = []
    thinks = _asks_to_think(request) or matches(quirks.reasoning_models, request.model)
    left_out = not_taken(quirks, refused, thinks=thinks)
    given = sampling(request, quirks, left_out, warnings)
    config: dict[str, Any] = {"maxOutputTokens": request.max_output_length}
    if thinks:
        config["maxOutputTokens"] += quirks.reasoning_headroom  # thoughts count towards it
    config.update({_NAMES[name]: value for name, value in given.items()})
    stops = [] if thinks else stops_sent(request, quirks, left_out)
    if stops:
        config["stopSequences"] = stops
    config.update(_format(request, left_out, warnings))
    fields = _prompt(request, quirks)
    fields[CONFIG] = config
    for more in (quirks.extra_body, _thinking(request, quirks, warnings), request.extra):
        fields = _over(fields, more)
    streamed = is_streamed(request, stops)
    sent = [*given, *(("stop",) if stops else ())]
    called = {name: _REFUSED_AS.get(name) or _NAMES[name] for name in sent}
    return Body(fields, tuple(warnings), streamed, called)


def _prompt(request: Request, quirks: Quirks) -> dict[str, Any]:
    """The contents, and the system prompt where the model has a place for one."""
    messages = plain_roles(request.messages)
    if quirks.system_role != "system":
        messages = after_start(messages, then=quirks.system_role)
    system, turns = alternating(messages)
    fields: dict[str, Any] = {"contents": [_content(_ROLES[turn.role], turn.content) for turn in turns]}
    if system:
        fields["systemInstruction"] = _content("user", "\n".join(system))
    return fields


def _content(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"text": text}]}


def _asks_to_think(request: Request) -> bool:
    config = request.extra.get(CONFIG)
    return asks_to_think(request) or (isinstance(config, Mapping) and THINKING in config)


def _thinking(request: Request, quirks: Quirks, warnings: list[Warn]) -> Mapping[str, Any]:
    """What the body says about thinking: none where nobody asks for it, else as much as was asked for."""
    effort = request.reasoning_effort
    if effort is None or effort == NO_EFFORT:
        is_off = not _asks_to_think(request) and matches(quirks.thinking_off_models, request.model)
        return quirks.thinking_off if is_off else {}
    if "reasoning_effort" not in quirks.unsupported:
        return _over(quirks.thinking_on, {CONFIG: {THINKING: {"thinkingLevel": effort.upper()}}})
    if quirks.thinking_on:
        changed = f"reasoning_effort {effort} was sent as thinking with a fixed budget"
        warnings.append(Warn("PARAMETER_CHANGED", changed))
    else:
        warnings.append(omitted("reasoning_effort"))
    return quirks.thinking_on


def _format(request: Request, left_out: Collection[str], warnings: list[Warn]) -> dict[str, Any]:
    """JSON of any shape, or by a schema."""
    wanted = request.response_format
    if wanted is None or wanted.get("type") == "text":
        return {}
    if "response_format" in left_out:
        warnings.append(omitted("response_format"))
        return {}
    schema = schema_of(wanted)
    shape = {} if schema is None else {"responseJsonSchema": schema}
    return {"responseMimeType": JSON_TYPE, **shape}


def _over(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """`more` over `base`, table by table."""
    result = dict(base)
    for key, value in more.items():
        old = result.get(key)
        tables = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = _over(old or {}, value) if tables else value
    return result

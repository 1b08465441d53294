"""A request as mistral.rs takes it: the prompt as one text, and the fields beside it. Pure.

The chat template is ours to apply (`render`), since the engine tells how many tokens a text has, and not how
many a list of messages would have. What its Python package can do besides (run code, search the web, call
addresses) no client reaches: of `extra` only what is named here is passed on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from workers.adapter import AdapterError, Request, Warn
from workers.chat_template import Render
from workers.codes import Code
from workers.parameters import asks_to_think, omitted
from workers.prompt import merged, plain_roles, prefixed
from workers.transcript import transcript

__all__ = ["THINK", "Asked", "Manner", "ask"]

STOPS_MAX: Final = 16
"""The engine looks for all of them after every token."""
THINKING_HEADROOM: Final = 2048
"""Tokens for thinking that a client asked for; they do not count as visible text."""
THINK: Final = "<think>"
_SAME_NAMES: Final = (
    *("top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"),
)
_WHOLE: Final = ("top_k",)
_EXTRA: Final[Mapping[str, tuple[type, ...]]] = {
    "ignore_eos": (bool,),
    "logit_bias": (dict,),
    "grammar": (str,),
    "grammar_type": (str,),
    "dry_multiplier": (float, int),
    "dry_base": (float, int),
    "dry_allowed_length": (int,),
    "dry_sequence_breakers": (list,),
}
"""What a client may add, and its type."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a loaded model wants to be spoken to."""

    render: Render | None
    """None: as a transcript."""
    may_think: bool
    """Its chat template knows thinking, in which a stop string must not fire."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, ready for the engine."""

    prompt: str
    max_tokens: int
    fields: Mapping[str, Any]
    stops: tuple[str, ...]
    seeded: bool
    plain: bool
    """It is a transcript: the white space at the start of a reply is none of it."""
    warnings: tuple[Warn, ...]

    @property
    def thinks_from_the_start(self) -> bool:
        """Whether the template has opened a block of thinking that the reply goes on with."""
        return not self.plain and _opens_thinking(self.prompt)


def ask(request: Request, manner: Manner) -> Asked:
    """What the engine is given.

    Raises:
        AdapterError: UNSUPPORTED or INVALID_PROMPT, the request holds what it cannot take.
    """
    warnings: list[Warn] = []
    fields = {**_sampling(request), **_grammar(request.response_format), **_extra(request, warnings)}
    wanted = "seed" in request.sampling and request.temperature > 0
    if wanted and "grammar" in fields:
        warnings.append(omitted("seed"))
    think = asks_to_think(request) and manner.may_think
    prompt, ends = _prompt(request, manner, think=think)
    thinks = think or _opens_thinking(prompt)
    return Asked(
        prompt=prompt,
        max_tokens=request.max_output_length + (THINKING_HEADROOM if thinks else 0),
        fields=fields,
        stops=() if manner.may_think else _stops(request, ends),
        seeded=wanted and "grammar" not in fields,
        plain=manner.render is None,
        warnings=tuple(warnings),
    )


def _opens_thinking(prompt: str) -> bool:
    return prompt.rstrip().endswith(THINK)


def _prompt(request: Request, manner: Manner, *, think: bool) -> tuple[str, tuple[str, ...]]:
    """The text, and where somebody else would begin to speak in it."""
    if manner.render is None:
        lines = transcript(request)
        text = "".join(f"{line.content}\n" for line in lines.lines)
        return f"{text}{lines.speaker}:", lines.stops
    messages = merged(prefixed(message) for message in plain_roles(request.messages))
    plain = [{"role": message.role, "content": message.content} for message in messages]
    return manner.render(plain, think), ()


def _stops(request: Request, ends: tuple[str, ...]) -> tuple[str, ...]:
    """One of white space alone is never sent: it may be the first thing that a model says, and then there
    would be no reply; the host cuts there after the first word."""
    wanted = [stop for stop in dict.fromkeys((*ends, *request.stop)) if stop.strip()]
    return tuple(wanted[:STOPS_MAX])


def _sampling(request: Request) -> dict[str, Any]:
    given = {name: request.sampling[name] for name in _SAME_NAMES if name in request.sampling}
    return {
        "temperature": max(request.temperature, 0.0),
        **{name: int(value) if name in _WHOLE else value for name, value in given.items()},
    }


def _grammar(response_format: Mapping[str, Any] | None) -> dict[str, str]:
    kind = (response_format or {}).get("type", "text")
    if response_format is None or kind == "text":
        return {}
    if kind == "json_object":
        return {"grammar": '{"type":"object"}', "grammar_type": "json_schema"}
    given = response_format.get("json_schema")
    schema = given.get("schema") if kind == "json_schema" and isinstance(given, Mapping) else None
    if schema is None:
        raise AdapterError(
            Code.INVALID_PROMPT,
            "response_format must be of type text, json_object or json_schema with a schema.",
        )
    return {"grammar": json.dumps(schema), "grammar_type": "json_schema"}


def _extra(request: Request, warnings: list[Warn]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in request.extra.items():
        if name not in _EXTRA:
            warnings.append(omitted(f"extra.{name}"))
        elif not isinstance(value, _EXTRA[name]):
            raise AdapterError(Code.INVALID_PROMPT, f"extra.{name} is of a wrong type.")
        else:
            fields[name] = value
    if "logit_bias" in fields:
        fields["logit_bias"] = _bias(fields["logit_bias"])
    return fields


def _bias(given: Mapping[Any, Any]) -> dict[int, float]:
    try:
        return {int(token): float(value) for token, value in given.items()}
    except (TypeError, ValueError) as exc:
        raise AdapterError(
            Code.INVALID_PROMPT, "extra.logit_bias must map numbers of tokens to numbers."
        ) from exc

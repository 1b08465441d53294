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
from workers.chat_prompt import TEMPLATE_WORDS, THINKING_HEADROOM, Manner, prompt_of
from workers.codes import Code
from workers.parameters import omitted

__all__ = ["Asked", "ask"]

STOPS_MAX: Final = 16
"""The engine looks for all of them after every token."""
_SAME_NAMES: Final = (
    *("top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"),
)
_WHOLE: Final = ("top_k",)
_EXTRA: Final[Mapping[str, tuple[type, ...]]] = {
    "ignore_eos": (bool,),
    TEMPLATE_WORDS: (dict,),
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
    thinks_from_the_start: bool = False
    """The template has opened a block of thinking that the reply goes on with."""


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
    prompt = prompt_of(request, manner)
    return Asked(
        prompt=prompt.text,
        thinks_from_the_start=prompt.opens_thinking,
        max_tokens=request.max_output_length + (THINKING_HEADROOM if prompt.thinks else 0),
        fields=fields,
        stops=prompt.stops[:STOPS_MAX],
        seeded=wanted and "grammar" not in fields,
        plain=prompt.plain,
        warnings=tuple(warnings),
    )


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
        elif name != TEMPLATE_WORDS:  # which is the prompt's
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

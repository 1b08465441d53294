"""What a request says to ONNX Runtime GenAI beyond its messages: a grammar, and what the library then chooses
tokens by; and what a request says that nothing here heeds. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from workers.adapter import AdapterError, Request, Warn
from workers.chat_prompt import TEMPLATE_WORDS
from workers.codes import Code
from workers.parameters import omitted

__all__ = ["check", "grammar_of", "search_of", "unknown"]

EXTRA: Final = ("ignore_eos", TEMPLATE_WORDS)
"""What a client may add."""
NOT_WITH_GRAMMAR: Final = ("min_p", "presence_penalty", "frequency_penalty")
"""Where a grammar leads, the library chooses, and it knows none of these."""
TIGHT: Final = {"x-guidance": {"whitespace_flexible": False}}
"""Without it a small model may go on with white space for ever."""


def grammar_of(request: Request) -> tuple[str, str] | None:
    """The kind of grammar that leads the reply, and what it says; None for text of any kind.

    Raises:
        AdapterError: INVALID_PROMPT, it is none.
    """
    given = request.response_format or {}
    kind = given.get("type", "text")
    if kind == "text":
        return None
    schema: Any = {"type": "object"}
    if kind != "json_object":
        table = given.get("json_schema")
        schema = table.get("schema") if kind == "json_schema" and isinstance(table, Mapping) else None
    if not isinstance(schema, Mapping):
        raise AdapterError(
            Code.INVALID_PROMPT,
            "response_format must be of type text, json_object or json_schema with a schema.",
        )
    return "json_schema", json.dumps({**TIGHT, **schema})


def check(request: Request) -> None:
    """Nothing, if all numbers can be meant.

    Raises:
        AdapterError: INVALID_PROMPT.
    """
    if request.sampling.get("repetition_penalty", 1.0) <= 0:
        raise AdapterError(Code.INVALID_PROMPT, "repetition_penalty must be above 0; 1 changes nothing.")


def search_of(request: Request) -> dict[str, float]:
    """The library's own options, for a reply that it chooses the tokens of."""
    given = request.sampling
    draws = request.temperature > 0 and given.get("top_k") != 1
    found: dict[str, float] = {"do_sample": draws, "top_k": 0}
    if draws:
        found |= {"temperature": request.temperature, "top_k": int(given.get("top_k", 0))}
        found |= {"top_p": given["top_p"]} if "top_p" in given else {}
    if "repetition_penalty" in given:
        found["repetition_penalty"] = given["repetition_penalty"]
    if "seed" in given:
        found["random_seed"] = int(given["seed"]) % (1 << 31)
    return found


def unknown(request: Request) -> tuple[Warn, ...]:
    """What a request says and nothing here heeds."""
    names = [f"extra.{name}" for name in request.extra if name not in EXTRA]
    if (request.response_format or {}).get("type", "text") != "text":
        names += [name for name in NOT_WITH_GRAMMAR if name in request.sampling]
    return tuple(map(omitted, names))

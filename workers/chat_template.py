"""Chat templates of the hub's models: messages become one text, as the hub's own library makes it.

A template comes with a model, from anybody. So it runs in a sandbox: it reaches nothing but the messages, the
special tokens and the day, and changes nothing. The only import of jinja2.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NoReturn, TypeAlias

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from workers.adapter import AdapterError
from workers.codes import Code
from workers.redaction import redacted

__all__ = ["Render", "renderer"]

Render: TypeAlias = "Callable[[list[dict[str, str]], bool], str]"
"""Messages, and whether the model is to think, as one text.

Raises:
    AdapterError: INVALID_PROMPT, the template refuses them.
"""


def renderer(template: str, words: Mapping[str, str]) -> Render:
    """What makes texts by that template; `words` are the special tokens by their names.

    Raises:
        AdapterError: INVALID_MODEL, the template cannot be read.
    """
    sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    sandbox.filters["tojson"] = _json
    sandbox.globals.update(raise_exception=_refuse, strftime_now=_now)
    try:
        compiled = sandbox.from_string(template)
    except jinja2.TemplateError as exc:
        raise AdapterError(
            Code.INVALID_MODEL,
            f"The model's chat template cannot be read ({redacted(str(exc))}); load with options.transcript.",
        ) from exc

    def render(messages: list[dict[str, str]], think: bool) -> str:
        try:
            return compiled.render(
                messages=messages, add_generation_prompt=True, enable_thinking=think, tools=None, **words
            )
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, OverflowError) as exc:
            raise AdapterError(
                Code.INVALID_PROMPT,
                "The model's chat template refuses these messages (it said: "
                f"{redacted(str(exc))}); change them, or load with options.transcript.",
            ) from exc

    return render


def _json(value: object, indent: int | None = None) -> str:
    """Without the escapes that jinja2's own makes for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)

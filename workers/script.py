"""Scripts: what the `scripted` adapter says, as data that was checked when it was loaded.

A script is JSON: a list of replies, or an object `{"models": [...], "replies": [...]}`. docs/script.md
describes it for its users. A reply is an object; every field may be missing:

    match            text, or a list of texts: used when the last user message contains one, in any case
    text             the reply; sent in pieces of one word
    chunks           the reply, in exactly these pieces (instead of `text`)
    reasoning        thinking that comes before the reply, and is never shown
    first_delay_ms   before the first piece
    delay_ms         between two pieces
    repeat           how often the pieces are played
    hang             true: after the pieces, never ends
    error            {"code": NAME, "message": text, "retry_after_ms": n}: after the pieces, fails
    finish           "stop", "length", "tool_calls", "content_filter"; null: the stream breaks off
    usage            {"input_tokens": n, "output_tokens": n, ...} instead of a count of words

The first reply whose `match` is in the message is used; if there is none, those without `match` take
turns. `{message}` in a text stands for the last user message, `{character}` for the character's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, TypeVar

from workers.adapter import FINISH_REASONS, AdapterError, FinishReason, Usage
from workers.codes import Code

__all__ = ["Failure", "Script", "ScriptedReply", "parse_script", "parse_script_text", "split_words"]

DELAY_MAX_MS: Final = 600_000
"""Ten minutes, the longest that any request may last."""
REPEAT_MAX: Final = 10_000_000
DEFAULT_MODELS: Final[tuple[str, ...]] = ("demo",)
_PIECES: Final = re.compile(r"\s*\S+\s*|\s+")
_CODES: Final = {code.name: code for code in Code if code is not Code.SUCCESS}
_USAGE_FIELDS: Final = tuple(field.name for field in fields(Usage))
_REPLY_FIELDS: Final = (
    *("match", "text", "chunks", "reasoning", "first_delay_ms", "delay_ms", "repeat", "hang"),
    *("error", "finish", "usage"),
)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Failure:
    """The error that a reply ends with."""

    code: Code
    message: str
    retry_after_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ScriptedReply:
    """One reply of a script."""

    match: tuple[str, ...] = ()
    chunks: tuple[str, ...] = ()
    reasoning: tuple[str, ...] = ()
    first_delay_s: float = 0.0
    delay_s: float = 0.0
    repeat: int = 1
    hang: bool = False
    failure: Failure | None = None
    finish: FinishReason | None = "stop"
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """Replies, and the models that the provider claims to have."""

    replies: tuple[ScriptedReply, ...]
    models: tuple[str, ...] = DEFAULT_MODELS


def split_words(text: str) -> tuple[str, ...]:
    """`text` in pieces of one word with its white space."""
    return tuple(_PIECES.findall(text))


def parse_script_text(text: str, where: str) -> Script:
    """A script from the text of a file; `where` names it in errors.

    Raises:
        AdapterError: INVALID_REQUEST, naming the place.
    """
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise _bad(where, f"is not JSON: {exc}") from exc
    except RecursionError as exc:
        raise _bad(where, "is nested too deep") from exc
    return parse_script(value, where)


def parse_script(value: object, where: str) -> Script:
    """A script from JSON values.

    Raises:
        AdapterError: INVALID_REQUEST, naming the place.
    """
    models = DEFAULT_MODELS
    if isinstance(value, dict):
        _known(value, ("models", "replies"), where)
        if value.get("models") is not None:
            models = _texts(value["models"], f"{where}.models")
            if not models:
                raise _bad(f"{where}.models", "must name at least one model")
        value, where = value.get("replies"), f"{where}.replies"
    if not isinstance(value, list) or not value:
        raise _bad(where, "must be a list with at least one reply")
    return Script(tuple(_reply(item, f"{where}[{index}]") for index, item in enumerate(value)), models)


def _reply(value: object, where: str) -> ScriptedReply:
    if not isinstance(value, dict):
        raise _bad(where, "must be an object")
    _known(value, _REPLY_FIELDS, where)
    if value.get("text") is not None and value.get("chunks") is not None:
        raise _bad(where, "has both `text` and `chunks`; one is enough")

    def optional(name: str, parse: Callable[[Any, str], T], default: T) -> T:
        given = value.get(name)
        return default if given is None else parse(given, f"{where}.{name}")

    return ScriptedReply(
        match=optional("match", _texts, ()),
        chunks=optional("chunks", _texts, ()) or optional("text", _pieces, ()),
        reasoning=optional("reasoning", _texts, ()),
        first_delay_s=optional("first_delay_ms", _delay, 0.0),
        delay_s=optional("delay_ms", _delay, 0.0),
        repeat=optional("repeat", _repeat, 1),
        hang=optional("hang", _flag, False),
        failure=optional("error", _failure, None),
        finish=_finish(value.get("finish", "stop"), f"{where}.finish"),
        usage=optional("usage", _usage, None),
    )


def _texts(value: object, where: str) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise _bad(where, "must be a text or a list of texts")
    for index, item in enumerate(items):
        if not isinstance(item, str) or not item:
            raise _bad(f"{where}[{index}]", "must be a text that is not empty")
    return tuple(items)


def _pieces(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, str):
        raise _bad(where, "must be a text")
    return split_words(value)


def _delay(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= DELAY_MAX_MS:
        raise _bad(where, f"must be a number of milliseconds from 0 to {DELAY_MAX_MS}")
    return value / 1000


def _repeat(value: object, where: str) -> int:
    return _whole(value, where, least=1, most=REPEAT_MAX)


def _whole(value: object, where: str, *, least: int = 0, most: int = 2**53) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _bad(where, f"must be a whole number from {least} to {most}")
    return value


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise _bad(where, "must be true or false")
    return value


def _failure(value: object, where: str) -> Failure | None:
    if not isinstance(value, dict):
        raise _bad(where, "must be an object")
    _known(value, ("code", "message", "retry_after_ms"), where)
    code = _CODES.get(str(value.get("code")))
    if code is None:
        raise _bad(f"{where}.code", "must be the name of an error code, such as RATE_LIMITED")
    message = value.get("message") or "The script says so."
    if not isinstance(message, str):
        raise _bad(f"{where}.message", "must be a text")
    wait = value.get("retry_after_ms")
    return Failure(code, message, None if wait is None else _whole(wait, f"{where}.retry_after_ms"))


def _finish(value: object, where: str) -> FinishReason | None:
    if value is None:
        return None
    for reason in FINISH_REASONS:
        if value == reason:
            return reason
    raise _bad(where, f"must be null or one of {', '.join(FINISH_REASONS)}")


def _usage(value: object, where: str) -> Usage | None:
    if not isinstance(value, dict):
        raise _bad(where, "must be an object")
    _known(value, _USAGE_FIELDS, where)
    return Usage(**{name: _whole(count, f"{where}.{name}") for name, count in value.items()})


def _known(value: Mapping[Any, Any], names: tuple[str, ...], where: str) -> None:
    for name in value:
        if name not in names:
            raise _bad(f"{where}.{name}", f"is not known here; known are {', '.join(names)}")


def _bad(where: str, what: str) -> AdapterError:
    return AdapterError(Code.INVALID_REQUEST, f"{where} {what}.")

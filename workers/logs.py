"""A worker's log: lines on stderr, with the keys of its bindings hidden.

It is stderr and not Log frames: tracebacks, faulthandler's stacks and a package's own prints go there in
any case, so the supervisor reads one stream in one order, also before the wire is open and when it is
what broke. A line begins with its level, which is all that the supervisor needs of it.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

from workers.adapter import Binding

__all__ = ["HidingFormatter", "hide_secrets", "log_to_stderr"]

SECRET_MIN_CHARS: Final = 8
"""A shorter key is somebody's `none` or `x`: hiding it everywhere would only garble the log."""
_SECRET_WORDS: Final = ("key", "secret", "token", "password", "credential")
_FORMAT: Final = "%(levelname)s %(name)s: %(message)s"

_secrets: Final[set[str]] = set()


class HidingFormatter(logging.Formatter):
    """Formats a record with its traceback, then hides whatever was given to `hide_secrets`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the traceback below it."""
        text = super().format(record)
        for secret in tuple(_secrets):  # another thread may be adding one
            text = text.replace(secret, "***")
        return text


def log_to_stderr() -> None:
    """Sends warnings and worse of all loggers to stderr."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(HidingFormatter(_FORMAT))
    logging.basicConfig(handlers=[stream], level=logging.WARNING)


def hide_secrets(binding: Binding) -> None:
    """Hides the binding's key, and options that are named like one, from now on.

    They are not forgotten with the binding: a late line of a closing connection may still quote one.
    """
    named = {name: value for name, value in binding.options.items() if _is_secret(name)}
    for value in (binding.key, *named.values()):
        if isinstance(value, str) and len(value) >= SECRET_MIN_CHARS:
            _secrets.update({value, repr(value)[1:-1]})  # a traceback may quote it escaped


def _is_secret(name: Any) -> bool:
    return any(word in str(name).lower() for word in _SECRET_WORDS)

"""What a refused parameter teaches: from then on that model is asked without it.

A provider's models differ more often than a table of ours can follow. What a refusal says is only believed
where it names a parameter of sampling that was sent.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from workers.codes import Code
from workers.parameters import Body
from workers.quirks import DROPPABLE, RENAMED
from workers.refusals import Refusal

__all__ = ["Lessons", "named_parameters", "teaches"]

LEARNT_MODELS_MAX: Final = 256
"""Models whose refused parameters are remembered."""
_REFUSING_WORDS: Final = (
    *("support", "unknown", "unrecognized", "not permitted", "not enabled", "extra", "deprecated"),
)
"""What a provider says about a parameter that it does not take."""
_DISPENSABLE: Final = ("stop",)
"""What may be left out whatever is said of it, since the host cuts there too."""
_STATUSES: Final = (400, 422)
"""The statuses with which a parameter is refused."""


class Lessons:
    """What each model of one binding was seen to refuse."""

    def __init__(self) -> None:
        self._refused: dict[str, frozenset[str]] = {}

    def of(self, model: str) -> frozenset[str]:
        """The parameters that it does not take."""
        return self._refused.get(model, frozenset())

    def learn(self, model: str, named: Collection[str]) -> None:
        """It does not take these either."""
        if len(self._refused) >= LEARNT_MODELS_MAX:
            self._refused.clear()
        self._refused[model] = self.of(model) | frozenset(named)


def teaches(error: Refusal) -> bool:
    """Whether a refusal may be one of a parameter."""
    return error.provider_status in _STATUSES and error.code is Code.INVALID_PROMPT


def named_parameters(error: Refusal, body: Body) -> frozenset[str]:
    """The parameters of sampling that were sent and that the refusal names, by its field or its words; and
    a field that it wants by another name."""
    message = error.fields.message.lower()
    for old, new in RENAMED.items():
        if old in body.fields and new in message:
            return frozenset((old,))
    sent = {name: name for name in DROPPABLE if name in body.fields} | dict(body.called)
    if error.fields.param in sent:
        return frozenset((error.fields.param,))
    named = frozenset(name for name, called in sent.items() if name in message or called.lower() in message)
    return named if any(word in message for word in _REFUSING_WORDS) else named.intersection(_DISPENSABLE)

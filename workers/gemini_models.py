"""What holds for the Gemini wire, and how Google's models differ on it, by their names: data alone.

Thinking cannot be switched off from 3.0 on, nor on 2.5 Pro: those think as little as they can, which counts
towards the limit of a reply all the same. Sources: google-gemini/cookbook#1290 (penalties),
BerriAI/litellm-docs#1505 (levels), juspay/neurolink#1707 (budgets), vercel/ai#6928 (Gemma 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from workers.quirks import Quirks

__all__ = ["USUAL"]

_LACKING: Final = ("min_p", "repetition_penalty")
"""What no model of this wire has."""
_PENALTIES: Final = ("presence_penalty", "frequency_penalty")
"""What none has that came after 2.0."""
_HARMS: Final = ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT")
LEAST_BUDGET_OF_PRO: Final = 128
BUDGET: Final = 1536
"""Tokens of thought for a client who asks for it, where a model takes a number and no word."""


def _thinking(**fields: Any) -> dict[str, Any]:
    return {"generationConfig": {"thinkingConfig": fields}}


_BY_MODEL: Final[Mapping[str, Mapping[str, Any]]] = {
    "gemini-3-flash* gemini-3.[0-6]*flash*": {"thinking_off": _thinking(thinkingLevel="MINIMAL")},
    "gemini-2.5*": {
        "unsupported": (*_LACKING, *_PENALTIES, "reasoning_effort"),
        "thinking_off": _thinking(thinkingBudget=0),
        "thinking_on": _thinking(thinkingBudget=BUDGET, includeThoughts=True),
    },
    "gemini-2.5-pro*": {"thinking_off": _thinking(thinkingBudget=LEAST_BUDGET_OF_PRO)},
    "gemini-1* gemini-2.0*": {"unsupported": (*_LACKING, "reasoning_effort"), "thinking_on": {}},
    "gemma-3*": {
        "unsupported": (*_LACKING, *_PENALTIES, "reasoning_effort", "response_format"),
        "thinking_on": {},
        "system_role": "user",
    },
}

USUAL: Final = Quirks(
    chat_path="/models/{model}",
    key_header="x-goog-api-key",
    key_prefix="",
    stop_max=5,
    stop_chars_max=16,
    unsupported=(*_LACKING, *_PENALTIES),
    reasoning_models=("gemini-*", "!gemini-1*", "!gemini-2.0*", "!gemini-2.5-flash*"),
    reasoning_headroom=2048,
    thinking_off=_thinking(thinkingLevel="LOW"),
    thinking_off_models=("gemini-*", "!gemini-1*", "!gemini-2.0*", "!*image*", "!*tts*"),
    thinking_on=_thinking(includeThoughts=True),
    extra_body={
        # Companions are cut in the middle of a sentence otherwise; a client's `extra` may say another list.
        "safetySettings": [{"category": f"HARM_CATEGORY_{harm}", "threshold": "OFF"} for harm in _HARMS]
    },
    by_model=_BY_MODEL,
)

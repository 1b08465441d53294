"""What holds for the Anthropic wire, and how Claude's models differ on it, by their names: data alone.

Sources: anthropic 1.17.0 and 2.13.0, platform.claude.com, models.dev, litellm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from workers.quirks import Quirks

__all__ = ["USUAL"]

VERSION: Final = "2023-06-01"
"""Under the next one, 2026-10-21, no model takes any sampling; nothing else that is new there is used here.
A provider's `extra_headers` may name it."""
_LACKING: Final = ("min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "seed")
"""What no model of this wire has."""
_SAMPLING: Final = ("temperature", "top_p", "top_k")
"""What the newer ones do not have either."""
BUDGET: Final = 1536
"""Tokens of thought for a client who asks for it, where a model takes a number and no word."""

_BY_MODEL: Final[Mapping[str, Mapping[str, Any]]] = {
    "claude-*-4-7* claude-*-4-8* claude-*-5 claude-*-5-[0-9] claude-fable* claude-mythos* !claude-*-4-5": {
        "unsupported": [*_SAMPLING, *_LACKING],
    },
    "claude-sonnet-5-5*": {"thinking_off": {"thinking": {"type": "between_tools"}}},
    "claude-opus-5-5* claude-fable* claude-mythos*": {"thinking_off": {"output_config": {"effort": "low"}}},
    "claude-3* claude-opus-4-[015]* claude-opus-4-2* claude-sonnet-4-[05]* claude-sonnet-4-2* "
    "claude-haiku-4*": {
        "thinking_on": {"thinking": {"type": "enabled", "budget_tokens": BUDGET}},
        "unsupported": ["reasoning_effort", *_LACKING],
    },
}

USUAL: Final = Quirks(
    chat_path="/messages",
    key_header="x-api-key",
    key_prefix="",
    extra_headers={"anthropic-version": VERSION},
    temperature_max=1.0,
    unsupported=_LACKING,
    reasoning_models=("claude-opus-5-5*", "claude-fable*", "claude-mythos*"),  # think whatever they are told
    reasoning_unsupported=("stop", *_SAMPLING),
    reasoning_headroom=2048,
    thinking_off={"thinking": {"type": "disabled"}},
    thinking_off_models=(
        *("claude-*-5", "claude-*-5-[0-9]", "claude-fable*", "claude-mythos*", "!claude-*-4-5"),
    ),
    thinking_on={"thinking": {"type": "adaptive"}},
    by_model=_BY_MODEL,
)

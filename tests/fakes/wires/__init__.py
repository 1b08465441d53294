"""The wires that a fake server speaks, one file each, named as the adapter; see tests/fakes/wire.py."""

from __future__ import annotations

from typing import Final

from tests.fakes.wire import Wire
from tests.fakes.wires.anthropic_messages import AnthropicWire
from tests.fakes.wires.kobold import KoboldWire
from tests.fakes.wires.ollama import OllamaWire
from tests.fakes.wires.openai_chat import OpenAIWire
from tests.fakes.wires.replicate import ReplicateWire

__all__ = ["WIRES"]

WIRES: Final[tuple[Wire, ...]] = (OpenAIWire(), AnthropicWire(), OllamaWire(), KoboldWire(), ReplicateWire())
"""Every wire that has an adapter; the contract runs against each."""

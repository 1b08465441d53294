"""The wires that a fake server speaks, one file each, named as the adapter; see tests/fakes/wire.py."""

from __future__ import annotations

from typing import Final

from tests.fakes.wire import Wire
from tests.fakes.wires.anthropic_messages import AnthropicWire
from tests.fakes.wires.bedrock import BedrockWire
from tests.fakes.wires.cohere import CohereWire
from tests.fakes.wires.gemini import GeminiWire
from tests.fakes.wires.openai_chat import OpenAIWire
from tests.fakes.wires.vertex import VertexWire
from tests.fakes.wires.vertex_anthropic import VertexAnthropicWire

__all__ = ["WIRES"]

WIRES: Final[tuple[Wire, ...]] = (
    OpenAIWire(),
    AnthropicWire(),
    CohereWire(),
    BedrockWire(),
    GeminiWire(),
    VertexWire(),
    VertexAnthropicWire(),
)
"""Every wire that has an adapter; the contract runs against each."""

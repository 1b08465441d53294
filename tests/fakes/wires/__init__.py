"""The wires that a fake server speaks, one file each, named as the adapter; see tests/fakes/wire.py."""

from __future__ import annotations

from typing import Final

from tests.fakes.wire import Wire
from tests.fakes.wires.ai_horde import HordeWire
from tests.fakes.wires.anthropic_messages import AnthropicWire
from tests.fakes.wires.bedrock import BedrockWire
from tests.fakes.wires.cohere import CohereWire
from tests.fakes.wires.gemini import GeminiWire
from tests.fakes.wires.kobold import KoboldWire
from tests.fakes.wires.nlp_cloud import NlpCloudWire
from tests.fakes.wires.novelai import NovelAIStoryWire, NovelAIWire
from tests.fakes.wires.ollama import OllamaWire
from tests.fakes.wires.openai_chat import OpenAIWire
from tests.fakes.wires.replicate import ReplicateWire
from tests.fakes.wires.vertex import VertexWire
from tests.fakes.wires.vertex_anthropic import VertexAnthropicWire
from tests.fakes.wires.watsonx import WatsonxWire

__all__ = ["WIRES"]

WIRES: Final[tuple[Wire, ...]] = (
    OpenAIWire(),
    AnthropicWire(),
    CohereWire(),
    BedrockWire(),
    OllamaWire(),
    KoboldWire(),
    NovelAIWire(),
    NovelAIStoryWire(),
    HordeWire(),
    ReplicateWire(),
    WatsonxWire(),
    NlpCloudWire(),
    GeminiWire(),
    VertexWire(),
    VertexAnthropicWire(),
)
"""Every wire that has an adapter; the contract runs against each."""

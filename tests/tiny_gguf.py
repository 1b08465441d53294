"""Makes a model of some hundred kilobytes that llama.cpp can serve: a Llama with random weights.

One token per byte, so any text goes in, and only printable ASCII comes out: noise, the same at every run.
It loads, streams, stops and is interrupted like a real one. Needs numpy and gguf, and no network.
A larger Shape makes one whose tokens cost as much as a real model's, for measuring.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np

__all__ = ["CONTEXT", "TEMPLATE", "Shape", "make_tiny_gguf"]

CONTEXT: Final = 8192
"""Long enough that a reply can be interrupted before it ends."""
TINY_WIDTH: Final = 64
NOISE: Final = 0.1
"""The weights' deviation at that width; a wider model's are smaller, so that its sums are as large."""
LOUDNESS: Final = 0.4
"""How far apart the chances of two tokens are; with less, every letter would be as likely."""
SPECIALS: Final = ("<|end|>", "<|from|>", "<|stop|>")
END, FROM, STOP = range(3)
MERGE: Final = ("t", "h")
"""llama.cpp wants a list of merges; one is enough."""
TEMPLATE: Final = (
    "{%- for message in messages -%}<|from|>{{ message.role }}: {{ message.content }}<|stop|>{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|from|>assistant: {%- endif -%}"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """How large the model is."""

    width: int = TINY_WIDTH
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 96
    context: int = CONTEXT


TINY: Final = Shape()


def make_tiny_gguf(
    path: Path, *, seed: int = 7, shape: Shape = TINY, template: str | None = TEMPLATE
) -> None:
    """Writes the model to `path`; without a template it is a model that only continues text."""
    tokens = [*SPECIALS, *_byte_tokens(), "".join(MERGE)]
    writer = gguf.GGUFWriter(str(path), "llama")
    _describe(writer, len(tokens), shape)
    _add_tokens(writer, tokens)
    if template is not None:
        writer.add_chat_template(template)
    for name, tensor in _tensors(tokens, np.random.default_rng(seed), shape).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _byte_tokens() -> list[str]:
    """The 256 bytes as the characters that byte-level vocabularies write them with."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    shown = {byte: chr(byte) for byte in printable}
    shown.update({byte: chr(256 + index) for index, byte in enumerate(others)})
    return [shown[byte] for byte in range(256)]


def _describe(writer: Any, vocabulary: int, shape: Shape) -> None:
    writer.add_name("tiny")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_vocab_size(vocabulary)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _add_tokens(writer: Any, tokens: list[str]) -> None:
    control = [gguf.TokenType.CONTROL] * len(SPECIALS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(control + [gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIALS)))
    writer.add_token_merges([" ".join(MERGE)])
    writer.add_bos_token_id(END)
    writer.add_eos_token_id(STOP)
    writer.add_pad_token_id(END)
    writer.add_add_bos_token(False)


def _tensors(tokens: list[str], random: np.random.Generator, shape: Shape) -> dict[str, np.ndarray[Any, Any]]:
    narrower = (TINY_WIDTH / shape.width) ** 0.5

    def noise(*sides: int, scale: float = NOISE * narrower) -> np.ndarray[Any, Any]:
        return (random.standard_normal(sides) * scale).astype(np.float32)

    width, feed_forward = shape.width, shape.feed_forward
    kv_width = width // shape.heads * shape.kv_heads
    ones = np.ones(width, dtype=np.float32)
    loud = np.array([[float(len(token) == 1 and token.isascii())] for token in tokens], dtype=np.float32)
    tensors = {
        "token_embd.weight": noise(len(tokens), width, scale=1.0),
        "output_norm.weight": ones,
        "output.weight": noise(len(tokens), width, scale=LOUDNESS * narrower) * loud,
    }
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        tensors |= {
            f"{block}.attn_norm.weight": ones,
            f"{block}.attn_q.weight": noise(width, width),
            f"{block}.attn_k.weight": noise(kv_width, width),
            f"{block}.attn_v.weight": noise(kv_width, width),
            f"{block}.attn_output.weight": noise(width, width),
            f"{block}.ffn_norm.weight": ones,
            f"{block}.ffn_gate.weight": noise(feed_forward, width),
            f"{block}.ffn_up.weight": noise(feed_forward, width),
            f"{block}.ffn_down.weight": noise(width, feed_forward),
        }
    return tensors

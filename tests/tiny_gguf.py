"""Makes a model of some hundred kilobytes that llama.cpp can serve: a Llama with random weights.

One token per byte, so any text goes in, and only printable ASCII comes out: noise, the same at every run.
It loads, streams, stops and is interrupted like a real one. Needs numpy and gguf, and no network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np

__all__ = ["CONTEXT", "make_tiny_gguf"]

CONTEXT: Final = 8192
"""Long enough that a reply can be interrupted before it ends."""
WIDTH: Final = 64
LAYERS: Final = 2
HEADS: Final = 4
KV_HEADS: Final = 2
FEED_FORWARD: Final = 96
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


def make_tiny_gguf(path: Path, *, seed: int = 7) -> None:
    """Writes the model to `path`."""
    tokens = [*SPECIALS, *_byte_tokens(), "".join(MERGE)]
    writer = gguf.GGUFWriter(str(path), "llama")
    _describe(writer, len(tokens))
    _add_tokens(writer, tokens)
    for name, tensor in _tensors(tokens, np.random.default_rng(seed)).items():
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


def _describe(writer: Any, vocabulary: int) -> None:
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
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
    writer.add_chat_template(TEMPLATE)


def _tensors(tokens: list[str], random: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    def noise(*shape: int, scale: float = 0.1) -> np.ndarray[Any, Any]:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    kv_width = WIDTH // HEADS * KV_HEADS
    ones = np.ones(WIDTH, dtype=np.float32)
    loud = np.array([[float(len(token) == 1 and token.isascii())] for token in tokens], dtype=np.float32)
    tensors = {
        "token_embd.weight": noise(len(tokens), WIDTH, scale=1.0),
        "output_norm.weight": ones,
        "output.weight": noise(len(tokens), WIDTH, scale=LOUDNESS) * loud,
    }
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        tensors |= {
            f"{block}.attn_norm.weight": ones,
            f"{block}.attn_q.weight": noise(WIDTH, WIDTH),
            f"{block}.attn_k.weight": noise(kv_width, WIDTH),
            f"{block}.attn_v.weight": noise(kv_width, WIDTH),
            f"{block}.attn_output.weight": noise(WIDTH, WIDTH),
            f"{block}.ffn_norm.weight": ones,
            f"{block}.ffn_gate.weight": noise(FEED_FORWARD, WIDTH),
            f"{block}.ffn_up.weight": noise(FEED_FORWARD, WIDTH),
            f"{block}.ffn_down.weight": noise(WIDTH, FEED_FORWARD),
        }
    return tensors

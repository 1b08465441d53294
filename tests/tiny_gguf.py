"""The tiny model as a GGUF file of some hundred kilobytes. Needs numpy and gguf, and no network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import gguf

from tests.tiny_model import (
    CONTEXT,
    END,
    MERGE,
    NORM_EPSILON,
    SPECIALS,
    STOP,
    TEMPLATE,
    TINY,
    Shape,
    tensors,
    vocabulary,
)

__all__ = ["CONTEXT", "TEMPLATE", "Shape", "make_tiny_gguf"]

_NAMES: Final = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LAYER: Final = re.compile(r"model\.layers\.(\d+)\.")


def make_tiny_gguf(
    path: Path,
    *,
    seed: int = 7,
    shape: Shape = TINY,
    template: str | None = TEMPLATE,
    says: str | None = None,
    after: str = ":",
) -> None:
    """Writes the model to `path`; without a template it is a model that only continues text, and one that
    `says` something says only that."""
    tokens = vocabulary()
    writer = gguf.GGUFWriter(str(path), "llama")
    _describe(writer, len(tokens), shape)
    _add_tokens(writer, tokens)
    if template is not None:
        writer.add_chat_template(template)
    for name, tensor in tensors(seed, shape, says, after).items():
        writer.add_tensor(_named(name), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _named(name: str) -> str:
    """A tensor's name here; the order inside those of attention is another, which noise does not mind."""
    layer = _LAYER.match(name)
    part = name[layer.end() if layer else 0 :].removesuffix(".weight")
    return f"blk.{layer[1]}.{_NAMES[part]}.weight" if layer else f"{_NAMES[part]}.weight"


def _describe(writer: Any, vocabulary_size: int, shape: Shape) -> None:
    writer.add_name("tiny")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(NORM_EPSILON)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_vocab_size(vocabulary_size)
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

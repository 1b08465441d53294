"""What the tiny models of all formats are: a Llama with random weights, one token per byte.

Any text goes in, and only printable ASCII comes out: noise, the same at every run. It loads, streams, stops
and is interrupted like a real one. A larger Shape makes one whose tokens cost as much as a real model's, for
measuring. Who writes it into a file: tests.tiny_gguf and tests.tiny_safetensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

__all__ = [
    "CONTEXT",
    "END",
    "MERGE",
    "NORM_EPSILON",
    "SPECIALS",
    "STOP",
    "TEMPLATE",
    "TINY",
    "Shape",
    "speaks",
    "tensors",
    "vocabulary",
]

CONTEXT: Final = 8192
"""Long enough that a reply can be interrupted before it ends."""
TINY_WIDTH: Final = 64
NOISE: Final = 0.1
"""The weights' deviation at that width; a wider model's are smaller, so that its sums are as large."""
LOUDNESS: Final = 0.4
"""How far apart the chances of two tokens are; with less, every letter would be as likely."""
NORM_EPSILON: Final = 1e-5
SPECIALS: Final = ("<|end|>", "<|from|>", "<|stop|>")
END, FROM, STOP = range(3)
MERGE: Final = ("t", "h")
"""A list of merges is wanted; one is enough."""
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


def vocabulary() -> list[str]:
    """All tokens; a token's place is its id."""
    return [*SPECIALS, *_byte_tokens(), "".join(MERGE)]


def tensors(
    seed: int, shape: Shape, says: str | None = None, after: str = ":"
) -> dict[str, np.ndarray[Any, Any]]:
    """The weights, by the names that the hub's repositories give them, of a model that talks at random or
    always `says` something (see `speaks`)."""
    weights = _random(seed, shape)
    if says is not None:
        speaks(weights, says, after)
    return weights


def _random(seed: int, shape: Shape) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(seed)
    narrower = (TINY_WIDTH / shape.width) ** 0.5

    def noise(*sides: int, scale: float = NOISE * narrower) -> np.ndarray[Any, Any]:
        return (random.standard_normal(sides) * scale).astype(np.float32)

    tokens = vocabulary()
    width, feed_forward = shape.width, shape.feed_forward
    kv_width = width // shape.heads * shape.kv_heads
    ones = np.ones(width, dtype=np.float32)
    loud = np.array([[float(len(token) == 1 and token.isascii())] for token in tokens], dtype=np.float32)
    made = {
        "model.embed_tokens.weight": noise(len(tokens), width, scale=1.0),
        "model.norm.weight": ones,
        "lm_head.weight": noise(len(tokens), width, scale=LOUDNESS * narrower) * loud,
    }
    for layer in range(shape.layers):
        block = f"model.layers.{layer}"
        made |= {
            f"{block}.input_layernorm.weight": ones,
            f"{block}.self_attn.q_proj.weight": noise(width, width),
            f"{block}.self_attn.k_proj.weight": noise(kv_width, width),
            f"{block}.self_attn.v_proj.weight": noise(kv_width, width),
            f"{block}.self_attn.o_proj.weight": noise(width, width),
            f"{block}.post_attention_layernorm.weight": ones,
            f"{block}.mlp.gate_proj.weight": noise(feed_forward, width),
            f"{block}.mlp.up_proj.weight": noise(feed_forward, width),
            f"{block}.mlp.down_proj.weight": noise(width, feed_forward),
        }
    return made


def speaks(weights: dict[str, np.ndarray[Any, Any]], text: str, after: str) -> None:
    """Changes the weights so that the model says `text` again and again; `after` is the last character of a
    prompt. Each byte of the text may stand in it only once, since each one decides the next.

    The layers then add nothing, and a token is followed by the one whose row of the head looks like it.
    """
    places = {token: number for number, token in enumerate(vocabulary())}
    letters = _byte_tokens()
    said = [places[letters[byte]] for byte in text.encode()]
    embedded, head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    for name in weights:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = np.zeros_like(weights[name])
    head[:] = 0
    for token, following in zip(said, [*said[1:], said[0]], strict=True):
        head[following] += embedded[token]
    head[said[0]] += embedded[places[letters[ord(after)]]]


def _byte_tokens() -> list[str]:
    """The 256 bytes as the characters that byte-level vocabularies write them with."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    shown = {byte: chr(byte) for byte in printable}
    shown.update({byte: chr(256 + index) for index, byte in enumerate(others)})
    return [shown[byte] for byte in range(256)]

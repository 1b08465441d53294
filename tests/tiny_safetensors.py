"""The tiny model as the hub's repositories hold one: a folder of some hundred kilobytes.

The format of weights is a header of JSON and the tensors' bytes: numpy and the standard library write it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.tiny_model import (
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

__all__ = [
    "ROPE_THETA",
    "make_speaker",
    "make_tiny_mamba",
    "make_tiny_safetensors",
    "safetensors_bytes",
    "write_tokenizer",
]

ROPE_THETA: Final = 10_000.0
"""The base of the positions' angles; it stands at the top of config.json, where all engines look for it."""
_MAMBA: Final = {
    "architectures": ["MambaForCausalLM"],
    "model_type": "mamba",
    "hidden_size": 32,
    "intermediate_size": 64,
    "state_size": 8,
    "time_step_rank": 2,
    "conv_kernel": 4,
    "expand": 2,
    "use_bias": False,
    "use_conv_bias": True,
}
_BYTES: Final = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def make_tiny_safetensors(
    folder: Path,
    *,
    seed: int = 7,
    shape: Shape = TINY,
    template: str | None = TEMPLATE,
    files: int = 1,
    says: str | None = None,
    after: str = ":",
) -> None:
    """Writes the model into `folder`, its weights into so many files; without a template it is a model that
    only continues text, and one that `says` something says only that."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "config.json": _config(shape),
        "generation_config.json": {"bos_token_id": END, "eos_token_id": STOP},
    }
    for name, value in texts.items():
        _write_json(folder / name, value)
    write_tokenizer(folder, shape, template)
    _write_weights(folder, tensors(seed, shape, says, after), files)


def write_tokenizer(folder: Path, shape: Shape, template: str | None) -> None:
    """The files of the tokenizer, which stand in folders of other formats too."""
    _write_json(folder / "tokenizer.json", _tokenizer())
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(shape, template))


def make_speaker(folder: Path, text: str) -> None:
    """A model that says that text again and again, whatever it is asked."""
    make_tiny_safetensors(folder, says=text)


def make_tiny_mamba(folder: Path, *, seed: int = 7) -> None:
    """A model of another kind: without attention, it keeps a state of a fixed size instead of a context."""
    make_tiny_safetensors(folder)
    _write_json(folder / "config.json", {**_config(TINY), **_MAMBA})
    random = np.random.default_rng(seed)
    width, inner, states, rank, count = 32, 64, 8, 2, len(vocabulary())
    shapes: dict[str, tuple[int, ...]] = {
        "norm.weight": (width,),
        "mixer.A_log": (inner, states),
        "mixer.D": (inner,),
        "mixer.conv1d.weight": (inner, 1, 4),
        "mixer.conv1d.bias": (inner,),
        "mixer.in_proj.weight": (2 * inner, width),
        "mixer.x_proj.weight": (rank + 2 * states, inner),
        "mixer.dt_proj.weight": (inner, rank),
        "mixer.dt_proj.bias": (inner,),
        "mixer.out_proj.weight": (width, inner),
    }
    layers = {f"backbone.layers.{n}.{name}": shape for n in range(2) for name, shape in shapes.items()}
    ends = {"backbone.embeddings.weight": (count, width), "backbone.norm_f.weight": (width,)}
    all_shapes = {**ends, "lm_head.weight": (count, width), **layers}
    made = {name: random.standard_normal(shape).astype(np.float32) for name, shape in all_shapes.items()}
    _write_weights(folder, made, 1)


def safetensors_bytes(weights: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """Tensors of 32-bit numbers as one file."""
    header, end = {}, 0
    for name, tensor in weights.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join(
        (struct.pack("<Q", len(text)), text, *(tensor.astype("<f4").tobytes() for tensor in weights.values()))
    )


def _write_weights(folder: Path, weights: Mapping[str, np.ndarray[Any, Any]], files: int) -> None:
    if files == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(weights))
        return
    where = {}
    for number in range(files):
        name = f"model-{number + 1:05}-of-{files:05}.safetensors"
        part = {key: weights[key] for key in list(weights)[number::files]}
        (folder / name).write_bytes(safetensors_bytes(part))
        where.update(dict.fromkeys(part, name))
    size = sum(tensor.nbytes for tensor in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    _write_json(folder / "model.safetensors.index.json", index)


def _config(shape: Shape) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float32",
        "vocab_size": len(vocabulary()),
        "hidden_size": shape.width,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": NORM_EPSILON,
        "rope_theta": ROPE_THETA,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": END,
        "eos_token_id": STOP,
    }


def _tokenizer() -> dict[str, Any]:
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": text, **special} for number, text in enumerate(SPECIALS)],
        "normalizer": None,
        "pre_tokenizer": _BYTES,
        "post_processor": None,
        "decoder": _BYTES,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: number for number, token in enumerate(vocabulary())},
            "merges": [" ".join(MERGE)],
        },
    }


def _tokenizer_config(shape: Shape, template: str | None) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": shape.context,
        "bos_token": SPECIALS[END],
        "eos_token": SPECIALS[STOP],
        "pad_token": SPECIALS[END],
        "clean_up_tokenization_spaces": False,
        **({"chat_template": template} if template is not None else {}),
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")

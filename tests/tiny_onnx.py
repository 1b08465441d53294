"""The tiny model as ONNX Runtime GenAI wants one: a graph with its weights in it, a config, a tokenizer.

The graph uses the operators that the engine's own model builder writes: attention with rotated positions and
grouped keys is one of them. Needs numpy and onnx, and no network.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.tiny_model import (
    CONTEXT,
    END,
    NORM_EPSILON,
    STOP,
    TEMPLATE,
    TINY,
    Shape,
    tensors,
    vocabulary,
)
from tests.tiny_safetensors import ROPE_THETA, write_tokenizer

__all__ = ["DATA", "GRAPH", "make_tiny_onnx"]

MICROSOFT: Final = "com.microsoft"
OPSET: Final = 21
IR: Final = 10
GRAPH: Final = "model.onnx"
DATA: Final = "model.onnx.data"
"""The weights stand beside the graph, as in the hub's repositories."""
_FLOAT: Final = TensorProto.FLOAT


def make_tiny_onnx(
    folder: Path,
    *,
    seed: int = 7,
    shape: Shape = TINY,
    template: str | None = TEMPLATE,
    says: str | None = None,
    after: str = ":",
) -> None:
    """Writes the model into `folder`; without a template it is a model that only continues text, and with
    something that it `says` it says only that."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, shape, template)
    (folder / "genai_config.json").write_text(json.dumps(_config(shape)), encoding="utf-8")
    _write_graph(folder, tensors(seed, shape, says, after), shape)


def _config(shape: Shape) -> dict[str, Any]:
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": GRAPH,
        "head_size": shape.width // shape.heads,
        "hidden_size": shape.width,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    return {
        "model": {
            "type": "llama",
            "bos_token_id": END,
            "eos_token_id": STOP,
            "pad_token_id": END,
            "vocab_size": len(vocabulary()),
            "context_length": shape.context,
            "decoder": decoder,
        },
        "search": {"max_length": shape.context, "past_present_share_buffer": True, "do_sample": False},
    }


class _Graph:
    """The nodes and the weights, as far as they are written."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, value: np.ndarray[Any, Any]) -> str:
        """Adds a tensor."""
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        """Adds a node and returns the name of its first output."""
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes))
        return outputs[0]

    def linear(self, name: str, of: str, weight: np.ndarray[Any, Any]) -> str:
        """A matrix as the hub's repositories write it, which is the other way round."""
        return self.node("MatMul", [of, self.weight(f"{name}.weight", weight.T)], [name])

    def norm(self, name: str, of: str, weight: np.ndarray[Any, Any]) -> str:
        """A vector made as long as all others."""
        inputs = [of, self.weight(f"{name}.weight", weight)]
        return self.node("SimplifiedLayerNormalization", inputs, [name], axis=-1, epsilon=NORM_EPSILON)

    def number(self, name: str, value: int) -> str:
        """A constant."""
        return self.weight(name, np.array([value], dtype=np.int64))


def _write_graph(folder: Path, weights: dict[str, np.ndarray[Any, Any]], shape: Shape) -> None:
    graph = _Graph()
    _lengths(graph)
    _angles(graph, shape)
    table = graph.weight("model.embed_tokens.weight", weights["model.embed_tokens.weight"])
    text = graph.node("Gather", [table, "input_ids"], ["embedded"])
    for layer in range(shape.layers):
        text = _block(graph, f"model.layers.{layer}", layer, text, weights, shape)
    text = graph.norm("model.norm", text, weights["model.norm.weight"])
    graph.linear("logits", text, weights["lm_head.weight"])
    made = helper.make_graph(graph.nodes, "tiny", _inputs(shape), _outputs(shape), graph.weights)
    sets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(made, opset_imports=sets, ir_version=IR)
    (folder / DATA).unlink(missing_ok=True)  # it would be added to
    onnx.save(model, folder / GRAPH, save_as_external_data=True, location=DATA)


def _lengths(graph: _Graph) -> None:
    """What attention is told: how many tokens there are, once for each text and once for all of them."""
    mask = "attention_mask"
    graph.node("ReduceSum", [mask, graph.number("side", 1)], ["lengths"], keepdims=1)
    graph.node("Sub", ["lengths", graph.number("one", 1)], ["last"])
    graph.node("Cast", ["last"], ["seqlens_k"], to=TensorProto.INT32)
    graph.node("Shape", [mask], ["sides"])
    graph.weight("second", np.array(1, dtype=np.int64))
    graph.node("Gather", ["sides", "second"], ["longest"], axis=0)
    graph.node("Cast", ["longest"], ["total_sequence_length"], to=TensorProto.INT32)


def _angles(graph: _Graph, shape: Shape) -> None:
    """The turns that positions make, as many as tests and measurements use."""
    half = shape.width // shape.heads // 2
    steps = ROPE_THETA ** (-np.arange(half) / half)
    angles = np.outer(np.arange(min(shape.context, CONTEXT)), steps)
    graph.weight("cos_cache", np.cos(angles).astype(np.float32))
    graph.weight("sin_cache", np.sin(angles).astype(np.float32))


def _block(
    graph: _Graph,
    name: str,
    layer: int,
    text: str,
    weights: dict[str, np.ndarray[Any, Any]],
    shape: Shape,
) -> str:
    def linear(part: str, of: str) -> str:
        return graph.linear(f"{name}.{part}", of, weights[f"{name}.{part}.weight"])

    def norm(part: str, of: str) -> str:
        return graph.norm(f"{name}.{part}", of, weights[f"{name}.{part}.weight"])

    normed = norm("input_layernorm", text)
    looks = [linear(f"self_attn.{part}_proj", normed) for part in "qkv"]
    past = [f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"]
    seen = graph.node(
        "GroupQueryAttention",
        [*looks, *past, "seqlens_k", "total_sequence_length", "cos_cache", "sin_cache"],
        [f"{name}.attention", f"present.{layer}.key", f"present.{layer}.value"],
        domain=MICROSOFT,
        num_heads=shape.heads,
        kv_num_heads=shape.kv_heads,
        do_rotary=1,
    )
    text = graph.node("Add", [text, linear("self_attn.o_proj", seen)], [f"{name}.read"])
    normed = norm("post_attention_layernorm", text)
    gate, up = linear("mlp.gate_proj", normed), linear("mlp.up_proj", normed)
    opened = graph.node("Mul", [gate, graph.node("Sigmoid", [gate], [f"{gate}.open"])], [f"{gate}.opened"])
    through = graph.node("Mul", [opened, up], [f"{name}.through"])
    return graph.node("Add", [text, linear("mlp.down_proj", through)], [f"{name}.thought"])


def _inputs(shape: Shape) -> list[onnx.ValueInfoProto]:
    numbers = TensorProto.INT64
    side: list[str | int | None] = ["batch", "seq"]
    return [
        helper.make_tensor_value_info("input_ids", numbers, side),
        helper.make_tensor_value_info("attention_mask", numbers, ["batch", "all"]),
        *_kept(shape, "past_key_values"),
    ]


def _outputs(shape: Shape) -> list[onnx.ValueInfoProto]:
    sides: list[str | int | None] = ["batch", "seq", len(vocabulary())]
    return [helper.make_tensor_value_info("logits", _FLOAT, sides), *_kept(shape, "present")]


def _kept(shape: Shape, name: str) -> list[onnx.ValueInfoProto]:
    """Keys and values of all layers."""
    sides: list[str | int | None] = ["batch", shape.kv_heads, name, shape.width // shape.heads]
    names = [f"{name}.{layer}.{part}" for layer in range(shape.layers) for part in ("key", "value")]
    return [helper.make_tensor_value_info(one, _FLOAT, sides) for one in names]

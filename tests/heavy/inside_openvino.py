"""What only the engine's own process can show of OpenVINO; test_openvino.py runs it.

ENV/bin/python tests/heavy/inside_openvino.py CASE MODELS
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.heavy.cases import NO_MEMORY, Cases
from workers import openvino_replies
from workers.adapter import Binding, LoadRequest, ProviderSpec
from workers.adapters.openvino_local import OpenVino
from workers.codes import Code
from workers.folder_model import read_folder
from workers.hf_library import torch, transformers
from workers.openvino_conversion import Conversion
from workers.openvino_library import OVModelForCausalLM
from workers.openvino_options import Used
from workers.openvino_replies import Stateful, runner_of
from workers.token_choice import LIKELIEST
from workers.token_job import Job

OPTIONS: Final = {"threads": 1, "context_length": 512, "device": "cpu"}
USED: Final = Used(512, 1, "CPU", None, None, prefix_cache=True, transcript=False)
EXACT: Final = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
"""As torch computes, for comparing; by itself the engine takes fewer bits where the processor has them."""
PROMPT: Final = [5 + (7 * i * i + 3 * i) % 250 for i in range(300)]
"""Longer than two steps."""
ONE_BY_ONE: Final = ("phi3", "gpt_bigcode")
"""Kinds whose input the library prepares in ways of their own."""


def _adapter(models: Path) -> OpenVino:
    quirks = {"converted_dir": str(models / "converted")}
    return OpenVino(ProviderSpec("openvino", "O", quirks=quirks), Binding(1, options=OPTIONS))


async def loaded(model: Path) -> OpenVino:
    adapter = _adapter(model.parent)
    await adapter.load(LoadRequest(preload_model=str(model)), lambda *news: None)
    return adapter


CASES: Final = Cases(loaded, (openvino_replies,))


def memory(models: Path) -> None:
    """The memory runs out in the middle of replies."""
    for error in (*NO_MEMORY, RuntimeError("[GPU] out of GPU resources: CL_OUT_OF_RESOURCES")):
        CASES.broken(models / "tiny", error, Code.OUT_OF_MEMORY)


def fault(models: Path) -> None:
    """Something else goes wrong in the middle of replies."""
    CASES.broken(models / "tiny", ValueError("no"), Code.UPSTREAM_ERROR)


def reuse(models: Path) -> None:
    """What is kept of one reply is what would be computed for the next, wherever the two part."""
    torch.manual_seed(0)
    runner = _stateful(models, "llama", _configs()["llama"])
    assert isinstance(runner, Stateful)
    for kept in (300, 290, 150, 40):  # all but the last one, near the end, in the middle, near the beginning
        prompt = [*PROMPT[:kept], *range(20, 60)]
        expected, computed = _said(runner, prompt)
        assert computed == len(prompt), "nothing was kept"
        _said(runner, PROMPT)
        again, computed = _said(runner, prompt)
        assert (again, computed) == (expected, 40), kept
        runner._kept = []
    _said(runner, PROMPT)
    assert _said(runner, PROMPT)[1] == 1, "the last token must be computed"
    assert _said(runner, PROMPT[:20])[1] == 20, "so little is not worth the cut"
    runner.stop()


def kinds(models: Path) -> None:
    """A converted model says what torch says, for models of many kinds. Gemma 2 and 3 are not among them: the
    converter wants transformers up to 5.0 for these, and says so."""
    for name, config in _configs().items():
        torch.manual_seed(0)
        runner = _stateful(models, name, config)
        made = transformers.AutoModelForCausalLM.from_pretrained(models / name, dtype=torch.float32).eval()
        prompt = torch.tensor([PROMPT[:40]])
        expected = made.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=-1,
        )
        assert _said(runner, PROMPT[:40])[0] == expected[0, 40:].tolist(), name
        assert isinstance(runner, Stateful) != (name in ONE_BY_ONE), name
        runner.stop()


def _stateful(models: Path, name: str, config: Any) -> Any:
    """A model of random weights, saved, converted, and ready to make replies."""
    model = transformers.AutoModelForCausalLM.from_config(config)
    for weights in model.parameters():
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=0.25)
    model.save_pretrained(models / name)
    (models / name / "tokenizer.json").write_text("{}", encoding="utf-8")
    found = read_folder(models / name)
    conversion = Conversion(models / name, found, None, trusted=False, into=models / "converted")
    conversion.make()
    converted = OVModelForCausalLM.from_pretrained(str(conversion.folder), ov_config=EXACT)
    converted.generation_config = transformers.GenerationConfig()
    return runner_of(converted, USED, [5, 6])


def _said(runner: Any, prompt: Sequence[int]) -> tuple[list[int], int]:
    """The likeliest tokens after that prompt, and of how many of its tokens they were computed."""
    return asyncio.run(_answer(runner, prompt))


async def _answer(runner: Any, prompt: Sequence[int]) -> tuple[list[int], int]:
    job = Job(prompt, limit=24, ends=frozenset(), choice=LIKELIEST)
    said = [token async for tokens in runner.answer(job, lambda: None) for token in tokens]
    return said, job.computed


def _configs() -> dict[str, Any]:
    small = {
        "vocab_size": 260,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
    }
    grouped = {**small, "num_key_value_heads": 2}
    old = {"vocab_size": 260, "n_embd": 64, "n_layer": 2, "n_head": 4}
    return {
        "llama": transformers.LlamaConfig(**grouped),
        "qwen2": transformers.Qwen2Config(**grouped),
        "qwen3": transformers.Qwen3Config(**grouped, head_dim=16),
        "mistral": transformers.MistralConfig(**grouped, sliding_window=None),
        "phi3": transformers.Phi3Config(**grouped),
        "mixtral": transformers.MixtralConfig(**grouped, num_local_experts=4),
        "gpt2": transformers.GPT2Config(**old, n_positions=512),
        "gpt_neox": transformers.GPTNeoXConfig(**small),
    }


if __name__ == "__main__":
    NAMED = {"memory": memory, "fault": fault, "reuse": reuse, "kinds": kinds}
    NAMED[sys.argv[1]](Path(sys.argv[2]))

"""What only the engine's own process can show of transformers; test_transformers.py runs it.

    ENV/bin/python tests/heavy/inside.py CASE MODELS

pytest is not in that environment, so a case is a function, and what does not hold is an AssertionError.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.heavy.cases import NO_MEMORY, Cases, request
from workers import torch_batch, torch_replies
from workers.adapter import Binding, LoadRequest, ProviderSpec
from workers.adapters.transformers_local import Transformers
from workers.codes import Code
from workers.hf_library import torch, transformers
from workers.token_choice import LIKELIEST, Choice, choice_of
from workers.token_job import Job
from workers.torch_choice import chosen
from workers.torch_options import Used

DRAWS: Final = 3_000
NEAR: Final = 0.04
"""How far the share of a token among so many draws may be from its chance: more than four deviations."""
NO_BATCH: Final = ("gpt_neox", "bloom")
USED: Final = Used(512, 2, 1, "cpu", "float32", None, None, prefix_cache=False, transcript=False)
OPTIONS: Final = {"threads": 1, "context_length": 512, "device": "cpu"}


async def loaded(model: Path) -> Transformers:
    adapter = Transformers(ProviderSpec("transformers", "T"), Binding(1, options=OPTIONS))
    await adapter.load(LoadRequest(preload_model=str(model)), lambda *news: None)
    return adapter


CASES: Final = Cases(loaded, (torch_batch,))


def memory(models: Path) -> None:
    """The memory runs out in the middle of replies."""
    for error in NO_MEMORY:
        CASES.broken(models / "mamba", error, Code.OUT_OF_MEMORY)
        if str(error):  # the batch says nothing but the text of what it met
            CASES.broken(models / "tiny", error, Code.OUT_OF_MEMORY)


def fault(models: Path) -> None:
    """Something else goes wrong in the middle of replies."""
    for model in ("tiny", "mamba"):
        CASES.broken(models / model, ValueError("no"), Code.UPSTREAM_ERROR)


def cycles(models: Path) -> None:
    """Loads and unloads leave nothing."""
    CASES.cycles(models / "tiny")


def kinds(models: Path) -> None:
    """The batch says the same as `generate`, for models of many kinds; what it cannot hold is not in it."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for name, config in _configs().items():
        model = transformers.AutoModelForCausalLM.from_config(config)
        for weights in model.parameters():
            if weights.dim() > 1:
                torch.nn.init.normal_(weights, std=0.25)
        model = model.eval()
        model.generation_config = transformers.GenerationConfig()
        runner = torch_batch.runner_of(model, USED, [5, 6])
        said = asyncio.run(_tokens(runner))
        runner.stop()
        alone = torch_replies.OneByOne(model)
        assert said == asyncio.run(_tokens(alone)), name
        alone.stop()
        assert runner.places == (1 if name in NO_BATCH else USED.slots), name


async def _tokens(runner: Any) -> list[int]:
    prompt = [5 + (7 * i * i + 3 * i) % 250 for i in range(40)]
    job = Job(prompt, limit=24, ends=frozenset(), choice=LIKELIEST)
    return [token async for tokens in runner.answer(job, lambda: None) for token in tokens]


def _configs() -> dict[str, Any]:
    small = {
        "vocab_size": 260,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    }
    grouped = {**small, "num_key_value_heads": 2}
    sliding = {**grouped, "head_dim": 16, "sliding_window": 8}
    old = {"vocab_size": 260, "n_embd": 64, "n_layer": 2, "n_head": 4}
    return {
        "llama": transformers.LlamaConfig(**grouped),
        "qwen3": transformers.Qwen3Config(**grouped, head_dim=16),
        "mistral": transformers.MistralConfig(**grouped, sliding_window=8),
        "gemma2": transformers.Gemma2Config(**sliding),
        "gemma3": transformers.Gemma3TextConfig(**sliding),
        "mixtral": transformers.MixtralConfig(**grouped, num_local_experts=4),
        "gpt2": transformers.GPT2Config(**old, n_positions=512),
        "gpt_neox": transformers.GPTNeoXConfig(**small),
        "bloom": transformers.BloomConfig(vocab_size=260, hidden_size=64, n_layer=2, n_head=4),
    }


def choices(models: Path) -> None:
    """What may be chosen is what the library's own warpers leave, and how often is as the chances are."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    scores = torch.randn(3000) * 3
    for sampling, warper in (
        ({"top_k": 7}, transformers.TopKLogitsWarper(7)),
        ({"top_p": 0.6}, transformers.TopPLogitsWarper(0.6)),
        ({"top_p": 0.9999}, transformers.TopPLogitsWarper(0.9999)),
        ({"min_p": 0.05}, transformers.MinPLogitsWarper(0.05)),
    ):
        expected = warper(None, scores[None])[0].softmax(-1)
        found = _drawn(scores, choice_of(request(sampling={"seed": 1, **sampling})))
        assert not (found[expected == 0]).any(), sampling
        assert (found - expected).abs().max() < NEAR, sampling
    assert (_drawn(scores, choice_of(request())) - scores.softmax(-1)).abs().max() < NEAR
    flat = torch.zeros(2000)
    assert (_drawn(flat, choice_of(request(sampling={"seed": 1, "min_p": 0.5}))) > 0).sum() > 1400
    _check_penalties(scores)


def _drawn(scores: Any, choice: Choice) -> Any:
    """How often each token is drawn."""
    tokens = [int(chosen(scores, choice, (), ())) for _ in range(DRAWS)]
    return torch.bincount(torch.tensor(tokens), minlength=scores.numel()) / DRAWS


def _check_penalties(scores: Any) -> None:
    best = int(scores.argmax())
    worse = {"temperature": 0.0, "sampling": {"repetition_penalty": 1.5}}
    ours = int(chosen(scores, choice_of(request(**worse)), [best], ()))
    processor = transformers.RepetitionPenaltyLogitsProcessor(1.5)
    assert ours == int(processor(torch.tensor([[best]]), scores[None].clone())[0].argmax())
    for name in ("presence_penalty", "frequency_penalty"):
        choice = choice_of(request(temperature=0.0, sampling={name: 100.0}))
        assert int(chosen(scores, choice, [best], ())) == best, "only what was said counts"
        assert int(chosen(scores, choice, (), [best, best])) != best


if __name__ == "__main__":
    NAMED = {"memory": memory, "fault": fault, "cycles": cycles, "kinds": kinds, "choices": choices}
    NAMED[sys.argv[1]](Path(sys.argv[2]))

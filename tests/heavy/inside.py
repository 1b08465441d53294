"""What only the engine's own process can show of transformers; test_transformers.py runs it.

    ENV/bin/python tests/heavy/inside.py CASE MODELS

pytest is not in that environment, so a case is a function, and what does not hold is an AssertionError.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import psutil

from workers import torch_batch, torch_replies
from workers.adapter import (
    AdapterError,
    Binding,
    Event,
    Finish,
    LoadRequest,
    Message,
    ProviderSpec,
    Request,
    Text,
)
from workers.adapters import transformers_local
from workers.adapters.transformers_local import Transformers
from workers.codes import Code
from workers.hf_library import torch, transformers
from workers.token_choice import LIKELIEST, Choice, choice_of
from workers.token_job import Job
from workers.torch_choice import chosen
from workers.torch_options import Used

CYCLES: Final = 40
WARM_CYCLES: Final = 10
"""Until then the allocator is still taking what it will keep."""
GROWTH_MAX_BYTES: Final = 24 << 20
"""Less than the contexts of two models would leave behind."""
DRAWS: Final = 3_000
NEAR: Final = 0.04
"""How far the share of a token among so many draws may be from its chance: more than four deviations."""
NO_BATCH: Final = ("gpt_neox", "bloom")
USED: Final = Used(512, 2, 1, "cpu", "float32", None, None, prefix_cache=False, transcript=False)
OPTIONS: Final = {"threads": 1, "context_length": 512, "device": "cpu"}


def request(**fields: Any) -> Request:
    values: dict[str, Any] = {
        "id": 1,
        "messages": (Message("user", "Hello"),),
        "model": "",
        "stream": True,
        "timeout_s": 60.0,
        "max_output_length": 40,
        "sampling": {"seed": 3},
    }
    return Request(**{**values, **fields})


async def loaded(model: Path) -> Transformers:
    adapter = Transformers(ProviderSpec("transformers", "T"), Binding(1, options=OPTIONS))
    await adapter.load(LoadRequest(preload_model=str(model)), lambda *news: None)
    return adapter


async def said(adapter: Transformers, **fields: Any) -> list[Event]:
    return [event async for event in adapter.generate(request(**fields))]


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


class Fault:
    """Lets some tokens be chosen, then raises."""

    def __init__(self, error: Exception, after: int) -> None:
        self._error = error
        self._left = after

    def __call__(self, *arguments: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise self._error
        return chosen(*arguments)


def _choose_with(function: Callable[..., Any]) -> None:
    """In place of what chooses, in the batch and one by one."""
    for room in (torch_batch, torch_replies):
        setattr(room, "chosen", function)  # noqa: B010  # in place of a function


async def broken(model: Path, error: Exception, code: Code) -> None:
    """All open replies end with that code, and the next one is as if nothing had been."""
    adapter = await loaded(model)
    before = text_of(await said(adapter))
    engine = transformers_local._RESIDENT._held[0].model
    _choose_with(Fault(error, after=20))
    replies = await asyncio.gather(*(said(adapter, id=i) for i in range(2)), return_exceptions=True)
    _choose_with(chosen)
    codes = [reply.code for reply in replies if isinstance(reply, AdapterError)]
    assert code in codes, replies
    assert len(codes) == 2 or engine.places == 1, replies
    assert text_of(await said(adapter)) == before
    assert transformers_local._RESIDENT._held[0].model is not engine, "it was loaded anew"
    await adapter.close()
    assert not transformers_local._RESIDENT.busy


def memory(models: Path) -> None:
    """The memory runs out in the middle of replies."""
    for error in (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        MemoryError(),
    ):
        asyncio.run(broken(models / "mamba", error, Code.OUT_OF_MEMORY))
        if str(error):  # the batch says nothing but the text of what it met
            asyncio.run(broken(models / "tiny", error, Code.OUT_OF_MEMORY))


def fault(models: Path) -> None:
    """Something else goes wrong in the middle of replies."""
    for model in ("tiny", "mamba"):
        asyncio.run(broken(models / model, ValueError("no"), Code.UPSTREAM_ERROR))


def cycles(models: Path) -> None:
    """Loads and unloads leave nothing."""
    sizes = []
    for _ in range(CYCLES):

        async def one() -> None:
            adapter = await loaded(models / "tiny")
            events = await said(adapter, max_output_length=2)
            assert isinstance(events[-1], Finish)
            await adapter.close()

        asyncio.run(one())
        gc.collect()
        sizes.append(psutil.Process().memory_info().rss)
        assert threading.active_count() == 1, threading.enumerate()
    growth = sizes[-1] - sizes[WARM_CYCLES]
    sys.stdout.write(f"{[size >> 20 for size in sizes]} MiB\n")
    assert growth < GROWTH_MAX_BYTES, growth


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
    CASES = {"memory": memory, "fault": fault, "cycles": cycles, "kinds": kinds, "choices": choices}
    CASES[sys.argv[1]](Path(sys.argv[2]))

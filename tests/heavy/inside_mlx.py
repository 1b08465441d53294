"""What only the engine's own process can show of MLX; test_mlx.py runs it.

    ENV/bin/python tests/heavy/inside_mlx.py CASE MODELS

pytest is not in that environment, so a case is a function, and what does not hold is an AssertionError.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from mlx import nn
from mlx.utils import tree_flatten
from mlx_lm import sample_utils

from workers import mlx_replies
from workers.adapter import AdapterError, Binding, Event, LoadRequest, Message, ProviderSpec, Request, Text
from workers.adapters import mlx_local
from workers.adapters.mlx_local import Mlx
from workers.codes import Code
from workers.mlx_choice import penalties, sampler
from workers.mlx_library import load_weights, mx
from workers.mlx_replies import Replies
from workers.token_choice import LIKELIEST, Choice, choice_of
from workers.token_job import Job

DRAWS: Final = 3_000
NEAR: Final = 0.04
"""How far the share of a token among so many draws may be from its chance: more than four deviations."""
VOCABULARY: Final = 260
PROMPT: Final = [5 + (7 * i * i + 3 * i) % 250 for i in range(300)]
"""Longer than the pieces in which a prompt is computed."""


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


async def loaded(model: Path) -> Mlx:
    adapter = Mlx(ProviderSpec("mlx", "M"), Binding(1, options={"context_length": 512}))
    await adapter.load(LoadRequest(preload_model=str(model)), lambda *news: None)
    return adapter


async def said(adapter: Mlx, **fields: Any) -> list[Event]:
    return [event async for event in adapter.generate(request(**fields))]


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def faulty(error: Exception, after: int) -> Callable[[Choice], Callable[[Any], Any]]:
    """In the place of `sampler`: lets some tokens be chosen, then raises."""
    left = [after]

    def made(choice: Choice) -> Callable[[Any], Any]:
        chosen = sampler(choice)

        def choose(scores: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise error
            return chosen(scores)

        return choose

    return made


async def broken(model: Path, error: Exception, code: Code) -> None:
    """All open replies end with that code, and the next one is as if nothing had been."""
    adapter = await loaded(model)
    before = text_of(await said(adapter))
    engine = mlx_local._RESIDENT._held[0].model
    setattr(mlx_replies, "sampler", faulty(error, after=20))  # noqa: B010  # in place of a function
    both = (said(adapter, id=1), said(adapter, id=2, sampling={}))
    replies = await asyncio.gather(*both, return_exceptions=True)
    setattr(mlx_replies, "sampler", sampler)  # noqa: B010
    assert [getattr(reply, "code", None) for reply in replies] == [code, code], replies
    assert text_of(await said(adapter)) == before
    assert mlx_local._RESIDENT._held[0].model is not engine, "it was loaded anew"
    await adapter.close()
    assert not mlx_local._RESIDENT.busy


def memory(models: Path) -> None:
    """The memory runs out in the middle of replies, or of a load."""
    for error in (
        RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory (00000008)"),
        RuntimeError("[malloc] Unable to allocate 8 bytes."),
        MemoryError(),
    ):
        for model in ("tiny", "mamba"):
            asyncio.run(broken(models / model, error, Code.OUT_OF_MEMORY))
    asyncio.run(_no_room(models / "tiny"))


async def _no_room(model: Path) -> None:
    def no_room(*arguments: Any) -> Any:
        raise RuntimeError("[malloc] Unable to allocate 8 bytes.")

    before = mlx_local.load_model  # type: ignore[attr-defined]  # put back below
    setattr(mlx_local, "load_model", no_room)  # noqa: B010
    try:
        await loaded(model)
    except AdapterError as exc:
        assert exc.code is Code.OUT_OF_MEMORY, exc
        assert "try options.prefix_cache of false" in str(exc), exc
    else:
        raise AssertionError("it was loaded")
    finally:
        setattr(mlx_local, "load_model", before)  # noqa: B010


def fault(models: Path) -> None:
    """Something else goes wrong in the middle of replies, also what nobody foresaw."""
    for model in ("tiny", "mamba"):
        asyncio.run(broken(models / model, ValueError("no"), Code.UPSTREAM_ERROR))
        asyncio.run(broken(models / model, BufferError("no"), Code.UPSTREAM_ERROR))


UNCUT: Final = ("gemma3_text", "mamba")
"""What computes with what it cannot take back, windows and states: nothing need be kept for a next turn."""


def kinds(models: Path) -> None:
    """Together, after a neighbour, from what is kept and by itself: the likeliest words are the same."""
    for name, config in _configs().items():
        mx.random.seed(7)
        runner = Replies(places=3, kept_bytes=1 << 30)
        runner.start(lambda config=config: _model(config), [5, 6])  # type: ignore[misc]  # a default, for a loop
        asyncio.run(_compared(runner, name))
        runner.stop()


async def _compared(runner: Replies, name: str) -> None:
    alone = dataclasses.replace(LIKELIEST, seeded=True)
    expected, _ = await _tokens(runner, PROMPT, alone)
    others = [_tokens(runner, PROMPT[:n], LIKELIEST) for n in (20, 150)]
    (together, computed), *_ = await asyncio.gather(_tokens(runner, PROMPT, LIKELIEST), *others)
    assert together == expected, name
    longer = PROMPT + expected
    kept, computed = await _tokens(runner, longer, LIKELIEST)
    assert computed < len(longer) or name in UNCUT, f"{name}: nothing was kept"
    assert kept == (await _tokens(runner, longer, alone))[0], name


async def _tokens(runner: Replies, prompt: list[int], choice: Choice) -> tuple[list[int], int]:
    job = Job(prompt, limit=24, ends=frozenset(), choice=choice)
    tokens = [token async for tokens in runner.answer(job, lambda: None) for token in tokens]
    return tokens, job.computed


def _model(config: dict[str, Any]) -> Any:
    """A model of noise."""
    room = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    model = room.Model(room.ModelArgs.from_dict(config))
    weights = [
        (name, mx.random.normal(array.shape) * 0.25)
        for name, array in tree_flatten(model.parameters())
        if array.ndim > 1
    ]
    model.load_weights(weights, strict=False)
    mx.eval(model.parameters())
    return model.eval()


def _configs() -> dict[str, dict[str, Any]]:
    small: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "head_dim": 16,
        "tie_word_embeddings": False,
    }
    mamba = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "state_size": 8,
        "time_step_rank": 2,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "num_hidden_layers": 2,
        "vocab_size": VOCABULARY,
    }
    kinds = {"llama": small, "qwen2": small, "qwen3": small, "gemma": small, "gemma2": small}
    kinds["gemma3_text"] = {**small, "sliding_window": 32, "sliding_window_pattern": 2}
    kinds["mamba"] = mamba
    return {name: {"model_type": name, **config} for name, config in kinds.items()}


def choices(models: Path) -> None:
    """What may be chosen is what the library's own samplers leave, and how often is as the chances are."""
    mx.random.seed(0)
    scores = mx.random.normal((1, 3000)) * 3
    scores = scores - mx.logsumexp(scores, axis=-1, keepdims=True)
    for sampling, expected in (
        ({"top_k": 7}, sample_utils.apply_top_k(scores, 7)),
        ({"top_p": 0.6}, sample_utils.apply_top_p(scores, 0.6)),
        ({"min_p": 0.05}, sample_utils.apply_min_p(scores, 0.05)),
    ):
        chances = mx.softmax(expected[0])
        found = _drawn(scores, choice_of(request(sampling={"seed": 1, **sampling})))
        assert not mx.where(chances == 0, found, 0.0).any(), sampling
        assert mx.abs(found - chances).max() < NEAR, sampling
    assert mx.abs(_drawn(scores, choice_of(request())) - mx.softmax(scores[0])).max() < NEAR
    flat = mx.zeros((1, 2000))
    assert (_drawn(flat, choice_of(request(sampling={"seed": 1, "min_p": 0.5}))) > 0).sum() > 1400
    for sampling in ({"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}, {"top_k": 9, "top_p": 0.0}):
        choice = choice_of(request(sampling={"seed": 1, **sampling}))
        assert sampler(choice)(scores).item() == scores.argmax().item(), sampling
    _check_penalties(scores)


def _drawn(scores: Any, choice: Choice) -> Any:
    """How often each token is drawn."""
    choose = sampler(choice)
    tokens = mx.concatenate([choose(scores) for _ in range(DRAWS)])
    return mx.zeros((scores.shape[1],)).at[tokens].add(1.0) / DRAWS


def _check_penalties(scores: Any) -> None:
    best = scores.argmax().item()
    again = mx.array([best, best, best])

    def first(**sampling: float) -> Any:
        choice = choice_of(request(temperature=0.0, sampling=sampling))
        (penalised,) = penalties(choice, 1)
        return penalised(again, scores)

    ours = first(repetition_penalty=1.5)
    theirs = sample_utils.make_repetition_penalty(1.5)(again, mx.array(scores))
    assert mx.allclose(ours, theirs)
    assert abs(first(presence_penalty=2.0)[0, best] - scores[0, best] + 2.0) < NEAR
    assert abs(first(frequency_penalty=2.0)[0, best] - scores[0, best] + 4.0) < NEAR, "it was said twice"
    told = penalties(choice_of(request(sampling={"presence_penalty": 2.0})), 3, [best, best])[0]
    assert mx.allclose(told(mx.array([best]), scores), scores), "only what was said counts"
    assert penalties(LIKELIEST, 1) == []


def quiet(models: Path) -> None:
    """It asks no network and no compiler, leaves no file, and takes up what it kept after an interrupt."""
    os.environ["PATH"] = tempfile.mkdtemp()
    place = Path(tempfile.gettempdir(), "mlx")
    before = sorted(place.rglob("*"))
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    asyncio.run(_interrupted(models / "tiny"))
    assert sorted(place.rglob("*")) == before


async def _interrupted(model: Path) -> None:
    adapter = await loaded(model)
    long = request(sampling={}, messages=(Message("user", "x" * 300),), extra={"ignore_eos": True})
    reply = adapter.generate(long)
    async for event in reply:
        if isinstance(event, Text):
            break
    await reply.aclose()  # type: ignore[attr-defined]  # a generator
    events = await said(adapter, sampling={}, messages=(Message("user", "x" * 300),))
    usage = getattr(events[-1], "usage", None)
    assert usage is not None
    assert usage.cached_input_tokens == usage.input_tokens - 1, usage
    await adapter.close()


def quantise(model: Path, target: Path) -> None:
    """Writes a model as the repositories of mlx-community have them."""
    shutil.copytree(model, target)
    made, config = load_weights(target)
    nn.quantize(made, group_size=32, bits=4)
    weights = dict(tree_flatten(made.parameters()))
    mx.save_safetensors(str(target / "model.safetensors"), weights, metadata={"format": "mlx"})
    config["quantization"] = {"group_size": 32, "bits": 4}
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")


if __name__ == "__main__":
    CASES: dict[str, Callable[..., None]] = {
        "memory": memory,
        "fault": fault,
        "kinds": kinds,
        "choices": choices,
        "quiet": quiet,
        "quantise": quantise,
    }
    CASES[sys.argv[1]](*map(Path, sys.argv[2:]))

"""transformers called directly, in a process of its own: the other side of benchmarks/engines.py.

    ENV/bin/python benchmarks/transformers_directly.py MODEL batch|generate|openvino SLOTS THREADS CONTEXT

It runs in the engine's own environment and imports nothing of the module's: what anybody would write who uses
the library. `batch` is its continuous batch, with the settings that the adapter gives it; `generate` is its
usual method; `openvino` is the same of a model that optimum-intel has converted. Each line of stdin is
an order, answered with the times of the reply's tokens, in seconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Final

os.environ.update({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})

import torch
import transformers
from transformers.generation.configuration_utils import ContinuousBatchingConfig

PAGE: Final = 32
STEP: Final = 128
"""As the adapter's."""

Say = Callable[[str, int], list[float]]


def loaded(path: str, threads: int) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    torch.set_num_threads(threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return model, tokenizer


def tokens_of(tokenizer: Any, text: str) -> list[int]:
    """The prompt of one message."""
    messages = [{"role": "user", "content": text}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(tokenizer.encode(prompt, add_special_tokens=False))


def in_batch(path: str, slots: int, threads: int, context: int) -> Say:
    """The continuous batch, with the library's own way of choosing."""
    model, tokenizer = loaded(path, threads)
    config = ContinuousBatchingConfig(
        page_size=PAGE,
        num_blocks=(-(-context // PAGE) + 1) * slots,
        max_batch_tokens=STEP,
        max_requests_per_batch=slots,
        safety_margin=0.0,
        use_cuda_graph=False,
        use_async_batching=False,
        auto_switch_to_flash=False,
    )
    plan = transformers.GenerationConfig(do_sample=True, eos_token_id=-1)
    manager = model.init_continuous_batching(plan, config)
    with torch.inference_mode():
        manager.start()
    loop = asyncio.new_event_loop()

    async def say(text: str, tokens: int) -> list[float]:
        at: list[float] = []
        over = asyncio.Event()

        def take(output: Any) -> None:
            tokenizer.decode(output.generated_tokens[-1:])
            at.append(time.perf_counter())
            if output.is_finished():
                over.set()

        started = time.perf_counter()
        name = f"reply-{started}"
        manager.register_result_handler(name, take)
        manager.add_request(tokens_of(tokenizer, text), name, tokens, streaming=True, eos_token_id=-1)
        await over.wait()
        return [moment - started for moment in at]

    return lambda text, tokens: loop.run_until_complete(say(text, tokens))


class _Clock(transformers.generation.streamers.BaseStreamer):  # type: ignore[misc]  # the library has no types
    """Notes when each token came; the first thing that comes is the prompt."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.at: list[float] = []

    def put(self, value: Any) -> None:
        """One token."""
        self._tokenizer.decode(value.flatten()[-1:].tolist())
        self.at.append(time.perf_counter())

    def end(self) -> None:
        """All have come."""


def by_generate(path: str, slots: int, threads: int, context: int) -> Say:
    """The library's usual method."""
    return generating(*loaded(path, threads))


def in_openvino(path: str, slots: int, threads: int, context: int) -> Say:
    """The same method of a converted model."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # nobody is told that it is measured
    from optimum.intel import OVModelForCausalLM  # only its own environment has it

    torch.set_num_threads(threads)
    settings = {"INFERENCE_NUM_THREADS": str(threads)}
    model = OVModelForCausalLM.from_pretrained(path, export=True, load_in_8bit=False, ov_config=settings)
    return generating(model, transformers.AutoTokenizer.from_pretrained(path))


def generating(model: Any, tokenizer: Any) -> Say:
    """What times that method."""

    def say(text: str, tokens: int) -> list[float]:
        clock = _Clock(tokenizer)
        started = time.perf_counter()
        prompt = torch.tensor([tokens_of(tokenizer, text)])
        more = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": True, "pad_token_id": 0}
        model.generate(prompt, attention_mask=torch.ones_like(prompt), streamer=clock, **more)
        return [moment - started for moment in clock.at[1:]]

    return say


def main() -> None:
    """Serves orders until stdin ends."""
    path, kind, *numbers = sys.argv[1:]
    say = {"batch": in_batch, "generate": by_generate, "openvino": in_openvino}[kind](
        path, *map(int, numbers)
    )
    say("Hi", 2)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        order = json.loads(line)
        sys.stdout.write(json.dumps(say(order["text"], order["tokens"])) + "\n")
        sys.stdout.flush()
    os._exit(0)  # the batch's thread would keep the process


if __name__ == "__main__":
    main()

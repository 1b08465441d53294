"""MLX, its models, and transformers' tokenizers, told to keep to this machine and to be quiet before they are
read.

All rooms that use them take them from here, since they read what they are told in the environment once. They
have no types here: only the engine's own environment holds them. The import of mlx_lm bounds the process's
open files at 2048, which is more than a worker needs.
"""

from __future__ import annotations

import os
from typing import Any, Final

__all__ = [
    "BatchGenerator",
    "StopSequences",
    "can_trim_prompt_cache",
    "clear",
    "generate_step",
    "generation_stream",
    "has_gpu",
    "load_weights",
    "make_prompt_cache",
    "mx",
    "transformers",
    "trim_prompt_cache",
]

os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MLXLM_USE_MODELSCOPE": "False",  # another hub, which it would ask instead
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",  # while it is imported it says that there is no torch
    }
)
# Nothing in them asks a network: workers.hub_download does, where the operator allows it.

import mlx.core as _mx
import mlx_lm.models.cache as _cache
import transformers as _transformers
from mlx_lm.generate import BatchGenerator as _BatchGenerator
from mlx_lm.generate import StopSequences as _StopSequences
from mlx_lm.generate import generate_step as _generate_step
from mlx_lm.generate import generation_stream as _generation_stream
from mlx_lm.utils import load_model as _load_model

from workers.machine import give_back_memory

mx: Final[Any] = _mx
transformers: Final[Any] = _transformers
BatchGenerator: Final[Any] = _BatchGenerator
StopSequences: Final[Any] = _StopSequences
generate_step: Final[Any] = _generate_step
generation_stream: Final[Any] = _generation_stream
can_trim_prompt_cache: Final[Any] = _cache.can_trim_prompt_cache
make_prompt_cache: Final[Any] = _cache.make_prompt_cache
trim_prompt_cache: Final[Any] = _cache.trim_prompt_cache
load_weights: Final[Any] = _load_model

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def has_gpu() -> bool:
    """Whether it computes with a GPU: Apple's, by Metal."""
    return bool(mx.default_device() != mx.cpu)


def clear() -> None:
    """What nobody holds any more goes back to the system."""
    mx.clear_cache()
    give_back_memory()


if not has_gpu():
    mx.disable_compile()  # on a processor it would look for a C++ compiler, and leave what that makes in /tmp

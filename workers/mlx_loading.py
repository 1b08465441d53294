"""Loads a model into MLX: looks at its files and at the machine before.

What is to be loaded how: workers.mlx_options. Only safetensors are read, and a folder's own code is never
run.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from workers.adapter import AdapterError, ReportProgress
from workers.codes import Code
from workers.folder_model import FolderModel, read_json
from workers.mlx_library import has_gpu, load_weights, mx, transformers
from workers.mlx_options import Given, Used, check_memory, contexts_bytes, fill
from workers.token_adapter import looked_at
from workers.warm_files import read_once

__all__ = ["Plan", "Wanted", "load_model", "load_tokenizer", "plan_of"]

_GPU_SHARE: Final = "max_recommended_working_set_size"
"""What the GPU may take of the memory, among what MLX says of it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model, and how it is to be loaded."""

    name: str
    path: Path
    options: Given


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model will be loaded, after a look at its files and at the machine."""

    found: FolderModel
    used: Used
    wide: bool
    """It computes with 32-bit numbers."""
    free_bytes: int

    @property
    def kept_bytes(self) -> int:
        """What may be kept of conversations."""
        return contexts_bytes(self.used, self.found, wide=self.wide) if self.used.prefix_cache else 0


def plan_of(wanted: Wanted) -> Plan:
    """The plan, if it can work out. Blocks.

    Raises:
        AdapterError: INVALID_MODEL, UNSUPPORTED or OUT_OF_MEMORY.
    """
    found = looked_at(wanted.name, wanted.path)
    config = read_json(wanted.path / "config.json")
    if config.get("model_file") is not None:
        raise AdapterError(
            Code.UNSUPPORTED,
            f"{wanted.name!r} brings code of its own (model_file), which is never run: take another model.",
        )
    wide = "float32" in (config.get("dtype"), config.get("torch_dtype")) and "quantization" not in config
    plan = Plan(found, fill(wanted.options, found), wide, _free_bytes())
    check_memory(wanted.name, plan.used, found, wide=wide, free_bytes=plan.free_bytes)
    return plan


def load_tokenizer(wanted: Wanted) -> Any:
    """The folder's tokenizer. Blocks.

    Raises:
        one of engine_faults.RAISED.
    """
    return transformers.AutoTokenizer.from_pretrained(
        wanted.path, local_files_only=True, trust_remote_code=False
    )


def load_model(wanted: Wanted, plan: Plan, report: ReportProgress, given_up: threading.Event) -> Any:
    """The model, ready to compute, for the thread that calls this. Blocks.

    Raises:
        AdapterError: INTERRUPT when it was given up.
        one of engine_faults.RAISED.
    """
    files = plan.found.files
    if sum(files.values()) < plan.free_bytes // 2:  # a larger one would push itself out again
        read_once(wanted.name, files, report, given_up)
    report("model", f"loading {wanted.name} on {'the GPU' if has_gpu() else 'the processor'}", None)
    model, _ = load_weights(wanted.path, trust_remote_code=False)
    return model


def _free_bytes() -> int:
    free = int(psutil.virtual_memory().available)
    share = int(mx.device_info().get(_GPU_SHARE, free))
    return min(free, share)

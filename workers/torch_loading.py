"""Loads a model into torch: looks at its files and at the machine before, and gives the memory back after.

What is to be loaded how: workers.torch_options. Only safetensors are read, and a folder's own code is run
only where the operator says so.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from workers.adapter import AdapterError, ReportProgress
from workers.codes import Code
from workers.folder_model import FolderModel
from workers.hf_library import torch, transformers
from workers.machine import give_back_memory
from workers.token_adapter import looked_at
from workers.torch_options import CPU, Given, Machine, Used, check_memory, fill
from workers.warm_files import read_once

__all__ = ["Plan", "Wanted", "clear", "load_model", "load_tokenizer", "plan_of"]

_WITH: Final = f", with transformers {transformers.__version__}"
"""Whoever wonders what a model does here is asked that first."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model, and how it is to be loaded."""

    name: str
    path: Path
    options: Given
    trusted: bool
    """Its own code may be run."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model will be loaded, after a look at its files and at the machine."""

    found: FolderModel
    machine: Machine
    used: Used


def plan_of(wanted: Wanted) -> Plan:
    """The plan, if it can work out. Blocks.

    Raises:
        AdapterError: INVALID_MODEL, UNSUPPORTED or OUT_OF_MEMORY.
    """
    found, machine = looked_at(wanted.name, wanted.path), _machine(wanted.options)
    used = fill(wanted.options, found, machine)
    check_memory(wanted.name, used, found, machine)
    return Plan(found, machine, used)


def load_tokenizer(path: Path, *, trusted: bool) -> Any:
    """The folder's tokenizer, with its chat template; `trusted`: its own code may be run. Blocks.

    Raises:
        one of torch_faults.ERRORS.
    """
    return transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=trusted)


def load_model(wanted: Wanted, plan: Plan, report: ReportProgress, given_up: threading.Event) -> Any:
    """The model, ready to compute. Blocks.

    Raises:
        AdapterError: INTERRUPT when it was given up.
        one of torch_faults.ERRORS.
    """
    used, files = plan.used, plan.found.files
    if sum(files.values()) < plan.machine.free_bytes // 2:  # a larger one would push itself out again
        read_once(wanted.name, files, report, given_up)
    report(
        "model", f"loading {wanted.name} on {used.device} as {used.quantization or used.dtype}{_WITH}", None
    )
    torch.set_num_threads(used.threads)
    return _model(wanted, used)


def clear() -> None:
    """What nobody holds any more goes back to the system, and to the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    give_back_memory()


def _machine(given: Given) -> Machine:
    """What there is to compute with.

    Raises:
        AdapterError: UNSUPPORTED, the client names what is not there.
    """
    there = {CPU: True, "mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available()}
    device = given.device or next(name for name in ("cuda", "mps", CPU) if there[name])
    kind, _, number = device.partition(":")
    if not there.get(kind) or int(number or 0) >= max(torch.cuda.device_count(), 1):
        shown = ", ".join(name for name, is_there in there.items() if is_there)
        raise AdapterError(
            Code.UNSUPPORTED,
            f"torch {torch.__version__} finds no {device} here: leave out options.device (there is {shown}), "
            "or install another variant (python install.py --list shows them).",
        )
    quantizes = all(importlib.util.find_spec(name) for name in ("bitsandbytes", "accelerate"))
    if given.quantization and not quantizes:
        raise AdapterError(
            Code.UNSUPPORTED,
            "options.quantization needs the packages bitsandbytes and accelerate, which this environment has "
            "not: leave it out, take options.dtype of 'bfloat16', or the provider huggingface-local.",
        )
    return Machine(device, _dtype(kind), _free_bytes(device), os.cpu_count() or 1, quantizes)


def _dtype(kind: str) -> str:
    """What a device computes fast and well with; most processors are slow with anything but 32 bits."""
    if kind == "cuda" and not torch.cuda.is_bf16_supported():
        return "float16"
    return "float32" if kind == CPU else "bfloat16"


def _free_bytes(device: str) -> int:
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _model(wanted: Wanted, used: Used) -> Any:
    more: dict[str, Any] = {}
    if used.quantization:
        kinds = {"load_in_4bit": used.quantization == "4bit", "load_in_8bit": used.quantization == "8bit"}
        dtype = getattr(torch, used.dtype)
        more["quantization_config"] = transformers.BitsAndBytesConfig(**kinds, bnb_4bit_compute_dtype=dtype)
        more["device_map"] = {"": used.device}
    model, said = transformers.AutoModelForCausalLM.from_pretrained(
        wanted.path,
        dtype=getattr(torch, used.dtype),
        use_safetensors=True,
        trust_remote_code=wanted.trusted,
        local_files_only=True,
        output_loading_info=True,
        **more,
    )
    if missing := said["missing_keys"]:  # the library fills them with noise
        raise ValueError(f"{len(missing)} of its weights are missing, among them {min(missing)}")
    model = model.eval().requires_grad_(False)
    model.generation_config = transformers.GenerationConfig()
    return model if used.quantization else model.to(used.device)

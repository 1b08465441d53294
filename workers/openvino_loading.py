"""Loads a model into OpenVINO: looks at its files and at the machine before, and has a folder of safetensors
converted.

What is to be loaded how: workers.openvino_options. What was exported already is loaded as it is.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil

from workers.adapter import AdapterError, ReportProgress
from workers.codes import Code
from workers.folder_model import FolderModel
from workers.hf_library import torch, transformers
from workers.model_folders import is_exported
from workers.openvino_conversion import EXPORTED, WEIGHTS, Conversion
from workers.openvino_library import OVModelForCausalLM, openvino
from workers.openvino_options import CPU, GPU, Given, Machine, Used, check_memory, device_of, fill
from workers.token_adapter import looked_at
from workers.warm_files import read_once

__all__ = ["Plan", "Wanted", "load_model", "plan_of"]

_WITH: Final = f", with transformers {transformers.__version__} and OpenVINO {version('openvino')}"
"""Whoever wonders what a model does here is asked that first."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model, and how it is to be loaded."""

    name: str
    path: Path
    options: Given
    trusted: bool
    """Its own code may be run."""
    converted_dir: Path
    """Where converted models are kept."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model will be loaded, after a look at its files and at the machine."""

    found: FolderModel
    used: Used
    exported: bool


def plan_of(wanted: Wanted) -> Plan:
    """The plan, if it can work out. Blocks.

    Raises:
        AdapterError: INVALID_MODEL, UNSUPPORTED or OUT_OF_MEMORY.
    """
    exported = is_exported(wanted.path, EXPORTED)
    if exported and wanted.options.quantization:
        sentence = f"{wanted.name!r} was exported already, as it is: leave out options.quantization."
        raise AdapterError(Code.UNSUPPORTED, sentence)
    weights = WEIGHTS if exported else ""
    found, machine = looked_at(wanted.name, wanted.path, weights), _machine(wanted.options)
    used = fill(wanted.options, found, machine)
    check_memory(wanted.name, used, found, machine)
    return Plan(found, used, exported)


def load_model(wanted: Wanted, plan: Plan, report: ReportProgress, given_up: threading.Event) -> Any:
    """The model, ready to compute. Blocks.

    Raises:
        AdapterError: INTERRUPT when it was given up.
        one of torch_faults.ERRORS.
    """
    torch.set_num_threads(plan.used.threads)
    folder = wanted.path if plan.exported else _converted(wanted, plan, report, given_up)
    weights = folder / WEIGHTS
    read_once(wanted.name, {weights: weights.stat().st_size}, report, given_up)
    report("model", f"loading {wanted.name} on {plan.used.device}{_WITH}", None)
    model = OVModelForCausalLM.from_pretrained(
        str(folder),
        export=False,
        compile=False,
        device=plan.used.device,
        ov_config=_settings(wanted, plan.used),
        trust_remote_code=wanted.trusted,
        local_files_only=True,
    )
    model.generation_config = transformers.GenerationConfig()
    model.compile()
    return model


def _machine(given: Given) -> Machine:
    """What there is to compute with.

    Raises:
        AdapterError: UNSUPPORTED, the client names what is not there.
    """
    core = openvino.Core()
    found = map(device_of, core.available_devices)
    there = [name for name in found if name.partition(".")[0] in (CPU, GPU)]
    best = next((name for name in there if name.startswith(GPU)), CPU)
    device = device_of(given.device) if given.device else best
    if device not in there:
        raise AdapterError(
            Code.UNSUPPORTED,
            f"OpenVINO {version('openvino')} finds no {given.device} here: leave out options.device "
            f"(there is {', '.join(there)}).",
        )
    return Machine(device, _free_bytes(core, device), os.cpu_count() or 1)


def _free_bytes(core: Any, device: str) -> int:
    """A GPU tells only how much it has; one that is built in uses the machine's memory."""
    free = int(psutil.virtual_memory().available)
    if device == CPU or str(core.get_property(device, "DEVICE_TYPE")).endswith("INTEGRATED"):
        return free
    return int(core.get_property(device, "GPU_DEVICE_TOTAL_MEM_SIZE"))


def _converted(wanted: Wanted, plan: Plan, report: ReportProgress, given_up: threading.Event) -> Path:
    conversion = Conversion(
        wanted.path, plan.found, plan.used.quantization, trusted=wanted.trusted, into=wanted.converted_dir
    )
    if not conversion.done:
        report("model", f"converting {wanted.name}, once", None)
        conversion.make()
    if given_up.is_set():
        raise AdapterError(Code.INTERRUPT, "Loading the model was stopped.")
    return conversion.folder


def _settings(wanted: Wanted, used: Used) -> dict[str, str]:
    if used.device == CPU:
        return {"INFERENCE_NUM_THREADS": str(used.threads)}
    return {"CACHE_DIR": str(wanted.converted_dir / "compiled")}  # else it goes into the model's own folder

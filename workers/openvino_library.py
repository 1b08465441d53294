"""OpenVINO, its converter and its quantiser, told before they are read to be quiet and to tell nobody of us.

All rooms that use them take them from here, beside workers.hf_library. They have no types here: only the
engine's own environment holds them.
"""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any, Final

from workers.hf_library import torch

__all__ = ["OVConfig", "OVModelForCausalLM", "export_from_model", "nncf", "openvino"]

_NO_STATISTICS: Final = "openvino_telemetry"
"""The package with which they tell Google Analytics what they are used for, without asking. Where it is not
there they tell nothing; so they do not find it."""
sys.modules[_NO_STATISTICS] = None  # type: ignore[assignment]  # how Python says that there is no such module

import nncf as _nncf  # noqa: E402  # as all below: only now nobody is told
import openvino as _openvino  # noqa: E402
from optimum.exporters.openvino import export_from_model as _export_from_model  # noqa: E402
from optimum.intel import OVConfig as _OVConfig  # noqa: E402
from optimum.intel import OVModelForCausalLM as _OVModelForCausalLM  # noqa: E402

nncf: Final[Any] = _nncf
openvino: Final[Any] = _openvino
export_from_model: Final[Any] = _export_from_model
OVConfig: Final[Any] = _OVConfig
OVModelForCausalLM: Final[Any] = _OVModelForCausalLM

for _name in ("optimum", "nncf"):  # what they say, their errors say too
    logging.getLogger(_name).setLevel(logging.ERROR)
warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)

"""The adapter `onnx_genai` in this process. Where there is no such package, what imports this is skipped."""

from __future__ import annotations

from typing import Final

import pytest

from supervisor.catalog import load_catalog
from supervisor.lockfile import applies, marker_environment
from tests.fakes.local_model import Local
from tests.wheelhouse import CHECKOUT

if not applies(load_catalog(CHECKOUT / "venvs.toml").envs["onnx"].where, marker_environment()):
    pytest.skip("onnxruntime-genai is not made for this machine or this Python", allow_module_level=True)

from workers.adapters.onnx_genai import OnnxGenai  # only now: there is no package where it is skipped

__all__ = ["LOCAL"]

LOCAL: Final = Local(OnnxGenai)

"""How a folder of safetensors can be broken, for the large engines that read one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["coded", "config_with", "cut"]


def cut(folder: Path) -> None:
    """A file of weights ends in its middle."""
    weights = next(folder.glob("*.safetensors"))
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])


def config_with(**changes: Any) -> Callable[[Path], None]:
    """The config says something else."""

    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")

    return damage


def coded(folder: Path) -> None:
    """It brings code of its own, which tells that it ran."""
    (folder / "code.py").write_text("raise SystemExit('it ran')\n", encoding="utf-8")
    code = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}
    config_with(model_type="nothing", auto_map=code)(folder)

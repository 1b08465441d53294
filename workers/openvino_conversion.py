"""A folder of safetensors becomes one of OpenVINO's, once: what was converted is kept and found again.

1. What was converted lies in `converted_dir/KEY`; KEY is of the model's files (where, how large, how old), of
   how it was converted, and of the packages that did it. Another one of these is another conversion.
2. It is made in `converted_dir/KEY.PID.part` and gets its name in one step at the end. So what was not
   finished never counts, whatever ended it; the next conversion removes what a process that is gone has left.
3. Nothing in a folder is run, unless the operator trusts it; only safetensors are read.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil

from workers.adapter import AdapterError
from workers.codes import Code
from workers.folder_model import FolderModel
from workers.hf_library import transformers
from workers.openvino_library import OVConfig, export_from_model, nncf, openvino

__all__ = ["EXPORTED", "WEIGHTS", "Conversion"]

WEIGHTS: Final = "openvino_model.bin"
_MODEL: Final = "openvino_model.xml"
EXPORTED: Final = (_MODEL, WEIGHTS)
"""The files by which an exported model is known."""
PART: Final = ".part"
SPARE_BYTES: Final = 1 << 30
"""Left free on the disk."""
GROUP: Final = 128
"""Weights of four bits that have a scale in common, where a layer's width allows; as the converter's own."""
_MB: Final = 1_000_000
_MAKERS: Final = ("optimum-intel", "openvino", "nncf", "torch", "transformers")
"""A new release of one of them converts anew."""
_TASK: Final = "text-generation-with-past"
"""With a memory of what was said, so that each token is computed once."""


class Conversion:
    """One model's."""

    def __init__(
        self, folder: Path, found: FolderModel, quantization: str | None, *, trusted: bool, into: Path
    ) -> None:
        self._folder = folder
        self._found = found
        self._quantization = quantization
        self._trusted = trusted
        self._into = into
        self.folder = into / self._key()
        """Where it is, once it is there."""

    @property
    def done(self) -> bool:
        """Whether it is there."""
        return self.folder.is_dir()

    def make(self) -> None:
        """Converts. Blocks, for seconds to minutes, and cannot be stopped half-way.

        Raises:
            AdapterError: INVALID_MODEL, the disk is too full.
            one of torch_faults.ERRORS.
        """
        self._into.mkdir(parents=True, exist_ok=True)
        self._sweep()
        self._check_disk()
        part = self._into / f"{self.folder.name}.{os.getpid()}{PART}"
        shutil.rmtree(part, ignore_errors=True)
        try:
            self._export(part)
            if self._quantization:
                _quantize(part, self._quantization)
            gc.collect()  # what still held a file open lets it go
            self._name(part)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _key(self) -> str:
        """Blocks: it looks at the files."""
        files = sorted(
            (path.name, *_stamp(path)) for path in (*self._found.files, self._folder / "config.json")
        )
        makers = [version(name) for name in _MAKERS]
        what = [str(self._folder.resolve()), files, self._quantization, self._trusted, makers]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]

    def _sweep(self) -> None:
        """Removes what processes have left that are gone."""
        for part in self._into.glob(f"*{PART}"):
            _, _, pid = part.name[: -len(PART)].rpartition(".")
            if not (pid.isdecimal() and psutil.pid_exists(int(pid))):
                shutil.rmtree(part, ignore_errors=True)

    def _check_disk(self) -> None:
        """The quantised weights come in addition to the whole ones, which go only then."""
        needed = sum(self._found.files.values()) * (2 if self._quantization else 1) + SPARE_BYTES
        free = shutil.disk_usage(self._into).free
        if free < needed:
            raise AdapterError(
                Code.INVALID_MODEL,
                f"Converting this model needs {needed / _MB:.0f} MB of disk in {self._into}, and "
                f"{free / _MB:.0f} are free: make room, or use a smaller model.",
            )

    def _export(self, part: Path) -> None:
        model, said = transformers.AutoModelForCausalLM.from_pretrained(
            self._folder,
            dtype="auto",
            use_safetensors=True,
            trust_remote_code=self._trusted,
            local_files_only=True,
            output_loading_info=True,
        )
        if missing := said["missing_keys"]:  # the library fills them with noise
            raise ValueError(f"{len(missing)} of its weights are missing, among them {min(missing)}")
        half = model.dtype.itemsize == 2
        export_from_model(
            model.eval(), part, task=_TASK, ov_config=OVConfig(dtype="auto"), patch_16bit_model=half
        )

    def _name(self, part: Path) -> None:
        """In one step; another process may have been faster, and then its folder is as good."""
        try:
            part.rename(self.folder)
        except OSError:
            if not self.done:
                raise


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _quantize(folder: Path, kind: str) -> None:
    """In place of the whole weights."""
    model = openvino.Core().read_model(folder / _MODEL)
    openvino.save_model(
        nncf.compress_weights(model, **_how(kind)), folder / f"new_{_MODEL}", compress_to_fp16=False
    )
    del model
    gc.collect()
    for name in EXPORTED:
        (folder / f"new_{name}").replace(folder / name)


def _how(kind: str) -> dict[str, Any]:
    if kind == "8bit":
        return {"mode": nncf.CompressWeightsMode.INT8_ASYM}
    fallback = nncf.quantization.advanced_parameters.GroupSizeFallbackMode.ADJUST
    return {
        "mode": nncf.CompressWeightsMode.INT4_ASYM,
        "ratio": 1.0,
        "group_size": GROUP,
        "advanced_parameters": nncf.AdvancedCompressionParameters(group_size_fallback_mode=fallback),
    }

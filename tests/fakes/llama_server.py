"""llama.cpp's own OpenAI-compatible server, which nobody here wrote, serving the tiny model.

It runs in a process of its own, so that its threads, its log and its descriptors stay apart from the tests.

    with llama_server(tmp_path) as base_url: ...
"""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

__all__ = ["llama_server"]

START_S: Final = 30.0
"""It takes 0.1 s; a cold disk may take long to read its 34 MB."""
STOP_S: Final = 5.0
_NEEDED: Final = ("xllamacpp", "gguf", "numpy")
_PROGRAM: Final = """
import sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.model_alias = {"tiny"}
params.n_ctx = int(sys.argv[2])
params.n_parallel = 1
params.warmup = False
params.cpuparams.n_threads = 1
params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def llama_server(folder: Path) -> Iterator[str]:
    """Makes the model in `folder` and serves it; gives the base URL. Skips where its packages are missing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: no llama.cpp to test against")
    from tests.tiny_gguf import CONTEXT, make_tiny_gguf  # here: it imports what may be missing

    model = folder / "tiny.gguf"
    make_tiny_gguf(model)
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(model), str(CONTEXT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, f"llama.cpp's server did not start (exit status {process.poll()})"
        yield f"{address}/v1"
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    try:
        process.communicate(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()

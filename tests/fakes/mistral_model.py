"""The adapter `mistralrs` in this process."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, Final

from tests.fakes.local_model import Local
from tests.tiny_safetensors import make_tiny_safetensors
from workers.adapters import mistralrs
from workers.adapters.mistralrs import MistralRs
from workers.mistral_options import Given

__all__ = ["LOCAL", "LONG", "make_first"]

LOCAL: Final = Local(MistralRs)
LONG: Final[dict[str, Any]] = {"max_output_length": 4000, "extra": {"ignore_eos": True}}
"""Some seconds of talk, so that whatever happens to it happens in its middle."""


def make_first(path: Path) -> None:
    """A tiny model at `path`, which was in memory once: the first engine of a process opens a pair of sockets
    that stay open as long as the process, and a test that looks for what is left would find them."""
    make_tiny_safetensors(path)
    wanted = mistralrs.Wanted("first", path, Given(threads=1))
    engine = mistralrs._opened(wanted, lambda *_: None, threading.Event())
    asyncio.run(engine.close())

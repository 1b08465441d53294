"""Brings a model's files into the system's memory before an engine reads them there.

An engine that is made may hold the interpreter from its first byte to its last; what can take long, the disk,
happens here, in a thread that tells how far it is and can be stopped.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from workers.adapter import AdapterError, ReportProgress
from workers.codes import Code

__all__ = ["read_once"]

READ_BYTES: Final = 8 << 20
"""Between two looks at whether the load is still wanted."""


def read_once(
    name: str, sizes: Mapping[Path, int], report: ReportProgress, given_up: threading.Event
) -> None:
    """Reads the files of a model to their ends. Blocks.

    Raises:
        AdapterError: INTERRUPT when it was given up.
        OSError: a file cannot be read.
    """
    buffer = bytearray(READ_BYTES)
    done, total = 0, max(sum(sizes.values()), 1)
    for path in sizes:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                if given_up.is_set():
                    raise AdapterError(Code.INTERRUPT, "Loading the model was stopped.")
                done += count
                report("model", f"reading {name}", min(done / total, 1.0))

"""How large this machine is, for engines that do not say it themselves."""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any, Final

__all__ = ["give_back_memory", "is_to_be_had", "memory_bytes"]

_PAGES: Final = "SC_PHYS_PAGES"


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of Windows."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("total", ctypes.c_uint64),
        *(
            (name, ctypes.c_uint64)
            for name in ("free", "page", "page_free", "virtual", "virtual_free", "more")
        ),
    )


def memory_bytes() -> int:
    """The machine's memory, of which others use a part; 0 where nobody says."""
    if _PAGES in getattr(os, "sysconf_names", {}):
        sysconf: Any = getattr(os, "sysconf")  # noqa: B009  # Windows has none, and its types say so
        return int(sysconf(_PAGES) * sysconf("SC_PAGE_SIZE"))
    kernel: Any = getattr(getattr(ctypes, "windll", None), "kernel32", None)
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    if kernel is None or not kernel.GlobalMemoryStatusEx(ctypes.byref(status)):
        return 0
    return int(status.total)


def is_to_be_had(size_bytes: int) -> bool:
    """Whether the system would let this process have so much more memory, as far as it can be asked without
    taking it: a limit of the process stands against it, or there is not so much in all."""
    try:
        mmap.mmap(-1, max(size_bytes, 1)).close()
    except (OSError, OverflowError, ValueError, MemoryError):
        return False
    return True


def give_back_memory() -> None:
    """What was freed goes back to the system, where the C library keeps it otherwise (GNU's does: of a model
    that was quantised in place, several times its size). Blocks some milliseconds."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # another C library
        return
    trim(0)

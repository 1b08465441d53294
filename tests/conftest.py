"""What holds for every test: a HOME of its own, none of the developer's keys, and nothing left behind.

Left behind would be a child process (a zombie is one), an open file descriptor, or a pending asyncio task.
The invariants of a connection are held by the client of tests/e2e, which drives the real module.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

import psutil
import pytest

from supervisor.catalog import load_catalog
from supervisor.home import VARIABLE

pytest_plugins = ("tests.contract_table",)

CHECKOUT: Final = Path(__file__).resolve().parent.parent
T = TypeVar("T")
PREFIX: Final = "WAIFU_LLM_"
DESCRIPTORS: Final = Path("/proc/self/fd")
"""Linux has it; elsewhere descriptors are not counted."""
PATIENCE_S: Final = 5.0
"""For what a test ended to be really gone."""
POLL_S: Final = 0.01


def _key_variables() -> frozenset[str]:
    """The names that the catalogue's providers look up in the environment."""
    providers = load_catalog(CHECKOUT / "venvs.toml").providers.values()
    return frozenset(name for p in providers for name in p.variables)


KEY_VARIABLES: Final = _key_variables()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores SIGINT, and so would every program that a test starts and interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HOME is the test's own, and no key, address or setting of the developer is there."""
    for name in list(os.environ):
        if name in KEY_VARIABLES or name.startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "default home"))


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No child, zombie or descriptor is there after a test that was not there before it."""
    children, descriptors = _children(), _descriptors()
    yield
    left = _left(lambda: sorted(_children() - children))
    assert not left, f"child processes are left: {[_described(pid) for pid in left]}"
    opened = _left(lambda: _new(descriptors))
    assert not opened, f"descriptors are left open: {opened}"


@pytest.fixture(autouse=True)
def no_task_left(nothing_left: None, request: pytest.FixtureRequest) -> None:
    """The same for tasks, where the test has an event loop; that must end before descriptors are counted."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("pending_tasks")


@pytest.fixture
async def pending_tasks() -> AsyncIterator[None]:
    """No task of the test is pending when all its other fixtures are done."""
    before = asyncio.all_tasks()
    yield
    pending = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not pending, f"tasks are pending: {pending}"


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def _described(pid: int) -> str:
    try:
        return str(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return str(pid)


def _descriptors() -> dict[str, str]:
    """What each open descriptor of this process is."""
    found = {}
    if DESCRIPTORS.is_dir():
        for name in os.listdir(DESCRIPTORS):  # noqa: PTH208 - pathlib would open one more
            try:
                found[name] = os.readlink(DESCRIPTORS / name)  # noqa: PTH115 - as above
            except FileNotFoundError:  # the one that listed them
                continue
    return found


def _new(before: dict[str, str]) -> list[str]:
    """Descriptors beyond the number that there was; a number may be used anew for the same thing."""
    now = _descriptors()
    if len(now) <= len(before):
        return []
    return [f"{name} → {what}" for name, what in now.items() if before.get(name) != what]


def _left(look: Callable[[], Sequence[T]]) -> Sequence[T]:
    """What `look` still finds when its patience is over; what is merely on its way out is waited for."""
    deadline = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    found = look()
    while found and time.monotonic() < deadline:
        gc.collect()
        pause.wait(POLL_S)
        found = look()
    return found

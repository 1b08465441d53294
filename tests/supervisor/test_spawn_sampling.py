"""Sampling of processes, on real ones."""

from __future__ import annotations

import subprocess
import sys

import pytest

from supervisor.spawn import Sampler
from tests.wheelhouse import CHECKOUT

RUN_S = 20.0
WITHOUT_DESCRIPTORS = f"""
import os, resource, sys
sys.path.insert(0, {str(CHECKOUT)!r})
from supervisor.spawn import Sampler
early, late = Sampler(os.getpid()), Sampler(os.getpid())
assert early.sample() is not None
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
assert early.sample() is None
assert late.sample() is None
for descriptor in taken:
    os.close(descriptor)
assert early.sample().memory_bytes > 1 << 20
assert late.sample().cpu_s > 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere sampling opens no file")
def test_who_has_no_descriptor_left_cannot_look_and_can_again_later() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_DESCRIPTORS], check=True, timeout=RUN_S)


def test_what_is_gone_has_no_figures() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait(RUN_S)
        assert Sampler(child.pid).sample() is None

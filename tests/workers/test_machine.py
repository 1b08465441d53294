"""How large this machine is."""

from __future__ import annotations

import psutil

from workers.machine import give_back_memory, memory_bytes


def test_the_machines_memory_is_what_the_system_says() -> None:
    assert abs(memory_bytes() - psutil.virtual_memory().total) < memory_bytes() // 100


def test_memory_is_given_back_without_a_word_on_every_system() -> None:
    give_back_memory()

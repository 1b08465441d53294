"""How large this machine is."""

from __future__ import annotations

import psutil

from workers.machine import give_back_memory, is_to_be_had, memory_bytes


def test_the_machines_memory_is_what_the_system_says() -> None:
    assert abs(memory_bytes() - psutil.virtual_memory().total) < memory_bytes() // 100


def test_memory_is_given_back_without_a_word_on_every_system() -> None:
    give_back_memory()


def test_what_no_machine_has_is_not_to_be_had_and_a_little_is() -> None:
    assert is_to_be_had(1 << 20)
    assert is_to_be_had(0)
    assert not is_to_be_had(1 << 60)
    assert not is_to_be_had(1 << 80)

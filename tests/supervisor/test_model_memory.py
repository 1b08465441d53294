"""What the log says of models that come and go, and what of it is kept for the health of a worker."""

from __future__ import annotations

import logging

import pytest

from supervisor.model_memory import MEGABYTE, ModelMemory, megabytes


@pytest.fixture
def models(caplog: pytest.LogCaptureFixture) -> ModelMemory:
    caplog.set_level(logging.INFO, "supervisor.model_memory")
    return ModelMemory("llama-cpp", 41)


def tell(models: ModelMemory, event: str, model: str, at: float, memory_mb: int, before_mb: int = 0) -> None:
    models.news(
        event, model, at, before_bytes=before_mb * MEGABYTE or None, memory_bytes=memory_mb * MEGABYTE
    )


def test_a_model_is_one_line_when_it_came_and_one_when_it_has_gone(
    models: ModelMemory, caplog: pytest.LogCaptureFixture
) -> None:
    tell(models, "loading", "tiny", 1.0, 36)
    tell(models, "loaded", "tiny", 1.25, 161)
    assert (models.names, models.before_bytes) == (("tiny",), 36 * MEGABYTE)
    tell(models, "gone", "tiny", 9.0, 40, before_mb=170)
    assert (models.names, models.before_bytes) == ((), None)
    assert caplog.messages == [
        "model loaded provider=llama-cpp pid=41 model='tiny' ms=250 before_mb=36 memory_mb=161",
        "model gone provider=llama-cpp pid=41 model='tiny' before_mb=170 memory_mb=40",
    ]


def test_what_was_there_before_is_from_before_the_first_of_several(models: ModelMemory) -> None:
    for number, name in enumerate(("a", "b")):
        tell(models, "loading", name, number, 36 + 100 * number)
        tell(models, "loaded", name, number, 136 + 100 * number)
    tell(models, "gone", "a", 3.0, 140, before_mb=236)
    assert (models.names, models.before_bytes) == (("b",), 36 * MEGABYTE)


def test_a_load_that_fails_is_one_line_and_no_model(
    models: ModelMemory, caplog: pytest.LogCaptureFixture
) -> None:
    tell(models, "loading", "broken", 1.0, 36)
    tell(models, "failed", "broken", 1.5, 37)
    assert models.names == ()
    assert caplog.messages == [
        "model not loaded provider=llama-cpp pid=41 model='broken' ms=500 before_mb=36 memory_mb=37"
    ]


def test_what_could_not_be_sampled_or_was_not_begun_is_told_all_the_same(
    models: ModelMemory, caplog: pytest.LogCaptureFixture
) -> None:
    models.news("loaded", "tiny", 1.0, before_bytes=None, memory_bytes=None)
    models.news("gone", "another", 1.0, before_bytes=None, memory_bytes=None)
    models.news("quantised", "tiny", 1.0, before_bytes=None, memory_bytes=None)
    assert models.names == ("tiny",)
    assert [line.partition(" provider")[0] for line in caplog.messages] == ["model loaded", "model gone"]
    assert "ms=0 before_mb=None memory_mb=None" in caplog.messages[0]


def test_a_size_is_told_in_whole_megabytes() -> None:
    assert (megabytes(None), megabytes(MEGABYTE + 9)) == (None, 1)

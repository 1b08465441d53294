"""The client of these tests sees every breach of the protocol: a check must be able to fail."""

from __future__ import annotations

from typing import Final, TypeAlias

import pytest

from tests.e2e.client import connect
from tests.e2e.module import Module
from tests.e2e.record import Json, check_record

LOAD: Final = {"type": "load", "unique_request_id": "l", "provider": "demo"}
STREAMED: Final = {"type": "generate", "unique_request_id": "g", "stream": True}
INTERRUPT: Final = {"type": "interrupt", "unique_request_id": "i"}
ACK: Final = {"type": "generate_ack", "unique_request_id": "g"}
CHUNK: Final = {"type": "generate_stream_chunk", "unique_request_id": "g", "chunk": "a"}
DONE: Final = {"type": "generate_stream_done", "unique_request_id": "g"}
INTERRUPTED: Final = {"type": "interrupt_ack", "unique_request_id": "i", "interrupted": ["g"]}
PROGRESS: Final = {"type": "load_progress", "unique_request_id": "l"}
LOADED: Final = [
    {"type": "load_ack", "unique_request_id": "l"},
    {"type": "load_done", "unique_request_id": "l"},
]

Record: TypeAlias = "tuple[list[Json], list[Json]]"
"""What was sent, and what was received."""

GOOD: Final[dict[str, Record]] = {
    "a stream": ([STREAMED], [ACK, CHUNK, DONE]),
    "an id used twice": ([STREAMED, STREAMED], [ACK, DONE, ACK, CHUNK, DONE]),
    "an interrupt": ([STREAMED, INTERRUPT], [ACK, CHUNK, INTERRUPTED, DONE]),
    "progress that was asked for": ([{**LOAD, "progress": True}], [LOADED[0], PROGRESS, LOADED[1]]),
}
BAD: Final[dict[str, Record]] = {
    "no answer": ([STREAMED], []),
    "no acknowledgement": ([STREAMED], [CHUNK, DONE]),
    "no end": ([STREAMED], [ACK, CHUNK]),
    "two acknowledgements": ([STREAMED], [ACK, ACK, DONE]),
    "the answers of another": (
        [STREAMED, {**STREAMED, "unique_request_id": "h"}],
        [ACK, DONE, ACK, DONE],
    ),
    "two ends": ([STREAMED], [ACK, DONE, DONE]),
    "a chunk after the end": ([STREAMED], [ACK, DONE, CHUNK]),
    "a chunk after interrupt_ack": ([STREAMED, INTERRUPT], [ACK, INTERRUPTED, CHUNK, DONE]),
    "one answer for two uses": ([STREAMED, STREAMED], [ACK, DONE]),
    "progress that was not asked for": ([LOAD], [LOADED[0], PROGRESS, LOADED[1]]),
    "an unknown type": ([STREAMED], [ACK, {**CHUNK, "type": "generate_sentence"}, DONE]),
    "an unknown id": ([STREAMED], [ACK, {**CHUNK, "unique_request_id": "x"}, DONE]),
    "the wrong end": ([STREAMED], [ACK, {**DONE, "type": "generate_done"}]),
    "an error": ([STREAMED], [ACK, DONE, {"type": "error"}]),
    "a load without an answer": ([{"type": "load", "llm": "demo"}], []),
    "a load without an end": ([{"type": "load", "llm": "demo"}], [{"type": "load_ack", "llm": "demo"}]),
}


@pytest.mark.parametrize("case", GOOD)
def test_a_record_that_keeps_the_protocol_passes(case: str) -> None:
    check_record(*GOOD[case], errors=0, left_early=False)


@pytest.mark.parametrize("case", BAD)
def test_a_record_that_breaks_the_protocol_fails(case: str) -> None:
    with pytest.raises(AssertionError):
        check_record(*BAD[case], errors=0, left_early=False)


def test_who_left_early_is_owed_no_end() -> None:
    check_record([STREAMED], [ACK, CHUNK], errors=0, left_early=True)


async def test_a_key_in_a_message_fails(module: Module) -> None:
    async with connect(module) as client:
        key = module.new_key()
        client.texts.append(f"my key is {key}")
        with pytest.raises(AssertionError, match="a key came back"):
            client.check()
        client.texts.clear()


@pytest.mark.parametrize("text", ["module ready", "--home"], ids=["log", "arguments"])
async def test_a_key_in_what_the_module_shows_fails(
    module: Module, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(module, "keys", [text])
    with pytest.raises(AssertionError, match="a key is in"):
        module.check_keys()


async def test_a_key_in_the_module_s_environment_fails(
    module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "keys", [module.variables["OPENAI_BASE_URL"]])
    with pytest.raises(AssertionError, match="the environment of"):
        module.check_keys()

"""The protocol held against the record of one connection. No I/O; the client of these tests makes the record.

Each request that can be understood got exactly one acknowledgement and one terminal message; nothing with
its id came outside of these two; no chunk came after the interrupt_ack that named it; no message came of a
type that was not asked for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

__all__ = ["Json", "check_record", "same_id"]

Json: TypeAlias = "dict[str, Any]"

OPENING: Final = ("load_ack", "generate_ack")
ENDING: Final = ("load_done", "generate_done", "generate_stream_done")


def same_id(first: object, second: object) -> bool:
    """Whether two ids are written alike."""
    return json.dumps(first) == json.dumps(second)


def check_record(sent: Sequence[Json], received: Sequence[Json], *, errors: int, left_early: bool) -> None:
    """Fails where the record breaks the protocol.

    Args:
        errors: how many messages were sent that are to be answered with `error`.
        left_early: the client went away with requests open, which are then owed nothing.
    """
    _check_types(sent, received)
    _check_order(received)
    owed = Counter((answer, _name(request)) for request in sent for answer in _owed(request))
    types = {answer for answer, _ in owed}
    got = Counter((message["type"], _name(message)) for message in received if message["type"] in types)
    told = sum(message["type"] == "error" for message in received)
    too_much = got - owed
    assert not too_much, f"nobody was owed {dict(too_much)}"
    if not left_early:
        assert got == owed, f"never came: {dict(owed - got)}"
        assert told == errors, f"{told} errors for {errors} messages that should be answered so"


def _check_types(sent: Sequence[Json], received: Sequence[Json]) -> None:
    allowed = {"error"}.union(*(_asked_for(request) for request in sent))
    surprising = {message["type"] for message in received} - allowed
    assert not surprising, f"{surprising} was not asked for"


def _check_order(received: Sequence[Json]) -> None:
    """Whatever has an id comes between the acknowledgement and the end of that id's request."""
    opened: set[str] = set()
    silenced: set[str] = set()
    for message in received:
        kind, name = message["type"], _name(message)
        if kind == "interrupt_ack":
            silenced |= {json.dumps(identifier) for identifier in message.get("interrupted", ())}
        elif message.get("unique_request_id") is None:
            continue
        elif kind in OPENING:
            assert name not in opened, f"a second acknowledgement: {message}"
            opened.add(name)
            silenced.discard(name)
        elif kind in ENDING:
            assert name in opened, f"an end without a beginning: {message}"
            opened.remove(name)
        elif kind.endswith(("_chunk", "_progress", "_sentence")):
            assert name in opened, f"outside of its request: {message}"
            assert name not in silenced, f"after interrupt_ack: {message}"


def _owed(request: Mapping[str, Any]) -> tuple[str, ...]:
    """The types with which that request must be answered, once each."""
    match request["type"]:
        case "load":
            return ("load_ack", "load_done")
        case "generate":
            streamed = request.get("stream") is True
            return ("generate_ack", "generate_stream_done" if streamed else "generate_done")
        case "interrupt" | "close" as kind:
            return (f"{kind}_ack",)
        case kind:
            return (f"{kind}_done",)


def _asked_for(request: Mapping[str, Any]) -> set[str]:
    """The types with which that request may be answered."""
    allowed = set(_owed(request))
    if "generate_stream_done" in allowed:
        allowed.add("generate_stream_chunk")
        if request.get("tool_deltas") is True:
            allowed.add("generate_tool_call_chunk")
    if request["type"] == "load" and request.get("progress") is True:
        allowed.add("load_progress")
    return allowed


def _name(message: Mapping[str, Any]) -> str:
    return json.dumps(message.get("unique_request_id"))

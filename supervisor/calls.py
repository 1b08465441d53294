"""The calls of tools of one reply, as its client is told of them: piece by piece, and whole at the end. Pure.

The worker has numbered them, and given each an id and a name; here their pieces are only put together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from supervisor.commands import CallPart
from supervisor.messages import Address
from supervisor.replies import CalledFunction, CalledTool, ToolCallChunk

__all__ = ["Calls", "piece_message"]


@dataclass(slots=True)
class _Call:
    id: str
    name: str
    arguments: list[str] = field(default_factory=list)


class Calls:
    """Those of one reply."""

    def __init__(self) -> None:
        self._calls: dict[int, _Call] = {}

    def take(self, part: CallPart) -> None:
        """The next piece."""
        call = self._calls.setdefault(part.index, _Call(part.id, part.name))
        call.arguments.append(part.arguments)

    def whole(self) -> list[CalledTool]:
        """All of them, in their order."""
        return [
            CalledTool(call.id, CalledFunction(call.name, "".join(call.arguments)))
            for _, call in sorted(self._calls.items())
        ]


def piece_message(address: Address, part: CallPart) -> ToolCallChunk:
    """The message for a piece."""
    return ToolCallChunk(
        unique_request_id=address.raw_id,
        index=part.index,
        id=part.id,
        name=part.name,
        arguments=part.arguments,
    )

"""What a session asks for, and what it is told became of it: the values that cross its edge besides messages.

A command is carried out by client.py with the pool's help; its answer goes back into the session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from supervisor.errors import Failure
from supervisor.jobs import Job
from supervisor.messages import Load
from supervisor.providers import Provider
from supervisor.replies import Reply, WarningNote

__all__ = [
    "AskProviders",
    "AskStatus",
    "CallPart",
    "CancelLoad",
    "CloseModule",
    "Command",
    "EndGeneration",
    "LoadResult",
    "Outcome",
    "Output",
    "StartGeneration",
    "StartLoad",
]


@dataclass(frozen=True, slots=True)
class StartLoad:
    """Make `provider` ready for this client; answered by `load_ended` with the same ticket."""

    ticket: int
    provider: Provider
    request: Load


@dataclass(frozen=True, slots=True)
class CancelLoad:
    """Nobody waits for that load any more; no `load_ended` is needed."""

    ticket: int


@dataclass(frozen=True, slots=True)
class StartGeneration:
    """Generate; answered by `chunk` and `call_part` any number of times and `generation_ended` once."""

    number: int
    provider: str
    job: Job


@dataclass(frozen=True, slots=True)
class EndGeneration:
    """Close the upstream of a generation; its `generation_ended` follows within a bound, if still awaited."""

    number: int


@dataclass(frozen=True, slots=True)
class AskProviders:
    """Details of all providers are wanted; answered by `providers`."""

    ticket: int


@dataclass(frozen=True, slots=True)
class AskStatus:
    """A report on the module is wanted; answered by `status`."""

    ticket: int


@dataclass(frozen=True, slots=True)
class CloseModule:
    """End the module."""


Command: TypeAlias = (
    "StartLoad | CancelLoad | StartGeneration | EndGeneration | AskProviders | AskStatus | CloseModule"
)
Output: TypeAlias = "Reply | Command"


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a successful load learned."""

    models: Sequence[str] = ()
    timings_ms: Mapping[str, int] = field(default_factory=dict)
    warnings: Sequence[WarningNote] = ()


@dataclass(frozen=True, slots=True)
class CallPart:
    """A piece of a call of a tool: which call of the reply, and the next piece of its arguments."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a generation ended."""

    failure: Failure | None = None
    finish_reason: str = "stop"
    model: str | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    warnings: Sequence[WarningNote] = ()
    retries: int = 0
    upstream_closed_ms: int | None = None
    timings_ms: Mapping[str, int] = field(default_factory=dict)

"""One client's talk with a session, in memory: what it says as JSON, what comes out as JSON and commands."""

from __future__ import annotations

import itertools
import json
from typing import Any, TypeVar

import msgspec

from supervisor.commands import LoadResult, Outcome, Output, StartGeneration, StartLoad
from supervisor.errors import Failure
from supervisor.jobs import Limits
from supervisor.messages import parse
from supervisor.providers import Catalog, EnvSpec, Provider
from supervisor.replies import encode
from supervisor.session import Session
from workers.codes import Code

__all__ = ["CATALOG", "USER", "Talk", "heard", "only", "replies_of"]

Command = TypeVar("Command")

USER = [{"role": "user", "content": "Hello"}]

CATALOG = Catalog(
    {
        "one": Provider("one", "Provider One", "api", "scripted", "base", default_model="one-model"),
        "two": Provider("two", "Provider Two", "api", "scripted", "base", aliases=("zwei", "deux_2")),
        "three": Provider("three", "Provider Three", "api", "scripted", "base"),
    },
    {"base": EnvSpec("base", (), ())},
)


def heard(outputs: list[Output]) -> list[Any]:
    """Replies as the JSON that is sent, decoded; commands as they are."""
    return [json.loads(encode(o)) if isinstance(o, msgspec.Struct) else o for o in outputs]


def replies_of(outputs: list[Any]) -> list[dict[str, Any]]:
    """Only what the client is sent."""
    return [output for output in outputs if isinstance(output, dict)]


class Talk:
    """A session of a fresh connection, and the usual things to do with it."""

    def __init__(self, limits: Limits | None = None, *, may_close: bool = True) -> None:
        self.session = Session(CATALOG, limits or Limits(), itertools.count(1), may_close=may_close)

    def say(self, **message: Any) -> list[Any]:
        """What one message causes."""
        return self.say_text(json.dumps(message))

    def say_text(self, text: str) -> list[Any]:
        """The same for a message that is written out."""
        return heard(self.session.receive(parse(text.encode())))

    def load(self, name: str = "one", *, sdk: bool = False, models: tuple[str, ...] = ()) -> list[Any]:
        """Loads a provider, successfully."""
        field = "provider" if sdk else "llm"
        started = only(self.say(**{"type": "load", field: name}), StartLoad)
        return heard(self.session.load_ended(started.ticket, LoadResult(models)))

    def generate(self, identifier: Any = "g", *, stream: bool = False, **fields: Any) -> int:
        """Starts a generation, and returns its number."""
        outputs = self.say(
            type="generate", unique_request_id=identifier, messages=USER, stream=stream, **fields
        )
        return only(outputs, StartGeneration).number

    def refused(self, **fields: Any) -> dict[str, Any]:
        """The terminal message of a generation that is acknowledged and not carried out."""
        ack, done = self.say(**{"type": "generate", "unique_request_id": "r", "messages": USER, **fields})
        assert ack == {"type": "generate_ack", "unique_request_id": "r"}
        assert isinstance(done, dict)
        assert done["is_error"] is True
        return done

    def end(self, number: int, outcome: Outcome | Code | None = None) -> list[Any]:
        """Its worker says how a generation ended."""
        if isinstance(outcome, Code):
            outcome = Outcome(Failure(outcome, "It failed."))
        return heard(self.session.generation_ended(number, outcome or Outcome()))


def only(outputs: list[Any], kind: type[Command]) -> Command:
    """The one output of that type."""
    (found,) = [output for output in outputs if isinstance(output, kind)]
    return found

"""Random histories of one client: whatever happens in whatever order, it is owed and sent the right replies.

A ledger reads the replies as a client would, without a look into the session, and holds the invariants of
session.py's docstring after every step. Single cases are in test_session_cases.py.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from supervisor.commands import (
    AskProviders,
    AskStatus,
    CallPart,
    CancelLoad,
    CloseModule,
    EndGeneration,
    LoadResult,
    Outcome,
    Output,
    StartGeneration,
    StartLoad,
)
from supervisor.errors import Failure
from supervisor.jobs import Limits
from supervisor.messages import parse
from supervisor.replies import encode
from supervisor.session import Session
from tests.supervisor.talk import CATALOG, USER
from workers.codes import Code

LIMITS = Limits(generations=3, loads=3)
"""Small, so that histories run into them."""

IDS = ["", '"a"', '"b"', '"\\u0061"', "1", "1.0", "1e0", '"1"', '"*"']
"""As JSON text; the first is none at all, and some are equal without being the same."""
PROVIDERS = ["one", "two", "three"]
AT_ONCE = (Code.BUSY, Code.SHUTTING_DOWN)
"""A load that is refused with these takes no turn."""

LOAD_ENDS = [None, None, Code.AUTHORIZATION, Code.UNREACHABLE, Code.PROVISION_FAILED]
GENERATION_ENDS = [None, None, Code.TIMEOUT, Code.CONTENT_FILTERED, Code.INTERRUPT]
"""None is a success."""

ids = st.sampled_from(IDS)
names = st.sampled_from([None, None, "one", "two", "zwei", "three", "nobody"])
flaws: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [{}, {}, {}, {}, {"sentences": True}, {"messages": []}, {"params": {"model_id": 5}}]
)
rarely = st.sampled_from([*([False] * 12), True])
"""For what ends a history, or nearly; the simplest value comes first, since it is drawn more often."""
texts = st.text(max_size=3)
parts = st.builds(CallPart, st.integers(0, 2), st.just("id"), st.sampled_from(["f", "g"]), texts)


@dataclass(eq=False)
class Owed:
    """One request that waits for its terminal message."""

    kind: str
    id: str
    name: str | None = None
    stream: bool = False
    supersedes: str = ""
    target: str = ""
    acked: bool = False
    interrupted: bool = False
    rivals: list[Owed] = field(default_factory=list)
    """What it supersedes and was still open at its acknowledgement."""
    text: str = ""
    tool_deltas: bool = False
    calls: dict[int, str] = field(default_factory=dict)
    """Their arguments."""


def key(raw: str) -> Any:
    """What ids are compared by; no two requests without an id are the same."""
    return json.loads(raw) if raw else object()


class Ledger:
    """What the client was promised and has been sent."""

    def __init__(self) -> None:
        self.open: list[Owed] = []
        self.numbers: dict[int, Owed] = {}
        self.workers: dict[int, str] = {}
        self.running: StartLoad | None = None
        self.questions: list[AskProviders | AskStatus] = []
        self.current: str | None = None
        self.loaded: set[str] = set()
        self.module_closed = 0

    def asks(self, request: Owed, outputs: list[Output]) -> None:
        """A request and everything that it caused."""
        self.open.append(request)
        for output in outputs:
            self.heard(output, request)
        delayed = request.kind in ("status", "get_providers")
        assert request.acked or request not in self.open or delayed, "a request was not acknowledged at once"

    def heard(self, output: Output, request: Owed | None = None) -> None:
        match output:
            case StartLoad():
                assert self.running is None, "two loads run at once"
                self.running = output
            case CancelLoad(ticket):
                assert self.running is not None
                assert self.running.ticket == ticket
                self.running = None
            case StartGeneration():
                self.started(output, request)
            case EndGeneration(number):
                assert number in self.numbers
            case AskProviders() | AskStatus():
                self.questions.append(output)
            case CloseModule():
                self.module_closed += 1
            case _:
                self.message(encode(output), request)

    def started(self, command: StartGeneration, request: Owed | None) -> None:
        assert request is not None
        assert request.acked
        assert not request.rivals, "what it supersedes was not over before its acknowledgement"
        assert command.number not in self.numbers, "a number was used twice"
        assert command.provider in self.loaded
        if request.name is None:
            assert command.provider == self.current
        self.numbers[command.number] = request
        self.workers[command.number] = command.provider
        assert len([n for n in self.numbers if self.is_open(n)]) <= LIMITS.generations

    def message(self, message: bytes, request: Owed | None = None) -> None:
        raw = msgspec.json.decode(message, type=dict[str, msgspec.Raw])
        identifier = bytes(raw.get("unique_request_id", b"")).decode()
        said = json.loads(message)
        match said["type"].rsplit("_", 1):
            case ["load" | "generate" as kind, "ack"]:
                assert request is not None
                self.acknowledged(kind, identifier, request)
            case ["generate_stream", "chunk"]:
                self.chunk(identifier)
            case ["generate_tool_call", "chunk"]:
                self.chunk(identifier, of_a_call=True)
            case ["load", "progress"]:
                assert next(r.id for r in self.open if r.kind == "load") == identifier
            case ["load", "done"]:
                self.load_done(identifier, Code(said.get("error_code", 0)))
            case ["generate" | "generate_stream" as kind, "done"]:
                self.generated(kind, identifier, said, request)
            case ["interrupt", "ack"]:
                assert request is not None
                self.interrupt_acknowledged(identifier, request, raw, said)
            case ["close", "ack"] | ["get_providers" | "get_models" | "status", "done"]:
                kind = said["type"].rsplit("_", 1)[0]
                self.settle(next(r for r in self.open if r.kind == kind and r.id == identifier))
            case ["error"]:
                assert request is not None
                self.duplicate(identifier, request, said)
            case _:
                raise AssertionError(f"nobody asked for {said['type']}")

    def acknowledged(self, kind: str, identifier: str, request: Owed) -> None:
        assert (request.kind, request.id) == (kind, identifier)
        assert not request.acked, "a second acknowledgement"
        request.acked = True
        if request.supersedes:
            request.rivals = self.matching(request.supersedes, but=request, star=True)
        others = [r for r in self.open if r is not request and r.kind in ("load", "generate")]
        assert not any(key(r.id) == key(identifier) for r in others), "two open requests have one id"

    def chunk(self, identifier: str, *, of_a_call: bool = False) -> None:
        streams = [
            r for r in self.open if r.kind == "generate" and r.stream and r.acked and r.id == identifier
        ]
        owed = [r for r in streams if not r.interrupted and (r.tool_deltas or not of_a_call)]
        assert owed, "a chunk that nobody is owed"

    def load_done(self, identifier: str, code: Code) -> None:
        waiting = [r for r in self.open if r.kind == "load" and r.acked]
        if code in AT_ONCE:
            self.settle(waiting[-1])
            return
        first = waiting[0]
        assert first.id == identifier, "loads did not take effect in order"
        self.settle(first)
        if code is not Code.INTERRUPT:
            self.current = None
        provider = CATALOG.find(first.name or "")
        if code is Code.SUCCESS:
            assert provider is not None
            self.current = provider.id
            self.loaded.add(provider.id)

    def generated(self, kind: str, identifier: str, said: dict[str, Any], request: Owed | None) -> None:
        code = Code(said.get("error_code", 0))
        stream = kind == "generate_stream"
        candidates = [
            r
            for r in self.open
            if (r.kind, r.id, r.stream, r.acked) == ("generate", identifier, stream, True)
        ]
        assert candidates, "a terminal message that nobody is owed"
        ended = request if request in candidates else candidates[0]
        assert ended is not None
        assert code is Code.INTERRUPT or not ended.interrupted, "the end of an interrupted one says so"
        if not stream:
            given = said["response"] if code is Code.SUCCESS else said["partial_response"]
            assert given == ended.text
        told = [call["function"]["arguments"] for call in said.get("tool_calls", [])]
        whole = [arguments for _, arguments in sorted(ended.calls.items())]
        assert told == (whole if code is Code.SUCCESS else []), "calls that are not what came"
        if code is Code.NOT_LOADED:
            named = CATALOG.find(ended.name or "")
            assert self.current is None if ended.name is None else named and named.id not in self.loaded
        self.settle(ended)

    def interrupt_acknowledged(
        self, identifier: str, request: Owed, raw: dict[str, msgspec.Raw], said: dict[str, Any]
    ) -> None:
        assert identifier == request.id
        self.settle(request)
        listed = [bytes(i).decode() for i in msgspec.json.decode(raw["interrupted"], type=list[msgspec.Raw])]
        if said["is_error"]:
            assert listed == []
            return
        ended = [r for r in self.matching(request.target) if not r.interrupted]
        assert listed == [r.id for r in ended if r.id]
        for generation in ended:
            generation.interrupted = True

    def duplicate(self, identifier: str, request: Owed, said: dict[str, Any]) -> None:
        assert said["error_code"] == Code.DUPLICATE_ID
        assert identifier == request.id != ""
        others = [r for r in self.open if r is not request and r.kind in ("load", "generate")]
        assert any(key(r.id) == key(identifier) for r in others), "its id is not in use"
        self.open.remove(request)

    def matching(self, target: str, *, but: Owed | None = None, star: bool = False) -> list[Owed]:
        everything = not target or (star and target == '"*"')
        generations = [r for r in self.open if r.kind == "generate" and r.acked and r is not but]
        return [r for r in generations if everything or key(r.id) == key(target)]

    def settle(self, request: Owed) -> None:
        self.open.remove(request)

    def is_open(self, number: int) -> bool:
        return any(self.numbers.get(number) is request for request in self.open)


class Histories(RuleBasedStateMachine):
    """A client, its worker processes and the module, each doing what it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.session = Session(CATALOG, LIMITS, itertools.count(1))
        self.ledger = Ledger()
        self.closing = False
        self.gone = False

    @initialize(loaded=st.sampled_from([["one", "two"], ["two", "one"], ["one"], []]))
    def loads(self, loaded: list[str]) -> None:
        """Most histories that are worth reading start with something loaded."""
        for name in loaded:
            self.load("", name, False)
            self.load_ends([], None)

    # ---- the client

    def say(self, kind: str, request: Owed, **fields: Any) -> None:
        message = json.dumps({"type": kind, **fields})[:-1]
        for name, value in (
            ("unique_request_id", request.id),
            ("supersedes", request.supersedes),
            ("target_request_id", request.target),
        ):
            message += f', "{name}": {value}' if value else ""
        outputs = self.session.receive(parse((message + "}").encode()))
        if self.gone:
            assert outputs == []
        else:
            if self.closing and kind != "close":
                assert all(isinstance(output, msgspec.Struct) for output in outputs), "work while closing"
            self.ledger.asks(request, outputs)

    @rule(identifier=ids, name=names, progress=st.booleans())
    def load(self, identifier: str, name: str | None, progress: bool) -> None:
        self.say("load", Owed("load", identifier, name), llm=name, progress=progress)

    @rule(
        identifier=ids,
        name=names,
        stream=st.booleans(),
        supersedes=ids,
        deltas=st.booleans(),
        flaw=st.sampled_from(
            [{}, {}, {}, {"sentences": True}, {"messages": []}, {"params": {"model_id": 5}}]
        ),
    )
    def generate(
        self,
        identifier: str,
        name: str | None,
        stream: bool,
        supersedes: str,
        deltas: bool,
        flaw: dict[str, Any],
    ) -> None:
        request = Owed("generate", identifier, name, stream, supersedes, tool_deltas=deltas)
        fields = {"llm": name, "stream": stream, "messages": USER, "params": {"model_id": "any"}}
        self.say("generate", request, **{**fields, "tool_deltas": deltas, **flaw})

    @precondition(lambda self: self.ledger.loaded)
    @rule(
        identifier=ids, stream=st.booleans(), supersedes=st.sampled_from(["", "", "", *IDS]), data=st.data()
    )
    def generate_well(self, identifier: str, stream: bool, supersedes: str, data: st.DataObject) -> None:
        """With nothing against it: so most of what is open is more than one."""
        name = data.draw(st.sampled_from(sorted(self.ledger.loaded)))
        self.generate(identifier, name, stream, supersedes, data.draw(st.booleans()), {})

    @rule(identifier=ids, only=ids)
    def interrupt(self, identifier: str, only: str) -> None:
        self.say("interrupt", Owed("interrupt", identifier, target=only))

    @rule(
        identifier=ids, kind=st.sampled_from(["get_models", "status", "get_providers"]), detail=st.booleans()
    )
    def ask(self, identifier: str, kind: str, detail: bool) -> None:
        self.say(kind, Owed(kind, identifier), detail=detail)

    @rule(identifier=ids, now=rarely)
    def close(self, identifier: str, now: bool) -> None:
        if not now:
            return
        self.closes()
        before = self.ledger.module_closed
        self.say("close", Owed("close", identifier))
        assert self.gone or self.ledger.module_closed == before + 1

    @rule(now=rarely)
    def disconnect(self, now: bool) -> None:
        if not now:
            return
        outputs = self.session.disconnect()
        owed = [number for number in self.ledger.numbers if self.ledger.is_open(number)]
        running = [self.ledger.running.ticket] if self.ledger.running is not None else []
        assert outputs == ([*map(CancelLoad, running), *map(EndGeneration, owed)] if not self.gone else [])
        self.gone = True
        self.ledger.open.clear()
        self.ledger.running = None

    # ---- the module and its workers

    @rule(now=rarely)
    def module_closes(self, now: bool) -> None:
        if not now:
            return
        self.closes()
        self.hear(self.session.close())

    def closes(self) -> None:
        """From now on the end of whatever is open says INTERRUPT."""
        self.closing = True
        for request in self.ledger.open:
            request.interrupted = request.interrupted or request.kind == "generate"

    def hear(self, outputs: list[Output], about: Owed | None = None) -> None:
        assert not (self.gone and outputs)
        for output in outputs:
            self.ledger.heard(output, about)

    @precondition(lambda self: self.ledger.running is not None)
    @rule(models=st.lists(st.text(max_size=2), max_size=2), code=st.sampled_from(LOAD_ENDS))
    def load_ends(self, models: list[str], code: Code | None) -> None:
        running, self.ledger.running = self.ledger.running, None
        assert running is not None
        result = LoadResult(tuple(models)) if code is None else Failure(code, "It failed.")
        if code is not None:
            self.ledger.loaded.discard(running.provider.id)
        outputs = self.session.load_ended(running.ticket, result)
        assert outputs, "the end of a load was not told"
        self.hear(outputs)

    @precondition(lambda self: self.ledger.running is not None)
    @rule()
    def load_progresses(self) -> None:
        assert self.ledger.running is not None
        outputs = self.session.load_progress(self.ledger.running.ticket, "start", "Starting.", None)
        assert len(outputs) == bool(self.ledger.running.request.progress)
        self.hear(outputs)

    def numbers(self) -> list[int]:
        return list(self.ledger.numbers)

    @precondition(lambda self: self.ledger.numbers)
    @rule(data=st.data(), text=texts)
    def chunk(self, data: st.DataObject, text: str) -> None:
        number = data.draw(st.sampled_from(self.numbers()))
        request = self.ledger.numbers[number]
        message = self.session.chunk(number, text)
        owed = self.ledger.is_open(number) and not request.interrupted and not self.gone
        assert (message is not None) == (owed and request.stream), "a chunk too many or too few"
        if message is not None:
            self.ledger.message(message)
        elif owed:
            request.text += text

    @precondition(lambda self: self.ledger.numbers)
    @rule(data=st.data(), part=parts)
    def call_part(self, data: st.DataObject, part: CallPart) -> None:
        number = data.draw(st.sampled_from(self.numbers()))
        request = self.ledger.numbers[number]
        outputs = self.session.call_part(number, part)
        owed = self.ledger.is_open(number) and not request.interrupted and not self.gone
        assert len(outputs) == (owed and request.stream and request.tool_deltas), (
            "a piece too many or too few"
        )
        self.hear(outputs)
        if owed:
            request.calls[part.index] = request.calls.get(part.index, "") + part.arguments

    @precondition(lambda self: self.ledger.numbers)
    @rule(data=st.data(), code=st.sampled_from(GENERATION_ENDS))
    def generation_ends(self, data: st.DataObject, code: Code | None) -> None:
        self.ends(data.draw(st.sampled_from(self.numbers())), code)

    @rule(provider=st.sampled_from(PROVIDERS))
    def worker_crashes(self, provider: str) -> None:
        if self.ledger.running is not None and self.ledger.running.provider.id == provider:
            self.load_ends([], Code.WORKER_CRASHED)
        for number, worker in self.ledger.workers.items():
            if worker == provider:
                self.ends(number, Code.WORKER_CRASHED)

    def ends(self, number: int, code: Code | None) -> None:
        request = self.ledger.numbers[number]
        owed = self.ledger.is_open(number)
        failure = Failure(code, "It failed.") if code is not None else None
        outputs = self.session.generation_ended(number, Outcome(failure))
        assert len(outputs) == owed, "news of what is over, or none of what is not"
        expected = Code.INTERRUPT if request.interrupted else code or Code.SUCCESS
        self.hear(outputs, request)
        for output in outputs:
            assert_code(output, expected)

    @rule(strange=st.integers(-3, 400))
    def late_or_foreign_news(self, strange: int) -> None:
        if self.ledger.running is None or self.ledger.running.ticket != strange:
            assert self.session.load_ended(strange, LoadResult()) == []
            assert self.session.load_progress(strange, "start", "Late.", 1.0) == []
        if not self.ledger.is_open(strange):
            assert self.session.chunk(strange, "late") is None
            assert self.session.call_part(strange, CallPart(0, "a", "f", "late")) == []
            assert self.session.generation_ended(strange, Outcome()) == []

    @precondition(lambda self: self.ledger.questions)
    @rule()
    def question_is_answered(self) -> None:
        question = self.ledger.questions.pop(0)
        answer = self.session.status if isinstance(question, AskStatus) else self.session.providers
        outputs = answer(question.ticket, {})
        assert len(outputs) == (not self.gone)
        self.hear(outputs)
        assert answer(question.ticket, {}) == [], "answered twice"

    # ---- what always holds

    @invariant()
    def it_is_settled_exactly_when_nothing_is_owed(self) -> None:
        assert self.session.settled == (not self.ledger.open)

    def teardown(self) -> None:
        """When the module has ended everything, nothing is owed."""
        while self.ledger.running is not None:
            self.load_ends([], Code.UNREACHABLE)
        for number in self.numbers():
            self.ends(number, None)
        while self.ledger.questions:
            self.question_is_answered()
        assert self.ledger.open == []
        assert self.session.settled


def assert_code(reply: Output, expected: Code) -> None:
    assert isinstance(reply, msgspec.Struct)
    assert json.loads(encode(reply)).get("error_code", 0) == expected


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=400, stateful_step_count=50, deadline=None, print_blob=True)

"""What a probe asks, and the row that each kind of answer makes; against the real module: tests/e2e."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import pytest

from supervisor import live_checks
from supervisor.live_checks import (
    LONG_TOKENS,
    NO_KEY,
    REFUSED_TOKENS,
    SHORT_TOKENS,
    TITLES,
    Check,
    Checks,
    Subject,
)
from supervisor.live_talk import Talk
from supervisor.own_module import NoModuleError
from supervisor.providers import Provider
from tests.supervisor.live_module import GONE, InMemory, Message, failure

CLOUD: Final = Provider(
    "cloud", "Cloud", "api", "x", "http", key=("CLOUD_KEY",), key_required=True, default_model="big"
)
KEYLESS: Final = Provider("none", "None", "script", "x", "base", default_model="big")
OPTIONAL: Final = Provider("here", "Here", "local-server", "x", "http", key=("HERE_KEY",))

LOADED: Final[Message] = {
    "type": "load_done",
    "is_error": False,
    "timings_ms": {"provision": 3_600_000, "start": 60},
}
REFUSED: Final = failure("load_done", 2, "AUTHORIZATION", "The key is refused.", provider_status=401)
CHUNK: Final[Message] = {"type": "generate_stream_chunk", "chunk": "Hi"}
DONE: Final[Message] = {
    "type": "generate_stream_done",
    "is_error": False,
    "finish_reason": "length",
    "usage": {"input_tokens": 4, "output_tokens": 5},
}
ENDED: Final = failure("generate_stream_done", 7, "INTERRUPT", upstream_closed_ms=1)
NO_SUCH: Final = failure(
    "generate_stream_done", 5, "INVALID_MODEL", "Cloud does not know big-nope; near ones: big"
)


class Healthy:
    """The answers of a module and a provider with which all is well; a test changes one of them."""

    def __init__(self, **changes: Any) -> None:
        self.load: list[Message] = [LOADED]
        self.bad_key: list[Message] = [REFUSED]
        self.models: list[Message] = [{"type": "get_models_done", "models": ["big", "small"]}]
        self.short: list[Message] = [CHUNK, CHUNK, DONE]
        self.long: list[Message] = [{"type": "generate_ack"}, CHUNK]
        self.stop: list[Message] = [{"type": "interrupt_ack"}, {**ENDED, "of": "target"}]
        self.wrong: list[Message] = [NO_SUCH]
        for name, value in changes.items():
            assert hasattr(self, name)
            setattr(self, name, value)

    def __call__(self, request: Message) -> list[Message]:
        kind = request["type"]
        if kind == "generate":
            tokens = request["params"]["max_output_length"]
            return {SHORT_TOKENS: self.short, LONG_TOKENS: self.long, REFUSED_TOKENS: self.wrong}[tokens]
        if kind == "interrupt":
            target = {"unique_request_id": request["target_request_id"]}
            return [{**target, **m} if m.pop("of", "") else m for m in map(dict, self.stop)]
        if kind == "load":
            return self.bad_key if request.get("api_key") == NO_KEY else self.load
        return self.models


def checked(
    module: Healthy, provider: Provider = CLOUD, **subject: Any
) -> tuple[dict[str, Check], Checks, list[Message]]:
    """The rows by their titles, the checks, and what was said to the module."""
    connection = InMemory(module)
    checks = Checks(Subject(provider, **subject), connection.talk)
    rows = list(checks.run())
    assert [row.title for row in rows] == list(TITLES)
    return {row.title: row for row in rows}, checks, connection.sent


def verdicts(rows: dict[str, Check]) -> str:
    """All verdicts in order, by their first letters."""
    return "".join(row.verdict.value[0] for row in rows.values())


def test_with_a_provider_that_is_well_everything_is_ok() -> None:
    rows, checks, _ = checked(Healthy())
    assert verdicts(rows) == "oooooo"
    assert [title for title, row in rows.items() if row.ms is not None] == ["load", "stream", "interrupt"]
    assert rows["wrong model"].text == "Cloud does not know big-nope; near ones: big [INVALID_MODEL]"
    assert (checks.requests, checks.asked_tokens) == (3, 206)
    assert checks.used == {"input_tokens": 4, "output_tokens": 5}


def test_the_key_is_sent_where_it_belongs_and_stands_in_no_row() -> None:
    rows, _, sent = checked(Healthy(), key="canary-key")
    loads = [request for request in sent if request["type"] == "load"]
    assert [load["api_key"] for load in loads] == ["canary-key", NO_KEY]
    assert all(load["verify"] for load in loads)
    assert "canary-key" not in repr(rows) + repr(Subject(CLOUD, key="canary-key"))


def test_no_row_holds_a_prompt_or_a_reply() -> None:
    rows, _, sent = checked(Healthy(short=[{**CHUNK, "chunk": "the canary sang"}, DONE]))
    prompts = [request["messages"][0]["content"] for request in sent if request["type"] == "generate"]
    assert len(prompts) == 3
    assert not [text for text in (*prompts, "canary") if text in repr(rows)]


def test_a_model_that_is_named_is_loaded_and_asked() -> None:
    _, checks, sent = checked(Healthy(), model="small")
    assert sent[0]["preload_model_id"] == "small"
    models = [request["params"]["model_id"] for request in sent if request["type"] == "generate"]
    assert models == ["small", "small", "small-nope"]
    assert checks.model == "small"


def test_an_environment_that_had_to_be_made_is_not_in_the_figure_of_the_load() -> None:
    there, _, _ = checked(Healthy())
    made, _, _ = checked(Healthy(), installed=False)
    assert there["load"].ms is not None
    assert there["load"].ms >= 0
    assert made["load"].ms is not None
    assert made["load"].ms < 0  # in memory it took no time, of which an hour was the build's
    assert "its environment was made first" in made["load"].text


@pytest.mark.parametrize(
    ("provider", "why"),
    [
        pytest.param(KEYLESS, "it takes no key", id="no key"),
        pytest.param(OPTIONAL, "it works without a key", id="an optional one"),
    ],
)
def test_where_no_key_is_needed_none_is_refused(provider: Provider, why: str) -> None:
    rows, _, sent = checked(Healthy(), provider, model="big")
    assert verdicts(rows) == "ooooso"
    assert why in rows["bad key"].text
    assert NO_KEY not in str(sent)


UNREACHABLE: Final = failure("load_done", 17, "UNREACHABLE", "Cloud cannot be reached.")
BUSY: Final = failure("generate_stream_done", 12, "RATE_LIMITED", "Slow down.", provider_status=429)
UNCHECKED: Final = {"warnings": [{"name": "NOT_CHECKED", "message": "could not be checked"}]}
THOUGHT: Final = {"warnings": [{"name": "EMPTY_REPLY", "message": "all tokens went into thinking"}]}

CASES: Final = {
    "a key that is refused": ({"load": [REFUSED]}, "fsssos", "load", "refused. [AUTHORIZATION, status 401]"),
    "nobody there": ({"load": [UNREACHABLE]}, "fsssss", "bad key", "it cannot be loaded at all"),
    "a key that was not checked": ({"load": [{**LOADED, **UNCHECKED}]}, "fooooo", "load", "NOT_CHECKED"),
    "no list of models": (
        {"models": [{"type": "get_models_done", "models": []}]},
        "osoooo",
        "models",
        "none",
    ),
    "a list that is refused": (
        {"models": [failure("error", 8, "INVALID_REQUEST")]},
        "ofoooo",
        "models",
        "It",
    ),
    "another default": (
        {"models": [{"type": "get_models_done", "models": ["a"]}]},
        *("oooooo", "models", "1 listed, big not among them"),
    ),
    "no answer about models": ({"models": []}, "ofoooo", "models", "did not answer in time"),
    "a stream that fails": ({"short": [CHUNK, BUSY]}, "oofsoo", "stream", "[RATE_LIMITED, status 429]"),
    "a stream without text": ({"short": [{**DONE, **THOUGHT}]}, "oofsoo", "stream", "EMPTY_REPLY"),
    "a stream without end": ({"short": [CHUNK]}, "oofsoo", "stream", "did not answer in time"),
    "a long reply that fails": ({"long": [BUSY]}, "ooofoo", "interrupt", "the long reply failed"),
    "a long reply that is short": ({"long": [DONE]}, "ooosoo", "interrupt", "was over before"),
    "an end before the interrupt": (
        {"stop": [{**DONE, "of": "target"}, {"type": "interrupt_ack"}]},
        *("ooosoo", "interrupt", "was over before"),
    ),
    "an interrupt without answer": ({"stop": []}, "ooofoo", "interrupt", "did not answer in time"),
    "a reply that had come whole": (
        {"stop": [{"type": "interrupt_ack"}, {**ENDED, "upstream_closed_ms": None, "of": "target"}]},
        *("ooosoo", "interrupt", "was over before the interrupt"),
    ),
    "pieces after the acknowledgement": (
        {"stop": [{"type": "interrupt_ack"}, {**CHUNK, "of": "target"}, {**ENDED, "of": "target"}]},
        *("ooofoo", "interrupt", "pieces that came after it: 1"),
    ),
    "no first piece": ({"long": []}, "oooooo", "interrupt", "before its first piece, acknowledged"),
    "a bad key that is taken": ({"bad_key": [LOADED]}, "oooofo", "bad key", "may be open to everybody"),
    "a bad key that is something else": (
        {"bad_key": [UNREACHABLE]},
        *("oooofo", "bad key", "this should be AUTHORIZATION; Cloud cannot be reached. [UNREACHABLE]"),
    ),
    "a wrong model that answers": ({"wrong": [CHUNK, DONE]}, "ooooof", "wrong model", "answered to the name"),
    "a wrong model that is something else": (
        {"wrong": [BUSY]},
        *("ooooof", "wrong model", "this should be INVALID_MODEL; Slow down."),
    ),
    "a module that dies": ({"short": [GONE]}, "oofsss", "bad key", "the module is gone"),
    "a module that dies in the long reply": (
        {"long": [GONE]},
        "ooofss",
        "interrupt",
        "closed the connection",
    ),
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not come in memory never comes."""
    for name in ("LOAD_S", "QUIET_S", "ANSWER_S", "REPLY_S", "FIRST_PIECE_S", "INTERRUPT_S"):
        monkeypatch.setattr(live_checks, name, 0.0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("changes", "expected", "title", "said"), CASES.values(), ids=CASES.keys())
def test_whatever_goes_wrong_is_a_row(
    changes: dict[str, list[Message]], expected: str, title: str, said: str
) -> None:
    rows, _, _ = checked(Healthy(**changes))
    assert verdicts(rows) == expected
    assert said in rows[title].text


def test_without_any_model_the_row_says_how_to_name_one() -> None:
    rows, _, _ = checked(Healthy(), OPTIONAL)
    assert verdicts(rows) == "oofsss"
    assert rows["stream"].text == "it has no default model: name one with --model, for example big, small"
    assert rows["wrong model"].text == "no model is known"


def test_the_only_model_needs_no_name() -> None:
    _, checks, _ = checked(Healthy(models=[{"type": "get_models_done", "models": ["only"]}]), OPTIONAL)
    assert checks.model == "only"


def test_a_second_connection_that_cannot_be_had_is_a_row() -> None:
    connection = InMemory(Healthy())
    opened: list[str] = []

    @contextlib.contextmanager
    def connect() -> Iterator[Talk]:
        opened.append("")
        if len(opened) > 1:
            raise NoModuleError("ws://x cannot be reached", 1)
        with connection.talk() as talk:
            yield talk

    rows = {row.title: row for row in Checks(Subject(CLOUD), connect).run()}
    assert verdicts(rows) == "oooofo"
    assert rows["bad key"].text == "ws://x cannot be reached"


def test_the_progress_of_a_load_is_told() -> None:
    told: list[str] = []
    steps = [{"type": "load_progress", "phase": "start", "message": m} for m in ("Starting.", "")]
    connection = InMemory(Healthy(load=[{"type": "load_ack"}, *steps, LOADED]))
    list(Checks(Subject(KEYLESS), connection.talk, told.append).run())
    assert told == ["none: Starting.", "none: start"]

"""What one client may do and what it is told, case by case; random histories are in test_session.py."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from supervisor.commands import (
    AskProviders,
    AskStatus,
    CallPart,
    CancelLoad,
    CloseModule,
    EndGeneration,
    LoadResult,
    Outcome,
    StartGeneration,
    StartLoad,
)
from supervisor.errors import BUG_MESSAGE, Failure
from supervisor.jobs import Limits
from supervisor.messages import Address, Incoming, Kind, Params, parse
from supervisor.replies import WarningNote, encode
from tests.supervisor.talk import USER, Talk, heard, only, replies_of
from workers.codes import Code


@pytest.fixture
def talk() -> Talk:
    """A fresh connection."""
    return Talk()


def codes_of(outputs: list[Any]) -> list[tuple[str, str | None]]:
    return [(reply["type"], reply.get("error_name")) for reply in replies_of(outputs)]


# ---- dialects


def test_a_seed_load_is_answered_in_the_seed_dialect(talk: Talk) -> None:
    ack, start = talk.say(type="load", llm="one")
    assert ack == {"type": "load_ack", "llm": "one"}
    done = heard(talk.session.load_ended(start.ticket, LoadResult(("a", "b"), {"start": 12})))
    assert done == [
        {
            "type": "load_done",
            "llm": "one",
            "is_error": False,
            "error": 0,
            "models_count": 2,
            "timings_ms": {"start": 12},
        }
    ]


def test_an_sdk_load_is_answered_in_the_sdk_dialect(talk: Talk) -> None:
    ack, start = talk.say(type="load", provider="one", unique_request_id="x")
    assert ack == {"type": "load_ack", "unique_request_id": "x", "provider": "one"}
    (done,) = heard(talk.session.load_ended(start.ticket, LoadResult()))
    assert done["provider"] == "one"
    assert done["unique_request_id"] == "x"
    assert done["error"] == "SUCCESS"
    assert "llm" not in done


def test_with_both_fields_provider_wins_and_both_come_back(talk: Talk) -> None:
    ack, _ = talk.say(type="load", llm="one", provider="one")
    assert (ack["llm"], ack["provider"]) == ("one", "one")
    assert talk.refused(sentences=True)["error"] == "INVALID_PROVIDER"


@pytest.mark.parametrize(
    ("first", "error"),
    [
        pytest.param({"type": "status"}, 8, id="nothing that tells"),
        pytest.param({"type": "generate", "unique_request_id": "x"}, 8, id="an id on generate"),
        pytest.param({"type": "interrupt"}, 8, id="an interrupt without id"),
        pytest.param({"type": "get_providers"}, "INVALID_PROMPT", id="get_providers"),
        pytest.param({"type": "get_models"}, "INVALID_PROMPT", id="get_models"),
        pytest.param(
            {"type": "interrupt", "unique_request_id": 1}, "INVALID_PROMPT", id="an id on interrupt"
        ),
        pytest.param({"type": "status", "unique_request_id": 1}, "INVALID_PROMPT", id="an id on status"),
    ],
)
def test_before_any_load_what_was_said_tells_the_dialect(
    talk: Talk, first: dict[str, Any], error: Any
) -> None:
    talk.say(**first)
    (reply,) = talk.say_text("not JSON")
    assert (reply["type"], reply["error"], reply["error_code"]) == ("error", error, Code.INVALID_REQUEST)


@pytest.mark.parametrize(("field", "error"), [("llm", 8), ("provider", "INVALID_PROMPT")])
def test_the_first_load_fixes_the_dialect_for_good(talk: Talk, field: str, error: Any) -> None:
    other = "provider" if field == "llm" else "llm"
    talk.say(**{"type": "load", field: "nobody"})
    talk.say(**{"type": "load", other: "nobody"})
    talk.say(type="get_providers")
    assert talk.say_text("[]")[0]["error"] == error


def test_a_load_that_names_no_provider_does_not_fix_the_dialect(talk: Talk) -> None:
    talk.say(type="get_providers", unique_request_id="x")
    _, done = talk.say(type="load", unique_request_id="y", provider=5)
    assert done["error"] == "INVALID_PROMPT"


@pytest.mark.parametrize("raw", ['"a"', "7", "7.0", "1e2", "-0", '"\\u0041"', '"é🌸"', '""'])
def test_an_id_comes_back_byte_for_byte(talk: Talk, raw: str) -> None:
    for message in (
        f'{{"type":"load","provider":"nobody","unique_request_id":{raw}}}',
        f'{{"type":"interrupt","unique_request_id" : {raw} }}',
        f'{{"type":"get_providers","unique_request_id":{raw}}}',
        f'{{"type":"get_models","unique_request_id":{raw}}}',
        f'{{"type":"generate","unique_request_id":{raw},"messages":[]}}',
    ):
        for reply in talk.session.receive(parse(message.encode())):
            assert isinstance(reply, msgspec.Struct)
            fields = msgspec.json.decode(encode(reply), type=dict[str, msgspec.Raw])
            assert bytes(fields["unique_request_id"]) == raw.encode()


@pytest.mark.parametrize(
    ("sdk", "response"), [pytest.param(False, None, id="seed"), pytest.param(True, "", id="SDK")]
)
def test_a_failed_generation_has_the_empty_response_of_its_dialect(
    talk: Talk, sdk: bool, response: str | None
) -> None:
    talk.load(sdk=sdk)
    number = talk.generate()
    talk.session.chunk(number, "Hel")
    talk.session.chunk(number, "lo")
    (done,) = talk.end(number, Code.TIMEOUT)
    assert done["response"] == response
    assert done["partial_response"] == "Hello"
    assert done["finish_reason"] == "timeout"
    assert (done["error"], done["error_code"]) == ("TIMEOUT" if sdk else 6, 6)


# ---- load


def test_loads_take_effect_in_order_and_one_at_a_time(talk: Talk) -> None:
    assert len(talk.say(type="load", llm="one")) == 2
    assert codes_of(talk.say(type="load", llm="nobody")) == [("load_ack", None)]
    assert codes_of(talk.say(type="load", llm="two")) == [("load_ack", None)]
    first, unknown, start = heard(talk.session.load_ended(1, LoadResult()))
    assert (first["llm"], first["is_error"]) == ("one", False)
    assert (unknown["llm"], unknown["error_name"]) == ("nobody", "INVALID_PROVIDER")
    assert (start.provider.id, start.request.llm) == ("two", "two")
    (last,) = heard(talk.session.load_ended(start.ticket, LoadResult()))
    assert last["llm"] == "two"
    assert (
        only(talk.say(type="generate", messages=USER, params={"model_id": "m"}), StartGeneration).provider
        == "two"
    )


def test_a_failed_load_leaves_no_current_provider_but_others_can_be_named(talk: Talk) -> None:
    talk.load("one")
    start = only(talk.say(type="load", llm="two"), StartLoad)
    (done,) = heard(talk.session.load_ended(start.ticket, Failure(Code.AUTHORIZATION, "No key.")))
    assert (done["error_code"], done["message"]) == (Code.AUTHORIZATION, "No key.")
    assert talk.refused()["error_name"] == "NOT_LOADED"
    assert talk.refused(llm="two")["error_name"] == "NOT_LOADED"
    assert only(talk.say(type="generate", messages=USER, llm="one"), StartGeneration).provider == "one"


def test_the_current_provider_changes_only_at_load_done(talk: Talk) -> None:
    talk.load("one")
    talk.say(type="load", llm="two")
    assert only(talk.say(type="generate", messages=USER), StartGeneration).provider == "one"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        pytest.param("on", "Did you mean one?", id="one is near"),
        pytest.param("zwie", "Did you mean two?", id="near an alias"),
        pytest.param("thre two", "Did you mean three", id="a wrong one"),
        pytest.param("qqqqqqq", "get_providers lists those there are.", id="nothing is near"),
    ],
)
def test_an_unknown_provider_is_answered_with_the_nearest_names(talk: Talk, name: str, hint: str) -> None:
    ack, done = talk.say(type="load", llm=name)
    assert ack == {"type": "load_ack", "llm": name}
    assert done["error_code"] == Code.INVALID_PROVIDER
    assert repr(name) in done["message"]
    assert hint in done["message"]


def test_a_made_up_name_is_shown_shortened(talk: Talk) -> None:
    _, done = talk.say(type="load", llm="q" * 5000)
    assert len(done["message"]) < 200


@pytest.mark.parametrize("alias", ["zwei", "deux_2", "TWO", " Two "])
def test_an_alias_is_loaded_and_its_name_comes_back_as_it_was(talk: Talk, alias: str) -> None:
    ack, start = talk.say(type="load", llm=alias)
    assert ack["llm"] == alias
    assert start.provider.id == "two"
    heard(talk.session.load_ended(start.ticket, LoadResult()))
    named = talk.say(type="generate", messages=USER, llm="two", params={"model_id": "m"})
    assert only(named, StartGeneration).provider == "two"


def test_a_broken_load_fails_in_its_turn_and_leaves_no_current_provider(talk: Talk) -> None:
    talk.load("one")
    ack, done = talk.say(type="load", unique_request_id="x")
    assert ack == {"type": "load_ack", "unique_request_id": "x"}
    assert (done["type"], done["error_code"]) == ("load_done", Code.INVALID_REQUEST)
    assert talk.refused()["error_name"] == "NOT_LOADED"


def test_too_many_waiting_loads_are_busy() -> None:
    talk = Talk(Limits(loads=2))
    talk.say(type="load", llm="one")
    talk.say(type="load", llm="two")
    busy = talk.say(type="load", llm="three")
    assert codes_of(busy) == [("load_ack", None), ("load_done", "BUSY")]
    assert busy[1]["retryable"] is True


def test_warnings_of_a_load_are_passed_on(talk: Talk) -> None:
    start = only(talk.say(type="load", llm="one"), StartLoad)
    note = WarningNote("UNVERIFIED", "The key could not be checked.")
    (done,) = heard(talk.session.load_ended(start.ticket, LoadResult(warnings=[note])))
    assert done["warnings"] == [{"name": "UNVERIFIED", "message": "The key could not be checked."}]


@pytest.mark.parametrize("asked", [True, False, None])
def test_progress_is_sent_only_to_who_asked_for_it(talk: Talk, asked: bool | None) -> None:
    start = only(talk.say(type="load", llm="one", progress=asked), StartLoad)
    progress = heard(talk.session.load_progress(start.ticket, "import", "Importing.", 0.5))
    expected = {
        "type": "load_progress",
        "llm": "one",
        "phase": "import",
        "message": "Importing.",
        "fraction": 0.5,
    }
    assert progress == ([expected] if asked else [])


def test_progress_of_another_load_is_not_sent(talk: Talk) -> None:
    start = only(talk.say(type="load", llm="one", progress=True), StartLoad)
    assert talk.session.load_progress(start.ticket + 1, "import", "Importing.", None) == []
    talk.session.load_ended(start.ticket, LoadResult())
    assert talk.session.load_progress(start.ticket, "import", "Importing.", None) == []


# ---- generate


def test_an_unstreamed_generation_is_one_ack_and_one_reply(talk: Talk) -> None:
    talk.load()
    ack, start = talk.say(type="generate", unique_request_id="g", messages=USER, params={}, stream=False)
    assert ack == {"type": "generate_ack", "unique_request_id": "g"}
    assert (start.provider, start.job.stream, start.job.body["model"]) == ("one", False, "one-model")
    assert talk.session.chunk(start.number, "Hi ") is None
    assert talk.session.chunk(start.number, "there") is None
    outcome = Outcome(
        None, "length", "m-1", {"output_tokens": 2}, [WarningNote("A", "b.")], 1, None, {"total": 5}
    )
    assert talk.end(start.number, outcome) == [
        {
            "type": "generate_done",
            "unique_request_id": "g",
            "is_error": False,
            "error": 0,
            "finish_reason": "length",
            "model": "m-1",
            "usage": {"output_tokens": 2},
            "timings_ms": {"total": 5},
            "warnings": [{"name": "A", "message": "b."}],
            "retries": 1,
            "response": "Hi there",
        }
    ]


def test_a_streamed_generation_is_chunks_and_a_terminal_message_without_text(talk: Talk) -> None:
    talk.load()
    number = talk.generate(1, stream=True)
    chunk = talk.session.chunk(number, 'Hi "🌸"\n')
    assert chunk is not None
    assert json.loads(chunk) == {
        "type": "generate_stream_chunk",
        "unique_request_id": 1,
        "chunk": 'Hi "🌸"\n',
    }
    assert talk.end(number) == [
        {
            "type": "generate_stream_done",
            "unique_request_id": 1,
            "is_error": False,
            "error": 0,
            "finish_reason": "stop",
        }
    ]
    assert talk.session.chunk(number, "late") is None
    assert talk.end(number, Code.WORKER_CRASHED) == []


def test_a_failure_carries_what_is_known_of_it(talk: Talk) -> None:
    talk.load(sdk=True)
    failure = Failure(Code.RATE_LIMITED, "Too many requests.", 1500, 429)
    (done,) = talk.end(talk.generate(stream=True), Outcome(failure, upstream_closed_ms=3))
    assert done == {
        "type": "generate_stream_done",
        "unique_request_id": "g",
        "is_error": True,
        "error": "UNEXPECTED",
        "error_code": 12,
        "error_name": "RATE_LIMITED",
        "message": "Too many requests.",
        "retryable": True,
        "retry_after_ms": 1500,
        "provider_status": 429,
        "finish_reason": "error",
        "upstream_closed_ms": 3,
    }


@pytest.mark.parametrize("stream", [True, False])
def test_a_generation_before_any_load_is_told_so(talk: Talk, stream: bool) -> None:
    done = talk.refused(stream=stream)
    assert done["type"] == ("generate_stream_done" if stream else "generate_done")
    assert done["error_code"] == Code.NOT_LOADED
    assert done["finish_reason"] == "error"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        pytest.param({"llm": "nobody"}, Code.INVALID_PROVIDER, id="an unknown provider"),
        pytest.param({"provider": "three"}, Code.NOT_LOADED, id="a provider that is not loaded"),
        pytest.param({"llm": "two"}, Code.INVALID_MODEL, id="no model known"),
        pytest.param({"messages": []}, Code.INVALID_REQUEST, id="no messages"),
        pytest.param({"messages": [{"role": "user"}]}, Code.INVALID_REQUEST, id="no content"),
        pytest.param({"supersedes": {"a": 1}}, Code.INVALID_REQUEST, id="supersedes an object"),
        pytest.param({"sentences": True}, Code.UNSUPPORTED, id="sentences"),
        pytest.param({"reasoning": True}, Code.UNSUPPORTED, id="reasoning"),
        pytest.param({"fallback": ["two"]}, Code.UNSUPPORTED, id="fallback"),
        pytest.param(
            {"messages": [{"role": "tool", "content": "x"}]}, Code.INVALID_REQUEST, id="an answer to nothing"
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            Code.UNSUPPORTED,
            id="an image",
        ),
    ],
)
def test_a_generation_that_cannot_be_carried_out_gets_its_own_end(
    talk: Talk, fields: dict[str, Any], code: Code
) -> None:
    talk.load("two")
    talk.load("one")
    assert talk.refused(stream=True, **fields)["error_name"] == code.name
    assert talk.session.settled


def test_the_model_is_the_named_else_the_preloaded_else_the_default_else_the_only_one(talk: Talk) -> None:
    def model(**fields: Any) -> Any:
        return only(talk.say(type="generate", messages=USER, **fields), StartGeneration).job.body["model"]

    talk.load("two", models=("only",))
    assert model() == "only"
    talk.load("one", models=("a", "b"))
    assert model(params={"model_id": ""}) == "one-model"
    start = only(talk.say(type="load", llm="one", preload_model_id="pre"), StartLoad)
    talk.session.load_ended(start.ticket, LoadResult())
    assert model() == "pre"
    assert model(params={"model_id": "asked"}) == "asked"
    talk.load("one")
    assert model() == "pre", "loading what is loaded keeps its model"


def test_too_many_open_generations_are_busy() -> None:
    talk = Talk(Limits(generations=2))
    talk.load()
    talk.generate("a")
    second = talk.generate("b")
    assert talk.refused()["error_name"] == "BUSY"
    assert only(talk.say(type="generate", messages=USER, supersedes="a"), EndGeneration), (
        "one goes, one comes"
    )
    talk.end(second)
    talk.generate("c")


@pytest.mark.parametrize("again", ['"a"', '"\\u0061"'])
@pytest.mark.parametrize("kind", ["generate", "load"])
def test_an_id_in_use_is_an_error_with_that_id_and_harms_nothing(talk: Talk, kind: str, again: str) -> None:
    talk.load()
    number = talk.generate("a")
    rest = '"llm":"two"' if kind == "load" else '"messages":[{"role":"user","content":"x"}]'
    (error,) = talk.say_text(f'{{"type":"{kind}","unique_request_id":{again},{rest}}}')
    assert (error["type"], error["error_code"], error["unique_request_id"]) == (
        "error",
        Code.DUPLICATE_ID,
        "a",
    )
    assert codes_of(talk.end(number)) == [("generate_done", None)]
    talk.generate("a")


@pytest.mark.parametrize("broken", [{"messages": []}, {"supersedes": [1]}, {"params": {"seed": "x"}}])
def test_a_broken_generation_with_an_id_in_use_is_a_duplicate_first(
    talk: Talk, broken: dict[str, Any]
) -> None:
    talk.load()
    talk.generate("a")
    (error,) = talk.say(**{"type": "generate", "unique_request_id": "a", "messages": USER, **broken})
    assert (error["type"], error["error_code"]) == ("error", Code.DUPLICATE_ID)


def test_requests_without_an_id_are_never_duplicates(talk: Talk) -> None:
    talk.load()
    for _ in range(3):
        assert only(talk.say(type="generate", messages=USER), StartGeneration)


# ---- interrupt, supersedes


def test_interrupt_ends_all_and_no_chunk_follows(talk: Talk) -> None:
    talk.load()
    a, b = talk.generate("a", stream=True), talk.generate(2)
    talk.session.chunk(b, "par")
    ack, *commands = talk.say(type="interrupt", unique_request_id="i")
    assert ack["interrupted"] == ["a", 2]
    assert (ack["is_error"], ack["unique_request_id"]) == (False, "i")
    assert commands == [EndGeneration(a), EndGeneration(b)]
    assert talk.session.chunk(a, "late") is None
    assert talk.session.chunk(b, "tial") is None
    assert codes_of(talk.end(a)) == [("generate_stream_done", "INTERRUPT")]
    (done,) = talk.end(b, Code.WORKER_CRASHED)
    assert (done["error_name"], done["finish_reason"]) == ("INTERRUPT", "interrupt")
    assert (done["response"], done["partial_response"]) == (None, "par")


@pytest.mark.parametrize("target", ['"a"', '"\\u0061"'])
def test_interrupt_ends_only_its_target(talk: Talk, target: str) -> None:
    talk.load()
    a, b = talk.generate("a"), talk.generate("b", stream=True)
    ack, *commands = talk.say_text(f'{{"type":"interrupt","target_request_id":{target}}}')
    assert ack["interrupted"] == ["a"]
    assert commands == [EndGeneration(a)]
    assert talk.session.chunk(b, "on") is not None


def test_numbers_that_are_equal_are_the_same_target(talk: Talk) -> None:
    talk.load()
    number = talk.generate(1)
    ack, command = talk.say_text('{"type":"interrupt","target_request_id":1.0}')
    assert (ack["interrupted"], command) == ([1], EndGeneration(number))


def test_interrupt_of_nothing_lists_nothing(talk: Talk) -> None:
    talk.load()
    number = talk.generate("a")
    assert talk.say(type="interrupt", target_request_id="b")[0]["interrupted"] == []
    talk.say(type="interrupt")
    (again,) = talk.say(type="interrupt")
    assert again["interrupted"] == [], "what was interrupted is not interrupted again"
    talk.end(number)


def test_a_generation_without_an_id_is_interrupted_but_cannot_be_listed(talk: Talk) -> None:
    talk.load()
    number = only(talk.say(type="generate", messages=USER), StartGeneration).number
    ack, command = talk.say(type="interrupt")
    assert (ack["interrupted"], command) == ([], EndGeneration(number))


def test_interrupt_with_a_target_that_is_no_id_is_refused_and_ends_nothing(talk: Talk) -> None:
    talk.load()
    talk.generate("a")
    (ack,) = talk.say(type="interrupt", target_request_id={"id": "a"})
    assert (ack["type"], ack["error_code"], ack["interrupted"]) == ("interrupt_ack", Code.INVALID_REQUEST, [])
    assert "target_request_id" in ack["message"]


@pytest.mark.parametrize(
    ("supersedes", "ended"),
    [
        pytest.param("a", ["a"], id="one"),
        pytest.param("*", ["a", "b"], id="all"),
        pytest.param("nobody", [], id="one that is not open"),
        pytest.param(None, [], id="none"),
    ],
)
def test_what_is_superseded_is_over_before_the_new_ack(
    talk: Talk, supersedes: str | None, ended: list[str]
) -> None:
    talk.load()
    numbers = {name: talk.generate(name, stream=True) for name in ("a", "b")}
    outputs = talk.say(type="generate", unique_request_id="c", messages=USER, supersedes=supersedes)
    *before, ack, start = outputs
    assert ack == {"type": "generate_ack", "unique_request_id": "c"}
    assert isinstance(start, StartGeneration)
    assert [reply["unique_request_id"] for reply in replies_of(before)] == ended
    assert all(reply["error_code"] == Code.INTERRUPT for reply in replies_of(before))
    assert [command.number for command in before if isinstance(command, EndGeneration)] == [
        numbers[name] for name in ended
    ]
    for name in ended:
        assert talk.session.chunk(numbers[name], "late") is None
        assert talk.end(numbers[name]) == []


def test_a_generation_may_supersede_its_own_id(talk: Talk) -> None:
    talk.load()
    first = talk.generate("a")
    done, end, ack, start = talk.say(type="generate", unique_request_id="a", messages=USER, supersedes="a")
    assert (done["error_name"], end) == ("INTERRUPT", EndGeneration(first))
    assert ack["type"] == "generate_ack"
    assert start.number != first


def test_a_generation_that_is_refused_supersedes_nothing(talk: Talk) -> None:
    talk.load()
    number = talk.generate("a", stream=True)
    talk.refused(supersedes="*", sentences=True)
    assert talk.session.chunk(number, "on") is not None


# ---- close, going away


def test_close_interrupts_what_is_open_and_refuses_what_comes(talk: Talk) -> None:
    talk.load()
    number = talk.generate("a", stream=True)
    start = only(talk.say(type="load", llm="two"), StartLoad)
    talk.say(type="load", llm="nobody")
    outputs = talk.say(type="close", unique_request_id="c")
    assert codes_of(outputs) == [("close_ack", None), ("load_done", "INTERRUPT"), ("load_done", "INTERRUPT")]
    assert outputs[1] == CancelLoad(start.ticket)
    assert outputs[-2:] == [EndGeneration(number), CloseModule()]
    assert talk.session.load_ended(start.ticket, LoadResult()) == []
    assert talk.session.chunk(number, "late") is None
    assert codes_of(talk.end(number)) == [("generate_stream_done", "INTERRUPT")]
    assert talk.session.settled


@pytest.mark.parametrize(
    ("message", "types"),
    [
        pytest.param({"type": "load", "llm": "one"}, ["load_ack", "load_done"], id="load"),
        pytest.param(
            {"type": "generate", "messages": USER}, ["generate_ack", "generate_done"], id="generate"
        ),
        pytest.param(
            {"type": "generate", "messages": USER, "stream": True},
            ["generate_ack", "generate_stream_done"],
            id="a streamed generate",
        ),
        pytest.param({"type": "interrupt"}, ["interrupt_ack"], id="interrupt"),
        pytest.param({"type": "get_providers"}, ["get_providers_done"], id="get_providers"),
        pytest.param({"type": "get_models"}, ["get_models_done"], id="get_models"),
        pytest.param({"type": "status"}, ["status_done"], id="status"),
    ],
)
def test_a_request_while_closing_is_answered_in_full_with_shutting_down(
    talk: Talk, message: dict[str, Any], types: list[str]
) -> None:
    talk.say(type="close")
    outputs = talk.say(**message)
    assert [reply["type"] for reply in outputs] == types
    assert outputs[-1]["error_code"] == Code.SHUTTING_DOWN


@pytest.mark.parametrize(
    "message",
    [
        pytest.param({"type": "load"}, id="load"),
        pytest.param({"type": "generate", "messages": []}, id="generate"),
    ],
)
def test_a_broken_request_while_closing_is_answered_in_full_too(talk: Talk, message: dict[str, Any]) -> None:
    talk.say(type="close")
    ack, done = talk.say(**message)
    assert (ack["type"], done["type"]) == (f"{message['type']}_ack", f"{message['type']}_done")
    assert done["is_error"] is True


def test_a_second_close_is_acknowledged_too(talk: Talk) -> None:
    talk.say(type="close")
    assert codes_of(talk.say(type="close", unique_request_id=2)) == [("close_ack", None)]


def test_a_client_that_may_not_close_is_told_so_and_nothing_closes() -> None:
    talk = Talk(may_close=False)
    talk.load()
    number = talk.generate("a", stream=True)
    (ack,) = talk.say(type="close", unique_request_id="c")
    assert (ack["type"], ack["unique_request_id"]) == ("close_ack", "c")
    assert ack["error_code"] == Code.AUTHORIZATION
    assert talk.session.chunk(number, "on") is not None
    talk.generate("b")


def test_an_id_in_use_is_a_duplicate_while_closing_too(talk: Talk) -> None:
    talk.load()
    talk.generate("a")
    talk.say(type="close")
    for kind in ("generate", "load"):
        (error,) = talk.say(type=kind, unique_request_id="a", messages=USER, llm="one")
        assert (error["type"], error["error_code"]) == ("error", Code.DUPLICATE_ID)


def test_after_a_disconnect_nothing_comes_out(talk: Talk) -> None:
    talk.load()
    number = talk.generate("a", stream=True)
    start = only(talk.say(type="load", llm="two", progress=True), StartLoad)
    (asked,) = talk.say(type="status")
    assert talk.session.disconnect() == [CancelLoad(start.ticket), EndGeneration(number)]
    assert talk.session.settled
    assert talk.session.disconnect() == []
    assert talk.session.close() == []
    assert talk.say(type="get_providers") == []
    assert talk.say_text("not JSON") == []
    assert talk.session.chunk(number, "late") is None
    assert talk.end(number) == []
    assert talk.session.load_ended(start.ticket, LoadResult()) == []
    assert talk.session.load_progress(start.ticket, "start", "Late.", None) == []
    assert talk.session.status(asked.ticket, {}) == []


# ---- questions


def test_get_providers_lists_ids_at_once(talk: Talk) -> None:
    assert talk.say(type="get_providers", unique_request_id="p") == [
        {"type": "get_providers_done", "unique_request_id": "p", "providers": ["one", "two", "three"]}
    ]


def test_get_providers_with_detail_adds_what_this_client_has_loaded(talk: Talk) -> None:
    talk.load("two")
    (ask,) = talk.say(type="get_providers", detail=True)
    assert isinstance(ask, AskProviders)
    assert not talk.session.settled
    (done,) = heard(talk.session.providers(ask.ticket, {"one": {"name": "One"}, "two": {"name": "Two"}}))
    assert done["providers"] == ["one", "two", "three"]
    assert done["details"] == {
        "one": {"name": "One", "loaded": False},
        "two": {"name": "Two", "loaded": True},
    }
    assert talk.session.providers(ask.ticket, {}) == []
    assert talk.session.settled


@pytest.mark.parametrize(
    ("fields", "models"),
    [
        pytest.param({}, ["c"], id="of the current provider"),
        pytest.param({"llm": "one"}, ["a", "b"], id="of another one, in the seed's field"),
        pytest.param({"provider": "one"}, ["a", "b"], id="of another one, in the SDK's field"),
        pytest.param({"provider": "zwei"}, ["c"], id="of an alias"),
        pytest.param({"provider": "three"}, [], id="of one that is not loaded"),
        pytest.param({"provider": "nobody"}, [], id="of nobody"),
    ],
)
def test_get_models_answers_from_what_load_learned(
    talk: Talk, fields: dict[str, Any], models: list[str]
) -> None:
    talk.load("one", models=("a", "b"))
    talk.load("two", models=("c",))
    (done,) = talk.say(type="get_models", unique_request_id="m", **fields)
    assert (done["type"], done["unique_request_id"], done["models"]) == ("get_models_done", "m", models)


def test_get_models_before_any_load_is_an_empty_list(talk: Talk) -> None:
    assert talk.say(type="get_models") == [{"type": "get_models_done", "models": []}]


def test_status_is_asked_and_answered_once(talk: Talk) -> None:
    (ask,) = talk.say(type="status", unique_request_id=3)
    assert isinstance(ask, AskStatus)
    report = {"version": "1", "uptime_s": 2.0, "workers": []}
    assert heard(talk.session.status(ask.ticket, report)) == [
        {"type": "status_done", "unique_request_id": 3, **report}
    ]
    assert talk.session.status(ask.ticket, report) == []


@pytest.mark.parametrize("kind", ["interrupt", "close", "get_providers", "get_models", "status"])
@pytest.mark.parametrize("field", ["llm", "provider"])
def test_a_provider_named_where_it_means_nothing_does_no_harm(talk: Talk, kind: str, field: str) -> None:
    outputs = talk.say(**{"type": kind, field: "one"})
    if kind == "status":
        outputs = heard(talk.session.status(outputs[0].ticket, {}))
    assert len(replies_of(outputs)) == 1


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        pytest.param(
            {"type": "get_providers", "detail": "perhaps"}, "get_providers_done", id="get_providers"
        ),
        pytest.param({"type": "get_models", "llm": 5}, "get_models_done", id="get_models"),
        pytest.param({"type": "status", "unique_request_id": []}, "status_done", id="status"),
        pytest.param({"type": "close", "unique_request_id": {}}, "close_ack", id="close"),
        pytest.param({"type": "interrupt", "unique_request_id": True}, "interrupt_ack", id="interrupt"),
    ],
)
def test_a_broken_request_is_answered_by_its_own_type(talk: Talk, message: dict[str, Any], kind: str) -> None:
    (reply,) = talk.say(**message)
    assert (reply["type"], reply["error_code"]) == (kind, Code.INVALID_REQUEST)


def test_a_request_without_a_rule_is_a_bug_and_not_silence(talk: Talk) -> None:
    with pytest.raises(AssertionError, match="no rule for Params"):
        talk.session.receive(Incoming(Kind.STATUS, Address(), Params()))


@pytest.mark.parametrize(
    ("sdk", "error"), [pytest.param(False, 1, id="seed"), pytest.param(True, "UNEXPECTED", id="SDK")]
)
def test_a_bug_of_ours_is_told_in_the_dialect_of_the_connection(talk: Talk, sdk: bool, error: Any) -> None:
    talk.load(sdk=sdk)
    (told,) = heard(talk.session.bug())
    assert (told["type"], told["error"], told["message"]) == ("error", error, BUG_MESSAGE)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"type":"sing"}', '{"type":7}', "{", "NaN"])
def test_what_cannot_be_attributed_is_an_error_and_the_talk_goes_on(talk: Talk, text: str) -> None:
    (error,) = talk.say_text(text)
    assert (error["type"], error["error_code"]) == ("error", Code.INVALID_REQUEST)
    assert "unique_request_id" not in error
    assert talk.load()[0]["is_error"] is False


# ---- calls of tools


def call_parts(talk: Talk, number: int, *arguments: str) -> list[Any]:
    """Pieces of one call, and what the client is sent of them."""
    pieces = [CallPart(0, "a1", "look", text) for text in arguments]
    return heard([output for piece in pieces for output in talk.session.call_part(number, piece)])


@pytest.mark.parametrize("sdk", [True, False], ids=["sdk", "seed"])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("deltas", [True, False, None])
def test_calls_are_on_the_end_and_their_pieces_are_for_who_asked(
    talk: Talk, stream: bool, deltas: bool | None, sdk: bool
) -> None:
    talk.load("one", sdk=sdk)
    number = talk.generate(stream=stream, tool_deltas=deltas)
    pieces = call_parts(talk, number, "{", "}")
    told = [(piece["type"], piece["unique_request_id"], piece["arguments"]) for piece in pieces]
    wanted = [("generate_tool_call_chunk", "g", "{"), ("generate_tool_call_chunk", "g", "}")]
    assert told == (wanted if stream and deltas else [])
    (done,) = talk.end(number, Outcome(finish_reason="tool_calls"))
    function = {"name": "look", "arguments": "{}"}
    assert done["tool_calls"] == [{"type": "function", "id": "a1", "function": function}]
    assert (done["finish_reason"], done["is_error"]) == ("tool_calls", False)
    assert done.get("response") == (None if stream else "")


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_half_a_call_is_not_told_of_what_failed(talk: Talk, stream: bool) -> None:
    talk.load("one")
    number = talk.generate(stream=stream)
    call_parts(talk, number, "{")
    (done,) = talk.end(number, Code.TRUNCATED)
    assert "tool_calls" not in done


def test_after_an_interrupt_no_piece_of_a_call_is_sent(talk: Talk) -> None:
    talk.load("one")
    number = talk.generate(stream=True, tool_deltas=True)
    assert len(call_parts(talk, number, "{")) == 1
    talk.say(type="interrupt")
    assert call_parts(talk, number, "}") == []
    (done,) = talk.end(number, Code.INTERRUPT)
    assert (done["finish_reason"], "tool_calls" in done) == ("interrupt", False)

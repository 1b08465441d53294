"""The contract of an adapter that speaks to a server, row by row, for every wire in tests/fakes/wires/.

Each test is a row and each of its cases a cell; the run prints the table. The adapter stands in the real host
(tests/fakes/served.py), so what is looked at is what the supervisor gets: chunks, signs of life, one end.
That no part of a key is in anything, and that nothing follows an end, is held in every cell.
"""

from __future__ import annotations

import asyncio
import codecs
import json
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any, Final

import pytest

from tests.fakes.bound import CANARY
from tests.fakes.http_server import WAIT_S, Exchange, FakeServer
from tests.fakes.served import VARIABLE, Outcome, Served, serving
from tests.fakes.wire import JSON, Behaviour, Call, Refused, Wire
from tests.fakes.wires import WIRES
from tests.workers.host_rig import body_of
from workers.adapter import Usage
from workers.codes import Code

HTML: Final = {"Content-Type": "text/html; charset=utf-8"}
SCRIPTS: Final = "é日😀"
"""Characters of two, three and four bytes."""
LOOPS: Final = 3
"""Turns of the loop after which what was written to a socket of this process has been read."""
HALF_AN_ANSWER: Final = 1000
"""The length that an answer claims which is cut after a few bytes."""
PLENTY: Final = 8
ATTEMPTS: Final = {500: 1, 502: 2, 503: 2, 504: 1, 529: 2}
QUIET_PIECES: Final = 8
"""More than there are in a stream beside its text: beginnings, ends, usage."""
GIANT: Final = 2 << 20
"""Twice what an event may have."""
TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "look_at",
        "description": "Looks.",
        "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
    },
}
CALLS: Final = (
    Call("call_1", "look_at", ('{"x"', ": 1}")),
    Call("call_2", "look_at", ('{"x": 2, "é": "😀"}',)),
)
calling = pytest.mark.parametrize(
    "wire", [wire for wire in WIRES if wire.carries_tools], ids=lambda wire: wire.name
)
"""For what wires that carry tools have."""
both = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])


@pytest.fixture(params=WIRES, ids=lambda wire: wire.name)
def wire(request: pytest.FixtureRequest) -> Wire:
    """Each wire in turn."""
    found: Wire = request.param
    return found


@pytest.fixture(autouse=True)
def applies(request: pytest.FixtureRequest, wire: Wire) -> None:
    """Rows that a wire does not have are skipped, with its reason."""
    row = getattr(request.node, "originalname", "").removeprefix("test_")
    if row in wire.absent:
        pytest.skip(wire.absent[row])


@pytest.fixture
async def served(wire: Wire, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Served]:
    """The adapter, loaded, before a server of its wire; its log shows no key."""
    async with serving(wire) as running:
        yield running
    assert CANARY[:8] not in caplog.text
    assert CANARY[-8:] not in caplog.text


@pytest.fixture
async def unloaded(wire: Wire) -> AsyncIterator[Served]:
    """The adapter before its load."""
    async with serving(wire, load=False) as running:
        yield running


def each(name: str, cases: Callable[[Wire], Iterable[Any]]) -> pytest.MarkDecorator:
    """Cases that each wire has its own of."""
    params = [
        pytest.param(wire, case, id=f"{wire.name}-{n}")
        for wire in WIRES
        for n, case in enumerate(cases(wire))
    ]
    return pytest.mark.parametrize(("wire", name), params)


def ended(outcome: Outcome, text: str = "Hello there.", reason: str = "stop") -> None:
    """It is a success with that text and that end."""
    assert (outcome.code, outcome.text, outcome.body["finish_reason"]) == (Code.SUCCESS, text, reason)


def refused(served: Served, status: int, message: str = "no", **headers: str) -> Behaviour:
    """An error of that wire."""
    return Behaviour(status=status, body=served.wire.error(status, message), headers=headers)


async def settled() -> None:
    """What was written has been read."""
    for _ in range(LOOPS):
        await asyncio.sleep(0)


# ---- good answers


async def test_a_piece_is_given_before_the_next_one_is_sent(served: Served) -> None:
    served.server.behaviour = Behaviour(texts=("one", "two"), gate_after=1)
    request = served.start()
    assert (await served.chunk(request)).chunks == ["one"]
    served.server.gate.set()
    ended(await served.outcome(request), "onetwo")


@both
async def test_a_reply_has_its_text_its_model_and_its_end(served: Served, stream: bool) -> None:
    outcome = await served.ask(stream=stream)
    ended(outcome)
    small = served.wire.names[0]
    assert (outcome.body["model"], outcome.body["retries"], outcome.warnings) == (small, 0, [])
    assert served.server.asked().streamed is (
        stream if served.wire.streamed is None else served.wire.streamed
    )


async def test_a_stream_is_read_at_every_split(served: Served) -> None:
    pieces = served.wire.events(Behaviour(texts=(SCRIPTS, "!"), reasoning=("hm",)))
    stream = b"".join(pieces)
    assert SCRIPTS.encode() in stream
    for cut in range(1, len(stream)):

        async def split(exchange: Exchange, cut: int = cut) -> None:
            await exchange.head(200, {"Content-Type": served.wire.stream_type}, chunked=True)
            await exchange.send(stream[:cut])
            await settled()
            await exchange.send(stream[cut:])
            await exchange.end()

        served.server.behaviour = split
        ended(await served.ask(), f"{SCRIPTS}!")


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_stream_that_drips_is_read_and_a_part_of_a_piece_is_no_life(
    served: Served, chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.reply.ALIVE_EVERY_S", 0.0)  # every sign of life is seen, however fast it is
    stream = b"".join(served.wire.events(Behaviour(texts=(SCRIPTS,))))

    async def drip(exchange: Exchange) -> None:
        await exchange.head(200, {"Content-Type": served.wire.stream_type}, chunked=chunked)
        for byte in stream:
            await exchange.send(bytes([byte]))
            await asyncio.sleep(0)
        await exchange.end()
        exchange.fin()

    served.server.behaviour = drip
    outcome = await served.ask()
    ended(outcome, SCRIPTS)
    assert outcome.alive <= QUIET_PIECES < len(stream)


async def test_pieces_that_say_nothing_are_life_and_no_text(served: Served) -> None:
    first, *rest = served.wire.events(Behaviour(texts=("Hi", "!")))
    served.server.behaviour = Behaviour(events=(first, *served.wire.quiet(), *rest))
    outcome = await served.ask()
    ended(outcome, "Hi!")
    assert outcome.alive >= 1


USAGES: Final = {
    "plain": Usage(7, 3),
    "cached": Usage(70, 3, cached_input_tokens=64),
    "reasoned": Usage(7, 30, reasoning_tokens=27),
    "all": Usage(70, 30, 64, 27),
}


@both
@pytest.mark.parametrize("name", USAGES)
async def test_usage_is_what_the_provider_reported(served: Served, name: str, stream: bool) -> None:
    told = {field: getattr(USAGES[name], field) for field in served.wire.counts}
    served.server.behaviour = Behaviour(usage=Usage(**told))
    outcome = await served.ask(stream=stream)
    expected = {field: told.get(field) for field in Usage.__dataclass_fields__}
    assert outcome.body["usage"] == (None if stream and not served.wire.stream_counts else expected)


@both
async def test_a_reply_without_usage_is_a_reply(served: Served, stream: bool) -> None:
    served.server.behaviour = Behaviour(usage=None)
    outcome = await served.ask(stream=stream)
    ended(outcome)
    assert outcome.body["usage"] is None


@both
@each("word", lambda wire: wire.reasons)
async def test_every_word_for_an_end_is_one_of_ours(served: Served, word: str, stream: bool) -> None:
    served.server.behaviour = Behaviour(finish_reason=word)
    ended(await served.ask(stream=stream), reason=served.wire.reasons[word])


async def test_an_end_that_nobody_knows_is_an_end(served: Served) -> None:
    served.server.behaviour = Behaviour(finish_reason="a_reason_of_tomorrow")
    ended(await served.ask())


async def test_what_is_said_after_an_end_is_no_less_a_part_of_the_reply(served: Served) -> None:
    too_early = served.wire.events(Behaviour(texts=("one",), usage=None, done=False))
    rest = served.wire.events(Behaviour(texts=(" two",)))
    served.server.behaviour = Behaviour(events=(*too_early, *rest), gate_after=len(too_early))
    request = served.start()
    await served.chunk(request)
    served.server.gate.set()
    ended(await served.outcome(request), "one two")


@both
async def test_reasoning_is_life_and_no_text(served: Served, stream: bool) -> None:
    served.server.behaviour = Behaviour(reasoning=("hm", "m"))
    outcome = await served.ask(stream=stream)
    ended(outcome)
    assert outcome.alive >= 1


@both
async def test_reasoning_alone_is_an_empty_reply_that_says_why(served: Served, stream: bool) -> None:
    served.server.behaviour = Behaviour(reasoning=("hm",), texts=(), finish_reason="length")
    outcome = await served.ask(stream=stream)
    ended(outcome, "", "length")
    assert outcome.warnings == ["EMPTY_REPLY"]
    assert "reasoning" in outcome.body["warnings"][0][1]


@both
async def test_a_reply_that_a_filter_took_is_content_filtered(served: Served, stream: bool) -> None:
    served.server.behaviour = Behaviour(texts=(), finish_reason="content_filter")
    assert (await served.ask(stream=stream)).code is Code.CONTENT_FILTERED


async def test_one_warm_connection_serves_load_and_all_requests(served: Served) -> None:
    for _ in range(3):
        ended(await served.ask(stream=True))
        ended(await served.ask(stream=False))
    assert served.server.connections == 1


async def test_requests_at_once_have_a_connection_each(served: Served) -> None:
    served.server.behaviour = Behaviour(gate_before_head=True)
    started = [served.start(str(number)) for number in range(PLENTY)]
    await served.server.received(PLENTY)
    served.server.gate.set()
    for request in started:
        ended(await served.outcome(request))


# ---- stop strings


@pytest.mark.parametrize("split", range(1, len("one STOP two")))
async def test_a_stop_string_cuts_wherever_it_is_split(served: Served, split: int) -> None:
    said = "one STOP two"
    served.server.behaviour = Behaviour(texts=(said[:split], said[split:]))
    ended(await served.ask(stop=["STOP"]), "one ")


async def test_a_stop_string_ends_the_request_upstream(served: Served) -> None:
    served.server.behaviour = Behaviour(texts=("one\n", "never"), gate_after=1)
    ended(await served.ask(stop=["\n"]), "one")
    await served.server.closed(0)


@both
async def test_any_number_of_stop_strings_holds_and_a_blank_one_is_never_sent(
    served: Served, stream: bool
) -> None:
    stops = ["\n\n", "\n", *(f"stop {number}" for number in range(40)), "the last"]
    served.server.behaviour = Behaviour(texts=("one the last two",))
    ended(await served.ask(stop=stops, stream=stream), "one ")
    sent = served.server.asked().stops
    assert set(sent) <= set(stops)
    assert all(stop.strip() for stop in sent)


async def test_what_the_provider_stopped_at_is_an_end(served: Served) -> None:
    ended(await served.ask(stop=["STOP"]))
    assert served.server.asked().stops == ("STOP",)


# ---- what is sent


def spoken(*messages: tuple[str, str, str | None]) -> list[dict[str, str | None]]:
    """Messages as a Generate has them."""
    return [{"role": role, "content": content, "name": name} for role, content, name in messages]


async def test_a_prompt_arrives_in_its_order_with_its_system_prompt(served: Served) -> None:
    messages = spoken(
        ("system", "You are Mia.", None),
        ("developer", "Be brief.", None),
        ("user", "First.", None),
        ("assistant", "Second.", None),
        ("system", "It rains.", None),
        ("user", f"Last. {SCRIPTS}", None),
    )
    ended(await served.ask(messages=messages))
    asked = served.server.asked()
    assert "You are Mia." in asked.system
    assert "Be brief." in asked.system
    text = "\n".join(turn.text for turn in asked.turns)
    found = [text.find(words) for words in ("First.", "Second.", "It rains.", f"Last. {SCRIPTS}")]
    assert -1 not in found
    assert found == sorted(found)
    assert [turn.role for turn in asked.turns][:2] == ["user", "assistant"]


@pytest.mark.parametrize("role", ["system", "assistant"])
async def test_a_prompt_without_a_user_is_sent_all_the_same(served: Served, role: str) -> None:
    ended(await served.ask(messages=spoken((role, "Words.", None))))
    asked = served.server.asked()
    assert "Words." in "\n".join((asked.system, *(turn.text for turn in asked.turns)))


@pytest.mark.parametrize("name", ["Ann B.", "初音", "Mia"])
@pytest.mark.parametrize("role", ["user", "assistant"])
async def test_a_name_is_a_field_or_the_beginning_of_the_text(served: Served, role: str, name: str) -> None:
    messages = spoken(("user", "Hello.", None), (role, "I say.", name), ("user", "Go on.", None))
    ended(await served.ask(messages=messages))
    turns = served.server.asked().turns
    assert any(f"{name}: I say." in turn.text or (turn.name and turn.text == "I say.") for turn in turns)


async def test_an_echo_of_the_characters_name_is_hidden(served: Served) -> None:
    served.server.behaviour = Behaviour(texts=("Mi", "a:", " Hello."))
    ended(await served.ask(character_name="Mia"), "Hello.")


async def test_a_role_that_is_not_supported_is_told(served: Served) -> None:
    outcome = await served.ask(messages=spoken(("narrator", "42", None)))
    assert outcome.code is Code.UNSUPPORTED
    assert served.server.requests == []


# ---- tools


async def test_tools_are_sent_as_they_are_or_left_out_and_told(served: Served) -> None:
    outcome = await served.ask(tools=[TOOL], tool_choice="auto")
    ended(outcome)
    sent = json.dumps(served.server.requests[0].body)
    if served.wire.carries_tools:
        assert outcome.warnings == []
        assert json.dumps(TOOL) in sent
        assert served.server.requests[0].body["tool_choice"] == "auto"
    else:
        told = [message.split()[0] for _, message in outcome.body["warnings"]]
        assert {"tools", "tool_choice"} <= set(told)
        assert TOOL["function"]["name"] not in sent


async def test_a_call_and_its_answer_are_sent_back_or_refused_with_what_to_do(served: Served) -> None:
    call = {"id": "call_1", "name": "look_at", "arguments": '{"x": 1}'}
    messages = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "A cat.", "tool_call_id": "call_1"},
    ]
    for told in (messages, messages[:2]):
        outcome = await served.ask(messages=told, tools=[TOOL])
        if not served.wire.carries_tools:
            assert outcome.code is Code.UNSUPPORTED
            assert "another provider" in outcome.message
            assert served.server.requests == []
            continue
        ended(outcome)
    if served.wire.carries_tools:
        sent = served.server.requests[0].body["messages"]
        assert sent[1]["tool_calls"][0]["function"] == {"name": "look_at", "arguments": '{"x": 1}'}
        assert sent[2] == {"role": "tool", "content": "A cat.", "tool_call_id": "call_1"}


@calling
@both
@pytest.mark.parametrize("texts", [(), ("Let me see. ",)], ids=["alone", "after text"])
@pytest.mark.parametrize("calls", [CALLS[:1], CALLS], ids=["one", "two"])
async def test_calls_come_whole_and_say_why_the_reply_ended(
    served: Served, calls: tuple[Call, ...], texts: tuple[str, ...], stream: bool
) -> None:
    for reason in ("tool_calls", "stop"):  # OpenAI says so where a tool was demanded by its name
        served.server.behaviour = Behaviour(texts=texts, calls=calls, finish_reason=reason)
        outcome = await served.ask(stream=stream, tools=[TOOL])
        ended(outcome, "".join(texts), "tool_calls")
        assert outcome.warnings == []
        wanted = {n: (call.id, call.name, "".join(call.arguments)) for n, call in enumerate(calls)}
        assert outcome.calls == wanted


@calling
async def test_a_piece_of_a_call_is_given_before_the_next_one_is_sent(served: Served) -> None:
    served.server.behaviour = Behaviour(texts=(), calls=CALLS, finish_reason="tool_calls", gate_after=2)
    request = served.start(tools=[TOOL])
    await served.called(request, CALLS[0].arguments[0])
    served.server.gate.set()
    ended(await served.outcome(request), "", "tool_calls")


@calling
async def test_an_interrupt_amid_a_call_closes_the_connection(served: Served) -> None:
    served.server.behaviour = Behaviour(texts=("Well. ",), calls=CALLS, gate_after=3)
    request = served.start(tools=[TOOL])
    await served.called(request, CALLS[0].arguments[0])
    await interrupted(served, request)


@calling
async def test_a_stream_that_is_cut_amid_a_call_is_truncated(served: Served) -> None:
    served.server.behaviour = Behaviour(texts=(), calls=CALLS, cut_after=2)
    assert (await served.ask(tools=[TOOL])).code is Code.TRUNCATED


@calling
async def test_a_call_without_end_is_ended_and_told(served: Served) -> None:
    endless = Call("call_1", "look_at", ('"' + "x" * 5000, "x" * 5000))
    served.server.behaviour = Behaviour(texts=(), calls=(endless,), gate_after=3)
    outcome = await served.ask(tools=[TOOL], max_output_length=1)
    assert (outcome.code, outcome.body["finish_reason"]) == (Code.SUCCESS, "length")
    assert outcome.warnings == ["OUTPUT_CUT", "TOOL_CALL_BROKEN"]
    await served.server.closed(0)


# ---- parameters


async def test_the_limit_the_model_and_the_key_are_sent(served: Served) -> None:
    large = served.wire.names[-1]
    ended(await served.ask(max_output_length=321, model=large))
    asked = served.server.asked()
    assert (asked.max_tokens, asked.model, asked.key) == (321, large, CANARY)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 2.0])
async def test_a_temperature_stays_within_the_wires_range_and_a_change_is_told(
    served: Served, temperature: float
) -> None:
    outcome = await served.ask(temperature=temperature)
    ended(outcome)
    kept = min(max(temperature, served.wire.temperature_min), served.wire.temperature_max)
    sent = served.server.asked().temperature
    assert sent == kept or (sent is None and kept == 1.0)  # 1.0 is what every provider takes for none
    assert outcome.warnings == ([] if kept == temperature else ["PARAMETER_CHANGED"])


async def test_parameters_that_the_wire_lacks_are_told(served: Served) -> None:
    sampling = {"top_p": 0.9, "top_k": 40, "min_p": 0.1, "presence_penalty": 0.5, "seed": 7}
    outcome = await served.ask(sampling=sampling)
    ended(outcome)
    body = json.dumps(served.server.requests[0].body)
    missing = [message.split()[0] for _, message in outcome.body["warnings"]]
    called = {name: served.wire.called.get(name, name) for name in sampling}
    assert all((name in missing) != (f'"{called[name]}"' in body) for name in sampling)


async def test_extra_is_passed_on_as_it_is(served: Served) -> None:
    ended(await served.ask(extra={"a_field_of_tomorrow": {"a": [1, None]}}))
    assert served.server.requests[0].body["a_field_of_tomorrow"] == {"a": [1, None]}


# ---- load


async def test_a_load_learns_the_models_with_the_key_and_pays_nothing(served: Served) -> None:
    body = body_of(await served.load())
    names = [*served.wire.names, *served.wire.also_listed]
    assert (body["models"], body["warnings"]) == (names, [])
    assert served.server.requests == []


@pytest.mark.parametrize("status", [401, 403])
async def test_a_load_with_a_refused_key_is_authorization(unloaded: Served, status: int) -> None:
    unloaded.server.models = refused(unloaded, status, f"bad key {CANARY}")
    bound = await unloaded.load()
    assert bound.code == Code.AUTHORIZATION
    assert VARIABLE in bound.message


async def test_a_load_without_verify_takes_a_refused_key(unloaded: Served) -> None:
    unloaded.server.models = refused(unloaded, 401)
    bound = await unloaded.load(verify=False)
    assert [name for name, _ in body_of(bound)["warnings"]] == ["NOT_CHECKED"]


@pytest.mark.parametrize(
    "models",
    [
        Behaviour(status=404, body=b"{}"),
        Behaviour(status=500, body=b""),
        Behaviour(status=429, body=b"{}"),
        Behaviour(body=b"<html>", headers=HTML),
        Behaviour(body=b""),
    ],
    ids=["404", "500", "429", "html", "empty"],
)
async def test_a_load_takes_anything_else_as_a_success_with_a_warning(
    unloaded: Served, models: Behaviour
) -> None:
    unloaded.server.models = models
    bound = await unloaded.load()
    assert (bound.code, body_of(bound)["models"]) == (0, [])
    assert [name for name, _ in body_of(bound)["warnings"]] == ["NOT_CHECKED"]
    ended(await unloaded.ask())


@pytest.mark.parametrize("listed", [b"[]", b"{}", b"null", b'{"data": 7}', b'{"data": [7, null, {}, []]}'])
async def test_a_list_of_models_that_is_none_is_no_reason_to_fail(unloaded: Served, listed: bytes) -> None:
    unloaded.server.models = Behaviour(body=listed)
    bound = await unloaded.load()
    assert (bound.code, body_of(bound)["models"]) == (0, [])


async def test_a_load_without_a_server_is_unreachable_and_says_where(unloaded: Served) -> None:
    async with FakeServer(unloaded.wire) as gone:
        base_url, port = gone.base_url, gone.port
    bound = await unloaded.load(base_url=base_url)
    assert bound.code == Code.UNREACHABLE
    assert f"127.0.0.1:{port}" in bound.message


async def test_a_load_without_an_address_asks_for_one(unloaded: Served) -> None:
    assert (await unloaded.load(base_url=None)).code == Code.INVALID_REQUEST


async def test_a_model_that_is_not_listed_is_refused_with_the_nearest(unloaded: Served) -> None:
    small = unloaded.wire.names[0]
    bound = await unloaded.load(preload_model=small[:-1])
    assert bound.code == Code.INVALID_MODEL
    assert small in bound.message


@pytest.mark.parametrize("key", ["sk\nbad", "schlüssel"])
async def test_a_key_that_no_header_can_hold_is_told(unloaded: Served, key: str) -> None:
    bound = await unloaded.load(key=key)
    assert bound.code == Code.AUTHORIZATION
    assert key not in bound.message
    assert unloaded.server.connections == 0


async def test_a_key_is_sent_without_the_white_space_around_it(unloaded: Served) -> None:
    await unloaded.load(key=f" {CANARY}\n")
    ended(await unloaded.ask())
    assert unloaded.server.asked().key == CANARY


# ---- refusals


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_is_authorization_without_retry_or_echo(
    served: Served, pauses: list[float], status: int
) -> None:
    served.server.behaviour = refused(served, status, f"Incorrect API key provided: {CANARY}.")
    outcome = await served.ask()
    assert (outcome.code, outcome.body["provider_status"]) == (Code.AUTHORIZATION, status)
    assert VARIABLE in outcome.message
    assert (len(served.server.requests), pauses) == (1, [])


@both
@each("refusal", lambda wire: wire.refusals().values())
async def test_a_refusal_is_told_in_our_codes(
    served: Served, pauses: list[float], refusal: Refused, stream: bool
) -> None:
    served.server.behaviour = Behaviour(status=refusal.status, body=refusal.body)
    outcome = await served.ask(stream=stream)
    assert (outcome.code, outcome.body["provider_status"]) == (refusal.code, refusal.status)
    assert (len(served.server.requests), pauses) == (1, [])


async def test_a_model_that_does_not_exist_is_told_with_the_nearest(served: Served) -> None:
    refusal = served.wire.refusals().get("model")
    if refusal is not None:
        served.server.behaviour = Behaviour(status=refusal.status, body=refusal.body)
    small = served.wire.names[0]
    outcome = await served.ask(model=small[:-1])
    assert outcome.code is Code.INVALID_MODEL
    assert f" {small}" in outcome.message


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_a_refusal_in_words_that_nobody_knows_has_the_code_of_its_status(
    served: Served, status: int
) -> None:
    served.server.behaviour = refused(served, status, "words")
    expected = {404: Code.UPSTREAM_PROTOCOL, 413: Code.CONTEXT_TOO_LONG}.get(status, Code.INVALID_PROMPT)
    assert (await served.ask()).code is expected


@pytest.mark.parametrize("body", [b"", b"<html>oops</html>", b"null", b'{"error": 7}', b"\xff" * 100])
async def test_a_refusal_without_words_has_the_code_of_its_status(served: Served, body: bytes) -> None:
    served.server.behaviour = Behaviour(status=400, body=body)
    assert (await served.ask()).code is Code.INVALID_PROMPT


def in_an_hour() -> str:
    """A date as a header has it."""
    return format_datetime(datetime.now(timezone.utc) + timedelta(hours=1), usegmt=True)


@pytest.mark.parametrize(
    ("header", "expected_ms", "hits"),
    [
        ("1", (1000, 1000), 2),
        ("0", (0, 0), 2),
        ("3600", (3_600_000, 3_600_000), 1),
        (in_an_hour(), (3_000_000, 3_600_000), 1),
        ("Wed, 21 Oct 2015 07:28:00 GMT", (0, 0), 2),
        ("soon", None, 2),
        ("-5", None, 2),
        (None, None, 2),
    ],
    ids=["1", "0", "3600", "date", "past", "garbage", "negative", "none"],
)
async def test_too_many_requests_tell_when_to_come_back_and_are_tried_once_more_if_it_fits(
    served: Served, pauses: list[float], header: str | None, expected_ms: tuple[int, int] | None, hits: int
) -> None:
    headers = {} if header is None else {"Retry-After": header}
    served.server.behaviour = refused(served, 429, "slow down", **headers)
    outcome = await served.ask()
    told = outcome.body["retry_after_ms"]
    assert (outcome.code, len(served.server.requests)) == (Code.RATE_LIMITED, hits)
    assert told is None if expected_ms is None else expected_ms[0] <= told <= expected_ms[1]
    assert len(pauses) == hits - 1
    assert all(pause >= (told or 0) / 1000 for pause in pauses)


@pytest.mark.parametrize("status", ATTEMPTS)
async def test_a_failing_provider_is_tried_at_most_twice(
    served: Served, pauses: list[float], status: int
) -> None:
    served.server.behaviour = Behaviour(status=status, body=b"<html>oops</html>", headers=HTML)
    outcome = await served.ask()
    assert (outcome.code, outcome.body["provider_status"]) == (Code.UPSTREAM_ERROR, status)
    assert len(served.server.requests) == ATTEMPTS[status]


async def test_a_retry_that_helps_is_told(served: Served, pauses: list[float]) -> None:
    served.server.script = [Behaviour(status=503, body=b"")]
    outcome = await served.ask()
    ended(outcome)
    assert outcome.body["retries"] == 1


async def test_no_retry_that_does_not_fit_the_timeout(served: Served, pauses: list[float]) -> None:
    served.server.behaviour = Behaviour(status=503, body=b"{}")
    assert (await served.ask(timeout_ms=100)).code is Code.UPSTREAM_ERROR
    assert (len(served.server.requests), pauses) == (1, [])


async def test_nothing_is_tried_again_once_something_arrived(served: Served, pauses: list[float]) -> None:
    served.server.behaviour = Behaviour(cut_after=1)
    assert (await served.ask()).code is Code.TRUNCATED
    assert len(served.server.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_never_followed_and_its_target_sees_nothing(served: Served, status: int) -> None:
    async with FakeServer(served.wire) as other:
        for target in (f"{other.base_url}/x?key=1", "/elsewhere", f"http://{CANARY}.example/"):
            served.server.behaviour = Behaviour(status=status, body=b"", headers={"Location": target})
            outcome = await served.ask()
            assert (outcome.code, outcome.body["provider_status"]) == (Code.UPSTREAM_PROTOCOL, status)
            assert "redirect" in outcome.message
        assert other.connections == 0


async def test_a_load_follows_no_redirect_either(unloaded: Served) -> None:
    async with FakeServer(unloaded.wire) as other:
        unloaded.server.models = Behaviour(status=307, body=b"", headers={"Location": f"{other.base_url}/x"})
        assert [name for name, _ in body_of(await unloaded.load())["warnings"]] == ["NOT_CHECKED"]
        assert other.connections == 0


# ---- silence and interrupts; the clock is the supervisor's


async def interrupted(served: Served, request: int) -> None:
    """A cancel ends the request as interrupted, and the server has seen its connection close; where a wire
    has a request for it, the server has been told besides."""
    served.cancel(request)
    outcome = await served.outcome(request)
    assert (outcome.code, outcome.body["finish_reason"]) == (Code.INTERRUPT, "interrupt")
    assert outcome.body["upstream_closed_ms"] is not None
    await served.server.closed(0)
    if served.wire.cancels:
        await served.server.cancelled(0)


@both
async def test_an_interrupt_before_the_headers_closes_the_connection(served: Served, stream: bool) -> None:
    served.server.behaviour = Behaviour(gate_before_head=True)
    request = served.start(stream=stream)
    await served.server.awaited(1)
    await interrupted(served, request)


async def test_an_interrupt_before_the_first_piece_closes_the_connection(served: Served) -> None:
    served.server.behaviour = Behaviour(gate_after=0)
    request = served.start()
    await served.server.awaited(1)
    await settled()
    await interrupted(served, request)


async def test_an_interrupt_amid_a_stream_closes_that_connection_and_no_other(served: Served) -> None:
    served.server.behaviour = Behaviour(gate_after=1)
    request = served.start()
    await served.chunk(request)
    neighbour = served.start("neighbour")
    await served.chunk(neighbour)
    await interrupted(served, request)
    served.server.gate.set()
    ended(await served.outcome(neighbour))


async def test_an_interrupt_amid_a_whole_answer_closes_the_connection(served: Served) -> None:
    begun = asyncio.Event()

    async def half(exchange: Exchange) -> None:
        await exchange.head(200, {"Content-Type": JSON}, length=HALF_AN_ANSWER)
        await exchange.send(b"{")
        begun.set()
        await exchange.server.gate.wait()

    served.server.behaviour = half
    request = served.start(stream=False)
    await asyncio.wait_for(begun.wait(), WAIT_S)
    await interrupted(served, request)


async def test_an_interrupt_amid_an_error_closes_the_connection(served: Served) -> None:
    begun = asyncio.Event()

    async def half(exchange: Exchange) -> None:
        await exchange.head(400, {"Content-Type": JSON}, length=HALF_AN_ANSWER)
        begun.set()
        await exchange.server.gate.wait()

    served.server.behaviour = half
    request = served.start()
    await asyncio.wait_for(begun.wait(), WAIT_S)
    await interrupted(served, request)


async def test_an_interrupt_while_a_retry_waits_sends_nothing_more(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = asyncio.Event()

    async def pause(seconds: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("workers.upstream.Upstream.pause", staticmethod(pause))
    served.server.behaviour = Behaviour(status=503, body=b"")
    request = served.start()
    await asyncio.wait_for(waiting.wait(), WAIT_S)
    served.cancel(request)
    assert (await served.outcome(request)).code is Code.INTERRUPT
    assert len(served.server.requests) == 1


async def test_comments_are_no_life_and_an_interrupt_ends_them(served: Served) -> None:
    begun = asyncio.Event()

    async def comments(exchange: Exchange) -> None:
        await exchange.head(200, {"Content-Type": served.wire.stream_type}, chunked=True)
        await exchange.send(served.wire.comment * 3)
        await settled()
        begun.set()
        await exchange.server.gate.wait()

    served.server.behaviour = comments
    request = served.start()
    await asyncio.wait_for(begun.wait(), WAIT_S)
    await interrupted(served, request)
    assert (await served.outcome(request)).alive == 0


# ---- garbage


@each("garbage", lambda wire: wire.garbage)
async def test_garbage_is_one_protocol_error_after_the_text_so_far(served: Served, garbage: bytes) -> None:
    served.server.behaviour = Behaviour(events=(*served.wire.said("Hi"), garbage, served.wire.text("never")))
    outcome = await served.ask()
    assert (outcome.code, outcome.text) == (Code.UPSTREAM_PROTOCOL, "Hi")


@both
@pytest.mark.parametrize(
    "answer",
    [
        Behaviour(body=b"<html>Hello</html>", headers=HTML),
        Behaviour(body=b""),
        Behaviour(body=b"", headers={"Content-Type": "text/event-stream"}),
        Behaviour(status=204, body=b""),
        Behaviour(status=206, body=b"{}"),
    ],
    ids=["html", "empty", "empty stream", "204", "206"],
)
async def test_what_is_no_answer_is_a_protocol_error(served: Served, answer: Behaviour, stream: bool) -> None:
    served.server.behaviour = answer
    assert (await served.ask(stream=stream)).code is Code.UPSTREAM_PROTOCOL


@both
@each("body", lambda wire: wire.sees_nothing)
async def test_json_that_is_no_answer_is_a_protocol_error(served: Served, body: bytes, stream: bool) -> None:
    served.server.behaviour = Behaviour(body=body)
    assert (await served.ask(stream=stream)).code is Code.UPSTREAM_PROTOCOL


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "to the end"])
@pytest.mark.parametrize("cut", ["fin", "rst"])
async def test_a_cut_stream_is_truncated_and_never_a_success(served: Served, cut: str, chunked: bool) -> None:
    pieces = served.wire.said("1", "2", "3")

    async def cut_off(exchange: Exchange) -> None:
        await exchange.head(200, {"Content-Type": served.wire.stream_type}, chunked=chunked)
        for data in pieces:
            await exchange.send(data)
        await exchange.server.gate.wait()
        exchange.fin() if cut == "fin" else exchange.reset()

    served.server.behaviour = cut_off
    request = served.start()
    await served.chunk(request, 3)
    served.server.gate.set()
    outcome = await served.outcome(request)
    assert (outcome.code, outcome.text) == (Code.TRUNCATED, "123")


async def test_a_stream_that_ends_regularly_without_its_end_is_truncated(served: Served) -> None:
    served.server.behaviour = Behaviour(events=served.wire.said("Hi"))
    outcome = await served.ask()
    assert (outcome.code, outcome.text) == (Code.TRUNCATED, "Hi")


async def test_a_stream_cut_inside_a_piece_is_truncated(served: Served) -> None:
    half = served.wire.text("never")[:-4]
    served.server.behaviour = Behaviour(events=(*served.wire.said("Hi"), half))
    outcome = await served.ask()
    assert (outcome.code, outcome.text) == (Code.TRUNCATED, "Hi")


async def test_a_cut_after_the_model_said_that_it_ended_is_a_success(served: Served) -> None:
    behaviour = Behaviour(usage=None, done=False)
    count = len(served.wire.events(behaviour))
    served.server.behaviour = Behaviour(
        events=(*served.wire.events(behaviour), b""), cut_after=count, cut="fin"
    )
    ended(await served.ask())


async def test_a_whole_answer_that_is_cut_is_truncated(served: Served) -> None:
    async def cut_off(exchange: Exchange) -> None:
        await exchange.head(200, {"Content-Type": JSON}, length=HALF_AN_ANSWER)
        await exchange.send(b"{")
        exchange.fin()

    served.server.behaviour = cut_off
    assert (await served.ask(stream=False)).code is Code.TRUNCATED


async def test_a_server_that_hangs_up_without_an_answer_is_unreachable(
    served: Served, pauses: list[float]
) -> None:
    async def hang_up(exchange: Exchange) -> None:
        exchange.fin()

    served.server.behaviour = hang_up
    assert (await served.ask()).code is Code.UNREACHABLE


async def test_a_warm_connection_that_the_server_has_closed_costs_one_retry(
    served: Served, pauses: list[float]
) -> None:
    async def hang_up(exchange: Exchange) -> None:
        exchange.fin()

    served.server.script = [hang_up]
    outcome = await served.ask()
    ended(outcome)
    assert outcome.body["retries"] == 1


@pytest.mark.parametrize("begun", [True, False], ids=["after text", "at once"])
@each("failure", lambda wire: wire.stream_errors().items())
async def test_an_error_inside_a_stream_is_mapped(
    served: Served, pauses: list[float], failure: tuple[bytes, Code], begun: bool
) -> None:
    data, code = failure
    before = served.wire.said("Hi") if begun else ()
    served.server.behaviour = Behaviour(events=(*before, data, served.wire.text("never")))
    outcome = await served.ask()
    assert (outcome.code, outcome.text) == (code, "Hi" if begun else "")
    assert len(served.server.requests) == 1


@both
async def test_an_error_in_the_place_of_an_answer_is_mapped(served: Served, stream: bool) -> None:
    served.server.behaviour = Behaviour(body=served.wire.error(200, f"the context length of {CANARY}"))
    assert (await served.ask(stream=stream)).code is Code.CONTEXT_TOO_LONG


async def test_a_giant_piece_is_refused(served: Served) -> None:
    giant = served.wire.text("x" * GIANT)
    served.server.behaviour = Behaviour(events=(*served.wire.said("Hi"), giant))
    outcome = await served.ask()
    assert (outcome.code, outcome.text) == (Code.UPSTREAM_PROTOCOL, "Hi")


async def test_a_stream_without_end_is_ended_and_told(served: Served) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.head(200, {"Content-Type": served.wire.stream_type}, chunked=True)
        await exchange.send(b"".join(served.wire.said("Hi")))
        while True:
            await exchange.send(served.wire.text("x" * 100))

    served.server.behaviour = endless
    outcome = await served.ask(max_output_length=10)
    assert (outcome.code, outcome.body["finish_reason"]) == (Code.SUCCESS, "length")
    assert outcome.warnings == ["OUTPUT_CUT"]
    await served.server.closed(0)


async def test_data_after_the_end_is_not_read(served: Served) -> None:
    events = served.wire.events(Behaviour(texts=("Hi",)))
    after = (events[-1], served.wire.text("never"), *served.wire.garbage)
    served.server.behaviour = Behaviour(events=(b"".join((*events, *after)), *after))
    ended(await served.ask(), "Hi")
    served.server.behaviour = Behaviour()
    ended(await served.ask())


@pytest.mark.parametrize("usage", [Usage(7, 3), None], ids=["usage told", "not told"])
async def test_a_server_that_goes_silent_after_its_end_is_not_waited_for(
    served: Served, usage: Usage | None
) -> None:
    pieces = b"".join(served.wire.events(Behaviour(texts=("Hi",), done=False, usage=usage)))

    async def mute(exchange: Exchange) -> None:
        await exchange.head(200, {"Content-Type": served.wire.stream_type}, chunked=True)
        await exchange.send(pieces)
        await exchange.server.gate.wait()

    served.server.behaviour = mute
    ended(await served.ask(), "Hi")
    await served.server.closed(0)


async def test_a_server_that_does_not_stream_is_understood_all_the_same(served: Served) -> None:
    served.server.behaviour = Behaviour(body=served.wire.whole(Behaviour(texts=("Hi",))))
    ended(await served.ask(stream=True), "Hi")


async def test_a_whole_answer_may_begin_with_a_byte_order_mark(served: Served) -> None:
    body = codecs.BOM_UTF8 + served.wire.whole(Behaviour(texts=("Hi",)))
    served.server.behaviour = Behaviour(body=body)
    ended(await served.ask(stream=False), "Hi")

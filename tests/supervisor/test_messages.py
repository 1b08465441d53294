"""What a client says becomes a request, or a failure that names what is wrong; nothing makes it raise."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.messages import (
    ROLES,
    Address,
    Broken,
    Called,
    FunctionCall,
    Generate,
    Incoming,
    Interrupt,
    Kind,
    Load,
    Parsed,
    Unreadable,
    parse,
    request_id,
)
from workers.codes import Code

USER: dict[str, Any] = {"role": "user", "content": "Hello"}


NAMELESS: dict[str, Any] = {"id": "a", "function": {"name": ""}}
NAMED: dict[str, Any] = {"id": "a", "function": {"name": "look", "arguments": "{}"}}
CUSTOM: dict[str, Any] = {**NAMED, "type": "custom"}
NO_ID: Final = ".tool_call_id is missing: it names the call that the tool answers."
NO_CALLER: Final = "; only an assistant calls tools."
NO_NAME: Final = " needs an id and the name of a function."
OF_TOOLS: list[tuple[dict[str, Any], str]] = [
    ({"role": "tool", "content": "x"}, NO_ID),
    ({"role": "tool", "content": "x", "tool_call_id": ""}, NO_ID),
    ({"role": "function", "content": "x"}, ".name is missing: it names the function that answers."),
    ({"role": "user", "content": "x", "tool_calls": [NAMED]}, f" is of role user{NO_CALLER}"),
    ({"role": "system", "content": "x", "function_call": {"name": "f"}}, f" is of role system{NO_CALLER}"),
    ({"role": "assistant", "tool_calls": [{**NAMED, "id": ""}]}, f".tool_calls[0]{NO_NAME}"),
    ({"role": "assistant", "tool_calls": [NAMED, NAMELESS]}, f".tool_calls[1]{NO_NAME}"),
    ({"role": "assistant", "tool_calls": [CUSTOM]}, ".tool_calls[0].type must be function."),
]
"""Messages that break a rule, and how the sentence about it goes on."""


def message(kind: str = "generate", **fields: Any) -> bytes:
    body = {"messages": [USER], **fields} if kind == "generate" else fields
    return json.dumps({"type": kind, **body}).encode()


def generate(**fields: Any) -> Generate:
    parsed = parse(message(**fields))
    assert isinstance(parsed, Incoming), parsed
    assert isinstance(parsed.body, Generate)
    return parsed.body


def params(**fields: Any) -> Any:
    return generate(params=fields).params


def content(raw: str) -> Any:
    """The content of a message whose JSON text is written out."""
    parsed = parse(f'{{"type":"generate","messages":[{{"role":"user","content":{raw}}}]}}'.encode())
    assert isinstance(parsed, Incoming), parsed
    return parsed.body.messages[0].content


def broken(data: bytes) -> str:
    """The sentence of a request that is read and breaks the protocol."""
    parsed = parse(data)
    assert isinstance(parsed, Broken), parsed
    assert parsed.failure.code is Code.INVALID_REQUEST
    return parsed.failure.message


def unreadable(data: bytes) -> str:
    parsed = parse(data)
    assert isinstance(parsed, Unreadable), parsed
    assert parsed.address == Address()
    assert parsed.failure.code is Code.INVALID_REQUEST
    return parsed.failure.message


# ---- what is no request


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b" \n", id="white space"),
        pytest.param(b"hello", id="a word"),
        pytest.param(b"[]", id="an array"),
        pytest.param(b"null", id="null"),
        pytest.param(b'"status"', id="a string"),
        pytest.param(b"7", id="a number"),
        pytest.param(b'{"type":"status"', id="cut"),
        pytest.param(b'{"type":"status"}}', id="too long"),
        pytest.param(b'{"type":"status"} {"type":"status"}', id="two"),
        pytest.param(b'\xef\xbb\xbf{"type":"status"}', id="a byte order mark"),
        pytest.param(b'{"type":"status",}', id="a comma too many"),
        pytest.param(b"{'type':'status'}", id="single quotes"),
        pytest.param(b'{"type":"status","x":NaN}', id="NaN"),
        pytest.param(b'{"type":"status","x":Infinity}', id="Infinity"),
        pytest.param(b'{"type":"status","x":[-Infinity]}', id="-Infinity"),
        pytest.param(b'{"type":"status","unique_request_id":NaN}', id="NaN as id"),
        pytest.param(b'{"type":"status","unique_request_id":01}', id="a leading zero"),
        pytest.param(b'{"type":"status","x":"\\x"}', id="an unknown escape"),
        pytest.param(b'{"type":"status","x":"\\ud83"}', id="a cut escape"),
        pytest.param(b'{"type":"status","x":"\\ud83d', id="cut after half a pair"),
        pytest.param(b'{"type":"status\x00"', id="a null byte"),
        pytest.param(b'{"type":"generate","messages":' + b"[" * 200_000, id="deep"),
        pytest.param(
            b'{"type":"generate","messages":' + b"[" * 200_000 + b"]" * 200_000 + b"}", id="deep, closed"
        ),
    ],
)
def test_what_is_not_a_json_object_is_told_so(data: bytes) -> None:
    assert unreadable(data) == "The message is not a JSON object."


@pytest.mark.parametrize(
    "data", [b"{}", b'{"type":null}', b'{"type":7}', b'{"type":["load"]}', b'{"Type":"load"}']
)
def test_an_object_without_a_type_is_told_so(data: bytes) -> None:
    assert unreadable(data) == "The message has no type."


def test_an_unknown_type_is_told_the_known_ones() -> None:
    sentence = unreadable(b'{"type":"sing"}')
    assert "'sing'" in sentence
    assert all(kind.value in sentence for kind in Kind)


def test_an_unknown_type_is_shown_shortened() -> None:
    assert len(unreadable(message("x" * 10_000))) < 200


INVALID_UTF8 = [
    pytest.param(b"\xff", id="no UTF-8 at all"),
    pytest.param(b"\xc3", id="a cut character"),
    pytest.param(b"\xed\xa0\xbd", id="half a pair as bytes"),
    pytest.param(b"\xc0\x80", id="overlong"),
]
POSITIONS = [
    pytest.param(b'{"type":"%s"}', id="type"),
    pytest.param(b'{"type":"load","llm":"%s"}', id="llm"),
    pytest.param(b'{"type":"load","provider":"%s"}', id="provider"),
    pytest.param(b'{"type":"status","unique_request_id":"%s"}', id="id"),
    pytest.param(b'{"type":"interrupt","target_request_id":"%s"}', id="target"),
    pytest.param(b'{"type":"generate","messages":[{"role":"user","content":"%s"}]}', id="content"),
    pytest.param(b'{"type":"status","unknown":"%s"}', id="an unknown field"),
    pytest.param(b'{"type":"status","%s":1}', id="a name"),
    pytest.param(b"%s", id="outside"),
]


@pytest.mark.parametrize("bad", INVALID_UTF8)
@pytest.mark.parametrize("template", POSITIONS)
def test_what_is_not_utf8_is_told_so_wherever_it_stands(template: bytes, bad: bytes) -> None:
    assert unreadable(template % bad) == "The message is not UTF-8."


def test_utf8_in_a_binary_frame_is_read_like_text() -> None:
    text = '{"type":"load","provider":"größe 漢字 🌸"}'
    assert parse(text.encode()) == parse(text)


# ---- lone surrogates


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(r'"\ud83d"', "\ufffd", id="high"),
        pytest.param(r'"\ude00"', "\ufffd", id="low"),
        pytest.param(r'"\uD83D \uDE00"', "\ufffd \ufffd", id="apart"),
        pytest.param(r'"\ud83d\ude00"', "😀", id="a pair"),
        pytest.param(r'"\uD83D\uDE00"', "😀", id="a pair in capitals"),
        pytest.param(r'"\ude00\ud83d"', "\ufffd\ufffd", id="the wrong way round"),
        pytest.param(r'"\ud83d\ud83d\ude00"', "\ufffd😀", id="a high before a pair"),
        pytest.param(r'"\ud83d\ude00\ude00"', "😀\ufffd", id="a low after a pair"),
        pytest.param(r'"\ud83d\ud83d\ud83d"', "\ufffd" * 3, id="three highs"),
        pytest.param(r'"\ud83dx"', "\ufffdx", id="before a letter"),
        pytest.param(r'"\ud83d\n"', "\ufffd\n", id="before an escape"),
        pytest.param(r'"\ud83d\u0041"', "\ufffdA", id="before an escaped letter"),
        pytest.param(r'"\\ud83d"', "\\ud83d", id="an escaped backslash"),
        pytest.param(r'"\\ud83d \ud83d"', "\\ud83d \ufffd", id="both"),
        pytest.param(r'"\\\ud83d"', "\\\ufffd", id="after an escaped backslash"),
        pytest.param(r'"\\\\ud83d\ude00"', "\\\\ud83d\ufffd", id="two escaped backslashes"),
        pytest.param(r'"\"\ud83d\""', '"\ufffd"', id="between escaped quotes"),
        pytest.param(r'"\ud7ff\ue000"', "\ud7ff\ue000", id="neighbours of the range"),
    ],
)
def test_half_a_surrogate_pair_becomes_a_replacement_character(raw: str, expected: str) -> None:
    assert content(raw) == expected


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            r'{"type":"load","llm":"g\ud83d","options":{"\ude00":["\ud83d"]}}', id="everywhere in load"
        ),
        pytest.param(r'{"type":"status","x":"\ud83d"}', id="an unknown field"),
        pytest.param(r'{"type":"status","\ud83d":1}', id="a name"),
        pytest.param(r'{"type":"interrupt","target_request_id":"\ud83d"}', id="a target"),
        pytest.param(r'{"type":"status","unique_request_id":"\ud83d"}', id="an id"),
    ],
)
def test_half_a_surrogate_pair_fails_no_message(text: str) -> None:
    assert isinstance(parse(text.encode()), Incoming)


def test_half_a_pair_in_decoded_text_becomes_a_replacement_character() -> None:
    parsed = parse('{"type":"load","llm":"a\ud83d"}')
    assert isinstance(parsed, Incoming)
    assert parsed.body.llm == "a\ufffd"


def test_an_id_and_a_target_with_the_same_half_pair_are_the_same_id() -> None:
    asked = parse(rb'{"type":"generate","unique_request_id":"\ud83d","messages":[]}')
    aimed = parse(rb'{"type":"interrupt","target_request_id":"\uD83D"}')
    assert isinstance(aimed, Incoming)
    assert isinstance(aimed.body, Interrupt)
    target = request_id(aimed.body.target_request_id, "target_request_id")
    assert target is not None
    assert asked.address.id is not None
    assert asked.address.id.key == target.key


@given(st.text(st.characters(categories=["L", "Cs", "P", "So"]), max_size=20))
def test_a_string_with_any_surrogates_keeps_all_other_characters(text: str) -> None:
    expected = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert content(json.dumps(text)) == expected


# ---- ids


@pytest.mark.parametrize(
    ("raw", "equal"),
    [
        ('"a"', '"a"'),
        ('"a"', r'"\u0061"'),
        ("1", "1.0"),
        ("100", "1e2"),
        ("-0", "0"),
        ("9" * 250, "9" * 250),
        (r'"\ud83d"', r'"\ude00"'),
    ],
)
def test_equal_ids_have_equal_keys_and_come_back_as_they_came(raw: str, equal: str) -> None:
    one, other = request_id(msgspec.Raw(raw), "id"), request_id(msgspec.Raw(equal), "id")
    assert one is not None
    assert other is not None
    assert one.key == other.key
    assert str(one) == raw


def test_a_number_and_its_text_are_two_ids() -> None:
    number, text = request_id(msgspec.Raw("1"), "id"), request_id(msgspec.Raw('"1"'), "id")
    assert number is not None
    assert text is not None
    assert number.key != text.key


@pytest.mark.parametrize("raw", ["", "null"])
def test_a_missing_id_is_none(raw: str) -> None:
    assert request_id(msgspec.Raw(raw), "id") is None


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        pytest.param("{}", "must be a string or a number", id="an object"),
        pytest.param("[1]", "must be a string or a number", id="an array"),
        pytest.param("true", "must be a string or a number", id="true"),
        pytest.param("false", "must be a string or a number", id="false"),
        pytest.param('"' + "x" * 255 + '"', "longer than 256", id="a long string"),
        pytest.param("1" * 257, "longer than 256", id="a long number"),
        pytest.param("[" * 100_000 + "]" * 100_000, "longer than 256", id="a deep one"),
        pytest.param("1e999", "", id="a number out of range"),
    ],
)
@pytest.mark.parametrize("kind", ["status", "generate", "load"])
def test_an_id_that_is_none_breaks_the_request_and_is_named(kind: str, raw: str, why: str) -> None:
    if len(raw) > 100_000:
        raw = "[" * 200 + "]" * 200  # deeper ones are no JSON object for a reader with a bounded stack
    data = f'{{"type":"{kind}","llm":"x","unique_request_id":{raw}}}'.encode()
    sentence = broken(data)
    assert sentence.startswith("unique_request_id ")
    assert why in sentence
    assert parse(data).address == Address(None, llm="x")


# ---- fields


@pytest.mark.parametrize(
    ("data", "path"),
    [
        pytest.param(message(messages=None), "messages: ", id="messages null"),
        pytest.param(message(messages={}), "messages: ", id="messages an object"),
        pytest.param(message(messages=[USER, 5]), "messages[1]: ", id="a message"),
        pytest.param(message(messages=[{"content": "x"}]), "messages[0]: ", id="no role"),
        pytest.param(message(messages=[USER, {"role": 5}]), "messages[1].role: ", id="role"),
        pytest.param(
            message(messages=[{"role": "user", "content": 5}]), "messages[0].content: ", id="content"
        ),
        pytest.param(
            message(messages=[{"role": "user", "content": [{"type": "text"}, {"type": "text", "text": 1}]}]),
            "messages[0].content[1].text: ",
            id="a part",
        ),
        pytest.param(message(messages=[{**USER, "name": []}]), "messages[0].name: ", id="name"),
        pytest.param(message(params=[]), "params: ", id="params"),
        pytest.param(message(params={"temperature": "warm"}), "params.temperature: ", id="temperature"),
        pytest.param(message(params={"model_id": 5}), "params.model_id: ", id="model_id"),
        pytest.param(
            message(params={"max_output_length": 1.5}), "params.max_output_length: ", id="half a token"
        ),
        pytest.param(
            message(params={"max_output_length": True}), "params.max_output_length: ", id="a boolean"
        ),
        pytest.param(message(params={"stop_tokens": "x"}), "params.stop_tokens: ", id="one stop string"),
        pytest.param(
            message(params={"stop_tokens": ["x", 1.5]}), "params.stop_tokens[1]: ", id="half a stop"
        ),
        pytest.param(message(params={"stop_tokens": [None]}), "params.stop_tokens[0]: ", id="no stop"),
        pytest.param(message(params={"timeout_ms": []}), "params.timeout_ms: ", id="timeout_ms"),
        pytest.param(message(params={"top_k": {}}), "params.top_k: ", id="top_k"),
        pytest.param(message(params={"extra": []}), "params.extra: ", id="extra"),
        pytest.param(message(params={"response_format": "json"}), "params.response_format: ", id="format"),
        pytest.param(message(params={"tools": {}}), "params.tools: ", id="tools"),
        pytest.param(message(params={"tools": [{}, "look"]}), "params.tools[1]: ", id="a tool"),
        pytest.param(message(params={"tool_choice": 5}), "params.tool_choice: ", id="tool_choice"),
        pytest.param(
            message(messages=[{"role": "assistant", "tool_calls": [{"id": "a"}]}]),
            "messages[0].tool_calls[0]: ",
            id="a call without a function",
        ),
        pytest.param(
            message(messages=[{"role": "tool", "content": "x", "tool_call_id": 5}]),
            "messages[0].tool_call_id: ",
            id="tool_call_id",
        ),
        pytest.param(message(stream=[]), "stream: ", id="stream"),
        pytest.param(message(fallback="x"), "fallback: ", id="fallback"),
        pytest.param(
            b'{"type":"generate","params":{"temperature":1e999}}', "params.temperature: ", id="1e999"
        ),
        pytest.param(
            b'{"type":"load","llm":"x","options":{"a":1e999}}', "options[...]: ", id="1e999, unnamed"
        ),
        pytest.param(message("load", llm=5), "llm: ", id="llm"),
        pytest.param(message("load", llm="x", provider=["x"]), "provider: ", id="provider"),
        pytest.param(message("load", llm="x", api_key=5), "api_key: ", id="api_key"),
        pytest.param(message("load", llm="x", options=[]), "options: ", id="options"),
        pytest.param(message("load", llm="x", verify=2), "verify: ", id="verify"),
        pytest.param(message("get_models", llm=5), "llm: ", id="get_models"),
        pytest.param(message("get_providers", detail=[]), "detail: ", id="get_providers"),
    ],
)
def test_a_wrong_type_is_a_sentence_that_names_the_path(data: bytes, path: str) -> None:
    sentence = broken(data)
    assert sentence.startswith(path)
    assert sentence.endswith(".")
    assert "$" not in sentence


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        pytest.param(message(messages=[]), "messages must hold at least one message.", id="no messages"),
        pytest.param(
            b'{"type":"generate"}', "messages must hold at least one message.", id="messages missing"
        ),
        pytest.param(
            message(messages=[USER, {"role": "robot"}]),
            f"messages[1].role must be one of {', '.join(ROLES)}.",
            id="role",
        ),
        *(
            pytest.param(message(messages=[USER, said]), f"messages[1]{why}", id=f"tools {number}")
            for number, (said, why) in enumerate(OF_TOOLS)
        ),
        pytest.param(message("load"), "load must name a provider, in provider or in llm.", id="no provider"),
        pytest.param(
            message("load", llm=""), "load must name a provider, in provider or in llm.", id="empty"
        ),
        pytest.param(
            message("load", llm="a", provider="b"), "llm and provider name two different providers.", id="two"
        ),
        *(
            pytest.param(
                message(params={name: value}), f"params.{name} must be at least 1.", id=f"{name} {value}"
            )
            for name in ("max_output_length", "timeout_ms", "first_token_timeout_ms")
            for value in (0, -5, -0.0)
        ),
    ],
)
def test_what_breaks_a_rule_is_told_the_rule(data: bytes, sentence: str) -> None:
    assert broken(data) == sentence


def test_a_broken_request_keeps_its_id_its_names_and_whether_it_streams() -> None:
    parsed = parse(
        b'{"type":"generate","unique_request_id":1e2,"llm":"a","provider":"b","stream":true,"messages":5}'
    )
    assert isinstance(parsed, Broken)
    assert (parsed.kind, parsed.stream) == (Kind.GENERATE, True)
    assert (str(parsed.address.id), parsed.address.llm, parsed.address.provider) == ("1e2", "a", "b")


@pytest.mark.parametrize("value", ["true", '"true"', "1", '"1"'])
def test_whether_a_request_streams_does_not_depend_on_its_being_broken(value: str) -> None:
    good = parse(f'{{"type":"generate","stream":{value},"messages":[{json.dumps(USER)}]}}'.encode())
    bad = parse(f'{{"type":"generate","stream":{value},"messages":[]}}'.encode())
    assert isinstance(bad, Broken)
    assert bad.stream == (isinstance(good, Incoming) and good.body.stream)


@pytest.mark.parametrize(
    "name", ["max_output_length", "timeout_ms", "first_token_timeout_ms", "top_k", "seed"]
)
def test_an_integral_float_is_an_integer(name: str) -> None:
    value = getattr(params(**{name: 200.0}), name)
    assert (value, type(value)) == (200, int)


def test_a_stop_string_stays_a_string_and_a_stop_id_an_integer() -> None:
    stops = params(stop_tokens=["5", 5.0, 7, "null", "1e3", "true", ""]).stop_tokens
    assert [(stop, type(stop)) for stop in stops] == [
        ("5", str), (5, int), (7, int), ("null", str), ("1e3", str), ("true", str), ("", str)
    ]  # fmt: skip


def test_words_that_look_like_json_stay_words() -> None:
    body = generate(
        messages=[{"role": "user", "content": "null", "name": "5"}],
        params={"model_id": "null", "character_name": "true", "reasoning_effort": "1"},
    )
    assert (body.messages[0].content, body.messages[0].name) == ("null", "5")
    assert body.params is not None
    assert (body.params.model_id, body.params.character_name) == ("null", "true")
    assert body.params.reasoning_effort == "1"


def test_null_on_every_optional_field_is_as_if_it_were_missing() -> None:
    names = [name for name in Generate.__struct_fields__ if name not in ("messages", "params", "supersedes")]
    plain = generate(params={})
    given_null = generate(**dict.fromkeys(names), params={}, supersedes=None)
    assert plain.params is not None
    assert [getattr(given_null, name) for name in names] == [getattr(plain, name) for name in names]
    assert request_id(given_null.supersedes, "supersedes") is None
    assert generate(params=None).params is None
    optional = [name for name in plain.params.__struct_fields__ if name != "timeout_ms"]
    assert params(**dict.fromkeys(optional)) == plain.params


def test_timeout_ms_tells_null_from_missing() -> None:
    assert params().timeout_ms is msgspec.UNSET
    assert params(timeout_ms=None).timeout_ms is None


@pytest.mark.parametrize("kind", list(Kind))
def test_unknown_fields_are_ignored_and_null_ids_are_none(kind: Kind) -> None:
    needed = {"llm": "x"} if kind is Kind.LOAD else {}
    parsed = parse(message(kind.value, **needed, unique_request_id=None, future={"a": [1, None]}))
    assert isinstance(parsed, Incoming)
    assert (parsed.kind, parsed.address.id) == (kind, None)


def test_of_a_key_that_comes_twice_the_last_counts() -> None:
    parsed = parse(
        b'{"type":"load","unique_request_id":1,"llm":"a","unique_request_id":2,"llm":"b","type":"load"}'
    )
    assert isinstance(parsed, Incoming)
    assert (str(parsed.address.id), parsed.address.llm, parsed.body.llm) == ("2", "b", "b")


def test_escapes_in_names_and_types_are_read() -> None:
    parsed = parse(rb'{"ty\u0070e":"lo\u0061d","pro\u0076ider":"gro\u0071"}')
    assert isinstance(parsed, Incoming)
    assert parsed.address == Address(provider="groq")


def test_provider_wins_over_llm_where_they_agree() -> None:
    parsed = parse(message("load", llm="a", provider="a"))
    assert isinstance(parsed, Incoming)
    assert parsed.body.name == "a"


def test_a_load_never_shows_its_key() -> None:
    parsed = parse(message("load", llm="a", api_key="sk-canary"))
    assert isinstance(parsed, Incoming)
    assert isinstance(parsed.body, Load)
    assert parsed.body.api_key == "sk-canary"
    assert "canary" not in repr(parsed)
    assert "None" in repr(Load(llm="a"))


# ---- hostile


@pytest.mark.parametrize("depth", [10, 100, 500, *range(930, 1000, 3), 2_000, 20_000, 100_000])
@pytest.mark.parametrize(
    "template",
    [
        pytest.param('{"type":"generate","messages":[%s]}', id="known"),
        pytest.param('{"type":"load","llm":"x","options":{"a":%s}}', id="free"),
        pytest.param('{"type":"status","unknown":%s}', id="unknown"),
        pytest.param('{"type":"status","unique_request_id":%s}', id="id"),
    ],
)
def test_no_depth_makes_it_raise(template: str, depth: int) -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        nested = opening * depth + "1" + closing * depth
        assert isinstance(parse((template % nested).encode()), Incoming | Broken | Unreadable)


@pytest.mark.parametrize("digits", [20, 300, 4_300, 5_000, 100_000])
def test_no_number_of_digits_makes_it_raise(digits: int) -> None:
    for field in ("unique_request_id", "params", "stream", "x"):
        parse(f'{{"type":"generate","{field}":{"9" * digits},"messages":[]}}'.encode())
    parse(
        f'{{"type":"generate","messages":[{json.dumps(USER)}],"params":{{"seed":{"9" * digits}}}}}'.encode()
    )


def assert_is_sound(parsed: Parsed) -> None:
    """Whatever was said, there is a request or a sentence that can be sent."""
    if isinstance(parsed, Incoming):
        return
    parsed.failure.message.encode()
    assert parsed.failure.code is Code.INVALID_REQUEST
    assert parsed.failure.message


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(
    [
        *("unique_request_id", "llm", "provider", "stream", "messages", "params", "options", "api_key"),
        *("supersedes", "target_request_id", "detail", "verify", "fallback", "sentences"),
    ]
)


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_noise_never_makes_it_raise(noise: bytes | str) -> None:
    assert_is_sound(parse(noise))


@given(st.sampled_from(list(Kind)), st.dictionaries(fields, json_values, max_size=5))
def test_fields_of_any_type_never_make_it_raise(kind: Kind, said: dict[str, Any]) -> None:
    parsed = parse(json.dumps({"type": kind.value, **said}).encode())
    assert_is_sound(parsed)
    assert not isinstance(parsed, Unreadable) or "Infinity" in json.dumps(said)


@given(st.data())
def test_a_damaged_message_never_makes_it_raise(data: st.DataObject) -> None:
    whole = bytearray(
        rb'{"type":"generate","unique_request_id":"\ud83d","llm":"groq","stream":true,"messages":'
        rb'[{"role":"user","content":[{"type":"text","text":"h\u00e9"}]}],"params":{"stop_tokens":["a",1]}}'
    )
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    assert_is_sound(parse(bytes(whole)))


def test_a_call_and_its_answer_are_read_in_the_shape_in_which_calls_are_told() -> None:
    told = {"id": "a1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    body = generate(
        messages=[
            {"role": "assistant", "content": None, "tool_calls": [told]},
            {"role": "tool", "content": "A cat.", "tool_call_id": "a1"},
            {"role": "assistant", "function_call": {"name": "look", "arguments": {"at": 1.0}}},
            {"role": "function", "name": "look", "content": "A dog."},
        ],
        params={"tools": [{"type": "function"}], "tool_choice": {"type": "function"}},
    )
    call, answer, old, _ = body.messages
    assert call.tool_calls == [Called("a1", FunctionCall("look", "{}"), "function")]
    assert answer.tool_call_id == "a1"
    assert old.function_call == FunctionCall("look", {"at": 1.0})


@pytest.mark.parametrize("field", ["extra", "response_format", "tool_choice"])
@pytest.mark.parametrize(("levels", "fits"), [(64, True), (65, False)])
def test_what_is_passed_on_as_it_is_has_a_bound_on_its_nesting(field: str, levels: int, fits: bool) -> None:
    nested = '{"a":' * (levels - 1) + "{}" + "}" * (levels - 1)
    text = (
        f'{{"type":"generate","messages":[{{"role":"user","content":"x"}}],"params":{{"{field}":{nested}}}}}'
    )
    parsed = parse(text)
    assert isinstance(parsed, Incoming) is fits
    if isinstance(parsed, Broken):
        assert parsed.failure.message == f"params.{field} is nested more than 64 levels deep."

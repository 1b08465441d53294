"""The exact JSON of every reply, in both dialects, and that no reply has a type that was not agreed on."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from supervisor import replies
from supervisor.errors import Failure
from supervisor.messages import Address, RequestId
from supervisor.replies import (
    CalledFunction,
    CalledTool,
    ChunkEncoder,
    CloseAck,
    Dialect,
    ErrorReply,
    GenerateAck,
    GenerateDone,
    GenerateStreamDone,
    GetModelsDone,
    GetProvidersDone,
    InterruptAck,
    LoadAck,
    LoadDone,
    LoadProgress,
    StatusDone,
    ToolCallChunk,
    WarningNote,
    encode,
    failed,
    named,
    succeeded,
)
from workers.codes import Code

ID = RequestId(b"1e2", 100.0)
SEED = Address(ID, llm="groq")
SDK = Address(ID, provider="groq")
ANONYMOUS = Address()
ADDRESSES = {Dialect.SEED: SEED, Dialect.SDK: SDK}
FAILURE = Failure(Code.RATE_LIMITED, 'Too many requests to "groq".', 1500, 429)


def identified() -> dict[str, Any]:
    return {"unique_request_id": SEED.raw_id}


FAILED = (
    '"is_error":true,"error":%s,"error_code":12,"error_name":"RATE_LIMITED",'
    '"message":"Too many requests to \\"groq\\".","retryable":true,'
    '"retry_after_ms":1500,"provider_status":429'
)
ERROR = {Dialect.SEED: "12", Dialect.SDK: '"UNEXPECTED"'}
SUCCESS = {Dialect.SEED: '"is_error":false,"error":0', Dialect.SDK: '"is_error":false,"error":"SUCCESS"'}
NAME = {Dialect.SEED: '"llm":"groq"', Dialect.SDK: '"provider":"groq"'}


@pytest.mark.parametrize("dialect", Dialect, ids=lambda dialect: dialect.value)
def test_a_success_in_each_dialect(dialect: Dialect) -> None:
    to, done = named(ADDRESSES[dialect]), succeeded(dialect)
    assert encode(LoadAck(**to)).decode() == f'{{"type":"load_ack","unique_request_id":1e2,{NAME[dialect]}}}'
    assert encode(LoadDone(**to, **done, models_count=0, timings_ms={"start": 5})).decode() == (
        f'{{"type":"load_done","unique_request_id":1e2,{SUCCESS[dialect]},{NAME[dialect]},'
        '"models_count":0,"timings_ms":{"start":5}}'
    )
    reply = GenerateDone(**identified(), **done, finish_reason="stop", response="Hi 🌸")
    assert encode(reply).decode() == (
        f'{{"type":"generate_done","unique_request_id":1e2,{SUCCESS[dialect]},'
        '"finish_reason":"stop","response":"Hi 🌸"}'
    )


@pytest.mark.parametrize("dialect", Dialect, ids=lambda dialect: dialect.value)
def test_a_failure_in_each_dialect(dialect: Dialect) -> None:
    to, fields = named(ADDRESSES[dialect]), failed(FAILURE, dialect)
    told = FAILED % ERROR[dialect]
    assert encode(LoadDone(**to, **fields)).decode() == (
        f'{{"type":"load_done","unique_request_id":1e2,{told},{NAME[dialect]}}}'
    )
    assert encode(ErrorReply(**fields)).decode() == f'{{"type":"error",{told}}}'
    reply = GenerateStreamDone(**identified(), **fields, finish_reason="error")
    assert encode(reply).decode() == (
        f'{{"type":"generate_stream_done","unique_request_id":1e2,{told},"finish_reason":"error"}}'
    )


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        pytest.param(GenerateAck(), '{"type":"generate_ack"}', id="generate_ack"),
        pytest.param(
            GenerateDone(response=None, partial_response=""),
            '{"type":"generate_done","response":null,"partial_response":""}',
            id="generate_done, nothing",
        ),
        pytest.param(
            GenerateDone(response=""), '{"type":"generate_done","response":""}', id="generate_done, empty"
        ),
        pytest.param(
            GenerateStreamDone(
                model="m",
                usage={"output_tokens": 0},
                upstream_closed_ms=0,
                timings_ms={"total": 1},
                warnings=[WarningNote("EMPTY_REPLY", "Nothing was said.")],
                retries=1,
            ),
            '{"type":"generate_stream_done","model":"m","usage":{"output_tokens":0},"upstream_closed_ms":0,'
            '"timings_ms":{"total":1},"warnings":[{"name":"EMPTY_REPLY","message":"Nothing was said."}],'
            '"retries":1}',
            id="generate_stream_done",
        ),
        pytest.param(
            GenerateStreamDone(
                finish_reason="tool_calls",
                tool_calls=[CalledTool("a1", CalledFunction("look", '{"at":"é"}'))],
            ),
            '{"type":"generate_stream_done","finish_reason":"tool_calls","tool_calls":[{"type":"function",'
            '"id":"a1","function":{"name":"look","arguments":"{\\"at\\":\\"é\\"}"}}]}',
            id="calls",
        ),
        pytest.param(
            ToolCallChunk(index=0, id="a1", name="look", arguments=""),
            '{"type":"generate_tool_call_chunk","index":0,"id":"a1","name":"look","arguments":""}',
            id="a piece of a call",
        ),
        pytest.param(
            InterruptAck(interrupted=[msgspec.Raw(b'"a"'), msgspec.Raw(b"1e2")]),
            '{"type":"interrupt_ack","interrupted":["a",1e2]}',
            id="interrupt_ack",
        ),
        pytest.param(
            InterruptAck(interrupted=[]), '{"type":"interrupt_ack","interrupted":[]}', id="nothing ended"
        ),
        pytest.param(CloseAck(), '{"type":"close_ack"}', id="close_ack"),
        pytest.param(
            LoadProgress(llm="a", phase="import", message="Importing.", fraction=None),
            '{"type":"load_progress","llm":"a","phase":"import","message":"Importing.","fraction":null}',
            id="load_progress",
        ),
        pytest.param(
            GetProvidersDone(providers=["a"]),
            '{"type":"get_providers_done","providers":["a"]}',
            id="providers",
        ),
        pytest.param(
            GetProvidersDone(providers=["a"], details={"a": {"loaded": True}}),
            '{"type":"get_providers_done","providers":["a"],"details":{"a":{"loaded":true}}}',
            id="details",
        ),
        pytest.param(GetModelsDone(models=[]), '{"type":"get_models_done","models":[]}', id="models"),
        pytest.param(
            StatusDone(version="1", uptime_s=0.5, workers=[{"provider": "a", "pid": None}]),
            '{"type":"status_done","version":"1","uptime_s":0.5,"workers":[{"provider":"a","pid":null}]}',
            id="status",
        ),
    ],
)
def test_what_is_known_is_there_and_nothing_else(reply: replies.Reply, expected: str) -> None:
    assert encode(reply).decode() == expected


def test_no_reply_has_a_type_that_the_contract_does_not_name() -> None:
    structs = [t for t in vars(replies).values() if isinstance(t, type) and issubclass(t, msgspec.Struct)]
    kinds = {t.__struct_config__.tag for t in structs if not t.__name__.startswith("_")} - {None}
    assert kinds == {
        "function",
        "error",
        "load_ack",
        "load_progress",
        "load_done",
        "generate_ack",
        "generate_done",
        "generate_stream_done",
        "generate_tool_call_chunk",
        "interrupt_ack",
        "close_ack",
        "get_providers_done",
        "get_models_done",
        "status_done",
    }


@pytest.mark.parametrize("code", list(Code)[1:], ids=lambda code: code.name)
def test_every_code_is_told_in_both_forms(code: Code) -> None:
    seed, sdk = (failed(Failure(code, "Why."), dialect) for dialect in (Dialect.SEED, Dialect.SDK))
    assert (seed["error"], sdk["error"]) == (int(code), code.sdk_name)
    assert {**seed, "error": 0} == {**sdk, "error": 0}
    assert (seed["error_code"], seed["error_name"], seed["retryable"]) == (
        int(code),
        code.name,
        code.retryable,
    )
    assert seed["retry_after_ms"] is seed["provider_status"] is None


@pytest.mark.parametrize(
    ("address", "fields"),
    [
        pytest.param(ANONYMOUS, {}, id="nothing"),
        pytest.param(SEED, {"unique_request_id": 100.0, "llm": "groq"}, id="seed"),
        pytest.param(SDK, {"unique_request_id": 100.0, "provider": "groq"}, id="SDK"),
        pytest.param(Address(llm="", provider="b"), {"llm": "", "provider": "b"}, id="both"),
    ],
)
def test_a_reply_is_addressed_as_its_request_was(address: Address, fields: dict[str, Any]) -> None:
    assert json.loads(encode(LoadAck(**named(address)))) == {"type": "load_ack", **fields}


@pytest.mark.parametrize("text", ["Hi", '"\\', "\n\x00\u2028", "🌸 漢字", " "])
@pytest.mark.parametrize("address", [ANONYMOUS, SEED], ids=["without id", "with id"])
def test_a_chunk_is_the_same_message_as_if_it_were_encoded_whole(address: Address, text: str) -> None:
    message = ChunkEncoder(address).encode(text)
    expected = {"type": "generate_stream_chunk", "unique_request_id": 100.0, "chunk": text}
    if address is ANONYMOUS:
        del expected["unique_request_id"]
    assert json.loads(message) == expected
    assert (b'"unique_request_id":1e2,' in message) == (address is SEED)

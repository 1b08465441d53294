"""Amazon Bedrock's Converse wire, as the service model inside botocore 1.44.8 and recorded streams have it.

A stream is of binary frames, which are written here by their description and read by the vendor's package.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final
from urllib.parse import parse_qs, unquote, urlsplit

from tests.fakes.wire import Asked, Behaviour, Received, Refused, Turn, Wire
from workers.adapter import FinishReason, Usage
from workers.adapters.bedrock import Bedrock
from workers.codes import Code

__all__ = ["BedrockWire", "delta", "failed", "frame", "summary", "told"]

TEXT: Final = 7
"""The kind of a header's value."""
PADDING: Final = "abcdefghij"
"""A field of every payload, so that nobody can tell pieces by their length."""


def frame(payload: bytes, **headers: str) -> bytes:
    """A frame: lengths, their sum, headers, payload, the sum of all; `message_type` is `:message-type`."""
    head = b""
    for name, value in headers.items():
        key, text = f":{name.replace('_', '-')}".encode(), value.encode()
        head += bytes([len(key)]) + key + bytes([TEXT]) + len(text).to_bytes(2, "big") + text
    prelude = (16 + len(head) + len(payload)).to_bytes(4, "big") + len(head).to_bytes(4, "big")
    data = prelude + _sum(prelude) + head + payload
    return data + _sum(data)


def _sum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big")


def told(event: str, **fields: Any) -> bytes:
    """An event of the stream."""
    payload = json.dumps({**fields, "p": PADDING}, ensure_ascii=False).encode()
    return frame(payload, event_type=event, content_type="application/json", message_type="event")


def failed(kind: str, message: str) -> bytes:
    """An error of the stream."""
    payload = json.dumps({"message": message}).encode()
    return frame(payload, exception_type=kind, content_type="application/json", message_type="exception")


def delta(index: int = 0, **fields: Any) -> bytes:
    """A piece of a block."""
    return told("contentBlockDelta", contentBlockIndex=index, delta=fields)


class BedrockWire(Wire):
    """Its streams are messages of blocks; why they ended and what they cost comes in two events."""

    name = "bedrock"
    adapter = Bedrock
    mount = ""
    stream_type = "application/vnd.amazon.eventstream"
    quirks: ClassVar[Mapping[str, Any]] = {"stop_max": 4, "models_complete": True}
    reasons: ClassVar[Mapping[str, FinishReason]] = {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "malformed_model_output": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "tool_use": "tool_calls",
        "malformed_tool_use": "tool_calls",
        "guardrail_intervened": "content_filter",
        "content_filtered": "content_filter",
    }
    usual: ClassVar[Mapping[str, str]] = {
        "stop": "end_turn",
        "length": "max_tokens",
        "tool_calls": "tool_use",
        "content_filter": "content_filtered",
    }
    called: ClassVar[Mapping[str, str]] = {"top_p": "topP"}
    counts = ("input_tokens", "output_tokens", "cached_input_tokens")
    temperature_max = 1.0
    sees_nothing = (
        *(b"null", b"[]", b"{}", b"{nonsense"),
        *(b'{"output": {}}', b'{"output": {"message": null}, "stopReason": "end_turn"}'),
    )
    garbage = (
        told("contentBlockDelta")[:-4] + b"\0\0\0\0",
        b"\0\0\0\x10\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\0\0\0\0",
        b'data: {"contentBlockDelta": 1}\n\n',
        frame(b"{nonsense", event_type="contentBlockDelta", message_type="event"),
        frame(
            b'{"delta":{"text":"\xff"}}',
            event_type="contentBlockDelta",
            message_type="event",
        ),
        frame(b"[" * 100_000, event_type="contentBlockDelta", message_type="event"),
    )
    absent: ClassVar[Mapping[str, str]] = {
        "comments_are_no_life_and_an_interrupt_ends_them": "a stream of frames has no comments",
    }

    def events(self, behaviour: Behaviour) -> list[bytes]:
        pieces = list(self._blocks(behaviour))
        start = told("messageStart", role="assistant")
        result = [start + pieces[0], *pieces[1:]] if pieces else [start]
        if behaviour.finish_reason is not None:
            stop = told("messageStop", stopReason=self._reason(behaviour))
            result.append(told("contentBlockStop", contentBlockIndex=0) + stop)
        if behaviour.usage is not None:
            metrics = {"latencyMs": 802}
            result.append(told("metadata", metrics=metrics, usage=_usage(behaviour.usage)))
        return result

    def _blocks(self, behaviour: Behaviour) -> Iterator[bytes]:
        """Each piece of reasoning and text, with what closes the block before it."""
        before = b""
        for thought in behaviour.reasoning:
            yield delta(reasoningContent={"text": thought})
        if behaviour.reasoning:
            before = delta(reasoningContent={"signature": "Ep0C"})
            before += told("contentBlockStop", contentBlockIndex=0)
        for text in behaviour.texts:
            yield before + delta(1 if behaviour.reasoning else 0, text=text)
            before = b""

    def _reason(self, behaviour: Behaviour) -> str | None:
        reason = behaviour.finish_reason
        return None if reason is None else self.usual.get(reason, reason)

    def whole(self, behaviour: Behaviour) -> bytes:
        content: list[dict[str, Any]] = []
        if behaviour.reasoning:
            thought = {"text": "".join(behaviour.reasoning), "signature": "EvYB"}
            content.append({"reasoningContent": {"reasoningText": thought}})
        content.append({"text": "".join(behaviour.texts)})
        usage = {} if behaviour.usage is None else {"usage": _usage(behaviour.usage)}
        answer = {
            "output": {"message": {"role": "assistant", "content": content}},
            "stopReason": self._reason(behaviour),
            "metrics": {"latencyMs": 802},
            **usage,
        }
        return json.dumps(answer).encode()

    def text(self, text: str) -> bytes:
        return delta(text=text)

    def quiet(self) -> tuple[bytes, ...]:
        return (
            delta(text=""),
            delta(toolUse={"input": "{}"}),
            delta(reasoningContent={"redactedContent": "RXA="}),
            told(
                "contentBlockStart", contentBlockIndex=1, start={"toolUse": {"toolUseId": "x", "name": "y"}}
            ),
            told("aKindOfTomorrow", text="never"),
            frame(b"", event_type="initial-response", message_type="event"),
        )

    def error(self, status: int, message: str) -> bytes:
        return json.dumps({"message": message}).encode()

    def refusals(self) -> Mapping[str, Refused]:
        def refused(status: int, code: Code, message: str, name: str = "message") -> Refused:
            return Refused(status, json.dumps({name: message}).encode(), code)

        return {
            "parameter": refused(
                400,
                Code.INVALID_PROMPT,
                "The maximum tokens you requested exceeds the model limit of 4096. Try again with a maximum "
                "tokens value that is lower than 4096.",
            ),
            "too long": refused(400, Code.CONTEXT_TOO_LONG, "Input is too long for requested model."),
            "too long, as its maker says": refused(
                400,
                Code.CONTEXT_TOO_LONG,
                "The model returned the following errors: prompt is too long: 200049 tokens > 200000 maximum",
            ),
            "model": refused(400, Code.INVALID_MODEL, "The provided model identifier is invalid."),
            "model, only by a profile": refused(
                400,
                Code.INVALID_MODEL,
                "Invocation of model ID x with on-demand throughput isn’t supported. Retry your request with "
                "the ID or ARN of an inference profile that contains this model.",
            ),
            "key": refused(403, Code.AUTHORIZATION, "The security token included in the request is invalid."),
            "access": refused(
                403, Code.AUTHORIZATION, "You don't have access to the model with the specified model ID."
            ),
            "permission": refused(
                403,
                Code.AUTHORIZATION,
                "User: x is not authorized to perform: bedrock:InvokeModel",
                "Message",
            ),
            "time": refused(408, Code.UPSTREAM_ERROR, "Model has timed out in processing the request."),
            "the model's own": refused(424, Code.UPSTREAM_ERROR, "The system encountered an error."),
        }

    def stream_errors(self) -> Mapping[bytes, Code]:
        return {
            failed("throttlingException", "Too many tokens, please wait"): Code.RATE_LIMITED,
            failed("modelStreamErrorException", "Model Stream Error"): Code.UPSTREAM_ERROR,
            failed("internalServerException", "The system encountered"): Code.UPSTREAM_ERROR,
            failed("serviceUnavailableException", "Try again"): Code.UPSTREAM_ERROR,
            failed("validationException", "Malformed input request"): Code.INVALID_PROMPT,
            failed("validationException", "Input is too long for requested model."): Code.CONTEXT_TOO_LONG,
            failed("anExceptionOfTomorrowException", "x"): Code.UPSTREAM_ERROR,
            frame(b"", error_code="InternalError", error_message="x", message_type="error"): (
                Code.UPSTREAM_ERROR
            ),
        }

    def models(self, names: Sequence[str], received: Received) -> bytes:
        parts = urlsplit(received.path)
        if parts.path == "/inference-profiles":
            assert parse_qs(parts.query)["maxResults"] == ["1000"]
            return json.dumps({"inferenceProfileSummaries": []}).encode()
        assert (parts.path, parse_qs(parts.query)) == ("/foundation-models", {"byOutputModality": ["TEXT"]})
        return json.dumps({"modelSummaries": [summary(name) for name in names]}).encode()

    def streams(self, received: Received) -> bool:
        return received.path.endswith("/converse-stream")

    def asked(self, received: Received) -> Asked:
        body = received.body
        _, kind, model, way = received.path.split("/")
        assert (kind, way in ("converse", "converse-stream")) == ("model", True)
        turns = tuple(Turn(item["role"], _joined(item["content"])) for item in body["messages"])
        roles = ("user", "assistant")
        assert all(turn.role == roles[n % 2] for n, turn in enumerate(turns))
        inference = body["inferenceConfig"]
        scheme, _, key = received.headers.get("authorization", "").partition(" ")
        return Asked(
            model=unquote(model),
            system=_joined(body.get("system", [])),
            turns=turns,
            stops=tuple(inference.get("stopSequences", ())),
            max_tokens=inference["maxTokens"],
            temperature=inference.get("temperature"),
            key=key if scheme == "Bearer" else None,
            streamed=self.streams(received),
        )


def summary(name: str, *, streams: bool = True, kinds: Sequence[str] = ("ON_DEMAND",)) -> dict[str, Any]:
    """A model as it is listed."""
    return {
        "modelId": name,
        "modelArn": f"arn:aws:bedrock:us-east-1::foundation-model/{name}",
        "responseStreamingSupported": streams,
        "inferenceTypesSupported": list(kinds),
        "outputModalities": ["TEXT"],
    }


def _joined(blocks: list[dict[str, str]]) -> str:
    assert all(block["text"].strip() for block in blocks)
    return "\n".join(block["text"] for block in blocks)


def _usage(usage: Usage | Mapping[str, Any]) -> Mapping[str, Any]:
    """Input is counted without what came from a cache."""
    if not isinstance(usage, Usage):
        return usage
    cached = usage.cached_input_tokens
    fresh = (usage.input_tokens or 0) - (cached or 0)
    result = {"inputTokens": fresh, "outputTokens": usage.output_tokens, "totalTokens": 10}
    return (
        result if cached is None else {**result, "cacheReadInputTokens": cached, "cacheWriteInputTokens": 0}
    )

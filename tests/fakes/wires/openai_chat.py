"""The OpenAI wire, `POST /chat/completions`, as its providers document it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tests.fakes.wire import Asked, Behaviour, Call, Received, Refused, Turn, Wire, event
from workers.adapter import Adapter, FinishReason, Usage
from workers.adapters.openai_chat import OpenAIChat
from workers.codes import Code

__all__ = ["DONE", "OpenAIWire", "piece"]

DONE = b"data: [DONE]\n\n"
_BASE = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "fake-small",
    "system_fingerprint": "fp_1",
}


def piece(delta: Mapping[str, Any], finish_reason: str | None = None, **extra: Any) -> bytes:
    """An event with one choice."""
    choice = {"index": 0, "delta": dict(delta), "logprobs": None, "finish_reason": finish_reason}
    return event({**_BASE, "choices": [choice], **extra})


class OpenAIWire(Wire):
    """As OpenAI itself speaks it: streamed usage in an event of its own, `[DONE]` at the end."""

    name = "openai_chat"
    adapter: ClassVar[type[Adapter]] = OpenAIChat
    quirks: ClassVar[Mapping[str, Any]] = {"stop_max": 4, "models_complete": True, "stream_usage": True}
    reasons: ClassVar[Mapping[str, FinishReason]] = {
        "stop": "stop",
        "length": "length",
        "tool_calls": "tool_calls",
        "function_call": "tool_calls",
        "content_filter": "content_filter",
    }
    usual: ClassVar[Mapping[str, str]] = {}
    counts = ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens")
    temperature_max = 2.0
    carries_tools = True
    sees_nothing: ClassVar[Sequence[bytes]] = (
        *(b"null", b"[]", b"{}", b"{nonsense"),
        *(b'{"choices": []}', b'{"choices": [null]}', b'{"choices": [{"message": "Hi"}]}'),
    )
    garbage = (
        b"data: {nonsense\n\n",
        b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n',
        b"data: null\n\n",
        b"data: [1]\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
    )

    def events(self, behaviour: Behaviour) -> list[bytes]:
        result = [piece({"reasoning_content": thought}) for thought in behaviour.reasoning]
        result += [piece({"content": text}) for text in behaviour.texts]
        for index, call in enumerate(behaviour.calls):
            result += _called(index, call)
        if behaviour.finish_reason is not None:
            result.append(piece({}, behaviour.finish_reason))
        if behaviour.usage is not None:
            result.append(event({**_BASE, "choices": [], "usage": _usage(behaviour.usage)}))
        return [*result, DONE] if behaviour.done else result

    def whole(self, behaviour: Behaviour) -> bytes:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(behaviour.texts),
            "refusal": None,
        }
        if behaviour.calls:
            message["content"] = message["content"] or None
            message["tool_calls"] = [_whole(call) for call in behaviour.calls]
        if behaviour.reasoning:
            message["reasoning_content"] = "".join(behaviour.reasoning)
        reason = behaviour.finish_reason
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        usage = {"usage": _usage(behaviour.usage)} if behaviour.usage else {}
        return json.dumps({**_BASE, "object": "chat.completion", "choices": [choice], **usage}).encode()

    def text(self, text: str) -> bytes:
        return piece({"content": text})

    def quiet(self) -> tuple[bytes, ...]:
        return (
            piece({"role": "assistant", "content": ""}),
            piece({}),
            piece({"content": None, "refusal": None}),
            b": a comment\n\n",
            event({**_BASE, "choices": []}),
        )

    def error(self, status: int, message: str) -> bytes:
        return json.dumps({"error": {"message": message, "type": "some_error", "code": None}}).encode()

    def refusals(self) -> Mapping[str, Refused]:
        def refused(
            status: int,
            code: Code,
            message: str,
            word: str | None = None,
            kind: str = "invalid_request_error",
        ) -> Refused:
            error = {"message": message, "type": kind, "param": None, "code": word}
            return Refused(status, json.dumps({"error": error}).encode(), code)

        return {
            "parameter": refused(400, Code.INVALID_PROMPT, "messages: expected a list"),
            "unprocessable": refused(422, Code.INVALID_PROMPT, "temperature must be below 2"),
            "too long": refused(400, Code.CONTEXT_TOO_LONG, "x", "context_length_exceeded"),
            "too long, by type": refused(400, Code.CONTEXT_TOO_LONG, "x", kind="exceed_context_size_error"),
            "too long, by words": refused(
                400, Code.CONTEXT_TOO_LONG, "This model's maximum context length is 8 tokens"
            ),
            "too large": refused(413, Code.CONTEXT_TOO_LONG, "Request too large"),
            "filter": refused(400, Code.CONTENT_FILTERED, "x", "content_filter"),
            "filter, by words": refused(400, Code.CONTENT_FILTERED, "Content Exists Risk"),
            "law": refused(451, Code.CONTENT_FILTERED, "x"),
            "model": refused(404, Code.INVALID_MODEL, "The model `x` does not exist", "model_not_found"),
            "model, by words": refused(404, Code.INVALID_MODEL, "model 'x' not found, try pulling it first"),
            "model, at 400": refused(400, Code.INVALID_MODEL, "x is not a valid model ID"),
            "path": refused(404, Code.UPSTREAM_PROTOCOL, "Unknown request URL"),
            "method": refused(405, Code.UPSTREAM_PROTOCOL, "Not allowed"),
            "key": refused(401, Code.AUTHORIZATION, "Incorrect API key provided", "invalid_api_key"),
            "key, at 400": refused(400, Code.AUTHORIZATION, "Incorrect API key provided"),
            "region": refused(403, Code.AUTHORIZATION, "Country not supported"),
            "quota": refused(429, Code.QUOTA, "You exceeded your current quota", "insufficient_quota"),
            "quota, at 403": refused(403, Code.QUOTA, "x", "insufficient_quota"),
            "credit": refused(402, Code.QUOTA, "Insufficient Balance"),
        }

    def stream_errors(self) -> Mapping[bytes, Code]:
        return {
            event({"error": {"message": "x", "code": "rate_limit_exceeded"}}): Code.RATE_LIMITED,
            event({"error": {"message": "x", "type": "server_error"}}): Code.UPSTREAM_ERROR,
            event({"error": {"message": "context length exceeded"}}): Code.CONTEXT_TOO_LONG,
            event({"message": "x", "code": 503}, "error"): Code.UPSTREAM_ERROR,
            b"event: error\ndata: oops\n\n": Code.UPSTREAM_ERROR,
            event({"error": {"message": "x", "code": 502}}): Code.UPSTREAM_ERROR,
            event({"error": {"message": "x", "code": "429"}}): Code.RATE_LIMITED,
            event({"error": "overloaded", "choices": []}): Code.UPSTREAM_ERROR,
            event({"object": "error", "message": "x", "code": 400}): Code.INVALID_PROMPT,
            piece({}, "error"): Code.UPSTREAM_ERROR,
        }

    def models(self, names: Sequence[str], received: Received) -> bytes:
        data = [{"id": name, "object": "model"} for name in names]
        return json.dumps({"object": "list", "data": data}).encode()

    def asked(self, received: Received) -> Asked:
        body = received.body
        turns = [Turn(item["role"], item["content"] or "", item.get("name")) for item in body["messages"]]
        first = next((n for n, turn in enumerate(turns) if turn.role != "system"), len(turns))
        return Asked(
            model=body.get("model", ""),
            system="\n".join(turn.text for turn in turns[:first]),
            turns=tuple(turns[first:]),
            stops=tuple(body.get("stop", ())),
            max_tokens=body["max_tokens"],
            temperature=body.get("temperature"),
            key=received.key,
            streamed=self.streams(received),
        )


def _called(index: int, call: Call) -> list[bytes]:
    """A call in the pieces of a stream."""
    begun = {"index": index, "id": call.id, "type": "function"}
    pieces = [{**begun, "function": {"name": call.name, "arguments": ""}}]
    pieces += [{"index": index, "function": {"arguments": text}} for text in call.arguments]
    return [piece({"tool_calls": [item]}) for item in pieces]


def _whole(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": "".join(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _usage(usage: Usage | Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(usage, Usage):
        return usage
    result: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": (usage.input_tokens or 0) + (usage.output_tokens or 0),
    }
    if usage.cached_input_tokens is not None:
        result["prompt_tokens_details"] = {"cached_tokens": usage.cached_input_tokens}
    if usage.reasoning_tokens is not None:
        result["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return result

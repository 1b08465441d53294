"""The Anthropic wire, `POST /messages`, as its documentation and the types of its SDK (2.13.0) have it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final
from urllib.parse import parse_qs, urlsplit

from tests.fakes.wire import Asked, Behaviour, Received, Refused, Turn, Wire, event
from workers.adapter import Adapter, FinishReason, Usage
from workers.adapters.anthropic_messages import AnthropicMessages
from workers.codes import Code

__all__ = ["AnthropicWire", "delta", "named"]

PAGE_MAX: Final = 1000
VERSION: Final = "2023-06-01"


def named(kind: str, **fields: Any) -> bytes:
    """An event, whose name is the type in its data."""
    return event({"type": kind, **fields}, kind)


def delta(kind: str, index: int = 0, **fields: Any) -> bytes:
    """A piece of a block."""
    return named("content_block_delta", index=index, delta={"type": kind, **fields})


class AnthropicWire(Wire):
    """Its streams are messages of blocks; thinking has a block of its own, with a signature."""

    name = "anthropic_messages"
    adapter: ClassVar[type[Adapter]] = AnthropicMessages
    quirks: ClassVar[Mapping[str, Any]] = {"stop_max": 64, "models_complete": True}
    reasons: ClassVar[Mapping[str, FinishReason]] = {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "pause_turn": "length",
        "tool_use": "tool_calls",
        "refusal": "content_filter",
    }
    usual: ClassVar[Mapping[str, str]] = {
        "stop": "end_turn",
        "length": "max_tokens",
        "tool_calls": "tool_use",
        "content_filter": "refusal",
    }
    counts = ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens")
    temperature_max = 1.0
    absent: ClassVar[Mapping[str, str]] = {
        "what_is_said_after_an_end_is_no_less_a_part_of_the_reply": "an end is an event after all text",
    }
    sees_nothing = (
        b"null",
        b"[]",
        b"{}",
        b'{"type": "message", "content": null}',
        b'{"content": []}',
        b"{nonsense",
    )
    garbage = (
        b"event: content_block_delta\ndata: {nonsense\n\n",
        b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"\xff"}}\n\n',
        b"event: content_block_delta\ndata: [1]\n\n",
        b"event: content_block_delta\ndata: null\n\n",
        b"event: content_block_delta\ndata: " + b"[" * 100_000 + b"\n\n",
    )

    def events(self, behaviour: Behaviour) -> list[bytes]:
        pieces = list(self._blocks(behaviour))
        usage = {} if behaviour.usage is None else {"usage": _usage(behaviour.usage, first=True)}
        message = _message(content=[], stop_reason=None, **usage)
        start = named("message_start", message=message)
        result = [start + pieces[0], *pieces[1:]] if pieces else [start]
        if behaviour.finish_reason is not None:
            ended = {"stop_reason": self._reason(behaviour), "stop_sequence": None}
            usage = {} if behaviour.usage is None else {"usage": _usage(behaviour.usage, first=False)}
            result.append(named("content_block_stop", index=0) + named("message_delta", delta=ended, **usage))
        return [*result, named("message_stop")] if behaviour.done else result

    def _blocks(self, behaviour: Behaviour) -> Iterator[bytes]:
        """Each piece of reasoning and text, with what opens and closes its block."""
        before = b""
        if behaviour.reasoning:
            before = named(
                "content_block_start",
                index=0,
                content_block={"type": "thinking", "thinking": "", "signature": ""},
            )
            for thought in behaviour.reasoning:
                yield before + delta("thinking_delta", thinking=thought)
                before = b""
            before = delta("signature_delta", signature="EqQB") + named("content_block_stop", index=0)
        index = 1 if behaviour.reasoning else 0
        before += named("content_block_start", index=index, content_block={"type": "text", "text": ""})
        before += named("ping")
        for text in behaviour.texts:
            yield before + delta("text_delta", index, text=text)
            before = b""

    def _reason(self, behaviour: Behaviour) -> str | None:
        reason = behaviour.finish_reason
        return None if reason is None else self.usual.get(reason, reason)

    def whole(self, behaviour: Behaviour) -> bytes:
        content: list[dict[str, Any]] = []
        if behaviour.reasoning:
            thought = "".join(behaviour.reasoning)
            content.append({"type": "thinking", "thinking": thought, "signature": "EqQB"})
        content.append({"type": "text", "text": "".join(behaviour.texts)})
        usage = {} if behaviour.usage is None else {"usage": _usage(behaviour.usage, first=False, whole=True)}
        return json.dumps(_message(content=content, stop_reason=self._reason(behaviour), **usage)).encode()

    def text(self, text: str) -> bytes:
        return delta("text_delta", text=text)

    def quiet(self) -> tuple[bytes, ...]:
        return (
            named("ping"),
            delta("text_delta", text=""),
            delta("input_json_delta", partial_json=""),
            delta("citations_delta", citation={"type": "char_location"}),
            b": a comment\n\n",
            named("a_kind_of_tomorrow", index=0),
            delta("a_delta_of_tomorrow", text="never"),
            named("content_block_start", index=7, content_block={"type": "redacted_thinking", "data": "x"}),
        )

    def error(self, status: int, message: str) -> bytes:
        return _error("api_error", message)

    def refusals(self) -> Mapping[str, Refused]:
        def refused(status: int, code: Code, message: str, kind: str = "invalid_request_error") -> Refused:
            return Refused(status, _error(kind, message), code)

        return {
            "parameter": refused(400, Code.INVALID_PROMPT, "max_tokens: Field required"),
            "unprocessable": refused(422, Code.INVALID_PROMPT, "Invalid request data"),
            "too long": refused(
                400, Code.CONTEXT_TOO_LONG, "prompt is too long: 210000 tokens > 200000 maximum"
            ),
            "too long with its answer": refused(
                400,
                Code.CONTEXT_TOO_LONG,
                "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
            ),
            "too large": refused(
                413, Code.CONTEXT_TOO_LONG, "Request exceeds the maximum size", "request_too_large"
            ),
            "model": refused(404, Code.INVALID_MODEL, "model: claude-nonesuch", "not_found_error"),
            "path": refused(404, Code.UPSTREAM_PROTOCOL, "Not Found", "not_found_error"),
            "key": refused(401, Code.AUTHORIZATION, "invalid x-api-key", "authentication_error"),
            "permission": refused(403, Code.AUTHORIZATION, "Your API key may not", "permission_error"),
            "money": refused(402, Code.QUOTA, "There is an issue with your billing", "billing_error"),
            "credit": refused(400, Code.QUOTA, "Your credit balance is too low to access the Anthropic API."),
            "filter": refused(400, Code.CONTENT_FILTERED, "Output blocked by content filtering policy"),
            "prefill": refused(
                400, Code.INVALID_PROMPT, "This model does not support assistant message prefill."
            ),
        }

    def stream_errors(self) -> Mapping[bytes, Code]:
        def failed(kind: str, message: str) -> bytes:
            return named("error", error={"type": kind, "message": message})

        return {
            failed("overloaded_error", "Overloaded"): Code.UPSTREAM_ERROR,
            failed("api_error", "Internal server error"): Code.UPSTREAM_ERROR,
            failed("rate_limit_error", "Too many"): Code.RATE_LIMITED,
            failed(
                "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"
            ): Code.CONTEXT_TOO_LONG,
            b'data: {"type":"error","error":{"type":"overloaded_error"}}\n\n': Code.UPSTREAM_ERROR,
            b'data: {"error":{"type":"rate_limit_error","message":"x"}}\n\n': Code.RATE_LIMITED,
        }

    def models(self, names: Sequence[str], received: Received) -> bytes:
        query = parse_qs(urlsplit(received.path).query)
        size = int(query.get("limit", ["20"])[0])
        assert 1 <= size <= PAGE_MAX
        after = query.get("after_id", [""])[0]
        start = names.index(after) + 1 if after else 0
        page = list(names[start : start + size])
        data = [{"type": "model", "id": name, "display_name": name, "lifecycle": "active"} for name in page]
        ends = {"first_id": page[0], "last_id": page[-1]} if page else {"first_id": None, "last_id": None}
        return json.dumps({"data": data, "has_more": start + size < len(names), **ends}).encode()

    def check(self, received: Received) -> None:
        """The version of the API must be named."""
        assert received.headers["anthropic-version"] == VERSION

    def model_of(self, received: Received) -> str:
        """The model that was asked."""
        return str(received.body["model"])

    def key_of(self, received: Received) -> str | None:
        """The key that came with it."""
        return received.headers.get("x-api-key")

    def asked(self, received: Received) -> Asked:
        body = received.body
        self.check(received)
        assert body["messages"][0]["role"] == "user"
        return Asked(
            model=self.model_of(received),
            system=body.get("system", ""),
            turns=tuple(Turn(item["role"], item["content"]) for item in body["messages"]),
            stops=tuple(body.get("stop_sequences", ())),
            max_tokens=body["max_tokens"],
            temperature=body.get("temperature"),
            key=self.key_of(received),
            streamed=self.streams(received),
        )


def _message(**fields: Any) -> dict[str, Any]:
    base = {"id": "msg_01", "type": "message", "role": "assistant", "model": "fake-small"}
    return {**base, "stop_sequence": None, **fields}


def _error(kind: str, message: str) -> bytes:
    error = {"type": kind, "message": message}
    return json.dumps({"type": "error", "error": error, "request_id": "req_01"}).encode()


def _usage(usage: Usage | Mapping[str, Any], *, first: bool, whole: bool = False) -> Mapping[str, Any]:
    """What the first event tells of it, or the last; input is counted without what came from a cache."""
    if not isinstance(usage, Usage):
        return usage
    result: dict[str, Any] = {}
    if first or whole:
        result["input_tokens"] = (usage.input_tokens or 0) - (usage.cached_input_tokens or 0)
        result["cache_creation_input_tokens"] = 0
    if usage.cached_input_tokens is not None:
        result["cache_read_input_tokens"] = usage.cached_input_tokens
    result["output_tokens"] = 1 if first else usage.output_tokens
    if usage.reasoning_tokens is not None and not first:
        result["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return result

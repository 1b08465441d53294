"""Cohere's wire, `POST /v2/chat`, as its published OpenAPI document and recorded answers have it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final
from urllib.parse import parse_qs, urlsplit

from tests.fakes.wire import Asked, Behaviour, Received, Refused, Turn, Wire, event
from workers.adapter import FinishReason, Usage
from workers.adapters.cohere import Cohere
from workers.codes import Code

__all__ = ["DONE", "CohereWire", "content", "ended", "typed"]

DONE: Final = b"data: [DONE]\n\n"
PAGE_MAX: Final = 1000
STOPS_MAX: Final = 5


def typed(kind: str, **fields: Any) -> bytes:
    """An event, whose name is the type in its data."""
    return event({"type": kind, **fields}, kind)


def content(kind: str, index: int = 0, **fields: Any) -> bytes:
    """A piece of a block, or its beginning."""
    return typed(kind, index=index, delta={"message": {"content": fields}})


def ended(**delta: Any) -> bytes:
    """The last event."""
    return typed("message-end", delta=delta)


class CohereWire(Wire):
    """Its streams are messages of blocks; how they ended and what they cost comes in one event."""

    name = "cohere"
    adapter = Cohere
    mount = ""
    quirks: ClassVar[Mapping[str, Any]] = {"stop_max": STOPS_MAX, "models_complete": True}
    reasons: ClassVar[Mapping[str, FinishReason]] = {
        "COMPLETE": "stop",
        "STOP_SEQUENCE": "stop",
        "MAX_TOKENS": "length",
        "TOOL_CALL": "tool_calls",
        "ERROR_LIMIT": "length",
        "ERROR_TOXIC": "content_filter",
    }
    usual: ClassVar[Mapping[str, str]] = {
        "stop": "COMPLETE",
        "length": "MAX_TOKENS",
        "tool_calls": "TOOL_CALL",
        "content_filter": "ERROR_TOXIC",
    }
    called: ClassVar[Mapping[str, str]] = {"top_p": "p", "top_k": "k"}
    counts = ("input_tokens", "output_tokens", "cached_input_tokens")
    temperature_max = 1.0
    sees_nothing = (
        *(b"null", b"[]", b"{}", b"{nonsense"),
        b'{"message": null, "finish_reason": "COMPLETE"}',
        b'{"message": {"content": []}}',
    )
    garbage = (
        b"event: content-delta\ndata: {nonsense\n\n",
        b'data: {"type":"content-delta","delta":{"message":{"content":{"text":"\xff"}}}}\n\n',
        b"event: content-delta\ndata: [1]\n\n",
        b"event: content-delta\ndata: null\n\n",
        b"event: content-delta\ndata: " + b"[" * 100_000 + b"\n\n",
    )

    def events(self, behaviour: Behaviour) -> list[bytes]:
        pieces = list(self._blocks(behaviour))
        message = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
        start = typed("message-start", id="29f14a5a", delta={"message": message})
        result = [start + pieces[0], *pieces[1:]] if pieces else [start]
        if behaviour.finish_reason is not None:
            usage = {} if behaviour.usage is None else {"usage": _usage(behaviour.usage)}
            end = ended(finish_reason=self._reason(behaviour), **usage)
            result.append(typed("content-end", index=0) + end)
        return [*result, DONE] if behaviour.done else result

    def _blocks(self, behaviour: Behaviour) -> Iterator[bytes]:
        """Each piece of reasoning and text, with what opens and closes its block."""
        before = b""
        if behaviour.reasoning:
            before = content("content-start", type="thinking", thinking="")
            for thought in behaviour.reasoning:
                yield before + content("content-delta", thinking=thought)
                before = b""
            before = typed("content-end", index=0)
        index = 1 if behaviour.reasoning else 0
        before += content("content-start", index, type="text", text="")
        for text in behaviour.texts:
            yield before + content("content-delta", index, text=text)
            before = b""

    def _reason(self, behaviour: Behaviour) -> str | None:
        reason = behaviour.finish_reason
        return None if reason is None else self.usual.get(reason, reason)

    def whole(self, behaviour: Behaviour) -> bytes:
        blocks: list[dict[str, Any]] = []
        if behaviour.reasoning:
            blocks.append({"type": "thinking", "thinking": "".join(behaviour.reasoning)})
        blocks.append({"type": "text", "text": "".join(behaviour.texts)})
        answer = {
            "id": "53bcb235",
            "message": {"role": "assistant", "content": blocks},
            "finish_reason": self._reason(behaviour),
        }
        usage = {} if behaviour.usage is None else {"usage": _usage(behaviour.usage)}
        return json.dumps({**answer, **usage}).encode()

    def text(self, text: str) -> bytes:
        return content("content-delta", text=text)

    def quiet(self) -> tuple[bytes, ...]:
        return (
            content("content-delta", text=""),
            typed("tool-plan-delta", delta={"message": {"tool_plan": "I will"}}),
            typed("citation-start", index=0, delta={"message": {"citations": {"start": 1, "end": 2}}}),
            typed("citation-end", index=0),
            typed("debug", prompt="never"),
            b": a comment\n\n",
            typed("a-kind-of-tomorrow", index=0),
        )

    def error(self, status: int, message: str) -> bytes:
        return _error(message)

    def refusals(self) -> Mapping[str, Refused]:
        def refused(status: int, code: Code, message: str) -> Refused:
            return Refused(status, _error(message), code)

        return {
            "parameter": refused(
                400,
                Code.INVALID_PROMPT,
                "invalid request: temperature must be between 0 and 1.0 inclusive.",
            ),
            "unprocessable": refused(422, Code.INVALID_PROMPT, "invalid request: messages is required"),
            "too long": refused(
                400,
                Code.CONTEXT_TOO_LONG,
                "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 4292.",
            ),
            "model": refused(
                404,
                Code.INVALID_MODEL,
                "model 'xyz' not found, make sure the correct model ID was used and that you have access to "
                "the model.",
            ),
            "path": refused(404, Code.UPSTREAM_PROTOCOL, "page not found"),
            "key": refused(401, Code.AUTHORIZATION, "invalid api token"),
            "permission": refused(403, Code.AUTHORIZATION, "this key may not"),
            "money": refused(402, Code.QUOTA, "Please add or update your payment method"),
            "token on a list": refused(498, Code.CONTENT_FILTERED, "invalid token"),
            "cancelled": refused(499, Code.UPSTREAM_ERROR, "request cancelled"),
            "not implemented": refused(501, Code.UPSTREAM_ERROR, "not implemented"),
        }

    def stream_errors(self) -> Mapping[bytes, Code]:
        return {
            ended(finish_reason="ERROR", error="an internal error"): Code.UPSTREAM_ERROR,
            ended(finish_reason="ERROR"): Code.UPSTREAM_ERROR,
            ended(finish_reason="ERROR", error="too many tokens: 9"): Code.CONTEXT_TOO_LONG,
            ended(finish_reason="TIMEOUT", usage=_usage(Usage(1, 1))): Code.UPSTREAM_ERROR,
            ended(finish_reason="USER_CANCEL"): Code.UPSTREAM_ERROR,
            event({"message": "an internal error", "id": "x"}): Code.UPSTREAM_ERROR,
            event({"error": {"message": "an internal error"}}): Code.UPSTREAM_ERROR,
        }

    def models(self, names: Sequence[str], received: Received) -> bytes:
        query = parse_qs(urlsplit(received.path).query)
        assert query["endpoint"] == ["chat"]
        size = int(query.get("page_size", ["20"])[0])
        assert 1 <= size <= PAGE_MAX
        start = int(query.get("page_token", ["0"])[0])
        models = [{"name": name, "endpoints": ["chat"], "finetuned": False} for name in names]
        page: dict[str, Any] = {"models": models[start : start + size]}
        if start + size < len(names):
            page["next_page_token"] = str(start + size)
        return json.dumps(page).encode()

    def asked(self, received: Received) -> Asked:
        body = received.body
        assert received.path == "/v2/chat"
        turns = [Turn(item["role"], item["content"]) for item in body["messages"]]
        assert "user" in [turn.role for turn in turns]
        stops = tuple(body.get("stop_sequences", ()))
        assert len(stops) <= STOPS_MAX
        first = next(n for n, turn in enumerate(turns) if turn.role != "system")
        return Asked(
            model=body["model"],
            system="\n".join(turn.text for turn in turns[:first]),
            turns=tuple(turns[first:]),
            stops=stops,
            max_tokens=body["max_tokens"],
            temperature=body.get("temperature"),
            key=received.key,
            streamed=self.streams(received),
        )


def _error(message: str) -> bytes:
    return json.dumps({"id": "0ba1c66f", "message": message}).encode()


def _usage(usage: Usage | Mapping[str, Any]) -> Mapping[str, Any]:
    """The bill leaves out what the provider adds to every prompt."""
    if not isinstance(usage, Usage):
        return usage
    tokens = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    result: dict[str, Any] = {"billed_units": {"input_tokens": 1, "output_tokens": 1}, "tokens": tokens}
    if usage.cached_input_tokens is not None:
        result["cached_tokens"] = usage.cached_input_tokens
    return result

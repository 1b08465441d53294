"""Ollama's own wire, `POST /api/chat`, as docs/api.md and docs/openapi.yaml of ollama/ollama have it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from tests.fakes.wire import Asked, Behaviour, Received, Refused, Turn, Wire
from workers.adapter import FinishReason, Usage
from workers.adapters.ollama import Ollama
from workers.codes import Code

__all__ = ["OllamaWire", "line", "listing", "said"]

CREATED: Final = "2026-08-21T18:48:22.071755Z"


def line(value: object) -> bytes:
    """One line of a stream, its characters as they are."""
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def said(content: str, **fields: Any) -> bytes:
    """A line with a piece of the message."""
    message = {"role": "assistant", "content": content, **fields}
    return line({"model": "fake-small", "created_at": CREATED, "message": message, "done": False})


def listing(*names: str, capabilities: Sequence[str] | None = ("completion",)) -> bytes:
    """The answer to `GET /api/tags`; before 0.30 it told no capabilities."""
    told = {} if capabilities is None else {"capabilities": list(capabilities)}
    details = {"format": "gguf", "family": "llama", "parameter_size": "3.2B", "quantization_level": "Q4_K_M"}
    models = [
        {"name": name, "model": name, "modified_at": CREATED, "size": 2019393189, "digest": "a80c4f17acd5"}
        | {"details": details, **told}
        for name in names
    ]
    return json.dumps({"models": models}).encode()


class OllamaWire(Wire):
    """Each line is an object; the last one has `done`, why, and the counts."""

    name = "ollama"
    adapter = Ollama
    quirks: ClassVar[Mapping[str, Any]] = {"models_complete": True}
    mount = ""
    stream_type = "application/x-ndjson"
    comment = b"\n"
    reasons: ClassVar[Mapping[str, FinishReason]] = {
        "stop": "stop",
        "length": "length",
        "load": "stop",
        "unload": "stop",
    }
    usual: ClassVar[Mapping[str, str]] = {}
    counts = ("input_tokens", "output_tokens")
    temperature_max = 2.0
    sees_nothing = (
        *(b"null", b"[]", b"{}", b"{nonsense"),
        *(b'{"message": null, "done": true}', b'{"model": "x", "response": "Hi", "done": true}'),
    )
    garbage = (
        b"{nonsense\n",
        b'{"message":{"role":"assistant","content":"\xff"},"done":false}\n',
        b"null\n",
        b"[1]\n",
        b": keep-alive\n",
        b'data: {"message":{"content":"Hi"}}\n',
        b"[" * 100_000 + b"\n",
    )
    absent: ClassVar[Mapping[str, str]] = {
        "a_reply_that_a_filter_took_is_content_filtered": "the wire has no word for it",
        "what_is_said_after_an_end_is_no_less_a_part_of_the_reply": "an end is the last line",
    }

    def events(self, behaviour: Behaviour) -> list[bytes]:
        result = [said("", thinking=thought) for thought in behaviour.reasoning]
        result += [said(text) for text in behaviour.texts]
        if behaviour.done or behaviour.finish_reason is not None:
            message = {"role": "assistant", "content": ""}
            result.append(line({**self._end(behaviour), "message": message}))
        return result

    def _end(self, behaviour: Behaviour) -> dict[str, Any]:
        end: dict[str, Any] = {"model": "fake-small", "created_at": CREATED, "done": True}
        if behaviour.finish_reason is not None:
            end["done_reason"] = behaviour.finish_reason
        end |= {"total_duration": 4883583458, "load_duration": 1334875}
        return {**end, **_usage(behaviour.usage)}

    def whole(self, behaviour: Behaviour) -> bytes:
        message = {"role": "assistant", "content": "".join(behaviour.texts)}
        if behaviour.reasoning:
            message["thinking"] = "".join(behaviour.reasoning)
        return json.dumps({**self._end(behaviour), "message": message}).encode()

    def text(self, text: str) -> bytes:
        return said(text)

    def quiet(self) -> tuple[bytes, ...]:
        return (
            said(""),
            said("", thinking=""),
            said("", images=[]),
            line({"model": "fake-small", "created_at": CREATED, "message": {"role": "assistant"}}),
            said("", a_field_of_tomorrow=1),
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
                "json: cannot unmarshal string into Go struct field ChatRequest.messages of type []Message",
            ),
            "option": refused(400, Code.INVALID_PROMPT, 'option "top_k" must be of type integer'),
            "no model": refused(400, Code.INVALID_PROMPT, "model is required"),
            "thinking": refused(400, Code.INVALID_PROMPT, '"fake-small" does not support thinking'),
            "chat": refused(400, Code.INVALID_PROMPT, '"fake-small" does not support chat'),
            "too long": refused(400, Code.CONTEXT_TOO_LONG, "the input length exceeds the context length"),
            "model": refused(404, Code.INVALID_MODEL, "model 'nonesuch' not found"),
            "model, before 0.6": refused(
                404, Code.INVALID_MODEL, 'model "nonesuch" not found, try pulling it first'
            ),
            "path": Refused(404, b"404 page not found", Code.UPSTREAM_PROTOCOL),
            "method": Refused(405, b"405 method not allowed", Code.UPSTREAM_PROTOCOL),
            "not signed in": Refused(
                401, b'{"error": "unauthorized", "signin_url": "https://ollama.com/x"}', Code.AUTHORIZATION
            ),
            "cloud": refused(403, Code.AUTHORIZATION, "ollama cloud is disabled"),
        }

    def stream_errors(self) -> Mapping[bytes, Code]:
        return {
            _error("an error was encountered while running the model") + b"\n": Code.UPSTREAM_ERROR,
            _error("llama runner process no longer running: 2") + b"\n": Code.UPSTREAM_ERROR,
            _error("the input length exceeds the context length") + b"\n": Code.CONTEXT_TOO_LONG,
            _error("model 'nonesuch' not found") + b"\n": Code.INVALID_MODEL,
            b'{"error": "overloaded", "message": {"content": "never"}}\n': Code.UPSTREAM_ERROR,
        }

    def models(self, names: Sequence[str], received: Received) -> bytes:
        assert received.path == "/api/tags"
        return listing(*names)

    def streams(self, received: Received) -> bool:
        return isinstance(received.body, dict) and received.body.get("stream", True) is True

    def asked(self, received: Received) -> Asked:
        body = received.body
        assert received.path == "/api/chat"
        assert all(set(item) <= {"role", "content"} for item in body["messages"])
        turns = [Turn(item["role"], item["content"]) for item in body["messages"]]
        first = next((n for n, turn in enumerate(turns) if turn.role != "system"), len(turns))
        options = body["options"]
        return Asked(
            model=body["model"],
            system="\n".join(turn.text for turn in turns[:first]),
            turns=tuple(turns[first:]),
            stops=tuple(options.get("stop", ())),
            max_tokens=options["num_predict"],
            temperature=options.get("temperature"),
            key=received.key,
            streamed=self.streams(received),
        )


def _error(message: str) -> bytes:
    return json.dumps({"error": message}).encode()


def _usage(usage: Usage | Mapping[str, Any] | None) -> Mapping[str, Any]:
    if not isinstance(usage, Usage):
        return usage or {}
    durations = {"prompt_eval_duration": 325953000, "eval_duration": 4224356000}
    return {"prompt_eval_count": usage.input_tokens, "eval_count": usage.output_tokens, **durations}

"""The Replicate wire, as its documentation (HTTP API, streaming output) and its package 1.0.7 have it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final
from urllib.parse import unquote

from tests.fakes.transcripts import SPEAKER, spoken
from tests.fakes.wire import Asked, Behaviour, Part, Received, Refused, Turn, Wire
from workers.adapter import FinishReason, Usage
from workers.adapters.replicate import Replicate
from workers.codes import Code

__all__ = ["INPUTS", "Quick", "ReplicateWire", "described", "prediction", "told"]

FILTERED: Final = (
    "The input or output was flagged as sensitive. Please try again with different inputs. (E005)"
)
INPUTS: Final[Mapping[str, Any]] = {
    "prompt": {"type": "string", "title": "Prompt", "x-order": 0},
    "system_prompt": {"type": "string", "title": "System Prompt", "default": "You are a helpful assistant."},
    "max_tokens": {"type": "integer", "default": 512, "minimum": 1},
    "temperature": {"type": "number", "default": 0.6, "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "default": 0.9, "minimum": 0, "maximum": 1},
    "top_k": {"type": "integer", "default": 50},
    "presence_penalty": {"type": "number", "default": 0},
    "frequency_penalty": {"type": "number", "default": 0},
    "stop_sequences": {"type": "string", "description": "A comma-separated list"},
}
"""The fields of a language model, as those of meta's and of ibm-granite's have them."""
_FOLLOWED: Final = re.compile(r"/v1/(?:files|predictions)/p(\d+)")


def told(name: str, data: str) -> bytes:
    """An event: text as it is, a `data:` for each of its lines."""
    lines = "".join(f"data: {line}\n" for line in data.split("\n"))
    return f"event: {name}\nid: 1690212292:0\n{lines}\n".encode()


def prediction(status: str, number: int = 0, **fields: Any) -> bytes:
    """A prediction in that state."""
    base = {"id": f"p{number}", "model": "fake/small", "version": "hidden", "input": {}, "logs": ""}
    return json.dumps({**base, "error": None, "status": status, "output": None, **fields}).encode()


def described(name: str, inputs: Mapping[str, Any] = INPUTS, **fields: Any) -> dict[str, Any]:
    """A model, as a collection or its own address has it."""
    owner, _, short = name.partition("/")
    schemas = {"Input": {"type": "object", "required": ["prompt"], "properties": inputs}}
    version = {"id": "5c7d5dc6", "openapi_schema": {"components": {"schemas": schemas}}}
    return {"owner": owner, "name": short, "latest_version": version, "visibility": "public", **fields}


class Quick(Replicate):
    """The adapter, which asks again at once."""

    poll_s = 0.0


class ReplicateWire(Wire):
    """A prediction is made by one request and read by others; the text comes as plain text."""

    name = "replicate"
    adapter = Quick
    cancels = True
    follows = True
    quirks: ClassVar[Mapping[str, Any]] = {"stop_max": 64, "models_complete": True}
    names = ("fake/small", "fake/large")
    reasons: ClassVar[Mapping[str, FinishReason]] = {"stop": "stop"}
    usual: ClassVar[Mapping[str, str]] = {}
    counts = ("input_tokens", "output_tokens")
    temperature_max = 2.0
    sees_nothing = (
        *(b"null", b"[]", b"{}", b"{nonsense"),
        *(b'{"id": "p0"}', b'{"id": 7, "status": "succeeded"}', b'{"status": "succeeded", "output": "Hi"}'),
    )
    garbage = (
        b"event: output\ndata: \xff\n\n",
        b"event: done\ndata: {nonsense\n\n",
        b"event: done\ndata: [1]\n\n",
        b"event: done\ndata: null\n\n",
        b"event: done\ndata: " + b"[" * 100_000 + b"\n\n",
    )
    absent: ClassVar[Mapping[str, str]] = {
        "usage_is_what_the_provider_reported": "a stream tells none; for the rest see test_replicate.py",
        "reasoning_alone_is_an_empty_reply_that_says_why": "the wire has no word for a limit",
        "what_is_said_after_an_end_is_no_less_a_part_of_the_reply": "`done` is the last event",
    }

    def part(self, received: Received) -> Part:
        if received.path.endswith("/cancel"):
            return Part.CANCEL
        if received.method == "POST":
            return Part.GENERATION
        return Part.LIST if self.number(received) is None else Part.FOLLOW

    def number(self, received: Received) -> int | None:
        found = _FOLLOWED.match(received.path)
        return int(found[1]) if found else None

    def begun(self, received: Received, number: int, base_url: str) -> bytes:
        urls = {name: f"{base_url}/predictions/p{number}{end}" for name, end in _ENDS.items()}
        if self.streams(received):
            urls["stream"] = f"{base_url}/files/p{number}"
        return prediction("starting", number, urls=urls)

    def events(self, behaviour: Behaviour) -> list[bytes]:
        result = [told("output", f"<think>{thought}</think>") for thought in behaviour.reasoning]
        result += [told("output", text) for text in behaviour.texts]
        if behaviour.finish_reason == "content_filter":
            return [*result, told("error", json.dumps({"detail": FILTERED})), told("done", _reason("error"))]
        if behaviour.finish_reason is not None:
            known = behaviour.finish_reason in self.reasons
            result.append(told("done", "{}" if known else _reason(behaviour.finish_reason)))
        return result

    def whole(self, behaviour: Behaviour) -> bytes:
        if behaviour.finish_reason == "content_filter":
            return prediction("failed", error=FILTERED)
        output = [*(f"<think>{thought}</think>" for thought in behaviour.reasoning), *behaviour.texts]
        return prediction("succeeded", output=output, metrics=_metrics(behaviour.usage))

    def text(self, text: str) -> bytes:
        return told("output", text)

    def quiet(self) -> tuple[bytes, ...]:
        return (
            told("output", ""),
            told("logs", "Using seed: 7"),
            told("an_event_of_tomorrow", "never"),
            b": hb\n\n",
            b"data: an event without a name\n\n",
            b"id: 1690212292:0\n\n",
        )

    def error(self, status: int, message: str) -> bytes:
        return json.dumps({"title": "A title", "detail": message, "status": status}).encode()

    def refusals(self) -> Mapping[str, Refused]:
        def refused(status: int, code: Code, title: str, detail: str) -> Refused:
            problem = {"title": title, "detail": detail, "status": status}
            return Refused(status, json.dumps(problem).encode(), code)

        return {
            "input": refused(
                422, Code.INVALID_PROMPT, "Input validation failed", "- input.prompt is required\n"
            ),
            "model": refused(
                404, Code.INVALID_MODEL, "Not found", "The requested resource could not be found."
            ),
            "version": refused(
                422,
                Code.INVALID_MODEL,
                "Invalid version or not permitted",
                "The specified version does not exist (or perhaps you don't have permission to use it?)",
            ),
            "key": refused(
                401, Code.AUTHORIZATION, "Unauthenticated", "You did not pass a valid authentication token"
            ),
            "credit": refused(
                402, Code.QUOTA, "Insufficient credit", "You have insufficient credit to run this model."
            ),
            "path": refused(404, Code.UPSTREAM_PROTOCOL, "Not found", "response 404 (backend NotFound)"),
        }

    def stream_errors(self) -> Mapping[bytes, Code]:
        def failed(detail: str) -> bytes:
            return told("error", json.dumps({"detail": detail}))

        return {
            failed("Something went wrong"): Code.UPSTREAM_ERROR,
            failed(FILTERED): Code.CONTENT_FILTERED,
            failed("Prompt length exceeds maximum input length of 4096 tokens"): Code.CONTEXT_TOO_LONG,
            b"event: error\ndata: oops\n\n": Code.UPSTREAM_ERROR,
            told("done", _reason("error")): Code.UPSTREAM_ERROR,
            told("done", _reason("canceled")): Code.UPSTREAM_ERROR,
        }

    def models(self, names: Sequence[str], received: Received) -> bytes:
        if received.path == "/v1/account":
            return b'{"type": "organization", "username": "acme", "name": "Acme"}'
        if received.path.startswith("/v1/models/"):
            return json.dumps(described(unquote(received.path.removeprefix("/v1/models/")))).encode()
        assert received.path == "/v1/collections/language-models"
        models = [described(name) for name in names]
        return json.dumps({"name": "Language models", "slug": "language-models", "models": models}).encode()

    def streams(self, received: Received) -> bool:
        return received.path.startswith("/v1/files/") or super().streams(received)

    def asked(self, received: Received) -> Asked:
        given = received.body["input"]
        stops = given.get("stop_sequences")
        return Asked(
            model=received.body.get("version") or _model_of(received.path),
            system=given.get("system_prompt", ""),
            turns=_turns(given["prompt"]),
            stops=tuple(stops.split(",")) if stops else (),
            max_tokens=given["max_tokens"],
            temperature=given.get("temperature"),
            key=received.key,
            streamed=self.streams(received),
        )


_ENDS: Final = {"get": "", "cancel": "/cancel"}


def _reason(reason: str) -> str:
    return json.dumps({"reason": reason})


def _model_of(path: str) -> str:
    return path.removeprefix("/v1/models/").removesuffix("/predictions")


def _turns(prompt: str) -> tuple[Turn, ...]:
    """Who speaks in a prompt; one at whose end nobody is to speak is the user's."""
    if not SPEAKER.fullmatch(prompt.rpartition("\n")[2]):
        return (Turn("user", prompt),)
    said = spoken(prompt)
    return (*([Turn("system", said.system)] if said.system else []), *said.turns)


def _metrics(usage: Usage | Mapping[str, Any] | None) -> Mapping[str, Any]:
    if not isinstance(usage, Usage):
        return {"predict_time": 1.5, **(usage or {})}
    told = {"input_token_count": usage.input_tokens, "output_token_count": usage.output_tokens}
    return {"predict_time": 1.5, **told}

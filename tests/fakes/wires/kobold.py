"""KoboldCpp's wire, as its API page has it and its server 1.76 speaks it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

from tests.fakes.wire import Asked, Behaviour, Part, Received, Refused, Turn, Wire, event
from workers.adapter import FinishReason, Usage
from workers.adapters.kobold import Kobold
from workers.codes import Code

__all__ = ["KoboldWire", "token"]

NOT_YET: Final = "null"
"""The reason of an end, as a text, before there is one."""
SPEAKER: Final = re.compile(r"([^:\n]{1,64}):( |\Z)")
"""What a line of a transcript begins with."""
SPEAKER_STOP: Final = re.compile(r"\n[^\n]+:")


def token(text: str, finish_reason: str | None = NOT_YET) -> bytes:
    """A piece of a stream."""
    return event({"token": text, "finish_reason": finish_reason}, "message")


class KoboldWire(Wire):
    """A text goes in and its continuation comes out; what a model thinks is a part of it."""

    name = "kobold"
    adapter = Kobold
    names = ("fake-small",)
    cancels = True
    mount = ""
    reasons: ClassVar[Mapping[str, FinishReason]] = {"stop": "stop", "length": "length"}
    usual: ClassVar[Mapping[str, str]] = {}
    counts = ("input_tokens", "output_tokens")
    stream_counts = False
    called: ClassVar[Mapping[str, str]] = {"seed": "sampler_seed", "repetition_penalty": "rep_pen"}
    temperature_max = 2.0
    sees_nothing = (
        *(b"null", b"[]", b"{}", b"{nonsense", b'{"results": []}', b'{"results": [null]}'),
        *(b'{"results": [{"text": null}]}', b'{"results": "Hi"}', b'{"success": "true"}'),
    )
    garbage = (
        b"event: message\ndata: {nonsense\n\n",
        b'event: message\ndata: {"token": "\xff", "finish_reason": "null"}\n\n',
        b"event: message\ndata: null\n\n",
        b"data: [1]\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
    )
    absent: ClassVar[Mapping[str, str]] = {
        "a_reply_that_a_filter_took_is_content_filtered": "the wire has no word for it",
        "what_is_said_after_an_end_is_no_less_a_part_of_the_reply": "an end is the last event",
    }

    def events(self, behaviour: Behaviour) -> list[bytes]:
        result = [token(text) for text in _spoken(behaviour)]
        return [*result, token("", behaviour.finish_reason)] if behaviour.finish_reason else result

    def whole(self, behaviour: Behaviour) -> bytes:
        result: dict[str, Any] = {"text": "".join(_spoken(behaviour))}
        if behaviour.finish_reason is not None:
            result["finish_reason"] = behaviour.finish_reason
        if isinstance(behaviour.usage, Usage):
            counts = (behaviour.usage.input_tokens, behaviour.usage.output_tokens)
            result |= dict(zip(("prompt_tokens", "completion_tokens"), counts, strict=True))
        return json.dumps({"results": [result]}).encode()

    def text(self, text: str) -> bytes:
        return token(text)

    def quiet(self) -> tuple[bytes, ...]:
        return (
            token(""),
            token("", None),
            b": a comment\n\n",
            event({"token": None, "finish_reason": NOT_YET}, "message"),
            event({"a_field_of_tomorrow": 1}, "an_event_of_tomorrow"),
        )

    def error(self, status: int, message: str) -> bytes:
        return _error(message, "some_error")

    def refusals(self) -> Mapping[str, Refused]:
        unauthorized = {
            "error": "Unauthorized",
            "msg": "Authentication key is missing or invalid.",
            "type": "unauthorized",
        }
        return {
            "key": Refused(401, json.dumps({"detail": unauthorized}).encode(), Code.AUTHORIZATION),
            "body": Refused(500, _error("Error parsing input.", "bad_input"), Code.UPSTREAM_ERROR),
            "path": Refused(404, b"", Code.UPSTREAM_PROTOCOL),
            "parameter, by KoboldAI": Refused(
                422,
                b'{"detail": {"max_length": ["Must be less than or equal to 512."]}}',
                Code.INVALID_PROMPT,
            ),
            "no model, by KoboldAI": Refused(
                501, _error("No model was loaded.", "not_implemented"), Code.UPSTREAM_ERROR
            ),
        }

    def stream_errors(self) -> Mapping[bytes, Code]:
        return {
            event({"error": {"message": "x", "code": 503}}): Code.UPSTREAM_ERROR,
            event({"detail": {"msg": "Server is busy", "type": "x"}}, "message"): Code.UPSTREAM_ERROR,
            b"event: error\ndata: oops\n\n": Code.UPSTREAM_ERROR,
            token("", "error"): Code.UPSTREAM_ERROR,
        }

    def models(self, names: Sequence[str], received: Received) -> bytes:
        if received.path == "/api/extra/generate/check":  # which a password is checked with
            return b'{"results": [{"text": ""}]}'
        assert received.path == "/api/v1/model"
        return json.dumps({"result": names[0]}).encode()

    def part(self, received: Received) -> Part:
        if received.path == "/api/extra/abort":
            return Part.CANCEL
        return super().part(received)

    def ends(self, cancel: Received, generation: Received, number: int) -> bool:
        return bool(cancel.body["genkey"] == generation.body["genkey"])

    def streams(self, received: Received) -> bool:
        return received.path == "/api/extra/generate/stream"

    def asked(self, received: Received) -> Asked:
        body = received.body
        assert received.path in ("/api/extra/generate/stream", "/api/v1/generate")
        lines = body["prompt"].split("\n")
        cue = SPEAKER.fullmatch(lines[-1])
        assert cue is not None, "nobody is to speak"
        stops = body.get("stop_sequence", ())
        return Asked(
            model=self.names[0],
            system=body["memory"],
            turns=tuple(_turns(lines[:-1], cue[1])),
            stops=tuple(stop for stop in stops if not SPEAKER_STOP.fullmatch(stop)),
            max_tokens=body["max_length"],
            temperature=body.get("temperature"),
            key=received.key,
            streamed=self.streams(received),
        )


def _spoken(behaviour: Behaviour) -> Iterator[str]:
    """Each piece of reasoning and text; the reasoning has its marks around it."""
    before = "<think>"
    for thought in behaviour.reasoning:
        yield before + thought
        before = ""
    before = "</think>" if behaviour.reasoning else ""
    for text in behaviour.texts:
        yield before + text
        before = ""


def _turns(lines: Sequence[str], speaker: str) -> Iterator[Turn]:
    for line in lines:
        found = SPEAKER.match(line)
        role = "system" if found is None else "assistant" if found[1] == speaker else "user"
        yield Turn(role, line)


def _error(message: str, kind: str) -> bytes:
    return json.dumps({"detail": {"msg": message, "type": kind}}).encode()

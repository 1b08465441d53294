"""NovelAI's two wires, as its OpenAPI (text.novelai.net/docs) and clients that were tried on it have them.

The dialect is the OpenAI wire with errors of NovelAI's own, thinking that must be switched off, and a whole
answer that holds no text. The story wire sends an event for each token, of which the last one is marked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

from tests.fakes.transcripts import spoken
from tests.fakes.wire import JSON, Asked, Behaviour, Received, Refused, Wire, event
from tests.fakes.wires.openai_chat import OpenAIWire
from workers.adapter import FinishReason
from workers.adapters.novelai import STORY, STORY_MODELS, NovelAI
from workers.codes import Code

__all__ = ["LOCKED", "NovelAIStoryWire", "NovelAIWire", "error", "token"]

ONE_AT_A_TIME: Final = "one reply at a time for each key, as NovelAI has it: test_novelai.py"
NO_STOPS: Final = "stop strings cannot be sent, only ids of tokens: test_novelai.py"
NO_REASONING: Final = "these models do not reason"
NO_USAGE: Final = "this wire tells no usage"
NO_FILTER: Final = "this wire has no filter"


def error(status: int, message: str) -> bytes:
    """An error, which names its status; the Go server says no more than that."""
    return json.dumps({"statusCode": status, "message": message}).encode()


LOCKED: Final = error(429, "Concurrent generation is locked")


def token(text: str, number: int = 1, *, final: bool = False) -> bytes:
    """An event of the story wire."""
    data = json.dumps({"token": text, "ptr": number, "final": final}, ensure_ascii=False)
    return f"event: newToken\nid: {number}\ndata: {data}\n\n".encode()


def _refusals() -> Mapping[str, Refused]:
    def refused(status: int, code: Code, message: str) -> Refused:
        return Refused(status, error(status, message), code)

    return {
        "parameter": refused(400, Code.INVALID_PROMPT, "temperature must not be less than 0.1"),
        "array": refused(
            400,
            Code.INVALID_PROMPT,
            "json: cannot unmarshal array into Go struct field OAIChatMessage.content of type string",
        ),
        "model": refused(400, Code.INVALID_MODEL, "invalid model"),
        "key": refused(401, Code.AUTHORIZATION, "Invalid accessToken."),
        "subscription": refused(402, Code.AUTHORIZATION, "An active subscription is required"),
        "trial": refused(402, Code.AUTHORIZATION, "Not eligible for this model"),
        "tier": refused(403, Code.AUTHORIZATION, "This model is not available on your subscription tier"),
        "length": refused(403, Code.AUTHORIZATION, "max_length is above what your tier allows"),
        "path": refused(404, Code.UPSTREAM_PROTOCOL, "Not Found"),
    }


def _stream_errors() -> dict[bytes, Code]:
    return {
        event({"error": "the model failed"}): Code.UPSTREAM_ERROR,
        event({"statusCode": 500, "message": "Internal server error"}): Code.UPSTREAM_ERROR,
        event({"statusCode": 429, "message": "Too many requests"}): Code.RATE_LIMITED,
        event({"message": "oops", "statusCode": 401}, "error"): Code.AUTHORIZATION,
        b"event: error\ndata: oops\n\n": Code.UPSTREAM_ERROR,
    }


class NovelAIWire(OpenAIWire):
    """The dialect. A whole answer is written as OpenAI has it, should NovelAI ever mend its own; what it does
    answer there is among those that say nothing."""

    name = "novelai"
    adapter = NovelAI
    carries_tools = False
    mount = ""
    quirks: ClassVar[Mapping[str, Any]] = {"models_complete": True}
    reasons: ClassVar[Mapping[str, FinishReason]] = {"stop": "stop", "length": "length"}
    sees_nothing = (
        *OpenAIWire.sees_nothing,
        b'{"object":"chat.completion.chunk","choices":[{"index":0,"text":"","token_ids":[9707,13]}]}',
    )
    also_listed = STORY_MODELS
    streamed = True
    absent: ClassVar[Mapping[str, str]] = {
        "requests_at_once_have_a_connection_each": ONE_AT_A_TIME,
        "an_interrupt_amid_a_stream_closes_that_connection_and_no_other": ONE_AT_A_TIME,
    }

    def quiet(self) -> tuple[bytes, ...]:
        ids = {"index": 0, "delta": {}, "text": "", "token_ids": [9707]}
        return (*super().quiet(), event({"object": "chat.completion.chunk", "choices": [ids]}))

    def error(self, status: int, message: str) -> bytes:
        return error(status, message)

    def refusals(self) -> Mapping[str, Refused]:
        return _refusals()

    def stream_errors(self) -> Mapping[bytes, Code]:
        return {**_stream_errors(), event({"error": {"message": "x", "code": 502}}): Code.UPSTREAM_ERROR}

    def asked(self, received: Received) -> Asked:
        body = received.body
        assert received.path == "/oa/v1/chat/completions"
        assert body["stream"] is True
        assert body["enable_thinking"] is False
        assert all(isinstance(message["content"], str) for message in body["messages"])
        return super().asked(received)


class NovelAIStoryWire(Wire):
    """The wire of Erato and Kayra. Its server is asked for the models on the other one."""

    name = "novelai_story"
    adapter = NovelAI
    mount = ""
    quirks: ClassVar[Mapping[str, Any]] = {"models_complete": True, "by_model": {"*": STORY}}
    reasons: ClassVar[Mapping[str, FinishReason]] = {"final": "stop"}
    usual: ClassVar[Mapping[str, str]] = {}
    counts = ()
    temperature_min = 0.1
    temperature_max = 2.0
    sees_nothing = (b"null", b"[]", b"{}", b'{"output": null}', b'{"logprobs": []}', b"{nonsense")
    garbage = (
        b"event: newToken\nid: 1\ndata: {nonsense\n\n",
        b'event: newToken\nid: 1\ndata: {"token":"\xff","ptr":1,"final":false}\n\n',
        b"event: newToken\ndata: null\n\n",
        b"data: [1]\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
    )
    called: ClassVar[Mapping[str, str]] = {"presence_penalty": "repetition_penalty_presence"}
    also_listed = STORY_MODELS
    streamed = True
    absent: ClassVar[Mapping[str, str]] = {
        **NovelAIWire.absent,
        "what_the_provider_stopped_at_is_an_end": NO_STOPS,
        "reasoning_is_life_and_no_text": NO_REASONING,
        "reasoning_alone_is_an_empty_reply_that_says_why": NO_REASONING,
        "usage_is_what_the_provider_reported": NO_USAGE,
        "what_is_said_after_an_end_is_no_less_a_part_of_the_reply": "the token that is final is the last",
        "a_reply_that_a_filter_took_is_content_filtered": NO_FILTER,
    }

    def events(self, behaviour: Behaviour) -> list[bytes]:
        ends = behaviour.finish_reason is not None
        texts = list(self._texts(behaviour, ends=ends))
        last = len(texts) - 1
        return [token(text, number, final=ends and number == last) for number, text in enumerate(texts)]

    def _texts(self, behaviour: Behaviour, *, ends: bool) -> Iterator[str]:
        yield from behaviour.texts
        if ends and not behaviour.texts:
            yield ""

    def whole(self, behaviour: Behaviour) -> bytes:
        return json.dumps({"output": "".join(behaviour.texts), "logprobs": None}).encode()

    def text(self, text: str) -> bytes:
        return token(text)

    def quiet(self) -> tuple[bytes, ...]:
        return (
            token(""),
            b": a comment\n\n",
            event({"token": None, "ptr": 7, "final": False}, "newToken"),
            event({"ptr": 8, "final": False, "logprobs": None}, "newToken"),
            event({"a_field_of_tomorrow": 1}, "an_event_of_tomorrow"),
        )

    def error(self, status: int, message: str) -> bytes:
        return error(status, message)

    def refusals(self) -> Mapping[str, Refused]:
        return _refusals()

    def stream_errors(self) -> Mapping[bytes, Code]:
        failed = {"token": "", "ptr": 3, "final": True, "error": "Model output error"}
        return {**_stream_errors(), event(failed, "newToken"): Code.UPSTREAM_ERROR}

    def models(self, names: Sequence[str], received: Received) -> bytes:
        assert received.path == "/oa/v1/models"
        data = [{"id": name, "object": "model"} for name in names]
        return json.dumps({"object": "list", "data": data}).encode()

    def streams(self, received: Received) -> bool:
        return received.path == "/ai/generate-stream"

    def asked(self, received: Received) -> Asked:
        body, parameters = received.body, received.body["parameters"]
        assert received.path == "/ai/generate-stream"
        assert received.headers["content-type"] == JSON
        assert parameters["use_string"] is True
        assert "stop_sequences" not in parameters
        said = spoken(body["input"])
        return Asked(
            model=body["model"],
            system=said.system,
            turns=said.turns,
            stops=(),
            max_tokens=parameters["max_length"],
            temperature=parameters.get("temperature"),
            key=received.key,
            streamed=self.streams(received),
        )

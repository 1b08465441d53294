"""IBM watsonx.ai's wire, as its API documentation, its Node SDK's types and its Java SDK's tests have it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final
from urllib.parse import parse_qs, urlsplit

from tests.fakes.wire import Asked, Behaviour, Part, Received, Refused, Turn, Wire
from workers.adapter import FinishReason, Usage
from workers.adapters.watsonx import Watsonx
from workers.codes import Code

__all__ = ["PROJECT", "AtHome", "WatsonxWire", "piece", "token_of"]

PROJECT: Final = "63dc4cf1-252f-424b-b52d-5cdd9814987f"
GRANT: Final = "urn:ibm:params:oauth:grant-type:apikey"
HOUR_S: Final = 3600
_BASE: Final = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1749736055}
_MODEL: Final = {"model_id": "fake-small", "model": "fake-small", "model_version": "4.0.0"}


def piece(delta: Mapping[str, Any] | None, finish_reason: str | None = None, **extra: Any) -> bytes:
    """An event with one choice, or with none where there is no delta."""
    choices = [{"index": 0, "finish_reason": finish_reason, "delta": delta}] if delta is not None else []
    return _event({**_BASE, **_MODEL, "choices": choices, "created_at": "2025-06-12T13:47:35.541Z", **extra})


def token_of(key: str) -> str:
    """The token that the identity service sells for a key; nothing of the key can be read in it."""
    return base64.urlsafe_b64encode(key[::-1].encode()).decode()


class AtHome(Watsonx):
    """The adapter, for which the server that answers sells the tokens too."""

    iam_url = ""


class WatsonxWire(Wire):
    """The OpenAI wire's choices in events that have a number and a name; no mark of the end."""

    name = "watsonx"
    adapter = AtHome
    quirks: ClassVar[Mapping[str, Any]] = {"stop_max": 4, "models_complete": True}
    options: ClassVar[Mapping[str, Any]] = {"project_id": PROJECT}
    mount = "/ml/v1"
    reasons: ClassVar[Mapping[str, FinishReason]] = {
        "stop": "stop",
        "length": "length",
        "tool_calls": "tool_calls",
        "time_limit": "length",
    }
    usual: ClassVar[Mapping[str, str]] = {}
    counts = ("input_tokens", "output_tokens")
    temperature_max = 2.0
    sees_nothing = (
        *(b"null", b"[]", b"{}", b"{nonsense"),
        *(b'{"choices": []}', b'{"choices": [null]}', b'{"choices": [{"message": "Hi"}]}'),
    )
    garbage = (
        b"id: 2\nevent: message\ndata: {nonsense\n\n",
        b'id: 2\nevent: message\ndata: {"choices":[{"delta":{"content":"\xff"}}]}\n\n',
        b"id: 2\nevent: message\ndata: null\n\n",
        b"id: 2\nevent: message\ndata: [1]\n\n",
        b"id: 2\nevent: message\ndata: " + b"[" * 100_000 + b"\n\n",
    )

    def part(self, received: Received) -> Part:
        if urlsplit(received.path).path.endswith("/identity/token"):
            return Part.TOKEN
        return super().part(received)

    def token(self, received: Received) -> bytes:
        assert received.body["grant_type"] == GRANT
        assert "authorization" not in received.headers
        sold = {"access_token": token_of(received.body["apikey"]), "refresh_token": "not_supported"}
        return json.dumps({**sold, "token_type": "Bearer", "expires_in": HOUR_S, "scope": "ibm"}).encode()

    def events(self, behaviour: Behaviour) -> list[bytes]:
        first = piece({"role": "assistant", "content": ""})
        result = [piece({"reasoning_content": thought}) for thought in behaviour.reasoning]
        result += [piece({"content": text}) for text in behaviour.texts]
        if result:
            result[0] = first + result[0]
        if behaviour.finish_reason is not None:
            result.append(piece({"content": ""}, behaviour.finish_reason))
        if behaviour.usage is not None:
            result.append(piece(None, usage=_usage(behaviour.usage)))
        return result or [first]

    def whole(self, behaviour: Behaviour) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(behaviour.texts)}
        if behaviour.reasoning:
            message["reasoning_content"] = "".join(behaviour.reasoning)
        choice = {"index": 0, "message": message, "finish_reason": behaviour.finish_reason}
        usage = {"usage": _usage(behaviour.usage)} if behaviour.usage else {}
        return json.dumps({**_BASE, **_MODEL, "choices": [choice], **usage}).encode()

    def text(self, text: str) -> bytes:
        return piece({"content": text})

    def quiet(self) -> tuple[bytes, ...]:
        return (
            piece({"role": "assistant", "content": ""}),
            piece({}),
            piece(None),
            b": a comment\n\n",
            piece(None, system={"warnings": [{"id": "disclaimer_warning", "message": "x"}]}),
        )

    def error(self, status: int, message: str) -> bytes:
        return _error("an_error", message, status)

    def refusals(self) -> Mapping[str, Refused]:
        def refused(status: int, code: Code, word: str, message: str) -> Refused:
            return Refused(status, _error(word, message, status), code)

        return {
            "entity": refused(400, Code.INVALID_PROMPT, "invalid_request_entity", "messages: is required"),
            "json": refused(400, Code.INVALID_PROMPT, "json_type_error", "Json field type error"),
            "too long": refused(
                400,
                Code.CONTEXT_TOO_LONG,
                "invalid_input_argument",
                "Invalid input argument for Model 'ibm/x': the number of input tokens 4098 cannot exceed the "
                "total tokens limit 4096 for this model",
            ),
            "model": refused(404, Code.INVALID_MODEL, "model_not_supported", "Model 'x' is not supported"),
            "project": refused(
                404, Code.INVALID_PROMPT, "container_not_found", "Failed to find project_id 1ae4754c"
            ),
            "path": refused(404, Code.UPSTREAM_PROTOCOL, "not_found", "Not Found"),
            "no token": refused(
                401,
                Code.AUTHORIZATION,
                "authentication_no_token",
                "Failed to authenticate the request due to no Bearer token in the request header",
            ),
            "expired": refused(
                401, Code.AUTHORIZATION, "authentication_token_expired", "Failed to authenticate"
            ),
            "service": refused(
                403, Code.AUTHORIZATION, "no_associated_service_instance_error", "not associated"
            ),
            "quota": refused(
                403, Code.QUOTA, "token_quota_reached", "Request of 1 token(s) from quota was rejected"
            ),
        }

    def stream_errors(self) -> Mapping[bytes, Code]:
        def failed(word: str, message: str, status: int) -> bytes:
            return b"id: 9\nevent: error\ndata: " + _error(word, message, status) + b"\n\n"

        return {
            failed("downstream_request_failed", "x", 500): Code.UPSTREAM_ERROR,
            failed("too_many_requests", "x", 429): Code.RATE_LIMITED,
            failed("an_error", "tokens 9 cannot exceed the total tokens limit 8", 400): Code.CONTEXT_TOO_LONG,
            b"event: error\ndata: oops\n\n": Code.UPSTREAM_ERROR,
            b"event: message\ndata: " + _error("x", "x", 503) + b"\n\n": Code.UPSTREAM_ERROR,
            piece({"content": ""}, "error"): Code.UPSTREAM_ERROR,
            piece({"content": ""}, "cancelled"): Code.UPSTREAM_ERROR,
        }

    def models(self, names: Sequence[str], received: Received) -> bytes:
        query = parse_qs(urlsplit(received.path).query)
        assert query["version"]
        assert query["filters"][0].startswith("function_text_chat")
        resources = [{"model_id": name, "label": name, "provider": "Fake"} for name in names]
        return json.dumps({"total_count": len(names), "limit": 200, "resources": resources}).encode()

    def streams(self, received: Received) -> bool:
        return urlsplit(received.path).path.endswith("/text/chat_stream")

    def asked(self, received: Received) -> Asked:
        body = received.body
        assert parse_qs(urlsplit(received.path).query)["version"]
        assert "stream" not in body
        assert body["project_id"] == PROJECT
        turns = [Turn(item["role"], item["content"], item.get("name")) for item in body["messages"]]
        first = next((n for n, turn in enumerate(turns) if turn.role != "system"), len(turns))
        bearer = received.key
        return Asked(
            model=body["model_id"],
            system="\n".join(turn.text for turn in turns[:first]),
            turns=tuple(turns[first:]),
            stops=tuple(body.get("stop", ())),
            max_tokens=body["max_tokens"],
            temperature=body.get("temperature"),
            key=base64.urlsafe_b64decode(bearer).decode()[::-1] if bearer else None,
            streamed=self.streams(received),
        )


def _event(value: object) -> bytes:
    data = json.dumps(value, ensure_ascii=False)
    return f"id: 1\nevent: message\ndata: {data}\n\n".encode()


def _error(word: str, message: str, status: int) -> bytes:
    more = "https://cloud.ibm.com/apidocs/watsonx-ai#text-chat"
    errors = [{"code": word, "message": message, "more_info": more}]
    return json.dumps({"errors": errors, "trace": "0f1e", "status_code": status}).encode()


def _usage(usage: Usage | Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(usage, Usage):
        return usage
    told, said = usage.output_tokens or 0, usage.input_tokens or 0
    return {"completion_tokens": told, "prompt_tokens": said, "total_tokens": told + said}

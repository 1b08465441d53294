"""The Gemini wire, as the reference of v1beta and the types of the vendor's package (3.6.1) have it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final
from urllib.parse import parse_qs, urlsplit

from tests.fakes.wire import Asked, Behaviour, Received, Refused, Turn, Wire, event
from workers.adapter import Adapter, FinishReason, Usage
from workers.adapters.gemini import Gemini
from workers.codes import Code

__all__ = ["GeminiWire", "chunk", "failed", "part"]

PAGE_MAX: Final = 1000
METHODS: Final = r":(generateContent|streamGenerateContent\?alt=sse)\Z"
STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def chunk(*parts: Mapping[str, Any], reason: str | None = None, **fields: Any) -> dict[str, Any]:
    """A GenerateContentResponse."""
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    if reason is not None:
        candidate["finishReason"] = reason
    return {"candidates": [candidate], "modelVersion": "fake-small", "responseId": "r-1", **fields}


def part(text: str, **fields: Any) -> dict[str, Any]:
    """A piece of text."""
    return {"text": text, **fields}


def failed(status: int, message: str, *details: Mapping[str, Any], name: str = "") -> bytes:
    """A google.rpc.Status as the body of an error."""
    error: dict[str, Any] = {"code": status, "message": message, "status": name or STATUSES.get(status, "X")}
    if details:
        error["details"] = list(details)
    return json.dumps({"error": error}, indent=2).encode()


def info(reason: str) -> dict[str, Any]:
    """A google.rpc.ErrorInfo."""
    return {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {"service": "generativelanguage.googleapis.com"},
    }


class GeminiWire(Wire):
    """Its stream has no mark of its end, and its errors are no events of it."""

    name = "gemini"
    adapter: ClassVar[type[Adapter]] = Gemini
    quirks: ClassVar[Mapping[str, Any]] = {"models_complete": True}
    mount = "/v1beta"
    path: ClassVar[str] = r"\A/v1beta/models/([^/:?]+)"
    """Of a generation, up to its method."""
    reasons: ClassVar[Mapping[str, FinishReason]] = {
        "STOP": "stop",
        "MAX_TOKENS": "length",
        "CONTINUATION": "length",
        "SAFETY": "content_filter",
        "RECITATION": "content_filter",
        "LANGUAGE": "content_filter",
        "BLOCKLIST": "content_filter",
        "PROHIBITED_CONTENT": "content_filter",
        "SPII": "content_filter",
        "MODEL_ARMOR": "content_filter",
        "ESCALATION": "content_filter",
        "PUP_LIMITED_DISABLED": "content_filter",
        "IMAGE_SAFETY": "content_filter",
        "IMAGE_PROHIBITED_CONTENT": "content_filter",
        "IMAGE_RECITATION": "content_filter",
        "MALFORMED_FUNCTION_CALL": "tool_calls",
        "UNEXPECTED_TOOL_CALL": "tool_calls",
        "TOO_MANY_TOOL_CALLS": "tool_calls",
        "OTHER": "stop",
        "MALFORMED_RESPONSE": "stop",
        "MISSING_THOUGHT_SIGNATURE": "stop",
        "IMAGE_OTHER": "stop",
        "NO_IMAGE": "stop",
    }
    usual: ClassVar[Mapping[str, str]] = {
        "stop": "STOP",
        "length": "MAX_TOKENS",
        "tool_calls": "UNEXPECTED_TOOL_CALL",
        "content_filter": "SAFETY",
    }
    counts = ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens")
    temperature_max = 2.0
    called: ClassVar[Mapping[str, str]] = {
        "top_p": "topP",
        "top_k": "topK",
        "presence_penalty": "presencePenalty",
        "frequency_penalty": "frequencyPenalty",
    }
    sees_nothing = (
        b"null",
        b"[]",
        b"{}",
        b'{"candidates": []}',
        b'{"candidates": "none"}',
        b'{"candidates": [null]}',
        b'{"promptFeedback": {}}',
        b"{nonsense",
    )
    garbage = (
        b"data: {nonsense\n\n",
        b'data: {"candidates":[{"content":{"parts":[{"text":"\xff"}]}}]}\n\n',
        b"data: [1]\n\n",
        b"data: null\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
    )

    def events(self, behaviour: Behaviour) -> list[bytes]:
        pieces = [chunk(part(thought, thought=True)) for thought in behaviour.reasoning]
        pieces += [chunk(part(text)) for text in behaviour.texts]
        if behaviour.finish_reason is not None:
            pieces.append(chunk(part(""), reason=self._reason(behaviour)))
        if behaviour.usage is not None and pieces:
            counts = usage_metadata(behaviour.usage)
            for piece in pieces[:-1]:
                piece["usageMetadata"] = {"promptTokenCount": counts.get("promptTokenCount", 0)}
            pieces[-1]["usageMetadata"] = counts
        return [event(piece).replace(b"\n", b"\r\n") for piece in pieces]

    def _reason(self, behaviour: Behaviour) -> str | None:
        reason = behaviour.finish_reason
        return None if reason is None else self.usual.get(reason, reason)

    def whole(self, behaviour: Behaviour) -> bytes:
        parts = [part("".join(behaviour.reasoning), thought=True)] if behaviour.reasoning else []
        if behaviour.texts:
            parts.append(part("".join(behaviour.texts)))
        fields = {} if behaviour.usage is None else {"usageMetadata": usage_metadata(behaviour.usage)}
        return json.dumps(chunk(*parts, reason=self._reason(behaviour), **fields)).encode()

    def text(self, text: str) -> bytes:
        return event(chunk(part(text)))

    def quiet(self) -> tuple[bytes, ...]:
        return (
            event(chunk(part(""))),
            event(chunk()),
            event({"candidates": [{"index": 0}]}),
            event({"candidates": [{"content": {"role": "model"}, "index": 0}]}),
            event({"candidates": []}),
            event({"usageMetadata": {"promptTokenCount": 7, "totalTokenCount": 7}}),
            event({"promptFeedback": {"safetyRatings": []}}),
            event(chunk({"functionCall": {"name": "f", "args": {}}})),
            event(chunk({"inlineData": {"mimeType": "image/png", "data": "AA=="}})),
            event(chunk({"thoughtSignature": "EqQB"})),
            event(chunk(part(""), reason="FINISH_REASON_UNSPECIFIED")),
            event({"a_field_of_tomorrow": 1}),
            b": a comment\n\n",
        )

    def error(self, status: int, message: str) -> bytes:
        return failed(status, message)

    def refusals(self) -> Mapping[str, Refused]:
        def refused(status: int, code: Code, message: str, *details: Mapping[str, Any]) -> Refused:
            return Refused(status, failed(status, message, *details), code)

        listed = (
            "or is not supported for generateContent. Call ListModels to see the list of available models"
        )
        return {
            "parameter": refused(400, Code.INVALID_PROMPT, "Please use a valid role: user, model."),
            "too long": refused(
                400,
                Code.CONTEXT_TOO_LONG,
                "The input token count (1048580) exceeds the maximum number of tokens allowed (1048576).",
            ),
            "model": refused(
                404, Code.INVALID_MODEL, f"models/fake-smal is not found for API version v1beta, {listed}."
            ),
            "path": refused(404, Code.UPSTREAM_PROTOCOL, "Requested entity was not found."),
            "key": refused(
                400,
                Code.AUTHORIZATION,
                "API key not valid. Please pass a valid API key.",
                info("API_KEY_INVALID"),
            ),
            "expired": refused(
                400, Code.AUTHORIZATION, "API key expired. Please renew it.", info("API_KEY_INVALID")
            ),
            "off": refused(
                403,
                Code.AUTHORIZATION,
                "Generative Language API has not been used in project 1 before or it is disabled.",
                info("SERVICE_DISABLED"),
            ),
            "money": refused(
                403, Code.QUOTA, "This API method requires billing to be enabled.", info("BILLING_DISABLED")
            ),
            "place": refused(400, Code.UNSUPPORTED, "User location is not supported for the API use."),
        }

    def stream_errors(self) -> Mapping[bytes, Code]:
        """Bare JSON, or an event, which the vendor's own packages look for too."""
        overloaded = failed(503, "The model is overloaded. Please try again later.")
        return {
            overloaded + b"\n\n": Code.UPSTREAM_ERROR,
            b"[" + overloaded + b"]\r\n\r\n": Code.UPSTREAM_ERROR,
            failed(499, "The operation was cancelled.") + b"\n\n": Code.UPSTREAM_ERROR,
            event(json.loads(failed(429, "Quota exceeded", info("RATE_LIMIT_EXCEEDED")))): Code.RATE_LIMITED,
            event(json.loads(failed(400, "API key not valid."))): Code.AUTHORIZATION,
            b"{broken}\n\n": Code.UPSTREAM_ERROR,
        }

    def models(self, names: Sequence[str], received: Received) -> bytes:
        query = parse_qs(urlsplit(received.path).query)
        size = int(query.get("pageSize", ["50"])[0])
        assert 1 <= size <= PAGE_MAX
        start = int(query.get("pageToken", ["0"])[0])
        methods = ["generateContent", "countTokens"]
        models = [
            {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": methods}
            for name in names[start : start + size]
        ]
        more = {"nextPageToken": str(start + size)} if start + size < len(names) else {}
        return json.dumps({"models": models, **more}).encode()

    def streams(self, received: Received) -> bool:
        return ":streamGenerateContent" in received.path

    def asked(self, received: Received) -> Asked:
        body, config = received.body, received.body["generationConfig"]
        path = re.match(self.path + METHODS, received.path, re.ASCII)
        assert path is not None
        roles = [content["role"] for content in body["contents"]]
        assert roles == [("user", "model")[n % 2] for n in range(len(roles))], "they take turns"
        system = body.get("systemInstruction", {"parts": []})
        return Asked(
            model=path[1],
            system=_joined(system),
            turns=tuple(
                Turn("assistant" if content["role"] == "model" else content["role"], _joined(content))
                for content in body["contents"]
            ),
            stops=tuple(config.get("stopSequences", ())),
            max_tokens=config["maxOutputTokens"],
            temperature=config.get("temperature"),
            key=received.headers.get("x-goog-api-key", received.key),
            streamed=self.streams(received),
        )


def _joined(content: Mapping[str, Any]) -> str:
    return "".join(item["text"] for item in content["parts"])


def usage_metadata(usage: Usage | Mapping[str, Any]) -> Mapping[str, Any]:
    """Thoughts are counted apart from what was said."""
    if not isinstance(usage, Usage):
        return usage
    thoughts = usage.reasoning_tokens or 0
    said = (usage.output_tokens or 0) - thoughts
    result = {"promptTokenCount": usage.input_tokens or 0, "candidatesTokenCount": said}
    if usage.cached_input_tokens is not None:
        result["cachedContentTokenCount"] = usage.cached_input_tokens
    if usage.reasoning_tokens is not None:
        result["thoughtsTokenCount"] = thoughts
    return {**result, "totalTokenCount": result["promptTokenCount"] + said + thoughts}

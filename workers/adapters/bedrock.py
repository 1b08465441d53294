"""Amazon Bedrock's Converse wire, `POST /model/MODEL/converse-stream`: one body for the models of all makers.

Connections and ends are http_chat.py's, signatures and frames amazon.py's; Bedrock's own key goes as a bearer
key, unsigned. The body is converse_body.py's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from typing import Any, Final
from urllib.parse import quote

from workers.adapter import AdapterError, Alive, Event, FinishReason, Reasoning, Request, Usage
from workers.amazon import FRAMES_TYPE, Frames, Identity, control_plane, region_of
from workers.answer import Answer, count, whole_input
from workers.codes import Code
from workers.converse_body import build
from workers.http_chat import HttpChat
from workers.parameters import Body
from workers.quirks import Quirks
from workers.refusals import Refusal, Who
from workers.upstream import Upstream

__all__ = ["ADAPTER", "USUAL", "Bedrock", "ConverseReply"]

USUAL: Final = Quirks(
    chat_path="/model/{model}",
    models_path="/foundation-models?byOutputModality=TEXT",
    temperature_max=1.0,
    unsupported=("top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "seed"),
)
PROFILES: Final = "/inference-profiles?maxResults=1000"
"""Names of a model for several regions; many models have no other."""
SERVICE: Final = "bedrock"
"""What a signature is for; the hosts' names do not count."""
DEFAULT_REGION: Final = "us-east-1"
QUESTIONS: Final = 3
"""For a load, the time is shared by both lists and a first connection to the host that answers."""

_ENDS: Final[Mapping[str, FinishReason]] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "malformed_tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
"""All others (`end_turn`, `stop_sequence`, `malformed_model_output`) mean that the model came to its end."""
_STATUSES: Final = {
    "validationException": 400,
    "throttlingException": 429,
    "modelStreamErrorException": 424,
    "modelTimeoutException": 408,
    "internalServerException": 500,
    "serviceUnavailableException": 503,
}
"""Errors inside a stream → the status that each has in the place of an answer."""
_LISTING: Final = "bedrock:List"
"""What somebody who may not list, and may well generate, is told not to be authorized to."""
_ALIVE: Final = Alive()


class Bedrock(HttpChat):
    """Bedrock in one region for one binding."""

    usual = USUAL
    stream_types = (FRAMES_TYPE,)
    decoder = Frames

    def body(self, request: Request, quirks: Quirks, refused: Collection[str]) -> Body:
        return build(request, quirks, refused=refused)

    def path(self, request: Request, body: Body) -> str:
        asked = self._quirks.chat_path.replace("{model}", quote(request.model, safe=""))
        return f"{asked}/converse-stream" if body.streamed else f"{asked}/converse"

    def reader(self, who: Who, request: Request) -> ConverseReply:
        return ConverseReply(who, model=request.model, max_output_length=request.max_output_length)

    @property
    def secrets(self) -> tuple[str, ...]:
        given = (self.option("secret_access_key"), self.option("session_token"))
        return (*super().secrets, *filter(None, given))

    async def signed(self, path: str, body: bytes) -> Mapping[str, str]:
        return {} if self._key else self._signature(self.base_url, path, body)

    def _signature(self, base_url: str, path: str, body: bytes) -> Mapping[str, str]:
        access, secret = self.option("access_key_id").strip(), self.option("secret_access_key").strip()
        if not access or not secret:
            raise AdapterError(
                Code.AUTHORIZATION,
                f"{self.provider.name} needs a key, or access_key_id and secret_access_key in the options "
                "of `load`",
            )
        who = Identity(access, secret, self.option("session_token").strip())
        region = region_of(base_url) or self.option("region") or DEFAULT_REGION
        url = base_url.rstrip("/") + path
        return who.signature("POST" if body else "GET", url, body, service=SERVICE, region=region)

    # ---- models

    async def models(self, upstream: Upstream, path: str, timeout_s: float) -> tuple[str, ...]:
        """The models that stream text, and their names for several regions."""
        control = control_plane(self.base_url)
        if control == self.base_url:
            return await self._models_at(upstream, control, path, timeout_s / QUESTIONS)
        other = self.made(control)
        try:
            await other.open()
            names = await self._models_at(other, control, path, timeout_s / QUESTIONS)
        finally:
            await other.close()
        await upstream.warm(timeout_s / QUESTIONS)
        return names

    async def _models_at(
        self, upstream: Upstream, base_url: str, path: str, timeout_s: float
    ) -> tuple[str, ...]:
        async def listed(path: str) -> Any:
            headers = {} if self._key else self._signature(base_url, path, b"")
            return await upstream.get_json(path, timeout_s=timeout_s, headers=headers)

        try:
            speaking = _speaking(await listed(path))
        except Refusal as exc:
            if exc.code is Code.AUTHORIZATION and _LISTING in exc.fields.message:
                raise AdapterError(
                    Code.UNSUPPORTED, f"this key may not list the models of {self.provider.name}"
                ) from exc
            raise
        profiles: Any = None
        with contextlib.suppress(AdapterError):  # the key is good, and there are names already
            profiles = await listed(PROFILES)
        return (*(name for name, alone in speaking.items() if alone), *_profiles(profiles, speaking))


ADAPTER: Final = Bedrock


class ConverseReply(Answer):
    """Reads one answer of this wire, which never says which model gave it."""

    def __init__(self, who: Who, *, model: str, max_output_length: int) -> None:
        super().__init__(who, model=model, max_output_length=max_output_length)
        self._answered_by = model or None

    def piece(self, data: bytes) -> list[Event]:
        for kind, told in self._object(data).items():
            value = told if isinstance(told, dict) else {}
            match kind:
                case "contentBlockDelta":
                    return self._part(value.get("delta"))
                case "messageStop":
                    self._ended(value)
                case "metadata":
                    self.usage = _usage(value.get("usage"))
                case _ if kind in _STATUSES or kind.endswith(("Exception", "Error")):
                    raise self.failed({"message": value.get("message"), "code": _STATUSES.get(kind)})
        return [_ALIVE]

    def whole(self, data: bytes) -> list[Event]:
        value = self._object(data)
        if isinstance(value.get("message"), str):
            raise self.failed(value)
        output = value.get("output")
        message = output.get("message") if isinstance(output, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, list):
            raise self._not_ours("an answer without a message")
        events = [event for block in content for event in self._part(block) if event is not _ALIVE]
        self._ended(value)
        self.usage = _usage(value.get("usage"))
        return events

    def _part(self, part: object) -> list[Event]:
        """The events of a block, or of a piece of one, which says in one place less what was thought."""
        if isinstance(part, dict):
            if isinstance(text := part.get("text"), str) and text:
                return [self._text(text)]
            thought = part.get("reasoningContent")
            if isinstance(thought, dict):
                inner = thought.get("reasoningText", thought)
                text = inner.get("text") if isinstance(inner, dict) else None
                if text and isinstance(text, str):
                    return [Reasoning(text)]
        return [_ALIVE]

    def _ended(self, told: Mapping[str, Any]) -> None:
        reason = told.get("stopReason")
        self.reason = _ENDS.get(reason, "stop") if isinstance(reason, str) else "stop"


def _speaking(listed: Any) -> dict[str, bool]:
    """The models that can stream; whether each can be asked by that name."""
    items = listed.get("modelSummaries") if isinstance(listed, dict) else None
    result: dict[str, bool] = {}
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict) and isinstance(name := item.get("modelId"), str):
            kinds = item.get("inferenceTypesSupported")
            if item.get("responseStreamingSupported") is not False:
                result[name] = not isinstance(kinds, list) or "ON_DEMAND" in kinds
    return result


def _profiles(listed: Any, speaking: Collection[str]) -> list[str]:
    """The profiles of those models."""
    items = listed.get("inferenceProfileSummaries") if isinstance(listed, dict) else None
    result = []
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict) and isinstance(name := item.get("inferenceProfileId"), str):
            models = item.get("models")
            of = [model for model in models if isinstance(model, dict)] if isinstance(models, list) else []
            if any(str(model.get("modelArn")).rpartition("/")[2] in speaking for model in of):
                result.append(name)
    return result


def _usage(told: object) -> Usage | None:
    if not isinstance(told, dict):
        return None
    cached, written = told.get("cacheReadInputTokens"), told.get("cacheWriteInputTokens")
    return Usage(
        input_tokens=whole_input(told.get("inputTokens"), cached, written),
        output_tokens=count(told.get("outputTokens")),
        cached_input_tokens=count(cached),
    )

"""NLP Cloud's chatbot, `POST /{model}/chatbot`: what the user says, what was said before, one answer.

The wire has no stream, no limit, no sampling and no list of models; a reply arrives in one piece, however it
was asked for.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from workers.adapter import AdapterError, Event, Message, Request, Warn
from workers.answer import Answer
from workers.codes import Code
from workers.http_chat import HttpChat
from workers.parameters import Body, no_stop_ids, omitted, sampling
from workers.prompt import alternating
from workers.quirks import DROPPABLE, Quirks
from workers.refusals import Who

__all__ = ["ADAPTER", "ChatbotReply", "NlpCloud", "build"]

USUAL: Final = Quirks(
    chat_path="/{model}/chatbot", models_path="", key_prefix="Token ", unsupported=DROPPABLE
)
GOING_ON: Final = "Go on."
"""What the user is made to say after a reply that comes last: it is the user who is answered."""


class ChatbotReply(Answer):
    """Reads one answer of this wire, which is always whole."""

    def piece(self, data: bytes) -> list[Event]:
        raise self._not_ours("a stream")

    def whole(self, data: bytes) -> list[Event]:
        value = self._object(data)
        text = value.get("response")
        if "error" in value or "detail" in value:
            raise self.failed(value)
        if not isinstance(text, str):
            raise self._not_ours("an answer without a response")
        self._answered_by = self._model  # its address names it
        self.reason = "stop"
        return [self._text(text)] if text else []


class NlpCloud(HttpChat):
    """One provider of this wire for one binding."""

    usual = USUAL
    stream_types = ()

    def body(self, request: Request, quirks: Quirks, refused: Collection[str]) -> Body:
        return build(request, quirks)

    def reader(self, who: Who, request: Request) -> ChatbotReply:
        return ChatbotReply(who, model=request.model, max_output_length=request.max_output_length)


def build(request: Request, quirks: Quirks) -> Body:
    """The body of a request.

    Raises:
        AdapterError: UNSUPPORTED, INVALID_MODEL or INVALID_PROMPT, the wire cannot carry it.
    """
    if not request.model:
        raise AdapterError(Code.INVALID_MODEL, "this provider has no model of its own: name one in model_id")
    if request.stop_ids:
        raise no_stop_ids()
    warnings: list[Warn] = []
    sampling(request, quirks, quirks.unsupported, warnings)
    options = {"response_format": request.response_format, "reasoning_effort": request.reasoning_effort}
    warnings += [omitted(name) for name, value in options.items() if value is not None]
    warnings.append(omitted("max_output_length"))
    return Body({**_conversation(request.messages), **request.extra}, tuple(warnings))


def _conversation(messages: tuple[Message, ...]) -> dict[str, Any]:
    """The context, what was said in turn, and what is to be answered."""
    system, turns = alternating(messages)
    if turns[-1].role != "user":
        turns.append(Message("user", GOING_ON))
    said = [turn.content for turn in turns]
    pairs = zip(said[:-1:2], said[1:-1:2], strict=True)
    return {
        "input": said[-1],
        "context": "\n".join(system) or None,
        "history": [{"input": asked, "response": answered} for asked, answered in pairs] or None,
    }


ADAPTER: Final = NlpCloud

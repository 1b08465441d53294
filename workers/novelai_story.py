"""A request as NovelAI's story models take it, `POST /ai/generate-stream`, and what they answer as events.

They have no chat template and no end of a turn: the prompt is a transcript, and where somebody else begins to
speak the reply is cut here, since this wire takes its stops as ids of a tokenizer that nobody wants to load.
Each model has its sampling from one of NovelAI's own presets; what a client asks for goes on top. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from workers.adapter import AdapterError, Alive, Event, Request, Warn
from workers.answer import Answer
from workers.codes import Code
from workers.parameters import NEUTRAL_TEMPERATURE, Body, sampling, without_options
from workers.quirks import Quirks, matches
from workers.refusals import Who
from workers.transcript import OneTurn, transcript

__all__ = ["StoryReply", "build", "ends", "length_of"]

LENGTH_MAX: Final = 2048
"""What the schema allows."""
TIERS: Final = {"tablet": 150, "scroll": 150, "opus": 250}
"""Subscription → tokens that one reply may have."""
SCENE_BREAK: Final = "\n***"
"""How a story goes on elsewhere: the turn is over."""

_ERATO_PLAIN: Final = (
    "1 6 8 9 11 12 13 15 16 17 18 19 20 21 22 23 24 25 198 220 264 279 304 311 315 323 374 389 430 459 "
    "477 505 520 527 539 574 596 608 617 649 690 706 813 872 912 956 1047 1051 1053 1077 1202 1210 1288 "
    "1359 1436 1461 1550 1587 2351 2834 2846 3077 3250 3287 3358 4250 4265 4536 5828 7784 7846 8434 "
    "9167 11074 12775 13434 15058 19117 44886 128000"
)
_KAYRA_PLAIN: Final = (
    "4 5 6 7 8 9 10 11 12 85 123 124 125 126 127 128 129 130 131 132 333 336 363 401 426 432 462 468 "
    "487 492 506 526 539 562 567 588 603 614 620 623 653 745 761 794 803 805 942 1040 1096 1259 2032 "
    "2072 2110 2681 2919 2976 3513 5010 5189 5301 7379 8917 10942 16562 49209 49230 49231 49255 49256 "
    "49262 49264 49287 49399"
)
"""Ids of line ends, colons, small words: a chat repeats them, and a penalty for it would spoil them."""


@dataclass(frozen=True, slots=True)
class _Model:
    """What is known of one of the models."""

    length: int = LENGTH_MAX
    """Tokens of a reply, on the smallest subscription that has it."""
    opening: str = ""
    """What stands before a prompt that is not the middle of a longer text."""
    preset: Mapping[str, Any] = field(default_factory=dict)
    order: tuple[int, ...] = ()
    """Its samplers, as the ids of _SAMPLERS; one that is not named does not work."""


_MODELS: Final = {
    "*erato*": _Model(
        length=TIERS["opus"],
        opening="<|startoftext|><|reserved_special_token81|>",
        preset={  # Golden Arrow, with the warmer numbers that this module's ancestor used for chats
            "top_p": 0.995,
            "repetition_penalty": 1.5,
            "repetition_penalty_range": 2240,
            "repetition_penalty_slope": 1,
            "repetition_penalty_whitelist": [int(token) for token in _ERATO_PLAIN.split()],
            "phrase_rep_pen": "light",
            "math1_temp": 0.5,
            "math1_quad": 0.19,
            "math1_quad_entropy_scale": -0.08,
        },
        order=(9, 2),
    ),
    "kayra*": _Model(
        length=TIERS["tablet"],
        preset={  # Carefree
            "temperature": 1.35,
            "top_k": 15,
            "top_p": 0.85,
            "top_a": 0.1,
            "tail_free_sampling": 0.915,
            "repetition_penalty": 2.8,
            "repetition_penalty_range": 2048,
            "repetition_penalty_slope": 0.02,
            "repetition_penalty_frequency": 0.02,
            "repetition_penalty_whitelist": [int(token) for token in _KAYRA_PLAIN.split()],
            "phrase_rep_pen": "aggressive",
        },
        order=(2, 3, 0, 4, 1),
    ),
}
_SAMPLERS: Final = {"temperature": 0, "top_k": 1, "top_p": 2, "min_p": 10}
_NAMES: Final = {
    "presence_penalty": "repetition_penalty_presence",
    "frequency_penalty": "repetition_penalty_frequency",
}
_FIXED: Final[Mapping[str, Any]] = {
    "use_string": True,
    "generate_until_sentence": True,  # up to 20 tokens more; a model without an end would be cut in a word
    "bracket_ban": True,  # brackets are for notes to the model
    "prefix": "vanilla",
}
_ALIVE: Final = Alive()


def build(request: Request, quirks: Quirks, tier: str, *, refused: Collection[str] = ()) -> Body:
    """The body of a request; `tier` is the account's subscription, empty where nobody said it.

    Raises:
        AdapterError: UNSUPPORTED, a message belongs to a tool; INVALID_REQUEST, there is no such tier.
    """
    model = _model(request.model)
    warnings: list[Warn] = []
    length = length_of(request, tier)
    if length < request.max_output_length:
        sentence = f"max_output_length {request.max_output_length} was sent as {length}, all that it may be"
        warnings.append(Warn("PARAMETER_CHANGED", sentence))
    parameters: dict[str, Any] = {**_FIXED, **model.preset, "min_length": 1, "max_length": length}
    given = sampling(request, quirks, {*quirks.unsupported, *refused}, warnings)
    if given.get("temperature") == NEUTRAL_TEMPERATURE:
        del given["temperature"]  # the preset's own holds
    parameters.update((_NAMES.get(name, name), value) for name, value in given.items())
    if model.order:
        more = (number for name, number in _SAMPLERS.items() if name in given and number not in model.order)
        parameters["order"] = [*model.order, *more]
    if request.stop_ids:
        parameters["stop_sequences"] = [[token] for token in request.stop_ids]
    warnings += without_options(request)
    extra = dict(request.extra)
    wanted = extra.pop("parameters", {})
    parameters.update(wanted if isinstance(wanted, Mapping) else {})
    prompt = model.opening + transcript(request).prompt
    fields = {"input": prompt, "model": request.model, "parameters": parameters, **extra}
    return Body(fields, tuple(warnings), streamed=True)


def length_of(request: Request, tier: str) -> int:
    """How many tokens are asked for.

    Raises:
        AdapterError: INVALID_REQUEST, there is no such tier.
    """
    allowed = TIERS.get(tier.lower()) if tier else _model(request.model).length
    if allowed is None:
        raise AdapterError(Code.INVALID_REQUEST, f"the option tier must be one of {', '.join(TIERS)}")
    return min(request.max_output_length, allowed)


def ends(request: Request) -> tuple[str, ...]:
    """Where the reply is over, whatever the client wants: the next turn, whoever speaks, or scene."""
    return (*transcript(request).ends, SCENE_BREAK)


def _model(name: str) -> _Model:
    return next((model for pattern, model in _MODELS.items() if matches((pattern,), name)), _Model())


class StoryReply(Answer):
    """Reads one answer: tokens, the last of them marked; used once."""

    def __init__(self, who: Who, request: Request, *, length: int) -> None:
        super().__init__(who, model=request.model, max_output_length=request.max_output_length)
        self._answered_by = request.model  # this wire has no names for others
        self._left_tokens = length
        self._turn = OneTurn(ends(request), request.stop)

    @property
    def complete(self) -> bool:
        return self.reason is not None  # and it never tells usage

    @property
    def unfinished(self) -> bool:
        return self.endless or self._turn.over

    def piece(self, data: bytes) -> list[Event]:
        value = self._object(data)
        if value.get("error") or "statusCode" in value:
            raise self.failed(value)
        self._left_tokens -= 1
        token = value.get("token")
        return self._read(token if isinstance(token, str) else "", final=value.get("final") is True)

    def whole(self, data: bytes) -> list[Event]:
        value = self._object(data)
        if value.get("error") or "statusCode" in value:
            raise self.failed(value)
        output = value.get("output")
        if not isinstance(output, str):
            raise self._not_ours("an answer without its output")
        return self._read(output, final=True)

    def _read(self, token: str, *, final: bool) -> list[Event]:
        shown = self._turn.feed(token)
        if final:
            shown += self._turn.finish()
            self.reason = "length" if self._left_tokens <= 0 else "stop"
        if self._turn.over:
            self.reason = "stop"
        return [self._text(shown)] if shown else [_ALIVE]

"""NLP Cloud's chatbot, as its Python package 1.1.47 and its Node package's types have it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final
from urllib.parse import unquote

from tests.fakes.wire import Asked, Behaviour, Received, Refused, Turn, Wire
from workers.adapter import FinishReason
from workers.adapters.nlp_cloud import NlpCloud
from workers.codes import Code

__all__ = ["NlpCloudWire"]

_WHOLE: Final = "the wire has no stream: a reply arrives whole"
_NO_LIST: Final = "the wire has no list of models, so a load asks nothing"
_SAYS_NO_MORE: Final = "an answer is its text and no more"
_TAKES_NO_MORE: Final = "a request is what was said and no more; that it has no limit is told each time"
ABSENT: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            "a_piece_is_given_before_the_next_one_is_sent",
            "a_stream_is_read_at_every_split",
            "a_stream_that_drips_is_read_and_a_part_of_a_piece_is_no_life",
            "pieces_that_say_nothing_are_life_and_no_text",
            "a_stop_string_ends_the_request_upstream",
            "nothing_is_tried_again_once_something_arrived",
            "an_interrupt_before_the_first_piece_closes_the_connection",
            "an_interrupt_amid_a_stream_closes_that_connection_and_no_other",
            "comments_are_no_life_and_an_interrupt_ends_them",
            "a_cut_stream_is_truncated_and_never_a_success",
            "a_stream_that_ends_regularly_without_its_end_is_truncated",
            "a_stream_cut_inside_a_piece_is_truncated",
            "a_cut_after_the_model_said_that_it_ended_is_a_success",
            "a_giant_piece_is_refused",
            "a_stream_without_end_is_ended_and_told",
            "data_after_the_end_is_not_read",
            "what_is_said_after_an_end_is_no_less_a_part_of_the_reply",
            "a_server_that_goes_silent_after_its_end_is_not_waited_for",
        ),
        _WHOLE,
    ),
    **dict.fromkeys(
        (
            "usage_is_what_the_provider_reported",
            "reasoning_is_life_and_no_text",
            "reasoning_alone_is_an_empty_reply_that_says_why",
            "a_reply_that_a_filter_took_is_content_filtered",
        ),
        _SAYS_NO_MORE,
    ),
    **dict.fromkeys(
        (
            "a_reply_has_its_text_its_model_and_its_end",
            "what_the_provider_stopped_at_is_an_end",
            "the_limit_the_model_and_the_key_are_sent",
            "a_temperature_stays_within_the_wires_range_and_a_change_is_told",
        ),
        _TAKES_NO_MORE,
    ),
    **dict.fromkeys(
        (
            "a_load_learns_the_models_with_the_key_and_pays_nothing",
            "a_load_with_a_refused_key_is_authorization",
            "a_load_without_verify_takes_a_refused_key",
            "a_load_takes_anything_else_as_a_success_with_a_warning",
            "a_load_without_a_server_is_unreachable_and_says_where",
            "a_load_follows_no_redirect_either",
            "a_model_that_is_not_listed_is_refused_with_the_nearest",
            "a_model_that_does_not_exist_is_told_with_the_nearest",
            "a_warm_connection_that_the_server_has_closed_costs_one_retry",
        ),
        _NO_LIST,
    ),
}
"""What there is of these is in test_nlp_cloud.py."""


class NlpCloudWire(Wire):
    """Every answer is whole, and is the text alone."""

    name = "nlp_cloud"
    adapter = NlpCloud
    mount = "/v1/gpu"
    streamed = False
    reasons: ClassVar[Mapping[str, FinishReason]] = {"stop": "stop"}
    usual: ClassVar[Mapping[str, str]] = {}
    counts = ()
    temperature_max = 2.0
    sees_nothing = (
        *(b"null", b"[]", b"{}", b"{nonsense"),
        *(b'{"response": null}', b'{"response": ["Hi"]}', b'{"history": []}'),
    )
    garbage = ()
    absent = ABSENT

    def events(self, behaviour: Behaviour) -> list[bytes]:
        raise AssertionError(_WHOLE)

    def whole(self, behaviour: Behaviour) -> bytes:
        thoughts = "".join(f"<think>{thought}</think>" for thought in behaviour.reasoning)
        text = thoughts + "".join(behaviour.texts)
        return json.dumps({"response": text, "history": [{"input": "x", "response": text}]}).encode()

    def text(self, text: str) -> bytes:
        raise AssertionError(_WHOLE)

    def quiet(self) -> tuple[bytes, ...]:
        return ()

    def error(self, status: int, message: str) -> bytes:
        return json.dumps({"detail": message}).encode()

    def refusals(self) -> Mapping[str, Refused]:
        def refused(status: int, code: Code, detail: Any) -> Refused:
            return Refused(status, json.dumps({"detail": detail}).encode(), code)

        missing = [{"loc": ["body", "input"], "msg": "field required", "type": "value_error.missing"}]
        return {
            "field": refused(422, Code.INVALID_PROMPT, missing),
            "too large": refused(413, Code.CONTEXT_TOO_LONG, "Request entity too large"),
            "key": refused(401, Code.AUTHORIZATION, "Invalid token"),
            "plan": refused(402, Code.QUOTA, "Payment required"),
            "model": refused(404, Code.INVALID_MODEL, "This model does not exist"),
            "path": refused(404, Code.UPSTREAM_PROTOCOL, "Not Found"),
        }

    def stream_errors(self) -> Mapping[bytes, Code]:
        return {}

    def models(self, names: Sequence[str], received: Received) -> bytes:
        raise AssertionError(_NO_LIST)

    def streams(self, received: Received) -> bool:
        return False

    def asked(self, received: Received) -> Asked:
        body = received.body
        turns = []
        for pair in body["history"] or ():
            turns += [Turn("user", pair["input"]), Turn("assistant", pair["response"])]
        scheme, _, key = received.headers["authorization"].partition(" ")
        assert scheme == "Token"
        return Asked(
            model=unquote(received.path.removeprefix("/v1/gpu/").removesuffix("/chatbot")),
            system=body["context"] or "",
            turns=(*turns, Turn("user", body["input"])),
            stops=(),
            max_tokens=0,
            temperature=None,
            key=key,
            streamed=False,
        )

"""The AI Horde, as its API's own description and its source (AI-Horde fbd5ed4) have it.

A job is asked for with a POST and answered with its id; its state and at last its text are looked at with
GETs, and a DELETE takes it out of the queue. Here the id of a job holds what it will say, so that no state
need be kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from tests.fakes.transcripts import spoken
from tests.fakes.wire import Asked, Behaviour, Part, Received, Refused, Wire
from workers.adapter import FinishReason
from workers.adapters.ai_horde import AIHorde
from workers.codes import Code

__all__ = ["STATUS", "HordeWire", "error", "job_of", "state", "status_of"]

STATUS: Final = "/api/v2/generate/text/status/"
WAITING: Final = {
    "finished": 0,
    "processing": 0,
    "restarted": 0,
    "waiting": 1,
    "done": False,
    "faulted": False,
    "wait_time": 7,
    "queue_position": 3,
    "kudos": 1.0,
    "is_possible": True,
    "generations": [],
}
GENERATION: Final = {
    "worker_id": "00000000-0000-0000-0000-000000000000",
    "worker_name": "a volunteer",
    "model": "fake-small",
    "state": "ok",
    "text": "",
    "seed": 0,
    "gen_metadata": [],
}
STOPS_MAX: Final = 128
STOPS_MAX_CHARS: Final = 2000
NO_STREAM: Final = "the text comes whole: test_ai_horde.py"
NO_REASONING: Final = "thinking is not kept apart from the text"
IN_QUEUE: Final = "a job ends by a DELETE, its connection stays: test_ai_horde.py"


def error(rc: str, message: str) -> bytes:
    """An error: a sentence and one of the horde's return codes."""
    return json.dumps({"message": message, "rc": rc}).encode()


def job_of(**generation: Any) -> str:
    """The id of a job that will have that generation."""
    return json.dumps(generation).encode().hex()


def state(**fields: Any) -> bytes:
    """What is said of a job: that it waits, where nothing else is given."""
    return json.dumps({**WAITING, **fields}).encode()


def status_of(job: str) -> bytes:
    """The state of a job that is done."""
    generation = {**GENERATION, **json.loads(bytes.fromhex(job))}
    done = {"finished": 1, "waiting": 0, "done": True, "wait_time": 0, "queue_position": 0}
    return state(**done, generations=[generation])


class HordeWire(Wire):
    """A queue."""

    name = "ai_horde"
    adapter = AIHorde
    quirks: ClassVar[Mapping[str, Any]] = {"models_complete": True}
    mount = "/api/v2"
    streamed = False
    whole_status = 202
    reasons: ClassVar[Mapping[str, FinishReason]] = {"ok": "stop", "censored": "content_filter"}
    usual: ClassVar[Mapping[str, str]] = {"stop": "ok", "content_filter": "censored"}
    counts = ()
    temperature_max = 5.0
    sees_nothing = (
        *(b"null", b"[]", b"{}", b"{nonsense"),
        *(b'{"id": null}', b'{"id": 7}', b'{"kudos": 1.0}'),
    )
    garbage = ()
    absent: ClassVar[Mapping[str, str]] = {
        "a_piece_is_given_before_the_next_one_is_sent": NO_STREAM,
        "a_stream_is_read_at_every_split": NO_STREAM,
        "a_stream_that_drips_is_read_and_a_part_of_a_piece_is_no_life": NO_STREAM,
        "pieces_that_say_nothing_are_life_and_no_text": NO_STREAM,
        "what_is_said_after_an_end_is_no_less_a_part_of_the_reply": NO_STREAM,
        "usage_is_what_the_provider_reported": "the horde tells kudos and no tokens",
        "reasoning_is_life_and_no_text": NO_REASONING,
        "reasoning_alone_is_an_empty_reply_that_says_why": NO_REASONING,
        "a_stop_string_ends_the_request_upstream": NO_STREAM,
        "nothing_is_tried_again_once_something_arrived": NO_STREAM,
        "an_interrupt_before_the_first_piece_closes_the_connection": IN_QUEUE,
        "an_interrupt_amid_a_stream_closes_that_connection_and_no_other": IN_QUEUE,
        "comments_are_no_life_and_an_interrupt_ends_them": NO_STREAM,
        "a_cut_stream_is_truncated_and_never_a_success": NO_STREAM,
        "a_stream_that_ends_regularly_without_its_end_is_truncated": NO_STREAM,
        "a_stream_cut_inside_a_piece_is_truncated": NO_STREAM,
        "a_cut_after_the_model_said_that_it_ended_is_a_success": NO_STREAM,
        "a_giant_piece_is_refused": NO_STREAM,
        "a_stream_without_end_is_ended_and_told": NO_STREAM,
        "data_after_the_end_is_not_read": NO_STREAM,
        "a_server_that_goes_silent_after_its_end_is_not_waited_for": NO_STREAM,
    }

    def events(self, behaviour: Behaviour) -> list[bytes]:
        raise AssertionError("the horde does not stream")

    def whole(self, behaviour: Behaviour) -> bytes:
        reason = behaviour.finish_reason or "ok"
        job = job_of(text="".join(behaviour.texts), state=self.usual.get(reason, reason))
        return json.dumps({"id": job, "kudos": 3.0}).encode()

    def text(self, text: str) -> bytes:
        raise AssertionError("the horde does not stream")

    def quiet(self) -> tuple[bytes, ...]:
        return ()

    def error(self, status: int, message: str) -> bytes:
        return error("BadRequest", message)

    def refusals(self) -> Mapping[str, Refused]:
        def refused(status: int, code: Code, rc: str, message: str) -> Refused:
            return Refused(status, error(rc, message), code)

        validation = {"errors": {"params.top_p": "7 is greater than the maximum of 1.0"}}
        return {
            "parameter": Refused(
                400,
                json.dumps({**validation, "message": "Input payload validation failed"}).encode(),
                Code.INVALID_PROMPT,
            ),
            "prompt": refused(
                400, Code.INVALID_PROMPT, "MissingPrompt", "You cannot specify an empty prompt."
            ),
            "stops": refused(
                400, Code.INVALID_PROMPT, "TooManyStopSequences", "Too many stop sequences specified"
            ),
            "too long": refused(
                400, Code.CONTEXT_TOO_LONG, "InvalidPromptSize", "Too large prompt. Please reduce the amount"
            ),
            "more than its context": refused(
                400,
                Code.CONTEXT_TOO_LONG,
                "TokenOverflow",
                "You cannot request more tokens than your context",
            ),
            "terms": refused(
                400, Code.CONTENT_FILTERED, "CorruptPrompt", "This prompt appears to violate our terms"
            ),
            "model": refused(400, Code.INVALID_MODEL, "UnsupportedModel", "This model is not supported"),
            "maintenance": refused(
                400, Code.UPSTREAM_ERROR, "MaintenanceMode", "has entered maintenance mode"
            ),
            "nobody": refused(400, Code.UPSTREAM_ERROR, "NoValidWorkers", "No active worker found"),
            "key": refused(401, Code.AUTHORIZATION, "InvalidAPIKey", "No user matching sent API Key."),
            "anonymous": refused(403, Code.AUTHORIZATION, "AnonForbidden", "Anonymous user is forbidden"),
            "kudos": refused(403, Code.QUOTA, "KudosUpfront", "This request requires 21 kudos to fulfil."),
            "shared key": refused(403, Code.QUOTA, "SharedKeyEmpty", "This shared key has run out of kudos."),
            "timeout": refused(
                403, Code.RATE_LIMITED, "TimeoutIP", "your IP address has been put into timeout"
            ),
            "path": refused(404, Code.UPSTREAM_PROTOCOL, "", "The requested URL was not found"),
        }

    def stream_errors(self) -> Mapping[bytes, Code]:
        return {}

    def models(self, names: Sequence[str], received: Received) -> bytes:
        if received.path == "/api/v2/find_user":
            return json.dumps({"username": "somebody#1", "id": 1, "kudos": 10.0}).encode()
        assert received.path == "/api/v2/status/models?type=text"
        counts = {"count": 1, "performance": 20.0, "queued": 0.0, "jobs": 0.0, "eta": 0, "type": "text"}
        return json.dumps([{"name": name, **counts} for name in names]).encode()

    def part(self, received: Received) -> Part:
        return Part.FOLLOW if received.path.startswith(STATUS) else super().part(received)

    def followed(self, received: Received) -> bytes:
        return status_of(received.path.removeprefix(STATUS))

    def asked(self, received: Received) -> Asked:
        body, params = received.body, received.body["params"]
        assert received.path == "/api/v2/generate/text/async"
        assert received.headers["client-agent"].count(":") == 2
        said, stops = spoken(body["prompt"]), params.get("stop_sequence", [])
        assert f"\n{said.speaker}:" in stops
        assert len(stops) <= STOPS_MAX
        assert sum(map(len, stops)) <= STOPS_MAX_CHARS
        assert params["max_length"] <= params["max_context_length"]
        return Asked(
            model=body["models"][0],
            system=said.system,
            turns=said.turns,
            stops=tuple(stop for stop in stops if not (stop.startswith("\n") and stop.endswith(":"))),
            max_tokens=params["max_length"],
            temperature=params["temperature"],
            key=received.headers["apikey"],
            streamed=False,
        )

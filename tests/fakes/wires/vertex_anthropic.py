"""The Anthropic wire as Vertex AI speaks it, by its documentation and by the package anthropic (2.13.0)."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar, Final

from tests.fakes.google_tokens import PROJECT, service_account, tokens
from tests.fakes.wire import Received
from tests.fakes.wires.anthropic_messages import AnthropicWire
from workers.adapters.vertex_anthropic import VertexAnthropic

__all__ = ["VertexAnthropicWire"]

PATH: Final = re.compile(
    rf"\A/v1/projects/{PROJECT}/locations/global/publishers/anthropic/models/([^/:?]+):(stream)?(?i:rawPredict)\Z"
)
NO_LIST: Final = "there is no list of models"


class VertexAnthropicWire(AnthropicWire):
    """A client gives the file of a service account; its requests carry a token, and a version in the body."""

    name = "vertex_anthropic"
    adapter = VertexAnthropic
    mount = ""
    quirks: ClassVar[Mapping[str, Any]] = {"stop_max": 64}
    absent: ClassVar[Mapping[str, str]] = {
        **AnthropicWire.absent,
        "a_load_learns_the_models_with_the_key_and_pays_nothing": NO_LIST,
        "a_load_with_a_refused_key_is_authorization": f"{NO_LIST}; a login that is refused: test_vertex.py",
        "a_load_without_verify_takes_a_refused_key": NO_LIST,
        "a_load_takes_anything_else_as_a_success_with_a_warning": NO_LIST,
        "a_list_of_models_that_is_none_is_no_reason_to_fail": NO_LIST,
        "a_load_follows_no_redirect_either": NO_LIST,
        "a_model_that_is_not_listed_is_refused_with_the_nearest": NO_LIST,
        "a_model_that_does_not_exist_is_told_with_the_nearest": NO_LIST,
        "a_key_that_no_header_can_hold_is_told": "a key is a file here; a token is checked at the login",
        "a_key_is_sent_without_the_white_space_around_it": "a key is a file here, which is sent nowhere",
    }

    def credential(self, key: str) -> str:
        return json.dumps(service_account())

    @contextlib.asynccontextmanager
    async def beside(self) -> AsyncIterator[None]:
        async with tokens(self):
            yield

    def check(self, received: Received) -> None:
        assert "anthropic-version" not in received.headers
        assert received.body["anthropic_version"] == "vertex-2023-10-16"
        assert "model" not in received.body
        path = PATH.match(received.path)
        assert path is not None
        assert bool(path[2]) is self.streams(received)

    def model_of(self, received: Received) -> str:
        path = PATH.match(received.path)
        assert path is not None
        return path[1]

    def key_of(self, received: Received) -> str | None:
        return received.key

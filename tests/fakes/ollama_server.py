"""A server on 127.0.0.1 that is an Ollama, well or badly: it chats, loads, unloads and fetches models."""

from __future__ import annotations

import json
from typing import Final

from tests.fakes.http_server import FakeServer, Step
from tests.fakes.wire import Behaviour, Received
from tests.fakes.wires.ollama import OllamaWire, line

__all__ = ["PULLED", "OllamaServer", "loading"]

DIGEST: Final = "sha256:6a0746a1ec1aef3e7ec53868f220ff6e389f6f8ef87a01d77c96807de94ca2aa"
PULLED: Final = (
    line({"status": "pulling manifest"}),
    line({"status": "pulling 6a0746a1ec1a", "digest": DIGEST, "total": 4_000_000}),
    line({"status": "pulling 6a0746a1ec1a", "digest": DIGEST, "total": 4_000_000, "completed": 1_000_000}),
    line({"status": "pulling 4fa551d4f938", "digest": "sha256:4fa551d4f938", "total": 12_000_000}),
    line({"status": "pulling 6a0746a1ec1a", "digest": DIGEST, "total": 4_000_000, "completed": 4_000_000}),
    line({"status": "verifying sha256 digest"}),
    line({"status": "writing manifest"}),
    line({"status": "success"}),
)
"""The lines of a download of two files."""


def loading(reason: str = "load") -> Behaviour:
    """The answer to a chat without messages."""
    message = {"role": "assistant", "content": ""}
    answer = {"model": "fake-small", "message": message, "done_reason": reason, "done": True}
    return Behaviour(body=json.dumps(answer).encode())


class OllamaServer(FakeServer):
    """The server; see tests/fakes/http_server.py."""

    def __init__(self) -> None:
        super().__init__(OllamaWire())
        self.pull: Step = Behaviour(events=PULLED)
        """How a model is fetched; afterwards it is listed."""
        self.loading: Step = loading()
        """How one is loaded or unloaded."""

    def step_for(self, request: Received) -> Step:
        if request.path == "/api/pull":
            return self.pull
        if request.path == "/api/chat" and request.body["messages"] == []:
            return self.loading
        return super().step_for(request)

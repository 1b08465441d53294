"""A server on 127.0.0.1 that speaks the OpenAI wire, and what its users need, in one place."""

from __future__ import annotations

import socket
import ssl

from tests.fakes.http_server import WAIT_S, Exchange, FakeServer, Step
from tests.fakes.wire import Behaviour, Received, event
from tests.fakes.wires.openai_chat import OpenAIWire, piece

__all__ = ["WAIT_S", "Behaviour", "Exchange", "OpenAIServer", "Received", "Step", "event", "piece"]


class OpenAIServer(FakeServer):
    """The server; see tests/fakes/http_server.py."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, listening: socket.socket | None = None) -> None:
        super().__init__(OpenAIWire(), tls=tls, listening=listening)
        self.key_check: Step = Behaviour(body=b'{"data": {"label": "fake"}}')
        """How `GET /key` is answered, which OpenRouter has."""

    def step_for(self, request: Received) -> Step:
        return self.key_check if request.path.endswith("/key") else super().step_for(request)

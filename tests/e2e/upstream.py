"""The fake of the OpenAI wire on a port that outlives it, so that one module can be used by many tests."""

from __future__ import annotations

import socket

from tests.fakes.openai_server import OpenAIServer

__all__ = ["Upstream"]


class Upstream(OpenAIServer):
    """An OpenAIServer that accepts on a socket which already listens, and leaves it open."""

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(listening=listening)

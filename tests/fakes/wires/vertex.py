"""The Gemini wire as Vertex AI speaks it: other paths, a token for a key, another list of models."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from urllib.parse import parse_qs, urlsplit

from tests.fakes.google_tokens import PROJECT, service_account, tokens
from tests.fakes.wire import Received
from tests.fakes.wires.gemini import GeminiWire
from workers.adapters.vertex import Vertex

__all__ = ["VertexWire"]


class VertexWire(GeminiWire):
    """A client gives the file of a service account, and its requests carry a token."""

    name = "vertex"
    adapter = Vertex
    mount = ""
    path = rf"\A/v1(?:/projects/{PROJECT}/locations/global)?/publishers/google/models/([^/:?]+)"

    def credential(self, key: str) -> str:
        return json.dumps(service_account(), indent=2)

    @contextlib.asynccontextmanager
    async def beside(self) -> AsyncIterator[None]:
        async with tokens(self):
            yield

    def models(self, names: Sequence[str], received: Received) -> bytes:
        path = urlsplit(received.path)
        if path.path == "/ping":
            return b"{}"
        assert path.path == "/v1beta1/publishers/google/models"
        query = parse_qs(path.query)
        start, size = int(query.get("pageToken", ["0"])[0]), int(query["pageSize"][0])
        models = [{"name": f"publishers/google/models/{name}"} for name in names[start : start + size]]
        more = {"nextPageToken": str(start + size)} if start + size < len(names) else {}
        return json.dumps({"publisherModels": models, **more}).encode()

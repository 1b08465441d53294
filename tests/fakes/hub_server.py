"""A Hugging Face hub of one repository, on loopback, and the other host to which it sends for the bytes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["COMMIT", "FakeHub", "hub_server"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """What it holds, how it behaves, and what it was asked."""

    files: dict[str, bytes]
    endpoint: str = ""
    storage: str = ""
    key: str | None = None
    """Whoever does not send it is refused."""
    cut_after: int | None = None
    """So many bytes of a file are sent, and then the connection ends."""
    ranges: bool = True
    spoiled: bool = False
    """The bytes are not the file's."""
    status: int | None = None
    """Of every answer of the hub itself."""
    moved_to: str | None = None
    """Where the repository is now: a path, or another host."""
    noise: bool = False
    """The hub's answers are no JSON and have none of its headers."""
    asked: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    """Method, path, Authorization and Range of each request."""


@contextlib.contextmanager
def hub_server(files: dict[str, bytes]) -> Iterator[FakeHub]:
    """Runs both hosts."""
    hub = FakeHub(files)
    handler = type("Handler", (_Handler,), {"hub": hub})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    hub.endpoint, hub.storage = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *args: Any) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        self._note()
        file = self.path.partition("/resolve/")[2].partition("/")[2]  # behind the revision
        moved = self.hub.moved_to
        if self.hub.status is not None:
            self._answer(self.hub.status)
        elif self.hub.noise:
            self._answer(200)
        elif moved is not None and not self.path.startswith(moved):
            self._answer(307, headers={"Location": f"{moved}/resolve/main/{file}"})
        elif self.hub.key is not None and self.headers["Authorization"] != f"Bearer {self.hub.key}":
            self._answer(401)
        elif file not in self.hub.files:
            self._answer(404)
        else:
            self._answer(302, headers=self._described(file))

    def _described(self, file: str) -> dict[str, str]:
        data = self.hub.files[file]
        return {
            "Location": f"{self.hub.storage}/bytes/{file}",
            "X-Repo-Commit": COMMIT,
            "X-Linked-Size": str(len(data)),
            "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
        }

    def do_GET(self) -> None:
        self._note()
        if self.path.startswith("/api/models/"):
            body = json.dumps({"siblings": [{"rfilename": name} for name in self.hub.files]}).encode()
            self._answer(200, b"<html>" if self.hub.noise else body)
        elif self.path.startswith("/bytes/") and "?" not in self.path:
            self._answer(302, headers={"Location": f"{self.path}?signed"})
        else:
            self._bytes(self.hub.files[self.path.removeprefix("/bytes/").partition("?")[0]])

    def _bytes(self, data: bytes) -> None:
        hub, start, status = self.hub, 0, 200
        if hub.ranges and (wanted := self.headers["Range"]):
            start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
        body = data[start:]
        if hub.spoiled:
            body = bytes(len(body))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if hub.cut_after is None else body[: hub.cut_after])
        self.close_connection = True

    def _note(self) -> None:
        self.hub.asked.append((self.command, self.path, self.headers["Authorization"], self.headers["Range"]))

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

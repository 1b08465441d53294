"""Moves text between sockets and clients: the WebSocket, and one client's outbox. Access is access.py's.

A plain GET of one of pages.py's paths is answered on the same port, and is no client.

The WebSocket itself is the websockets package's Sans-I/O `ServerProtocol`; this file owns the socket around
it, so that everything which one read of a worker's pipe causes leaves in one write, and so that a client
that stops reading can be dropped at once (websockets' own `close()` waits for such a client for ever).
"""

from __future__ import annotations

import asyncio
import http
import ipaddress
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import SEND_EOF, State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from supervisor.access import Access
from supervisor.pages import Answer, Question, asked

__all__ = ["ClientPort", "Connection", "Server", "ServerLimits"]

log = logging.getLogger(__name__)

SUBPROTOCOL: Final = Subprotocol("waifu.llm")
WRITE_HIGH_BYTES: Final = 64 << 10
"""Above this much unsent, a client counts as not reading; its streams then stop getting credit."""
GOING_AWAY: Final = 1001
CLOSE_TIMEOUT_S: Final = 1.0
"""For the other side's close frame; a desktop application must not wait longer for us to end."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds of the server; each is a setting."""

    message_bytes: int = 1 << 20
    connections: int = 32
    open_timeout_s: float = 5.0
    """From accept to a finished handshake, and again for a page to be read."""
    ping_interval_s: float = 20.0
    stall_timeout_s: float = 5.0
    """A client whose socket takes nothing for this long while something waits is dropped."""


class ClientPort(Protocol):
    """What a connection needs of the client behind it."""

    def message(self, text: bytes) -> None:
        """A whole message arrived."""

    def drained(self) -> None:
        """The socket took everything: streams may go on."""

    def gone(self) -> None:
        """The connection is over; called once."""


class Connection(asyncio.Protocol):
    """One client's socket. What is sent in one turn of the loop leaves in one write."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._ws = ServerProtocol(
            max_size=server.limits.message_bytes, logger=_WS_LOG, select_subprotocol=_select_subprotocol
        )
        self._transport: asyncio.Transport | None = None
        self._client: ClientPort | None = None
        self._page: asyncio.Task[Answer] | None = None
        self._fragments: list[bytes] = []
        self._flush_due = False
        self._written = 0
        self._paused = False
        self._taken_at_check = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._pong_missing = False
        self.closed = asyncio.Event()

    # ---- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self._server.connections.add(self)
        self._timer = self._loop.call_later(self._server.limits.open_timeout_s, self.abort, "no handshake")

    def data_received(self, data: bytes) -> None:
        if self._page is not None:
            return  # one page a connection: whatever follows its request is not read
        self._ws.receive_data(data)
        self._handle_events()

    def eof_received(self) -> bool:
        if self._page is not None:
            return True  # it said all that it has to say, and still wants its page
        self._ws.receive_eof()
        self._handle_events()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._stall):
            if timer is not None:
                timer.cancel()
        self._server.connections.discard(self)
        if self._page is not None:
            self._page.cancel()
        client, self._client = self._client, None
        self._transport = None
        if client is not None:
            client.gone()
        self.closed.set()

    def pause_writing(self) -> None:
        self._paused = True
        self._taken_at_check = self._taken()
        self._stall = self._loop.call_later(self._server.limits.stall_timeout_s, self._check_stall)

    def resume_writing(self) -> None:
        self._paused = False
        if self._stall is not None:
            self._stall.cancel()
        if self._client is not None:
            self._client.drained()

    # ---- the client's side

    @property
    def from_loopback(self) -> bool:
        """Whether the other side is on this machine."""
        peer = None if self._transport is None else self._transport.get_extra_info("peername")
        try:
            address = ipaddress.ip_address(peer[0]) if peer else None
        except ValueError:
            return False
        return address is not None and address.is_loopback

    @property
    def is_client(self) -> bool:
        """Whether its handshake is done; a connection that only wants a page never is."""
        return self._client is not None

    def send(self, message: bytes) -> None:
        """Sends one text message; nothing happens when the connection is already over."""
        if self._ws.state is State.OPEN:
            self._ws.send_text(message)
            self._flush_soon()

    def close(self) -> None:
        """Says goodbye after everything that was sent; the socket is closed within a bound."""
        if self._ws.state is State.OPEN:
            self._ws.send_close(GOING_AWAY, "the module is closing")
        self._flush()
        self._restart_timer(CLOSE_TIMEOUT_S, lambda: self.abort("no goodbye"))

    def abort(self, reason: str) -> None:
        """Ends the connection at once; what was not yet taken is lost."""
        if self._transport is not None:
            self._server.dropped[reason] += 1
            log.warning("client dropped reason=%r unsent_bytes=%d", reason, self._unsent())
            self._transport.abort()

    # ---- in between

    def _handle_events(self) -> None:
        for event in self._ws.events_received():
            if isinstance(event, Request):
                self._handshake(event)
            elif isinstance(event, Frame):
                self._frame(event)
        if self._page is not None:
            return  # what the library makes of data behind that request is not sent
        self._flush()
        if self._transport is not None and self._ws.close_expected():
            self._restart_timer(CLOSE_TIMEOUT_S, lambda: self.abort("no goodbye"))

    def _handshake(self, request: Request) -> None:
        question = asked(getattr(request, "method", "GET"), request.path)  # websockets 17 knows others
        refusal = self._server.refusal(request, question)
        if refusal is None and question is not None:
            self._find_page(question)
            return
        response = self._ws.accept(request) if refusal is None else self._ws.reject(*refusal)
        if refusal is not None:
            log.warning("client refused status=%d reason=%r", refusal[0], refusal[1])
        self._ws.send_response(response)
        if response.status_code != http.HTTPStatus.SWITCHING_PROTOCOLS:
            return
        self._restart_timer(self._server.limits.ping_interval_s, self._ping)
        self._client = self._server.new_client(self)

    def _find_page(self, question: Question) -> None:
        self._page = self._loop.create_task(self._server.answer(question))
        self._page.add_done_callback(self._send_page)

    def _send_page(self, page: asyncio.Task[Answer]) -> None:
        """The whole answer in one write, past the WebSocket's state; whoever does not read it is dropped."""
        if page.cancelled():
            return
        exc = page.exception()
        if exc is not None:
            log.error("page not answered", exc_info=exc)
        answer = _NO_ANSWER if exc is not None else page.result()
        response = self._ws.reject(answer.status, answer.text)
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = answer.content_type
        response.headers["Cache-Control"] = "no-store"
        if self._transport is not None:
            self._transport.write(response.serialize())
            self._transport.close()
            self._restart_timer(self._server.limits.open_timeout_s, lambda: self.abort("page not read"))

    def _frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PONG:
            self._pong_missing = False
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return
        self._fragments.append(bytes(frame.data))
        if not frame.fin:
            return
        message = b"".join(self._fragments)
        self._fragments.clear()
        if self._client is not None:
            self._client.message(message)

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        pieces = self._ws.data_to_send()
        if self._transport is None or self._transport.is_closing():
            return
        data = b"".join(pieces)
        if data:
            self._transport.write(data)
            self._written += len(data)
        if SEND_EOF in pieces:
            self._transport.close()
        elif not self._paused and self._client is not None:
            self._client.drained()

    def _ping(self) -> None:
        """Every interval; a client that has not answered the last one is not there any more."""
        if self._pong_missing:
            self.abort("no pong")
            return
        if self._ws.state is State.OPEN:
            self._pong_missing = True
            self._ws.send_ping(b"")
            self._flush()
        self._restart_timer(self._server.limits.ping_interval_s, self._ping)

    def _check_stall(self) -> None:
        """While something waits: drops a client whose socket took nothing since the last look."""
        taken = self._taken()
        if taken == self._taken_at_check:
            self.abort("it does not read")
            return
        self._taken_at_check = taken
        self._stall = self._loop.call_later(self._server.limits.stall_timeout_s, self._check_stall)

    def _taken(self) -> int:
        return self._written - self._unsent()

    def _restart_timer(self, delay_s: float, then: Callable[[], object]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._timer = self._loop.call_later(delay_s, then)

    def _unsent(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()


class Server:
    """Listens on loopback (or where the operator says) and makes a client for each connection."""

    def __init__(
        self,
        access: Access,
        limits: ServerLimits,
        new_client: Callable[[Connection], ClientPort],
        answer: Callable[[Question], Coroutine[Any, Any, Answer]],
    ) -> None:
        self.limits = limits
        self.answer = answer
        self.connections: set[Connection] = set()
        self.dropped: Counter[str] = Counter()
        """Connections that were aborted, by reason."""
        self._access = access
        self._new_client = new_client
        self._listeners: list[asyncio.Server] = []
        self._closing = False

    async def listen(self, hosts: Sequence[str], port: int) -> int:
        """Binds the first host, and the others on the same port where that is possible; returns the port.

        Raises:
            OSError: the first host cannot be bound.
        """
        loop = asyncio.get_running_loop()
        first = await loop.create_server(lambda: Connection(self), hosts[0], port)
        self._listeners.append(first)
        bound = int(first.sockets[0].getsockname()[1])
        for host in hosts[1:]:
            try:
                self._listeners.append(await loop.create_server(lambda: Connection(self), host, bound))
            except OSError as exc:
                log.info("not listening host=%s reason=%r", host, exc.strerror or str(exc))
        return bound

    def new_client(self, connection: Connection) -> ClientPort:
        """The client behind a finished handshake."""
        return self._new_client(connection)

    @property
    def listening(self) -> bool:
        """Whether clients are let in."""
        return bool(self._listeners) and not self._closing

    def refusal(self, request: Request, question: Question | None) -> tuple[http.HTTPStatus, str] | None:
        """Why a handshake, or the question for a page, is refused, or None."""
        if question is not None:
            return self._access.refusal(request.headers, token=question.private)
        if self._closing:
            return http.HTTPStatus.SERVICE_UNAVAILABLE, "the module is closing"
        if sum(connection.is_client for connection in self.connections) >= self.limits.connections:
            return http.HTTPStatus.SERVICE_UNAVAILABLE, f"{self.limits.connections} clients are connected"
        return self._access.refusal(request.headers)

    def stop_listening(self) -> None:
        """No new clients from now on."""
        self._closing = True
        for listener in self._listeners:
            listener.close()

    async def close(self) -> None:
        """Says goodbye to every client and waits, bounded, until they are gone."""
        self.stop_listening()
        leaving = list(self.connections)
        for connection in leaving:
            connection.close()
        waits = [asyncio.ensure_future(connection.closed.wait()) for connection in leaving]
        if waits:
            _, late = await asyncio.wait(waits, timeout=CLOSE_TIMEOUT_S * 2)
            for wait in late:
                wait.cancel()


_NO_ANSWER: Final = Answer("something went wrong\n", http.HTTPStatus.INTERNAL_SERVER_ERROR)
_WS_LOG: Final = logging.getLogger("websockets")
_WS_LOG.setLevel(logging.WARNING)


def _select_subprotocol(_protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Ours where it is offered; a client that offers none is accepted as well."""
    return SUBPROTOCOL if SUBPROTOCOL in offered else None

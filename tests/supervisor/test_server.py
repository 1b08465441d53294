"""The real server on 127.0.0.1: who may connect, what a socket can do to it, and how it lets go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from supervisor.access import Access
from supervisor.pages import Answer, Question
from supervisor.server import Connection, Server, ServerLimits
from tests.supervisor.fakes import FakeClient, RawClient, ServerUnderTest, masked, serving, soon

TOKEN = "s3cret-token"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def dial(
    server: ServerUnderTest,
    *,
    origin: str | None = None,
    headers: dict[str, str] | None = None,
    subprotocols: list[str] | None = None,
) -> Awaitable[ClientConnection]:
    """A client as applications use it; the proxies of this machine are not asked."""
    offered = None if subprotocols is None else [Subprotocol(name) for name in subprotocols]
    return soon(
        _dialled(server.uri, {**({} if origin is None else {"Origin": origin}), **(headers or {})}, offered)
    )


async def _dialled(
    uri: str, headers: dict[str, str], subprotocols: list[Subprotocol] | None
) -> ClientConnection:
    return await connect(
        uri, additional_headers=headers, subprotocols=subprotocols, proxy=None, close_timeout=1
    )


async def refused(attempt: Awaitable[ClientConnection]) -> int:
    """The status with which an attempt was refused."""
    with pytest.raises(InvalidStatus) as caught:
        await attempt
    return caught.value.response.status_code


async def no_page(question: Question) -> Answer:
    """For a server whose pages nobody asks for."""
    raise AssertionError(question)


# ---- who may connect


async def test_a_client_without_an_origin_gets_its_messages_back() -> None:
    async with serving() as server, await dial(server) as client:
        await client.send("hello")
        assert await soon(client.recv()) == "hello"
        assert client.subprotocol is None


ORIGINS = {
    "another site": "https://evil.example",
    "null of a file": "null",
    "empty": "",
    "a loopback page": "http://127.0.0.1:7562",
    "localhost": "http://localhost:3000",
}


@pytest.mark.parametrize("origin", ORIGINS.values(), ids=ORIGINS.keys())
async def test_every_origin_is_refused_and_the_log_names_the_flag(
    origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as server, RawClient.connected(server.port) as raw:
        with caplog.at_level(logging.WARNING, "supervisor.server"):
            status, text = await raw.shake_hands(f"Origin: {origin}")
        assert status == 403
        assert "HTTP/1.1 403 Forbidden" in text
        assert f"--allow-origin {origin}" in caplog.text
        assert not server.clients


async def test_a_listed_origin_is_admitted_and_another_is_not() -> None:
    async with serving(Access(origins=("https://good.example",))) as server:
        async with await dial(server, origin="https://good.example") as client:
            await client.send("x")
            assert await soon(client.recv()) == "x"
        assert await refused(dial(server, origin="https://good.example.evil")) == 403


async def test_two_origin_headers_are_refused_even_when_both_are_listed() -> None:
    access = Access(origins=("https://a.example", "https://b.example"))
    async with serving(access) as server, RawClient.connected(server.port) as raw:
        status, _ = await raw.shake_hands("Origin: https://a.example", "Origin: https://b.example")
        assert status == 403


async def test_a_very_long_origin_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server, RawClient.connected(server.port) as raw:
        status, _ = await raw.shake_hands("Origin: https://" + "e" * 5_000)
        assert status == 403
        assert "e" * 300 not in caplog.text


HOSTS = {
    "another name": "evil.example",
    "a name that begins with ours": "127.0.0.1.evil.example",
    "with a user": "evil.example@10.0.0.1",
    "missing": "",
    "a broken bracket": "[::1",
    "any address": "0.0.0.0:7562",
}


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS.keys())
async def test_a_host_that_is_no_loopback_name_is_misdirected(host: str) -> None:
    async with serving() as server, RawClient.connected(server.port) as raw:
        status, _ = await raw.shake_hands(host=host)
        assert status == 421
        assert not server.clients


LOOPBACK_HOSTS = {
    "name": "localhost",
    "name and port": "localhost:7562",
    "capitals": "LocalHost",
    "IPv4": "127.0.0.1",
    "IPv6": "[::1]:7562",
}


@pytest.mark.parametrize("host", LOOPBACK_HOSTS.values(), ids=LOOPBACK_HOSTS.keys())
async def test_a_loopback_host_is_admitted(host: str) -> None:
    async with serving() as server, RawClient.connected(server.port) as raw:
        assert (await raw.shake_hands(host=host))[0] == 101


async def test_a_listed_host_is_admitted() -> None:
    async with serving(Access(hosts=("box.lan",))) as server, RawClient.connected(server.port) as raw:
        assert (await raw.shake_hands(host="box.lan:7562"))[0] == 101


async def test_two_host_headers_are_refused() -> None:
    async with serving() as server, RawClient.connected(server.port) as raw:
        assert (await raw.shake_hands("Host: 127.0.0.1"))[0] in (400, 421)


GOOD_TOKENS = {
    "bearer": f"Authorization: Bearer {TOKEN}",
    "bearer in another case": f"Authorization: bearer {TOKEN}",
    "subprotocols": f"Sec-WebSocket-Protocol: waifu.llm, waifu.token.{TOKEN}",
    "subprotocols the other way round": f"Sec-WebSocket-Protocol: waifu.token.{TOKEN},waifu.llm",
}


@pytest.mark.parametrize("header", GOOD_TOKENS.values(), ids=GOOD_TOKENS.keys())
async def test_the_token_admits_and_never_comes_back(header: str) -> None:
    async with serving(Access(token=TOKEN)) as server, RawClient.connected(server.port) as raw:
        status, head = await raw.shake_hands(header)
        assert status == 101
        assert TOKEN not in head


BAD_TOKENS = {
    "missing": "X-Nothing: at all",
    "wrong": "Authorization: Bearer wrong",
    "truncated": f"Authorization: Bearer {TOKEN[:-1]}",
    "too long": f"Authorization: Bearer {TOKEN}x",
    "empty": "Authorization: Bearer ",
    "another scheme": f"Authorization: Basic {TOKEN}",
    "wrong subprotocol": "Sec-WebSocket-Protocol: waifu.llm, waifu.token.wrong",
    "truncated subprotocol": f"Sec-WebSocket-Protocol: waifu.llm, waifu.token.{TOKEN[:-1]}",
    "empty subprotocol token": "Sec-WebSocket-Protocol: waifu.llm, waifu.token.",
    "in a cookie": f"Cookie: token={TOKEN}",
}


@pytest.mark.parametrize("header", BAD_TOKENS.values(), ids=BAD_TOKENS.keys())
async def test_without_the_right_token_nobody_enters(header: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Access(token=TOKEN)) as server, RawClient.connected(server.port) as raw:
        status, text = await raw.shake_hands(header)
        assert status == 401
        assert TOKEN not in text
        assert TOKEN[:-1] not in caplog.text
        assert not server.clients


async def test_the_token_in_the_url_does_not_count() -> None:
    async with serving(Access(token=TOKEN)) as server, RawClient.connected(server.port) as raw:
        raw.writer.write(raw.request().replace(b"GET / ", f"GET /?token={TOKEN} ".encode()))
        assert (await raw.answer())[0] == 401


async def test_of_the_subprotocols_only_ours_is_selected() -> None:
    async with serving(Access(token=TOKEN)) as server:
        offered = [f"waifu.token.{TOKEN}", "waifu.llm"]
        async with await dial(server, subprotocols=offered) as client:
            assert client.subprotocol == "waifu.llm"


async def test_unknown_subprotocols_are_accepted_with_none_selected() -> None:
    async with serving() as server, await dial(server, subprotocols=["chat"]) as client:
        assert client.subprotocol is None


async def test_the_token_is_in_no_repr() -> None:
    assert TOKEN not in repr(Access(token=TOKEN))


async def test_one_client_too_many_is_told_to_come_later() -> None:
    async with serving(connections=1) as server:
        async with await dial(server):
            assert await refused(dial(server)) == 503
        await soon((await server.client()).left.wait())
        async with await dial(server) as client:
            await client.send("x")
            assert await soon(client.recv()) == "x"


async def test_a_connection_knows_whether_its_client_is_on_this_machine() -> None:
    async with serving() as server, RawClient.connected(server.port) as raw:
        await raw.shake_hands()
        connection = (await server.client()).connection
        assert connection.from_loopback
        connection.abort("the test asks once more")
        await soon(connection.closed.wait())
        assert not connection.from_loopback


PEERS = {
    "127.0.0.1": True,
    "127.8.8.8": True,
    "::1": True,
    "192.0.2.1": False,
    "2001:db8::1": False,
    "": False,
}


@pytest.mark.parametrize(("address", "loopback"), PEERS.items(), ids=[*map(repr, PEERS)])
async def test_only_loopback_addresses_are_this_machine(address: str, loopback: bool) -> None:
    connection = Connection(Server(Access(), ServerLimits(), FakeClient, no_page))
    connection.connection_made(FakeTransport(peer=(address, 1)))
    assert connection.from_loopback is loopback
    connection.connection_lost(None)


# ---- messages


async def test_a_message_over_the_limit_closes_with_1009() -> None:
    async with serving(message_bytes=1_000) as server, await dial(server) as client:
        await client.send("x" * 1_000)
        assert await soon(client.recv()) == "x" * 1_000
        await client.send("x" * 1_001)
        with pytest.raises(ConnectionClosed) as caught:
            await soon(client.recv())
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009
        await soon((await server.client()).left.wait())


async def test_fragments_together_may_not_exceed_the_limit() -> None:
    async with serving(message_bytes=1_000) as server, RawClient.connected(server.port) as raw:
        await raw.shake_hands()
        raw.send(b"x" * 600, fin=False)
        raw.send(b"x" * 600, opcode=0)
        opcode, payload = await raw.frame()
        assert (opcode, struct.unpack(">H", payload[:2])) == (CLOSE, (1009,))
        assert not (await server.client()).messages


async def test_a_fragmented_message_is_put_together_with_a_ping_in_between() -> None:
    async with serving() as server, RawClient.connected(server.port) as raw:
        await raw.shake_hands()
        raw.send("Grüße".encode()[:3], fin=False)
        raw.send(b"", opcode=0, fin=False)
        raw.send(b"are you there?", opcode=PING)
        assert await raw.frame() == (PONG, b"are you there?")
        raw.send("Grüße".encode()[3:], opcode=0)
        assert await raw.frame() == (TEXT, "Grüße".encode())
        raw.send(b"next")
        assert await raw.frame() == (TEXT, b"next")


async def test_a_binary_frame_is_read_like_text_and_answered_as_text() -> None:
    async with serving() as server, await dial(server) as client:
        await client.send(b'{"type":"status"}')
        assert await soon(client.recv()) == '{"type":"status"}'


async def test_a_message_that_comes_with_the_handshake_is_not_lost() -> None:
    async with serving() as server, RawClient.connected(server.port) as raw:
        raw.writer.write(raw.request() + masked(b"early"))
        assert (await raw.answer())[0] == 101
        assert await raw.frame() == (TEXT, b"early")


async def test_a_handshake_and_a_message_cut_at_every_byte_are_understood() -> None:
    async with serving() as server, RawClient.connected(server.port) as raw:
        writer = raw.writer
        writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in raw.request() + masked(b"slow"):
            writer.write(bytes([byte]))
            await writer.drain()
        assert (await raw.answer())[0] == 101
        assert await raw.frame() == (TEXT, b"slow")


BROKEN_FRAMES = {
    "not masked": b"\x81\x01x",
    "a reserved opcode": masked(b"x", opcode=5),
    "reserved bits": b"\xf1\x80\0\0\0\0",
    "a continuation of nothing": masked(b"x", opcode=0),
    "a long ping": masked(b"x" * 200, opcode=PING),
}


@pytest.mark.parametrize("data", BROKEN_FRAMES.values(), ids=BROKEN_FRAMES.keys())
async def test_a_frame_that_breaks_the_protocol_closes_with_1002(data: bytes) -> None:
    async with serving() as server, RawClient.connected(server.port) as raw:
        await raw.shake_hands()
        raw.writer.write(data)
        opcode, payload = await raw.frame()
        assert (opcode, payload[:2]) == (CLOSE, struct.pack(">H", 1002))
        client = await server.client()
        await soon(client.left.wait())
        assert client.gone_calls == 1


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"x" * 70_000],
    ids=["plain http", "tls", "no end of line"],
)
async def test_what_is_no_websocket_handshake_is_hung_up_on(data: bytes) -> None:
    async with serving(open_timeout_s=0.5) as server, RawClient.connected(server.port) as raw:
        raw.writer.write(data)
        assert b"101 Switching" not in await raw.rest()
        assert not server.clients


# ---- how a connection ends


async def _half_close(raw: RawClient) -> None:
    raw.writer.write_eof()


async def _reset(raw: RawClient) -> None:
    sock = raw.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.writer.transport.abort()


async def _fin(raw: RawClient) -> None:
    raw.writer.close()
    await raw.writer.wait_closed()


async def _goodbye(raw: RawClient) -> None:
    raw.send(struct.pack(">H", 1000), opcode=CLOSE)
    assert await raw.frame() == (CLOSE, struct.pack(">H", 1000))


async def _goodbye_and_reset(raw: RawClient) -> None:
    raw.send(struct.pack(">H", 1000), opcode=CLOSE)
    await _reset(raw)


LEAVING = {
    "half-close": _half_close,
    "RST": _reset,
    "FIN": _fin,
    "a close frame": _goodbye,
    "a close frame and RST": _goodbye_and_reset,
}


@pytest.mark.parametrize("leave", LEAVING.values(), ids=LEAVING.keys())
async def test_however_a_client_leaves_it_is_gone_exactly_once(
    leave: Callable[[RawClient], Awaitable[None]],
) -> None:
    async with serving() as server, RawClient.connected(server.port) as raw:
        await raw.shake_hands()
        client = await server.client()
        await leave(raw)
        await soon(client.connection.closed.wait())
        client.connection.close()
        client.connection.abort("again")
        client.connection.send(b"nobody hears this")
        await asyncio.sleep(0)
        assert client.gone_calls == 1
        assert not server.server.connections


async def test_a_handshake_that_does_not_come_is_not_waited_for() -> None:
    async with serving(open_timeout_s=0.05) as server, RawClient.connected(server.port) as raw:
        raw.writer.write(b"GET / HTTP/1.1\r\nHost: ")
        assert await raw.rest() == b""
        assert not server.clients


async def test_an_open_connection_outlives_the_handshake_timeout() -> None:
    async with (
        serving(open_timeout_s=0.05) as server,
        await dial(server) as client,
        RawClient.connected(server.port) as slow,
    ):
        assert await slow.rest() == b""  # the timeout is over for it, so for the one before it, too
        await client.send("still here")
        assert await soon(client.recv()) == "still here"


async def test_a_client_that_answers_no_ping_is_dropped() -> None:
    async with serving(ping_interval_s=0.05) as server, RawClient.connected(server.port) as raw:
        await raw.shake_hands()
        client = await server.client()
        assert await raw.frame() == (PING, b"")
        await soon(client.left.wait())
        assert client.gone_calls == 1


async def test_a_client_that_answers_every_ping_stays() -> None:
    async with serving(ping_interval_s=0.3) as server, RawClient.connected(server.port) as raw:
        await raw.shake_hands()
        for _ in range(3):
            assert await raw.frame() == (PING, b"")
            raw.send(b"", opcode=PONG)
        raw.send(b"here")
        assert await raw.frame() == (TEXT, b"here")


# ---- clients that do not read

FLOOD_PIECE = b"x" * (256 << 10)
FLOOD_PIECES = 64
"""16 MiB, more than the socket buffers of any system that runs this."""


def _small_buffer_socket(port: int) -> socket.socket:
    """A connected socket that takes little before its owner reads."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    return sock


@contextlib.asynccontextmanager
async def deaf_client(server: ServerUnderTest) -> AsyncIterator[FakeClient]:
    """The client behind a socket that was sent more than it takes, and that nobody reads."""
    loop = asyncio.get_running_loop()
    sock = _small_buffer_socket(server.port)
    try:
        request = RawClient.handshake(server.port)
        await soon(loop.sock_sendall(sock, request))
        client = await server.client()
        for _ in range(FLOOD_PIECES):
            client.connection.send(FLOOD_PIECE)
        yield client
    finally:
        sock.close()


async def test_a_client_that_does_not_read_is_dropped_while_another_is_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(stall_timeout_s=0.3) as server, deaf_client(server) as deaf:
        async with await dial(server) as other:
            await other.send("before")
            assert await soon(other.recv()) == "before"
            await soon(deaf.left.wait())
            await other.send("after")
            assert await soon(other.recv()) == "after"
        assert deaf.gone_calls == 1
        assert "it does not read" in caplog.text


async def test_a_client_that_reads_slowly_but_reads_is_kept() -> None:
    async with serving(stall_timeout_s=0.3) as server, RawClient.connected(server.port) as raw:
        await raw.shake_hands()
        client = await server.client()
        for _ in range(FLOOD_PIECES):
            client.connection.send(FLOOD_PIECE)
        for _ in range(FLOOD_PIECES):
            assert await raw.frame() == (TEXT, FLOOD_PIECE)
        assert client.gone_calls == 0


async def test_a_full_socket_gives_no_credit_until_it_is_taken() -> None:
    async with serving() as server, RawClient.connected(server.port) as raw:
        await raw.shake_hands()
        client = await server.client()
        before = client.drains
        for _ in range(FLOOD_PIECES):
            client.connection.send(FLOOD_PIECE)
        await asyncio.sleep(0)  # the flush of this turn
        await asyncio.sleep(0)
        assert client.drains == before
        for _ in range(FLOOD_PIECES):
            assert await raw.frame() == (TEXT, FLOOD_PIECE)
        raw.send(b"taken")
        assert await raw.frame() == (TEXT, b"taken")
        assert client.drains > before


# ---- one write a turn


class FakeTransport(asyncio.Transport):
    """Records what is written."""

    def __init__(self, peer: tuple[str, int] = ("127.0.0.1", 1)) -> None:
        super().__init__({"peername": peer})
        self.writes: list[bytes] = []
        self.ended = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.ended

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = True


async def test_everything_sent_in_one_turn_leaves_in_one_write() -> None:
    clients: list[FakeClient] = []

    def new_client(connection: Connection) -> FakeClient:
        clients.append(FakeClient(connection))
        return clients[-1]

    connection = Connection(Server(Access(), ServerLimits(), new_client, no_page))
    transport = FakeTransport()
    connection.connection_made(transport)
    connection.data_received(RawClient.handshake(7562))
    transport.writes.clear()
    for index in range(100):
        connection.send(b"%d" % index)
    assert transport.writes == []
    await asyncio.sleep(0)
    assert transport.writes == [b"".join(b"\x81" + bytes([len(b"%d" % i)]) + b"%d" % i for i in range(100))]
    connection.send(b"next turn")
    await asyncio.sleep(0)
    assert len(transport.writes) == 2
    connection.connection_lost(None)
    assert clients[0].gone_calls == 1


# ---- pages


async def fetched(raw: RawClient, target: str, *headers: str, method: str = "GET", host: str = "") -> str:
    """All that comes back for a plain request."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host or '127.0.0.1'}", *headers, "", ""]
    raw.writer.write("\r\n".join(lines).encode())
    return (await raw.rest()).decode()


async def get(server: ServerUnderTest, target: str, *headers: str, **kwargs: str) -> tuple[int, str]:
    """The status and the body of an answer on a connection of its own; no status is 0."""
    async with RawClient.connected(server.port) as raw:
        head, _, body = (await fetched(raw, target, *headers, **kwargs)).partition("\r\n\r\n")
        return int(head.split()[1]) if head else 0, body


PAGES = {
    "/livez": "the page /livez verbose=False",
    "/readyz": "the page /readyz verbose=False",
    "/readyz?verbose": "the page /readyz verbose=True",
    "/readyz?a=1&verbose=1": "the page /readyz verbose=True",
    "/livez?verbose": "the page /livez verbose=False",
    "/metrics": "the page /metrics verbose=False",
    "/metrics?x=y": "the page /metrics verbose=False",
}


@pytest.mark.parametrize(("target", "text"), PAGES.items(), ids=PAGES.keys())
async def test_a_page_is_answered_whole_and_the_connection_ends(target: str, text: str) -> None:
    async with serving() as server, RawClient.connected(server.port) as raw:
        head, _, body = (await fetched(raw, target)).partition("\r\n\r\n")
        assert body == text
        assert head.splitlines()[0] == "HTTP/1.1 200 OK"
        lines = set(head.splitlines())
        assert {f"Content-Length: {len(text)}", "Content-Type: text/plain; charset=utf-8"} <= lines
        assert {"Connection: close", "Cache-Control: no-store"} <= lines
        assert not server.clients


OTHERS = {"/": 426, "/livez/": 426, "/LIVEZ": 426, "/healthz": 426, "/metrics/x": 426, "//livez": 426}


@pytest.mark.parametrize(("target", "status"), OTHERS.items(), ids=OTHERS.keys())
async def test_another_path_is_the_websockets(target: str, status: int) -> None:
    async with serving() as server:
        assert (await get(server, target))[0] == status


@pytest.mark.parametrize("target", ["/livez", "/readyz", "/metrics"])
async def test_a_page_keeps_the_rules_of_host_and_origin(target: str) -> None:
    async with serving() as server:
        assert (await get(server, target, host="evil.example"))[0] == 421
        assert (await get(server, target, "Origin: https://evil.example"))[0] == 403
    async with serving(Access(hosts=("box.lan",), origins=("https://good.example",))) as server:
        assert (await get(server, target, "Origin: https://good.example", host="box.lan"))[0] == 200


PRIVATE = {"/livez": False, "/readyz": False, "/readyz?verbose": True, "/metrics": True}


@pytest.mark.parametrize(("target", "private"), PRIVATE.items(), ids=PRIVATE.keys())
async def test_only_a_page_that_tells_of_workers_needs_the_token(target: str, private: bool) -> None:
    async with serving(Access(token=TOKEN)) as server:
        assert (await get(server, target))[0] == (401 if private else 200)
        assert (await get(server, target, "Authorization: Bearer wrong"))[0] == (401 if private else 200)
        assert (await get(server, target, f"Authorization: Bearer {TOKEN}"))[0] == 200


async def test_pages_are_answered_when_all_places_are_taken_and_take_none() -> None:
    async with serving(connections=1) as server:
        server.may_answer.clear()
        async with RawClient.connected(server.port) as raw:
            raw.writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            async with await dial(server):
                assert await refused(dial(server)) == 503
                server.may_answer.set()
                assert b"the page /livez" in await raw.rest()
                assert (await get(server, "/metrics"))[0] == 200


async def test_a_page_is_answered_while_the_module_closes() -> None:
    async with (
        serving() as server,
        RawClient.connected(server.port) as raw,
        await dial(server),  # accepted later, so the one before is accepted, too
    ):
        server.server.stop_listening()
        assert not server.server.listening
        assert "the page /readyz" in await fetched(raw, "/readyz")


METHODS = {"HEAD": "", "POST": "", "POST with a body": "Content-Length: 5", "PUT": "", "OPTIONS": "", "G": ""}


@pytest.mark.parametrize("method", METHODS.keys())
async def test_another_method_is_refused_without_a_traceback(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as server:
        headers = [METHODS[method]] if METHODS[method] else []
        status, body = await get(server, "/metrics", *headers, method=method.split()[0])
        assert status in (0, 405)  # none at all from the library that Python 3.10 gets
        assert "the page" not in body
    assert "Traceback" not in caplog.text


BEHIND = {"another request": b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", "noise": b"\xff" * 5_000}


@pytest.mark.parametrize("together", [True, False], ids=["in one write", "after it"])
@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND.keys())
async def test_what_follows_a_request_for_a_page_is_not_read(
    behind: bytes, together: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as server, RawClient.connected(server.port) as raw:
        server.may_answer.clear()
        request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
        if together:
            raw.writer.write(request + behind)
        else:
            raw.writer.write(request)
            async with await dial(server):
                raw.writer.write(behind)
        async with await dial(server):
            server.may_answer.set()
        answer = await raw.rest()
        assert answer.count(b"HTTP/1.1 200 OK") == 1
        assert answer.endswith(b"the page /metrics verbose=False")
    assert "Traceback" not in caplog.text


async def test_a_side_that_ends_its_half_after_the_request_still_gets_its_page() -> None:
    async with serving() as server, RawClient.connected(server.port) as raw:
        server.may_answer.clear()
        raw.writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        raw.writer.write_eof()
        async with await dial(server):
            server.may_answer.set()
        assert b"the page /livez" in await raw.rest()


async def test_a_page_that_does_not_come_ends_with_the_handshakes_timeout() -> None:
    async with serving(open_timeout_s=0.05) as server, RawClient.connected(server.port) as raw:
        server.may_answer.clear()
        assert await fetched(raw, "/metrics") == ""
        assert server.server.dropped == {"no handshake": 1}


async def test_who_asks_for_a_page_and_resets_the_connection_ends_its_making() -> None:
    async with serving() as server, RawClient.connected(server.port) as raw:
        server.may_answer.clear()
        raw.writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with await dial(server):
            (asking,) = [c for c in server.server.connections if not c.is_client]
            sock: socket.socket = raw.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.writer.transport.abort()
            await soon(asking.closed.wait())
        assert server.server.dropped == {}


async def test_a_bug_in_a_page_is_an_answer_and_one_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server:
        server.server.answer = no_page
        assert (await get(server, "/livez"))[0] == 500
        assert (await get(server, "/livez"))[1] == "something went wrong\n"
        assert caplog.text.count("page not answered") == 2


async def test_a_page_that_nobody_reads_is_dropped() -> None:
    async with serving(open_timeout_s=0.2, stall_timeout_s=60) as server:

        async def long_page(_question: Question) -> Answer:
            return Answer("x" * (16 << 20))

        server.server.answer = long_page
        with socket.socket() as sock:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            loop = asyncio.get_running_loop()
            await soon(loop.sock_connect(sock, ("127.0.0.1", server.port)))
            await soon(loop.sock_sendall(sock, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"))
            async with await dial(server):
                left = [c for c in server.server.connections if not c.is_client]
            for connection in left:
                await soon(connection.closed.wait())
        assert server.server.dropped == {"page not read": 1}


# ---- closing


async def test_close_says_1001_after_what_was_sent() -> None:
    async with serving() as server, await dial(server) as client:
        behind = await server.client()
        behind.connection.send(b"last words")
        await soon(server.server.close())
        assert await soon(client.recv()) == "last words"
        with pytest.raises(ConnectionClosed) as caught:
            await soon(client.recv())
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001
        assert behind.gone_calls == 1


async def test_close_is_bounded_with_a_client_that_does_not_read() -> None:
    async with serving(stall_timeout_s=60) as server, deaf_client(server) as deaf:
        await soon(server.server.close())
        assert deaf.gone_calls == 1


async def test_close_is_bounded_with_a_client_that_does_not_say_goodbye() -> None:
    async with serving() as server, RawClient.connected(server.port) as raw:
        await raw.shake_hands()
        client = await server.client()
        await soon(server.server.close())
        assert (await raw.frame())[0] == CLOSE
        assert client.gone_calls == 1


async def test_close_is_bounded_with_a_handshake_that_never_ends() -> None:
    async with serving(open_timeout_s=60) as server, RawClient.connected(server.port) as raw:
        raw.writer.write(b"GET / HTTP/1.1\r\n")
        async with await dial(server):  # accepted later, so the one before is accepted, too
            await soon(server.server.close())
        assert not server.server.connections


async def test_a_handshake_that_ends_while_the_module_closes_is_refused() -> None:
    async with serving() as server, RawClient.connected(server.port) as raw:
        request = raw.request()
        raw.writer.write(request[:20])
        async with await dial(server):
            server.server.stop_listening()
            raw.writer.write(request[20:])
            assert (await raw.answer())[0] == 503


async def test_nobody_can_connect_after_close() -> None:
    async with serving() as server:
        await soon(server.server.close())
        with pytest.raises(OSError, match="Connect call failed"):
            await dial(server)


async def test_a_port_that_is_taken_is_an_error_and_a_second_host_that_is_not_there_is_none() -> None:
    async with serving() as server:
        again = Server(Access(), ServerLimits(), FakeClient, no_page)
        with pytest.raises(OSError, match="in use"):
            await again.listen(["127.0.0.1"], server.port)
        assert await again.listen(["127.0.0.1", "203.0.113.1"], 0) > 0
        again.stop_listening()

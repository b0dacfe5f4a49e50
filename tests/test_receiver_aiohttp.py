"""The receiver, spoken to in bytes over real sockets, with a real endpoint behind it."""

import asyncio
import errno
import gc
import gzip
import itertools
import json
import logging
import os
import re
import socket
import ssl
import struct
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
from aiohttp import web, web_protocol
from aiohttp.helpers import NO_EXTENSIONS
from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy
from anyio.lowlevel import checkpoint
from conftest import guard
from support.doors import on_aiohttp
from support.lanes import LANELESS, close_lane

from asana_webhooks import _receiver_aiohttp as receiver_module
from asana_webhooks._endpoint import BODY_TIMEOUT, Endpoint, Receive
from asana_webhooks._logging import ThrottledLogger
from asana_webhooks._receiver_aiohttp import Receiver
from asana_webhooks.errors import StoreError
from asana_webhooks.models import Route
from asana_webhooks.protocol import Request, Response
from asana_webhooks.signature import sign
from asana_webhooks.stores.memory import MemoryStore

ROUTE, RESERVED, RETIRED, UNKNOWN = (letter * 32 for letter in "crtu")
SECRET = "0123456789abcdef" * 4
PATH = f"/hooks/{ROUTE}".encode()
HEARTBEAT = b'{"events":[]}'
MAX_BODY = 10_000
CANARY = b"canary"
MINUTE = timedelta(minutes=1)

KEY = """-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgQewChEARy/1HsaEm
nvFzDXaQb2ct7OLMv+q5G+rwfXmhRANCAARkKinjkCy459TnaPiJARV2O5MS8HuY
AOxSLAWx1AHSBHj4ej6PtrHzjb9AzBpEkVadlgFxoCvYKx888U1GoO/I
-----END PRIVATE KEY-----
"""
CERTIFICATE = """-----BEGIN CERTIFICATE-----
MIIBdzCCAR2gAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABGQqKeOQLLjn1Odo
+IkBFXY7kxLwe5gA7FIsBbHUAdIEePh6Po+2sfONv0DMGkSRVp2WAXGgK9grHzzx
TUag78ijXjBcMB0GA1UdDgQWBBT4BSozL/qZb2lebFQTJzXzfYylYjAPBgNVHRMB
Af8EBTADAQH/MBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAOBgNVHQ8BAf8E
BAMCAoQwCgYIKoZIzj0EAwIDSAAwRQIhAJdlLWKWAygsKoMVKs8AR2bDTAod3LBu
FlZKddBneR73AiAhFlK8YDnp7R1R2GESR+VFdZkWGNmebauzOXApXlwRZg==
-----END CERTIFICATE-----
"""


# Speaking


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Peer:
    """One connection to a receiver; what came and was not taken as an answer is in ``heard``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.heard = b""

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def hear(self) -> bytes:
        """Return the next bytes, none when the receiver has hung up."""
        try:
            data = await self._reader.read(65536)
        except ConnectionError:
            return b""
        self.heard += data
        return data

    async def answer(self, *, with_body: bool = True) -> Answer:
        with guard():
            head, _, _ = await self._heard_until(lambda: b"\r\n\r\n" in self.heard)
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, value in (x.split(": ", 1) for x in lines)}
            size = int(headers.get("content-length", 0)) if with_body else 0
            _, _, rest = await self._heard_until(lambda: len(self.heard) >= len(head) + 4 + size)
        self.heard = rest[size:]
        return Answer(int(first.split()[1]), headers, rest[:size])

    async def _heard_until(self, enough: Callable[[], bool]) -> tuple[bytes, bytes, bytes]:
        while not enough():
            assert await self.hear(), "the receiver hung up"
        return self.heard.partition(b"\r\n\r\n")

    async def closed(self) -> bytes:
        """Return what is said until the receiver hangs up."""
        with guard():
            while await self.hear():
                pass
        return self.heard

    async def trickle(self, pieces: Iterable[bytes]) -> bytes:
        """Send the pieces with pauses; return what is said until the receiver hangs up."""
        for piece in pieces:
            self.send(piece)
            with anyio.move_on_after(0.005):
                while await self.hear():
                    pass
                return self.heard
        return await self.closed()


@asynccontextmanager
async def talking(opened: Awaitable[Any]) -> AsyncIterator[Peer]:
    reader, writer = await opened
    try:
        yield Peer(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def connect(
    receiver: Receiver, *, host: str = "127.0.0.1", **options: Any
) -> AbstractAsyncContextManager[Peer]:
    return talking(asyncio.open_connection(host, receiver.port, **options))


def connect_unix(path: str, **options: Any) -> AbstractAsyncContextManager[Peer]:
    return talking(asyncio.open_unix_connection(path, **options))


async def ask(receiver: Receiver, data: bytes) -> Answer:
    async with connect(receiver) as peer:
        peer.send(data)
        return await peer.answer()


def request(
    *headers: bytes,
    body: bytes = HEARTBEAT,
    path: bytes = PATH,
    line: bytes = b"",
    sized: bool = True,
) -> bytes:
    lines = [line or b"POST " + path + b" HTTP/1.1", b"Host: hooks.example.com", *headers]
    lines += [b"Content-Length: %d" % len(body)] if sized else []
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def signature(body: bytes) -> bytes:
    return b"X-Hook-Signature: " + sign(body, SECRET).encode()


def signed(*headers: bytes, body: bytes = HEARTBEAT, **parts: Any) -> bytes:
    return request(signature(body), *headers, body=body, **parts)


def chunked(body: bytes, *headers: bytes, trailer: bytes = b"") -> bytes:
    coded = b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, trailer)
    return request(b"Transfer-Encoding: chunked", *headers, body=coded, sized=False)


def delivery(gid: str = "1", *, size: int = 0) -> bytes:
    """Return a body with one event; of so many bytes, if a size is given."""
    event = {"action": "changed", "resource": {"gid": gid, "resource_type": "task"}}
    event["created_at"] = datetime.now(UTC).isoformat()
    body = json.dumps({"events": [event]}).encode()
    return body + b" " * (size - len(body))


PROBE = b"GET /healthz HTTP/1.1\r\nHost: hooks.example.com\r\n\r\n"


# The receiver and what is behind it


@pytest.fixture(autouse=True)
async def quiet_and_tidy(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """Nobody, whatever is sent, makes a traceback or leaves a task."""
    caplog.set_level(logging.DEBUG)
    before = asyncio.all_tasks()
    yield
    with guard():
        while tasks_since(before):
            await checkpoint()
    for record in (*caplog.get_records("call"), *caplog.records):
        if record.name != "asana_webhooks._endpoint":  # its store fails in some tests
            assert not record.exc_info, record
            assert record.levelno < logging.ERROR, record


def tasks_since(before: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    """Return the tasks that are new, except those in which tests and fixtures run."""
    new = asyncio.all_tasks() - before
    return new - {asyncio.current_task()}


@pytest.fixture(autouse=True)
def without_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close the short way when ``test_lane`` runs this module without it."""
    if LANELESS in os.environ:
        close_lane(monkeypatch)


@pytest.fixture(autouse=True)
def short_memory_and_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver_module, "sparse", ThrottledLogger(receiver_module.logger))
    monkeypatch.setattr(receiver_module, "LINGER", 0.05)


@pytest.fixture
async def store() -> MemoryStore:
    store = MemoryStore()
    for id_ in (ROUTE, RESERVED, RETIRED):
        route = Route(id=id_, target=f"https://hooks.example.com/hooks/{id_}", resource="1")
        await store.reserve(route, ttl=3600)
    for id_ in (ROUTE, RETIRED):
        await store.add_candidate(id_, SECRET)
        await store.confirm(id_, gid="2", secret=SECRET)
    await store.retire(RETIRED)
    return store


@pytest.fixture
async def endpoint(store: MemoryStore) -> Endpoint:
    """Return an endpoint that remembers the route, so that its deliveries go the short way."""
    endpoint = Endpoint(store, on_arrival=lambda: None, max_body=MAX_BODY, store_timeout=30)
    endpoint.accepting = True
    await endpoint._look_up(ROUTE)
    return endpoint


def serve(endpoint: Endpoint, **options: Any) -> Receiver:
    return Receiver(endpoint, **{"host": "127.0.0.1", "port": 0, **options})


@pytest.fixture
async def receiver(endpoint: Endpoint) -> AsyncIterator[Receiver]:
    async with serve(endpoint) as receiver:
        yield receiver


class Gate:
    """Holds each call of one of a store's methods until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: MemoryStore, method: str) -> None:
        self._original = getattr(store, method)
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        monkeypatch.setattr(store, method, self._call)

    async def _call(self, *args: Any, **kwargs: Any) -> Any:
        self.reached.set()
        await self.open.wait()
        return await self._original(*args, **kwargs)


async def deserted(receiver: Receiver) -> None:
    """Wait until the receiver has neither a connection nor a task of one."""
    assert receiver._listening is not None
    _, server = receiver._listening
    with guard():
        while server.connections:
            await checkpoint()


async def parted(receiver: Receiver) -> None:
    """Wait until the receiver knows that every client has left."""
    assert receiver._listening is not None
    _, server = receiver._listening
    with guard():
        while any(connection.connected for connection in server.connections):
            await checkpoint()


# Answers


async def test_delivery_is_stored_when_it_is_answered(
    receiver: Receiver, store: MemoryStore
) -> None:
    answer = await ask(receiver, signed(body=delivery()))
    assert (answer.status, answer.body) == (200, b"")
    assert (await store.counts()).waiting == 1


GOOD = sign(HEARTBEAT, SECRET).encode()


async def test_signature_in_a_trailer_is_none(receiver: Receiver) -> None:
    trailing = chunked(HEARTBEAT, trailer=signature(HEARTBEAT) + b"\r\n")
    assert (await ask(receiver, trailing)).status == 401


async def test_trailer_does_not_become_a_header_of_the_next_request(receiver: Receiver) -> None:
    trailing = chunked(HEARTBEAT, trailer=signature(HEARTBEAT) + b"\r\n")
    async with connect(receiver) as peer:
        peer.send(trailing + request())
        assert statuses(await peer.closed()) == [401]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(signed(), id="plain"),
        pytest.param(request(b"X-HOOK-SIGNATURE: " + GOOD.upper()), id="upper case"),
        pytest.param(request(b"x-hook-signature:" + GOOD + b" \t"), id="lower case, blanks around"),
        pytest.param(chunked(HEARTBEAT, signature(HEARTBEAT)), id="chunked"),
        pytest.param(signed(line=b"POST " + PATH + b" HTTP/1.0"), id="HTTP/1.0"),
        pytest.param(signed(b"Content-Encoding: identity"), id="identity"),
        pytest.param(signed(b"Content-Encoding: Identity "), id="identity in another case"),
        pytest.param(signed(b"Expect: nothing"), id="an expectation without a meaning"),
        pytest.param(signed(b"Upgrade: h2c", b"Connection: Upgrade"), id="an upgrade not taken"),
        pytest.param(signed(body=b""), id="an empty body, which is a dead letter"),
    ],
)
async def test_signed_request_is_accepted(receiver: Receiver, data: bytes) -> None:
    assert (await ask(receiver, data)).status == 200


@pytest.mark.parametrize(
    ("data", "connection", "stays"),
    [
        pytest.param(signed(), None, True, id="HTTP/1.1"),
        pytest.param(signed(b"Connection: close"), "close", False, id="HTTP/1.1, once"),
        pytest.param(chunked(HEARTBEAT, signature(HEARTBEAT)), "close", False, id="chunked"),
        pytest.param(signed(line=b"POST " + PATH + b" HTTP/1.0"), None, False, id="HTTP/1.0"),
        pytest.param(
            signed(b"Connection: keep-alive", line=b"POST " + PATH + b" HTTP/1.0"),
            "keep-alive",
            True,
            id="HTTP/1.0, kept alive",
        ),
    ],
)
async def test_accepted_delivery_leaves_the_connection_as_its_client_wants_it(
    receiver: Receiver, data: bytes, connection: str | None, *, stays: bool
) -> None:
    async with connect(receiver) as peer:
        peer.send(data)
        answer = await peer.answer()
        assert (answer.status, answer.headers.get("connection")) == (200, connection)
        assert abs(parsedate_to_datetime(answer.headers["date"]) - datetime.now(UTC)) < MINUTE
        peer.send(b"\0\r\n\r\n")
        assert statuses(await peer.closed()) == ([400] if stays else [])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        pytest.param(PATH + b"/", 200, id="trailing slash"),
        pytest.param(PATH + b"?source=asana&x=/y", 200, id="query"),
        pytest.param(PATH + b"/?x", 200, id="trailing slash and query"),
        pytest.param(b"/a/b%20c" + PATH, 200, id="prefix in front"),
        pytest.param(b"/" + ROUTE.encode(), 200, id="no prefix"),
        pytest.param(b"http://hooks.example.com" + PATH, 200, id="absolute"),
        pytest.param(b"/hooks/" + UNKNOWN.encode(), 404, id="unknown"),
        pytest.param(b"/hooks/" + RETIRED.encode(), 404, id="retired"),
        pytest.param(b"/hooks%2f" + ROUTE.encode(), 404, id="encoded slash in front"),
        pytest.param(PATH + b"%2F", 404, id="encoded slash behind"),
        pytest.param(PATH + b"%0d%0aX-Injected:%20yes", 404, id="encoded line break"),
        pytest.param(PATH + b"%00", 404, id="encoded NUL"),
        pytest.param(PATH + b"//", 404, id="two slashes behind"),
        pytest.param(PATH + b"/..", 404, id="dots behind"),
        pytest.param(PATH + b"#x", 404, id="fragment"),
        pytest.param(b"/hooks/%63" + PATH[8:], 404, id="encoded letter"),
        pytest.param(b"/x?" + PATH, 404, id="route in the query"),
        pytest.param(b"/", 404, id="root"),
    ],
)
async def test_route_is_the_last_segment_as_it_came(
    receiver: Receiver, path: bytes, status: int
) -> None:
    answer = await ask(receiver, signed(path=path))
    assert answer.status == status
    assert "x-injected" not in answer.headers


async def test_endpoint_is_shown_every_header(store: MemoryStore) -> None:
    shown: list[tuple[tuple[bytes, bytes], ...]] = []

    class Front(Endpoint):
        async def handle(self, request: Request, receive: Receive) -> Response:
            shown.append(request.headers)
            return await super().handle(request, receive)

    async with serve(Front(store, on_arrival=lambda: None)) as receiver:
        answer = await ask(receiver, signed(b"X-Odd: \xe4", b"x-odd: two"))
    assert answer.status == 200
    assert [value for name, value in shown[0] if name.lower() == b"x-odd"] == [b"\xe4", b"two"]


async def test_retired_route_is_gone_when_asked_for(store: MemoryStore) -> None:
    endpoint = Endpoint(store, on_arrival=lambda: None, answer_gone=True)
    async with serve(endpoint) as receiver:
        assert (await ask(receiver, signed(path=b"/" + RETIRED.encode()))).status == 410


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="plain"),
        pytest.param([b"Expect: 100-continue"], id="expecting to be asked for it"),
        pytest.param([b"Content-Encoding: gzip"], id="encoded"),
    ],
)
async def test_unknown_route_is_answered_before_its_body(
    receiver: Receiver, headers: list[bytes]
) -> None:
    path = b"/hooks/" + UNKNOWN.encode()
    head = request(*headers, b"Content-Length: 1000", path=path, body=b"", sized=False)
    assert (await ask(receiver, head)).status == 404


async def test_answer_to_head_has_no_body(receiver: Receiver) -> None:
    async with connect(receiver) as peer:
        peer.send(request(line=b"HEAD " + PATH + b" HTTP/1.1", body=b"") + PROBE)
        assert (await peer.answer(with_body=False)).status == 405
        assert (await peer.answer()).body == b"alive\n"


@pytest.mark.parametrize(
    "coding",
    [b"gzip", b"deflate", b"br", b"zstd", b"x-unknown", b"identity, gzip", b"", b"g\xffzip"],
)
async def test_encoded_body_is_refused_before_it_is_read(receiver: Receiver, coding: bytes) -> None:
    head = signed(b"Content-Encoding: " + coding, b"Content-Length: 50", body=b"", sized=False)
    assert (await ask(receiver, head)).status == 415


# Handshakes


@pytest.mark.parametrize("secret", [b"s" * 16, b"!~" * 128, b"a=/+;,'\"<>" * 3])
async def test_handshake_is_echoed_when_its_secret_is_stored(
    receiver: Receiver, store: MemoryStore, secret: bytes
) -> None:
    path = b"/" + RESERVED.encode()
    answer = await ask(receiver, request(b"X-Hook-Secret: " + secret, path=path, body=b"{}"))
    assert answer.status == 200
    assert answer.headers["x-hook-secret"] == secret.decode()
    route = await store.get_route(RESERVED)
    assert route is not None
    assert route.candidates == (secret.decode(),)


# The body: its size, and when it is asked for


@pytest.mark.parametrize(
    "expectation",
    [
        pytest.param([], id="plain"),
        pytest.param([b"Expect: 100-continue"], id="expecting to be asked for it"),
    ],
)
@pytest.mark.parametrize("length", [MAX_BODY + 1, 10**18])
async def test_announced_body_over_the_limit_is_refused_at_once(
    receiver: Receiver, expectation: list[bytes], length: int
) -> None:
    head = signed(*expectation, b"Content-Length: %d" % length, body=b"", sized=False)
    async with connect(receiver) as peer:
        peer.send(head)
        answer = await peer.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert await peer.closed() == b""


async def test_chunked_body_over_the_limit_is_refused_and_closed(receiver: Receiver) -> None:
    head = request(b"Transfer-Encoding: chunked", body=b"", sized=False)
    chunk = b"400\r\n" + b"x" * 1024 + b"\r\n"
    async with connect(receiver) as peer:
        assert statuses(await peer.trickle(itertools.chain([head], itertools.repeat(chunk)))) == [
            413
        ]


async def test_body_of_exactly_the_limit_is_accepted(receiver: Receiver) -> None:
    body = delivery(size=MAX_BODY)
    assert (await ask(receiver, signed(body=body))).status == 200
    assert (await ask(receiver, chunked(body, signature(body)))).status == 200
    async with connect(receiver) as peer:
        peer.send(signed(b"Expect: 100-continue", body=body)[:-MAX_BODY])
        assert (await peer.answer()).status == 100
        peer.send(body)
        assert (await peer.answer()).status == 200


async def test_body_is_asked_for_once_when_it_is_wanted(receiver: Receiver) -> None:
    whole = signed(b"Expect: 100-Continue", body=delivery())
    head, _, body = whole.partition(b"\r\n\r\n")
    async with connect(receiver) as peer:
        peer.send(head + b"\r\n\r\n")
        assert (await peer.answer()).status == 100
        peer.send(body)
        assert (await peer.answer()).status == 200
        peer.send(PROBE)
        assert (await peer.answer()).body == b"alive\n"


async def test_client_of_http_1_0_is_not_told_to_continue(receiver: Receiver) -> None:
    line = b"POST " + PATH + b" HTTP/1.0"
    head, _, body = signed(b"Expect: 100-continue", line=line).partition(b"\r\n\r\n")
    async with connect(receiver) as peer:
        assert statuses(await peer.trickle([head, b"\r\n\r\n", body])) == [200]


# Deadlines


@pytest.mark.parametrize(
    ("said_before", "pieces"),
    [
        pytest.param([], [], id="silence"),
        pytest.param([], [b"POST /"], id="half a request line"),
        pytest.param([], [request(body=b"", sized=False)[:-2]], id="one line break missing"),
        pytest.param([], [b"POST / HTTP/1.1\r\nX:", *[b"a"] * 2000], id="a header in drops"),
        pytest.param([], [b"POST / HTTP/1.1\r\n", *[b"X: a\r\n"] * 2000], id="headers in drops"),
        pytest.param([PROBE], [], id="silence after an answer"),
        pytest.param([PROBE], [b"POST / HTTP/1.1\r\nX:", *[b"a"] * 2000], id="slow second"),
    ],
)
async def test_headers_that_do_not_end_are_ended_at_the_deadline(
    endpoint: Endpoint, said_before: list[bytes], pieces: list[bytes]
) -> None:
    async with serve(endpoint, keepalive_timeout=0.1) as receiver, connect(receiver) as peer:
        for data in said_before:
            peer.send(data)
            await peer.answer()
        with guard():
            assert await peer.trickle(pieces) == b""


SIZED, UNSIZED = b"Content-Length: 5000", b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("header", "pieces"),
    [
        pytest.param(SIZED, [], id="no body"),
        pytest.param(SIZED, [b"x" * 4999], id="one byte missing"),
        pytest.param(SIZED, [b"x"] * 4000, id="in drops"),
        pytest.param(UNSIZED, [], id="no chunk"),
        pytest.param(UNSIZED, [b"5"], id="half a chunk's size"),
        pytest.param(UNSIZED, [b"5\r\nabc"], id="half a chunk"),
        pytest.param(UNSIZED, [b"5\r\nabcde\r\n"], id="no last chunk"),
        pytest.param(UNSIZED, [b"1\r\na\r\n"] * 2000, id="small chunks"),
        pytest.param(UNSIZED, [b"0\r\nX: ", *[b"a"] * 2000], id="a trailer in drops"),
    ],
)
async def test_body_that_does_not_end_is_refused_at_the_deadline(
    store: MemoryStore, header: bytes, pieces: list[bytes]
) -> None:
    endpoint = Endpoint(store, on_arrival=lambda: None, max_body=MAX_BODY, body_timeout=0.1)
    head = request(signature(b""), header, body=b"", sized=False)
    async with serve(endpoint) as receiver, connect(receiver) as peer:
        with guard():
            assert statuses(await peer.trickle([head, *pieces])) == [408]


@pytest.mark.parametrize(
    ("host", "short"),
    [
        ("0.0.0.0", "KEEPALIVE_ALONE"),
        ("127.0.0.1", "KEEPALIVE_BEHIND_PROXY"),
        ("localhost", "KEEPALIVE_BEHIND_PROXY"),
    ],
)
async def test_address_decides_how_long_silence_lasts(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, host: str, short: str
) -> None:
    for name in ("KEEPALIVE_ALONE", "KEEPALIVE_BEHIND_PROXY"):
        monkeypatch.setattr(receiver_module, name, 0.05 if name == short else 60.0)
    async with serve(endpoint, host=host) as receiver, connect(receiver, host=host) as peer:
        assert await peer.closed() == b""


async def test_proxies_give_up_an_idle_connection_before_the_receiver_does() -> None:
    assert receiver_module.KEEPALIVE_ALONE == 15
    assert receiver_module.KEEPALIVE_BEHIND_PROXY > 60


# What is not HTTP/1.1


def statuses(data: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"^HTTP/\d\.\d (\d{3}) ", data, re.MULTILINE)]


def tls_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    hello = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=CANARY.decode())
    with suppress(ssl.SSLWantReadError):
        hello.do_handshake()
    return outgoing.read()


GREETING = b"X-Canary: " + CANARY
CHUNKED = b"Transfer-Encoding: chunked"
NO_CHUNK: dict[str, Any] = {"body": b"0\r\n\r\n", "sized": False}


def with_line(line: bytes, *headers: bytes) -> bytes:
    return signed(*headers, line=line.replace(b"/PATH", b"/canary" + PATH))


# The parser in Python takes these methods and this path for what they are, and waits for more of
# the others until a deadline ends that.
ONLY_IN_C = (
    pytest.param(with_line(b"CANARY /PATH HTTP/1.1"), id="unknown method"),
    pytest.param(with_line(b"post /PATH HTTP/1.1"), id="method in lower case"),
    pytest.param(with_line(b"POST /\xff/PATH HTTP/1.1"), id="undecodable path"),
    pytest.param(b"\0" * 100 + CANARY, id="NULs"),
    pytest.param(
        chunked(HEARTBEAT, signature(HEARTBEAT), GREETING).replace(b"d\r\n{", b"f" * 17 + b"\r\n{"),
        id="chunk of endless size",
    ),
)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(signed(GREETING, CHUNKED), id="Content-Length and chunked"),
        pytest.param(
            signed(GREETING, CHUNKED, b"Content-Length: 5", **NO_CHUNK),
            id="chunked and Content-Length",
        ),
        pytest.param(
            signed(CHUNKED, b"Transfer-Encoding: canary", **NO_CHUNK), id="two Transfer-Encodings"
        ),
        pytest.param(
            signed(b"Transfer-Encoding: chunked, canary", **NO_CHUNK), id="chunked is not the last"
        ),
        pytest.param(signed(b"Transfer-Encoding: xchunked", GREETING, **NO_CHUNK), id="xchunked"),
        pytest.param(
            signed(b"Transfer-Encoding : chunked", GREETING, **NO_CHUNK), id="blank before colon"
        ),
        pytest.param(signed(b"Content-Length: 13", GREETING), id="two Content-Lengths"),
        pytest.param(
            signed(b"Content-Length: 13, 13", GREETING, sized=False), id="list of lengths"
        ),
        pytest.param(signed(b"Content-Length: -1", GREETING, sized=False), id="negative length"),
        pytest.param(
            signed(b"Content-Length: +13", GREETING, sized=False), id="length with a sign"
        ),
        pytest.param(signed(b"Content-Length: 1canary", sized=False), id="length with letters"),
        pytest.param(
            signed(b"Content-Length: " + b"9" * 5000, GREETING, sized=False), id="endless length"
        ),
        pytest.param(signed(GREETING).replace(b"\r\n", b"\n"), id="bare LF throughout"),
        pytest.param(signed(GREETING).replace(b"canary\r\n", b"canary\n"), id="bare LF once"),
        pytest.param(signed(GREETING).replace(b"canary\r\n", b"canary\r"), id="bare CR once"),
        pytest.param(signed(GREETING + b"\0"), id="NUL in a value"),
        pytest.param(signed(b"X-\0Canary: canary"), id="NUL in a name"),
        pytest.param(with_line(b"POST /\0/PATH HTTP/1.1"), id="NUL in the path"),
        pytest.param(signed(GREETING + b"\x1b[31m"), id="escape in a value"),
        pytest.param(signed(b"X-A: b\r\n canary"), id="obs-fold with a blank"),
        pytest.param(signed(b"X-A: b\r\n\tcanary"), id="obs-fold with a tab"),
        pytest.param(signed(b"canary"), id="header without a colon"),
        pytest.param(signed(b": canary"), id="header without a name"),
        pytest.param(signed(b"X-A: " + CANARY * 1500), id="9 kB value"),
        pytest.param(signed(CANARY * 1500 + b": a"), id="9 kB name"),
        pytest.param(with_line(b"POST /" + CANARY * 1500 + b"/PATH HTTP/1.1"), id="9 kB path"),
        pytest.param(signed(*[b"X-%d: canary" % n for n in range(200)]), id="200 headers"),
        pytest.param(b"GET /canary/healthz\r\n\r\n", id="HTTP/0.9"),
        pytest.param(with_line(b"POST /PATH HTTP/0.9"), id="HTTP/0.9 in words"),
        pytest.param(with_line(b"POST /PATH HTTP/1.2"), id="HTTP/1.2"),
        pytest.param(with_line(b"POST /PATH HTTP/2.0"), id="HTTP/2.0"),
        pytest.param(with_line(b"POST /PATH HTTP/9.9"), id="HTTP/9.9"),
        pytest.param(with_line(b"POST /PATH canary/1.1"), id="another protocol"),
        *(() if NO_EXTENSIONS else ONLY_IN_C),
        pytest.param(with_line(b"POST canary HTTP/1.1"), id="relative path"),
        pytest.param(with_line(b"POST http://[canary/PATH HTTP/1.1"), id="half an IPv6 address"),
        pytest.param(with_line(b"POST http://canary@[::1]:80@/PATH HTTP/1.1"), id="two users"),
        pytest.param(with_line(b"POST http://canary:99999/PATH HTTP/1.1"), id="port too high"),
        pytest.param(with_line(b"POST http:///PATH HTTP/1.1"), id="absolute without a host"),
        pytest.param(signed(GREETING).replace(b"Host", b"Toast"), id="no Host"),
        pytest.param(signed(b"Host: canary"), id="two Hosts"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x04canary", id="HTTP/2 preface"),
        pytest.param(tls_hello(), id="TLS hello"),
        pytest.param(b"\r\n" * 10 + CANARY + b"\r\n\r\n", id="empty lines and a word"),
        pytest.param(signed() + b"canary\r\n\r\n", id="rubbish in the same packet as a good one"),
        pytest.param(
            chunked(HEARTBEAT, signature(HEARTBEAT)).replace(b"d\r\n", b"canary\r\n"),
            id="chunk without a size",
        ),
        pytest.param(
            chunked(HEARTBEAT, signature(HEARTBEAT), GREETING).replace(b"d\r\n{", b"-d\r\n{"),
            id="chunk of negative size",
        ),
        pytest.param(
            chunked(HEARTBEAT, signature(HEARTBEAT), GREETING).replace(b"d\r\n{", b"d\n{"),
            id="chunk size ended by LF",
        ),
        pytest.param(
            chunked(HEARTBEAT, signature(HEARTBEAT), trailer=b"canary\r\n"), id="trailer no header"
        ),
    ],
)
async def test_what_is_not_http_is_refused_and_quoted_nowhere(
    receiver: Receiver, store: MemoryStore, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    async with connect(receiver) as peer:
        peer.send(data)
        heard = await peer.closed()
    assert set(statuses(heard)) <= {400, 505}
    assert CANARY not in heard.lower()
    assert CANARY.decode() not in caplog.text.lower()
    assert (await ask(receiver, signed())).status == 200


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b"5\r\n", b"canary\r\n"], id="chunk longer than it says"),
        pytest.param([b"canary\r\n"], id="no size"),
        pytest.param([b"3\r\nabc\r\n", b"\0canary\r\n"], id="rubbish after a chunk"),
    ],
)
@pytest.mark.parametrize("parser", [HttpRequestParser, HttpRequestParserPy])
async def test_body_that_turns_bad_on_its_way_is_refused(
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    parser: type,
    pieces: list[bytes],
) -> None:
    endpoint = Endpoint(store, on_arrival=lambda: None, body_timeout=0.1)
    head = signed(CHUNKED, b"Expect: 100-continue", body=b"", sized=False)
    monkeypatch.setattr(web_protocol, "HttpRequestParser", parser)  # the second as on PyPy
    async with serve(endpoint) as receiver, connect(receiver) as peer:
        peer.send(head)
        assert (await peer.answer()).status == 100
        heard = await peer.trickle(pieces)
    assert statuses(heard)[0] == (400 if parser is HttpRequestParserPy else 408)
    assert CANARY not in heard
    assert CANARY.decode() not in caplog.text


async def test_refused_body_that_turns_bad_is_one_quiet_line(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(receiver_module, "LINGER", 60)
    monkeypatch.setattr(web_protocol, "HttpRequestParser", HttpRequestParserPy)
    head = request(CHUNKED, path=b"/", body=b"", sized=False)
    async with serve(endpoint) as receiver:
        for _ in range(3):
            async with connect(receiver) as peer:
                peer.send(head)
                assert (await peer.answer()).status == 404
                assert await peer.trickle([b"canary\r\n"]) == b""
    assert caplog.text.count("a connection broke") == 1
    assert "canary" not in caplog.text


async def test_pipelined_requests_are_answered_one_by_one(
    receiver: Receiver, store: MemoryStore
) -> None:
    bodies = [delivery(str(number)) for number in range(100)]
    async with connect(receiver) as peer:
        peer.send(b"".join(signed(body=body) for body in bodies))
        assert [(await peer.answer()).status for _ in bodies] == [200] * 100
    assert (await store.counts()).waiting == 100


async def test_refused_delivery_does_not_end_the_connection(receiver: Receiver) -> None:
    async with connect(receiver) as peer:
        peer.send(request() + signed(path=b"/nowhere") + signed())
        assert [(await peer.answer()).status for _ in range(3)] == [401, 404, 200]


async def test_answer_says_nothing_of_the_request(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    path = b"/canary/" + UNKNOWN.encode() + b"?canary"
    async with connect(receiver) as peer:
        for data in (request(GREETING, path=path), request(GREETING, body=b'{"canary": 1}')):
            peer.send(data)
            answer = await peer.answer()
            assert "canary" not in repr(answer)
    assert "canary" not in caplog.text
    assert not [id_ for id_ in (ROUTE, UNKNOWN, SECRET) if id_ in caplog.text]


async def test_flood_of_bad_requests_is_one_line_of_a_kind(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    kinds = [
        b"\0\r\n\r\n",
        with_line(b"POST http://a@[::1]:80@/ HTTP/1.1"),
        request(),
        request(path=b"/"),
    ]
    for data in kinds * 30:
        async with connect(receiver) as peer:
            peer.send(data)
            await peer.hear()
    lines = Counter(record.getMessage() for record in caplog.records)
    assert set(lines.values()) == {1}
    assert len(lines) == 3
    assert {record.levelno for record in caplog.records} == {logging.INFO}


# Connections


async def test_good_requests_are_answered_among_half_open_connections(endpoint: Endpoint) -> None:
    starts = [b"", b"POST", signed()[:-3], request(path=b"/x", body=b"x" * 99)[:-50]]
    async with serve(endpoint, max_connections=50) as receiver, AsyncExitStack() as stack:
        for number in range(400):
            peer = await stack.enter_async_context(connect(receiver))
            peer.send(starts[number % 4])
            if number % 40 == 0:
                with guard():
                    assert (await ask(receiver, signed())).status == 200


async def test_connection_too_many_ends_the_one_idle_for_longest(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    limited = serve(endpoint, max_connections=2)
    async with limited as receiver, connect(receiver) as first, connect(receiver) as second:
        for peer in (first, second, first):
            peer.send(signed())
            await peer.answer()
        assert (await ask(receiver, signed())).status == 200
        assert await second.closed() == b""
        first.send(signed())
        assert (await first.answer()).status == 200
    assert "too many connections" in caplog.text


async def test_half_of_the_idle_connections_ends_when_no_descriptors_are_left(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accept = socket.socket.accept
    failing: list[OSError] = []

    def fail_when_told(self: socket.socket) -> tuple[socket.socket, Any]:
        if failing:
            raise failing.pop()
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", fail_when_told)
    async with serve(endpoint) as receiver, AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(connect(receiver)) for _ in range(8)]
        for peer in peers:
            peer.send(PROBE)
            await peer.answer()
        failing.append(OSError(errno.EMFILE, "Too many open files"))
        assert (await ask(receiver, signed())).status == 200
        for ended in peers[:4]:
            assert await ended.closed() == b""
        for peer in peers[4:]:
            peer.send(signed())
            assert (await peer.answer()).status == 200
    assert caplog.text.count("idle connections are ended: Too many open files") == 1


async def test_fewer_connections_than_wanted_are_said_at_the_start(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(receiver_module, "connections_within", lambda wanted: wanted - 1)
    async with serve(endpoint, max_connections=2) as receiver, connect(receiver) as first:
        assert (await ask(receiver, signed())).status == 200
        assert await first.closed() == b""
    assert "at most 1 connections at once" in caplog.text


async def test_connection_too_many_never_ends_a_request_under_way(
    endpoint: Endpoint, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, store, "put")
    async with serve(endpoint, max_connections=1) as receiver, connect(receiver) as busy:
        busy.send(signed(body=delivery()))
        await gate.reached.wait()
        async with connect(receiver) as late:
            assert await late.closed() == b""
        gate.open.set()
        assert (await busy.answer()).status == 200


async def test_connection_that_was_lost_is_no_idle_one(
    endpoint: Endpoint, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, store, "put")
    async with serve(endpoint, max_connections=1) as receiver:
        async with connect(receiver) as gone:
            gone.send(signed(body=delivery()))
            await gate.reached.wait()
        await parted(receiver)
        gate.open.set()
        await deserted(receiver)
        await ends_the_idle_one(receiver)


async def test_idle_connection_that_was_closed_is_forgotten(endpoint: Endpoint) -> None:
    async with serve(endpoint, max_connections=1) as receiver:
        await ask(receiver, PROBE)
        await deserted(receiver)
        await ends_the_idle_one(receiver)


async def ends_the_idle_one(receiver: Receiver) -> None:
    """Fail when the receiver, which takes one connection, believes that it ended another."""
    async with connect(receiver) as idle:
        idle.send(PROBE)
        await idle.answer()
        assert (await ask(receiver, signed())).status == 200
        assert await idle.closed() == b""


def part(peer: Peer) -> None:
    peer.writer.close()


def part_by_half(peer: Peer) -> None:
    peer.writer.write_eof()


def reset(peer: Peer) -> None:
    peer.writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    peer.writer.transport.abort()


LEAVING = [part, part_by_half, reset]


@pytest.mark.parametrize("leave", LEAVING)
@pytest.mark.parametrize("said", [b"", b"POST /", signed()[:-3], chunked(b"x" * 50)[:-20]])
async def test_client_that_leaves_early_leaves_nothing(
    receiver: Receiver, leave: Callable[[Peer], None], said: bytes
) -> None:
    async with connect(receiver) as peer:
        peer.send(said)
        leave(peer)
        await deserted(receiver)
    assert (await ask(receiver, signed())).status == 200


@pytest.mark.parametrize("leave", LEAVING)
@pytest.mark.parametrize("header", [SIZED, UNSIZED])
@pytest.mark.parametrize("said", [b"", b"3\r\nabc"])
async def test_client_that_leaves_in_its_body_leaves_nothing(
    receiver: Receiver, leave: Callable[[Peer], None], header: bytes, said: bytes
) -> None:
    async with connect(receiver) as peer:
        peer.send(request(b"Expect: 100-continue", header, body=b"", sized=False))
        assert (await peer.answer()).status == 100
        peer.send(said)
        leave(peer)
        await deserted(receiver)


@pytest.mark.parametrize("leave", LEAVING)
async def test_delivery_is_stored_though_its_client_left(
    receiver: Receiver,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
    leave: Callable[[Peer], None],
) -> None:
    gate = Gate(monkeypatch, store, "put")
    async with connect(receiver) as peer:
        peer.send(signed(body=delivery()))
        await gate.reached.wait()
        leave(peer)
        await parted(receiver)
        gate.open.set()
        await deserted(receiver)
    assert (await store.counts()).waiting == 1


@pytest.mark.parametrize("leave", LEAVING)
async def test_client_that_left_before_its_body_was_wanted_is_not_waited_for(
    receiver: Receiver,
    endpoint: Endpoint,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
    leave: Callable[[Peer], None],
) -> None:
    endpoint.forget(ROUTE)
    gate = Gate(monkeypatch, store, "get_route")
    async with connect(receiver) as peer:
        peer.send(request(b"Expect: 100-continue", SIZED, body=b"", sized=False))
        await gate.reached.wait()
        leave(peer)
        await parted(receiver)
        gate.open.set()
        await deserted(receiver)


@pytest.mark.parametrize("leave", LEAVING)
async def test_rest_of_a_refused_body_is_not_waited_for_when_its_client_left(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, leave: Callable[[Peer], None]
) -> None:
    monkeypatch.setattr(receiver_module, "LINGER", 60)
    async with serve(endpoint) as receiver, connect(receiver) as peer:
        peer.send(request(SIZED, path=b"/", body=b"", sized=False))
        assert (await peer.answer()).status == 404
        leave(peer)
        await deserted(receiver)


# What goes wrong here


async def fail(*args: Any, **kwargs: Any) -> None:
    msg = "the disk is full"
    raise StoreError(msg)


async def hang(*args: Any, **kwargs: Any) -> None:
    await asyncio.Event().wait()


class Broken(Endpoint):
    """An endpoint with a bug."""

    async def handle(self, request: Request, receive: Receive) -> Response:
        msg = "a bug"
        raise RuntimeError(msg)


async def test_bug_of_ours_is_a_500_without_details_and_an_error_with_traceback(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(Broken(store, on_arrival=lambda: None)) as receiver:
        for _ in range(3):
            async with connect(receiver) as peer:
                peer.send(signed(GREETING))
                answer = await peer.answer()
                assert (answer.status, answer.body) == (500, b"internal error\n")
                assert await peer.closed() == b""
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info
    caplog.clear()


async def test_bug_after_a_body_was_asked_for_is_a_500_too(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = BrokenLater(store, on_arrival=lambda: None)
    async with serve(endpoint) as receiver, connect(receiver) as peer:
        peer.send(signed(b"Expect: 100-continue")[: -len(HEARTBEAT)])
        assert (await peer.answer()).status == 100
        peer.send(HEARTBEAT)
        assert (await peer.answer()).status == 500
    caplog.clear()


class BrokenLater(Endpoint):
    """An endpoint with a bug behind the body."""

    async def handle(self, request: Request, receive: Receive) -> Response:
        await receive()
        msg = "a bug"
        raise RuntimeError(msg)


async def test_bug_after_part_of_an_answer_closes_the_connection(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer_badly(_: Endpoint, request: web.BaseRequest, known: object) -> Response:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        msg = "a bug"
        raise RuntimeError(msg)

    monkeypatch.setattr(receiver_module, "answer", answer_badly)
    endpoint = Endpoint(store, on_arrival=lambda: None)
    async with serve(endpoint) as receiver, connect(receiver) as peer:
        peer.send(signed())
        assert statuses(await peer.closed()) == [100]
    assert not caplog.records


# Probes


def probe(path: bytes, method: bytes = b"GET") -> bytes:
    return request(line=method + b" " + path + b" HTTP/1.1", body=b"", sized=False)


@pytest.mark.parametrize("path", [b"/healthz", b"/readyz", b"/hooks/readyz", b"/healthz/?a=b"])
async def test_probe_is_answered(receiver: Receiver, path: bytes) -> None:
    answer = await ask(receiver, probe(path))
    assert (answer.status, answer.body) in [(200, b"alive\n"), (200, b"ready\n")]


async def test_probe_takes_no_post(receiver: Receiver) -> None:
    answer = await ask(receiver, signed(path=b"/healthz"))
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_receiver_that_stops_accepting_is_alive_and_not_ready(
    receiver: Receiver, endpoint: Endpoint
) -> None:
    endpoint.accepting = False
    assert (await ask(receiver, probe(b"/healthz"))).status == 200
    assert (await ask(receiver, probe(b"/readyz"))).status == 503


@pytest.mark.parametrize("failure", [fail, hang])
async def test_receiver_without_its_store_is_alive_and_not_ready(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, failure: Callable[..., Awaitable[None]]
) -> None:
    monkeypatch.setattr(store, "get_route", failure)
    endpoint = Endpoint(store, on_arrival=lambda: None, store_timeout=0.05)
    endpoint.accepting = True
    async with serve(endpoint) as receiver:
        assert (await ask(receiver, probe(b"/healthz"))).status == 200
        answer = await ask(receiver, probe(b"/readyz"))
    assert (answer.status, answer.body) == (503, b"not ready\n")


# Stopping


@asynccontextmanager
async def stopping(receiver: Receiver) -> AsyncIterator[None]:
    """Enter when the receiver has begun to stop; leave when it has stopped."""
    with guard():
        async with anyio.create_task_group() as group:
            group.start_soon(receiver.__aexit__, None, None, None)
            await refuses(receiver)
            await anyio.wait_all_tasks_blocked()
            yield


async def refuses(receiver: Receiver) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
        except ConnectionError:
            return
        writer.close()


async def test_request_under_way_is_answered_when_the_receiver_stops(
    receiver: Receiver, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, store, "put")
    async with connect(receiver) as peer:
        peer.send(signed(body=delivery()) + signed())
        await gate.reached.wait()
        async with stopping(receiver):
            gate.open.set()
            answer = await peer.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await peer.closed() == b""
    assert (await store.counts()).waiting == 1  # the second, a heartbeat behind it, was not begun


async def test_body_under_way_may_still_come_when_the_receiver_stops(
    receiver: Receiver, store: MemoryStore
) -> None:
    body = delivery()
    async with connect(receiver) as peer:
        peer.send(signed(b"Expect: 100-continue", body=body)[: -len(body)])
        assert (await peer.answer()).status == 100
        async with stopping(receiver):
            peer.send(body)
            assert (await peer.answer()).status == 200
    assert (await store.counts()).waiting == 1


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(PROBE, id="a request that was answered"),
        pytest.param(PROBE + b"POST /", id="and half of another"),
    ],
)
async def test_idle_connections_are_closed_at_once_when_the_receiver_stops(
    receiver: Receiver, said: bytes
) -> None:
    async with connect(receiver) as peer, connect(receiver) as last:
        peer.send(said)
        last.send(PROBE)
        await last.answer()
        async with stopping(receiver):
            await peer.closed()
            assert await last.closed() == b""


async def test_refused_body_is_not_waited_for_when_the_receiver_stops(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver_module, "LINGER", 60)
    async with serve(endpoint) as receiver, connect(receiver) as peer:
        peer.send(request(SIZED, path=b"/", body=b"", sized=False))
        assert (await peer.answer()).status == 404
        async with stopping(receiver):
            assert await peer.closed() == b""


@pytest.mark.parametrize("turns", range(12))
async def test_connection_accepted_just_before_the_stop_is_answered_or_closed(
    endpoint: Endpoint, turns: int
) -> None:
    receiver = await serve(endpoint).__aenter__()
    client = socket.create_connection(("127.0.0.1", receiver.port))
    client.sendall(signed())
    for _ in range(turns):
        await checkpoint()
    with guard():
        await receiver.__aexit__(None, None, None)
    async with talking(asyncio.open_connection(sock=client)) as peer:
        assert statuses(await peer.closed()) in ([], [200])


@pytest.mark.parametrize("turns", range(12))
async def test_connection_that_comes_while_the_receiver_stops_is_answered_or_closed(
    endpoint: Endpoint, turns: int
) -> None:
    receiver = await serve(endpoint).__aenter__()
    stop = asyncio.create_task(receiver.__aexit__(None, None, None), name="stop")
    for _ in range(turns):
        await checkpoint()
    with suppress(ConnectionError):
        client = socket.create_connection(("127.0.0.1", receiver.port))
        async with talking(asyncio.open_connection(sock=client)) as peer:
            peer.send(signed())
            assert statuses(await peer.closed()) in ([], [200])
    await stop


async def test_loop_without_readers_accepts_and_stops_as_well(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "add_reader", not_on_windows)
    async with serve(endpoint) as receiver, connect(receiver) as peer:
        peer.send(signed())
        await peer.answer()
        async with stopping(receiver):
            assert await peer.closed() == b""


def not_on_windows(*_: object) -> None:
    raise NotImplementedError


async def test_request_that_was_read_before_the_stop_is_answered(endpoint: Endpoint) -> None:
    receiver = await serve(endpoint).__aenter__()
    client = socket.create_connection(("127.0.0.1", receiver.port))
    async with talking(asyncio.open_connection(sock=client)) as peer:
        peer.send(PROBE)
        await peer.answer()
        peer.send(signed())
        await checkpoint()
        await receiver.__aexit__(None, None, None)
        assert statuses(await peer.closed()) == [200]


async def test_request_that_takes_too_long_is_cut_off_when_the_receiver_stops(
    receiver: Receiver, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver_module, "SHUTDOWN_TIMEOUT", 0.05)
    monkeypatch.setattr(receiver_module, "CANCEL_TIMEOUT", 0.05)
    gate = Gate(monkeypatch, store, "put")
    async with connect(receiver) as peer:
        peer.send(signed(body=delivery()))
        await gate.reached.wait()
        async with stopping(receiver):
            assert await peer.closed() == b""
    assert (await store.counts()).waiting == 0


@pytest.mark.parametrize(
    "data", [pytest.param(PROBE, id="probes"), pytest.param(signed(), id="heartbeats")]
)
async def test_client_that_never_reads_is_not_read_and_does_not_keep_the_receiver_from_stopping(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: bytes
) -> None:
    monkeypatch.setattr(receiver_module, "SHUTDOWN_TIMEOUT", 0.05)
    monkeypatch.setattr(receiver_module, "CANCEL_TIMEOUT", 0.05)
    path = str(tmp_path / "hooks.sock")
    with socket.socket(socket.AF_UNIX) as client:  # its buffers are small
        async with serve(endpoint, unix_socket=path) as receiver:
            client.connect(path)
            client.settimeout(0)
            with guard():
                await flood_until_stuck(client, receiver, data)
            with guard():
                await receiver.__aexit__(None, None, None)


async def flood_until_stuck(client: socket.socket, receiver: Receiver, data: bytes) -> None:
    """Ask, and never listen, until the receiver has taken no request for a hundred turns."""
    assert receiver._listening is not None
    _, server = receiver._listening
    still, unsent = 0, b""
    while still < 100:
        taken = server.requests_count
        unsent = unsent or data * 1000
        with suppress(BlockingIOError):
            unsent = unsent[client.send(unsent) :]
        await checkpoint()
        still = still + 1 if server.requests_count == taken else 0


async def test_stop_in_a_cancelled_scope_answers_what_is_under_way(
    endpoint: Endpoint, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, store, "put")
    async with anyio.create_task_group() as group:
        receiver = await serve(endpoint).__aenter__()
        async with connect(receiver) as peer:
            peer.send(signed(body=delivery()))
            await gate.reached.wait()
            group.start_soon(leave_cancelled, receiver)
            await refuses(receiver)
            await anyio.wait_all_tasks_blocked()
            gate.open.set()
            assert (await peer.answer()).status == 200
            assert await peer.closed() == b""


async def leave_cancelled(receiver: Receiver) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await receiver.__aexit__(None, None, None)


async def test_stop_that_is_cancelled_closes_at_once(
    receiver: Receiver, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, store, "put")
    async with connect(receiver) as peer:
        peer.send(signed(body=delivery()))
        await gate.reached.wait()
        stop = asyncio.create_task(receiver.__aexit__(None, None, None), name="stop")
        await refuses(receiver)
        await anyio.wait_all_tasks_blocked()
        stop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stop
        assert await peer.closed() == b""
        gate.open.set()


async def test_stopping_takes_less_than_ten_seconds() -> None:
    assert receiver_module.SHUTDOWN_TIMEOUT + 2 * receiver_module.CANCEL_TIMEOUT < 10
    assert receiver_module.SHUTDOWN_TIMEOUT > BODY_TIMEOUT * 9 / 8


async def test_receiver_leaves_nothing_open(endpoint: Endpoint) -> None:
    before = asyncio.all_tasks()
    async with serve(endpoint) as receiver, connect(receiver) as peer:
        peer.send(signed())
        await peer.answer()
    with guard():
        while tasks_since(before):
            await checkpoint()
    del receiver, peer
    gc.collect()  # an unclosed socket warns now, and a warning is an error


async def test_receiver_can_be_entered_again_at_its_port(endpoint: Endpoint) -> None:
    receiver = serve(endpoint)
    async with receiver:
        port = receiver.port
    await receiver.__aexit__(None, None, None)
    async with receiver:
        assert receiver.port == port
        assert (await ask(receiver, signed())).status == 200


async def test_address_that_is_taken_is_an_os_error(endpoint: Endpoint, receiver: Receiver) -> None:
    second = serve(endpoint, port=receiver.port)
    with pytest.raises(OSError, match="in use"):
        await second.__aenter__()
    await second.__aexit__(None, None, None)


# Unix sockets and TLS


async def test_unix_socket_is_served_and_can_be_bound_again(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    path = str(tmp_path / "hooks.sock")
    for _ in range(2):
        async with serve(endpoint, unix_socket=path), connect_unix(path) as peer:
            peer.send(signed())
            assert (await peer.answer()).status == 200


async def test_silence_on_a_unix_socket_is_that_of_a_proxy(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver_module, "KEEPALIVE_BEHIND_PROXY", 0.05)
    path = str(tmp_path / "hooks.sock")
    async with serve(endpoint, host="0.0.0.0", unix_socket=path), connect_unix(path) as peer:
        assert await peer.closed() == b""


# Elsewhere, and many at one port


async def test_receivers_that_share_a_port_both_get_connections(endpoint: Endpoint) -> None:
    asked: Counter[str] = Counter()

    def behind(name: str) -> Endpoint:
        class Counting(Endpoint):
            async def handle(self, request: Request, read: Any) -> Response:
                asked[name] += 1
                return await endpoint.handle(request, read)

        return Counting(MemoryStore(), on_arrival=lambda: None)

    async with serve(behind("one"), reuse_port=True) as first:
        async with serve(behind("two"), port=first.port, reuse_port=True) as second:
            assert second.port == first.port
            with guard():
                while len(asked) < 2:  # the system chooses by a hash of both addresses
                    assert (await ask(first, PROBE)).status == 200
        both = asked.total()
        for _ in range(5):  # one is left, and gets all of them
            assert (await ask(first, PROBE)).status == 200
    assert asked["one"] + asked["two"] == both + 5


async def test_port_is_not_shared_with_one_that_does_not_share(endpoint: Endpoint) -> None:
    async with serve(endpoint) as receiver:
        with pytest.raises(OSError, match="address already in use"):
            async with serve(endpoint, port=receiver.port, reuse_port=True):
                pytest.fail("it must not listen")


async def test_moved_receiver_listens_elsewhere(endpoint: Endpoint, free_port: int) -> None:
    receiver = serve(endpoint, host="192.0.2.1", port=1)  # an address that is not ours
    receiver.move("127.0.0.1", free_port, reuse_port=True)
    async with receiver:
        assert receiver.port == free_port
        assert (await ask(receiver, PROBE)).status == 200
        async with serve(endpoint, port=free_port, reuse_port=True):
            pass


async def test_what_is_not_moved_stays(endpoint: Endpoint, free_port: int) -> None:
    receiver = serve(endpoint, port=free_port, reuse_port=True)
    receiver.move(None, None, reuse_port=None)
    async with receiver:
        assert receiver.port == free_port
        async with serve(endpoint, port=free_port, reuse_port=True):
            assert (await ask(receiver, PROBE)).status == 200


async def test_moved_receiver_has_the_patience_that_suits_its_new_address(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver_module, "KEEPALIVE_ALONE", 0.01)
    receiver = serve(endpoint)
    receiver.move("0.0.0.0", 0, reuse_port=False)
    async with receiver, connect(receiver) as peer:
        peer.send(PROBE)
        assert (await peer.answer()).status == 200
        assert await peer.closed() == b""


async def test_receiver_that_listens_cannot_be_moved(receiver: Receiver) -> None:
    with pytest.raises(RuntimeError, match="listens already"):
        receiver.move(None, 0, reuse_port=None)


async def test_receiver_on_a_unix_socket_cannot_be_moved(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    receiver = serve(endpoint, unix_socket=str(tmp_path / "socket"))
    with pytest.raises(RuntimeError, match="Unix socket"):
        receiver.move("127.0.0.1", 0, reuse_port=None)


async def test_receiver_may_be_moved_again_when_it_has_stopped(
    endpoint: Endpoint, free_port: int
) -> None:
    receiver = serve(endpoint)
    async with receiver:
        pass
    receiver.move(None, free_port, reuse_port=None)
    async with receiver:
        assert (receiver.port, (await ask(receiver, PROBE)).status) == (free_port, 200)


@pytest.fixture(scope="module")
def server_tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_text(KEY + CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


@pytest.fixture(scope="module")
def client_tls() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=CERTIFICATE)


async def test_delivery_over_tls_is_accepted(
    endpoint: Endpoint, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    trusting: dict[str, Any] = {"ssl": client_tls, "server_hostname": "localhost"}
    server = serve(endpoint, ssl_context=server_tls)
    async with server as receiver, connect(receiver, **trusting) as peer:
        peer.send(signed(body=delivery(size=MAX_BODY)))
        assert (await peer.answer()).status == 200
        async with stopping(receiver):
            assert await peer.closed() == b""


async def test_delivery_over_tls_on_a_unix_socket_is_accepted(
    endpoint: Endpoint, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, tmp_path: Path
) -> None:
    path = str(tmp_path / "hooks.sock")
    trusting: dict[str, Any] = {"ssl": client_tls, "server_hostname": "localhost"}
    server = serve(endpoint, ssl_context=server_tls, unix_socket=path)
    async with server, connect_unix(path, **trusting) as peer:
        peer.send(signed())
        assert (await peer.answer()).status == 200


@pytest.mark.parametrize("turns", range(12))
async def test_tls_handshake_under_way_is_cut_when_the_receiver_stops(
    endpoint: Endpoint, server_tls: ssl.SSLContext, turns: int
) -> None:
    receiver = await serve(endpoint, ssl_context=server_tls).__aenter__()
    client = socket.create_connection(("127.0.0.1", receiver.port))
    client.sendall(tls_hello()[:50])
    for _ in range(turns):
        await checkpoint()
    with guard():
        await receiver.__aexit__(None, None, None)
    async with talking(asyncio.open_connection(sock=client)) as peer:
        assert await peer.closed() == b""


async def test_silent_tls_handshake_too_many_is_ended(
    endpoint: Endpoint, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    trusting: dict[str, Any] = {"ssl": client_tls, "server_hostname": "localhost"}
    async with serve(endpoint, ssl_context=server_tls, max_connections=2) as receiver:
        async with (
            connect(receiver) as first,
            connect(receiver) as second,
            connect(receiver, **trusting) as peer,
        ):
            peer.send(signed())
            assert (await peer.answer()).status == 200
            assert await first.closed() == b""
            async with connect(receiver):
                assert await second.closed() == b""
            peer.send(signed())
            assert (await peer.answer()).status == 200
        await deserted(receiver)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="silence"),
        pytest.param(tls_hello()[:50], id="half a hello"),
        pytest.param(signed(), id="plain HTTP"),
        pytest.param(b"\x16\x03\x01\xff\xff" + CANARY * 99, id="rubbish"),
    ],
)
async def test_connection_without_tls_is_ended_at_the_deadline(
    endpoint: Endpoint, server_tls: ssl.SSLContext, said: bytes
) -> None:
    server = serve(endpoint, ssl_context=server_tls, keepalive_timeout=0.1)
    async with server as receiver, connect(receiver) as peer:
        peer.send(said)
        with guard():
            assert b"HTTP" not in await peer.closed()


async def test_client_that_does_not_trust_the_certificate_makes_no_noise(
    endpoint: Endpoint, server_tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(endpoint, ssl_context=server_tls) as receiver:
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(
                "127.0.0.1", receiver.port, ssl=ssl.create_default_context()
            )
    assert not caplog.records


# Mounted in an application of aiohttp


@web.middleware
async def stamping(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    response = await handler(request)
    response.headers["X-Host"] = "stamped"
    return response


@web.middleware
async def reading(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    await request.read()
    return await handler(request)


class Mounted(NamedTuple):
    """A host application, as ``connect`` needs to know it."""

    port: int


@asynccontextmanager
async def mounted(endpoint: Endpoint, *middlewares: Any) -> AsyncIterator[Any]:
    async with on_aiohttp(endpoint, *middlewares) as port:
        yield Mounted(port)


async def test_mounted_receiver_refuses_another_version_of_http(endpoint: Endpoint) -> None:
    async with mounted(endpoint) as host, connect(host) as peer:
        peer.send(with_line(b"POST /PATH HTTP/2.0").replace(b"/canary", b""))
        assert (await peer.answer()).status == 505


@pytest.mark.parametrize("coding", [b"gzip", b"deflate"])
async def test_mounted_receiver_refuses_encoded_bodies_though_its_host_inflates_them(
    endpoint: Endpoint, coding: bytes
) -> None:
    body = gzip.compress(HEARTBEAT) if coding == b"gzip" else zlib.compress(HEARTBEAT)
    async with mounted(endpoint) as host, connect(host) as peer:
        peer.send(signed(b"Content-Encoding: " + coding, body=body))
        assert (await peer.answer()).status == 415


async def test_mounted_receiver_asks_for_a_body_that_it_wants(endpoint: Endpoint) -> None:
    head, _, body = signed(b"Expect: 100-continue").partition(b"\r\n\r\n")
    async with mounted(endpoint, stamping) as host, connect(host) as peer:
        peer.send(head + b"\r\n\r\n")
        assert (await peer.answer()).status == 100
        peer.send(body)
        assert (await peer.answer()).status == 200


@pytest.mark.parametrize(
    ("path", "length", "status"), [(PATH, MAX_BODY + 1, 413), (b"/hooks/x", 9, 404)]
)
async def test_mounted_receiver_does_not_ask_for_a_body_that_it_refuses(
    endpoint: Endpoint, path: bytes, length: int, status: int
) -> None:
    headers = b"Expect: 100-continue", b"Content-Length: %d" % length
    async with mounted(endpoint) as host, connect(host) as peer:
        peer.send(signed(*headers, path=path, body=b"", sized=False))
        assert (await peer.answer()).status == status


@pytest.mark.parametrize(
    "encode", [lambda body: signed(body=body), lambda body: chunked(body, signature(body))]
)
async def test_middleware_of_the_host_may_have_read_the_body(
    endpoint: Endpoint, store: MemoryStore, encode: Callable[[bytes], bytes]
) -> None:
    async with mounted(endpoint, reading) as host, connect(host) as peer:
        peer.send(encode(delivery()))
        assert (await peer.answer()).status == 200
    assert (await store.counts()).waiting == 1


async def test_host_keeps_its_own_paths_and_middlewares(endpoint: Endpoint) -> None:
    async with mounted(endpoint, stamping) as host, connect(host) as peer:
        peer.send(probe(b"/") + signed())
        assert (await peer.answer()).body == b"home"
        answer = await peer.answer()
        assert (answer.status, answer.headers["x-host"]) == (200, "stamped")

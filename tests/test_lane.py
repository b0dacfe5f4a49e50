"""The lane: what takes it, what does not, and that nobody can tell the difference."""

import asyncio
import itertools
import logging
import os
import random
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from anyio.lowlevel import checkpoint
from conftest import guard, until
from support.doors import PATH, RESERVED, ROUTE, SECRET, UNKNOWN, make_endpoint, make_store
from support.lanes import LANELESS, close_lane

from asana_webhooks import _endpoint as endpoint_module
from asana_webhooks import _lane
from asana_webhooks import _receiver_aiohttp as receiver_module
from asana_webhooks._endpoint import Acceptance, Endpoint
from asana_webhooks._logging import ThrottledLogger
from asana_webhooks._receiver_aiohttp import Receiver
from asana_webhooks.errors import StoreError
from asana_webhooks.models import Delivery
from asana_webhooks.protocol import Request, Response
from asana_webhooks.signature import sign
from asana_webhooks.stores.memory import MemoryStore
from asana_webhooks.telemetry import Telemetry


def body_of(gid: object, *, events: int = 1, padding: int = 0) -> bytes:
    """Return a body that is not a replay, whenever it is sent: nobody knows when it was made."""
    event = b'{"action":"changed","resource":{"gid":"%b","resource_type":"task"}}'
    texts = b",".join(event % f"{gid}{n}".encode() for n in range(events))
    return b'{"events":[%b]%b}' % (texts, b" " * padding)


def post(body: bytes, *headers: bytes, path: str = PATH, line: str = "") -> bytes:
    """Return a signed delivery as it goes over the wire."""
    lines = [
        (line or f"POST {path} HTTP/1.1").encode(),
        b"Host: hooks.example.com",
        b"X-Hook-Signature: " + sign(body, SECRET).encode(),
        *headers,
        b"Content-Length: %d" % len(body),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


PROBE = b"GET /hooks/healthz HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture(autouse=True)
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver_module, "sparse", ThrottledLogger(receiver_module.logger))


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that tells, request by request, whether the endpoint took what it was given."""
    told: list[bool] = []
    accept = Endpoint.accept

    def tell(self: Endpoint, request: Request, answer: Any) -> Acceptance | None:
        acceptance = accept(self, request, answer)
        told.append(acceptance is not None)
        return acceptance

    monkeypatch.setattr(Endpoint, "accept", tell)
    return told


@pytest.fixture
async def store() -> MemoryStore:
    return await make_store()


@pytest.fixture
async def endpoint(store: MemoryStore) -> Endpoint:
    endpoint = make_endpoint(store, store_timeout=30)
    await endpoint._look_up(ROUTE)
    return endpoint


@pytest.fixture
async def receiver(endpoint: Endpoint) -> AsyncIterator[Receiver]:
    async with Receiver(endpoint, host="127.0.0.1", port=0) as receiver:
        yield receiver


@asynccontextmanager
async def connection(
    receiver: Receiver,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def status(reader: asyncio.StreamReader) -> int:
    with guard():
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if length := re.search(r"(?i)content-length: (\d+)", head):
            await reader.readexactly(int(length[1]))
    return int(head.split()[1])


# Which requests take it


async def test_deliveries_of_a_remembered_route_need_no_task(
    receiver: Receiver, store: MemoryStore, taken: list[bool]
) -> None:
    async with connection(receiver) as (reader, writer):
        writer.write(PROBE)  # so that the connection's own task has begun
        assert await status(reader) == 200
        loop, made = asyncio.get_running_loop(), []

        def note(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
            made.append(coro)
            return asyncio.Task(coro, loop=loop, **options)

        loop.set_task_factory(note)
        try:
            for number in range(50):
                writer.write(post(body_of(number)))
                assert await status(reader) == 200
        finally:
            loop.set_task_factory(None)
    assert made == []
    assert taken == [True] * 50
    assert (await store.counts()).waiting == 50


OTHERS = {
    "a heartbeat": post(b'{"events":[]}'),
    "HTTP/1.0": post(body_of(1), line=f"POST {PATH} HTTP/1.0"),
    "the last of its connection": post(body_of(1), b"Connection: close"),
    "an expectation": post(body_of(1), b"Expect: 100-continue"),
    "an upgrade": post(body_of(1), b"Upgrade: h2c", b"Connection: Upgrade"),
    "chunks": post(body_of(1), b"Transfer-Encoding: chunked")
    .replace(b"Content-Length", b"X-Length")
    .replace(body_of(1), b"%x\r\n%b\r\n0\r\n\r\n" % (len(body_of(1)), body_of(1))),
    "a replay": post(
        b'{"events":[{"action":"changed","created_at":"2020-01-01T00:00:00Z",'
        b'"resource":{"gid":"1"}}]}'
    ),
    "what cannot be read": post(b'{"events":'),
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS.keys())
async def test_what_is_no_plain_delivery_is_answered_the_general_way(
    receiver: Receiver, taken: list[bool], data: bytes
) -> None:
    async with connection(receiver) as (reader, writer):
        writer.write(data)
        assert await status(reader) == 200
    assert True not in taken


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(post(body_of(1), path=f"/hooks/{UNKNOWN}"), 404, id="unknown route"),
        pytest.param(post(body_of(1)).replace(b"hanged", b"hunged"), 401, id="another body"),
        pytest.param(post(body_of(1), b"Content-Encoding: gzip"), 415, id="encoded"),
        pytest.param(post(body_of(1), path="/hooks/"), 404, id="no route"),
        pytest.param(post(body_of(1, padding=20_000)), 413, id="too large"),
        pytest.param(post(body_of(1), line=f"PUT {PATH} HTTP/1.1"), 405, id="another method"),
    ],
)
async def test_refusal_leaves_the_lane_to_the_next_request(
    receiver: Receiver, taken: list[bool], data: bytes, expected: int
) -> None:
    async with connection(receiver) as (reader, writer):
        writer.write(data)
        assert await status(reader) == expected
        if expected != 413:  # which ends the connection
            writer.write(post(body_of(2)))
            assert await status(reader) == 200
            assert taken[-1] is True


async def test_route_is_looked_up_again_when_its_second_is_over(
    receiver: Receiver, taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connection(receiver) as (reader, writer):
        for number, known_for in enumerate((60.0, 0.0, 60.0)):
            monkeypatch.setattr(endpoint_module, "ROUTE_KNOWN_FOR", known_for)
            writer.write(post(body_of(number)))
            assert await status(reader) == 200
    assert taken == [True, False, True]


async def test_body_that_comes_later_is_taken_as_well_and_the_lane_again_after_it(
    receiver: Receiver, store: MemoryStore, taken: list[bool]
) -> None:
    async with connection(receiver) as (reader, writer):
        for number in range(3):
            head, _, body = post(body_of(number)).partition(b"\r\n\r\n")
            writer.write(head + b"\r\n\r\n")
            for _ in range(5):
                await checkpoint()
            writer.write(body)
            assert await status(reader) == 200
        writer.write(post(body_of(7)))
        assert await status(reader) == 200
    assert taken == [True]
    assert (await store.counts()).waiting == 4


async def test_requests_that_come_together_are_answered_the_general_way_after_many_the_short_way(
    receiver: Receiver, store: MemoryStore, taken: list[bool]
) -> None:
    async with connection(receiver) as (reader, writer):
        for number in range(40):  # more than aiohttp's parser holds ready
            writer.write(post(body_of(number)))
            assert await status(reader) == 200
        writer.write(b"".join(post(body_of(number)) for number in range(40, 43)))
        assert [await status(reader) for _ in range(3)] == [200] * 3
    assert taken == [True] * 40
    assert (await store.counts()).waiting == 43


# While the store works


class Slow:
    """A store's put that waits until it is told what to do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: MemoryStore) -> None:
        self.waiting: list[asyncio.Future[bool]] = []
        monkeypatch.setattr(store, "put", self.put)

    def put(self, *_: Any, **__: Any) -> asyncio.Future[bool]:
        self.waiting.append(asyncio.get_running_loop().create_future())
        return self.waiting[-1]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, store: MemoryStore) -> Slow:
    return Slow(monkeypatch, store)


async def test_requests_of_a_connection_are_stored_and_answered_one_after_the_other(
    receiver: Receiver, slow: Slow
) -> None:
    async with connection(receiver) as (reader, writer):
        for number in range(3):
            writer.write(post(body_of(number)))
            await anyio.wait_all_tasks_blocked()
        for done in range(1, 4):
            await until(lambda done=done: len(slow.waiting) == done)  # type: ignore[misc]
            slow.waiting[-1].set_result(True)
            assert await status(reader) == 200


async def test_connections_do_not_wait_for_each_other(receiver: Receiver, slow: Slow) -> None:
    async with connection(receiver) as (_, first), connection(receiver) as (reader, second):
        first.write(post(body_of(1)))
        await until(lambda: len(slow.waiting) == 1)
        second.write(post(body_of(2)))
        await until(lambda: len(slow.waiting) == 2)
        slow.waiting[1].set_result(True)
        assert await status(reader) == 200
        slow.waiting[0].set_result(True)


@pytest.mark.parametrize(
    ("error", "answer", "logged"),
    [
        pytest.param(StoreError("the disk is full"), 503, "the disk is full", id="store"),
        pytest.param(RuntimeError("a bug"), 500, "a request failed", id="bug"),
    ],
)
async def test_failure_is_answered_and_logged_as_on_the_general_way(
    receiver: Receiver,
    slow: Slow,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    answer: int,
    logged: str,
) -> None:
    async with connection(receiver) as (reader, writer):
        writer.write(post(body_of(1)))
        await until(lambda: len(slow.waiting) == 1)
        slow.waiting[0].set_exception(error)
        assert await status(reader) == answer
        if answer == 503:
            writer.write(PROBE)
            assert await status(reader) == 200
    (record,) = caplog.records
    assert (record.levelno, bool(record.exc_info)) == (logging.ERROR, True)
    assert logged in record.getMessage()


async def test_bug_is_logged_though_the_client_left(
    receiver: Receiver, slow: Slow, caplog: pytest.LogCaptureFixture
) -> None:
    async with connection(receiver) as (_, writer):
        writer.write(post(body_of(1)))
        await until(lambda: len(slow.waiting) == 1)
    await parted(receiver)
    slow.waiting[0].set_exception(RuntimeError("a bug"))
    await deserted(receiver)
    assert "a request failed" in caplog.text


async def test_store_that_is_too_slow_is_answered_503_and_the_delivery_is_given_up(
    store: MemoryStore, slow: Slow, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = make_endpoint(store, store_timeout=0.05)
    await endpoint._look_up(ROUTE)
    async with (
        Receiver(endpoint, host="127.0.0.1", port=0) as receiver,
        connection(receiver) as (reader, writer),
    ):
        writer.write(post(body_of(1)))
        assert await status(reader) == 503
        assert slow.waiting[0].cancelled()
        assert endpoint._bodies == 0
        writer.write(PROBE)
        assert await status(reader) == 200
    assert "the store is too slow" in caplog.text
    assert endpoint.seen(ROUTE, 0)[0].endswith("answered 503: nothing was stored, send it again")


async def test_silence_of_a_client_that_waits_for_its_answer_ends_nothing(
    endpoint: Endpoint, slow: Slow
) -> None:
    async with (
        Receiver(endpoint, host="127.0.0.1", port=0, keepalive_timeout=0.02) as receiver,
        connection(receiver) as (reader, writer),
    ):
        writer.write(post(body_of(1)))
        await until(lambda: len(slow.waiting) == 1)
        await asyncio.sleep(0.06)
        slow.waiting[0].set_result(True)
        assert await status(reader) == 200
        with guard():
            assert await reader.read() == b""  # it is idle from then on


async def test_bodies_under_way_are_counted_with_all_others(
    endpoint: Endpoint, receiver: Receiver, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "_max_bodies", 1_500)
    body = body_of(1, padding=900)
    async with connection(receiver) as (reader, writer), connection(receiver) as (second, other):
        writer.write(post(body))
        await until(lambda: len(slow.waiting) == 1)
        other.write(post(body))
        assert await status(second) == 503
        slow.waiting[0].set_result(True)
        assert await status(reader) == 200
    assert endpoint._bodies == 0


class Tracing(Telemetry):
    """Sets a variable of the context for each request, as traces do, and resets it."""

    def __init__(self) -> None:
        self.current: ContextVar[int] = ContextVar("request", default=0)
        self.told: list[tuple[object, int]] = []

    @contextmanager
    def receiving(self, request: Request) -> Iterator[None]:
        token = self.current.set(1 + len(self.told) // 2)
        yield
        self.current.reset(token)  # which raises in another context

    def became(self, delivery: Delivery, outcome: str, reason: str = "") -> None:
        self.told.append((outcome, self.current.get()))

    def answered(self, response: Response) -> None:
        self.told.append((response.status, self.current.get()))


async def test_telemetry_is_told_in_the_context_of_the_request(
    store: MemoryStore, slow: Slow
) -> None:
    telemetry = Tracing()
    endpoint = make_endpoint(store, telemetry=telemetry)
    await endpoint._look_up(ROUTE)
    async with (
        Receiver(endpoint, host="127.0.0.1", port=0) as receiver,
        connection(receiver) as (reader, writer),
    ):
        for number, is_new in enumerate((True, False)):
            writer.write(post(body_of(number)))
            await until(lambda number=number: len(slow.waiting) > number)  # type: ignore[misc]
            slow.waiting[number].set_result(is_new)
            assert await status(reader) == 200
    assert telemetry.told == [("stored", 1), (200, 1), ("duplicate", 2), (200, 2)]
    assert telemetry.current.get() == 0


# Stopping


async def test_request_under_way_is_answered_and_its_connection_closed_when_the_receiver_stops(
    endpoint: Endpoint, slow: Slow
) -> None:
    receiver = await Receiver(endpoint, host="127.0.0.1", port=0).__aenter__()
    async with connection(receiver) as (reader, writer):
        writer.write(post(body_of(1)) + post(body_of(2))[:50])
        await until(lambda: bool(slow.waiting))
        stop = asyncio.create_task(receiver.__aexit__(None, None, None), name="stop")
        await anyio.wait_all_tasks_blocked()
        assert not stop.done()
        slow.waiting[0].set_result(True)
        with guard():
            answer = await reader.read()
            await stop
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert b"Connection: close" in answer


async def test_stop_waits_for_what_a_client_that_left_has_sent(
    endpoint: Endpoint, slow: Slow
) -> None:
    receiver = await Receiver(endpoint, host="127.0.0.1", port=0).__aenter__()
    async with connection(receiver) as (_, writer):
        writer.write(post(body_of(1)))
        await until(lambda: bool(slow.waiting))
    await parted(receiver)
    stop = asyncio.create_task(receiver.__aexit__(None, None, None), name="stop")
    await anyio.wait_all_tasks_blocked()
    assert not stop.done()
    slow.waiting[0].set_result(True)
    with guard():
        await stop
    assert endpoint._bodies == 0


async def test_request_that_takes_too_long_is_given_up_when_the_receiver_stops(
    endpoint: Endpoint, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver_module, "SHUTDOWN_TIMEOUT", 0.05)
    receiver = await Receiver(endpoint, host="127.0.0.1", port=0).__aenter__()
    async with connection(receiver) as (reader, writer):
        writer.write(post(body_of(1)))
        await until(lambda: bool(slow.waiting))
        with guard():
            await receiver.__aexit__(None, None, None)
            assert await reader.read() == b""
    assert slow.waiting[0].cancelled()


# Names of aiohttp


@pytest.mark.parametrize(
    ("owner", "name"), [(owner, name) for owner, names in _lane.NEEDED for name in names]
)
def test_aiohttp_still_has_what_the_lane_needs(owner: type, name: str) -> None:
    assert hasattr(owner, name), f"aiohttp changed {owner.__name__}.{name}: see _lane.NEEDED"


@pytest.mark.parametrize("name", ["_request_in_progress", "_task_handler"])
def test_aiohttp_still_has_what_the_receiver_needs_to_stop(name: str) -> None:
    assert hasattr(web.RequestHandler, name), f"aiohttp changed RequestHandler.{name}"


async def test_aiohttp_still_waits_for_requests_on_the_future_that_the_lane_hides(
    receiver: Receiver, slow: Slow
) -> None:
    async with connection(receiver) as (_, writer):
        writer.write(post(body_of(1)))
        await until(lambda: bool(slow.waiting))
        assert receiver._listening is not None
        (handler,) = receiver._listening[1].connections
        assert handler._waiter is None
        slow.waiting[0].set_result(True)
        await until(lambda: handler._waiter is not None)


async def test_receiver_on_an_aiohttp_without_one_of_the_names_says_so_and_takes_deliveries(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_lane, "NEEDED", ((web.RequestHandler, ("_messages", "_no_such_name")),))
    async with (
        Receiver(endpoint, host="127.0.0.1", port=0) as receiver,
        connection(receiver) as (reader, writer),
    ):
        for number in range(3):
            writer.write(post(body_of(number)))
            assert await status(reader) == 200
    (record,) = caplog.records
    assert record.getMessage() == (
        "deliveries go the slow way: this aiohttp has no RequestHandler._no_such_name"
    )


# No difference


class Requests:
    """Makes requests: valid ones, and some that somebody has mangled."""

    def __init__(self, seed: object) -> None:
        self._random = random.Random(f"{seed}")  # noqa: S311 - nothing secret
        self._bodies: list[bytes] = []

    def next(self) -> list[bytes]:
        """Return the pieces in which the next bytes of a connection are sent."""
        data = b"".join(self._one() for _ in range(self._random.choice([1] * 6 + [2, 3])))
        if self._random.random() < 0.25:
            data = self._mangled(data)
        cuts = sorted(
            self._random.choices(range(len(data)), k=self._random.choice([0, 0, 0, 1, 3]))
        )
        return [data[a:b] for a, b in itertools.pairwise([0, *cuts, len(data)]) if a < b]

    def _one(self) -> bytes:
        pick = self._random.choice
        body = self._body()
        data = post(
            body,
            *[b"X-Filler: %d" % n for n in range(pick([0, 0, 3]))],
            path=pick([PATH] * 8 + [PATH + "/", PATH + "?a=b", f"/{UNKNOWN}", f"/h/{RESERVED}"]),
        )
        swap = pick([*[None] * 30, *SWAPS])
        return data if swap is None else data.replace(*swap)

    def _body(self) -> bytes:
        kind = self._random.random()
        if kind < 0.1 and self._bodies:
            return self._random.choice(self._bodies)
        if kind < 0.25:
            return self._random.choice([b'{"events":[]}', b"", b"[]", b'{"events":', b"\xff"])
        number = self._random.randrange(10**9)
        body = body_of(number, events=1 + number % 3, padding=self._random.choice([0, 0, 9_900]))
        self._bodies.append(body)
        return body

    def _mangled(self, data: bytes) -> bytes:
        at = self._random.randrange(len(data))
        byte = bytes([self._random.choice([0, 9, 10, 13, 32, 58, 65, 127, 200])])
        return self._random.choice(
            [
                data[:at] + byte + data[at + 1 :],
                data[:at] + byte + data[at:],
                data[:at] + data[at + 1 :],
                data[:at] + data[at : at + 20] + data[at:],
            ]
        )


SWAPS = [
    (b"POST ", b"PUT "),
    (b" HTTP/1.1", b" HTTP/1.0"),
    (b"Host: hooks.example.com\r\n", b""),
    (b"Host:", b"Connection: close\r\nHost:"),
    (b"Host:", b"Connection: upgrade\r\nUpgrade: websocket\r\nHost:"),
    (b"Host:", b"Expect: 100-continue\r\nHost:"),
    (b"Host:", b"Content-Encoding: gzip\r\nHost:"),
    (b"Host:", b"Transfer-Encoding: chunked\r\nHost:"),
    (b"Host:", b"X-Hook-Secret: 0123456789abcdef0123\r\nHost:"),
    (b"Host:", b"X-Hook-Signature: 00\r\nHost:"),
    (b"X-Hook-Signature", b"x-hook-SIGNATURE"),
    (b"X-Hook-Signature", b"X-Hook"),
    (b"Content-Length", b"X-Length"),
    (b"Content-Length: ", b"Content-Length: 1"),
    (b"Content-Length: ", b"Content-Length: +"),
    (b"Content-Length: ", b"Content-Length: 5\r\nContent-Length: "),
    (b"\r\n", b"\n"),
    (b'"events"', b'"event"'),
]

LAST = b"GET /hooks/healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


class Ear(asyncio.Protocol):
    """A client that keeps what it hears, and whether the receiver has hung up."""

    def __init__(self) -> None:
        self.heard = b""
        self.is_over = False

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_over = True


async def heard(receiver: Receiver, pieces: list[bytes]) -> tuple[bytes, bool]:
    """Return all that is said to these pieces and to a last request, and whether that ended it.

    What is said comes within some turns of the loop, on which the receiver is too: so no time is
    waited for, and what would be ended by a deadline is only found silent.
    """
    create = asyncio.get_running_loop().create_connection
    transport, ear = await create(Ear, "127.0.0.1", receiver.port)
    transport.write(PROBE)
    await until(lambda: ear.heard)
    ear.heard = b""
    for piece in [*pieces, LAST]:
        transport.write(piece)
        for _ in range(20):
            await checkpoint()
    for _ in range(20):
        await checkpoint()
    transport.abort()
    return re.sub(rb"\r\nDate: [^\r]*", b"", ear.heard), ear.is_over


async def kept(store: MemoryStore) -> set[tuple[bytes, str]]:
    """Return what a store has: bodies, and why they are dead."""
    found = {(letter.body, letter.reason) for letter in await store.dead_letters(limit=10_000)}
    while claim := await store.claim(limit=1_000, lease=60):
        found |= {(delivery.body, "") for delivery in claim.deliveries}
    return found


async def serving(store: MemoryStore) -> Receiver:
    endpoint = make_endpoint(store, store_timeout=60, body_timeout=60)
    await endpoint._look_up(ROUTE)
    return Receiver(endpoint, host="127.0.0.1", port=0, keepalive_timeout=60)


async def differences(
    seed: object, count: int
) -> list[tuple[list[bytes], list[tuple[bytes, bool]]]]:
    """Return the requests that the two ways answer unalike, with both answers."""
    stores = [await make_store() for _ in range(2)]
    requests = Requests(seed)
    asked = [requests.next() for _ in range(count)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoint_module, "ROUTE_KNOWN_FOR", 1e9)
        async with AsyncExitStack() as stack:
            fast = await stack.enter_async_context(await serving(stores[0]))
            close_lane(patch)
            slow = await stack.enter_async_context(await serving(stores[1]))
            both = [(receiver, pieces) for receiver in (fast, slow) for pieces in asked]
            said = await asyncio.gather(*(heard(*each) for each in both))
    first, second = [await kept(store) for store in stores]
    assert first == second
    return [
        (pieces, [one, other])
        for pieces, one, other in zip(asked, said[:count], said[count:], strict=True)
        if one != other
    ]


@pytest.mark.timeout(1200)  # of 10,000 requests, in batches of 300, by hand
async def test_nobody_can_tell_the_two_ways_apart(taken: list[bool]) -> None:
    count, seed = int(os.environ.get("LANE_REQUESTS", "300")), os.environ.get("LANE_SEED", "1")
    for batch in range(0, count, 300):
        assert await differences(f"{seed} {batch}", min(300, count - batch)) == []
    assert taken.count(True) > count / 8


IN_PYTHON = {"AIOHTTP_NO_EXTENSIONS": "1"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "ways"),
    [
        pytest.param("test_lane.py", IN_PYTHON, id="differences, parser in Python"),
        pytest.param("test_receiver_aiohttp.py", IN_PYTHON, id="lane, parser in Python"),
        pytest.param("test_receiver_aiohttp.py", {LANELESS: "1"}, id="no lane"),
        pytest.param(
            "test_receiver_aiohttp.py", {LANELESS: "1"} | IN_PYTHON, id="no lane, in Python"
        ),
    ],
)
def test_hostile_requests_fare_as_well_on_the_other_ways(module: str, ways: dict[str, str]) -> None:
    options = ("-q", "-n0", "-p", "no:cacheprovider", "-m", "not slow")
    tests = str(Path(__file__).parent / module)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, tests],
        env=os.environ | ways,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5_000:]


async def deserted(receiver: Receiver) -> None:
    assert receiver._listening is not None
    await until(lambda: not receiver._listening[1].connections)  # type: ignore[index]


async def parted(receiver: Receiver) -> None:
    assert receiver._listening is not None
    await until(
        lambda: not any(each.connected for each in receiver._listening[1].connections)  # type: ignore[index]
    )

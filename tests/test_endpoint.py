import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import anyio
import msgspec
import pytest
from conftest import guard
from rich.pretty import pretty_repr

from asana_webhooks import _endpoint as module
from asana_webhooks import _sightings as sightings_module
from asana_webhooks._endpoint import Endpoint, Refusal, read_head
from asana_webhooks._sightings import BAD_REQUEST
from asana_webhooks.errors import StoreError
from asana_webhooks.models import Delivery, Route
from asana_webhooks.protocol import Request, Response
from asana_webhooks.signature import sign
from asana_webhooks.stores.memory import MemoryStore

ID = "Route-of_this-webhook-0123456789"
OTHER_ID = "Other-Route-of-another-webhook-9"
SECRET = "b537207f20cbfa02357cf448134da559e8bd39d61597dcd5631b8012eae53e81"
HEARTBEAT = b'{"events":[]}'
UNREADABLE = b'{"events":null}'


def events(age: timedelta = timedelta(minutes=1), gid: str = "1301") -> bytes:
    created_at = (datetime.now(UTC) - age).isoformat()
    return (
        f'{{"events":[{{"created_at":"{created_at}","action":"changed",'
        f'"resource":{{"gid":"{gid}"}}}}]}}'
    ).encode()


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class RecordingStore(MemoryStore):
    """Notes each call when it begins and when it is done; fails, or gets stuck, when told to."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.calls: list[str] = []
        self.failing: Exception | None = None
        self.stuck: set[str] = set()
        self.released = anyio.Event()

    async def _noted(self, name: str, call: Any) -> Any:
        self.calls.append(f"{name}...")
        try:
            if self.failing is not None:
                raise self.failing
            if name in self.stuck:
                await self.released.wait()
            result = await call
        finally:
            call.close()
        self.calls.append(name)
        return result

    async def get_route(self, route: str) -> Route | None:
        found: Route | None = await self._noted("get_route", super().get_route(route))
        return found

    async def add_candidate(self, route: str, secret: str) -> bool:
        return bool(await self._noted("add_candidate", super().add_candidate(route, secret)))

    async def note_heartbeat(self, route: str, at: datetime) -> None:
        await self._noted("note_heartbeat", super().note_heartbeat(route, at))

    async def put(
        self, delivery: Delivery, *, candidate: str | None = None, reason: str | None = None
    ) -> bool:
        async def put() -> bool:
            return await MemoryStore.put(self, delivery, candidate=candidate, reason=reason)

        return bool(await self._noted("put", put()))


class Harness:
    """An endpoint over a recording store, with one reserved and one confirmed route."""

    def __init__(self, **options: Any) -> None:
        self.store = RecordingStore()
        self.arrivals = 0
        self.reads = 0
        self.endpoint = self.make(**options)

    def make(self, **options: Any) -> Endpoint:
        return Endpoint(self.store, on_arrival=self.arrived, **options)

    def arrived(self) -> None:
        self.arrivals += 1

    async def reserve(self, route_id: str = OTHER_ID) -> None:
        target = f"https://example.com/{route_id}"
        assert await self.store.reserve(Route(id=route_id, target=target, resource="1"), ttl=60)

    async def confirm(self, route_id: str = ID) -> None:
        await self.reserve(route_id)
        await MemoryStore.add_candidate(self.store, route_id, SECRET)
        assert await self.store.confirm(route_id, gid="12", secret=SECRET)

    async def ask(
        self, body: bytes = b"", *, to: str = ID, method: str = "POST", **fields: Any
    ) -> Response:
        async def receive() -> tuple[bytes, bool]:
            self.reads += 1
            return body, False

        return await self.endpoint.handle(Request(method=method, route=to, **fields), receive)

    async def deliver(self, body: bytes, *, to: str = ID, **fields: Any) -> Response:
        return await self.ask(body, to=to, signatures=(sign(body, SECRET),), **fields)

    async def shake(self, secret: str = SECRET, *, to: str = OTHER_ID) -> Response:
        return await self.ask(to=to, secrets=(secret,))

    async def probe(self, name: str, method: str = "GET") -> Response:
        async def receive() -> tuple[bytes, bool]:
            raise AssertionError("a probe has no body to read")

        return await self.endpoint.handle(Request(method=method, route=name), receive)

    async def route(self, route_id: str) -> Route:
        found = await MemoryStore.get_route(self.store, route_id)
        assert found is not None
        return found

    async def bodies(self) -> list[bytes]:
        claims = [claim async for claim in self._claims()]
        return [delivery.body for claim in claims for delivery in claim.deliveries]

    async def _claims(self) -> Any:
        while (claim := await self.store.claim(limit=100, lease=60)) is not None:
            yield claim


@pytest.fixture
async def here() -> Harness:
    harness = Harness()
    await harness.confirm()
    await harness.reserve()
    return harness


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for each in (module, sightings_module):
        monkeypatch.setattr(each, "time", SimpleNamespace(monotonic=clock))
    return clock


# Persist, then answer


@pytest.mark.parametrize(
    ("act", "call"),
    [
        pytest.param(lambda here: here.deliver(events()), "put", id="events"),
        pytest.param(lambda here: here.deliver(UNREADABLE), "put", id="unreadable"),
        pytest.param(lambda here: here.deliver(HEARTBEAT), "note_heartbeat", id="heartbeat"),
        pytest.param(lambda here: here.shake(), "add_candidate", id="handshake"),
    ],
)
async def test_answer_waits_until_the_effect_is_durable(
    here: Harness, act: Callable[[Harness], Any], call: str
) -> None:
    here.store.stuck = {call}
    answers: list[Response] = []

    async def ask() -> None:
        answers.append(await act(here))

    with guard():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            assert here.store.calls[-1] == f"{call}..."
            assert answers == []
            assert here.arrivals == 0
            here.store.released.set()
    assert here.store.calls[-1] == call
    assert [answer.status for answer in answers] == [200]


async def test_accepted_events_are_in_the_inbox_as_they_came(here: Harness) -> None:
    body = events()
    assert (await here.deliver(body)).status == 200
    assert here.arrivals == 1
    assert await here.bodies() == [body]


async def test_delivery_is_stored_with_its_route_digest_and_time(here: Harness) -> None:
    before = datetime.now(UTC)
    body = events()
    await here.deliver(body)
    claim = await here.store.claim(limit=1, lease=60)
    assert claim is not None
    (delivery,) = claim.deliveries
    assert delivery.route == ID
    assert delivery.digest.hex() == sign(body, SECRET)
    assert before <= delivery.received_at <= datetime.now(UTC)


async def test_repeated_delivery_is_answered_alike_and_arrives_once(here: Harness) -> None:
    body = events()
    assert [(await here.deliver(body)).status for _ in range(3)] == [200, 200, 200]
    assert here.arrivals == 1
    assert await here.bodies() == [body]


async def test_deliveries_at_once_are_each_stored(here: Harness) -> None:
    bodies = [events(gid=str(number)) for number in range(20)]
    async with anyio.create_task_group() as tasks:
        for body in [*bodies, *bodies]:
            tasks.start_soon(here.deliver, body)
    assert here.arrivals == 20
    assert sorted(await here.bodies()) == sorted(bodies)


async def test_heartbeat_is_noted_every_time_and_never_queued(here: Harness) -> None:
    assert (await here.route(ID)).heartbeat_at is None
    times = []
    for _ in range(3):
        assert (await here.deliver(HEARTBEAT)).status == 200
        times.append((await here.route(ID)).heartbeat_at)
    assert None not in times
    assert here.store.calls.count("note_heartbeat") == 3
    assert (here.arrivals, (await here.store.counts()).waiting) == (0, 0)


@pytest.mark.parametrize(
    ("body", "level", "said"),
    [
        pytest.param(UNREADABLE, logging.ERROR, "not a delivery", id="unreadable"),
        pytest.param(events(timedelta(hours=27)), logging.WARNING, "older than 26 h", id="old"),
    ],
)
async def test_what_is_buried_is_a_dead_letter_and_one_line(
    here: Harness, caplog: pytest.LogCaptureFixture, body: bytes, level: int, said: str
) -> None:
    caplog.set_level(logging.DEBUG)
    for _ in range(3):
        assert (await here.deliver(body)).status == 200
    (letter,) = await here.store.dead_letters()
    assert (letter.route, letter.body) == (ID, body)
    assert letter.reason.startswith(said)
    (record,) = caplog.records
    assert record.levelno == level
    assert f"became a dead letter: {said}" in record.getMessage()
    assert (here.arrivals, (await here.store.counts()).waiting) == (0, 0)


# Before the webhook is confirmed


async def test_handshake_is_remembered_and_echoed(here: Harness) -> None:
    response = await here.shake(SECRET)
    assert (response.status, response.headers) == (200, (("X-Hook-Secret", SECRET),))
    assert (await here.route(OTHER_ID)).candidates == (SECRET,)


async def test_repeated_handshake_is_one_candidate(here: Harness) -> None:
    assert [(await here.shake(SECRET)).status for _ in range(9)] == [200] * 9
    assert (await here.route(OTHER_ID)).candidates == (SECRET,)


async def test_fifth_candidate_is_refused_without_an_echo(here: Harness) -> None:
    for number in range(4):
        assert (await here.shake(f"candidate-number-{number}")).status == 200
    fifth = await here.shake("candidate-number-4")
    assert (fifth.status, fifth.headers) == (403, ())
    assert (await here.shake("candidate-number-0")).status == 200
    assert len((await here.route(OTHER_ID)).candidates) == 4


async def test_of_handshakes_at_once_no_more_are_echoed_than_are_kept(here: Harness) -> None:
    answers: list[Response] = []

    async def shake(secret: str) -> None:
        answers.append(await here.shake(secret))

    here.store.stuck = {"add_candidate"}
    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(shake, f"candidate-number-{number}")
        await anyio.wait_all_tasks_blocked()
        here.store.released.set()
    echoed = {value for answer in answers for _, value in answer.headers}
    assert echoed == set((await here.route(OTHER_ID)).candidates)
    assert sorted(answer.status for answer in answers) == [200] * 4 + [403] * 6


async def test_events_before_the_confirmation_are_held_for_their_candidate(here: Harness) -> None:
    body = events()
    await here.shake("a-candidate-of-a-stranger")
    await here.shake(SECRET)
    assert (await here.deliver(body, to=OTHER_ID)).status == 200
    assert (await here.store.counts()).waiting == 1
    assert await here.bodies() == []
    await here.store.confirm(OTHER_ID, gid="13", secret=SECRET)
    assert await here.bodies() == [body]


# The body is read only when it matters


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        pytest.param({"route": "x" * 32}, 404, id="unknown route"),
        pytest.param({"route": ""}, 404, id="no route at all"),
        pytest.param({"method": "PUT"}, 405, id="another method"),
        pytest.param({"length": 2 * 1024 * 1024 + 1}, 413, id="too large"),
        pytest.param({"encodings": ("gzip",)}, 415, id="encoded"),
    ],
)
async def test_refused_body_is_not_read(here: Harness, fields: dict[str, Any], status: int) -> None:
    async def receive() -> tuple[bytes, bool]:
        raise AssertionError("the body was read")

    request = Request(**{"method": "POST", "route": ID, **fields})
    assert (await here.endpoint.handle(request, receive)).status == status


async def test_no_store_is_asked_for_no_route_at_all(here: Harness) -> None:
    assert (await here.ask(to="")).status == 404
    assert here.store.calls == []


@pytest.mark.parametrize(
    ("answer_gone", "status"),
    [pytest.param(False, 404, id="unasked"), pytest.param(True, 410, id="asked")],
)
async def test_body_for_a_retired_route_is_not_read(answer_gone: bool, status: int) -> None:  # noqa: FBT001 - a column of the table
    here = Harness(answer_gone=answer_gone)
    await here.confirm()
    await here.store.retire(ID)
    assert (await here.deliver(events())).status == status
    assert here.reads == 0


class Body:
    """A body in pieces; it stays under way from the piece at which it is held."""

    def __init__(self, *pieces: bytes, hold_at: int | None = None) -> None:
        self.pieces = list(pieces)
        self.hold_at = hold_at
        self.given = 0
        self.go_on = asyncio.Event()

    async def receive(self) -> tuple[bytes, bool]:
        if self.given == self.hold_at:
            await self.go_on.wait()
        self.given += 1
        return self.pieces[self.given - 1], self.given < len(self.pieces)

    def request(self) -> Request:
        signature = sign(b"".join(self.pieces), SECRET)
        return Request(method="POST", route=ID, signatures=(signature,))


async def test_body_may_come_in_pieces_some_of_them_empty(here: Harness) -> None:
    whole = events()
    body = Body(b"", whole[:7], b"", whole[7:9], whole[9:], b"")
    assert (await here.endpoint.handle(body.request(), body.receive)).status == 200
    assert await here.bodies() == [whole]


async def test_body_that_the_door_holds_already_is_not_received_and_counts_too(
    here: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def receive() -> tuple[bytes, bool]:
        raise AssertionError("the body was received")

    whole = events()
    fields: dict[str, Any] = {"signatures": (sign(whole, SECRET),), "body": whole}
    request = Request(method="POST", route=ID, **fields)
    assert (await here.endpoint.handle(request, receive)).status == 200
    assert await here.bodies() == [whole]
    monkeypatch.setattr(module, "MAX_BODIES", 10)
    here.endpoint = here.make(max_body=len(whole))
    here.endpoint._bodies = 1
    assert (await here.endpoint.handle(request, receive)).status == 503
    assert here.endpoint._bodies == 1


async def test_body_is_read_no_further_than_its_limit(here: Harness) -> None:
    here.endpoint = here.make(max_body=10)
    body = Body(*[b"four"] * 100)
    response = await here.endpoint.handle(body.request(), body.receive)
    assert (response.status, response.closes, body.given) == (413, True, 3)


async def test_body_that_is_late_is_refused(here: Harness) -> None:
    here.endpoint = here.make(body_timeout=0.05)
    body = Body(b"half", b"never", hold_at=1)
    with guard():
        response = await here.endpoint.handle(body.request(), body.receive)
    assert (response.status, response.closes) == (408, True)


async def test_bodies_under_way_have_one_limit_together(
    here: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "MAX_BODIES", 1000)
    here.endpoint = here.make(max_body=600)
    slow = Body(b" " * 600, HEARTBEAT[:0], hold_at=1)
    with guard():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(here.endpoint.handle, slow.request(), slow.receive)
            await anyio.wait_all_tasks_blocked()
            refused = await here.deliver(events().ljust(401))
            assert seen_as(refused) == (503, (("Retry-After", "10"),))
            assert refused.closes
            assert (await here.deliver(events().ljust(400))).status == 200
            slow.go_on.set()
    assert (await here.deliver(events().ljust(600))).status == 200
    assert [record.levelno for record in caplog.records if "too many bodies" in record.message] == [
        logging.WARNING
    ]


async def test_body_counts_until_its_effect_is_durable(
    here: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BODIES", 1000)
    here.endpoint = here.make(max_body=600)
    here.store.stuck = {"put"}
    with guard():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(here.deliver, events().ljust(600))
            await anyio.wait_all_tasks_blocked()
            assert (await here.deliver(HEARTBEAT + b" " * 500)).status == 503
            here.store.released.set()
    assert here.endpoint._bodies == 0


@pytest.mark.parametrize(
    "failure", [Refusal(BAD_REQUEST), asyncio.CancelledError()], ids=["cut", "cancelled"]
)
async def test_body_that_does_not_end_is_counted_no_more(
    here: Harness, failure: BaseException
) -> None:
    pieces = iter([b"half"])

    async def receive() -> tuple[bytes, bool]:
        for piece in pieces:
            return piece, True
        raise failure

    with suppress(asyncio.CancelledError):
        await here.endpoint.handle(Request(method="POST", route=ID), receive)
    assert here.endpoint._bodies == 0


async def test_one_body_may_always_be_as_large_as_its_own_limit(
    here: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BODIES", 10)
    here.endpoint = here.make(max_body=600)
    assert (await here.deliver(events().ljust(600))).status == 200


async def test_limits_are_those_that_are_documented() -> None:
    assert (module.BODY_TIMEOUT, module.MAX_BODIES) == (5.0, 64 * 1024 * 1024)


NO_LIMITS: dict[str, list[Any]] = {
    "max_body": [0, -1, 1.5, "2 MiB", None, True],
    "body_timeout": [0, -1, float("nan"), float("inf"), "5", None, True],
    "store_timeout": [0, -1, float("nan"), float("inf"), "5", None, True],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in NO_LIMITS.items() for value in values]
)
def test_limit_that_is_none_is_refused_by_name(name: str, value: object) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises((ValueError, TypeError), match=f"^{name} "):
        Endpoint(MemoryStore(), on_arrival=lambda: None, **options)


async def test_body_is_read_once(here: Harness) -> None:
    await here.deliver(events())
    assert here.reads == 1


async def test_refusal_while_reading_is_the_answer(here: Harness) -> None:
    async def receive() -> tuple[bytes, bool]:
        raise Refusal(BAD_REQUEST)

    request = Request(method="POST", route=ID)
    assert await here.endpoint.handle(request, receive) is BAD_REQUEST
    assert "put..." not in here.store.calls


async def test_body_that_was_longer_than_announced_is_refused(here: Harness) -> None:
    here.endpoint = here.make(max_body=100)
    assert (await here.deliver(events() + b" " * 100, length=3)).status == 413
    assert (here.arrivals, (await here.store.counts()).waiting) == (0, 0)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        pytest.param({"signatures": ("0" * 64,)}, 401, id="forged"),
        pytest.param({}, 401, id="not signed"),
        pytest.param({"secrets": ("0" * 64,)}, 403, id="foreign secret"),
        pytest.param({"secrets": ("short",)}, 400, id="odd secret"),
    ],
)
async def test_refused_request_leaves_nothing_in_the_store(
    here: Harness, fields: dict[str, Any], status: int
) -> None:
    before = await here.route(ID)
    assert (await here.ask(events(), **fields)).status == status
    assert here.store.calls == ["get_route...", "get_route"]
    assert await here.route(ID) == before
    assert here.arrivals == 0


# A store that fails


UNAVAILABLE = (503, (("Retry-After", "10"),))


def seen_as(response: Response) -> tuple[int, tuple[tuple[str, str], ...]]:
    return response.status, response.headers


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda here: here.deliver(events()), id="events"),
        pytest.param(lambda here: here.deliver(UNREADABLE), id="unreadable"),
        pytest.param(lambda here: here.deliver(HEARTBEAT), id="heartbeat"),
        pytest.param(lambda here: here.shake(), id="handshake"),
        pytest.param(lambda here: here.ask(to="x" * 32), id="unknown route"),
    ],
)
async def test_failing_store_is_answered_503_until_it_works_again(
    here: Harness, caplog: pytest.LogCaptureFixture, act: Callable[[Harness], Any]
) -> None:
    caplog.set_level(logging.DEBUG)
    here.store.failing = StoreError("the disk is full: make room")
    assert seen_as(await act(here)) == UNAVAILABLE
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "answered 503: the disk is full: make room"
    assert here.arrivals == 0
    here.store.failing = None
    assert (await act(here)).status in (200, 404)


@pytest.mark.parametrize("call", ["get_route", "put"])
async def test_slow_store_is_answered_503_in_time_until_it_works_again(
    here: Harness, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    here.endpoint = here.make(store_timeout=0.01)
    here.store.stuck = {call}
    with guard():
        assert seen_as(await here.deliver(events())) == UNAVAILABLE
    assert caplog.messages == ["answered 503: the store is too slow"]
    assert here.arrivals == 0
    here.store.stuck.clear()
    assert (await here.deliver(events())).status == 200


async def test_look_up_and_effect_share_the_time_that_the_store_has(
    here: Harness, clock: Clock
) -> None:
    class Slow(RecordingStore):
        async def get_route(self, route: str) -> Route | None:
            clock.now += 7.99
            return await MemoryStore.get_route(here.store, route)

    store = Slow()
    store.stuck = {"put"}
    here.endpoint = Endpoint(store, on_arrival=here.arrived, store_timeout=8.0)
    with anyio.fail_after(5):
        assert seen_as(await here.deliver(events())) == UNAVAILABLE


async def test_time_for_the_body_is_not_the_stores(here: Harness, clock: Clock) -> None:
    body = events()

    async def receive() -> tuple[bytes, bool]:
        clock.now += 100.0
        await asyncio.sleep(0)
        return body, False

    request = Request(method="POST", route=ID, signatures=(sign(body, SECRET),))
    assert (await here.endpoint.handle(request, receive)).status == 200


async def test_full_inbox_is_answered_503_and_what_is_in_it_is_kept() -> None:
    here = Harness()
    here.store = RecordingStore(max_waiting=1)
    here.endpoint = here.make()
    await here.confirm()
    first = events(gid="1")
    assert (await here.deliver(first)).status == 200
    assert seen_as(await here.deliver(events(gid="2"))) == UNAVAILABLE
    assert (await here.deliver(first)).status == 200
    assert await here.bodies() == [first]


async def test_cancellation_is_no_answer(here: Harness) -> None:
    here.store.stuck = {"put"}
    task = asyncio.create_task(here.deliver(events()))
    await anyio.wait_all_tasks_blocked()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


# What is known of routes


async def test_confirmed_route_is_looked_up_once_a_second_at_most(
    here: Harness, clock: Clock
) -> None:
    looked_up = []
    for _ in range(5):
        await here.deliver(events())
        looked_up.append(here.store.calls.count("get_route"))
        clock.now += 0.25
    assert looked_up == [1, 1, 1, 1, 2]


@pytest.mark.parametrize(
    "to", [pytest.param("x" * 32, id="unknown"), pytest.param(OTHER_ID, id="reserved")]
)
async def test_route_that_may_change_at_once_is_always_looked_up(
    here: Harness, clock: Clock, to: str
) -> None:
    for _ in range(3):
        await here.shake(to=to)
    assert here.store.calls.count("get_route") == 3


async def test_route_that_was_just_confirmed_is_served_at_once(here: Harness, clock: Clock) -> None:
    await here.shake(SECRET)
    await here.store.confirm(OTHER_ID, gid="13", secret=SECRET)
    assert (await here.shake("another-secret-of-a-stranger")).status == 403
    assert (await here.deliver(events(), to=OTHER_ID)).status == 200
    assert len(await here.bodies()) == 1


async def test_retired_route_is_served_no_longer_than_it_is_known(
    here: Harness, clock: Clock
) -> None:
    await here.deliver(events(gid="1"))
    await here.store.retire(ID)
    clock.now += 0.99
    assert (await here.deliver(events(gid="2"))).status == 200
    clock.now += 0.01
    assert (await here.deliver(events(gid="3"))).status == 404


async def test_memory_for_routes_is_bounded(
    here: Harness, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ROUTES_KNOWN", 3)
    ids = [f"{number:032}" for number in range(10)]
    for route_id in ids:
        await here.confirm(route_id)
        assert (await here.deliver(events(gid=route_id), to=route_id)).status == 200
        assert len(here.endpoint._known) <= 3
    assert len(await here.bodies()) == 10


# A second look


async def change_secret(here: Harness) -> str:
    """Give the route another secret, behind the back of an endpoint that remembers it."""
    route, secret = await here.route(ID), "another-secret-0123456789"
    here.store._routes[ID] = msgspec.structs.replace(route, secret=secret)
    return secret


async def forge(here: Harness) -> Response:
    return await here.ask(events(), signatures=("0" * 64,))


async def test_delivery_that_fits_what_the_store_says_now_is_accepted(
    here: Harness, clock: Clock
) -> None:
    await here.deliver(events(gid="1"))
    secret = await change_secret(here)
    clock.now += 0.5
    body = events(gid="2")
    assert (await here.ask(body, signatures=(sign(body, secret),))).status == 200
    assert body in await here.bodies()
    body = events(gid="3")
    assert (await here.ask(body, signatures=(sign(body, secret),))).status == 200
    assert here.store.calls.count("get_route") == 2


async def test_who_guesses_signatures_causes_one_second_look_a_second(
    here: Harness, clock: Clock
) -> None:
    await here.deliver(events())
    looked_up = []
    for _ in range(9):
        clock.now += 0.25
        assert (await forge(here)).status == 401
        looked_up.append(here.store.calls.count("get_route"))
    # The look of the second in which it is remembered, then the second look, and so on.
    assert looked_up == [2, 2, 2, 2, 3, 4, 4, 4, 4]


async def test_no_second_look_when_the_first_was_for_this_request(
    here: Harness, clock: Clock
) -> None:
    assert (await forge(here)).status == 401
    assert here.store.calls.count("get_route") == 1


async def test_guess_at_a_reserved_route_causes_no_second_look(here: Harness) -> None:
    assert (await here.ask(events(), to=OTHER_ID, signatures=("0" * 64,))).status == 401
    assert here.store.calls.count("get_route") == 1


async def test_second_look_holds_up_no_good_delivery_and_is_done_once(
    here: Harness, clock: Clock
) -> None:
    await here.deliver(events(gid="1"))
    clock.now += 0.5
    here.store.stuck = {"get_route"}
    answers: list[Response] = []

    async def guess() -> None:
        answers.append(await forge(here))

    with guard():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(guess)
            await anyio.wait_all_tasks_blocked()
            assert (await here.deliver(events(gid="2"))).status == 200
            assert (await forge(here)).status == 401
            assert answers == []
            here.store.released.set()
    assert [answer.status for answer in answers] == [401]
    assert here.store.calls.count("get_route...") == 2


@pytest.mark.parametrize(("answer_gone", "status"), [(False, 404), (True, 410)])
async def test_guess_at_a_route_that_was_retired_meanwhile_is_answered_like_any_request_for_it(
    answer_gone: bool,  # noqa: FBT001 - a row of the table
    status: int,
    clock: Clock,
) -> None:
    here = Harness(answer_gone=answer_gone)
    await here.confirm()
    await here.deliver(events())
    await here.store.retire(ID)
    clock.now += 0.5
    assert (await forge(here)).status == status
    assert (await here.deliver(events(gid="2"))).status == status


async def test_guess_at_a_route_that_is_gone_from_the_store_is_answered_404(
    here: Harness, clock: Clock
) -> None:
    await here.deliver(events())
    del here.store._routes[ID]
    clock.now += 0.5
    assert (await forge(here)).status == 404


async def test_second_look_that_the_store_does_not_answer_is_503(
    here: Harness, clock: Clock
) -> None:
    await here.deliver(events())
    clock.now += 0.5
    here.store.failing = StoreError("the disk is full: make room")
    assert seen_as(await forge(here)) == UNAVAILABLE
    here.store.failing = None
    assert (await here.deliver(events(gid="2"))).status == 200


async def test_second_look_takes_from_the_time_that_the_store_has(
    here: Harness, clock: Clock
) -> None:
    class Slow(RecordingStore):
        takes = 0.0

        async def get_route(self, route: str) -> Route | None:
            clock.now += self.takes
            return await MemoryStore.get_route(here.store, route)

    store = Slow()
    here.endpoint = Endpoint(store, on_arrival=here.arrived, store_timeout=8.0)
    await here.deliver(events())
    secret = await change_secret(here)
    clock.now += 0.5
    store.takes, store.stuck = 7.99, {"put"}
    body = events(gid="2")
    with anyio.fail_after(5):
        assert seen_as(await here.ask(body, signatures=(sign(body, secret),))) == UNAVAILABLE


# What was seen of handshakes


SHAKEN = "a handshake for this route, answered 200"
LOST = "a handshake for an unknown path, answered 404: no webhook here"


async def test_handshakes_for_a_route_and_for_none_are_seen(here: Harness, clock: Clock) -> None:
    await here.shake()
    await here.shake("short")
    await here.shake(to="")
    await here.shake(to="x" * 32)
    assert here.endpoint.seen(OTHER_ID, since=clock.now) == (
        SHAKEN,
        "a handshake for this route, answered 400: X-Hook-Secret must be one header of 16 to 256"
        " visible characters",
        LOST,
        LOST,
    )


async def test_request_for_a_route_is_seen_whatever_header_it_lacks(
    here: Harness, clock: Clock
) -> None:
    await here.ask(b"{}")
    await here.ask(b"{}", to=OTHER_ID)
    await here.ask(b"{}", to=OTHER_ID, encodings=("gzip",))
    await here.ask(b"{}", to=OTHER_ID, method="GET")
    await here.ask(b"{}", to=OTHER_ID, method="X\x1b" + "Y" * 1_000)
    assert here.endpoint.seen(OTHER_ID, since=clock.now) == (
        "a POST without the header X-Hook-Secret for this route, answered 401:"
        " X-Hook-Signature is not one header of 64 hex digits",
        "a POST without the header X-Hook-Secret for this route, answered 415:"
        " the body must not be encoded: its signature covers the bytes sent",
        "a GET without the header X-Hook-Secret for this route, answered 405:"
        " a webhook target takes POST only",
        "a X YYYYYYYY without the header X-Hook-Secret for this route, answered 405:"
        " a webhook target takes POST only",
    )


async def test_what_came_before_or_was_meant_for_others_is_not_seen(
    here: Harness, clock: Clock
) -> None:
    await here.shake()
    clock.now += 1
    since = clock.now
    await here.shake(to=ID)
    await here.deliver(events())
    await here.ask(to="")
    assert here.endpoint.seen(OTHER_ID, since) == ()
    assert here.endpoint.seen(OTHER_ID, since - 1) == (SHAKEN,)


async def test_handshake_that_the_store_could_not_keep_is_seen(here: Harness, clock: Clock) -> None:
    here.store.failing = StoreError("full")
    await here.shake()
    assert here.endpoint.seen(OTHER_ID, 0) == (
        "a handshake for this route, answered 503: nothing was stored, send it again",
    )


async def test_memory_for_what_is_seen_is_bounded(here: Harness) -> None:
    for _ in range(1_100):
        await here.shake(to="")
    assert len(here.endpoint.seen(OTHER_ID, 0)) == 1_000


async def test_strangers_without_a_handshake_push_nothing_out_of_what_is_seen(
    here: Harness, clock: Clock
) -> None:
    await here.shake()
    for _ in range(1_100):
        await here.ask(b"{}", to="x" * 32)
    assert here.endpoint.seen(OTHER_ID, 0) == (SHAKEN,)


# What was altered on its way


class Told:
    """Keeps what an endpoint tells of altered deliveries."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def __call__(self, route: Route, detail: str) -> None:
        assert route.gid is not None
        self.told.append((route.gid, detail))


@pytest.fixture
async def told(here: Harness, clock: Clock) -> Told:
    told = Told()
    here.endpoint = here.make(on_mangled=told, max_body=1_000, body_timeout=0.05)
    return told


async def cut(here: Harness) -> Response:
    async def receive() -> tuple[bytes, bool]:
        raise Refusal(BAD_REQUEST)

    return await here.endpoint.handle(Request(method="POST", route=ID), receive)


async def late(here: Harness) -> Response:
    async def receive() -> tuple[bytes, bool]:
        await anyio.sleep_forever()
        raise AssertionError

    return await here.endpoint.handle(Request(method="POST", route=ID), receive)


async def rewritten(here: Harness) -> Response:
    body = b'{"events": [ ]}'
    return await here.ask(body.replace(b" ", b""), signatures=(sign(body, SECRET),))


async def unsigned(here: Harness) -> Response:
    return await here.ask(HEARTBEAT)


async def too_large(here: Harness) -> Response:
    return await here.deliver(b" " * 1_001)


async def compressed(here: Harness) -> Response:
    return await here.deliver(HEARTBEAT, encodings=("gzip",))


ALTERED = [
    pytest.param(unsigned, 401, "a web application firewall strips", id="no signature"),
    pytest.param(rewritten, 401, "has parsed the JSON and written it anew", id="rewritten"),
    pytest.param(late, 408, "a proxy holds it back", id="late"),
    pytest.param(too_large, 413, "larger than max_body", id="too large"),
    pytest.param(compressed, 415, "a proxy compresses requests", id="compressed"),
    pytest.param(cut, 400, "shorter than its Content-Length", id="cut"),
]


@pytest.mark.parametrize(("act", "status", "cause"), ALTERED)
async def test_altered_delivery_is_told_at_the_first_one_then_hourly_with_the_likely_cause(
    here: Harness, told: Told, clock: Clock, act: Any, status: int, cause: str
) -> None:
    for _ in range(3):
        assert (await act(here)).status == status
    ((gid, detail),) = told.told
    assert gid == "12"
    assert cause in detail
    assert ID not in detail
    clock.now += 3_601
    await act(here)
    assert len(told.told) == 2


async def test_altered_deliveries_are_told_of_each_route(here: Harness, told: Told) -> None:
    await here.confirm("n" * 32)
    await here.ask(HEARTBEAT)
    await here.ask(HEARTBEAT, to="n" * 32)
    assert len(told.told) == 2


@pytest.mark.parametrize("route", [OTHER_ID, "x" * 32, ""], ids=["reserved", "unknown", "none"])
async def test_stranger_without_a_confirmed_route_makes_nothing_be_told(
    here: Harness, told: Told, route: str
) -> None:
    await here.ask(HEARTBEAT, to=route)
    await here.ask(b" " * 1_001, to=route)
    await here.ask(HEARTBEAT, to=route, encodings=("gzip",))
    assert told.told == []


async def test_nothing_is_told_of_a_route_that_was_retired(
    here: Harness, told: Told, clock: Clock
) -> None:
    await here.deliver(HEARTBEAT)
    await here.store.retire(ID)
    clock.now += 0.5  # it is remembered still
    assert (await rewritten(here)).status == 404
    assert told.told == []


async def test_handshakes_deliveries_and_other_methods_are_no_sign_of_alteration(
    here: Harness, told: Told
) -> None:
    await here.deliver(events())
    await here.deliver(HEARTBEAT)
    await here.shake("another-secret-of-a-stranger", to=ID)
    await here.ask(method="GET")
    assert told.told == []


async def test_memory_for_what_was_told_is_bounded(
    here: Harness, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sightings_module, "MAX_MANGLED", 1)
    await here.confirm("n" * 32)
    for _ in range(2):
        await here.ask(HEARTBEAT)
        await here.ask(HEARTBEAT, to="n" * 32)
    assert len(told.told) == 4


async def test_receipts_are_dated_by_the_clock_that_is_given(here: Harness) -> None:
    at = datetime(2026, 7, 4, tzinfo=UTC)
    here.endpoint = here.make(machine_time=lambda: at)
    await here.deliver(HEARTBEAT)
    assert (await here.route(ID)).heartbeat_at == at


# Probes


async def test_liveness_needs_no_store(here: Harness) -> None:
    here.store.failing = StoreError("down")
    response = await here.probe("healthz")
    assert (response.status, response.reason, response.headers) == (200, "alive", ())
    assert here.store.calls == []


async def test_readiness_is_that_of_the_endpoint_and_the_store(here: Harness) -> None:
    assert (await here.probe("readyz")).status == 503
    assert here.store.calls == []
    here.endpoint.accepting = True
    assert (await here.probe("readyz")).status == 200
    here.store.failing = StoreError("down")
    assert (await here.probe("readyz")).status == 503
    here.store.failing = None
    here.endpoint.accepting = False
    assert (await here.probe("readyz")).status == 503


async def test_store_that_does_not_answer_is_not_ready(here: Harness) -> None:
    here.endpoint = here.make(store_timeout=0.01)
    here.endpoint.accepting = True
    here.store.stuck = {"get_route"}
    with guard():
        response = await here.probe("readyz")
    assert (response.status, response.reason) == (503, "not ready")


@pytest.mark.parametrize("name", ["healthz", "readyz"])
async def test_probe_takes_get_and_head_only(here: Harness, name: str) -> None:
    here.endpoint.accepting = True
    assert (await here.probe(name, "HEAD")).status == 200
    response = await here.probe(name, "POST")
    assert (response.status, response.headers) == (405, (("Allow", "GET, HEAD"),))


async def no_body() -> tuple[bytes, bool]:
    return b"", False


async def test_probe_is_neither_logged_nor_seen(
    here: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for method in ("GET", "POST"):
        await here.endpoint.handle(
            Request(method=method, route="healthz", secrets=(SECRET,)), no_body
        )
    assert caplog.records == []
    assert here.endpoint.seen("healthz", 0) == ()


# The log


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        pytest.param({"to": "x" * 32}, "answered 404: no webhook here", id="unknown"),
        pytest.param(
            {"signatures": ("0" * 64,)},
            "answered 401: the signature does not fit the body",
            id="forged",
        ),
        pytest.param(
            {"signatures": ("hidden",)},
            "answered 401: X-Hook-Signature is not one header of 64 hex digits",
            id="malformed",
        ),
        pytest.param(
            {"secrets": ("hidden",)},
            "answered 400: X-Hook-Secret must be one header of 16 to 256 visible characters",
            id="odd secret",
        ),
        pytest.param(
            {"secrets": ("hidden" * 5,)},
            "answered 403: this route has its secret already",
            id="foreign secret",
        ),
        pytest.param({"length": 10**9}, "answered 413: the body is too large", id="too large"),
    ],
)
async def test_strangers_bad_request_is_one_line_of_information(
    here: Harness, caplog: pytest.LogCaptureFixture, fields: dict[str, Any], line: str
) -> None:
    caplog.set_level(logging.DEBUG)
    for _ in range(100):
        await here.ask(b"hidden", **fields)
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.INFO, line)
    assert not record.exc_info


async def test_what_is_well_is_not_logged(here: Harness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await here.shake()
    await here.deliver(events())
    await here.deliver(HEARTBEAT)
    assert caplog.records == []


async def test_replay_does_not_hide_the_line_of_an_unreadable_delivery(
    here: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    await here.deliver(events(timedelta(hours=27)))
    await here.deliver(UNREADABLE)
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]


async def test_store_that_fails_for_a_while_is_one_line(
    here: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    here.store.failing = StoreError("full")
    for number in range(100):
        await here.deliver(events(gid=str(number)))
    assert caplog.messages == ["answered 503: full"]


async def test_log_holds_nothing_secret(here: Harness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    old = events(timedelta(days=9), gid="hidden")
    bodies = (events(gid="hidden"), UNREADABLE, HEARTBEAT, b"hidden", old)
    for failing in (None, StoreError("full")):
        here.store.failing = failing
        for to in (ID, OTHER_ID, "x" * 32):
            for body in bodies:
                await here.deliver(body, to=to)
                await here.ask(body, to=to, signatures=(sign(body, "hidden"),))
            await here.shake(to=to)
            await here.shake("hidden" * 5, to=to)
    assert len(caplog.records) > 5
    shown = caplog.text + repr([record.__dict__ for record in caplog.records])
    signatures = [sign(body, secret) for body in bodies for secret in (SECRET, "hidden")]
    for secret in (SECRET, ID, OTHER_ID, "x" * 32, "hidden", *signatures):
        assert secret not in shown


# The clock


async def test_age_of_events_is_judged_by_the_clock_that_is_given(
    here: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    true_time = datetime.now(UTC) - timedelta(hours=30)  # this machine is 30 hours ahead
    here.endpoint = here.make(now=lambda: true_time)
    fresh, old = events(age=timedelta(hours=30)), events(age=timedelta(hours=57))
    assert (await here.deliver(fresh)).status == 200
    assert await here.bodies() == [fresh]
    assert (await here.deliver(old)).status == 200
    assert [letter.reason for letter in await here.store.dead_letters(limit=9)] == [
        "older than 26 h: late or replayed"
    ]


@pytest.mark.parametrize(
    ("offset", "said"),
    [
        pytest.param(timedelta(hours=-30), "1 day, 6:00:00 ahead of Asana's", id="ahead"),
        pytest.param(timedelta(minutes=6), "0:06:00 behind Asana's", id="behind"),
        pytest.param(timedelta(minutes=4), None, id="nearly right"),
    ],
)
async def test_clock_that_is_wrong_is_an_error_once_until_it_was_right(
    here: Harness, caplog: pytest.LogCaptureFixture, offset: timedelta, said: str | None
) -> None:
    offsets = [offset, offset, timedelta(), offset]
    here.endpoint = here.make(now=lambda: datetime.now(UTC) + offsets.pop())
    while offsets:
        assert (await here.deliver(HEARTBEAT)).status == 200
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert lines == ([f"this machine's clock is {said}: set it right"] * 2 if said else [])


# Heads


def test_head_is_read_whatever_the_case_and_the_blanks() -> None:
    head = read_head(
        "POST",
        f"/asana/{ID}?a",
        [
            *(
                (b"X-Hook-Secret", b" s"),
                (b"x-hook-secret", b"t\t"),
                (b"x-HOOK-signature", b"\xe4"),
            ),
            *((b"Content-Encoding", b"br"), (b"Transfer-Encoding", b"gzip, chunked")),
            *((b"content-length", b"12"), (b"Host", b"a")),
        ],
    )
    assert (head.method, head.route, head.secrets, head.signatures) == (
        "POST",
        ID,
        ("s", "t"),
        ("ä",),
    )
    assert (head.encodings, head.transfers, head.length) == (("br",), ("gzip, chunked",), 12)
    assert head.headers[-1] == (b"Host", b"a")


@pytest.mark.parametrize(
    ("path", "route"),
    [
        pytest.param("/healthz", "healthz", id="liveness"),
        pytest.param("/readyz", "readyz", id="readiness"),
        pytest.param("/asana/readyz/?verbose", "readyz", id="below a path"),
        pytest.param("/healthz/live", "", id="below a probe"),
        pytest.param("/xhealthz", "", id="almost a probe"),
        pytest.param("/HEALTHZ", "", id="upper case"),
        pytest.param("/healthz#", "", id="fragment"),
    ],
)
def test_probe_is_the_last_segment_of_the_path(path: str, route: str) -> None:
    assert read_head("GET", path, ()).route == route


# What is shown


@pytest.mark.parametrize(
    "show", [repr, str, pretty_repr, lambda shown: repr([shown])], ids=["repr", "str", "rich", "in"]
)
async def test_what_is_remembered_shows_no_route_id_or_secret(
    here: Harness, show: Callable[[object], str]
) -> None:
    await here.deliver(HEARTBEAT)
    await here.shake(to=ID)
    shown = show(here.endpoint._known[ID]) + show(here.endpoint._sightings._sightings[0])
    assert ID not in shown
    assert SECRET not in shown
    assert SECRET not in show(Refusal(Response(400, headers=(("X", SECRET),))))

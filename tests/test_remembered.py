"""Events that are known: by themselves, and through an inbox that hands over each once."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from conftest import eventually, until
from support.inboxes import NOW, confirm, draining, event, is_empty, put

from asana_webhooks import Event, MemoryStore
from asana_webhooks import _remembered as module
from asana_webhooks._inbox import Inbox
from asana_webhooks._remembered import (
    KEY_SIZE,
    Came,
    Remembered,
    Scope,
    Sight,
    came_afterwards,
    pack,
    unpack,
)
from asana_webhooks.models import Claim, Resource, decode_event
from asana_webhooks.telemetry import Counters

DAY = 24 * 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(gid: str = "1", *, parent: str | None = None, at: datetime | None = None) -> Event:
    return Event(
        created_at=at or datetime(2026, 7, 4, 10, 0, 0, 123000, tzinfo=UTC),
        action="added",
        resource=Resource(gid=gid, resource_type="task"),
        parent=None if parent is None else Resource(gid=parent),
    )


# A remembered event


def test_event_is_remembered_by_key_likeness_and_time() -> None:
    entry = pack(made())
    assert len(entry) == 32
    assert entry[:KEY_SIZE].hex() == made().key
    assert int.from_bytes(entry[24:], "big", signed=True) == 4 * 1_783_159_200_123_000
    (read,) = unpack(entry + b"cut off")
    assert (read.at, read.came) == (1_783_159_200_123_000, Came.DELIVERED)
    assert read.packed() == entry


@pytest.mark.parametrize("came", range(4))
def test_event_is_remembered_by_how_it_came(came: int) -> None:
    (read,) = unpack(pack(made(), came))
    assert read.came == came


def test_events_that_differ_in_nothing_but_time_and_parent_are_alike() -> None:
    later = made(at=datetime(2026, 7, 4, 10, 0, 1, tzinfo=UTC), parent="9")
    assert pack(made())[KEY_SIZE:24] == pack(later)[KEY_SIZE:24]
    assert pack(made())[KEY_SIZE:24] != pack(made("2"))[KEY_SIZE:24]


@pytest.mark.parametrize("year", [1, 1969, 9999])
def test_any_time_that_an_event_can_have_is_remembered(year: int) -> None:
    at = datetime(year, 6, 1, tzinfo=UTC)
    (read,) = unpack(pack(made(at=at)))
    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=read.at) == at


# A scope


ONE, TWO, THREE = (pack(made(gid)) for gid in "123")


CLAIM = Claim(route="a", fence=1, deliveries=())


def test_key_is_known_for_two_days_and_forgotten_after_four() -> None:
    clock = Clock()
    scope = Scope("s", clock=clock)
    scope.learn(ONE)
    clock.now += 2 * DAY + 1
    scope.learn(TWO)
    assert scope.take(ONE, CLAIM) is Sight.KNOWN
    clock.now += 2 * DAY + 1
    scope.learn(THREE)
    assert scope.take(ONE, CLAIM) is Sight.NEW
    assert scope.take(TWO, CLAIM) is Sight.KNOWN
    assert len(scope) == 2


def test_key_that_is_in_hand_is_not_taken_again_until_it_is_let_go() -> None:
    scope, first, other = Scope("s"), claim("a", 1), claim("b", 1)
    assert scope.take(ONE, first) is Sight.NEW
    assert scope.take(ONE, first) is Sight.KNOWN
    assert scope.take(ONE, other) is Sight.KNOWN
    scope.let_go(first)
    assert scope.take(ONE, other) is Sight.NEW
    scope.learn(ONE)
    scope.let_go(other)
    assert scope.take(ONE, first) is Sight.KNOWN


def test_key_that_an_older_claim_of_the_route_has_in_hand_is_taken_over() -> None:
    scope, first, newer = Scope("s"), claim("a", 1), claim("a", 2)
    assert scope.take(ONE, first) is Sight.NEW
    assert scope.take(ONE, newer) is Sight.NEW
    scope.let_go(first)
    assert scope.take(ONE, claim("b", 1)) is Sight.KNOWN


# What is delivered after it was taken from the stream


def later(seconds: float) -> datetime:
    return datetime(2026, 7, 4, 10, 0, 0, 123000, tzinfo=UTC) + timedelta(seconds=seconds)


def recovered(*events: Event, came: int = Came.DOUBTFUL) -> Scope:
    """Return a scope in which these events of the stream were handled."""
    scope = Scope("s")
    for each in events:
        assert scope.take(pack(each, came), CLAIM) is Sight.NEW
        scope.learn(pack(each))
    return scope


@pytest.mark.parametrize("came", [Came.STREAMED, Came.DOUBTFUL])
def test_event_of_the_stream_that_is_delivered_is_told_once_by_its_key(came: int) -> None:
    scope = recovered(made(), came=came)
    assert scope.take(pack(made()), CLAIM) is Sight.AFTERWARDS
    assert scope.take(pack(made()), CLAIM) is Sight.KNOWN


@pytest.mark.parametrize("seconds", [-60, -0.5, 60])
def test_where_the_stream_is_in_doubt_a_delivery_that_is_nearly_equal_is_its_event(
    seconds: float,
) -> None:
    scope = recovered(made())
    twin = pack(made(at=later(seconds), parent="9"))
    assert scope.take(twin, CLAIM) is Sight.AFTERWARDS
    assert scope.take(twin, CLAIM) is Sight.KNOWN
    assert scope.take(pack(made(at=later(seconds + 0.1))), CLAIM) is Sight.NEW


@pytest.mark.parametrize(
    ("came", "other"),
    [
        pytest.param(Came.STREAMED, made(at=later(1)), id="a stream that agrees"),
        pytest.param(Came.DOUBTFUL, made(at=later(61)), id="more than a minute"),
        pytest.param(Came.DOUBTFUL, made("2"), id="another resource"),
    ],
)
def test_delivery_of_another_event_is_new(came: int, other: Event) -> None:
    assert recovered(made(), came=came).take(pack(other), CLAIM) is Sight.NEW


def test_delivery_is_the_event_of_the_stream_that_is_nearest_in_time() -> None:
    scope = recovered(*(made(at=later(seconds)) for seconds in (0, 10)))
    assert scope.take(pack(made(at=later(11))), CLAIM) is Sight.AFTERWARDS
    assert scope.take(pack(made(at=later(0))), CLAIM) is Sight.AFTERWARDS
    assert scope.take(pack(made(at=later(1))), CLAIM) is Sight.NEW


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_delivery_is_known_while_the_event_of_the_stream_is_handled(seconds: float) -> None:
    scope, delivered = Scope("s"), pack(made(at=later(seconds)))
    scope.take(pack(made(), Came.DOUBTFUL), CLAIM)
    assert scope.take(delivered, CLAIM) is Sight.KNOWN
    scope.let_go(CLAIM)  # nothing says that it was handled
    assert scope.take(pack(made(), Came.DOUBTFUL), CLAIM) is Sight.NEW


def test_what_was_taken_and_what_came_is_known_from_the_store() -> None:
    first, second = (made(at=later(seconds)) for seconds in (0, 10))
    packed = pack(first, Came.DOUBTFUL) + pack(second, Came.DOUBTFUL)
    packed += pack(made("2"), Came.STREAMED) + came_afterwards(pack(made("2")))
    scope = Scope("s")
    scope.load(packed + came_afterwards(pack(made(at=later(1)))))
    assert scope.take(pack(made(at=later(1))), CLAIM) is Sight.KNOWN
    assert scope.take(pack(made("2")), CLAIM) is Sight.KNOWN
    assert scope.take(pack(first), CLAIM) is Sight.KNOWN
    assert scope.take(pack(made(at=later(12))), CLAIM) is Sight.AFTERWARDS
    assert scope.take(pack(made(at=later(13))), CLAIM) is Sight.NEW


def test_event_of_the_stream_that_is_let_go_waits_for_no_delivery() -> None:
    scope = Scope("s")
    scope.take(pack(made(), Came.DOUBTFUL), CLAIM)
    scope.let_go(CLAIM)
    assert scope.take(pack(made(at=later(1))), CLAIM) is Sight.NEW


def test_event_of_the_stream_waits_for_its_delivery_as_long_as_its_key_is_known() -> None:
    clock = Clock()
    scope = Scope("s", clock=clock)
    scope.take(pack(made(), Came.DOUBTFUL), CLAIM)
    scope.learn(pack(made()))
    for entry in (ONE, TWO, THREE):
        clock.now += 2 * DAY + 1
        scope.learn(entry)
    assert scope.take(pack(made(at=later(1))), CLAIM) is Sight.NEW


# The scopes in use


class Loads:
    """What a store remembers, and what was asked for."""

    def __init__(self, **packed: bytes) -> None:
        self.packed = packed
        self.names: list[str] = []
        self.within: list[timedelta] = []
        self.error: Exception | None = None

    async def __call__(self, scope: str, *, within: timedelta) -> bytes:
        self.names.append(scope)
        self.within.append(within)
        if self.error is not None:
            raise self.error
        return self.packed.get(scope, b"")


def claim(route: str, fence: int, previous: int = 0) -> Claim:
    return Claim(route=route, fence=fence, previous=previous, deliveries=())


async def test_scope_is_read_when_somebody_else_may_have_settled_something() -> None:
    loads = Loads(s=pack(made("1")) + pack(made("2")))
    remembered = Remembered(loads)
    first = claim("a", 1)
    scope = await remembered.enter("s", first)
    assert scope.take(pack(made("1")), first) is Sight.KNOWN
    assert scope.take(pack(made("2")), first) is Sight.KNOWN
    remembered.leave(scope, first, is_sure=True)
    await remembered.enter("s", claim("a", 2, previous=1))
    assert loads.names == ["s"]
    await remembered.enter("s", claim("a", 4, previous=3))
    assert loads.names == ["s", "s"]


async def test_scope_is_read_again_when_nobody_knows_what_was_settled() -> None:
    loads = Loads()
    remembered = Remembered(loads)
    first = claim("a", 1)
    remembered.leave(await remembered.enter("s", first), first, is_sure=False)
    await remembered.enter("s", claim("a", 2, previous=1))
    assert loads.names == ["s", "s"]


async def test_scope_of_two_routes_is_read_each_time() -> None:
    loads = Loads()
    remembered = Remembered(loads)
    await remembered.enter("s", claim("a", 1))
    await remembered.enter("s", claim("b", 1))
    await remembered.enter("s", claim("a", 2, previous=1))
    assert len(loads.names) == 3


async def test_of_a_scope_is_read_what_may_have_been_missed_since_the_last_time() -> None:
    loads, clock = Loads(s=pack(made("1"))), Clock()
    remembered = Remembered(loads, clock=clock)
    first = claim("a", 1)
    remembered.leave(await remembered.enter("s", first), first, is_sure=True)
    clock.now += 10  # somebody else had the claim between
    third = claim("a", 3, previous=2)
    loads.packed = {"s": pack(made("2"))}
    scope = await remembered.enter("s", third)
    assert scope.take(pack(made("1")), third) is Sight.KNOWN
    assert scope.take(pack(made("2")), third) is Sight.KNOWN
    remembered.leave(scope, third, is_sure=True)
    clock.now += 10
    await remembered.enter("s", claim("a", 4, previous=3))  # nobody had
    clock.now += 30
    await remembered.enter("s", claim("a", 6, previous=5))
    assert loads.within == [
        timedelta(hours=48),
        timedelta(seconds=10) + module.OVERLAP,
        timedelta(seconds=30) + module.OVERLAP,
    ]


async def test_scope_that_could_not_be_read_is_read_by_the_next() -> None:
    loads = Loads()
    remembered = Remembered(loads)
    loads.error = LookupError()
    with pytest.raises(LookupError):
        await remembered.enter("s", claim("a", 1))
    loads.error = None
    await remembered.enter("s", claim("a", 2, previous=1))
    assert loads.names == ["s", "s"]
    assert loads.within == [timedelta(hours=48)] * 2


@pytest.mark.parametrize("bound", ["MAX_SCOPES", "MAX_KEYS"])
async def test_of_scopes_that_are_not_in_use_those_used_longest_ago_are_forgotten(
    monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(module, bound, 2)
    loads = Loads()
    remembered = Remembered(loads)
    used = await remembered.enter("used", claim("u", 1))
    used.learn(pack(made("u")))
    for number in range(4):
        each = claim(str(number), 1)
        scope = await remembered.enter(f"s{number}", each)
        scope.learn(pack(made(str(number))))
        remembered.leave(scope, each, is_sure=True)
    loads.names.clear()
    await remembered.enter("s3", claim("3", 2, previous=1))
    await remembered.enter("s0", claim("0", 2, previous=1))
    await remembered.enter("used", claim("u", 2, previous=1))
    assert loads.names == ["s0"]


async def test_scopes_in_use_are_not_forgotten_however_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_KEYS", 1)
    remembered = Remembered(Loads())
    first, second = claim("a", 1), claim("b", 1)
    scope = await remembered.enter("s", first)
    await remembered.enter("s", second)
    scope.learn(b"".join(pack(made(gid)) for gid in "123"))
    remembered.leave(scope, first, is_sure=True)
    assert await remembered.enter("s", claim("a", 2, previous=1)) is scope


# Through an inbox: each event once


class Noting:
    def __init__(self) -> None:
        self.gids: list[str] = []
        self.keys: list[str] = []

    async def __call__(self, event: Event) -> None:
        self.gids.append(event.resource.gid)
        self.keys.append(event.key)


async def test_repeat_that_holds_old_and_new_events_hands_over_the_new_ones() -> None:
    store, handler, counters = MemoryStore(), Noting(), Counters()
    await confirm(store, "a")
    await put(store, "a", event(1), event(2))
    async with draining(store, handler, telemetry=counters):
        await eventually(lambda: is_empty(store))
        await put(store, "a", event(2), event(3))
        await put(store, "a", event(3))
        await eventually(lambda: is_empty(store))
    assert handler.gids == ["1", "2", "3"]
    assert counters.duplicate_events == 2


@pytest.mark.parametrize("how", ["drain", "stream"])
async def test_event_is_known_to_another_process_and_after_a_restart(how: str) -> None:
    store, handler = MemoryStore(), Noting()
    await confirm(store, "a")
    for bodies in ([event(1)], [event(1), event(2)], [event(2), event(3)]):
        await put(store, "a", *bodies)
        if how == "drain":
            async with draining(store, handler):
                await eventually(lambda: is_empty(store))
            continue
        async with Inbox(store, poll=0.001) as inbox:
            stream = inbox.stream()
            await handler(await anext(stream))
            following = asyncio.create_task(anext(stream))
            await eventually(lambda: is_empty(store))
        with pytest.raises(StopAsyncIteration):
            await following
    assert handler.gids == ["1", "2", "3"]


async def test_two_workers_on_one_store_hand_over_each_event_once() -> None:
    store, handler = MemoryStore(), Noting()
    await confirm(store, "a")
    async with draining(store, handler, poll=0.001), draining(store, handler, poll=0.001):
        for number in range(100):
            await put(store, "a", event(number), event(number + 1))
            if number % 10 == 0:
                await eventually(lambda: is_empty(store))
        await eventually(lambda: is_empty(store))
    assert sorted(map(int, handler.gids)) == list(range(101))


async def test_event_that_another_webhook_of_the_same_resource_delivers_is_known() -> None:
    store, handler = MemoryStore(), Noting()
    for route, resource, account in (
        *(("a", "12", ""), ("b", "12", "")),
        *(("other resource", "13", ""), ("other account", "12", "acme")),
    ):
        await confirm(store, route, resource=resource, account=account)
        await put(store, route, event(1))
    async with draining(store, handler):
        await eventually(lambda: is_empty(store))
    assert handler.gids == ["1"] * 3


async def test_twin_of_an_event_under_way_is_not_handed_over() -> None:
    store, handler, go_on = MemoryStore(), Noting(), asyncio.Event()

    async def wait(event: Event) -> None:
        await handler(event)
        await go_on.wait()

    await confirm(store, "a")
    await confirm(store, "b")
    await put(store, "a", event(1))
    async with draining(store, wait):
        await until(lambda: handler.gids)
        await put(store, "b", event(1), event(2))
        await until(lambda: "2" in handler.gids)
        go_on.set()
        await eventually(lambda: is_empty(store))
    assert handler.gids == ["1", "2"]


async def test_twin_comes_again_when_the_event_under_way_was_given_back() -> None:
    store, handler = MemoryStore(), Noting()

    async def hang(event: Event) -> None:
        await asyncio.Event().wait()

    await confirm(store, "a")
    await confirm(store, "b")
    await put(store, "a", event(1))
    async with draining(store, hang, grace=0.01) as inbox:
        await until(lambda: any(work.running for work in inbox._claims.active))
        await put(store, "b", event(1))
        await eventually(lambda: is_empty_of(store, "b"))
    async with draining(store, handler):
        await eventually(lambda: is_empty(store))
    assert handler.gids == ["1"]


async def is_empty_of(store: MemoryStore, route: str) -> bool:
    return not store._has_waiting(route)


async def test_event_that_nobody_wants_is_known_too() -> None:
    store = MemoryStore()
    await confirm(store, "a")
    await put(store, "a", event(1), event(1), '{"odd":1}')
    async with draining(store):
        await eventually(lambda: is_empty(store))
    packed = await store.remembered("/12")
    assert packed == pack(decode_event(event(1).encode()))


async def test_event_that_failed_is_known_and_is_tried_again_all_the_same() -> None:
    store, handler = MemoryStore(), Noting()

    async def fail_once(event: Event) -> None:
        await handler(event)
        if len(handler.gids) == 1:
            raise RuntimeError

    await confirm(store, "a")
    await put(store, "a", event(1))
    async with draining(store, fail_once, first_delay=0.05):
        await until(lambda: handler.gids)
        await put(store, "a", event(1), event(2))
        await eventually(lambda: is_empty(store))
    assert set(handler.gids) == {"1", "2"}


async def test_replay_hands_over_what_is_known() -> None:
    store, handler = MemoryStore(), Noting()

    async def fail(event: Event) -> None:
        raise RuntimeError

    await confirm(store, "a")
    await put(store, "a", event(1))
    async with draining(store, fail, max_attempts=1):
        (letter,) = await eventually(store.dead_letters)
    async with draining(store, handler):
        await put(store, "a", event(1), event(2))
        await eventually(lambda: is_empty(store))
        assert handler.gids == ["2"]
        await store.replay([letter.id])
        await eventually(lambda: is_empty(store))


async def test_key_is_written_only_when_all_handlers_of_the_event_are_done() -> None:
    store, go_on, began = MemoryStore(), asyncio.Event(), list[str]()

    async def quick(event: Event) -> None:
        began.append("quick")

    async def slow(event: Event) -> None:
        began.append("slow")
        await go_on.wait()

    await confirm(store, "a")
    await put(store, "a", event(1))
    async with draining(store, quick, slow):
        await until(lambda: len(began) == 2)
        await asyncio.sleep(0.1)
        assert await store.remembered("/12") == b""
        go_on.set()
        await eventually(lambda: is_empty(store))
    assert len(await store.remembered("/12")) == 32


async def test_event_tells_its_source() -> None:
    store, sources = MemoryStore(), []

    async def note(event: Event) -> None:
        sources.append(event.source)

    await confirm(store, "a", gid="71", resource="12", account="acme")
    await put(store, "a", event(1))
    await put(store, "unknown", event(2))
    async with draining(store, note):
        await eventually(lambda: is_empty(store))
    told = [(each.webhook, each.resource, each.account, each.via) for each in sources if each]
    assert sorted(told) == [("", "", "", "webhook"), ("71", "12", "acme", "webhook")]
    assert all(each is not None and each.received_at == NOW for each in sources)


async def test_event_that_waited_in_a_lost_claim_is_handed_over_by_the_next() -> None:
    clock = Clock()
    store, go_on, handler = MemoryStore(clock=clock), asyncio.Event(), Noting()

    async def wait(event: Event) -> None:
        await handler(event)
        await go_on.wait()

    await confirm(store, "a")
    await put(store, "a", event(1), event(2))
    async with draining(store, wait, order="webhook"):
        await until(lambda: handler.gids == ["1"])
        clock.now += 31.0  # the store has hung, say, and nobody has noticed
        await until(lambda: handler.gids == ["1", "1"])
        go_on.set()
        await eventually(lambda: is_empty(store))
    assert set(handler.gids) == {"1", "2"}

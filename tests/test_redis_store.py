"""The store on a real Valkey: the contract, and what only a server can do or suffer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import struct
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis
import redis.asyncio
from anyio import wait_all_tasks_blocked
from anyio.lowlevel import checkpoint
from conftest import eventually, guard
from cryptography.fernet import Fernet
from hypothesis import HealthCheck, settings
from hypothesis.stateful import rule, run_state_machine_as_test
from msgspec.structs import replace
from redis.asyncio.sentinel import Sentinel, SlaveNotFoundError
from redis.exceptions import MovedError, ResponseError
from support.ports import free_tcp_port
from support.valkey_server import (
    EACH_WRITE_TO_DISK,
    TO_A_DISK,
    Certificates,
    ClockedRedisStore,
    ValkeyServer,
    make_certificates,
    running_sentinel,
    running_valkey,
    tls_before,
    valkey,
)
from test_store_machine import MAX_WAITING, StoreMachine
from test_stores import *  # noqa: F403 - the contract, with the fixture below instead of its own
from test_stores import (
    NOON,
    Clock,
    alone,
    buried,
    bury_at_once,
    confirm,
    delivery,
    get,
    handled,
    kept,
    letter,
    number_of,
    numbers,
    put,
    put_state,
    route,
    state,
    take,
    takes,
    tried_again,
    write,
)

from asana_webhooks.errors import StoreError
from asana_webhooks.models import Claim, Counts, Delivery, Retry, Route, Settlement, WebhookFilter
from asana_webhooks.stores import Store
from asana_webhooks.stores._batcher import Batcher
from asana_webhooks.stores.redis import LAYOUT_VERSION, RedisStore, _scripts
from asana_webhooks.stores.redis import _server as redis_server
from asana_webhooks.stores.redis._scripts import Script
from asana_webhooks.stores.redis._server import Hidden

pytestmark = pytest.mark.servers

__all__ = ["valkey"]

OPERATIONS = Path(__file__).parents[1] / "docs" / "operations.md"
A_KEY = Fernet.generate_key().decode()
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def make_store(valkey: ValkeyServer, clock: Clock) -> Callable[..., Store]:
    def make(**options: Any) -> Store:
        return ClockedRedisStore(valkey, clock, **options)

    return make


@pytest.fixture
def server(valkey: ValkeyServer) -> ValkeyServer:
    """Return the server with nothing on it."""
    with valkey.client() as client:
        client.flushall()
    return valkey


@pytest.fixture
def own_server() -> Iterator[ValkeyServer]:
    """Yield a server that the test may harm."""
    with running_valkey(*EACH_WRITE_TO_DISK) as started:
        yield started


def redis_calls(server: ValkeyServer) -> int:
    """Return how many scripts the server was asked to run."""
    with server.client() as client:
        statistics = client.info("commandstats")
    return sum(statistics.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in CALLS)


CALLS = ("eval", "evalsha")


def configure(server: ValkeyServer, **values: str) -> None:
    with server.client() as client:
        for name, value in values.items():
            client.config_set(name, value)


async def in_a_second(call: Awaitable[Any]) -> Any:
    with guard():
        return await call


@contextlib.contextmanager
def pausing(server: ValkeyServer) -> Iterator[None]:
    """Have the server run nothing, and answer nothing, inside."""
    server.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.signal(signal.SIGCONT)


# Any sequence of calls


@pytest.mark.slow
@pytest.mark.parametrize("keys", [None, [A_KEY]], ids=["in clear", "encrypted"])
def test_store_answers_as_the_model_does(valkey: ValkeyServer, keys: list[str] | None) -> None:
    class RedisMachine(StoreMachine):
        prefix = ""

        def make(self, directory: Path) -> Store:
            self.prefix = f"{directory.name}:"
            return self.make_again()

        def make_again(self) -> Store:
            return ClockedRedisStore(
                valkey,
                lambda: self.model.now,
                self.prefix,
                max_waiting=MAX_WAITING,
                encryption_keys=keys,
            )

        @rule()
        def open_again(self) -> None:
            self.run(self.store.__aexit__(None, None, None))
            self.store = self.run(self.make_again().__aenter__())

    run_state_machine_as_test(
        RedisMachine,
        settings=settings(
            max_examples=8,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


# Several processes


async def test_delivery_put_by_one_is_claimed_by_another_at_once(server: ValkeyServer) -> None:
    async with RedisStore(server.url) as receiver, RedisStore(server.url) as worker:
        await put(receiver, 1)
        assert numbers(await take(worker)) == [1]
        assert await receiver.claim(limit=1, lease=30) is None


async def test_handshake_at_one_is_known_at_the_other_at_once(server: ValkeyServer) -> None:
    async with RedisStore(server.url) as poster, RedisStore(server.url) as receiver:
        await poster.reserve(route(), ttl=60)
        assert await receiver.add_candidate("r1", "secret")
        assert await receiver.put(delivery(1), candidate="secret")
        assert await poster.confirm("r1", gid="77", secret="secret")
        found = await receiver.get_route("r1")
        assert found is not None
        assert (found.state, found.secret) == ("confirmed", "secret")
        assert numbers(await take(receiver)) == [1]


async def test_of_reservations_at_once_in_two_processes_one_is_made(server: ValkeyServer) -> None:
    answers: list[bool] = []

    async def reserve(store: Store, id_: str) -> None:
        answers.append(await store.reserve(route(id_), ttl=60, exclusive=True))

    async with RedisStore(server.url) as one, RedisStore(server.url) as two:
        await asyncio.gather(*(reserve((one, two)[n % 2], f"r{n}") for n in range(16)))
    assert sorted(answers) == [False] * 15 + [True]


async def test_workers_of_two_processes_handle_each_delivery_once_and_in_order(
    server: ValkeyServer,
) -> None:
    seen: list[int] = []

    async def work(store: Store) -> None:
        while claim := await store.claim(limit=3, lease=30):
            seen.extend(numbers(claim))
            assert await store.end_claim(claim, handled(claim.deliveries)) is not None

    async with RedisStore(server.url) as one, RedisStore(server.url) as two:
        for number in range(60):
            await put(one, number, route=f"r{number % 6}")
        async with anyio.create_task_group() as tasks:
            for store in (one, two, one, two):
                tasks.start_soon(work, store)
    assert sorted(seen) == list(range(60))
    for first in range(6):
        assert [n for n in seen if n % 6 == first] == list(range(first, 60, 6))


async def test_same_delivery_at_two_receivers_at_once_is_kept_once(server: ValkeyServer) -> None:
    async with RedisStore(server.url) as one, RedisStore(server.url) as two:
        answers = await asyncio.gather(*(store.put(delivery(1)) for store in (one, two) * 8))
        assert sorted(answers) == [False] * 15 + [True]
        assert (await one.counts()).waiting == 1


async def test_lease_of_a_dead_worker_is_taken_over_and_its_late_word_refused(
    server: ValkeyServer,
) -> None:
    async with RedisStore(server.url) as dead, RedisStore(server.url) as living:
        await put(dead, 1, 2)
        late = await take(dead, lease=0.5)
        assert await living.claim(limit=10, lease=30) is None
        owner = await eventually(partial(living.claim, limit=10, lease=30))
        assert owner.fence > late.fence
        assert numbers(owner) == [1]  # alone: it may be what the worker died of
        assert await dead.end_claim(late, handled(late.deliveries)) is None
        assert await dead.settle(late, handled(late.deliveries)) is None
        assert not await dead.renew(late, lease=30)
        assert await dead.settle(late, tried_again(late.deliveries[0], attempts=1)) is None
        assert await dead.settle(late, buried(late.deliveries[0], [letter()])) is None
        assert await living.end_claim(owner, handled(owner.deliveries)) is not None
        last = await take(living)
        assert [each.crashes for each in (*owner.deliveries, *last.deliveries)] == [1, 1]
        assert await living.end_claim(last, handled(last.deliveries)) is not None
        assert (await living.counts()).waiting == 0


async def test_word_of_a_worker_from_before_a_failover_that_lost_its_lease_is_refused(
    server: ValkeyServer,
) -> None:
    async with RedisStore(server.url) as store:
        await put(store, 1)
        late = await take(store)
        with server.client() as client:
            client.flushall()  # as a replica that had got nothing yet
        await put(store, 2)
        mine = await take(store)
        assert await store.end_claim(late, handled(late.deliveries)) is None
        assert (await store.counts()).waiting == 1
        assert await store.end_claim(mine, handled(mine.deliveries)) is not None


async def test_renewed_lease_outlives_its_first_end(server: ValkeyServer) -> None:
    async with RedisStore(server.url) as store:
        await put(store, 1)
        claim = await take(store, lease=0.2)
        assert await store.renew(claim, lease=30)
        await anyio.sleep(0.3)
        assert await store.claim(limit=1, lease=30) is None


async def test_server_whose_clock_goes_back_holds_up_nothing(
    server: ValkeyServer, clock: Clock
) -> None:
    async with ClockedRedisStore(server, clock) as store:
        await put(store, 1, 2)
        claim = await take(store, limit=1)
        await store.settle(claim, tried_again(claim.deliveries[0], delay=5.0, attempts=1))
        await store.end_claim(claim)
        clock.now -= 3600
        await put(store, 3)
        claim = await take(store, lease=30)
        assert numbers(claim) == [2, 3]
        await store.end_claim(claim, handled(claim.deliveries))
        clock.now += 5
        assert numbers(await take(store)) == [1]


async def test_what_is_due_when_the_clock_goes_back_is_claimed_before_anything_else_happens(
    server: ValkeyServer, clock: Clock
) -> None:
    async with ClockedRedisStore(server, clock) as store:
        await put(store, 1)
        clock.now -= 3600
        assert numbers(await take(store)) == [1]


async def test_route_that_is_over_stays_so_when_the_clock_goes_back(
    server: ValkeyServer, clock: Clock
) -> None:
    async with ClockedRedisStore(server, clock) as store:
        await store.reserve(route(), ttl=60)
        await store.reserve(route("r2"), ttl=90)
        clock.now += 60
        await put(store, 1)  # by which the store learns the time
        clock.now -= 3600
        assert await store.get_route("r1") is None
        assert not await store.add_candidate("r1", "secret")
        assert await store.add_candidate("r2", "secret")


async def test_lease_ends_in_its_time_though_the_clock_goes_back_again_and_again(
    server: ValkeyServer, clock: Clock
) -> None:
    async with ClockedRedisStore(server, clock) as store:
        await put(store, 1)
        claim = await take(store, lease=30)
        for _ in range(3):
            clock.now -= 3600
            assert await store.renew(claim, lease=30)
        clock.now += 14
        await put(store, 2)
        clock.now += 15
        assert await store.claim(limit=1, lease=30) is None
        clock.now += 1
        assert numbers(await take(store)) == [1]


async def test_stores_with_other_prefixes_are_apart_and_a_cluster_keeps_each_in_one_slot(
    server: ValkeyServer,
) -> None:
    async with RedisStore(server.url) as one, RedisStore(server.url, prefix="others") as two:
        await confirm(one)
        await put(one, 1)
        assert await one.put(delivery(2), reason="odd")
        assert (await two.counts()).waiting == 0
        assert await two.get_route("r1") is None
    with server.client() as client:
        keys = list(client.scan_iter())
    assert {key.partition(b":")[0] for key in keys} == {b"{asana-webhooks}", b"{others}"}


# Round trips


async def test_puts_at_once_share_round_trips(server: ValkeyServer) -> None:
    async with RedisStore(server.url) as store:
        await put(store, 0)
        before = redis_calls(server)
        answers = await asyncio.gather(*(store.put(delivery(n)) for n in (*range(1, 200), 5)))
        assert sorted(answers) == [False] + [True] * 199
        assert redis_calls(server) - before <= 4
        assert (await store.counts()).waiting == 200


async def test_lookups_at_once_share_round_trips(server: ValkeyServer) -> None:
    async with RedisStore(server.url) as store:
        await confirm(store)
        await store.get_route("r1")
        before = redis_calls(server)
        found = await asyncio.gather(*(store.get_route(id_) for id_ in ["r1", "r2"] * 32))
        assert [each is None for each in found] == [False, True] * 32
        assert redis_calls(server) - before <= 2


async def test_cancelled_put_harms_no_other(own_server: ValkeyServer) -> None:
    answers: dict[int, bool] = {}

    async def put_it(store: Store, number: int, scope: anyio.CancelScope) -> None:
        with scope:
            answers[number] = await store.put(delivery(number))

    scopes = [anyio.CancelScope() for _ in range(5)]
    async with RedisStore(own_server.url) as store, anyio.create_task_group() as tasks:
        with pausing(own_server):
            tasks.start_soon(put_it, store, 0, scopes[0])
            tasks.start_soon(put_it, store, 1, scopes[1])
            await wait_all_tasks_blocked()
            for number in (2, 3, 4):
                tasks.start_soon(put_it, store, number, scopes[number])
            await wait_all_tasks_blocked()
            scopes[1].cancel()  # on its way
            scopes[3].cancel()  # not yet sent, and so never
            await wait_all_tasks_blocked()
    assert answers == {0: True, 2: True, 4: True}
    async with RedisStore(own_server.url) as store:
        assert sorted(numbers(await take(store))) == [0, 1, 2, 4]


async def test_large_bodies_arrive_and_claims_of_them_are_bounded(server: ValkeyServer) -> None:
    async with RedisStore(server.url) as store:
        bodies = [bytes([number]) + os.urandom(2 * 1024 * 1024 - 1) for number in range(6)]
        given = [
            Delivery(route="r1", body=body, digest=body[:32], received_at=NOON) for body in bodies
        ]
        assert await asyncio.gather(*map(store.put, given)) == [True] * 6
        first = await take(store)
        assert [d.body for d in first.deliveries] == bodies[:4]
        assert await store.end_claim(first, handled(first.deliveries)) is not None
        assert [d.body for d in (await take(store)).deliveries] == bodies[4:]


async def test_thousands_of_deliveries_are_claimed_and_acked_together(server: ValkeyServer) -> None:
    async with RedisStore(server.url) as store:
        await asyncio.gather(*(store.put(delivery(number)) for number in range(2500)))
        traced_one = replace(delivery(2500), trace=TRACE)
        assert await store.put(traced_one)
        claim = await take(store, limit=9000)
        assert numbers(claim) == list(range(2501))
        assert [each.trace for each in claim.deliveries[-2:]] == ["", TRACE]
        last, others = claim.deliveries[1500], [*claim.deliveries]
        others.remove(last)
        assert await store.settle(claim, tried_again(last, attempts=2)) is not None
        assert await store.settle(claim, handled(others)) is not None
        assert await store.end_claim(claim) is not None
        assert (await store.counts()).waiting == 1
        assert (await take(store)).deliveries == (replace(last, attempts=2),)


async def test_digests_are_forgotten_by_the_server(server: ValkeyServer) -> None:
    async with RedisStore(server.url) as store:
        await put(store, 1)
    with server.client() as client:
        (key,) = client.scan_iter("*seen:*")
        assert 48 * 3600 < client.ttl(key) <= 49 * 3600


# What is kept


async def traced(
    store: Store, *wanted: int, route: str = "r1", candidate: str | None = None
) -> None:
    for number in wanted:
        given = replace(delivery(number, route=route), trace=TRACE)
        assert await store.put(given, candidate=candidate)


def keys_of(server: ValkeyServer, pattern: str) -> list[bytes]:
    with server.client() as client:
        return sorted(client.scan_iter(pattern))


async def test_delivery_without_a_trace_takes_no_more_room(server: ValkeyServer) -> None:
    async with RedisStore(server.url) as store:
        await put(store, 1)
        assert keys_of(server, "*traces:*") == []
        await traced(store, 2)
        assert keys_of(server, "*traces:*") == [b"{asana-webhooks}:traces:r1"]


FENCE_OF_R1 = b"{asana-webhooks}:fence:r1"


async def test_handled_deliveries_leave_only_the_fence_of_the_last_claim(
    server: ValkeyServer,
) -> None:
    async with RedisStore(server.url) as store:
        await traced(store, 1, 2, 3, 4)
        claim = await take(store)
        first, second, third, fourth = claim.deliveries
        assert await store.settle(claim, kept(fourth, progress="p4")) is not None
        assert await store.settle(claim, tried_again(alone(5, trace=TRACE))) is not None
        assert await store.settle(claim, handled([first])) is not None
        assert await store.settle(claim, buried(second, [])) is not None
        assert await store.settle(claim, tried_again(third, attempts=1)) is not None
        assert await store.end_claim(claim, handled([fourth])) is not None
        last = await take(store)
        assert [each.trace for each in last.deliveries] == [TRACE, TRACE]
        assert await store.end_claim(last, handled(last.deliveries)) is not None
    assert keys_of(server, "*:r1") == [FENCE_OF_R1]


async def test_held_delivery_keeps_its_trace_and_others_leave_nothing_behind(
    server: ValkeyServer,
) -> None:
    async with RedisStore(server.url) as store:
        await store.reserve(route(), ttl=60)
        for number, candidate in enumerate(("one", "two")):
            assert await store.add_candidate("r1", candidate)
            await traced(store, number, candidate=candidate)
        assert await store.confirm("r1", gid="77", secret="two")
        claim = await take(store)
        assert [each.trace for each in claim.deliveries] == [TRACE]
        assert await store.end_claim(claim, handled(claim.deliveries)) is not None
        assert await store.retire("r1")
    assert keys_of(server, "*:r1") == [FENCE_OF_R1, b"{asana-webhooks}:route:r1"]


@pytest.mark.parametrize("how", ["dropped", "expired"])
async def test_route_that_goes_leaves_nothing_behind(
    server: ValkeyServer, clock: Clock, how: str
) -> None:
    async with ClockedRedisStore(server, clock, "leaving", encryption_keys=[A_KEY]) as store:
        await store.reserve(route(), ttl=60)
        assert await store.add_candidate("r1", "secret")
        await traced(store, 1, candidate="secret")
        if how == "dropped":
            assert await store.drop("r1") == route(candidates=("secret",))
        clock.now += 60
        assert await store.counts() == Counts(waiting=0, dead_letters=0)
    assert keys_of(server, "*r1") == []


async def test_replayed_letter_has_no_trace(server: ValkeyServer) -> None:
    async with RedisStore(server.url) as store:
        await traced(store, 1)
        claim = await take(store)
        assert await store.settle(claim, buried(claim.deliveries[0], [letter()])) is not None
        assert await store.end_claim(claim) is not None
        assert await store.replay([each.id for each in await store.dead_letters()]) == 1
        assert [each.trace for each in (await take(store)).deliveries] == [""]


async def test_what_was_kept_before_traces_and_seals_is_read(server: ValkeyServer) -> None:
    base = "{asana-webhooks}:"
    created_at = (NOON - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    fields: dict[Any, Any] = {
        "id": "r1",
        "state": "confirmed",
        "place": "https://hooks.example.com/asana",
        "target": route().target,
        "resource": "12",
        "number": f"{1:016d}",
        "created_at": created_at,
        "gid": "77",
        "secret": "secret",
    }
    with server.client() as client:
        client.mset({f"{base}version": 1, f"{base}number": 2, f"{base}waiting": 1})
        client.hset(f"{base}route:r1", mapping=fields)
        client.zadd(f"{base}routes", {"r1": 1})
        record = struct.pack(">q", created_at) + delivery(5).digest + delivery(5).body
        client.hset(f"{base}deliveries:r1", f"{2:016d}", record)
        client.zadd(f"{base}queue:r1", {f"{2:016d}": 1})
        client.zadd(f"{base}agenda", {"r1": 1})
    async with RedisStore(server.url, encryption_keys=[A_KEY]) as store:
        confirmed = route(state="confirmed", gid="77", secret="secret", confirmed_at=NOON)
        assert await store.list_routes() == [confirmed]
        assert await store.counts() == Counts(waiting=1, dead_letters=0, oldest_at=NOON)
        (kept,) = (await take(store)).deliveries
        assert kept == replace(delivery(5), id=kept.id)


LAYOUTS = Path(__file__).parent / "support"
KEY_OF_LAYOUTS = "bGF5b3V0LTEtb2YtdGVzdHMtMzItYnl0ZXMtbG9uZyE="


def restore_layout(version: int, server: ValkeyServer) -> None:
    """Run the commands that make the keys of an earlier layout; their bytes are in latin-1."""
    lines = (LAYOUTS / f"redis_layout_{version}.jsonl").read_text().splitlines()
    with server.client() as client:
        for line in lines:
            client.execute_command(*(part.encode("latin-1") for part in json.loads(line)))


async def test_keys_of_the_first_layout_are_taken_over_with_all_that_they_hold(
    server: ValkeyServer,
) -> None:
    restore_layout(1, server)
    async with RedisStore(server.url, encryption_keys=[KEY_OF_LAYOUTS]) as store:
        assert (await store.counts()).waiting == 6
        first = await store.get_route("r1")
        assert first is not None
        assert (first.state, first.gid, first.secret) == ("confirmed", "77", "secret")
        assert first.heartbeat_at == NOON.replace(microsecond=0)
        assert [found.id for found in await store.list_routes()] == ["r1", "r4"]
        assert [letter.reason for letter in await store.dead_letters()] == ["given up", "odd"]
        assert await store.confirm("r4", gid="80", secret="secret")
        taken = [await take(store) for _ in range(3)]
        assert [numbers(claim) for claim in taken] == [[20], [1, 2], [41, 42]]
        told = [(each.attempts, each.progress, each.crashes) for each in taken[1].deliveries]
        assert told == [(3, '{"upto":1}', 0), (0, "", 0)]
        assert [each.trace for each in taken[2].deliveries] == ["", TRACE]
        for claim in taken:
            assert await store.end_claim(claim, handled(claim.deliveries)) is not None
        assert (await store.counts()).waiting == 0
        assert not await store.put(delivery(41, route="r4"), candidate="secret")
    assert keys_of(server, "*held*") == [b"{asana-webhooks}:held"]


async def test_keys_of_the_second_layout_are_taken_over_with_all_that_they_hold(
    server: ValkeyServer,
) -> None:
    restore_layout(2, server)
    began = NOON.replace(microsecond=0)
    async with RedisStore(server.url, encryption_keys=[KEY_OF_LAYOUTS]) as store:
        first, third = await get(store, "r1"), await get(store, "r3")
        assert first == Route(
            id="r1",
            target="https://hooks.example.com/asana/r1",
            resource="12",
            filters=(WebhookFilter(resource_type="task"),),
            state="confirmed",
            gid="77",
            secret="secret",
            created_at=began,
            confirmed_at=began,
            heartbeat_at=began,
        )
        assert (third.gid, third.secret) == ("79", "secret")
        assert (await get(store, "r4")).candidates == ("rival", "secret")
        assert [each.id for each in await store.list_routes()] == ["r3", "r1", "r4"]
        assert (await store.counts()).waiting == 7
        letters = await store.dead_letters()
        assert [(each.reason, each.progress) for each in letters] == [
            *(("given up", '{"upto":3}'), ("odd", "")),
        ]
        assert await store.confirm("r4", gid="80", secret="secret")
        assert await store.discard([letters[1].id]) == 1
        assert await store.replay([letters[0].id]) == 1
        found: dict[int, object] = {}
        while claim := await store.claim(limit=10, lease=30):
            found |= {number_of(each): told(each) for each in claim.deliveries}
            assert await store.end_claim(claim, handled(claim.deliveries)) is not None
        assert found == {
            30: ("r3", 0, '{"upto":2}', 1, ""),
            31: ("r3", 0, "", 0, ""),
            20: ("r2", 0, "", 0, ""),
            1: ("r1", 2, '{"upto":1}', 0, ""),
            2: ("r1", 0, "", 1, TRACE),  # its worker was killed
            4: ("r1", 0, '{"upto":3}', 0, ""),
            41: ("r4", 0, "", 0, TRACE),
        }
        assert await store.counts() == Counts(waiting=0, dead_letters=0)
        assert not await store.put(delivery(1, at=began))
    assert keys_of(server, "*tries:*") == []


async def test_keys_of_the_third_layout_are_taken_over_with_all_that_they_hold(
    server: ValkeyServer, clock: Clock
) -> None:
    restore_layout(3, server)
    began = NOON.replace(microsecond=0)
    clock.now = 1796076303.0  # when they were left
    async with ClockedRedisStore(
        server, clock, "asana-webhooks", encryption_keys=[KEY_OF_LAYOUTS]
    ) as store:
        assert await store.counts() == Counts(waiting=5, dead_letters=4, oldest_at=began)
        first, third = await get(store, "r1"), await get(store, "r3")
        assert (first.account, first.user, first.secret) == ("", "1204", "secret")
        assert (third.account, third.state, third.leaving) == ("acme", "confirmed", True)
        assert [each.id for each in await store.list_routes(account="")] == ["r1"]
        assert [each.id for each in await store.list_routes(account="acme")] == ["r3", "r4"]
        assert await store.remembered("/12") == b"settled by /12"
        assert await store.remembered("acme/14") == b"settled by acme/14"
        newer = state("acme/14", version=2, text="newer state of acme/14")
        assert await store.list_states("acme") == [newer]
        assert (await store.list_states()) == [state("/12", version=1, text="state of /12"), newer]
        leased = Claim(route="r1", fence=1796076302299275, deliveries=())
        more = await store.claim_more(leased, limit=10)  # by a worker that was brought up to date
        assert more is not None
        assert [told(each) for each in more.deliveries] == [("r1", 2, '{"upto":1}', 0, "")]
        assert await store.claim(limit=10, lease=30, skip_accounts=["acme"]) is None
        claims = [await take(store) for _ in range(2)]
        assert [(claim.route, numbers(claim)) for claim in claims] == [("r2", [20]), ("r3", [31])]
        assert claims[1].previous == 1796076302303787
        assert not await store.forget_account("acme")
        for claim in claims:
            assert await store.end_claim(claim, handled(claim.deliveries)) is not None
        clock.now += 30
        last = await take(store)
        assert numbers(last) == [2]
        assert last.deliveries[0].crashes == 1
        assert last.deliveries[0].trace == TRACE


async def test_route_of_the_third_layout_is_known_until_its_letters_are_gone(
    server: ValkeyServer, clock: Clock
) -> None:
    restore_layout(3, server)
    clock.now = 2e9
    async with ClockedRedisStore(
        server, clock, "asana-webhooks", encryption_keys=[KEY_OF_LAYOUTS]
    ) as store:
        (odd,) = [each for each in await store.dead_letters() if each.route == "r5"]
        assert (await get(store, "r5")).gid == "75"
        assert await store.discard([odd.id]) == 1
        assert await store.get_route("r5") is None


async def test_upgrade_that_was_cut_off_is_begun_again(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore_layout(3, server)
    store = RedisStore(server.url, encryption_keys=[KEY_OF_LAYOUTS])
    for script in ("UPGRADE_ROUTES", "UPGRADE_LETTERS", "UPGRADED"):
        with monkeypatch.context() as patched:
            patched.setattr(_scripts, script, Script("#!lua\nreturn redis.error_reply('cut off')"))
            with pytest.raises(StoreError):
                await store.__aenter__()
    async with store:
        assert (await store.counts()).waiting == 5
        assert [each.id for each in await store.list_routes(account="acme")] == ["r3", "r4"]
        assert {(await take(store)).route for _ in range(2)} == {"r2", "r3"}


async def test_scripts_of_earlier_layouts_end_before_they_put_or_claim(
    server: ValkeyServer,
) -> None:
    for version in (1, 2, 3):
        with server.client() as client:
            client.flushall()
        restore_layout(version, server)
        async with RedisStore(server.url, encryption_keys=[KEY_OF_LAYOUTS]):
            with server.client() as client:
                with pytest.raises(ResponseError, match="WRONGTYPE"):  # the last id, for a new one
                    client.get("{asana-webhooks}:number")
                with pytest.raises(ResponseError, match="WRONGTYPE"):
                    client.zrange("{asana-webhooks}:agenda", 0, 0)


# Accounts


async def commands_of(server: ValkeyServer, call: Coroutine[Any, Any, Any]) -> int:
    """Return how many commands the server ran for a call, those of its script among them."""
    with server.client() as client:
        client.config_resetstat()
        await call
        statistics = client.info("commandstats")
    return sum(each["calls"] for each in statistics.values())


async def test_claim_looks_at_no_routes_of_accounts_that_are_skipped(server: ValkeyServer) -> None:
    counted = []
    for size in (5, 200):
        async with RedisStore(server.url, prefix=f"noisy-{size}") as store:
            for number in range(size):
                await confirm(store, f"r{number}", account="noisy", resource=str(number))
                await put(store, number, route=f"r{number}")
            await confirm(store, "quiet", account="quiet", resource="9999")
            await put(store, 9999, route="quiet")
            claim = partial(store.claim, limit=10, lease=30, skip_accounts=["noisy", "none"])
            await claim()  # and the server knows the script
            counted.append(await commands_of(server, claim()))
    assert counted[0] == counted[1] < 12


def told(each: Delivery) -> tuple[str, int, str, int, str]:
    return each.route, each.attempts, each.progress, each.crashes, each.trace


async def test_damaged_keys_of_an_earlier_layout_harm_no_others(server: ValkeyServer) -> None:
    restore_layout(2, server)
    damage(server, ("DEL", "tries:r3"), ("SET", "tries:r3", "odd"))
    damage(server, ("HSET", "tries:r1", f"{9:016d}", "odd"), ("SET", "route:r9", "odd"))
    async with RedisStore(server.url, encryption_keys=[KEY_OF_LAYOUTS]) as store:
        claims = [await take(store) for _ in range(3)]
    found = {number_of(each): each.attempts for claim in claims for each in claim.deliveries}
    assert found == {30: 0, 31: 0, 20: 0, 1: 2}


async def test_route_that_was_retired_before_routes_ended_ends_after_the_first_opening(
    server: ValkeyServer, clock: Clock
) -> None:
    restore_layout(1, server)
    clock.now = 2e9
    for opened_after in (timedelta(), timedelta(hours=24)):
        clock.now += opened_after.total_seconds()
        async with ClockedRedisStore(
            server, clock, "asana-webhooks", encryption_keys=[KEY_OF_LAYOUTS]
        ) as store:
            assert await store.get_route("r3") is not None
    clock.now += 24 * 3600
    async with ClockedRedisStore(
        server, clock, "asana-webhooks", encryption_keys=[KEY_OF_LAYOUTS]
    ) as store:
        assert await store.get_route("r3") is None
        assert await store.get_route("r2") is not None  # something of it waits
        claim = await take(store)
        assert numbers(claim) == [20]
        assert await store.end_claim(claim, handled(claim.deliveries)) is not None
        assert await store.get_route("r2") is None
        clock.now += 3600
        await store.counts()
    assert keys_of(server, "*:r[23]") == []


async def test_keys_are_taken_over_once_by_processes_that_open_them_at_once(
    server: ValkeyServer,
) -> None:
    restore_layout(1, server)
    stores = [RedisStore(server.url, encryption_keys=[KEY_OF_LAYOUTS]) for _ in range(4)]
    async with contextlib.AsyncExitStack() as opened:
        await asyncio.gather(*map(opened.enter_async_context, stores))
        assert (await stores[0].counts()).waiting == 6
        with server.client() as client:
            assert client.mget("{asana-webhooks}:waiting", "{asana-webhooks}:held") == [b"3", b"3"]
        assert await stores[0].drop("r4") is not None
        assert (await stores[1].counts()).waiting == 3


# Remembered events


async def settle_events(store: Store, events: bytes, scope: str = "12") -> None:
    await store.put(delivery(int.from_bytes(events)))
    claim = await take(store)
    settlement = replace(handled(claim.deliveries), scope=scope, events=events)
    assert await store.end_claim(claim, settlement) is not None


async def test_events_of_an_hour_are_one_key_that_the_server_forgets(
    server: ValkeyServer, clock: Clock
) -> None:
    async with ClockedRedisStore(server, clock, "asana-webhooks") as store:
        for events in (b"a", b"b"):
            await settle_events(store, events)
        clock.now += 3600
        await settle_events(store, b"c")
        assert await store.remembered("12") == b"abc"
    keys = keys_of(server, "*events:*")
    assert keys == [b"{asana-webhooks}:events:0:12", b"{asana-webhooks}:events:1:12"]
    with server.client() as client:
        for key in keys:
            assert 49 * 3600 < client.ttl(key) <= 50 * 3600


@pytest.mark.parametrize(
    ("commands", "left"),
    [
        ([("SETRANGE", "events:0:12", 12, "x")], b"xbc"),
        ([("SETRANGE", "events:0:12", 8, b"\xff")], b"c"),
        ([("APPEND", "events:0:12", b"cut off")], b"abc"),
        ([("APPEND", "events:0:12", struct.pack(">qI", 2**50, 9) + b"cut off")], b"abc"),
        ([("SET", "events:0:12", "odd")], b"c"),
        ([("DEL", "events:0:12"), ("LPUSH", "events:0:12", "odd")], b"c"),
    ],
    ids=["content", "length", "head cut off", "events cut off", "overwritten", "another type"],
)
async def test_damaged_events_are_left_out(
    server: ValkeyServer, clock: Clock, commands: list[tuple[Any, ...]], left: bytes
) -> None:
    async with ClockedRedisStore(server, clock, "asana-webhooks") as store:
        for events in (b"a", b"b"):
            await settle_events(store, events)
        clock.now += 3600
        await settle_events(store, b"c")
        damage(server, *commands)
        assert await store.remembered("12") == left


@contextlib.contextmanager
def damaged_for_a_while(server: ValkeyServer, key: str) -> Iterator[None]:
    """Let a key be of another type inside, and then what it was."""
    name = f"{{asana-webhooks}}:{key}"
    with server.client() as client:
        copy = client.dump(name)
        client.delete(name)
        client.lpush(name, "odd")
        yield
        client.delete(name)
        if copy is not None:
            client.restore(name, 0, copy)


@pytest.mark.parametrize(
    ("key", "written"),
    [
        ("letters", False),
        ("events:0:12", False),
        ("progress:r1", True),
        ("deliveries:r1", True),
        ("queue:r1", True),
        ("waiting", True),
    ],
)
async def test_settlement_that_a_damaged_key_ends_loses_no_delivery_and_no_letter(
    server: ValkeyServer, clock: Clock, key: str, *, written: bool
) -> None:
    async with ClockedRedisStore(server, clock, "asana-webhooks") as store:
        await put(store, 1, 2)
        claim = await take(store, lease=30)
        one, two = claim.deliveries
        settlement = Settlement(
            removed=(one.id,),
            kept=(replace(two, attempts=1),),
            retries=(Retry(delivery=alone(1), delay=60.0),),
            letters=(letter(),),
            scope="12",
            events=b"events",
        )
        with damaged_for_a_while(server, key):
            for _ in range(2):
                with pytest.raises(StoreError, match="is damaged"):
                    await store.end_claim(claim, settlement)
        assert bool(await store.dead_letters()) is written
        assert (await store.remembered("12") == b"") is not written
        clock.now += 30
        assert numbers(await take(store)) == [1]


# States


async def test_state_that_one_process_put_is_not_replaced_by_another_that_did_not_see_it(
    server: ValkeyServer,
) -> None:
    async with RedisStore(server.url) as one, RedisStore(server.url) as two:
        await put_state(one, 1)
        assert not await two.put_state(state(text="mine"), deliveries=[delivery(2)])
        assert await two.get_state("/12") == state(version=1)
        assert await two.put_state(state(version=1, text="mine"), deliveries=[delivery(2)])
        assert not await one.drop_state("/12", 1)
        assert numbers(await take(one)) == [1, 2]


async def test_calls_about_states_are_one_round_trip_each_and_leave_nothing_behind(
    server: ValkeyServer,
) -> None:
    async def use(store: Store, scope: str) -> None:
        await put_state(store, 1, 2, scope=scope)
        assert await store.get_state(scope)
        assert await store.list_states()
        assert await store.peek("r1")
        assert await store.drop_state(scope, 1)

    async with RedisStore(server.url) as store:
        empty = keys_of(server, "*")
        await use(store, "/12")  # and the server knows the scripts
        before = redis_calls(server)
        await use(store, "/13")
        assert redis_calls(server) - before == 5
        claim = await take(store)
        assert await store.end_claim(claim, handled(claim.deliveries)) is not None
    left = {*keys_of(server, "*")} - {*empty}
    names = ("agendas", "fence:r1", "waiting")
    assert left == {f"{{asana-webhooks}}:{name}".encode() for name in names}


@pytest.mark.parametrize(
    "key",
    [
        *("states", "scopes", "clock", "waiting", "agendas", "agenda:", "leases"),
        *("deliveries:r2", "progress:r2", "traces:r2", "queue:r2"),
    ],
)
async def test_put_of_a_state_that_a_damaged_key_ends_does_nothing(
    server: ValkeyServer, key: str
) -> None:
    new = [delivery(1), delivery(2, route="r2")]
    async with RedisStore(server.url) as store:
        await put_state(store)
        with damaged_for_a_while(server, key):
            for _ in range(2):
                with pytest.raises(StoreError, match="is damaged"):
                    await store.put_state(state(version=1, text="new"), deliveries=new)
        assert await store.get_state("/12") == state(version=1)
        assert (await store.counts()).waiting == 0
        assert await store.put_state(state(version=1, text="new"), deliveries=new)
        claims = [await take(store), await take(store)]
        assert {claim.route: numbers(claim) for claim in claims} == {"r1": [1], "r2": [2]}


# The claim before


async def test_fence_of_the_last_claim_is_known_for_48_hours(server: ValkeyServer) -> None:
    async with RedisStore(server.url) as store:
        await put(store, 1)
        claim = await take(store)
        with server.client() as client:
            assert 48 * 3600 - 60 < client.ttl(FENCE_OF_R1) <= 48 * 3600
            await store.end_claim(claim)
            assert (await take(store)).previous == claim.fence
            client.delete(FENCE_OF_R1)


@pytest.mark.parametrize("value", ["", "odd", None])
async def test_claim_names_none_before_it_when_that_is_lost(
    server: ValkeyServer, value: str | None
) -> None:
    async with RedisStore(server.url) as store:
        await put(store, 1)
        await store.end_claim(await take(store))
        damage(server, ("DEL", "fence:r1") if value is None else ("SET", "fence:r1", value))
        assert (await take(store)).previous == 0


# Counting


async def test_counting_is_one_round_trip_whatever_waits(server: ValkeyServer) -> None:
    async with RedisStore(server.url) as store:
        for number in range(30):
            at = NOON + timedelta(minutes=number - 10)
            assert await store.put(delivery(number, route=f"r{number % 20}", at=at))
        assert await store.put(delivery(99), reason="odd")
        await store.counts()
        before = redis_calls(server)
        oldest_at = NOON - timedelta(minutes=10)
        assert await store.counts() == Counts(waiting=30, dead_letters=1, oldest_at=oldest_at)
        assert redis_calls(server) - before == 1


async def test_delivery_put_off_is_counted_behind_those_that_are_due(server: ValkeyServer) -> None:
    later = NOON + timedelta(minutes=1)
    async with RedisStore(server.url) as store:
        await put(store, 1)
        assert await store.put(delivery(2, at=later))
        claim = await take(store)
        await store.settle(claim, tried_again(claim.deliveries[0], delay=60.0, attempts=1))
        assert await store.counts() == Counts(waiting=2, dead_letters=0, oldest_at=later)
        await store.end_claim(claim, handled(claim.deliveries[1:]))
        assert await store.counts() == Counts(waiting=1, dead_letters=0, oldest_at=NOON)


async def test_route_whose_deliveries_are_all_acked_has_no_oldest(server: ValkeyServer) -> None:
    before_1970 = datetime(1960, 1, 1, tzinfo=UTC)
    async with RedisStore(server.url) as store:
        await put(store, 1)
        claim = await take(store)
        assert await store.settle(claim, handled(claim.deliveries)) is not None
        assert await store.counts() == Counts(waiting=0, dead_letters=0)
        assert await store.put(delivery(2, at=before_1970))
        assert (await store.counts()).oldest_at == before_1970


# Dead letters


async def test_letters_are_discarded_once_by_two_at_once(server: ValkeyServer) -> None:
    async with RedisStore(server.url) as one, RedisStore(server.url) as two:
        for number in range(20):
            assert await one.put(delivery(number), reason="odd")
        ids = [each.id for each in await one.dead_letters()]
        gone = await asyncio.gather(one.discard(ids), two.discard(ids), two.replay(ids[:5]))
        assert sum(gone) == 20
        assert await two.dead_letters() == []


@pytest.mark.parametrize("id_", ["-", "+", "$", "1-1\n", "99999999999999999999-1", "\udcff"])
async def test_id_that_no_letter_can_have_is_unknown(server: ValkeyServer, id_: str) -> None:
    async with RedisStore(server.url) as store:
        assert await store.put(delivery(1), reason="odd")
        assert await store.get_dead_letter(id_) is None
        assert await store.discard([id_]) == await store.replay([id_]) == 0
        assert await store.dead_letters(after=id_) == []
        assert len(await store.dead_letters()) == 1


# Cancelled claims


async def cancel_a_claim(store: Store, server: ValkeyServer) -> None:
    with pausing(server):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: store.claim(limit=1, lease=30.0))
            await wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()


async def test_cancelled_claim_is_given_back(own_server: ValkeyServer) -> None:
    async with RedisStore(own_server.url) as other:
        async with RedisStore(own_server.url) as store:
            await put(store, 1)
            await cancel_a_claim(store, own_server)
        assert numbers(await take(other)) == [1]


async def test_deliveries_of_a_cancelled_claim_of_more_are_given_back_as_they_were(
    own_server: ValkeyServer,
) -> None:
    async with RedisStore(own_server.url) as store:
        await put(store, 1)
        claim = await take(store)
        await traced(store, 2)
        await put(store, 3)
        with pausing(own_server):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: store.claim_more(claim, limit=10))
                await wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
        more: list[Delivery] = []

        async def has_more() -> bool:
            found = await store.claim_more(claim, limit=10)
            assert found is not None
            more.extend(found.deliveries)
            return len(more) == 2

        await eventually(has_more)
        assert [number_of(each) for each in more] == [2, 3]
        assert [told(each) for each in more] == [("r1", 0, "", 0, TRACE), ("r1", 0, "", 0, "")]
        assert await store.end_claim(claim, handled([*claim.deliveries, *more])) is not None
        assert (await store.counts()).waiting == 0


async def test_cancelled_claim_of_more_of_a_lost_lease_gives_nothing_back(
    own_server: ValkeyServer,
) -> None:
    async with RedisStore(own_server.url) as store:
        await put(store, 1)
        claim = await take(store)
        assert await store.end_claim(claim) is not None
        with pausing(own_server):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: store.claim_more(claim, limit=10))
                await wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
        assert numbers(await take(store)) == [1]


async def test_cancelled_claim_of_nothing_leaves_nothing_to_give_back(
    own_server: ValkeyServer,
) -> None:
    async with RedisStore(own_server.url) as store:
        await cancel_a_claim(store, own_server)
        await put(store, 1)
        assert numbers(await take(store)) == [1]


async def test_cancelled_claim_that_fails_is_told_to_the_log(
    own_server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with RedisStore(own_server.url) as store:
        await put(store, 1)
        own_server.signal(signal.SIGSTOP)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: store.claim(limit=1, lease=30.0))
            await wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        own_server.kill()
    assert "ends with its lease" in caplog.text


async def test_call_that_is_cancelled_at_any_step_ends_cancelled(server: ValkeyServer) -> None:
    async with RedisStore(server.url) as store:
        for call in (store.notify, store.list_routes):
            for steps in range(20):
                task = asyncio.create_task(call())
                for _ in range(steps):
                    await asyncio.sleep(0)
                is_asked = task.cancel()
                await asyncio.wait([task])
                assert task.cancelled() is is_asked


@pytest.mark.parametrize("error", [None, redis.ConnectionError("gone")], ids=["answer", "error"])
async def test_cancellation_that_the_library_swallows_is_raised_all_the_same(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    async def swallow(*_: object) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        if error is not None:
            raise error

    async with RedisStore(server.url) as store:
        monkeypatch.setattr(store._server.client, "publish", swallow)
        task = asyncio.create_task(store.notify())
        await anyio.wait_all_tasks_blocked()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        with anyio.move_on_after(0.01) as scope:
            with contextlib.suppress(StoreError):
                await store.notify()
            await anyio.sleep(60)  # a scope's comes again
        assert scope.cancelled_caught


async def test_storm_of_cancelled_calls_leaves_the_store_at_work(server: ValkeyServer) -> None:
    async with RedisStore(server.url) as store:
        for _ in range(20):
            with anyio.move_on_after(0.001):
                await asyncio.gather(
                    *(store.retire("r1") for _ in range(20)), store.get_route("r1")
                )
        await checkpoint()
        await put(store, 1)
        assert numbers(await take(store)) == [1]


# Failures


async def test_server_that_was_killed_is_found_again_with_all_it_was_given(
    own_server: ValkeyServer,
) -> None:
    async with RedisStore(own_server.url) as store:
        await confirm(store)
        await put(store, 1)
        claim = await take(store)
        own_server.kill()
        for _ in range(2):
            for call in (store.put(delivery(2)), store.get_route("r1"), store.counts()):
                with pytest.raises(StoreError, match="cannot be reached: check that it runs"):
                    await in_a_second(call)
            with pytest.raises(StoreError, match="cannot be reached"):
                await in_a_second(store.claim(limit=1, lease=30))
        own_server.start()
        await put(store, 2)
        assert await store.end_claim(claim, handled(claim.deliveries)) is not None
        assert numbers(await take(store)) == [2]


async def test_server_restarted_between_calls_is_not_noticed(own_server: ValkeyServer) -> None:
    async with RedisStore(own_server.url) as store:
        await put(store, 1)
        await anyio.to_thread.run_sync(own_server.stop)
        await anyio.to_thread.run_sync(own_server.start)
        assert not await store.put(delivery(1))
        assert numbers(await take(store)) == [1]


async def test_each_of_the_puts_that_fail_together_is_told(own_server: ValkeyServer) -> None:
    async with RedisStore(own_server.url) as store:
        own_server.signal(signal.SIGSTOP)
        puts = [asyncio.ensure_future(store.put(delivery(number))) for number in range(3)]
        await wait_all_tasks_blocked()
        puts[1].cancel()
        own_server.kill()
        first, second, third = await asyncio.gather(*puts, return_exceptions=True)
    assert isinstance(second, asyncio.CancelledError)
    assert isinstance(first, StoreError)
    assert isinstance(third, StoreError)
    assert first is not third
    assert str(first) == str(third)


async def test_server_that_hangs_fails_a_call_in_time(
    own_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert redis_server.SOCKET_TIMEOUT < redis_server.CALL_TIMEOUT < 5
    async with RedisStore(own_server.url) as store:
        await put(store, 1)
        monkeypatch.setattr(redis_server, "CALL_TIMEOUT", 0.4)
        with pausing(own_server):
            with pytest.raises(StoreError, match="does not answer"):
                await in_a_second(store.counts())
            sent = asyncio.ensure_future(store.put(delivery(2)))
            await wait_all_tasks_blocked()
            monkeypatch.undo()
            with pytest.raises(StoreError, match="does not answer"):
                await in_a_second(store.put(delivery(3)))
            with pytest.raises(StoreError, match="does not answer"):
                await sent
        assert (await store.counts()).waiting in (1, 2)


async def test_closing_waits_for_what_is_under_way(own_server: ValkeyServer) -> None:
    store = await RedisStore(own_server.url).__aenter__()
    with pausing(own_server):
        task = asyncio.ensure_future(store.put(delivery(1)))
        await wait_all_tasks_blocked()
        closing = asyncio.create_task(store.__aexit__(None, None, None))
        await wait_all_tasks_blocked()
        assert not closing.done()
    assert await task
    await closing
    with pytest.raises(StoreError, match="is not open: use it inside 'async with'"):
        await store.counts()


async def test_bug_below_a_batch_is_told_to_all_who_asked() -> None:
    async def send(parts: Any) -> list[int]:
        raise LookupError("what was to be stored")

    batcher = Batcher(send)
    with pytest.raises(StoreError, match="^unexpected LookupError$"):
        await batcher.ask(Hidden(b"question"))


async def test_server_without_memory_still_lets_the_inbox_be_emptied(
    own_server: ValkeyServer,
) -> None:
    async with RedisStore(own_server.url) as store:
        await put(store, 1, 2)
        await put_state(store)
        assert await store.put(delivery(3), reason="odd")
        configure(own_server, maxmemory="1")
        for call in (store.put(delivery(4)), store.put_state(state(version=1))):
            with pytest.raises(StoreError, match="memory is full: raise its maxmemory"):
                await call
        assert [number_of(each) for each in await store.peek("r1")] == [1, 2]
        assert await store.list_states() == [await store.get_state("/12")]
        assert await store.drop_state("/12", 1)
        first = await take(store, limit=1)
        assert await store.settle(first, tried_again(first.deliveries[0], attempts=1)) is not None
        assert await store.end_claim(first) is not None
        claim = await take(store, limit=1)
        assert await store.renew(claim, lease=30)
        more = await store.claim_more(claim, limit=10)
        assert more is not None
        new = (Retry(delivery=alone(7), delay=0.0),)
        settlement = replace(buried(claim.deliveries[0], [letter()]), retries=new)
        assert await store.settle(claim, settlement) is not None
        last = replace(handled(more.deliveries), scope="12", events=b"events")
        assert await store.end_claim(claim, last) is not None
        assert await store.remembered("12") == b"events"
        claim = await take(store)
        assert await store.end_claim(claim, handled(claim.deliveries)) is not None
        assert (await store.counts()).waiting == 0
        ids = [each.id for each in await store.dead_letters()]
        assert await store.discard(ids) == 2
        assert await store.counts() == Counts(waiting=0, dead_letters=0)


async def test_replica_cannot_be_used(own_server: ValkeyServer) -> None:
    with own_server.client() as client:
        client.replicaof("127.0.0.1", "1")
    with pytest.raises(StoreError, match="connect to the primary"):
        await RedisStore(own_server.url).__aenter__()


@pytest.mark.slow
async def test_client_of_a_sentinel_follows_the_primary_with_all_that_a_replica_had_got(
    free_port: int,
) -> None:
    at_once = ("--repl-diskless-sync-delay", "0")
    follows = ("--port", str(free_tcp_port()), "--replicaof", "127.0.0.1", str(free_port))
    with (
        running_valkey("--port", str(free_port), *at_once, *EACH_WRITE_TO_DISK) as primary,
        running_valkey(*follows, *EACH_WRITE_TO_DISK) as replica,
        running_sentinel(free_port) as port,
    ):
        sentinel = Sentinel([("127.0.0.1", port)], socket_timeout=1)  # type: ignore[no-untyped-call] # of redis
        await eventually(lambda: _replicas_of(sentinel))
        async with (
            sentinel.master_for("asana", socket_timeout=4) as client,
            RedisStore(client) as store,
        ):
            await put(store, 1)
            with primary.client() as asked:
                asked.set("last", 1)  # when the replica has it, it has all before it
                asked.wait(1, 0)
            primary.kill()
            with pytest.raises(StoreError, match="the store on asana failed: it cannot be reached"):
                await store.put(delivery(2))
            await eventually(lambda: takes(store, 2))
            assert numbers(await take(store)) == [1, 2]
        with replica.client() as asked:
            assert asked.info("replication")["role"] == "master"
        await sentinel.sentinels[0].aclose()


async def _replicas_of(sentinel: Sentinel) -> Sequence[object]:
    try:
        found = await sentinel.discover_slaves("asana")
    except SlaveNotFoundError:  # the Sentinel itself may not answer yet
        return []
    return found


async def test_server_of_a_cluster_is_named(free_port: int) -> None:
    in_a_cluster = ("--cluster-enabled", "yes", "--cluster-port", str(free_tcp_port()))
    with (
        running_valkey("--port", str(free_port), *in_a_cluster) as server,
        pytest.raises(StoreError, match="it is one of a cluster: give the store a server"),
    ):
        await RedisStore(server.url).__aenter__()


async def test_slot_that_another_server_keeps_is_named(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def elsewhere(*_: object, **__: object) -> None:
        raise MovedError("1 127.0.0.1:6379")

    async with RedisStore(server.url) as store:
        monkeypatch.setattr(store._server.client, "execute_command", elsewhere)
        with pytest.raises(StoreError, match="it is one of a cluster: give the store a server"):
            await store.counts()


@pytest.mark.parametrize("kind", [redis.Redis, redis.asyncio.RedisCluster])
def test_client_of_another_kind_is_refused(kind: Any) -> None:
    client = object.__new__(kind)  # a real one connects, and must be closed
    with pytest.raises(TypeError, match=f"a redis.asyncio.Redis, not a redis.*{kind.__name__}$"):
        RedisStore(client)


async def test_server_that_cannot_write_its_disk_is_named(own_server: ValkeyServer) -> None:
    configure(own_server, appendonly="no", save="3600 1")
    Path(own_server.path).with_name("dump.rdb").mkdir(exist_ok=True)
    async with RedisStore(own_server.url) as store:
        with own_server.client() as client:
            await eventually(lambda: _saved(client))
        with pytest.raises(StoreError, match="cannot write to its disk"):
            await store.put(delivery(1))


async def _saved(client: redis.Redis) -> bool:
    state = client.info("persistence")
    if state["rdb_last_bgsave_status"] == "ok" and not state["rdb_bgsave_in_progress"]:
        client.bgsave()
    return bool(state["rdb_last_bgsave_status"] == "err")


async def test_unexpected_answer_is_not_quoted(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise ResponseError("the secret cannot be stored")

    async with RedisStore(server.url) as store:
        monkeypatch.setattr(store._server.client, "execute_command", refuse)
        with pytest.raises(StoreError, match="failed: unexpected ResponseError$") as caught:
            await store.retire("r1")
        assert caught.value.__cause__ is not None


async def test_server_that_forgot_the_scripts_is_told_them_again(server: ValkeyServer) -> None:
    async with RedisStore(server.url) as store:
        await put(store, 1)
        with server.client() as client:
            client.script_flush()
        assert await asyncio.gather(*(store.put(delivery(n)) for n in (1, 2))) == [False, True]


async def test_expired_route_that_the_server_lost_harms_nothing(
    server: ValkeyServer, clock: Clock
) -> None:
    async with ClockedRedisStore(server, clock, "lossy") as store:
        await store.reserve(route(), ttl=1)
        with server.client() as client:
            client.delete("{lossy}:route:r1")
        clock.now += 1
        assert (await store.counts()).waiting == 0
        assert await store.list_routes() == []
        assert await store.reserve(route(), ttl=60)


# Damage: what something else has written to the store's keys


def damage(server: ValkeyServer, *commands: tuple[Any, ...]) -> None:
    with server.client() as client:
        for command, key, *rest in commands:
            client.execute_command(command, f"{{asana-webhooks}}:{key}", *rest)


YEAR_300000 = struct.pack(">q32s", 10**19 // 2, bytes(32))


@pytest.mark.parametrize(
    ("record", "body"),
    [(None, b""), (b"short", b""), (YEAR_300000 + b"{}", b"{}"), (b"\x80" + bytes(39), b"")],
    ids=["lost", "short", "after the last year", "before the first year"],
)
async def test_delivery_that_cannot_be_read_is_a_dead_letter_and_the_others_are_claimed(
    server: ValkeyServer, record: bytes | None, body: bytes
) -> None:
    async with RedisStore(server.url) as store:
        await put(store, 1, 2, 3)
        with server.client() as client:
            key = "{asana-webhooks}:deliveries:r1"
            for id_ in sorted(client.hkeys(key))[:2]:
                client.hdel(key, id_) if record is None else client.hset(key, id_, record)
        assert (await store.counts()).oldest_at is None
        claim = await take(store)
        assert numbers(claim) == [3]
        assert await store.end_claim(claim, handled(claim.deliveries)) is not None
        assert await store.counts() == Counts(waiting=0, dead_letters=2)
        letters = await store.dead_letters()
        assert [letter.body for letter in letters] == [body, body]
        assert {letter.route for letter in letters} == {"r1"}
        assert "its record on the server is lost or damaged" in letters[0].reason
        assert await store.replay([letter.id for letter in letters]) == 2
        assert [each.body for each in (await take(store)).deliveries] == [body, body]


@pytest.mark.parametrize("damaged", ["", "what is this", "1" * 29, "1" * 30, "0" * 30 + "{}"])
async def test_delivery_whose_progress_cannot_be_read_is_claimed_as_new(
    server: ValkeyServer, damaged: str
) -> None:
    async with RedisStore(server.url) as store:
        await put(store, 1)
        claim = await take(store)
        assert (
            await store.end_claim(claim, tried_again(claim.deliveries[0], attempts=1)) is not None
        )
        damage(server, ("HSET", "progress:r1", claim.deliveries[0].id, damaged))
        assert (await take(store)).deliveries == claim.deliveries


@pytest.mark.parametrize("record", [None, b"short", YEAR_300000 + b"{}"])
async def test_delivery_that_cannot_be_read_is_not_shown(
    server: ValkeyServer, record: bytes | None
) -> None:
    async with RedisStore(server.url) as store:
        await put(store, 1, 2, 3)
        first, second, third = await store.peek("r1")
        if record is None:
            damage(server, ("HDEL", "deliveries:r1", second.id))
        else:
            damage(server, ("HSET", "deliveries:r1", second.id, record))
        damage(server, ("HSET", "progress:r1", third.id, "what is this"))
        assert await store.peek("r1") == [first, third]
        assert await store.peek("r1", after=first.id, limit=1) == [third]
        assert (await store.counts()).dead_letters == 0
        assert (await take(store)).deliveries == (first, third)
        assert (await store.counts()).dead_letters == 1


@pytest.mark.parametrize(
    "id_", ["1", "1772366400123457x", " 772366400123457", "1-1", "\u0661" * 16]
)
async def test_nothing_is_behind_an_id_that_no_delivery_has(server: ValkeyServer, id_: str) -> None:
    async with RedisStore(server.url) as store:
        await put(store, 1)
        assert await store.peek("r1", after=id_) == []


async def test_write_that_cannot_be_read_is_left_out(
    server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with RedisStore(server.url) as store:
        for id_ in ("w1", "w2", "w3"):
            await store.put_write(write(id_))
        damage(server, ("HSET", "write:w1", "text", b"\xff"), ("HSET", "write:w3", "ends", "odd"))
        for _ in range(2):
            assert await store.list_writes(["12"]) == [write("w2")]
        assert not await store.take_write("w3", "changed", bytes(16))
        await store.put_write(write("w1", text="anew"))
        assert await store.list_writes(["12"]) == [write("w1", text="anew"), write("w2")]
    (line,) = [each.getMessage() for each in caplog.records]
    assert line == "a write is left out: it was damaged on the server"


async def test_damaged_index_of_writes_holds_up_no_claim(server: ValkeyServer) -> None:
    async with RedisStore(server.url) as store:
        await put(store, 1)
        damage(server, ("SET", "writes", "odd"))
        claim = await take(store)
        assert claim.has_writes
        assert await store.end_claim(claim, handled(claim.deliveries)) == ()


async def test_text_of_a_state_that_cannot_be_read_is_empty_and_keeps_its_version(
    server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with RedisStore(server.url) as store:
        await put_state(store)
        await put_state(store, scope="/13")
        damage(server, ("HSET", "states", "/12", b"%016d\xff{}" % 7))
        damaged = state(version=7, text="")
        for _ in range(2):
            assert await store.get_state("/12") == damaged
            assert await store.list_states() == [damaged, state("/13", version=1)]
        assert await store.put_state(state(version=7, text="anew"))
        assert await store.get_state("/12") == state(version=8, text="anew")
    (line,) = [each.getMessage() for each in caplog.records]
    assert line == "the state of '/12' was damaged on the server, and is taken for empty"


@pytest.mark.parametrize("kept", ["", "odd", "1" * 15, "x000000000000001{}"])
@pytest.mark.parametrize("is_listed", [True, False])
async def test_version_of_a_state_that_cannot_be_read_begins_again_above_all_others(
    server: ValkeyServer, kept: str, *, is_listed: bool
) -> None:
    async with RedisStore(server.url) as store:
        await put_state(store)
        damage(server, ("HSET", "states", "/12", kept))
        for version in (0, 1):
            assert not await store.put_state(state(version=version, text="late"))
            assert not await store.drop_state("/12", version)
        (found,) = await store.list_states() if is_listed else [await store.get_state("/12")]
        assert found is not None
        assert found.text == ""
        assert found.version > 10**15
        assert await store.get_state("/12") == found
        assert not await store.put_state(state(version=1, text="late"))
        assert await store.put_state(replace(found, text="anew"))
        assert await store.drop_state("/12", found.version + 1)


async def test_state_of_a_damaged_scope_is_left_out(
    server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with RedisStore(server.url) as store:
        await put_state(store)
        damage(server, ("HSET", "states", b"\xff", f"{1:016d}{{}}"))
        for _ in range(2):
            assert await store.list_states() == [state(version=1)]
    (line,) = [each.getMessage() for each in caplog.records]
    assert line == "a state is left out: its scope was damaged on the server"


@pytest.mark.parametrize("key", ["deliveries", "progress", "queue", "claimed", "fence"])
async def test_route_with_a_damaged_key_is_set_aside_and_the_others_are_claimed(
    server: ValkeyServer, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    async with RedisStore(server.url) as store:
        await confirm(store, "r1")
        await put(store, 1, route="r1")
        await put(store, 2, route="r2")
        damage(server, ("DEL", f"{key}:r1"), ("LPUSH", f"{key}:r1", "odd"))
        assert numbers(await take(store)) == [2]
        assert await store.claim(limit=1, lease=30) is None
        assert (await store.counts()).oldest_at == NOON
    (line,) = [each.getMessage() for each in caplog.records]
    assert line.startswith("webhook 77 of resource 12 is set aside: its key {asana-webhooks}:")
    assert f"{key}:* is damaged" in line
    assert "r1" not in line


async def test_put_on_a_damaged_key_fails_alone(server: ValkeyServer) -> None:
    async with RedisStore(server.url) as store:
        damage(server, ("SET", "deliveries:r1", "odd"))
        routes = ("r1", "r2", "r1", "r3")
        puts = [store.put(delivery(n, route=id_)) for n, id_ in enumerate(routes)]
        one, two, three, four = await asyncio.gather(*puts, return_exceptions=True)
        assert (two, four) == (True, True)
        for refused in (one, three):
            assert isinstance(refused, StoreError)
            assert "its key {asana-webhooks}:deliveries:* is damaged" in str(refused)
        damage(server, ("DEL", "deliveries:r1"))
        assert await store.put(delivery(0))
        assert [(await take(store)).route for _ in range(3)] == ["r2", "r3", "r1"]


@pytest.mark.parametrize(
    "commands",
    [
        pytest.param([("HSET", "route:r1", "created_at", "soon")], id="no number"),
        pytest.param([("HSET", "route:r1", "created_at", "9" * 40)], id="no time"),
        pytest.param([("HSET", "route:r1", "heartbeat_at", "")], id="empty"),
        pytest.param([("HSET", "route:r1", "filters", "[7]")], id="no filters"),
        pytest.param([("HSET", "route:r1", "gid", b"\xff")], id="no text"),
        pytest.param([("HDEL", "route:r1", "target")], id="lost field"),
        pytest.param([("DEL", "route:r1"), ("SET", "route:r1", "secret")], id="another type"),
    ],
)
async def test_damaged_route_is_named_without_its_id_and_harms_no_other(
    server: ValkeyServer, caplog: pytest.LogCaptureFixture, commands: list[tuple[Any, ...]]
) -> None:
    async with RedisStore(server.url) as store:
        await confirm(store, "r1")
        await confirm(store, "r2")
        damage(server, *commands)
        damaged, whole = await asyncio.gather(
            store.get_route("r1"), store.get_route("r2"), return_exceptions=True
        )
        assert isinstance(damaged, StoreError)
        assert "key {asana-webhooks}:route:*" in str(damaged)
        assert "is damaged" in str(damaged)
        assert whole == await get(store, "r2")
        for _ in range(2):
            assert await store.list_routes() == [whole]
    async with RedisStore(server.url):
        pass
    (line,) = [each.getMessage() for each in caplog.records]
    assert "is set aside" in line
    for text in (line, str(damaged)):
        assert "r1" not in text
        assert "secret" not in text


async def test_reserved_route_without_a_readable_end_is_over(server: ValkeyServer) -> None:
    async with RedisStore(server.url) as store:
        await store.reserve(route(), ttl=60)
        damage(server, ("HSET", "route:r1", "expires", "soon"))
        assert await store.get_route("r1") is None


async def test_damaged_key_of_a_route_that_ends_harms_no_other(
    server: ValkeyServer, clock: Clock
) -> None:
    async with ClockedRedisStore(server, clock, "asana-webhooks") as store:
        for id_ in ("r1", "r2"):
            assert await store.reserve(route(id_), ttl=60)
            assert await store.add_candidate(id_, "secret")
            assert await store.put(delivery(int(id_[1]), route=id_), candidate="secret")
        damage(server, ("DEL", "held:1:r1"), ("SET", "held:1:r1", "odd"))
        clock.now += 60
        assert (await store.counts()).waiting == 1
        damage(server, ("DEL", "held:1:r1"))
        clock.now += 3600
        await store.counts()
    assert keys_of(server, "*:r[12]") == [b"{asana-webhooks}:deliveries:r1"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("progress", b"\xff"), ("note", "soon: odd"), ("note", b"\xff"), ("record", "")],
)
async def test_damaged_dead_letter_is_listed_among_the_others_and_can_be_discarded(
    server: ValkeyServer, field: str, value: str | bytes
) -> None:
    fields = {
        "route": "r1",
        "progress": "{}",
        "note": f"{1_700_000_000_000_000} odd",
        "record": struct.pack(">q32s", 0, bytes(32)) + b"{}",
        field: value,
    }
    async with RedisStore(server.url) as store:
        await bury_at_once(store, range(2))
        first, last = [letter.id for letter in await store.dead_letters()]
        assert await store.discard([last]) == 1
        parts = [part for item in fields.items() for part in item]
        damage(server, ("XADD", "letters", "2000000000000-0", *parts))
        assert [letter.id for letter in await store.dead_letters()] == [first, "2000000000000-0"]
        found = await store.get_dead_letter("2000000000000-0")
        assert found is not None
        assert found.reason == "unreadable: this dead letter is damaged on the server; discard it"
        assert found.buried_at == datetime(2033, 5, 18, 3, 33, 20, tzinfo=UTC)
        assert await store.discard([found.id]) == 1


async def test_dead_letter_that_cannot_be_replayed_stays_and_others_are(
    server: ValkeyServer,
) -> None:
    async with RedisStore(server.url) as store:
        await bury_at_once(store, range(1))
        for kind, number in (("done", 0), ("odd", 1)):
            parts = ("route", "r1", kind, "few", "note", "1 odd", "record", bytes(40))
            damage(server, ("XADD", "letters", f"2000000000000-{number}", *parts))
        damage(server, ("XADD", "letters", "2000000000000-2", "another", "entry"))
        ids = [letter.id for letter in await store.dead_letters()]
        assert await store.replay([*ids[1:], ids[0]]) == 1
        assert [letter.id for letter in await store.dead_letters()] == ids[1:]


@pytest.mark.parametrize(
    ("commands", "key"),
    [
        ([("SET", "waiting", "many")], "waiting"),
        ([("SET", "letters", "none")], "letters"),
        ([("DEL", "version"), ("SET", "version", "old")], "version"),
    ],
)
async def test_damaged_key_of_the_whole_store_is_named(
    server: ValkeyServer, commands: list[tuple[Any, ...]], key: str
) -> None:
    damage(server, *commands)

    async def use() -> None:
        async with RedisStore(server.url) as store:
            await store.put(delivery(1))
            await store.dead_letters()

    with pytest.raises(StoreError, match=f"its key {{asana-webhooks}}:{key} is damaged"):
        await use()


async def test_store_without_a_readable_clock_goes_on(server: ValkeyServer) -> None:
    async with RedisStore(server.url) as store:
        await put(store, 1)
        damage(server, ("HSET", "clock", "last", "noon", "ahead", "x", "number", "one"))
        claim = await take(store)
        assert await store.end_claim(claim, handled(claim.deliveries)) is not None
        await put(store, 2)
        assert numbers(await take(store)) == [2]


# Tracebacks

SECRET, BODY = "genuine-secret-0123456789", b'{"events":["private"]}'
CLAIM = Claim(route="r1", fence=1, deliveries=())


@pytest.mark.parametrize(
    "act",
    [
        lambda store: store.add_candidate("r1", SECRET),
        lambda store: store.confirm("r1", gid="77", secret=SECRET),
        lambda store: store.put(replace(delivery(1), body=BODY), candidate=SECRET),
        lambda store: store.put(replace(delivery(1), body=BODY), reason="odd"),
        lambda store: store.settle(CLAIM, Settlement(letters=(letter(body=BODY),))),
        lambda store: store.end_claim(CLAIM, tried_again(alone(1, body=BODY))),
        lambda store: store.put_state(
            state(text="private"), deliveries=[replace(delivery(1), body=BODY)]
        ),
    ],
    ids=["add_candidate", "confirm", "put", "put of a letter", "settle", "end_claim", "put_state"],
)
@pytest.mark.parametrize("how", ["killed", "hung", "damaged"])
async def test_traceback_with_local_variables_shows_no_secret_and_no_body(
    own_server: ValkeyServer,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    act: Callable[[Store], Coroutine[Any, Any, bool]],
) -> None:
    async with RedisStore(own_server.url) as store:
        call = act(store)
        if how == "damaged":
            damage(own_server, ("HSET", "leases", "r1", f"{1:016d}"), ("SET", "route:r1", "odd"))
            damage(own_server, ("SET", "letters", "odd"), ("SET", "queue:r1", "odd"))
        elif how == "hung":
            monkeypatch.setattr(redis_server, "CALL_TIMEOUT", 0.1)
            own_server.signal(signal.SIGSTOP)
        else:
            own_server.kill()
        with pytest.raises(StoreError) as caught:
            await call
        own_server.signal(signal.SIGCONT) if how == "hung" else None
    shown = local_variables(caught.value)
    assert "_store_errors" in shown or how == "damaged"
    assert SECRET not in shown
    assert "private" not in shown


def local_variables(error: BaseException) -> str:
    """Return the traceback with the local variables of all frames but the test's own."""
    assert error.__traceback__ is not None
    below = error.with_traceback(error.__traceback__.tb_next)
    return "".join(traceback.TracebackException.from_exception(below, capture_locals=True).format())


@pytest.mark.parametrize(
    "act",
    [lambda store: store.get_route("r1"), lambda store: store.drop("r1")],
    ids=["get", "drop"],
)
@pytest.mark.parametrize(("field", "value"), [("created_at", "soon"), ("resource", b"\xff")])
async def test_traceback_of_a_damaged_route_shows_no_secret_of_it(
    server: ValkeyServer,
    act: Callable[[Store], Coroutine[Any, Any, Any]],
    field: str,
    value: str | bytes,
) -> None:
    async with RedisStore(server.url) as store:
        await store.reserve(route(), ttl=60)
        assert await store.add_candidate("r1", SECRET)
        damage(server, ("HSET", "route:r1", field, value))
        with pytest.raises(StoreError, match="is damaged") as caught:
            await act(store)
        assert SECRET not in local_variables(caught.value)


# Opening


@pytest.mark.parametrize(
    ("options", "warnings"),
    [
        ({}, []),
        ({"maxmemory": "1gb"}, []),
        ({"maxmemory-policy": "allkeys-lru"}, []),
        (
            {"maxmemory": "1gb", "maxmemory-policy": "allkeys-lru"},
            ["evicts keys (maxmemory-policy allkeys-lru)"],
        ),
        ({"appendonly": "no", "save": ""}, ["when it stops, everything is lost"]),
        (
            {"appendonly": "no", "save": "3600 1"},
            ["when it stops, what came since its last snapshot is lost"],
        ),
    ],
)
async def test_server_that_may_lose_deliveries_is_warned_of(
    server: ValkeyServer,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, str],
    warnings: list[str],
) -> None:
    with server.client() as client:
        before: dict[Any, Any] = client.config_get(*options) if options else {}
    try:
        configure(server, **options)
        async with RedisStore(server.url):
            pass
    finally:
        configure(server, **before)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == len(warnings)
    for message, warning in zip(messages, warnings, strict=True):
        assert warning in message
        assert server.path in message


RISKS = ["keeps no append-only file: when it stops, what came since its last snapshot is lost"]
FORBIDDEN = pytest.param((), ("+@all", "-config"), RISKS, id="not allowed")
RENAMED = pytest.param(("--rename-command", "CONFIG", ""), ("+@all",), RISKS, id="renamed away")
NEITHER = pytest.param(
    (),
    ("+@all", "-config", "-info"),
    ["neither CONFIG GET nor INFO tells its maxmemory-policy and appendonly: it should have"],
    id="neither allowed",
)


@pytest.mark.parametrize(("options", "rights", "warnings"), [FORBIDDEN, RENAMED, NEITHER])
async def test_server_that_hides_its_settings_is_asked_for_what_it_tells(
    caplog: pytest.LogCaptureFixture,
    options: tuple[str, ...],
    rights: tuple[str, ...],
    warnings: list[str],
) -> None:
    with running_valkey(*options) as hosted:
        with hosted.client() as client:
            client.execute_command("ACL", "SETUSER", "app", "on", ">sesame", "~*", "&*", *rights)
        async with RedisStore(f"unix://app:sesame@{hosted.path}") as store:
            assert (await store.counts()).waiting == 0
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(warnings)
    for line, warning in zip(lines, warnings, strict=True):
        assert warning in line
        assert hosted.path in line
        assert "sesame" not in line


async def test_settings_that_a_server_does_not_have_are_named_as_unchecked(
    server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    class Client(redis.asyncio.Redis):
        """As one of a server that only speaks as Redis does."""

        async def info(self, *_: object, **__: object) -> dict[str, str]:
            return {"maxmemory_policy": "noeviction"}

        async def config_get(self, *_: object, **__: object) -> dict[str, str]:  # type: ignore[override]  # the library types it loosely
            return {"maxmemory": "0"}

    async with Client.from_url(server.url) as client, RedisStore(client) as store:
        assert (await store.counts()).waiting == 0
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "neither CONFIG GET nor INFO tells its appendonly: it should" in record.getMessage()


async def test_eviction_is_warned_of_where_only_info_tells(
    caplog: pytest.LogCaptureFixture,
) -> None:
    evicting = ("--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru")
    with running_valkey(*evicting, *TO_A_DISK, "--rename-command", "CONFIG", "") as hosted:
        async with RedisStore(hosted.url):
            pass
    (record,) = caplog.records
    assert "evicts keys (maxmemory-policy allkeys-lru)" in record.getMessage()


RIGHTS = re.search(r"ACL SETUSER asana (.*)", OPERATIONS.read_text())


async def test_user_with_the_documented_rights_needs_no_more(
    server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    assert RIGHTS is not None
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "asana", "reset", *RIGHTS[1].split())
        client.config_set("appendonly", "yes")
    password = re.search(r">(\S+)", RIGHTS[1])
    assert password is not None
    restore_layout(1, server)
    url = f"unix://asana:{password[1]}@{server.path}"
    async with RedisStore(url, encryption_keys=[A_KEY, KEY_OF_LAYOUTS]) as store:
        heard = asyncio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.listen, heard.set)
            while not heard.is_set():
                await store.notify()
                await checkpoint()
            tasks.cancel_scope.cancel()
        assert await store.own("https://h", holder="one", ttl=15) is None
        await store.disown("one")
        await store.set_filters("r1", [])
        await store.note_heartbeat("r1", NOON)
        await confirm(store, "r9", resource="19")
        await store.retire("r9")
        assert await store.confirm("r4", gid="80", secret="secret", leaving=["r1"])
        await store.set_user("r4", "1204")
        assert await store.leave("r4")
        assert len(await store.list_routes()) == 2
        while claim := await store.claim(limit=9, lease=30):
            first, *others = claim.deliveries
            assert await store.renew(claim, lease=30)
            more = await store.claim_more(claim, limit=9)
            assert more is not None
            assert more.deliveries == ()
            assert await store.settle(claim, tried_again(first, delay=60.0, attempts=1)) is not None
            if others:
                assert await store.settle(claim, buried(others.pop(), [letter()])) is not None
            new = (Retry(delivery=alone(7, trace=TRACE), delay=60.0),)
            settlement = replace(handled(others), retries=new, scope="12", events=b"e")
            assert await store.end_claim(claim, settlement) is not None
        assert await store.remembered("12")
        await put_state(store, 11)
        assert await store.peek("r1")
        assert await store.get_state("/12") == (await store.list_states())[0]
        assert await store.drop_state("/12", 1)
        first_, *rest = [each.id for each in await store.dead_letters()]
        assert await store.replay([first_]) == 1
        assert await store.discard(rest) == len(rest)
        await store.reserve(route("r10"), ttl=60)
        assert await store.drop("r10") is not None
    assert caplog.text == ""


@pytest.mark.parametrize("missing", ["-publish", "-subscribe", "resetchannels"])
async def test_user_who_may_not_notify_or_listen_works_without_and_is_told_once(
    server: ValkeyServer, caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    with server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "mute", "reset", "on", ">sesame", "~*", "&*", "+@all", missing
        )
        client.config_resetstat()
    async with RedisStore(f"unix://mute:sesame@{server.path}") as store:
        for _ in range(2):
            await store.notify()
            if missing != "-publish":
                await in_a_second(store.listen(lambda: None))
        await put(store, 1)
        assert numbers(await take(store)) == [1]
    with server.client() as client:
        told = client.info("commandstats").get("cmdstat_publish", {"rejected_calls": 0})
    assert told["rejected_calls"] <= 1  # it does not try again and again
    (record,) = caplog.records
    assert "+publish +subscribe +unsubscribe &{asana-webhooks}:arrivals" in record.getMessage()


async def test_client_of_one_connection_keeps_it_for_the_calls(server: ValkeyServer) -> None:
    async with (
        redis.asyncio.Redis(unix_socket_path=server.path, max_connections=1) as client,
        RedisStore(client) as store,
    ):
        await in_a_second(store.listen(lambda: None))
        await put(store, 1)
        assert numbers(await take(store)) == [1]


# TLS


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


async def test_server_with_a_certificate_of_ones_own_is_reached_by_options_of_the_url(
    server: ValkeyServer, certificates: Certificates, free_port: int
) -> None:
    options = (
        f"ssl_ca_certs={certificates.authority}&ssl_certfile={certificates.client}"
        f"&ssl_keyfile={certificates.client_key}"
    )
    async with (
        tls_before(server, certificates, free_port),
        RedisStore(f"rediss://localhost:{free_port}/0?{options}") as store,
    ):
        await put(store, 1)
        assert numbers(await take(store)) == [1]


async def test_client_with_a_certificate_of_its_own_is_taken(
    server: ValkeyServer, certificates: Certificates, free_port: int
) -> None:
    async with (
        tls_before(server, certificates, free_port),
        redis.asyncio.Redis(
            host="localhost",
            port=free_port,
            ssl=True,
            ssl_ca_certs=str(certificates.authority),
            ssl_certfile=str(certificates.client),
            ssl_keyfile=str(certificates.client_key),
        ) as client,
        RedisStore(client) as store,
    ):
        await put(store, 1)
        assert numbers(await take(store)) == [1]


async def test_certificate_of_an_unknown_authority_is_told_from_a_server_that_does_not_run(
    server: ValkeyServer, certificates: Certificates, free_port: int
) -> None:
    async with tls_before(server, certificates, free_port):
        with pytest.raises(StoreError, match="TLS failed: check .* who signed its certificate"):
            await RedisStore(f"rediss://localhost:{free_port}").__aenter__()


@pytest.mark.parametrize(
    ("rights", "remedy"),
    [
        (("+@all", ">another"), "refused the user or the password"),
        (
            ("+@all", "-evalsha", "-eval", ">sesame"),
            r"its user may not run evalsha: grant it \+evalsha",
        ),
        (("+@all", "-hset", ">sesame"), r"its user may not run hset: grant it \+hset"),
        (
            ("+@all", "resetkeys", "~{asana-webhooks}:", ">sesame"),
            r"may not use these keys: grant it ~{asana-webhooks}:\*",
        ),
    ],
)
async def test_refused_user_is_told_without_the_password(
    server: ValkeyServer, caplog: pytest.LogCaptureFixture, rights: tuple[str, ...], remedy: str
) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "guest", "reset", "on", "~*", *rights)
    store = RedisStore(f"unix://guest:sesame@{server.path}")
    with pytest.raises(StoreError, match=remedy) as caught:
        await store.__aenter__()
    assert "sesame" not in f"{caught.value}{caught.value.__cause__!r}{store!r}{caplog.text}"


async def test_server_that_does_not_run_is_named_without_the_password(free_port: int) -> None:
    store = RedisStore(f"redis://guest:sesame@127.0.0.1:{free_port}/0")
    started = time.monotonic()
    with pytest.raises(StoreError, match=f"127.0.0.1:{free_port} .*check that it runs") as caught:
        await store.__aenter__()
    assert time.monotonic() - started < 5
    assert "sesame" not in f"{caught.value}{caught.value.__cause__!r}{store!r}"


async def test_server_without_tls_is_told_from_one_that_does_not_run(free_port: int) -> None:
    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR Protocol error\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", free_port):
        with pytest.raises(StoreError, match="TLS failed"):
            await RedisStore(f"rediss://127.0.0.1:{free_port}").__aenter__()


async def test_store_of_a_newer_version_is_refused(server: ValkeyServer) -> None:
    with server.client() as client:
        client.set("{asana-webhooks}:version", LAYOUT_VERSION + 1)
    with pytest.raises(StoreError, match="newer version"):
        await RedisStore(server.url).__aenter__()


async def test_store_is_opened_once(server: ValkeyServer) -> None:
    async with RedisStore(server.url) as store:
        with pytest.raises(StoreError, match="open already"):
            await store.__aenter__()
        assert (await store.counts()).waiting == 0


@pytest.mark.parametrize("options", [{}, {"decode_responses": True}, {"protocol": 2}])
async def test_client_that_was_given_stays_open(
    server: ValkeyServer, options: dict[str, Any]
) -> None:
    async with redis.asyncio.Redis.from_url(server.url, **options) as client:
        async with RedisStore(client) as store:
            filters = (WebhookFilter(action="added"),)
            await store.reserve(route(filters=filters, heartbeat_at=NOON), ttl=60)
            assert await store.get_route("r1") == route(filters=filters, heartbeat_at=NOON)
            assert await store.put(Delivery(**{**_fields(delivery()), "body": b"\xff\x00"}))
            claim: Claim = await take(store)
            assert claim.deliveries[0].body == b"\xff\x00"
        assert await client.ping()


def _fields(given: Delivery) -> dict[str, Any]:
    return {name: getattr(given, name) for name in given.__struct_fields__}


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://localhost", id="scheme"),
        pytest.param("redis://:pa/sesame@localhost:1/0", id="slash"),
        pytest.param("redis://guest:1/sesame@localhost:1/0", id="slash behind a digit"),
        pytest.param("redis://guest:1?sesame@localhost:1/0", id="question mark"),
        pytest.param("redis://guest:1#sesame@localhost:1/0", id="hash"),
        pytest.param("unix://guest:1/sesame@/run/v.sock", id="slash, of a socket"),
        pytest.param("unix:///run/v#1.sock", id="hash, of a socket"),
        pytest.param("redis://:a@h:sesame/0", id="port"),
        pytest.param("redis://localhost/sesame", id="database"),
        pytest.param("redis://localhost?sesame=1", id="option"),
        pytest.param("redis://localhost?socket_timeout=sesame", id="value"),
        pytest.param("rediss://localhost?ssl_cert_reqs=sesame", id="value, of TLS"),
    ],
)
def test_bad_url_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ValueError, match="percent-encoded") as caught:
        RedisStore(url)
    assert "sesame" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "url", ["redis://", "redis://h", "redis://h/", "rediss://u:p%40@[::1]:1/2?protocol=3"]
)
def test_good_url_is_taken(url: str) -> None:
    assert RedisStore(url)


def test_store_is_opened_again_in_another_event_loop(server: ValkeyServer) -> None:
    store = RedisStore(server.url)

    async def use() -> int:
        async with store:  # more calls than connections: some wait for one
            await asyncio.gather(*(store.claim(limit=1, lease=1) for _ in range(50)))
            await store.put(delivery())
            return (await store.counts()).waiting

    assert [asyncio.run(use()) for _ in range(3)] == [1, 1, 1]


def test_prefix_needs_a_name() -> None:
    with pytest.raises(ValueError, match="prefix"):
        RedisStore("redis://localhost", prefix=":")


def test_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ValueError, match=r"pip install 'asana-webhooks\[redis\]'"):
        RedisStore("redis://localhost")

"""The PostgreSQL store on a real server: the contract, many processes, and what may go wrong."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import msgspec
import pytest
from conftest import eventually, guard
from cryptography.fernet import Fernet
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from support.postgres_server import PASSWORD, PostgresServer, own, running, schema_name, standby_of
from test_store_machine import MAX_WAITING, StoreMachine
from test_stores import *  # noqa: F403 - the tests of the contract, for this store
from test_stores import (
    NOON,
    Clock,
    buried,
    delivery,
    get_undated,
    handled,
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

from asana_webhooks._deadline import Deadline
from asana_webhooks.errors import StoreError
from asana_webhooks.models import Claim, Counts, Retry, Settlement
from asana_webhooks.stores import DUPLICATES_KNOWN_FOR, MAX_HELD, Store, postgres
from asana_webhooks.stores.postgres import PostgresStore
from asana_webhooks.stores.postgres import _batch as putting
from asana_webhooks.stores.postgres import _server as calling
from asana_webhooks.stores.postgres._rows import claim_of, values_of

pytestmark = [pytest.mark.servers, pytest.mark.slow]


class FrozenStore(PostgresStore):
    """Lets the server go by a test's clock, and so shows what needs time without taking it."""

    def __init__(self, *arguments: Any, clock: Callable[[], float], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._clock = clock
        self._told: float | None = None
        self._telling = asyncio.Lock()

    async def __aenter__(self) -> FrozenStore:
        await super().__aenter__()
        server = self._opened()
        async with server.pool.acquire() as connection:
            await connection.execute(server._localised(FREEZE))
        fetch = server.start

        def start(function: str, *values: Any) -> asyncio.Task[list[Any]]:
            return server.keep(self._at_the_time(fetch, function, values))

        server.start = start  # type: ignore[method-assign] # it tells the time first
        return self

    async def _at_the_time(self, fetch: Any, function: str, values: tuple[Any, ...]) -> Any:
        async with self._telling:
            if self._told != (now := self._clock()):
                await fetch("set_test_clock", datetime.fromtimestamp(now, UTC))
                self._told = now
        return await fetch(function, *values)


FREEZE = """
CREATE TABLE IF NOT EXISTS schema.test_clock (at timestamptz);
INSERT INTO schema.test_clock SELECT 'epoch' WHERE NOT EXISTS (SELECT FROM schema.test_clock);
CREATE OR REPLACE FUNCTION schema.clock() RETURNS timestamptz LANGUAGE sql
AS 'SELECT at FROM schema.test_clock';
CREATE OR REPLACE FUNCTION schema.set_test_clock(_at timestamptz) RETURNS void LANGUAGE sql
AS 'UPDATE schema.test_clock SET at = _at';
"""


@pytest.fixture
def server() -> PostgresServer:
    return running()


@pytest.fixture
def schema() -> str:
    return schema_name()


@pytest.fixture
def make_store(server: PostgresServer, schema: str, clock: Clock) -> Callable[..., Store]:
    def make(**options: Any) -> Store:
        return FrozenStore(server.dsn, schema=schema, clock=clock, **options)

    return make


@pytest.fixture
async def real(server: PostgresServer, schema: str) -> AsyncIterator[PostgresStore]:
    """Yield a store that goes by the server's own clock."""
    async with PostgresStore(server.dsn, schema=schema) as opened:
        yield opened


@pytest.fixture
async def other(real: PostgresStore, server: PostgresServer) -> AsyncIterator[PostgresStore]:
    """Yield a second store on the same schema, as another process has it."""
    async with PostgresStore(server.dsn, schema=real._schema) as opened:
        yield opened


@pytest.fixture
async def session(server: PostgresServer) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(server.dsn)
    yield connection
    await connection.close()


class PostgresMachine(StoreMachine):
    def make(self, directory: Path) -> Store:
        return FrozenStore(
            running().dsn,
            schema=f"test_{directory.name}",
            max_waiting=MAX_WAITING,
            clock=lambda: self.model.now,
        )


@pytest.mark.slow
def test_store_answers_as_the_model_does() -> None:
    run_state_machine_as_test(
        PostgresMachine,
        settings=settings(
            max_examples=8,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


async def blocked(session: Any, calls: int = 1) -> None:
    """Return when so many calls wait for a lock."""
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    await eventually(partial(_is, session, waiting, calls))


async def _is(session: Any, question: str, answer: int, *values: str) -> bool:
    return bool(await session.fetchval(question, *values) == answer)


def in_schema(store: PostgresStore, statement: str) -> str:
    return statement.replace("schema.", f'"{store._schema}".')


async def put_in(
    session: Any, store: PostgresStore, number: int, candidate: str | None = None
) -> None:
    """Put a delivery from a session that may not have committed yet."""
    given = delivery(number)
    one = [[given.route], [given.digest], [given.received_at], [candidate], [None]]
    one += [[given.trace], [given.body]]
    call = "SELECT * FROM schema.put_batch($1, $2, $3, $4, $5, $6, $7, $8, 0, 10, 1000, 10, 10)"
    await session.fetch(in_schema(store, call), *one, DUPLICATES_KNOWN_FOR)


# Many processes


async def test_delivery_that_one_process_put_is_claimed_by_another(
    real: PostgresStore, other: PostgresStore
) -> None:
    await put(real, 1)
    assert numbers(await take(other)) == [1]
    assert await real.claim(limit=1, lease=30) is None
    assert not await other.put(delivery(1))


async def test_route_that_one_process_confirmed_is_known_to_another(
    real: PostgresStore, other: PostgresStore
) -> None:
    await real.reserve(route(), ttl=60)
    assert await other.add_candidate("r1", "secret")
    assert await real.confirm("r1", gid="77", secret="secret")
    assert await get_undated(other) == route(state="confirmed", gid="77", secret="secret")


async def test_state_that_one_process_put_is_not_replaced_by_another_that_did_not_see_it(
    real: PostgresStore, other: PostgresStore
) -> None:
    await put_state(real, 1)
    assert not await other.put_state(state(text="mine"), deliveries=[delivery(2)])
    assert await other.get_state("/12") == state(version=1)
    assert await other.put_state(state(version=1, text="mine"), deliveries=[delivery(2)])
    assert not await real.drop_state("/12", 1)
    assert numbers(await take(real)) == [1, 2]


async def test_state_whose_deliveries_cannot_be_stored_is_not_kept(real: PostgresStore) -> None:
    await put_state(real, 1)
    bad = msgspec.structs.replace(delivery(3), progress="\0")
    with pytest.raises(StoreError, match="PostgreSQL cannot hold this"):
        await real.put_state(state(version=1, text="new"), deliveries=[delivery(2), bad])
    assert await real.get_state("/12") == state(version=1)
    assert numbers(await take(real)) == [1]


@pytest.mark.parametrize("id_", ["0", "x", "1-1", " 1", "9" * 19])
async def test_nothing_is_behind_an_id_that_no_delivery_has(real: PostgresStore, id_: str) -> None:
    await put(real, 1)
    assert await real.peek("r1", after=id_) == []


async def test_delivery_of_a_state_is_claimable_though_a_lease_ends_meanwhile(
    real: PostgresStore, session: Any
) -> None:
    await put(real, 1)
    claim = await take(real)
    async with session.transaction():
        await session.execute(in_schema(real, PUT_STATE))
        ending = asyncio.create_task(real.end_claim(claim, handled(claim.deliveries)))
        await blocked(session)
    assert await ending == ()
    assert [each.body for each in (await take(real)).deliveries] == [b"new"]


PUT_STATE = """
SELECT schema.put_state('/12', 0, '', '{r1}', '{2026-03-01 12:00Z}', '{0}', '{""}', '{""}', '{new}')
"""


async def test_workers_of_two_processes_handle_each_delivery_once(
    real: PostgresStore, other: PostgresStore
) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(120):
            tasks.start_soon(partial(put, real, number, route=f"r{number % 12}"))
    seen: list[int] = []

    async def work(store: PostgresStore) -> None:
        while claim := await store.claim(limit=3, lease=30):
            seen.extend(numbers(claim))
            assert await store.end_claim(claim, handled(claim.deliveries)) is not None

    async with anyio.create_task_group() as tasks:
        for store in (real, other, real, other):
            tasks.start_soon(work, store)
    assert sorted(seen) == list(range(120))


async def test_dead_workers_delivery_is_taken_over_and_its_late_word_refused(
    real: PostgresStore, other: PostgresStore
) -> None:
    await put(real, 1)
    late = await take(real, lease=0.05)
    claim = await eventually(partial(other.claim, limit=1, lease=30))
    assert numbers(claim) == numbers(late)
    assert claim.fence > late.fence
    assert await real.end_claim(late, handled(late.deliveries)) is None
    assert await real.settle(late, handled(late.deliveries)) is None
    assert not await real.renew(late, lease=30)
    assert await other.end_claim(claim, handled(claim.deliveries)) is not None


async def test_word_of_a_worker_from_before_a_failover_that_lost_its_lease_is_refused(
    real: PostgresStore, session: Any
) -> None:
    await put(real, 1)
    late = await take(real)
    lose = "TRUNCATE schema.deliveries, schema.queues RESTART IDENTITY"
    await session.execute(in_schema(real, lose))  # as a standby that had got nothing yet
    await put(real, 2)
    mine = await take(real)
    assert mine.previous == 0
    assert await real.end_claim(late, handled(late.deliveries)) is None
    assert (await real.counts()).waiting == 1
    assert await real.end_claim(mine, handled(mine.deliveries)) is not None


async def test_delivery_that_a_dead_worker_still_held_counts_a_crash_and_no_other_does(
    real: PostgresStore, other: PostgresStore, session: Any
) -> None:
    for number in (1, 2, 3):
        await put(real, number)
    claim = await take(real, limit=2, lease=0.0)
    await real.settle(claim, tried_again(claim.deliveries[0], delay=3600.0, attempts=1))
    await put(real, 4)
    alone = await take(other)
    assert (numbers(alone), alone.deliveries[0].crashes) == ([2], 1)
    assert await other.end_claim(alone, handled(alone.deliveries)) is not None
    last = await take(other)
    assert numbers(last) == [3, 4]
    assert (
        await session.fetchval(in_schema(real, "SELECT sum(crashes) FROM schema.deliveries")) == 0
    )


async def test_of_two_addresses_that_want_the_store_at_once_one_has_it(
    real: PostgresStore, other: PostgresStore
) -> None:
    urls = [f"https://h{number % 2}.example" for number in range(20)]
    calls = [
        (real, other)[number % 2].own(url, holder=f"holder {number}", ttl=30)
        for number, url in enumerate(urls)
    ]
    answers = await asyncio.gather(*calls)
    (owner,) = {answer for answer in answers if answer is not None}
    assert [answer is None for answer in answers] == [url == owner for url in urls]


async def test_retired_route_of_which_a_delivery_is_put_while_it_is_forgotten_loses_none(
    real: PostgresStore, session: Any
) -> None:
    await real.reserve(route(), ttl=60)
    await real.add_candidate("r1", "secret")
    await real.confirm("r1", gid="77", secret="secret")
    await put(real, 1)
    claim = await take(real)
    await real.end_claim(claim, handled(claim.deliveries))
    await real.retire("r1")
    await session.execute(in_schema(real, LET_48_HOURS_GO_BY))
    async with session.transaction():
        await put_in(session, real, 2)
        counting = asyncio.create_task(real.counts())
        await blocked(session)
    await counting
    assert await real.get_route("r1") is None
    assert numbers(await take(real)) == [2]


async def test_held_deliveries_of_many_processes_at_once_stay_within_their_limit(
    real: PostgresStore, other: PostgresStore
) -> None:
    await real.reserve(route(), ttl=60)
    await real.add_candidate("r1", "secret")
    calls = [
        (real, other)[number % 2].put(delivery(number), candidate="secret")
        for number in range(2 * MAX_HELD)
    ]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert answers.count(True) == MAX_HELD
    assert (await real.counts()).waiting == MAX_HELD


async def test_digests_are_forgotten_after_48_hours_though_nothing_new_comes(
    real: PostgresStore, other: PostgresStore, server: PostgresServer, session: Any
) -> None:
    now = datetime.now(UTC)
    for number, age in [(1, timedelta(hours=49)), (2, timedelta(hours=47))]:
        await real.put(delivery(number, at=now - age))
    assert await other.own("https://h.example", holder="one", ttl=30) is None
    kept = await session.fetch(in_schema(real, "SELECT digest FROM schema.seen"))
    assert [digest for (digest,) in kept] == [delivery(2).digest]
    await session.execute(in_schema(real, "UPDATE schema.seen SET at = at - interval '2 h'"))
    async with PostgresStore(server.dsn, schema=real._schema):
        assert await session.fetchval(in_schema(real, "SELECT count(*) FROM schema.seen")) == 0


async def settle_events(store: PostgresStore, *records: bytes) -> Claim:
    """Remember these records one after the other; the claim goes on."""
    await put(store, 1)
    claim = await take(store, lease=3600)
    for events in records:
        assert await store.settle(claim, Settlement(scope="12", events=events)) is not None
    return claim


async def test_remembered_events_are_removed_after_48_hours_though_nothing_new_comes(
    real: PostgresStore, server: PostgresServer, session: Any
) -> None:
    claim = await settle_events(real, b"one", b"two", b"three")
    for hours, left in [(47, 3), (2, 0)]:
        await session.execute(in_schema(real, LET_HOURS_GO_BY), timedelta(hours=hours))
        assert await real.own("https://h.example", holder="one", ttl=30) is None
        assert await session.fetchval(in_schema(real, COUNT_EVENTS)) == left
    await real.settle(claim, Settlement(scope="12", events=b"four"))
    await session.execute(in_schema(real, LET_HOURS_GO_BY), timedelta(hours=49))
    async with PostgresStore(server.dsn, schema=real._schema):
        assert await session.fetchval(in_schema(real, COUNT_EVENTS)) == 0


async def test_remembered_events_are_removed_after_48_hours_by_settling(
    real: PostgresStore, session: Any
) -> None:
    claim = await settle_events(real, *[b"old"] * 255)
    await session.execute(in_schema(real, LET_HOURS_GO_BY), timedelta(hours=49))
    await real.settle(claim, Settlement(scope="another", events=b"new"))
    assert await session.fetchval(in_schema(real, COUNT_EVENTS)) == 1


LET_HOURS_GO_BY = "UPDATE schema.events SET at = at - $1::interval"
COUNT_EVENTS = "SELECT count(*) FROM schema.events"


async def test_receiver_whose_clock_is_ahead_makes_nobody_forget_what_came(
    real: PostgresStore, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(putting, "FORGET_EVERY", 1)
    now = datetime.now(UTC)
    for number, at in enumerate([now - timedelta(hours=49), now, *[now + timedelta(days=3)] * 3]):
        assert await real.put(delivery(number, at=at))
    assert not await real.put(delivery(1, at=now))
    digests = await session.fetch(in_schema(real, "SELECT digest FROM schema.seen"))
    assert {digest for (digest,) in digests} == {delivery(n).digest for n in (1, 2, 3, 4)}


async def test_same_delivery_at_two_processes_at_once_is_kept_once(
    real: PostgresStore, other: PostgresStore
) -> None:
    calls = [store.put(delivery(n)) for n in range(20) for store in (real, other)]
    answers = await asyncio.gather(*calls)
    assert answers.count(True) == 20
    assert (await real.counts()).waiting == 20


async def test_processes_that_start_at_once_create_the_schema_once(
    server: PostgresServer, schema: str, session: Any
) -> None:
    program = (
        "import asyncio, sys\n"
        "from asana_webhooks.stores.postgres import PostgresStore\n"
        "async def main():\n"
        "    async with PostgresStore(sys.argv[1], schema=sys.argv[2]) as store:\n"
        "        await store.retire('r1')\n"
        "asyncio.run(main())\n"
    )
    async with session.transaction():
        await session.execute(calling.LOCK, schema)
        processes = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-W", "error", "-c", program, server.dsn, schema),
                stderr=asyncio.subprocess.PIPE,
            )
            for _ in range(3)
        ]
        await blocked(session, 3)
    ends = await asyncio.gather(*(process.communicate() for process in processes))
    assert [process.returncode for process in processes] == [0, 0, 0], ends


async def test_sole_reservations_of_two_processes_at_once_make_one_route(
    real: PostgresStore, other: PostgresStore
) -> None:
    calls = [
        store.reserve(route(f"{index} {number}"), ttl=60, exclusive=True)
        for number in range(5)
        for index, store in enumerate((real, other))
    ]
    assert sorted(await asyncio.gather(*calls)) == [False] * 9 + [True]


async def test_delivery_that_is_committed_while_a_lease_ends_is_claimable(
    real: PostgresStore, session: Any
) -> None:
    await put(real, 1)
    claim = await take(real)
    async with session.transaction():
        await put_in(session, real, 2)
        finish = asyncio.create_task(real.end_claim(claim, handled(claim.deliveries)))
        await blocked(session)
    assert await finish == ()
    assert numbers(await take(real)) == [2]


async def test_delivery_that_is_committed_while_its_route_is_confirmed_is_claimable(
    real: PostgresStore, session: Any
) -> None:
    await real.reserve(route(), ttl=60)
    await real.add_candidate("r1", "secret")
    for number in (1, 2):
        async with session.transaction():
            await put_in(session, real, number, "secret")
            confirm = asyncio.create_task(real.confirm("r1", gid="77", secret="secret"))
            if number == 1:
                await blocked(session)
    assert await confirm is False
    assert numbers(await take(real)) == [1, 2]


async def test_claim_waits_for_a_route_that_is_only_being_put_to(
    real: PostgresStore, session: Any
) -> None:
    await put(real, 1)
    async with session.transaction():
        await put_in(session, real, 2)
        claim = asyncio.create_task(real.claim(limit=10, lease=30))
        await blocked(session)
    assert numbers(await claim) == [1, 2]


async def test_claim_that_only_ended_a_lease_waits_for_a_route_that_is_being_put_to(
    real: PostgresStore, session: Any
) -> None:
    await put(real, 0, route="r0")
    claim = await take(real, lease=0.0)
    await real.settle(claim, handled(claim.deliveries))
    await put(real, 1)
    async with session.transaction():
        await put_in(session, real, 2)
        again = asyncio.create_task(real.claim(limit=10, lease=30))
        await blocked(session)
    assert numbers(await again) == [1, 2]


async def test_claim_that_waited_for_a_route_in_vain_waits_for_no_other(
    real: PostgresStore, server: PostgresServer, session: Any
) -> None:
    await put(real, 1, route="r1")
    await put(real, 2, route="r2")
    pool = asyncpg.create_pool(server.dsn, min_size=1)
    async with pool, pool.acquire() as second, second.transaction():
        await second.execute(in_schema(real, LOCK_QUEUE), "r2")
        async with session.transaction():
            await session.execute(in_schema(real, LOCK_QUEUE), "r1")
            claim = asyncio.create_task(real.claim(limit=10, lease=30))
            await blocked(session)
            await session.execute(in_schema(real, PUT_OFF), "r1")
        assert await claim is None


LOCK_QUEUE = "SELECT FROM schema.queues WHERE route = $1 FOR UPDATE"
PUT_OFF = "UPDATE schema.queues SET due = NULL WHERE route = $1"


async def test_many_calls_at_once_do_not_block_each_other(
    real: PostgresStore, other: PostgresStore
) -> None:
    async def work(store: PostgresStore, number: int) -> None:
        await put(store, number, route=f"r{number % 7}")
        claim = await store.claim(limit=5, lease=30)
        if claim is not None:
            await store.settle(claim, tried_again(claim.deliveries[0], delay=0.001, attempts=1))
            await store.end_claim(claim, handled(claim.deliveries[1:]))

    for first in range(0, 400, 80):  # a call that waits in a circle fails
        calls = [work((real, other)[n % 2], n) for n in range(first, first + 80)]
        await asyncio.gather(*calls)


# Batches


async def test_deliveries_put_at_once_keep_their_order(real: PostgresStore) -> None:
    await asyncio.gather(*(real.put(delivery(number)) for number in range(50)))
    assert numbers(await take(real)) == list(range(50))


@pytest.mark.parametrize(("name", "most"), [("BATCH_ROWS", 2), ("BATCH_BYTES", 20)])
async def test_batches_are_of_limited_size(
    real: PostgresStore, monkeypatch: pytest.MonkeyPatch, name: str, most: int
) -> None:
    monkeypatch.setattr(putting, name, most)
    sizes: list[int] = []
    send = real._puts._send

    async def spy(batch: list[Any]) -> list[Any]:
        sizes.append(len(batch))
        return await send(batch)

    monkeypatch.setattr(real._puts, "_send", spy)
    assert await asyncio.gather(*(real.put(delivery(number)) for number in range(5))) == [True] * 5
    assert sizes == [2, 2, 1]


async def test_digest_comes_twice_at_once_but_48_hours_apart(real: PostgresStore) -> None:
    later = NOON + DUPLICATES_KNOWN_FOR + timedelta(microseconds=1)
    calls = [real.put(delivery(1, at=at)) for at in (NOON, later, later)]
    assert await asyncio.gather(*calls) == [True, True, False]


async def test_repeat_of_what_a_full_inbox_refuses_is_refused_as_well(
    server: PostgresServer, schema: str
) -> None:
    async with PostgresStore(server.dsn, schema=schema, max_waiting=1) as store:
        calls = [store.put(delivery(number)) for number in (1, 2, 1, 2)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert answers[::2] == [True, False]
        for refused in answers[1::2]:
            assert isinstance(refused, StoreError)
        claim = await take(store)
        await store.end_claim(claim, handled(claim.deliveries))
        await put(store, 2)


async def test_gaps_between_deliveries_take_no_room(server: PostgresServer, schema: str) -> None:
    async with PostgresStore(server.dsn, schema=schema, max_waiting=2) as store:
        await put(store, 0, route="r2")
        for number in range(1, 5):
            await put(store, number)
            claim = await take(store, limit=1)
            while claim.route == "r2":
                claim = await take(store, limit=1)
            await store.end_claim(claim, handled(claim.deliveries))
        await put(store, 5)
        with pytest.raises(StoreError, match="full"):
            await put(store, 6)


async def test_replayed_letters_take_room(server: PostgresServer, schema: str) -> None:
    async with PostgresStore(server.dsn, schema=schema, max_waiting=3) as store:
        for number in (1, 2):
            await store.put(delivery(number), reason="odd")
        await put(store, 3)
        assert await store.replay([dead.id for dead in await store.dead_letters()]) == 2
        with pytest.raises(StoreError, match="full"):
            await put(store, 4)


async def test_deliveries_of_a_state_take_room(server: PostgresServer, schema: str) -> None:
    async with PostgresStore(server.dsn, schema=schema, max_waiting=3) as store:
        await put(store, 1)
        await put_state(store, 2, 3)
        assert not await takes(store, 4)


async def test_what_cannot_be_stored_costs_no_other_its_place(real: PostgresStore) -> None:
    given = [delivery(1), delivery(2, route="no\x00text"), delivery(3), delivery(4, route="\udcff")]
    answers = await asyncio.gather(*map(real.put, given), return_exceptions=True)
    assert answers[::2] == [True, True]
    for failure in answers[1::2]:
        assert isinstance(failure, StoreError)
        shown = "".join(traceback.format_exception(failure))
        assert "cannot hold this" in shown
        assert "no\\x00text" not in shown


async def test_reason_with_what_is_no_text_is_kept_escaped(real: PostgresStore) -> None:
    assert await real.put(delivery(1), reason="\x00 and \udcff")
    await put(real, 2)
    claim = await take(real)
    await real.settle(claim, buried(claim.deliveries[0], [letter("a\x00b")]))
    assert [dead.reason for dead in await real.dead_letters()] == ["\\x00 and \\udcff", "a\\x00b"]


async def test_cancelled_put_is_not_stored_and_harms_no_other(real: PostgresStore) -> None:
    cancelled = asyncio.ensure_future(real.put(delivery(1)))
    other = asyncio.ensure_future(real.put(delivery(2)))
    cancelled.cancel()
    assert await other
    assert cancelled.cancelled()
    await put(real, 3)
    assert numbers(await take(real)) == [2, 3]


async def test_call_of_many_steps_fails_in_the_time_of_one(
    real: PostgresStore, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real._opened(), "_deadline", Deadline(0.2))
    async with session.transaction():
        await session.execute(in_schema(real, "LOCK TABLE schema.queues"))
        with pytest.raises(StoreError, match="does not answer"):
            await real.claim(limit=1, lease=30)


async def test_puts_that_wait_behind_one_that_fails_fail_with_it(
    real: PostgresStore, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "CALL_TIMEOUT", 0.5)
    async with session.transaction():
        await session.execute(in_schema(real, "LOCK TABLE schema.deliveries"))
        first = asyncio.ensure_future(real.put(delivery(1)))
        await blocked(session)
        others = [asyncio.ensure_future(real.put(delivery(number))) for number in (2, 3)]
        others[1].cancel()
        failures = await asyncio.gather(first, others[0], return_exceptions=True)
        assert ["does not answer" in str(failure) for failure in failures] == [True, True]
    await eventually(partial(takes, real, 2))


async def test_put_that_is_cancelled_on_its_way_harms_no_other(
    real: PostgresStore, session: Any
) -> None:
    await put(real, 1)
    async with session.transaction():
        await put_in(session, real, 2)
        puts = [asyncio.ensure_future(real.put(delivery(number))) for number in (3, 4)]
        await blocked(session)
        puts[0].cancel()
    assert await puts[1]
    assert (await real.counts()).waiting == 4


async def test_connection_that_the_server_ends_fails_the_call_and_no_other(
    real: PostgresStore, session: Any
) -> None:
    await put(real, 1)
    async with session.transaction():
        await put_in(session, real, 2)
        puts = [asyncio.ensure_future(real.put(delivery(number))) for number in (3, 4)]
        await blocked(session)
        puts[0].cancel()
        await session.fetch("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted")
        with pytest.raises(StoreError, match="starting or stopping|connection was lost"):
            await puts[1]
    await put(real, 4)
    assert numbers(await take(real)) == [1, 2, 4]


async def test_large_bodies_are_kept_and_claimed_a_few_at_a_time(
    real: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 2 * 1024 * 1024
    monkeypatch.setattr(postgres, "MAX_CLAIM_BYTES", 2 * size)
    bodies = [bytes([number]) * size for number in range(3)]
    given = [msgspec.structs.replace(delivery(n), body=body) for n, body in enumerate(bodies)]
    assert await asyncio.gather(*map(real.put, given)) == [True] * 3
    claim = await take(real)
    assert [d.body for d in claim.deliveries] == bodies[:2]
    await real.end_claim(claim, handled(claim.deliveries))
    assert [d.body for d in (await take(real)).deliveries] == bodies[2:]


# Cancelled calls, and the end


@pytest.mark.parametrize("there_is_one", [True, False])
async def test_cancelled_claim_is_given_back(
    real: PostgresStore,
    session: Any,
    there_is_one: bool,  # noqa: FBT001 - a parameter
) -> None:
    await put(real, 1)
    async with session.transaction():
        await put_in(session, real, 2)
        if not there_is_one:
            await session.execute(in_schema(real, "UPDATE schema.queues SET due = NULL"))
        claim = asyncio.create_task(real.claim(limit=10, lease=3600))
        await blocked(session)
        claim.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claim
    if there_is_one:
        assert numbers(await eventually(partial(real.claim, limit=10, lease=30))) == [1, 2]


@pytest.mark.parametrize("arrived", [[2, 3], []], ids=["two", "nothing"])
async def test_what_is_claimed_more_by_a_cancelled_call_is_given_back(
    real: PostgresStore, session: Any, arrived: list[int]
) -> None:
    await put(real, 1)
    claim = await take(real)
    await put(real, *arrived)
    async with session.transaction():
        await session.execute(in_schema(real, LOCK_QUEUE), "r1")
        more = asyncio.create_task(real.claim_more(claim, limit=10))
        await blocked(session)
        more.cancel()
        with pytest.raises(asyncio.CancelledError):
            await more
    await put(real, 4)
    taken: list[int] = []

    async def take_more() -> bool:
        more = await real.claim_more(claim, limit=10)
        assert more is not None
        taken.extend(numbers(more))
        return sorted(taken) == [*arrived, 4]

    await eventually(take_more)


async def test_claim_that_goes_on_and_on_forgets_what_it_settled(
    real: PostgresStore, session: Any
) -> None:
    await put(real, 0)
    claim = await take(real)
    held = claim.deliveries
    for number in range(1, 6):
        await put(real, number)
        more = await real.claim_more(claim, limit=10)
        assert more is not None
        await real.settle(claim, handled(held))
        held = more.deliveries
    claimed = await session.fetchval(in_schema(real, "SELECT claimed FROM schema.queues"))
    assert len(claimed) == 2  # the newest, and what was settled since


async def test_claim_that_is_cancelled_with_the_store_closing_is_given_back(
    server: PostgresServer, schema: str, session: Any
) -> None:
    async with PostgresStore(server.dsn, schema=schema) as store:
        await put(store, 1)
        claim = asyncio.create_task(store.claim(limit=10, lease=3600))
        await anyio.lowlevel.checkpoint()
        claim.cancel()
    assert claim.done()
    async with PostgresStore(server.dsn, schema=schema) as store:
        assert numbers(await take(store)) == [1]


async def test_cancelled_settlement_is_done_all_the_same(real: PostgresStore) -> None:
    await put(real, 1)
    claim = await take(real)
    settling = asyncio.create_task(real.settle(claim, handled(claim.deliveries)))
    await anyio.lowlevel.checkpoint()
    settling.cancel()
    await eventually(partial(_nothing_waits, real))
    assert settling.cancelled()


async def _nothing_waits(store: PostgresStore) -> bool:
    return (await store.counts()).waiting == 0


async def test_storm_of_cancelled_calls_leaves_the_store_usable(real: PostgresStore) -> None:
    calls: list[asyncio.Task[Any]] = []
    for _ in range(10):
        calls = [asyncio.create_task(real.list_routes()) for _ in range(20)]
        await anyio.lowlevel.checkpoint()
        for call in calls:
            call.cancel()
    await asyncio.wait(calls)
    assert await real.list_routes() == []


async def test_closing_writes_what_is_under_way(server: PostgresServer, schema: str) -> None:
    async with PostgresStore(server.dsn, schema=schema) as store:
        puts = [asyncio.ensure_future(store.put(delivery(number))) for number in range(500)]
        await anyio.lowlevel.checkpoint()
    assert await asyncio.gather(*puts) == [True] * 500
    with pytest.raises(StoreError, match="not open"):
        await store.put(delivery())


async def test_cancelling_does_not_cut_closing_short(server: PostgresServer, schema: str) -> None:
    store = await PostgresStore(server.dsn, schema=schema).__aenter__()
    put_ = asyncio.ensure_future(store.put(delivery()))
    await anyio.lowlevel.checkpoint()
    closing = asyncio.create_task(store.__aexit__(None, None, None))
    await anyio.lowlevel.checkpoint()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert await put_


async def test_closing_cuts_off_what_does_not_end(
    server: PostgresServer, schema: str, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "CLOSE_TIMEOUT", 0.05)
    monkeypatch.setattr(postgres, "PARTING_TIMEOUT", 0.05)
    async with session.transaction():
        async with PostgresStore(server.dsn, schema=schema) as store:
            await put(store, 1)
            await put_in(session, store, 2)
            put_ = asyncio.ensure_future(store.put(delivery(3)))
            await blocked(session)
        with pytest.raises(StoreError):
            await put_


async def test_calls_that_end_with_the_event_loop_say_nothing(
    real: PostgresStore, session: Any
) -> None:
    await put(real, 1)
    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    async with session.transaction():
        await put_in(session, real, 2)
        claim = asyncio.create_task(real.claim(limit=10, lease=30))
        await blocked(session)
        for task in real._opened()._tasks:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claim
    assert said == []


async def test_cancelling_while_it_opens_leaves_nothing_open(
    server: PostgresServer, schema: str, session: Any
) -> None:
    store = PostgresStore(f"{server.dsn}?application_name={schema}", schema=schema)
    async with session.transaction():
        await session.execute(calling.LOCK, schema)
        opening = asyncio.create_task(store.__aenter__())
        await blocked(session)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    question = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
    await eventually(partial(_is, session, question, 0, schema))
    async with store:
        assert (await store.counts()).waiting == 0


# What may go wrong


@pytest.mark.slow
async def test_store_works_again_after_the_server_was_restarted(schema: str) -> None:
    with own() as server:
        async with PostgresStore(server.dsn, schema=schema) as store:
            await put(store, 1)
            server.stop()
            calls: list[Awaitable[object]] = [
                store.put(delivery(2)),
                store.put(delivery(3)),
                store.get_route("r1"),
            ]
            calls += [store.claim(limit=1, lease=30), store.counts()]
            with guard():
                answers = await asyncio.gather(*calls, return_exceptions=True)
            server.start()
            await put(store, 2)
            assert numbers(await take(store)) == [1, 2]
    for failure in answers:
        assert isinstance(failure, StoreError)
        assert f"127.0.0.1:{server.port}" in str(failure)
        assert failure.__cause__ is not None


@pytest.mark.slow
async def test_store_follows_a_failover_with_all_that_was_acknowledged(schema: str) -> None:
    with own() as primary:
        async with standby_of(primary) as standby:
            hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
            address = f"postgresql://postgres:{PASSWORD}@{hosts}/postgres"
            to_the_primary = f"{address}?target_session_attrs=read-write"
            async with PostgresStore(to_the_primary, schema=schema) as store:
                await put(store, 1)
                primary.kill()
                with pytest.raises(StoreError):
                    await put(store, 2)
                connection = await asyncpg.connect(standby.dsn)
                await connection.execute("SELECT pg_promote()")
                await connection.close()
                await eventually(lambda: takes(store, 2))
                assert numbers(await take(store)) == [1, 2]


async def test_calls_fail_in_time_when_the_server_hangs(
    server: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "CALL_TIMEOUT", 0.2)
    async with PostgresStore(server.dsn, schema=schema) as store:
        await put(store, 1)
        with server.frozen(), guard():
            calls = [store.put(delivery(2)), store.claim(limit=1, lease=3600), store.counts()]
            answers = await asyncio.gather(*calls, return_exceptions=True)
        for failure in answers:
            assert isinstance(failure, StoreError)
            assert "does not answer" in str(failure)
        monkeypatch.undo()
    async with PostgresStore(server.dsn, schema=schema) as store:
        claim = await eventually(partial(store.claim, limit=1, lease=30))
        assert numbers(claim) == [1]


async def test_call_that_the_server_refuses_says_what_to_do(
    real: PostgresStore, session: Any
) -> None:
    await session.execute(f'DROP SCHEMA "{real._schema}" CASCADE')
    with pytest.raises(StoreError, match="schema is (gone|damaged)"):
        await real.counts()


async def test_times_and_filters_that_somebody_else_wrote_stall_nothing(
    real: PostgresStore, session: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await real.reserve(route(), ttl=60)
    for number in (1, 2, 3):
        await put(real, number)
    await real.put(delivery(4), reason="odd")
    for statement in (
        "UPDATE schema.deliveries SET received_at = CASE id WHEN 1 THEN 'infinity'::timestamptz"
        " WHEN 2 THEN '20000-01-01' ELSE '-infinity' END",
        "UPDATE schema.dead_letters SET received_at = '-infinity', buried_at = '20000-01-01'",
        "UPDATE schema.routes SET created_at = '20000-01-01', heartbeat_at = '4000-01-01 BC',"
        " filters = '[{'",
    ):
        await session.execute(in_schema(real, statement))
    assert numbers(await take(real)) == [1, 2, 3]
    assert [dead.reason for dead in await real.dead_letters()] == ["odd"]
    (found,) = await real.list_routes()
    assert (found.id, found.filters) == ("r1", None)
    assert found == await real.get_route("r1")
    (line,) = [record.message for record in caplog.records]
    assert line.startswith("the filters of a webhook of resource 12 were damaged in the store")


async def test_body_that_the_server_lost_becomes_a_dead_letter_and_the_others_are_claimed(
    schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    with own() as server:
        async with PostgresStore(server.dsn, schema=schema) as store:
            await put(store, 1)
            large = msgspec.structs.replace(delivery(2), body=b"x" * 10_000)
            assert await store.put(large)
            assert await store.put(msgspec.structs.replace(delivery(3), body=b"y"), reason="odd")
            letter = msgspec.structs.replace(delivery(4), body=b"z" * 10_000)
            assert await store.put(letter, reason="odd too")
            await put(store, 5)
            await put(store, 6, route="r2")
        await lose_what_is_large(server, schema)
        async with PostgresStore(server.dsn, schema=schema) as store:
            assert numbers(await take(store)) == [1, 5]
            assert numbers(await take(store)) == [6]
            letters = await store.dead_letters()
            assert [dead.body for dead in letters] == [b"y", b"", b""]
            assert letters[1].reason.startswith("its body was damaged at the server (SQLSTATE XX")
            assert letters[2].reason.startswith("delivery 2 was damaged at the server (SQLSTATE XX")
            assert [await store.get_dead_letter(dead.id) for dead in letters] == letters
            assert await store.discard([dead.id for dead in letters]) == 3
    (line,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert line.startswith("1 deliveries at postgresql://127.0.0.1")


async def test_events_that_the_server_lost_are_left_out_and_the_others_remembered(
    schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    with own() as server:
        async with PostgresStore(server.dsn, schema=schema) as store:
            claim = await settle_events(store, b"one", b"x" * 10_000, b"three")
            assert len(await store.remembered("12")) == 10_008
            assert await store.put(msgspec.structs.replace(delivery(2), body=b"x" * 10_000))
            await put(store, 3)
        await lose_what_is_large(server, schema)
        async with PostgresStore(server.dsn, schema=schema) as store:
            assert [await store.remembered("12") for _ in range(2)] == [b"onethree"] * 2
            more = await store.claim_more(claim, limit=10)
            assert more is not None
            assert more.deliveries == ()
            assert await store.end_claim(claim, handled(claim.deliveries)) is not None
            assert numbers(await take(store)) == [3]
            assert [dead.body for dead in await store.dead_letters()] == [b""]
    first, second = (record.message for record in caplog.records if record.levelname == "ERROR")
    assert first.startswith("1 records of events that were handled cannot be read at postgresql://")
    assert second.startswith("1 deliveries at postgresql://")


async def test_state_that_the_server_lost_is_empty_and_what_is_lost_is_not_shown(
    schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    with own() as server:
        async with PostgresStore(server.dsn, schema=schema) as store:
            assert await store.put_state(state("/1", text="x" * 10_000))
            assert await store.put_state(state("/1", version=1, text="x" * 10_000))
            await store.put_write(write("w1", text="x" * 10_000))
            await store.put_write(write("w2"))
            new = [delivery(1), delivery(2), delivery(3), delivery(4)]
            new[1] = msgspec.structs.replace(new[1], body=b"x" * 10_000)
            new[2] = msgspec.structs.replace(new[2], progress=os.urandom(10_000).hex())
            assert await store.put_state(state("/2", text="é lost"), deliveries=new)
            assert await store.put_state(state("/3", text="sound"))
            assert [each.id for each in await store.peek("r1")] == ["1", "2", "3", "4"]
        await lose_what_is_large(server, schema)
        await damage(server, STATES, schema, change=lambda old: old.replace("é".encode(), b"\xc3("))
        unchecked = f"{server.dsn}?options=-cignore_checksum_failure%3Don"
        async with PostgresStore(unchecked, schema=schema) as store:
            assert [number_of(each) for each in await store.peek("r1")] == [1, 4]
            assert [number_of(each) for each in await store.peek("r1", limit=1, after="1")] == [4]
            lost = state("/1", version=2, text="")
            others = [state("/2", version=1, text=""), state("/3", version=1, text="sound")]
            assert await store.list_states() == [lost, *others]
            assert await store.get_state("/1") == lost
            whole = state("/1", version=2, text="y" * 10_000)
            assert await store.put_state(whole)
            assert await store.get_state("/1") == msgspec.structs.replace(whole, version=3)
            assert await store.drop_state("/2", 1)
            assert await store.list_writes(["12"]) == [write("w2")]
    *states, lost_write = (each.message for each in caplog.records if each.levelname == "ERROR")
    first, second = states
    assert lost_write.startswith("a write at postgresql://127.0.0.1")
    assert first.startswith("the state of '/1' at postgresql://127.0.0.1")
    assert second.startswith("the state of '/2' at postgresql://127.0.0.1")


STATES = "SELECT pg_relation_filepath(format('%I.states', $1::text)::regclass)"


async def test_webhook_whose_deliveries_cannot_even_be_buried_is_set_aside(
    schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    with own() as server:
        async with PostgresStore(server.dsn, schema=schema) as store:
            await put(store, 1)
        deliveries = "SELECT pg_relation_filepath(to_regclass($1))"
        lose = partial(damage, server, deliveries, f"{schema}.deliveries")
        await lose(change=lambda old: b"\xff" * len(old))
        async with PostgresStore(server.dsn, schema=schema) as store:
            assert await store.claim(limit=10, lease=30) is None
            assert await store.claim(limit=10, lease=30) is None
    (line,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert line.startswith("the deliveries of a webhook at postgresql://")
    assert "they are set aside; check the disk" in line


async def test_claim_that_fails_though_no_delivery_is_damaged_says_so(
    real: PostgresStore, session: Any
) -> None:
    await put(real, 1)
    await session.execute(in_schema(real, DAMAGED_INDEX))
    with pytest.raises(StoreError, match="cannot read what it has stored: see its log"):
        await real.claim(limit=10, lease=30)
    assert (await real.counts()).waiting == 1


DAMAGED_INDEX = """
CREATE OR REPLACE FUNCTION schema.free(_route text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION SQLSTATE 'XX002';
END $$;
UPDATE schema.deliveries SET due = due + interval '1 h'
"""


async def lose_what_is_large(server: PostgresServer, schema: str) -> None:
    """Make the pages empty to which the server moves large values, as a bad disk would."""
    await damage(server, LARGE_VALUES, schema, change=lambda old: bytes(len(old)))


async def damage(
    server: PostgresServer, files: str, name: str, *, change: Callable[[bytes], bytes]
) -> None:
    """Change the files that this question finds, and start the server again."""
    session = await asyncpg.connect(server.dsn)
    await session.execute("CHECKPOINT")
    found = await session.fetch(files, name)
    await session.close()
    server.stop()
    for (path,) in found:
        kept = (server._data / path).read_bytes()
        (server._data / path).write_bytes(change(kept))
    server.start()


LARGE_VALUES = """
SELECT pg_relation_filepath(reltoastrelid) FROM pg_class
WHERE relnamespace = to_regnamespace($1)
    AND relname IN ('deliveries', 'dead_letters', 'events', 'states', 'writes')
"""


async def test_traceback_of_a_failing_store_shows_no_secret_and_no_body(
    real: PostgresStore, session: Any
) -> None:
    await real.reserve(route(), ttl=60)
    await real.add_candidate("r1", "the secret 1")
    given = msgspec.structs.replace(delivery(1), body=b"the body")
    await real.put(given)
    claim = await take(real)
    settlement = buried(claim.deliveries[0], [letter(body=b"the body")])
    new = Retry(delivery=msgspec.structs.replace(given, id=""), delay=0.0)
    settlement = msgspec.structs.replace(settlement, retries=(new,))
    await session.execute(f'DROP SCHEMA "{real._schema}" CASCADE')
    for call in (
        real.add_candidate("r1", "the secret 2"),
        real.confirm("r1", gid="77", secret="the secret 1"),
        real.put(msgspec.structs.replace(given, digest=bytes(32)), candidate="the secret 1"),
        real.settle(claim, settlement),
        real.put_state(state(text="the body"), deliveries=[given]),
    ):
        with pytest.raises(StoreError) as failure:
            await call
        shown = traceback.TracebackException.from_exception(failure.value, capture_locals=True)
        text = "".join(shown.format())
        assert "_server.py" in text
        assert "the secret" not in text
        assert "the body" not in text
        assert repr(bytes(32)) not in text


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("what it holds"), "unexpected RuntimeError$"),
        (asyncpg.InterfaceError("connection is closed"), "the connection was lost: check"),
        (asyncpg.InternalClientError("got result"), "the connection was lost: check"),
        (asyncpg.DuplicatePreparedStatementError("it exists"), "max_prepared_statements above 0"),
    ],
)
async def test_error_of_the_connection_is_told_from_its_class(
    real: PostgresStore, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    class OddConnection:
        async def fetch(self, *_: Any) -> list[Any]:
            raise error

    class OddPool:
        @asynccontextmanager
        async def acquire(self, *, timeout: float) -> AsyncIterator[OddConnection]:
            yield OddConnection()

    with monkeypatch.context() as patched:
        patched.setattr(real._opened(), "pool", OddPool())
        with pytest.raises(StoreError, match=message) as failure:
            await real.counts()
    assert "what it holds" not in "".join(traceback.format_exception(failure.value))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "postgresql://postgres:secret@127.0.0.1:1/db",
            "cannot be reached: nobody listens; check host",
        ),
        ("postgresql://postgres:secret@127.0.0.1:{port}/db", "refuses this user: check user"),
        ("postgresql://postgres:{password}@127.0.0.1:{port}/none", "no such database: create it"),
        ("postgresql://postgres@/postgres?host=/no/such/dir&password=secret", "cannot be reached"),
        ("postgresql://[::1]:1,127.0.0.1:1/db?password=secret", "cannot be reached"),
        (
            "postgresql://postgres:{password}@127.0.0.1:{port}/postgres?options=-c%20odd%3D1",
            "refuses a setting of its address: correct options",
        ),
        ("postgresql://u:secret@no-such-host.invalid/db", "host is unknown: correct its name"),
        (
            "postgresql://postgres:{password}@127.0.0.1:{port}/postgres?sslmode=require",
            "speaks no TLS: turn on ssl there, or write sslmode=disable",
        ),
        (
            "postgresql://postgres:{password}@127.0.0.1:{port}/postgres?sslmode=verify-full",
            "name the file of the authority with sslrootcert",
        ),
        ("postgresql://127.0.0.1:1/db?sslrootcert=/no/such/file", "sslrootcert is no file: /no/"),
        (
            "postgresql://postgres:{password}@127.0.0.1:{port}/postgres?options=-c%20geqo%3Dsecret",
            "refuses a setting of its address",
        ),
    ],
    ids=[
        *("nobody there", "password", "database", "socket", "two hosts", "setting", "host"),
        *("no TLS", "no authority", "no file", "value of a setting"),
    ],
)
async def test_store_that_cannot_be_opened_names_host_and_remedy_but_no_password(
    server: PostgresServer, caplog: pytest.LogCaptureFixture, address: str, message: str
) -> None:
    store = PostgresStore(address.format(port=server.port, password=PASSWORD))
    with pytest.raises(StoreError, match=message) as failure:
        await store.__aenter__()
    assert any(host in str(failure.value) for host in ("127.0.0.1:", "/no/such/dir", ".invalid"))
    shown = "".join(traceback.format_exception(failure.value)) + caplog.text + repr(store)
    assert "secret" not in shown
    assert PASSWORD not in shown


@pytest.mark.parametrize(
    "address",
    [
        "mysql://u:s3cret@host/db",
        "postgresql+asyncpg://u:s3cret@host/db",
        "host=localhost password=s3cret",
        "postgresql://u:s3cret#1@host/db",
        "postgresql://u:12/s3cret@host/db",
        "postgresql://u:s3cret@1@host/db",
        "postgresql://u:s3cret/db",
        "postgresql://u:s3cret[@host/db",
    ],
)
async def test_address_of_no_use_is_refused_without_being_quoted(address: str) -> None:
    with pytest.raises(ValueError, match="address of") as failure:
        PostgresStore(address)
    assert "s3cret" not in "".join(traceback.format_exception(failure.value))


@pytest.mark.parametrize("schema", ["", "a b", 'a"b', "1a", "ä", "x" * 64, "a\n", "pg_x"])
def test_schema_needs_a_plain_name(schema: str) -> None:
    with pytest.raises(ValueError, match="schema's name"):
        PostgresStore("postgresql://localhost", schema=schema)


def test_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(ValueError, match=r"asana-webhooks\[postgres\]"):
        PostgresStore("postgresql://localhost")


async def test_store_is_opened_once_and_used_inside(real: PostgresStore) -> None:
    with pytest.raises(StoreError, match="open already"):
        await real.__aenter__()
    assert (await real.counts()).waiting == 0
    with pytest.raises(StoreError, match="not open"):
        await PostgresStore("postgresql://localhost").counts()


async def test_given_pool_is_used_and_left_open(server: PostgresServer, schema: str) -> None:
    async with asyncpg.create_pool(server.dsn, min_size=0, max_size=2) as pool:
        store = PostgresStore(pool, schema=schema)
        async with store:
            await put(store, 1)
        assert await pool.fetchval(in_schema(store, "SELECT * FROM schema.counts()")) == 1
        await pool.execute(in_schema(store, calling.SET_VERSION), 99)
        with pytest.raises(StoreError, match="given pool was made by a newer version"):
            await store.__aenter__()
        assert await pool.fetchval("SELECT 1") == 1


async def test_pooler_that_mixes_up_prepared_statements_is_named(
    server: PostgresServer, schema: str
) -> None:
    async with (
        asyncpg.create_pool(server.dsn, min_size=0, max_size=1) as pool,
        PostgresStore(pool, schema=schema) as store,
    ):
        await put(store, 1)
        await pool.execute("DEALLOCATE ALL")  # as on a connection that did not prepare them
        with pytest.raises(StoreError, match="max_prepared_statements above 0, or pool_mode"):
            await put(store, 2)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("default_transaction_read_only%3Don", "read-only: connect to the primary"),
        ("default_transaction_isolation%3Dserializable", "isolation level 'read committed'"),
    ],
)
async def test_server_that_would_not_do_is_refused(
    server: PostgresServer, schema: str, option: str, message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        await PostgresStore(f"{server.dsn}?options=-c%20{option}", schema=schema).__aenter__()


async def test_warns_when_commits_do_not_wait_for_the_disk(
    server: PostgresServer, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with PostgresStore(f"{server.dsn}?options=-csynchronous_commit%3Doff", schema=schema):
        pass
    async with PostgresStore(server.dsn, schema=schema):
        pass
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.message.startswith("synchronous_commit is off at postgresql://127.0.0.1:")
    assert PASSWORD not in record.message


# The schema


@pytest.fixture
async def first_version(session: Any, schema: str) -> None:
    """Leave a schema as the first version made and filled it."""
    await leave_schema_of(1, FILLED_BY_THE_FIRST_VERSION, session, schema)


@pytest.fixture
async def third_version(session: Any, schema: str) -> None:
    """Leave a schema as the third version made and filled it."""
    await leave_schema_of(3, FILLED_BY_THE_THIRD_VERSION, session, schema)


@pytest.fixture
async def fourth_version(session: Any, schema: str) -> None:
    """Leave a schema as the fourth version made and filled it."""
    await leave_schema_of(4, FILLED_BY_THE_FOURTH_VERSION, session, schema)


@pytest.fixture
async def fifth_version(session: Any, schema: str) -> None:
    """Leave a schema as the fifth version made and filled it."""
    await leave_schema_of(5, FILLED_BY_THE_FIFTH_VERSION, session, schema)


async def leave_schema_of(version: int, filled: str, session: Any, schema: str) -> None:
    made = (Path(__file__).parent / f"support/postgres_version_{version}.sql").read_text()
    script = f'CREATE SCHEMA "{schema}";{made}{filled}'
    await session.execute(script.replace("schema.", f'"{schema}".'))


# A confirmed route with a delivery that waits and a dead letter, and a reserved route with a
# candidate and a delivery that is held for it.
FILLED_BY_THE_FIRST_VERSION = """
UPDATE schema.meta SET version = 1;
SELECT schema.reserve(id, 'https://h.example/' || id, 'https://h.example', '12', NULL,
    '2026-03-01 12:00Z', NULL, 3600, false) FROM unnest(ARRAY['r1', 'r2']) AS id;
SELECT schema.add_candidate(id, 'secret of ' || id, 4) FROM unnest(ARRAY['r1', 'r2']) AS id;
SELECT schema.confirm('r1', '77', 'secret of r1');
SELECT schema.put(ARRAY['r1', 'r2', 'r1'], ARRAY['d1', 'd2', 'd3']::bytea[],
    array_fill('2026-03-01 12:00:00.123457Z'::timestamptz, ARRAY[3]),
    ARRAY[NULL, 'secret of r2', NULL], ARRAY[NULL, NULL, 'odd'],
    ARRAY['{"events":[1]}', '{"events":[2]}', 'odd']::bytea[],
    '48 h', 0, 10, 10);
"""


# As before, and two retired routes, of which the one has a delivery that waits; the delivery of the
# confirmed route is leased.
FILLED_BY_THE_THIRD_VERSION = """
SELECT schema.reserve(id, 'https://h.example/' || id, 'https://h.example', '12', NULL,
    '2026-03-01 12:00Z', NULL, 3600, false) FROM unnest(ARRAY['r1', 'r2', 'r3', 'r4']) AS id;
SELECT schema.add_candidate(id, 'secret of ' || id, NULL, 4)
FROM unnest(ARRAY['r1', 'r2', 'r3', 'r4']) AS id;
SELECT schema.confirm_candidate(id, '77', 'secret of ' || id)
FROM unnest(ARRAY['r1', 'r3', 'r4']) AS id;
SELECT schema.put(ARRAY['r1', 'r2', 'r1', 'r4'], ARRAY['d1', 'd2', 'd3', 'd4']::bytea[],
    array_fill('2026-03-01 12:00:00.123457Z'::timestamptz, ARRAY[4]),
    ARRAY[NULL, 'secret of r2', NULL, NULL], ARRAY[NULL, NULL, 'odd', NULL],
    ARRAY['trace', '', '', ''],
    ARRAY['{"events":[1]}', '{"events":[2]}', 'odd', '{"events":[4]}']::bytea[],
    '48 h', 0, 10, 10);
UPDATE schema.routes SET state = 'retired', secret = NULL, seal = NULL WHERE id IN ('r3', 'r4');
UPDATE schema.queues SET due = due - interval '1 min' WHERE route = 'r1';
SELECT schema.lease(10, 1000, 0, false);
"""


# Four routes as before. Of the deliveries of the confirmed one the first was begun and put off, and
# the second crashed. Of the two dead letters one was begun.
FILLED_BY_THE_FOURTH_VERSION = """
SELECT schema.reserve(id, 'https://h.example/' || id, 'https://h.example', '12', NULL,
    '2026-03-01 12:00Z', NULL, 3600, false) FROM unnest(ARRAY['r1', 'r2', 'r3', 'r4']) AS id;
SELECT schema.add_candidate(id, 'secret of ' || id, NULL, 4)
FROM unnest(ARRAY['r1', 'r2', 'r3', 'r4']) AS id;
SELECT schema.confirm_candidate(id, '77', 'secret of ' || id)
FROM unnest(ARRAY['r1', 'r3', 'r4']) AS id;
SELECT schema.put(array_fill('r1'::text, ARRAY[5]) || ARRAY['r2', 'r4'],
    ARRAY['d1', 'd3', 'd5', 'd6', 'd7', 'd2', 'd4']::bytea[],
    array_fill('2026-03-01 12:00:00.123457Z'::timestamptz, ARRAY[7]),
    ARRAY[NULL, NULL, NULL, NULL, NULL, 'secret of r2', NULL],
    ARRAY[NULL, NULL, NULL, NULL, 'odd', NULL, NULL], array_fill('trace'::text, ARRAY[7]),
    ARRAY['{"events":[1]}', '{"events":[3]}', '{"events":[5]}', '{"events":[6]}', '{"events":[7]}',
        '{"events":[2]}', '{"events":[4]}']::bytea[],
    '48 h', 0, 10, 1000, 10, NULL);
SELECT schema.retire(id, '48 h') FROM unnest(ARRAY['r3', 'r4']) AS id;
UPDATE schema.queues SET due = due - interval '1 min' WHERE route = 'r1';
UPDATE schema.deliveries SET crashes = 1 WHERE digest = 'd3';
SELECT schema.claim_due(10, 1000, 0);
SELECT schema.release(route, fence, claimed[1], 0, 2, 3) FROM schema.queues WHERE route = 'r1';
SELECT schema.bury(route, fence, (SELECT id FROM schema.deliveries WHERE digest = 'd6'),
    '{r1}', '{given up}', '{2026-03-01 12:00Z}', '{2026-03-02 12:00Z}', '{4}',
    ARRAY['{"events":[6]}']::bytea[])
FROM schema.queues WHERE route = 'r1';
"""


# A route with a leased delivery, a dead letter and remembered events; of "acme" one with a delivery
# that waits, a retired one that has a dead letter only, and a reserved one.
FILLED_BY_THE_FIFTH_VERSION = """
SELECT schema.reserve(id, 'https://h.example/' || id, 'https://h.example', '12', account, NULL,
    NULL, '2026-03-01 12:00Z', NULL, 3600, false)
FROM (VALUES ('r1', ''), ('r2', 'acme'), ('r3', 'acme'), ('r4', 'acme')) AS given (id, account);
SELECT schema.add_candidate(id, 'secret of ' || id, NULL, 4)
FROM unnest(ARRAY['r1', 'r2', 'r3', 'r4']) AS id;
SELECT schema.confirm_candidate(id, '77', 'secret of ' || id, '2026-03-01 12:01Z', '{}')
FROM unnest(ARRAY['r1', 'r2', 'r3']) AS id;
SELECT schema.put_all(ARRAY['r1', 'r2', 'r3', 'r4'], ARRAY['d1', 'd2', 'd3', 'd4']::bytea[],
    array_fill('2026-03-01 12:00:00.123457Z'::timestamptz, ARRAY[4]),
    ARRAY[NULL, NULL, NULL, 'secret of r4'], ARRAY[NULL, NULL, 'odd', NULL],
    ARRAY['trace', '', '', ''],
    ARRAY['{"events":[1]}', '{"events":[2]}', '{"events":[3]}', '{"events":[4]}']::bytea[],
    '48 h', 0, 10, 1000, 10, NULL);
SELECT schema.retire('r3', 'lost', '48 h');
UPDATE schema.queues SET due = due - interval '1 min' WHERE route = 'r1';
SELECT schema.claim_next(10, 1000, 3600);
SELECT schema.settle('r1', (SELECT fence FROM schema.queues WHERE route = 'r1'), false, '{}',
    NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    '{r1}', '{given up}', '{2026-03-01 12:00Z}', '{2026-03-02 12:00Z}', ARRAY['{"upto":4}'],
    ARRAY['{"events":[6]}']::bytea[], '/12', 'settled', '48 h');
SELECT schema.put_state('acme/12', 0, 'state of acme/12', NULL, NULL, NULL, NULL, NULL, NULL);
SELECT schema.put_state('/12', 0, 'state of /12', NULL, NULL, NULL, NULL, NULL, NULL);
"""


@pytest.mark.usefixtures("fifth_version")
async def test_schema_of_the_fifth_version_is_brought_up_to_date_with_what_it_holds(
    server: PostgresServer, schema: str, session: Any
) -> None:
    async with PostgresStore(server.dsn, schema=schema) as store:
        question = in_schema(store, "SELECT fence FROM schema.queues WHERE leased")
        leased = Claim(route="r1", fence=await session.fetchval(question), deliveries=())
        assert await store.counts() == Counts(waiting=3, dead_letters=2, oldest_at=NOON)
        assert [each.id for each in await store.list_routes(account="acme")] == ["r2", "r4"]
        assert await store.remembered("/12") == b"settled"
        acme, nameless = state("acme/12", version=1, text="state of acme/12"), state(version=1)
        assert await store.list_states("acme") == [acme]
        assert await store.list_states() == [
            msgspec.structs.replace(nameless, text="state of /12"),
            acme,
        ]
        odd, given_up = await store.dead_letters()
        assert (odd.reason, given_up.progress) == ("odd", '{"upto":4}')
        assert await store.claim(limit=10, lease=30, skip_accounts=["acme"]) is None
        claim = await take(store)
        assert (claim.route, numbers(claim)) == ("r2", [2])
        assert await store.renew(leased, lease=30)  # by a worker that was brought up to date
        assert not await store.forget_account("acme")
        assert await store.end_claim(claim, handled(claim.deliveries)) == ()
        await session.execute(in_schema(store, LET_48_HOURS_GO_BY))
        assert await store.get_route("r3") is not None
        assert await store.discard([odd.id]) == 1
        assert await store.get_route("r3") is None


@pytest.mark.usefixtures("fifth_version")
@pytest.mark.parametrize(
    "call",
    [
        "SELECT schema.put_all('{r1}', '{d9}', '{2026-03-01 12:00Z}', '{NULL}', '{NULL}', '{x}',"
        " '{x}', '48 h', 0, 10, 1000, 10, NULL)",
        "SELECT schema.claim_next(10, 1000, 30)",
        "SELECT schema.claim_next_patiently(10, 1000, 30)",
        "SELECT schema.settle('r1', 0, false, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,"
        " NULL, NULL, NULL, NULL, NULL, '', '', '48 h')::boolean",
        "SELECT schema.list_routes(NULL)",
        "SELECT schema.list_states()",
    ],
    ids=lambda call: call[14:].partition("(")[0],
)
async def test_call_of_the_fifth_version_is_refused_from_then_on(
    server: PostgresServer, schema: str, session: Any, call: str
) -> None:
    await assert_refused_after_opening(server, schema, session, call)


@pytest.mark.usefixtures("fourth_version")
async def test_schema_of_the_fourth_version_is_brought_up_to_date_with_what_it_holds(
    server: PostgresServer, schema: str
) -> None:
    async with PostgresStore(server.dsn, schema=schema) as store:
        assert await store.counts() == Counts(waiting=5, dead_letters=2, oldest_at=NOON)
        first, second = await store.list_routes()
        assert (first.id, first.gid, first.secret) == ("r1", "77", "secret of r1")
        assert (first.confirmed_at, first.account, first.user) == (first.created_at, "", None)
        assert (first.leaving, first.retired_as) == (False, None)
        assert (second.state, second.confirmed_at) == ("reserved", None)
        assert second.candidates == ("secret of r2",)
        assert {(dead.reason, dead.progress) for dead in await store.dead_letters()} == {
            *(("odd", ""), ("given up", '{"upto":4}')),
        }
        assert await store.remembered("12") == b""
        claims = [await take(store) for _ in range(2)]
        assert {claim.route for claim in claims} == {"r1", "r4"}
        (begun,) = next(claim for claim in claims if claim.route == "r1").deliveries
        assert (begun.attempts, begun.progress, begun.crashes) == (2, '{"upto":3}', 0)


@pytest.mark.usefixtures("fourth_version")
@pytest.mark.parametrize(
    "call",
    [
        "SELECT schema.put('{r1}', '{d9}', '{2026-03-01 12:00Z}', '{NULL}', '{NULL}', '{x}', '{x}',"
        " '48 h', 0, 10, 1000, 10, NULL)",
        "SELECT schema.claim_due(10, 1000, 30)",
        "SELECT schema.claim_due_patiently(10, 1000, 30)",
        "SELECT schema.ack('r1', 0, '{}')",
        "SELECT schema.release('r1', 0, 1, 0, 0, 0)",
        "SELECT schema.bury('r1', 0, 1, '{}', '{}', '{}', '{}', '{}', '{}')",
        "SELECT schema.end_claim('r1', 0, '{}')",
        "SELECT schema.reserve('r9', 'h/r9', 'h', '12', NULL, now(), NULL, 9, false)",
        "SELECT schema.confirm_candidate('r2', '77', 'secret of r2')",
        "SELECT schema.retire('r1', '48 h')",
    ],
    ids=lambda call: call[14:].partition("(")[0],
)
async def test_call_of_the_fourth_version_is_refused_from_then_on(
    server: PostgresServer, schema: str, session: Any, call: str
) -> None:
    await assert_refused_after_opening(server, schema, session, call)


@pytest.mark.usefixtures("third_version")
async def test_schema_of_the_third_version_is_brought_up_to_date_with_what_it_holds(
    server: PostgresServer, schema: str
) -> None:
    async with PostgresStore(server.dsn, schema=schema) as store:
        counts = await store.counts()
        assert counts == Counts(waiting=3, dead_letters=1, oldest_at=NOON)
        first, second = await store.list_routes()
        assert (first.id, first.gid, first.secret) == ("r1", "77", "secret of r1")
        assert (second.state, second.candidates) == ("reserved", ("secret of r2",))
        claims = [await take(store), await take(store)]
        assert {(claim.route, *numbers(claim)) for claim in claims} == {("r1", 1), ("r4", 4)}
        assert {claim.deliveries[0].crashes for claim in claims} == {0}
        assert {claim.deliveries[0].trace for claim in claims} == {"trace", ""}
        assert await store.confirm("r2", gid="78", secret="secret of r2")
        assert numbers(await take(store)) == [2]


@pytest.mark.usefixtures("third_version")
async def test_route_that_an_older_version_retired_is_forgotten_48_hours_after_the_first_opening(
    server: PostgresServer, schema: str, session: Any
) -> None:
    async with PostgresStore(server.dsn, schema=schema) as store:
        pass
    question = "SELECT id, expires > now() + interval '47 h' FROM schema.routes"
    question += " WHERE state = 'retired' ORDER BY id"
    retired = await session.fetch(in_schema(store, question))
    assert [tuple(row) for row in retired] == [("r3", True), ("r4", True)]
    await session.execute(in_schema(store, LET_48_HOURS_GO_BY))
    async with store:
        assert await store.get_route("r3") is None
        assert await store.get_route("r4") is not None  # a delivery of it waits
        claims = [await take(store), await take(store)]
        for claim in claims:
            await store.end_claim(claim, handled(claim.deliveries))
        assert await store.get_route("r4") is None
    async with store:
        remembered = await session.fetch(in_schema(store, "SELECT route FROM schema.queues"))
        assert [route for (route,) in remembered] == ["r1"]


LET_48_HOURS_GO_BY = "UPDATE schema.routes SET expires = expires - interval '48 h'"


@pytest.mark.usefixtures("third_version")
@pytest.mark.parametrize(
    "call",
    [
        "SELECT schema.put('{r1}', '{d9}', '{2026-03-01 12:00Z}', '{NULL}', '{NULL}', '{x}', '{x}',"
        " '48 h', 0, 10, 10)",
        "SELECT schema.lease(10, 1000, 30, false)",
        "SELECT schema.settle('r1', 0, '{}', true)",
        "UPDATE schema.routes SET state = 'retired', secret = NULL, seal = NULL WHERE id = 'r1'",
    ],
    ids=["put", "claim", "end of a claim", "retire"],
)
async def test_call_of_the_third_version_is_refused_from_then_on(
    server: PostgresServer, schema: str, session: Any, call: str
) -> None:
    await assert_refused_after_opening(server, schema, session, call)


async def assert_refused_after_opening(
    server: PostgresServer, schema: str, session: Any, call: str
) -> None:
    """Assert that a call works on a schema until the store is opened on it, and then no more."""
    before = call.replace("schema.", f'"{schema}".')
    transaction = session.transaction()
    await transaction.start()
    await session.execute(before)
    await transaction.rollback()
    async with PostgresStore(server.dsn, schema=schema):
        with pytest.raises(asyncpg.PostgresError):
            await session.execute(before)


@pytest.mark.parametrize(
    ("version", "filled"),
    [(1, "UPDATE schema.meta SET version = 1"), (3, ""), (4, ""), (5, "")],
    ids=["version 1", "version 3", "version 4", "version 5"],
)
async def test_schema_that_is_brought_up_to_date_becomes_as_a_new_one_is(
    server: PostgresServer, schema: str, session: Any, version: int, filled: str
) -> None:
    await leave_schema_of(version, filled, session, schema)
    shapes = []
    for name in (schema, schema_name()):
        async with PostgresStore(server.dsn, schema=name):
            rows = await session.fetch(SHAPE, name)
            shapes.append([text.replace(name, "schema") for (text,) in rows])
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) > 100


SHAPE = """
SELECT format('column %s.%s %s %s %s %s', table_name, column_name, data_type, is_nullable,
    collation_name, column_default) AS part
FROM information_schema.columns WHERE table_schema = $1
UNION ALL SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = $1
UNION ALL SELECT format('constraint %s %s', conrelid::regclass, pg_get_constraintdef(oid))
FROM pg_constraint WHERE connamespace = to_regnamespace($1)
UNION ALL SELECT 'function ' || pg_get_functiondef(oid)
FROM pg_proc WHERE pronamespace = to_regnamespace($1)
UNION ALL SELECT 'view ' || definition FROM pg_views WHERE schemaname = $1
ORDER BY part
"""


@pytest.mark.usefixtures("first_version")
async def test_schema_of_the_first_version_is_brought_up_to_date_with_what_it_holds(
    server: PostgresServer, schema: str
) -> None:
    async with PostgresStore(server.dsn, schema=schema) as store:
        counts = await store.counts()
        assert counts == Counts(waiting=2, dead_letters=1, oldest_at=NOON)
        first, second = await store.list_routes()
        assert (first.id, first.gid, first.secret) == ("r1", "77", "secret of r1")
        assert (second.state, second.candidates) == ("reserved", ("secret of r2",))
        assert numbers(await take(store)) == [1]
        assert await store.confirm("r2", gid="78", secret="secret of r2")
        claim = await take(store)
        assert (claim.route, numbers(claim), claim.deliveries[0].trace) == ("r2", [2], "")


@pytest.mark.usefixtures("first_version")
async def test_processes_that_start_at_once_bring_the_schema_up_to_date_once(
    server: PostgresServer, schema: str, session: Any
) -> None:
    stores = [PostgresStore(server.dsn, schema=schema) for _ in range(3)]
    async with session.transaction():
        await session.execute(calling.LOCK, schema)
        opening = asyncio.gather(*(store.__aenter__() for store in stores))
        await blocked(session, 3)
    await opening
    for store in stores:
        assert (await store.counts()).waiting == 2
        await store.__aexit__(None, None, None)


@pytest.mark.usefixtures("first_version")
async def test_schema_is_brought_up_to_date_although_a_call_is_in_the_way(
    server: PostgresServer, schema: str, session: Any
) -> None:
    store = PostgresStore(f"{server.dsn}?options=-cdeadlock_timeout%3D2s", schema=schema)
    async with session.transaction():
        await session.execute("SET LOCAL deadlock_timeout = '20s'")  # so the store looks first
        await session.execute(f"SELECT FROM {schema}.deliveries")
        opening = asyncio.create_task(store.__aenter__())
        await blocked(session)
        await session.execute(f"SELECT FROM {schema}.routes")  # now each waits for the other
    await opening
    assert (await store.counts()).waiting == 2
    await store.__aexit__(None, None, None)


@pytest.mark.usefixtures("first_version")
@pytest.mark.parametrize(
    "call",
    [
        "SELECT * FROM schema.current_routes WHERE id = 'r1'",
        "SELECT schema.add_candidate('r2', 'another', 4)",
        "SELECT schema.confirm('r2', '78', 'secret of r2')",
        "SELECT * FROM schema.drop_reserved('r2')",
        "SELECT * FROM schema.put('{r1}', '{d9}', '{2026-03-01 12:00Z}', '{NULL}', '{NULL}', '{x}',"
        " '48 h', 0, 10, 10)",
        "SELECT * FROM schema.claim(10, 1000, 30)",
        "SELECT schema.waiting(NULL)",
        "UPDATE schema.routes SET state = 'retired', secret = NULL WHERE id = 'r1'",
    ],
    ids=["find", "candidate", "confirm", "drop", "put", "claim", "waiting", "retire"],
)
async def test_call_of_the_first_version_is_refused_from_then_on_and_does_nothing(
    server: PostgresServer, schema: str, session: Any, call: str
) -> None:
    before = call.replace("schema.", f'"{schema}".')
    transaction = session.transaction()
    await transaction.start()
    await session.execute(before)
    await transaction.rollback()
    keys = [Fernet.generate_key().decode()]
    async with PostgresStore(server.dsn, schema=schema, encryption_keys=keys) as store:
        with pytest.raises(asyncpg.PostgresError):
            await session.execute(before)
        assert (await store.counts()).waiting == 2
        found = await store.get_route("r1")
        assert found is not None
        assert found.secret == "secret of r1"


async def test_failed_migration_leaves_nothing_behind(
    server: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch, session: Any
) -> None:
    with monkeypatch.context() as patched:
        script = calling._script
        more = "ALTER TABLE schema.none ADD a int"
        patched.setattr(calling, "_script", lambda name: script(name) + more)
        with pytest.raises(StoreError, match="damaged"):
            await PostgresStore(server.dsn, schema=schema).__aenter__()
    assert await session.fetchval("SELECT to_regnamespace($1)", schema) is None
    async with PostgresStore(server.dsn, schema=schema) as store:
        assert (await store.counts()).waiting == 0


async def test_schema_may_be_made_by_somebody_who_may_do_more(
    server: PostgresServer, schema: str, session: Any
) -> None:
    await session.execute(f"CREATE ROLE {schema} LOGIN PASSWORD '{PASSWORD}'")
    address = f"postgresql://{schema}:{PASSWORD}@127.0.0.1:{server.port}/postgres"
    with pytest.raises(StoreError, match="permission is denied: let this user create"):
        await PostgresStore(address, schema=schema).__aenter__()
    await session.execute(f"CREATE SCHEMA {schema} AUTHORIZATION {schema}")
    async with PostgresStore(address, schema=schema) as store:
        await put(store, 1)
        assert numbers(await take(store)) == [1]


async def test_cost_of_a_claim_grows_neither_with_deliveries_nor_with_leased_routes(
    real: PostgresStore, session: Any
) -> None:
    read = []
    for deliveries, routes in [(200, 20), (20_000, 2000)]:
        await session.execute(in_schema(real, "TRUNCATE schema.deliveries, schema.queues"))
        await session.execute(in_schema(real, MANY_DELIVERIES), deliveries)
        await session.execute(in_schema(real, MANY_ROUTES), routes)
        read.append(await rows_read(real, session))
    assert read[0] == read[1]
    assert read[0]["deliveries"] + read[0]["queues"] < 20


async def test_peeking_looks_at_what_waits_of_its_route_only(
    real: PostgresStore, session: Any
) -> None:
    await put(real, 1, 2, route="rare")
    await session.execute(in_schema(real, "ANALYZE schema.deliveries"))  # all are of it, it says
    await session.execute(in_schema(real, MANY_DELIVERIES), 20_000)
    await put(real, 3, route="rare")
    async with session.transaction():
        before = dict(await session.fetch(ROWS_READ, real._schema))
        rows = await session.fetch(in_schema(real, PEEK), "rare")
        after = dict(await session.fetch(ROWS_READ, real._schema))
    assert len(rows) == 3
    assert after["deliveries"] - before["deliveries"] < 10


PEEK = "SELECT * FROM schema.peek($1, 0, 100, 1000000)"


async def test_what_is_too_young_to_be_forgotten_is_not_even_looked_at(
    real: PostgresStore, session: Any
) -> None:
    await session.execute(in_schema(real, MANY_DIGESTS))
    await session.execute(in_schema(real, MANY_EVENTS))
    async with session.transaction():
        await session.execute(in_schema(real, "SELECT schema.forget('48 h', 512)"))
        read = dict(await session.fetch(ROWS_READ, real._schema))
    assert read["seen"] + read["events"] < 10  # what a plan is made from is looked at


MANY_DIGESTS = """
INSERT INTO schema.seen SELECT sha256(n::text::bytea), now() FROM generate_series(1, 5000) AS n
"""
MANY_EVENTS = """
INSERT INTO schema.events (scope, at, packed)
SELECT '12', now(), '' FROM generate_series(1, 5000) AS n
"""


async def test_oldest_delivery_is_found_by_one_look_per_queue(
    real: PostgresStore, session: Any
) -> None:
    await session.execute(in_schema(real, MANY_DELIVERIES), 20_000)
    await session.execute(in_schema(real, MANY_ROUTES), 50)
    await session.execute(in_schema(real, IDLE_ROUTES))
    async with session.transaction():
        before = dict(await session.fetch(ROWS_READ, real._schema))
        assert await session.fetchval(in_schema(real, "SELECT schema.find_oldest()")) is not None
        after = dict(await session.fetch(ROWS_READ, real._schema))
    assert after["queues"] - before["queues"] == 51
    assert after["deliveries"] - before["deliveries"] == 26


async def test_cost_of_a_claim_does_not_grow_with_the_queues_of_accounts_that_are_passed_by(
    real: PostgresStore, session: Any
) -> None:
    read = []
    for routes in (200, 2000):
        await session.execute(in_schema(real, "TRUNCATE schema.deliveries, schema.queues"))
        await session.execute(in_schema(real, MANY_DELIVERIES), 4000)
        await session.execute(in_schema(real, MANY_ROUTES), routes)
        await session.execute(in_schema(real, NOISY_ROUTES))
        read.append(await rows_read(real, session, passed=["noisy", "none"]))
    assert read[0] == read[1]
    assert read[0]["queues"] < 90


NOISY_ROUTES = """
UPDATE schema.queues SET account = CASE route WHEN 'r0' THEN 'quiet' ELSE 'noisy' END,
    due = due + CASE route WHEN 'r0' THEN interval '1 min' ELSE interval '0' END
"""


async def test_claim_passes_by_accounts_in_whatever_place_their_queues_are(
    real: PostgresStore,
) -> None:
    accounts = ["noisy"] * 70 + ["", "quiet", "calm", "", "quiet"]
    for number, account in enumerate(accounts):
        assert await real.reserve(route(f"r{number}", account=account, resource="1"), ttl=60)
        await put(real, number, route=f"r{number}")
    claimed = []
    while claim := await real.claim(limit=1, lease=30, skip_accounts=["noisy", "calm"]):
        claimed.append(claim.route)
    assert claimed == ["r70", "r71", "r73", "r74"]
    named = await real.claim(limit=1, lease=30, skip_accounts=["noisy", ""])
    assert named is not None
    assert named.route == "r72"


# Half of them belong to one route, and half of the routes are leased.
MANY_DELIVERIES = """
INSERT INTO schema.deliveries (route, digest, received_at, due, body)
SELECT 'r' || n * (n % 2), sha256(n::text::bytea), now(), now() - interval '1 h', 'x'
FROM generate_series(1, $1::integer) AS n
"""
MANY_ROUTES = """
INSERT INTO schema.queues (route, due, leased)
SELECT 'r' || n, now() + (CASE WHEN n % 2 = 0 THEN '-30 min' ELSE '1 h' END)::interval, n % 2 = 1
FROM generate_series(0, $1::integer) AS n
"""
IDLE_ROUTES = "INSERT INTO schema.queues (route) SELECT 'idle ' || n FROM generate_series(1, 999) n"


async def rows_read(
    store: PostgresStore, session: Any, *, passed: list[str] | None = None
) -> dict[str, int]:
    """Return how many rows of each table a claim and its finish looked at."""
    transaction = session.transaction()
    await transaction.start()
    before = dict(await session.fetch(ROWS_READ, store._schema))
    rows = await session.fetch(in_schema(store, CLAIM), 1, 1000, 30.0, passed)
    assert len(rows) == 1
    claim = claim_of(rows)
    assert claim is not None
    values = values_of(claim, handled(claim.deliveries), is_last=True)
    assert await session.fetchval(in_schema(store, SETTLE), *values) == []
    after = dict(await session.fetch(ROWS_READ, store._schema))
    await transaction.rollback()
    return {table: after[table] - before[table] for table in ("deliveries", "queues")}


CLAIM = "SELECT * FROM schema.claim_next($1, $2, $3, $4)"
SETTLE = f"SELECT schema.settle({', '.join(f'${number}' for number in range(1, 21))})"
ROWS_READ = """
SELECT relname, seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE schemaname = $1
"""

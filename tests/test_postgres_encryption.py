"""Secrets at rest on a PostgreSQL server, and what other processes do while they are renewed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import asyncpg
import pytest
from conftest import eventually
from support.postgres_server import PostgresServer, running, schema_name
from test_encryption import *  # noqa: F403 - the tests of secrets at rest, for this store
from test_encryption import (
    NEW,
    OLD,
    RIVAL,
    SECRET,
    Dump,
    Make,
    confirm,
    delivery,
    reserve,
    secret_of,
)

from asana_webhooks.errors import StoreError
from asana_webhooks.stores import Store
from asana_webhooks.stores.postgres import PostgresStore

pytestmark = [pytest.mark.servers, pytest.mark.slow]


@pytest.fixture
def server() -> PostgresServer:
    return running()


@pytest.fixture
def schema() -> str:
    return schema_name()


@pytest.fixture
def make(server: PostgresServer, schema: str) -> Make:
    def make(keys: Sequence[str] | None) -> PostgresStore:
        return PostgresStore(server.dsn, schema=schema, encryption_keys=keys)

    return make


@pytest.fixture
def dump(server: PostgresServer, schema: str) -> Dump:
    """Return what shows every row of every table, from a loop of its own."""

    def dump() -> bytes:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, rows_of(server, schema)).result()

    return dump


async def rows_of(server: PostgresServer, schema: str) -> bytes:
    session = await asyncpg.connect(server.dsn)
    try:
        tables = await session.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = $1", schema
        )
        rows = []
        for (table,) in tables:
            question = f'SELECT t::text FROM "{schema}"."{table}" t'  # noqa: S608 - its own names
            rows += [text for (text,) in await session.fetch(question)]
    finally:
        await session.close()
    return "\n".join(rows).encode()


@pytest.fixture
async def session(server: PostgresServer, schema: str) -> AsyncIterator[Any]:
    """Yield a session that does what another process might do just then."""
    connection = await asyncpg.connect(server.dsn)
    await connection.execute(f"SET search_path = {schema}")
    yield connection
    await connection.close()


async def renewing(make: Make, session: Any, *, waiting: int = 1) -> asyncio.Task[None]:
    """Return when a process with the new key waits, as so many do, for what the session locked."""

    async def renew() -> None:
        async with make([NEW, OLD]):
            pass

    opening = asyncio.create_task(renew())
    await eventually(partial(_wait, session, waiting))
    return opening


async def _wait(session: Any, processes: int) -> bool:
    waiting = await session.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")
    return bool(waiting == processes)


@pytest.mark.parametrize("keys", [None, [OLD]], ids=["in clear", "older key"])
async def test_secret_that_is_forgotten_while_it_is_renewed_stays_so(
    make: Make, dump: Dump, session: Any, keys: list[str] | None
) -> None:
    async with make(keys) as store:
        await confirm(store)
    async with session.transaction():
        await session.execute("SELECT retire('r1', 'deleted', '48 h')")
        opening = await renewing(make, session)
    await opening
    async with make([NEW]) as store:
        assert await secret_of(store) is None
    assert b"sha256:" not in dump()


@pytest.mark.parametrize("keep", [reserve, confirm], ids=["candidate", "secret"])
async def test_what_another_process_sealed_meanwhile_is_left_to_it(
    make: Make, dump: Dump, session: Any, keep: Callable[[Store], Awaitable[None]]
) -> None:
    async with make([OLD]) as store:
        await keep(store)
    async with session.transaction():
        await session.execute("UPDATE routes SET seal = 'theirs' WHERE secret IS NOT NULL")
        await session.execute("SELECT FROM routes FOR UPDATE")
        await session.execute("UPDATE candidates SET seal = 'theirs'")
        opening = await renewing(make, session)
    await opening
    assert b"theirs" in dump()
    assert b"gAAAA" not in dump()  # as each seal of a key begins


async def test_candidate_that_is_confirmed_while_it_is_renewed_is_renewed_all_the_same(
    make: Make, session: Any
) -> None:
    async with make([OLD]) as store:
        await reserve(store)
        mark = await session.fetchval("SELECT secret FROM candidates ORDER BY id")
    async with session.transaction():
        assert await session.fetchval("SELECT confirm_candidate('r1', '77', $1, now(), '{}')", mark)
        opening = await renewing(make, session)
    await opening
    async with make([NEW]) as store:
        assert await secret_of(store) == SECRET


async def test_processes_that_renew_at_once_do_not_hinder_each_other(
    make: Make, session: Any
) -> None:
    async with make([OLD]) as store:
        for number in range(5):
            await confirm(store, f"r{number}")
    async with session.transaction():
        await session.execute("SELECT FROM routes FOR UPDATE")
        openings = [await renewing(make, session, waiting=number) for number in (1, 2, 3)]
    await asyncio.gather(*openings)
    async with make([NEW]) as store:
        assert [each.secret for each in await store.list_routes()] == [SECRET] * 5


async def test_delivery_that_is_held_while_its_candidate_is_renewed_is_kept(
    make: Make, session: Any
) -> None:
    async with make([OLD]) as serving:
        await reserve(serving)
        await serving.put(delivery(1), candidate=SECRET)
        async with session.transaction():
            await session.execute("SELECT FROM routes FOR KEY SHARE")
            opening = await renewing(make, session)
            await serving.put(delivery(2), candidate=SECRET)
        await opening
        await serving.put(delivery(3), candidate=SECRET)
    async with make([NEW]) as store:
        assert await store.confirm("r1", gid="77", secret=SECRET)
        claim = await store.claim(limit=9, lease=9)
        assert claim is not None
        assert [each.body for each in claim.deliveries] == [b"1", b"2", b"3"]


async def test_candidate_kept_in_clear_and_encrypted_becomes_one_with_all_it_holds(
    make: Make, dump: Dump
) -> None:
    async with make(None) as careless:
        await reserve(careless)
        async with make([NEW]) as store:
            assert await careless.add_candidate("r1", SECRET)
            for number, process in enumerate((store, careless)):
                assert await process.put(delivery(number), candidate=SECRET)
    async with make([NEW]) as store:
        found = await store.get_route("r1")
        assert found is not None
        assert sorted(found.candidates) == [SECRET, RIVAL]
        assert await store.confirm("r1", gid="77", secret=SECRET)
        claim = await store.claim(limit=9, lease=9)
        assert claim is not None
        assert [each.body for each in claim.deliveries] == [b"0", b"1"]
    assert SECRET.encode() not in dump()


async def test_expired_route_with_a_lost_key_is_forgotten_and_hinders_nobody(
    make: Make, session: Any
) -> None:
    async with make([OLD]) as store:
        await reserve(store)
    await session.execute("UPDATE routes SET expires = now()")
    async with make([NEW]) as store:
        assert await store.list_routes() == []
    assert await session.fetchval("SELECT count(*) FROM candidates") == 0


@pytest.mark.parametrize("keep", [reserve, confirm], ids=["candidate", "secret"])
async def test_damaged_secret_of_a_store_without_keys_blames_no_key_and_hinders_no_other(
    make: Make,
    session: Any,
    caplog: pytest.LogCaptureFixture,
    keep: Callable[[Store, str], Awaitable[None]],
) -> None:
    async with make([]) as store:
        await keep(store, "r1")
        await confirm(store, "r2")
    await session.execute("UPDATE routes SET seal = 'damaged' WHERE secret <> '' AND id = 'r1'")
    await session.execute("UPDATE candidates SET seal = 'damaged' WHERE route = 'r1'")
    async with make([]) as store:
        assert await secret_of(store, "r2") == SECRET
    (line,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert "of resource 12 is set aside: its secret cannot" in line


@pytest.mark.parametrize("keep", [reserve, confirm], ids=["candidate", "secret"])
async def test_one_damaged_ciphertext_sets_its_route_aside_and_no_other(
    make: Make,
    session: Any,
    caplog: pytest.LogCaptureFixture,
    keep: Callable[[Store, str], Awaitable[None]],
) -> None:
    async with make([OLD]) as store:
        await keep(store, "r1")
        await confirm(store, "r2")
    await session.execute("UPDATE routes SET seal = 'damaged' WHERE id = 'r1' AND seal <> ''")
    await session.execute("UPDATE candidates SET seal = 'damaged' WHERE route = 'r1'")
    async with make([OLD]) as store:
        assert await secret_of(store, "r2") == SECRET
        with pytest.raises(StoreError, match="encryption_keys"):
            await store.get_route("r1")
        for _ in range(2):
            damaged, whole = await store.list_routes()
        assert (damaged.id, damaged.secret, damaged.candidates) == ("r1", None, ())
        assert whole.secret == SECRET
    lines = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert len(lines) == 2  # at the opening, and when it is listed
    assert all("of resource 12" in line and "r1" not in line for line in lines)

"""A store that fails under a receiver: never a false 200, and all is well again afterwards."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
import asyncpg
import httpx
import pytest
from conftest import eventually, until
from support.postgres_server import PostgresServer
from support.replicas import BUSY, KEPT_LEASE, LEASE, Replica, Sent, Webhook, World
from support.valkey_server import ValkeyServer

pytestmark = [pytest.mark.slow, pytest.mark.own_server]

LARGEST_POOL = 16
"""Connections that a store opens at most."""

servers = pytest.mark.parametrize("world", ["valkey", "postgres"], indirect=True)
on_sqlite = pytest.mark.parametrize("world", ["sqlite"], indirect=True)


@pytest.fixture
async def webhook(world: World) -> Webhook:
    webhook = Webhook(1)
    await world.confirm(webhook)
    return webhook


async def status_of(world: World, sent: Sent, replica: Replica) -> int:
    """Return the status of an answer that came in time, and says when to try again if it is 503."""
    with anyio.fail_after(5 + BUSY):
        answer = await world.post(sent, replica)
    assert isinstance(answer, httpx.Response)
    if answer.status_code == 503:
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
    return answer.status_code


async def send(world: World, webhook: Webhook, replica: Replica, stop: asyncio.Event) -> set[str]:
    """Post one delivery after the other until told to stop; return which were acknowledged."""
    acknowledged: set[str] = set()
    while not stop.is_set():
        sent = webhook.delivery()
        while (status := await status_of(world, sent, replica)) != 200:
            assert status == 503
            await anyio.sleep(0.02)
        acknowledged.add(sent.gid)
    return acknowledged


@servers
async def test_server_that_is_killed_midway_costs_nothing_and_is_found_again(
    world: World,
) -> None:
    server = world.place.server
    assert server is not None
    webhooks = [Webhook(number) for number in range(1, 5)]
    await world.confirm(*webhooks)
    replica = await world.started(serve=True, work=True, lease=LEASE)
    stop = asyncio.Event()
    sending = [asyncio.create_task(send(world, each, replica, stop)) for each in webhooks]
    await until(lambda: len(world.lines()) > 50)
    open_files = open_files_of(replica)
    probes = [webhooks[0].delivery() for _ in range(3)]
    for probe in probes:
        server.kill()
        assert await status_of(world, probe, replica) == 503
        assert not await is_ready(world, replica)
        await anyio.to_thread.run_sync(server.start)  # it takes seconds on a slow disk
        await until(partial(has_handled, world, len(world.lines()) + 50))
        assert await is_ready(world, replica)
        assert await world.is_accepted(probe, replica)
    assert open_files_of(replica) <= open_files + LARGEST_POOL
    stop.set()
    acknowledged = {probe.gid for probe in probes}.union(*await asyncio.gather(*sending))
    await eventually(world.is_empty)
    assert set(world.gids()) == acknowledged


def has_handled(world: World, count: int) -> bool:
    return len(world.lines()) > count


def open_files_of(replica: Replica) -> int:
    return len(os.listdir(f"/proc/{replica.pid}/fd"))


@servers
async def test_replica_without_its_server_refuses_to_start_and_says_why(world: World) -> None:
    server = world.place.server
    assert server is not None
    await world.confirm(Webhook(1))
    server.kill()
    with pytest.raises(RuntimeError, match="StoreError: the store (at|on) .* cannot be reached"):
        await world.started(serve=True)
    server.start()
    replica = await world.started(serve=True)
    assert await is_ready(world, replica)


async def is_ready(world: World, replica: Replica) -> bool:
    answer = await world.http.get(f"http://127.0.0.1:{replica.orders.port}/readyz")
    assert answer.status_code in (200, 503)
    return answer.status_code == 200


async def test_store_that_hangs_is_answered_503_in_time_and_the_repeat_is_handled_once(
    world: World, webhook: Webhook
) -> None:
    replica = await world.started(serve=True, work=True, lease=KEPT_LEASE)
    sent, before = webhook.delivery(), webhook.delivery()
    assert await status_of(world, before, replica) == 200
    await eventually(world.is_empty)
    with world.place.hanging():
        assert await status_of(world, sent, replica) == 503
    await eventually(lambda: world.is_accepted(sent, replica))
    await until(lambda: sent.gid in world.gids())
    await eventually(world.is_empty)
    assert world.gids() == [before.gid, sent.gid]


@asynccontextmanager
async def read_only(server: ValkeyServer | PostgresServer | None) -> AsyncIterator[None]:
    """Have the server refuse to write for as long as the block lasts."""
    if isinstance(server, ValkeyServer):
        with server.client() as client:
            client.config_set("min-replicas-to-write", 1)
            yield
            client.config_set("min-replicas-to-write", 0)
        return
    assert server is not None
    connection = await asyncpg.connect(server.dsn)
    try:
        await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await connection.execute("SELECT pg_reload_conf()")
        yield
    finally:
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()


@servers
async def test_server_that_takes_no_writes_is_answered_503_until_it_does(
    world: World, webhook: Webhook
) -> None:
    replica = await world.started(serve=True, work=True)
    refused: list[Sent] = []

    async def is_refused() -> bool:
        sent = webhook.delivery()
        status = await status_of(world, sent, replica)
        if status == 503:
            refused.append(sent)
        else:
            assert status == 200
            assert not refused
        return status == 503

    async with read_only(world.place.server):
        for _ in range(3):  # the setting reaches a session soon
            await eventually(is_refused)
    for sent in refused:
        await eventually(partial(world.is_accepted, sent, replica))
    await until(lambda: {sent.gid for sent in refused} <= set(world.gids()))
    await eventually(world.is_empty)
    assert len(world.gids()) == len(set(world.gids()))


@on_sqlite
async def test_full_disk_is_answered_503_and_what_was_acknowledged_is_there_afterwards(
    world: World, webhook: Webhook
) -> None:
    receiver = await world.started(serve=True, file_size=400_000)
    statuses: dict[Sent, int] = {}
    while 503 not in statuses.values():
        sent = webhook.delivery(size=20_000)
        statuses[sent] = await status_of(world, sent, receiver)
    for _ in range(5):
        sent = webhook.delivery(size=20_000)
        statuses[sent] = await status_of(world, sent, receiver)
    assert set(statuses.values()) == {200, 503}
    receiver.kill()
    replica = await world.started(serve=True, work=True)
    acknowledged = {sent.gid for sent, status in statuses.items() if status == 200}
    await until(lambda: acknowledged <= set(world.gids()))
    assert set(world.gids()) == acknowledged  # nothing was stored and refused
    for sent in statuses:
        assert await world.is_accepted(sent, replica)
    await until(lambda: len(world.gids()) == len(statuses))
    await eventually(world.is_empty)
    assert "check the disk" in world.log()

"""Workers of one process hear of what another has stored before they would have looked."""

import asyncio
from collections.abc import Callable, Coroutine, Sized
from functools import partial
from typing import Any

import asyncpg
import httpx
import pytest
from conftest import eventually, guard, until
from redis.asyncio import BlockingConnectionPool, Redis
from support.plain_http import NO_TLS
from support.ports import free_tcp_port
from support.replicas import Webhook, World, confirm

from asana_webhooks import Event, MemoryStore, PostgresStore, RedisStore, StoreError
from asana_webhooks import _arrivals as module
from asana_webhooks._arrivals import listen_for_arrivals, notify_arrivals
from asana_webhooks._background import background_task
from asana_webhooks._inbox import Inbox
from asana_webhooks.router import Router
from asana_webhooks.serving import serve_store
from asana_webhooks.stores import Store

on_valkey = pytest.mark.parametrize("world", ["valkey"], indirect=True)
on_postgres = pytest.mark.parametrize("world", ["postgres"], indirect=True)
servers = pytest.mark.parametrize("world", ["valkey", "postgres"], indirect=True)


pytestmark = pytest.mark.own_server


class Announcing(MemoryStore):
    """Counts what it is to announce; fails, or waits, when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.announced = 0
        self.failures: list[Exception] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def notify(self) -> None:
        self.announced += 1
        await self.go_on.wait()
        if self.failures:
            raise self.failures.pop()


# Telling


async def test_each_arrival_is_announced_and_those_during_an_announcement_once_more() -> None:
    store, arrived = Announcing(), asyncio.Event()
    store.go_on.clear()
    async with background_task(notify_arrivals(store, arrived), "hints"):
        arrived.set()
        await until(lambda: store.announced == 1)
        for _ in range(3):
            arrived.set()
            await asyncio.sleep(0)
        assert store.announced == 1
        store.go_on.set()
        await until(lambda: store.announced == 2)
    assert not arrived.is_set()


async def test_announcement_that_fails_is_lost_and_the_next_is_made() -> None:
    store, arrived = Announcing(), asyncio.Event()
    store.failures.append(StoreError("away"))
    async with background_task(notify_arrivals(store, arrived), "hints"):
        arrived.set()
        await until(lambda: not store.failures)
        arrived.set()
        await until(lambda: store.announced == 2)


async def test_inbox_announces_until_somebody_works_in_its_process() -> None:
    store, webhook, seen = Announcing(), Webhook(1), []
    await confirm(store, webhook)

    async def note(event: Event) -> None:
        seen.append(event.resource.gid)

    async with Inbox(store) as inbox:
        inbox.arrived()
        await until(lambda: store.announced == 1)
        async with background_task(inbox.drain(routed_to(note)), "drain"):
            for count in (1, 2, 3):
                assert await store.put(webhook.delivery().stored())
                await until(partial(has_seen, seen, count))
                inbox.arrived()
            inbox.stop()
    assert store.announced == 1


async def test_receiver_without_a_client_announces_what_it_stores() -> None:
    store, webhook, stop, port = Announcing(), Webhook(1), asyncio.Event(), free_tcp_port()
    await confirm(store, webhook)
    serving = serve_store(store, host="127.0.0.1", port=port, stop=stop)
    async with background_task(serving, "serving"):
        await eventually(lambda: is_accepted(webhook, port))
        await until(lambda: store.announced == 1)
        stop.set()


# Hearing


async def test_store_without_hints_is_asked_once() -> None:
    async with MemoryStore() as store:
        await listen_for_arrivals(store, asyncio.Event())


class Broken(MemoryStore):
    """Fails with what no store should raise, the first time; then it works."""

    calls = 0

    async def notify(self) -> None:
        self.calls += 1
        if self.calls == 1:
            raise LookupError("no such channel")

    async def listen(self, arrived: Callable[[], None]) -> None:
        self.calls += 1
        if self.calls == 1:
            raise LookupError("no such channel")
        arrived()
        await asyncio.Event().wait()


def has_called(store: Broken, count: int) -> bool:
    return store.calls == count


async def test_telling_goes_on_after_whatever_a_store_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, arrived = Broken(), asyncio.Event()
    async with background_task(notify_arrivals(store, arrived), "tell"):
        for number in (1, 2):
            arrived.set()
            await until(partial(has_called, store, number))
    assert "cannot tell other processes" in caplog.text
    assert "no such channel" in caplog.text


async def test_hearing_goes_on_after_whatever_a_store_raised(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LISTEN_PAUSE", 0.001)
    store, arrived = Broken(), asyncio.Event()
    async with background_task(listen_for_arrivals(store, arrived), "hear"):
        await until(arrived.is_set)
    assert "cannot hear of other processes" in caplog.text
    assert "no such channel" in caplog.text


@servers
async def test_all_who_watch_hear_what_any_store_announces(world: World) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    async with (
        world.place.store() as one,
        world.place.store() as two,
        background_task(one.listen(first.set), "watch"),
        background_task(two.listen(second.set), "watch"),
    ):
        await announced_until(two, first.is_set)
        await announced_until(one, second.is_set)


@servers
async def test_stores_of_another_name_are_not_heard(world: World) -> None:
    ours, theirs = asyncio.Event(), asyncio.Event()
    async with world.place.store() as one:
        world.place.name += "_of_others"
        async with (
            world.place.store() as two,
            background_task(one.listen(ours.set), "watch"),
            background_task(two.listen(theirs.set), "watch"),
        ):
            await announced_until(two, theirs.is_set)
            await announced_until(one, ours.is_set)
            ours.clear()
            theirs.clear()
            await two.notify()
            await until(theirs.is_set)
            assert not ours.is_set()


@servers
async def test_hearing_goes_on_after_the_server_was_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LISTEN_PAUSE", 0.05)
    server, arrived = world.place.server, asyncio.Event()
    assert server is not None
    async with (
        world.place.store() as one,
        world.place.store() as two,
        background_task(listen_for_arrivals(one, arrived), "hear"),
    ):
        await announced_until(two, arrived.is_set)
        server.kill()
        with pytest.raises(StoreError):
            await two.notify()
        server.start()
        arrived.clear()
        await announced_until(two, arrived.is_set)


@servers
async def test_who_watches_is_told_when_the_server_goes(world: World) -> None:
    server, arrived = world.place.server, asyncio.Event()
    assert server is not None
    async with world.place.store() as store:
        watching = asyncio.create_task(store.listen(arrived.set))
        await announced_until(store, arrived.is_set)
        server.kill()
        with pytest.raises(StoreError, match="check that"):
            await watching
        with pytest.raises(StoreError, match="(cannot be reached|was lost)[:,] "):
            await store.listen(never)
        server.start()


@servers
async def test_hearing_can_be_ended_when_the_server_goes(world: World) -> None:
    server, arrived = world.place.server, asyncio.Event()
    assert server is not None
    async with world.place.store() as store:
        hearing = asyncio.create_task(listen_for_arrivals(store, arrived))
        await announced_until(store, arrived.is_set)
        server.kill()
        hearing.cancel()
        with guard():
            await asyncio.wait([hearing])
        assert hearing.cancelled()
        server.start()


@servers
async def test_watching_that_is_cancelled_at_any_step_ends(world: World) -> None:
    async with world.place.store() as store:
        for steps in range(60):
            watching = asyncio.create_task(store.listen(never))
            for _ in range(steps):
                await asyncio.sleep(0)
            watching.cancel()
            with guard():
                await asyncio.wait([watching])
            assert watching.cancelled()


@servers
async def test_delivery_that_one_process_stored_is_handled_by_another_before_its_look(
    world: World,
) -> None:
    webhook, seen = Webhook(1), []
    await world.confirm(webhook)

    async def note(event: Event) -> None:
        seen.append(event.resource.gid)

    async with (
        world.place.store() as theirs,
        world.place.store() as ours,
        Inbox(theirs) as receiver,
        Inbox(ours, poll=3600.0) as worker,
        background_task(worker.drain(routed_to(note)), "drain"),
    ):

        async def is_handled() -> bool:
            sent = webhook.delivery()
            assert await theirs.put(sent.stored())
            receiver.arrived()
            await asyncio.sleep(0.05)
            return sent.gid in seen

        await eventually(is_handled)  # the first ones may come before the worker listens
        worker.stop()


@on_postgres
async def test_pool_of_one_connection_is_left_to_the_calls(world: World) -> None:
    async with (
        asyncpg.create_pool(world.place.address, min_size=1, max_size=1) as pool,
        PostgresStore(pool, schema=world.place.name) as store,
    ):
        await store.listen(never)
        await store.notify()


@on_valkey
async def test_client_of_one_connection_is_left_to_the_calls(world: World) -> None:
    pool = BlockingConnectionPool.from_url(world.place.address, max_connections=1)
    async with Redis.from_pool(pool) as client, RedisStore(client) as store:
        await store.listen(never)
        await store.notify()


@on_postgres
async def test_connection_that_listened_is_given_back_as_it_was(world: World) -> None:
    arrived = asyncio.Event()
    async with (
        asyncpg.create_pool(world.place.address, min_size=2, max_size=2) as pool,
        PostgresStore(pool, schema=world.place.name) as store,
    ):
        async with background_task(store.listen(arrived.set), "watch"):
            await announced_until(store, arrived.is_set)
        async with pool.acquire() as one, pool.acquire() as other:
            for connection in (one, other):
                assert await connection.fetch("SELECT pg_listening_channels()") == []


# What they share


def routed_to(handler: Callable[[Event], Coroutine[Any, Any, None]]) -> Router:
    router = Router()
    router.on()(handler)
    return router


def has_seen(seen: Sized, count: int) -> bool:
    return len(seen) == count


async def is_accepted(webhook: Webhook, port: int) -> bool:
    sent = webhook.delivery()
    url, headers = f"http://127.0.0.1:{port}/{sent.route}", {"X-Hook-Signature": sent.signature}
    try:
        async with httpx.AsyncClient(verify=NO_TLS, trust_env=False) as http:
            return (await http.post(url, content=sent.body, headers=headers)).status_code == 200
    except httpx.TransportError:
        return False


def never() -> None:
    raise AssertionError


async def announced_until(store: Store, heard: Callable[[], bool]) -> None:
    """Announce again and again: the first ones may come before anybody listens."""

    async def is_heard() -> bool:
        await store.notify()
        await asyncio.sleep(0.01)
        return heard()

    await eventually(is_heard)

"""``drain``: what is due is handled, and then it returns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
from conftest import guard, until
from support.inboxes import confirm, event, is_empty, put

from asana_webhooks import Event, MemoryStore, StoreError, TryAgain, WebhooksClient
from asana_webhooks._background import background_task
from asana_webhooks._inbox import GRACE


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def client(store: MemoryStore) -> AsyncIterator[WebhooksClient]:
    made = WebhooksClient(
        "a-token",
        public_url="https://hooks.example.com",
        store=store,
        serve=False,
        look_after=None,
        reconcile=None,
        base_url="http://127.0.0.1:9",
    )
    async with made:
        yield made


async def fill(store: MemoryStore, count: int) -> None:
    for route in ("a" * 32, "b" * 32):
        await confirm(store, route, gid=route[:1], resource=route[:1])
        for number in range(count):
            await put(store, route, event(number, second=1), event(number, second=2))


@pytest.mark.parametrize("count", [0, 1, 30, 500])
async def test_all_that_is_due_is_handled_before_it_returns(
    client: WebhooksClient, store: MemoryStore, count: int
) -> None:
    seen: list[str] = []

    @client.on()
    async def note(event: Event) -> None:
        if not int(event.resource.gid) % 3:
            await asyncio.sleep(0)
        seen.append(event.resource.gid)

    await fill(store, count)
    with guard():
        await client.drain()
    assert len(seen) == 4 * count
    assert await is_empty(store)


async def test_what_waits_for_its_turn_is_handled_too(
    client: WebhooksClient, store: MemoryStore
) -> None:
    seen: list[datetime] = []

    @client.on()
    async def note(event: Event) -> None:
        await asyncio.sleep(0.005)
        seen.append(event.created_at)

    await confirm(store, "a" * 32)
    await put(store, "a" * 32, *(event(1, second=second) for second in range(10)))
    with guard():
        await client.drain()
    assert len(seen) == 10
    assert await is_empty(store)


async def test_it_may_be_called_again_and_again(client: WebhooksClient, store: MemoryStore) -> None:
    seen: list[str] = []

    @client.on()
    async def note(event: Event) -> None:
        seen.append(event.resource.gid)

    await confirm(store, "a" * 32)
    for number in range(20):
        await put(store, "a" * 32, event(number))
        with guard():
            await client.drain()
        assert len(seen) == number + 1
    assert await is_empty(store)


async def test_what_failed_is_left_for_later(client: WebhooksClient, store: MemoryStore) -> None:
    told: list[str] = []

    @client.on()
    async def fail(event: Event) -> None:
        raise TryAgain(after=3600)

    @client.on_failure
    async def tell(failure: Any) -> None:
        await asyncio.sleep(0.02)
        told.append(failure.event.resource.gid)

    await confirm(store, "a" * 32)
    await put(store, "a" * 32, event(1))
    with guard():
        await client.drain()
    assert told == ["1"]
    assert not await is_empty(store)


async def test_deadline_loses_nothing(client: WebhooksClient, store: MemoryStore) -> None:
    waits, seen, ended = True, set[str](), asyncio.Event()

    @client.on()
    async def wait(event: Event) -> None:
        if waits and event.resource.gid != "0":
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
        seen.add(event.resource.gid)

    await confirm(store, "a" * 32)
    await put(store, "a" * 32, *(event(number) for number in range(30)))
    async with asyncio.timeout(GRACE / 2):  # handlers have none
        await client.drain(deadline=0.05)
    assert seen == {"0"}
    assert ended.is_set()
    waits = False
    with guard():
        await client.drain(deadline=60)
    assert seen == {str(number) for number in range(30)}
    assert await is_empty(store)
    assert await client.dead_letters() == []


async def test_handler_that_swallows_the_deadline_is_left_behind(
    client: WebhooksClient, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asana_webhooks._workers.LAST_GRACE", 0.02)
    go_on = asyncio.Event()

    @client.on()
    async def stay(event: Event) -> None:
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue

    await confirm(store, "a" * 32)
    await put(store, "a" * 32, event(1))
    with guard():
        await client.drain(deadline=0.02)
    go_on.set()
    assert not await is_empty(store)


async def test_one_way_to_hand_over_excludes_another(
    client: WebhooksClient, store: MemoryStore
) -> None:
    with pytest.raises(RuntimeError, match="no handler is registered"):
        await client.drain()
    started, go_on = asyncio.Event(), asyncio.Event()

    @client.on()
    async def wait(event: Event) -> None:
        started.set()
        await go_on.wait()

    async with background_task(client.run(), "run"):
        await until(client._is_handling)
        with pytest.raises(RuntimeError, match="already"):
            await client.drain()
    await confirm(store, "a" * 32)
    await put(store, "a" * 32, event(1))
    async with background_task(client.drain(), "drain") as draining:
        await started.wait()
        for other in (client.drain, client.run):
            with pytest.raises(RuntimeError, match="already"):
                await other()
        go_on.set()
        with guard():
            await draining
    assert await is_empty(store)


async def test_running_client_is_not_drained_before_it_has_handlers(store: MemoryStore) -> None:
    made = WebhooksClient(
        "a-token", public_url="https://hooks.example.com", store=store, serve=False
    )
    async with made.running():
        made.on()(_ignore)
        with pytest.raises(RuntimeError, match="already"):
            await made.drain()


async def _ignore(event: Event) -> None:
    pass


async def test_store_that_fails_is_asked_again(
    client: WebhooksClient, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = store.claim

    async def fail(**_: object) -> None:
        monkeypatch.setattr(store, "claim", claim)
        msg = "the disk is full"
        raise StoreError(msg)

    client.on()(_ignore)
    await confirm(store, "a" * 32)
    await put(store, "a" * 32, event(1))
    monkeypatch.setattr(store, "claim", fail)
    with guard():
        await client.drain()
    assert await is_empty(store)


@pytest.mark.parametrize("deadline", [0, -1.0, float("nan"), True, "1"])
async def test_deadline_that_is_none_is_refused(client: WebhooksClient, deadline: Any) -> None:
    client.on()(_ignore)
    with pytest.raises((TypeError, ValueError), match="deadline must be"):
        await client.drain(deadline=deadline)

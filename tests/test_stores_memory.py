"""The memory store beyond the contract: it does not grow with what is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from asana_webhooks.models import Delivery, Settlement, Write
from asana_webhooks.stores import DUPLICATES_KNOWN_FOR
from asana_webhooks.stores.memory import MemoryStore

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def delivery(number: int, *, at: datetime = NOON) -> Delivery:
    digest = number.to_bytes(32, "big")
    return Delivery(route=f"r{number % 3}", body=b"{}", digest=digest, received_at=at)


async def test_claims_that_ended_before_their_lease_are_forgotten() -> None:
    store = MemoryStore()
    for number in range(1000):
        await store.put(delivery(number))
        claim = await store.claim(limit=10, lease=3600)
        assert claim is not None
        for _ in range(3):
            await store.renew(claim, lease=3600)
        await store.end_claim(
            claim, Settlement(removed=tuple(each.id for each in claim.deliveries))
        )
    assert len(store._schedule) < 100
    assert not store._queues


async def test_digests_are_forgotten_after_48_hours_though_none_is_new() -> None:
    now = [0.0]
    store = MemoryStore(clock=lambda: now[0])
    for number in range(100):
        now[0] += 3600
        await store.put(delivery(number, at=NOON + timedelta(hours=number)), reason="odd")
    kept = DUPLICATES_KNOWN_FOR // timedelta(hours=1) + 1
    assert len(store._known_digests) == len(store._learnt) == kept
    now[0] += DUPLICATES_KNOWN_FOR.total_seconds() + 1
    assert await store.claim(limit=1, lease=30) is None
    assert not store._known_digests
    assert not store._learnt


async def test_remembered_events_are_forgotten_after_48_hours_though_none_is_new() -> None:
    now = [0.0]
    store = MemoryStore(clock=lambda: now[0])
    await store.put(delivery(0))
    claim = await store.claim(limit=1, lease=3600)
    assert claim is not None
    for number in range(100):
        await store.settle(claim, Settlement(scope=f"{number % 3}", events=b"x"))
    now[0] += DUPLICATES_KNOWN_FOR.total_seconds() + 1
    assert await store.claim(limit=1, lease=30) is not None
    assert not store._remembered
    assert not store._settled


async def test_writes_are_forgotten_after_48_hours_though_none_is_new() -> None:
    now = [0.0]
    store = MemoryStore(clock=lambda: now[0])
    for number in range(100):
        await store.put_write(Write(id=f"{number}", resources=("12",), text="{}"))
        await store.take_write(f"{number}", "completed", bytes(16))
    await store.hold("budget", holder="a", ttl=15)
    now[0] += DUPLICATES_KNOWN_FOR.total_seconds() + 1
    assert await store.claim(limit=1, lease=30) is None
    assert not store._writes
    assert await store.hold("other", holder="b", ttl=15) == 1
    assert len(store._holds) == 1


async def test_letters_leave_nothing_of_their_routes() -> None:
    store = MemoryStore()
    await store.put(delivery(1), reason="odd")
    await store.put(delivery(2), reason="odd")
    first, second = await store.dead_letters()
    await store.discard([first.id])
    await store.replay([second.id])
    assert not store._letters_of


async def test_fences_of_unknown_routes_are_forgotten_when_nothing_waits() -> None:
    store = MemoryStore()
    for number in range(10):
        await store.put(delivery(number))
        claim = await store.claim(limit=1, lease=3600)
        assert claim is not None
        await store.end_claim(claim, Settlement(removed=(claim.deliveries[0].id,)))
    assert not store._fences


async def test_digest_that_came_again_is_known_by_its_later_sight() -> None:
    now = [0.0]
    store = MemoryStore(clock=lambda: now[0])
    later = NOON + DUPLICATES_KNOWN_FOR + timedelta(hours=1)
    assert await store.put(delivery(1))
    now[0] += timedelta(hours=47).total_seconds()
    assert await store.put(delivery(1, at=later))
    now[0] += timedelta(hours=2).total_seconds()
    assert not await store.put(delivery(1, at=later))
    assert len(store._learnt) == 1

"""An inbox on a store in memory: deliveries put into it, and handlers that drain it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from asana_webhooks import Event
from asana_webhooks._inbox import Inbox
from asana_webhooks.models import Delivery, Progress, Route
from asana_webhooks.router import Router
from asana_webhooks.stores import Store

NOW = datetime(2026, 7, 4, tzinfo=UTC)
SECRET = "s" * 64


def event(
    gid: object, *, action: str = "changed", field: str | None = None, second: int = 0
) -> str:
    """Return the JSON of an event of a task; ``second`` tells events of one task apart."""
    change = "" if field is None else f',"change":{{"field":"{field}","action":"changed"}}'
    return (
        f'{{"created_at":"2026-07-04T10:00:{second:02d}.000Z","action":"{action}",'
        f'"resource":{{"gid":"{gid}","resource_type":"task"}}{change}}}'
    )


async def put(store: Store, route: str, *events: str, body: bytes | None = None) -> None:
    """Store a delivery with these events."""
    raw = ('{"events":[' + ",".join(events) + "]}").encode() if body is None else body
    digest = repr((route, raw)).encode()
    assert await store.put(Delivery(route=route, body=raw, digest=digest, received_at=NOW))


async def confirm(
    store: Store, route: str, *, gid: str = "71", resource: str = "12", account: str = ""
) -> None:
    """Have the store hold a webhook."""
    target = f"https://h.example/{route}"
    made = Route(id=route, target=target, resource=resource, account=account)
    assert await store.reserve(made, ttl=60)
    assert await store.add_candidate(route, SECRET)
    assert await store.confirm(route, gid=gid, secret=SECRET)


async def progress_in(store: Store) -> list[tuple[Progress, int]]:
    """Return how far the deliveries that are due have come, and how often each has failed."""
    claim = await store.claim(limit=100, lease=60.0)
    assert claim is not None
    return [(Progress.decode(each.progress), each.attempts) for each in claim.deliveries]


async def is_empty(store: Store) -> bool:
    """Return whether nothing waits."""
    return (await store.counts()).waiting == 0


def routed(*handlers: Callable[[Event], Any]) -> Router:
    """Return a router that gives every event to each of these handlers."""
    router = Router()
    for handler in handlers:
        router.on()(handler)
    return router


@asynccontextmanager
async def draining(
    store: Store, *handlers: Callable[[Event], Any], router: Router | None = None, **options: Any
) -> AsyncIterator[Inbox]:
    """Drain into the handlers, at a pace for tests, until the block is left."""
    settings = {"poll": 0.01, "first_delay": 0.001, **options}
    async with Inbox(store, **settings) as inbox:
        task = asyncio.create_task(inbox.drain(router or routed(*handlers)))
        try:
            yield inbox
        finally:
            task.cancel()
            await asyncio.wait([task])

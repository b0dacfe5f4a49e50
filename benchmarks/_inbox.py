"""Work on a store: its inbox is filled, drained by handlers, and claimed from."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from _board import Tally
from _deliveries import body
from _lab import BrokenError, told_to_end

from asana_webhooks import Event, Router
from asana_webhooks._inbox import Inbox
from asana_webhooks.models import Delivery, Route, Settlement
from asana_webhooks.stores import Store

MANY = 10_000_000  # deliveries may wait: the inbox is filled on purpose
AT_ONCE = 1_000  # deliveries that are put together
BATCH, LEASE = 100, 30.0  # deliveries and seconds of a claim, as the inbox asks for them
WARM_UP = 20  # claims before the measured ones


def routes(count: int) -> list[str]:
    """Return the ids of so many webhooks' routes."""
    return [f"{number:032x}" for number in range(count)]


async def confirm(store: Store, of_routes: Sequence[str]) -> None:
    """Make each route that of a webhook, so that it is remembered which of its events are known."""
    for number, id_ in enumerate(of_routes, start=1):
        target, secret = f"https://hooks.example.com/{id_}", f"{number:064x}"
        await store.reserve(Route(id=id_, target=target, resource=str(number)), ttl=3600.0)
        await store.add_candidate(id_, secret)
        await store.confirm(id_, gid=str(number), secret=secret)


async def fill(store: Store, numbers: range, of_routes: Sequence[str]) -> None:
    """Put deliveries with one event each, no two alike, to the routes in turn."""
    for first in range(0, len(numbers), AT_ONCE):
        some = numbers[first : first + AT_ONCE]
        puts = (store.put(_delivery(number, of_routes)) for number in some)
        if not all(await asyncio.gather(*puts)):
            msg = "a store took a new delivery for a duplicate"
            raise BrokenError(msg)


def _delivery(number: int, of_routes: Sequence[str]) -> Delivery:
    return Delivery(
        route=of_routes[number % len(of_routes)],
        body=body(number),
        digest=hashlib.sha256(b"%d" % number).digest(),
        received_at=datetime.now(UTC),
    )


async def drain(store: Store, tally: Tally) -> None:
    """Handle what is in the inbox with a handler that only counts, until told to end."""
    router = Router()

    @router.on()
    async def handle(event: Event) -> None:
        tally.count()

    ended = told_to_end()
    _note_settlements(store, tally)
    async with Inbox(store) as inbox:
        draining = asyncio.create_task(inbox.drain(router))
        await ended.wait()
        draining.cancel()
        await asyncio.wait([draining])


def _note_settlements(store: Store, tally: Tally) -> None:
    def noting(settle: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def noted(*arguments: Any) -> Any:
            letters = await settle(*arguments)
            tally.finished()
            return letters

        return noted

    for name in ("settle", "end_claim"):
        setattr(store, name, noting(getattr(store, name)))


async def claim_at(
    store: Store, levels: Sequence[int], *, webhooks: int, samples: int
) -> AsyncIterator[tuple[int, list[float]]]:
    """Yield how long claims with their end take, in seconds, while so many deliveries wait.

    Each takes up to ``BATCH`` deliveries out; as many are put back before the next.
    """
    of_routes = routes(webhooks)
    number = waiting = 0
    for level in levels:
        await fill(store, range(number, number + level - waiting), of_routes)
        number, waiting = number + level - waiting, level
        times = []
        for _ in range(WARM_UP + samples):
            seconds, count = await _claim(store)
            times.append(seconds)
            await fill(store, range(number, number + count), of_routes)
            number += count
        yield level, times[WARM_UP:]


async def _claim(store: Store) -> tuple[float, int]:
    started = time.perf_counter()
    claim = await store.claim(limit=BATCH, lease=LEASE)
    removed = () if claim is None else tuple(delivery.id for delivery in claim.deliveries)
    if claim is None or await store.end_claim(claim, Settlement(removed=removed)) is None:
        msg = "nothing was claimed while deliveries wait, or the lease was lost"
        raise BrokenError(msg)
    return time.perf_counter() - started, len(claim.deliveries)

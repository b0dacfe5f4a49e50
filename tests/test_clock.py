"""The wall clock of a replica jumps; nothing that waits, leases or repeats takes notice."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from types import ModuleType
from typing import Any, Self

import httpx
import pytest
from conftest import eventually, until
from support.plain_http import NO_TLS
from support.replicas import KEPT_LEASE, Sent, Webhook, World, waiting_in

from asana_webhooks import Event, WebhooksClient, _attempt, _components, _endpoint, _inbox
from asana_webhooks.stores import _codec
from asana_webhooks.stores import redis as redis_store
from asana_webhooks.stores.sqlite import _rows

pytestmark = pytest.mark.slow

DAY = timedelta(days=1)
USERS: tuple[ModuleType, ...] = (_attempt, _endpoint, _codec, redis_store, _rows)
"""The modules that ask what time it is."""


class WallClock:
    """The clock that the modules read; ``ahead`` is how far it is off."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock, real_time = self, time.time

        class Jumping(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Self:
                return super().now(tz) + clock.ahead

        for module in USERS:
            monkeypatch.setattr(module, "datetime", Jumping)
        monkeypatch.setattr(time, "time", lambda: real_time() + clock.ahead.total_seconds())


@pytest.fixture
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    clock = WallClock()
    clock.install(monkeypatch)
    settings: dict[str, Any] = {"lease": KEPT_LEASE, "poll": 0.05, "first_delay": 0.1}
    monkeypatch.setattr(_components, "Inbox", partial(_inbox.Inbox, **settings))
    return clock


@asynccontextmanager
async def running(
    world: World, port: int, handle: Callable[[Event], Coroutine[Any, Any, None]]
) -> AsyncIterator[Callable[[Sent], Awaitable[int]]]:
    """Run a client of this process; yield what posts to it and returns the status."""
    client = WebhooksClient(
        "a-token",
        public_url=f"http://127.0.0.1:{port}",
        port=port,
        store=world.place.store(),
        base_url="http://127.0.0.1:9",
    )
    client.on()(handle)
    async with (
        client,
        httpx.AsyncClient(verify=NO_TLS, base_url=f"http://127.0.0.1:{port}") as http,
    ):

        async def post(sent: Sent) -> int:
            headers = {"X-Hook-Signature": sent.signature}
            answer = await http.post(f"/{sent.route}", content=sent.body, headers=headers)
            return answer.status_code

        task = asyncio.create_task(client.run())
        yield post
        task.cancel()
        await asyncio.wait([task])


async def test_lease_of_a_living_handler_outlives_jumps_of_the_clock(
    world: World, free_port: int, wall_clock: WallClock
) -> None:
    webhook, gids, release = Webhook(1), [], asyncio.Event()
    await world.confirm(webhook)

    async def handle(event: Event) -> None:
        gids.append(event.resource.gid)
        await release.wait()

    first, second = webhook.delivery(), webhook.delivery()
    async with running(world, free_port, handle) as post, world.place.store() as other:
        assert await post(first) == 200
        await until(lambda: gids == [first.gid])
        for jump in (DAY, -DAY):
            wall_clock.ahead = jump
            end = time.monotonic() + 1.2 * KEPT_LEASE
            while time.monotonic() < end:
                assert await other.claim(limit=1, lease=KEPT_LEASE) is None
                await asyncio.sleep(0.05)
        assert await post(second) == 200
        release.set()
        await until(lambda: gids == [first.gid, second.gid])

        async def is_empty() -> bool:
            return await waiting_in(other) == 0

        await eventually(is_empty)


@pytest.mark.parametrize("jump", [DAY, -DAY], ids=["forwards", "backwards"])
async def test_failed_delivery_is_tried_again_and_repeats_are_known_though_the_clock_jumped(
    world: World, free_port: int, wall_clock: WallClock, jump: timedelta
) -> None:
    webhook, tried = Webhook(1), []
    await world.confirm(webhook)

    async def handle(event: Event) -> None:
        tried.append(datetime.now(UTC))
        wall_clock.ahead = jump
        if len(tried) == 1:
            raise RuntimeError("not yet")

    sent = webhook.delivery()
    async with running(world, free_port, handle) as post:
        assert await post(sent) == 200
        await until(lambda: len(tried) == 2)
        assert await post(sent) == 200
        await eventually(world.is_empty)
        another = webhook.delivery()
        assert await post(another) == 200
        await until(lambda: len(tried) == 3)
        await eventually(world.is_empty)
    assert len(tried) == 3
    assert tried[1] - tried[0] < timedelta(seconds=5)

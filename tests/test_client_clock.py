"""The clock of a client's timers: real time, which a test drives together with the local Asana."""

import asyncio
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from anyio.lowlevel import checkpoint
from conftest import guard, until

from asana_webhooks import WebhooksClient
from asana_webhooks._background import background_task
from asana_webhooks._clock import Clock
from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.testing import advance

MakeClient = Callable[..., WebhooksClient]

DAY = 86_400.0


async def nobody(seconds: float) -> None:
    """Pass no other time."""


async def test_it_tells_real_time_until_it_is_driven() -> None:
    clock = Clock()
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=5)
    before = clock.monotonic()
    await clock.advance(DAY, beside=nobody)
    assert DAY <= clock.monotonic() - before < DAY + 5
    assert abs(clock.now() - datetime.now(UTC) - timedelta(days=1)) < timedelta(seconds=5)


async def test_sleep_ends_in_real_time_and_at_its_event() -> None:
    clock, event = Clock(), asyncio.Event()
    with guard():
        await clock.sleep(0.01)
        await clock.sleep(0.0)
        async with background_task(clock.sleep(math.inf, unless=event), "sleeper") as sleeper:
            await checkpoint()
            assert not sleeper.done()
            event.set()
            await sleeper
        await clock.sleep(math.inf, unless=event)


async def test_it_stops_at_each_moment_at_which_a_task_wakes() -> None:
    clock, woken = Clock(), list[float]()
    start = clock.monotonic()

    async def work() -> None:
        for _ in range(3):
            await clock.sleep(1_000.0)
            await asyncio.sleep(0.01)  # a call, in real time
            woken.append(clock.monotonic() - start)

    async with background_task(work(), "worker"):
        await until(lambda: clock._sleepers)
        await clock.advance(2_500.0, beside=nobody)
        assert [round(each) for each in woken] == [1_000, 2_000]


async def test_it_waits_for_the_tasks_that_a_task_has_it_follow() -> None:
    clock, done = Clock(), list[str]()

    async def call() -> None:
        await asyncio.sleep(0.05)
        done.append("call")

    async def work() -> None:
        await clock.sleep(60.0)
        calls.append(asyncio.create_task(call()))
        clock.follow(calls[0])
        await clock.sleep(math.inf)

    calls: list[asyncio.Task[None]] = []
    async with background_task(work(), "worker"):
        await until(lambda: clock._sleepers)
        await clock.advance(61.0, beside=nobody)
        assert done == ["call"]


async def test_what_was_slept_while_it_was_driven_counts_afterwards() -> None:
    clock = Clock()
    async with background_task(clock.sleep(3_600.02), "sleeper") as sleeper:
        await until(lambda: clock._sleepers)
        await clock.advance(3_600.0, beside=nobody)
        with guard():
            await sleeper


async def test_task_that_does_not_sleep_again_is_named() -> None:
    clock = Clock()

    async def work() -> None:
        await clock.sleep(1.0)
        await asyncio.Event().wait()

    async with background_task(work(), "stuck one"):
        await until(lambda: clock._sleepers)
        with pytest.raises(TimeoutError, match="stuck one"):
            await clock.advance(2.0, beside=nobody, patience=0.05)


async def test_it_is_driven_by_one_at_a_time() -> None:
    clock = Clock()

    async def another(seconds: float) -> None:
        await clock.advance(seconds, beside=nobody)

    with pytest.raises(RuntimeError, match="driven already"):
        await clock.advance(1.0, beside=another)


async def test_client_and_local_asana_pass_the_same_time(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client() as client:
        before, theirs = client._clock.monotonic(), asana.now
        async with background_task(client._clock.sleep(1_800.0), "timer") as timer:
            await until(lambda: client._clock._sleepers)
            await advance(asana, hours=9, minutes=1, seconds=1, client=client)
            assert timer.done()
        passed = timedelta(seconds=client._clock.monotonic() - before)
        assert abs(passed - (asana.now - theirs)) < timedelta(seconds=5)
        assert passed >= timedelta(hours=9, minutes=1, seconds=1)
        await client.ensure(asana.project)
        assert abs(client.asana_now() - asana.now) < timedelta(seconds=5)


@pytest.mark.parametrize("seconds", [-1.0, math.inf, math.nan])
async def test_time_passes_forwards_only(
    make_client: MakeClient, asana: AsanaSimulator, seconds: float
) -> None:
    with pytest.raises(ValueError, match="forwards only"):
        await advance(asana, seconds, client=make_client())

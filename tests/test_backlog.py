"""Much waits: handling begins at once, memory is bounded, and receivers go on answering."""

import asyncio
import statistics
import time
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
from conftest import eventually, guard, until
from support.replicas import Replica, Webhook, World

pytestmark = [pytest.mark.slow, pytest.mark.own_server]

MIB = 1024 * 1024
MANY = 20_000  # a claim costs the same with 1,000,000: benchmarks/drain.py


async def fill(world: World, webhooks: list[Webhook], count: int, *, size: int = 0) -> None:
    """Put so many deliveries, in turn for each of the webhooks."""
    async with world.place.store() as store:
        deliveries = (
            webhooks[number % len(webhooks)].delivery(size=size).stored() for number in range(count)
        )
        while part := list(islice(deliveries, 2000)):
            assert all(await asyncio.gather(*map(store.put, part)))


def resident(replica: Replica) -> int:
    """Return how many bytes of memory the process has."""
    pages = int(Path(f"/proc/{replica.pid}/statm").read_text().split()[1])
    return pages * 4096


async def typical(world: World, webhook: Webhook, replica: Replica, count: int) -> float:
    """Post so many deliveries, all of which must be accepted; return the median, in seconds."""
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        assert await world.is_accepted(webhook.delivery(), replica)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


@pytest.mark.timeout(180)
async def test_backlog_of_many_thousands_is_handled_from_its_first_moment(
    world: World,
) -> None:
    webhooks = [Webhook(number) for number in range(1, 51)]
    await fill(world, webhooks, MANY)
    worker = world.replica(work=True, pause=0.01)
    with guard():
        await worker.start()
        await until(world.lines)
    assert await world.waiting() > MANY * 0.9  # the backlog was there
    assert resident(worker) < 256 * MIB


async def test_slow_handlers_neither_hold_up_answers_nor_fill_the_memory(world: World) -> None:
    webhooks = [Webhook(number, tasks=1) for number in range(1, 21)]
    await world.confirm(*webhooks)
    replica = await world.started(serve=True, work=True, pause=60.0)
    idle = await typical(world, webhooks[0], replica, 200)
    await until(lambda: world.notes().count("begun") == 1)
    before = resident(replica)
    await fill(world, webhooks, 10_000, size=1000)
    await until(lambda: world.notes().count("begun") == 10)  # as many as handlers may run
    busy = await typical(world, webhooks[-1], replica, 200)
    assert busy < max(1.0, 2 * idle)
    assert resident(replica) - before < 64 * MIB
    assert await world.waiting() == 10_400
    assert world.lines() == []


async def test_full_inbox_is_answered_503_until_there_is_room(world: World) -> None:
    webhook = Webhook(1)
    await world.confirm(webhook)
    receiver = await world.started(serve=True, max_waiting=5)
    accepted = [webhook.delivery() for _ in range(5)]
    for sent in accepted:
        assert await world.is_accepted(sent, receiver)
    refused = webhook.delivery()
    answer = await world.post(refused, receiver)
    assert answer is not None
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert await world.is_accepted(accepted[0], receiver)  # a repeat needs no room
    await world.started(work=True)
    await until(lambda: len(world.gids()) == 5)
    await eventually(partial(world.is_accepted, refused, receiver))
    await until(lambda: world.gids() == [sent.gid for sent in [*accepted, refused]])
    assert "the inbox is full" in world.log()
